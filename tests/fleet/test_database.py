"""The database of other hosts: who reaches it, over what, and what a certificate or a password alone is worth."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

PSQL = base64.b64encode((Path(__file__).parent.parent / "psql.py").read_bytes()).decode()
KNOCK = """import socket, sys
try:
    socket.create_connection((sys.argv[1], 5432), 3).close()
    print("open")
except ConnectionRefusedError:
    print("refused")
except OSError:
    print("nothing")
"""


# What a client says before it is asked for a password, with TLS around it.
STARTUP = """import socket, ssl, struct, sys
plain = socket.create_connection((sys.argv[1], 5432), 10)
plain.sendall(struct.pack("!II", 8, 80877103))
assert plain.recv(1) == b"S"
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
secure = context.wrap_socket(plain)
words = b"user\\0" + sys.argv[2].encode() + b"\\0database\\0" + sys.argv[2].encode() + b"\\0\\0"
secure.sendall(struct.pack("!II", 8 + len(words), 196608) + words)
print(secure.recv(4096).decode(errors="replace").replace("\\0", " "))
"""


@pytest.fixture
def role(lab, fleet):
    """The role that a user logs in by: of two that take turns, whose password it has."""
    def find(user: str) -> str:
        return lab.host(lab.web).check_output(f"sed -En '1s/.*:([^:]+):[^:]+$/\\1/p' /etc/{fleet.name}/pgpass-{user}")

    return find


@pytest.fixture
def connect(lab, fleet, role):
    """A login of a role from the first web host, as its processes make it but for what is said."""
    values = lab.vars(lab.web)["app_database"]
    web = lab.host(lab.web)

    def run(sql: str = "SELECT 1", user: str = fleet.name, **changes):
        words = {"host": values["host"], "dbname": fleet.name, "user": role(user), "sslmode": "verify-full", "sslrootcert": values["sslrootcert"], **changes}
        said = " ".join(f"{key}={value}" for key, value in words.items())
        program = f'exec(__import__("base64").b64decode("{PSQL}"))'
        return web.run(f"cd /; printf %s %s | runuser -u %s -- env PGPASSFILE=/etc/{fleet.name}/pgpass-{user} /srv/{fleet.name}/live/release/venv/bin/python "
                       f"-c %s {said}", "%s", sql, user, program)

    return run


def test_the_roles_get_in(connect, fleet, role) -> None:
    for user in (fleet.name, f"{fleet.name}_migrate"):
        answer = connect("SELECT session_user", user)
        assert (answer.rc, answer.stdout.strip()) == (0, role(user)), answer.stderr


def test_every_connection_from_elsewhere_is_encrypted(fleet, lab, browse, site) -> None:
    for name in fleet.hosts:
        browse(name).get(f"{site}/", timeout=20)
    rows = fleet.sql("select host(client_addr), ssl, version from pg_stat_ssl join pg_stat_activity using (pid) where client_addr is not null").splitlines()
    addresses = lab.vars(lab.web)["site_addresses"]
    assert {row.split("|")[0] for row in rows} == {addresses[name][0] for name in fleet.hosts}
    assert {tuple(row.split("|")[1:]) for row in rows} == {("t", "TLSv1.3")}


def test_the_processes_verify_whom_they_talk_to(fleet) -> None:
    for host in fleet.hosts.values():
        unit = f"{fleet.name}@{host.check_output(f'basename $(readlink /srv/{fleet.name}/live)')}.service"
        pid = host.check_output(f"systemctl show --property=MainPID --value {unit}")
        environment = host.check_output(f"tr '\\0' '\\n' < /proc/{pid}/environ").splitlines()
        assert "PGSSLMODE=verify-full" in environment
        url = next(line for line in environment if line.startswith("DATABASE_URL="))
        password = host.check_output(f"sed -En '1s/.*:([^:]+)$/\\1/p' /etc/{fleet.name}/pgpass-{fleet.name}")
        assert "sslmode=verify-full&sslrootcert=/etc/redoubt/pki/ca.pem" in url and len(password) > 20 and password not in url


def test_without_tls_nobody_gets_in(connect) -> None:
    answer = connect(sslmode="disable")
    assert answer.rc == 2 and "pg_hba.conf rejects connection" in answer.stderr and "no encryption" in answer.stderr


def test_an_older_tls_is_refused(connect) -> None:
    answer = connect(ssl_max_protocol_version="TLSv1.2")
    assert answer.rc == 2 and "protocol" in answer.stderr


def test_a_server_of_another_ca_is_not_believed(connect, lab) -> None:
    web = lab.host(lab.web)
    web.check_output("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=other -keyout /dev/null -out /tmp/other-ca.pem")
    try:
        answer = connect(sslrootcert="/tmp/other-ca.pem")
    finally:
        web.check_output("rm /tmp/other-ca.pem")
    assert answer.rc == 2 and "certificate verify failed" in answer.stderr


def test_a_server_of_another_name_is_not_believed(connect, lab) -> None:
    answer = connect(host="other.test", hostaddr=lab.vars(lab.web)["app_database"]["host"])
    assert answer.rc == 2 and "does not match host name" in answer.stderr


def test_a_wrong_password_is_refused(connect) -> None:
    answer = connect(password="wrong")
    assert answer.rc == 2 and "password authentication failed" in answer.stderr


def test_a_foreign_host_reaches_nothing(lab, fleet) -> None:
    stranger = lab.host(lab.stranger)
    web = lab.host(lab.web)
    for address in lab.vars(lab.web)["site_addresses"][lab.groups["db"][0]]:
        assert web.check_output("python3 -c %s %s", KNOCK, address) == "open", address
        assert stranger.check_output("python3 -c %s %s", KNOCK, address) == "nothing", address


def test_the_rules_refuse_a_foreign_host_even_where_the_network_does_not(lab, fleet) -> None:
    """The firewall and the unit's own filter are opened to a stranger; what is left are the rules of pg_hba.conf, before any password."""
    stranger, database = lab.host(lab.stranger), fleet.database
    own, foreign = lab.vars(lab.web)["site_addresses"][lab.groups["db"][0]][0], lab.vars(lab.stranger)["lab_ipv4"]
    unit = database.check_output("systemctl list-units --plain --no-legend 'postgresql@*.service'").split()[0]
    handle = database.check_output(f"nft --echo --handle insert rule inet redoubt input ip saddr {foreign} tcp dport 5432 accept").rpartition("handle ")[2].split()[0]
    allowed = database.check_output(f"systemctl show --property=IPAddressAllow --value {unit}")
    database.check_output(f"systemctl set-property --runtime {unit} IPAddressAllow={foreign}")
    try:
        answer = stranger.check_output("python3 -c %s %s %s", STARTUP, own, fleet.name)
    finally:
        database.check_output(f"nft delete rule inet redoubt input handle {handle}")
        # A file that is gone takes nothing back from the kernel.
        database.check_output(f"systemctl set-property --runtime {unit} IPAddressAllow= 'IPAddressAllow={allowed}'")
        database.check_output(f"rm -r /run/systemd/system.control/{unit}.d && systemctl daemon-reload")
    assert f'pg_hba.conf rejects connection for host "{foreign}"' in answer and "SSL encryption" in answer
    assert stranger.check_output("python3 -c %s %s", KNOCK, own) == "nothing"


def test_the_server_talks_to_nobody_else(lab, fleet) -> None:
    """Not even as its administrator: what it could send elsewhere, a dump by COPY … PROGRAM, does not leave."""
    address = lab.vars(lab.stranger)["lab_ipv4"]
    knock = f"timeout 3 bash -c '</dev/tcp/{address}/22' 2>/dev/null && echo reached || echo nothing"
    assert fleet.database.check_output(knock) == "reached"
    program = knock.replace("'", "''")
    answer = fleet.database.check_output("cd /; runuser -u postgres -- psql -XAtqc %s", f"CREATE TEMP TABLE t (l text); COPY t FROM PROGRAM '{program}'; SELECT l FROM t")
    assert answer == "nothing"


@pytest.mark.parametrize("sql", ["CREATE TABLE intruder (id int)", "DROP TABLE notes_note", "SET ROLE notes_owner", "COPY (SELECT 1) TO PROGRAM 'id'"])
def test_the_runtime_role_changes_no_table_over_the_network_either(connect, sql) -> None:
    answer = connect(sql)
    assert answer.rc == 3 and any(said in answer.stderr for said in ("permission denied", "must be owner", "must be superuser")), answer.stderr


def test_passwords_are_readable_by_their_own_user_alone(fleet) -> None:
    for host in fleet.hosts.values():
        for user in (fleet.name, f"{fleet.name}_migrate"):
            assert host.check_output(f"stat -c '%U:%G %a' /etc/{fleet.name}/pgpass-{user}") == f"{user}:{user} 400"
        other = host.run(f"runuser -u {fleet.name} -- cat /etc/{fleet.name}/pgpass-{fleet.name}_migrate")
        assert other.rc != 0 and "Permission denied" in other.stderr
        build = host.check_output(f"cat /etc/{fleet.name}/build.env")
        assert "PASSWORD" not in build


def test_neither_password_nor_verifier_is_in_the_servers_log(fleet, lab) -> None:
    log = fleet.database.check_output("cat /var/log/postgresql/*.log /var/log/postgresql/json/*.json")
    assert "connection authorized" in log
    assert "SCRAM-SHA-256$" not in log
    assert lab.vars(lab.web)["app_database_password"] not in log


def test_keys_stay_where_they_were_made(fleet, lab) -> None:
    hosts = {**fleet.hosts, "db": fleet.database}
    keys = {host.check_output("sha256sum < /etc/redoubt/pki/host.key") for host in hosts.values()}
    assert len(keys) == len(hosts)
    for host in hosts.values():
        assert host.check_output("stat -c '%U:%G %a' /etc/redoubt/pki/host.key") == "root:redoubt-pki 640"
        assert host.run("openssl verify -x509_strict -CAfile /etc/redoubt/pki/ca.pem /etc/redoubt/pki/host.pem").rc == 0
        assert host.run(f"runuser -u {fleet.name} -- cat /etc/redoubt/pki/host.key").rc != 0
        # The CA's own key is on none of them.
        assert host.run("grep -rlE 'BEGIN (EC )?PRIVATE KEY' /etc/redoubt").stdout.split() == ["/etc/redoubt/pki/host.key"]
