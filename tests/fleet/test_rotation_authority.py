"""Another internal CA, while visitors are there and logs are sent: no host is without a certificate that the others believe, and the old CA is dead afterwards."""

from __future__ import annotations

import itertools
import json
import re
import secrets
import subprocess
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from edge import Edge
from test_admin_certificates import status, usable
from test_rotation import assert_unchanged, assert_unharmed, changed
from test_rotation_database import cut_off, keys, rotate, visitors  # noqa: F401 (fixtures)

ROTATE = rotate("pki_ca_key")
NEXT, FORMER = "vault_pki_ca_key_next", "vault_pki_ca_former"
PKI = "/etc/redoubt/pki"
KEPT = "/run/drill-former"
# A backup that takes as long as it likes: until it is over nobody shows a certificate that it does not know.
BUSY = "systemd-run --quiet --no-block --collect --unit=redoubt-backup-database@busy --property=Type=oneshot sleep 3000"
# What the other end says to a certificate of this host. With TLS 1.3 a refusal is the first thing that is read. pgBackRest speaks first, the others answer.
CONNECT = """
import contextlib, socket, ssl, sys
address, port, certificate, first, *more = sys.argv[1], int(sys.argv[2]), *sys.argv[3:]
context = ssl.create_default_context(cafile="/etc/redoubt/pki/ca.pem")
context.load_cert_chain(certificate, "/etc/redoubt/pki/host.key")
connection = context.wrap_socket(socket.create_connection((address, port), timeout=10), server_hostname=address)
with contextlib.suppress(OSError):
    connection.sendall(first.encode())
"""
KNOCK = f"""{CONNECT}
try:
    said = connection.recv(64).decode()
    print(said[9:12] if said.startswith("HTTP/1.1 4") else "let in" if said else "closed")
except OSError as error:
    print(getattr(error, "reason", None) or type(error).__name__)
"""
# Who has been let in and does not go: silence, or an upload that never ends, until the other end has enough of it.
STAY = f"""{CONNECT}
connection.settimeout(1)
while True:
    try:
        if not connection.recv(4096):
            break
    except TimeoutError:
        connection.sendall(more[0].encode())
"""
RELP = "relp_version=0\nrelp_software=drill\ncommands=syslog"


class Hosts:
    """All hosts, and on each the certificate and the CA that it had, as a thief keeps them who has read its key."""

    def __init__(self, lab):
        self.lab, self.all = lab, {name: lab.host(name) for name in lab.groups["all"]}
        self.web, self.db, self.store, self.logs = lab.web, *(lab.groups[name][0] for name in ("db", "backups", "logs"))
        values = lab.vars(self.web)
        # What listens: who comes there, where that is, and what is asked.
        self.servers = {"logs": (self.web, self.logs, values["site_log_port"], f"1 open {len(RELP)} {RELP}\n"),
                        "repository": (self.db, self.store, values["site_backup_repository_ports"][self.db], ""),
                        "database's files": (self.store, self.db, values["site_backup_database_port"], ""),
                        "files": (self.web, self.store, values["site_backup_files_port"], self.asks("GET", "config"))}

    def asks(self, method: str, path: str, length: int = 0) -> str:
        repository = json.loads(self.all[self.web].check_output("cat /etc/redoubt/backup/config.json"))["repository"]
        return f"{method} {urlsplit(repository.removeprefix('rest:')).path}{path} HTTP/1.1\r\nHost: {self.store}\r\nContent-Length: {length}\r\n\r\n"

    def keep(self) -> None:
        for host in self.all.values():
            host.check_output(f"umask 077; mkdir -p {KEPT}; cp {PKI}/host.pem {PKI}/ca.pem {KEPT}/")

    def forget(self) -> None:
        for host in self.all.values():
            host.run(f"systemctl stop redoubt-backup-database@busy 'drill-stays-*'; rm -rf {KEPT}")

    @property
    def trusted(self) -> set[str]:
        """How many CAs they trust."""
        return {host.check_output(f"grep -c BEGIN {PKI}/ca.pem") for host in self.all.values()}

    def knock(self, folder: str) -> dict[str, str]:
        """What each server of the environment says to a certificate."""
        return {what: self.all[source].check_output("python3 -c %s %s %s %s %s", KNOCK, *self.at(target, port), f"{folder}/host.pem", first)
                for what, (source, target, port, first) in self.servers.items()}

    def at(self, target: str, port: int) -> tuple[str, str]:
        return self.lab.vars(self.web)["site_addresses"][target][0], str(port)

    def stay(self) -> None:
        """Somebody comes by the certificates that were kept, and does not go. One who sends logs is sent away as soon as the host itself does."""
        for what, first, more in (("repository", "", ""), ("database's files", "", ""), ("files", self.asks("POST", f"locks/{secrets.token_hex(32)}", 10**6), "x")):
            source, target, port, _ = self.servers[what]
            self.all[source].check_output(f"systemd-run --quiet --collect --unit=drill-stays-{port} python3 -c %s %s %s %s %s %s", STAY, *self.at(target, port), f"{KEPT}/host.pem", first, more)

    @property
    def staying(self) -> set[str]:
        return {what for what, (source, _, port, _) in self.servers.items() if self.all[source].run(f"systemctl is-active drill-stays-{port}").rc == 0}

    def database(self, ca: str) -> str:
        """What somebody who trusts this CA says of the database's server."""
        answer = self.all[self.web].run(f"openssl s_client -starttls postgres -connect {self.lab.vars(self.web)['app_database']['host']}:5432 -verify_return_error -CAfile {ca} </dev/null")
        return answer.stdout + answer.stderr


@pytest.fixture
def hosts(lab, backups):
    """Files have been sent, so that the door has something to show."""
    found = Hosts(lab)
    assert backups.send() == 0
    found.keep()
    yield found
    found.forget()


def waits(host) -> bool:
    return host.run("pgrep -f 'list-units.*[r]edoubt-drill'").rc == 0


class Lines:
    """Five lines a second on every host, and which of them the log server does not have."""

    def __init__(self, hosts: Hosts):
        self.hosts, self.mark = hosts, f"drill-{secrets.token_hex(6)}"

    def __enter__(self):
        for host in self.hosts.all.values():
            host.check_output(f"systemd-run --quiet --collect --unit={self.mark} sh -c %s",
                              f"n=0; while :; do n=$((n + 1)); echo $n >/run/{self.mark}; logger -t drill \"{self.mark} line $n\"; sleep 0.2; done")
        return self

    def __exit__(self, *_):
        # What is said while it stops may be cut off between the count and the line.
        for host in self.hosts.all.values():
            host.check_output(f"systemctl stop {self.mark}")
        self.said = {name: int(host.check_output(f"cat /run/{self.mark}; rm /run/{self.mark}")) for name, host in self.hosts.all.items()}

    def kept(self, name: str) -> set[int]:
        # The command itself is a line in a log, and none of these.
        found = self.hosts.all[self.hosts.lab.groups["logs"][0]].run(f"cat /var/log/redoubt/{name}/*.jsonl | grep -oE '{self.mark} line [0-9]+'").stdout
        return {int(line.rsplit(" ", 1)[1]) for line in found.splitlines()}

    @property
    def missing(self) -> dict[str, list[int]]:
        deadline = time.monotonic() + 90
        while True:
            found = {name: sorted(set(range(1, said)) - self.kept(name)) for name, said in self.said.items()}
            if not any(found.values()) or time.monotonic() > deadline:
                return found
            time.sleep(1)


def test_a_new_ca_under_load(lab, fleet, keys, hosts, backups, visitors, table) -> None:  # noqa: F811
    """Killed wherever hosts or files are in between: the last run ends what the first began, and neither a visitor nor a line has noticed."""
    old, bundle, web = keys.values["vault_pki_ca_key"], keys.path.with_name("pki.yml"), hosts.all[lab.web]
    logs = hosts.all[hosts.logs]
    before = keys.path.read_bytes(), bundle.read_bytes()
    checked = lab.playbook(*ROTATE, "--check", "--diff")
    assert (keys.path.read_bytes(), bundle.read_bytes()) == before and "a run would say: Made a new CA" in " ".join(checked.stdout.split())
    assert set(hosts.knock(PKI).values()) == {"let in"} and "Verify return code: 0" in hosts.database(f"{KEPT}/ca.pem")

    web.check_output(BUSY)
    load, members = visitors
    with Lines(hosts) as lines, load, members:
        said = cut_off(lab, "pki_ca_key", lambda: NEXT in keys.values)
        new = keys.values[NEXT]
        said += cut_off(lab, "pki_ca_key", lambda: waits(web))
        assert hosts.trusted == {"2"} and FORMER not in keys.values
        web.check_output("systemctl stop redoubt-backup-database@busy")
        said += cut_off(lab, "pki_ca_key", lambda: FORMER in keys.values)
        assert set(hosts.knock(PKI).values()) == {"let in"} == set(hosts.knock(KEPT).values())
        said += cut_off(lab, "pki_ca_key", lambda: bundle.read_text().count("BEGIN") == 1)
        hosts.stay()
        since, stayed = logs.check_output("date +%s"), hosts.staying
        done = lab.playbook(*ROTATE, "--diff")
    assert_unharmed(load, members)
    assert members.comes_back("witness") == 200
    assert lines.missing == {name: [] for name in hosts.all} and min(lines.said.values()) > 100
    assert "going on with that" in " ".join(done.stdout.split()) and keys.values["vault_pki_ca_key"] == new != old
    assert not {NEXT, FORMER} & set(keys.values)
    assert not [line for key in (old, new) for line in key.splitlines()[1:-1] if line in said + done.stdout + done.stderr + checked.stdout]

    # The old one is dead at every server, and whoever trusts it alone believes none.
    assert set(hosts.knock(PKI).values()) == {"let in"}
    dead = hosts.knock(KEPT)
    assert dead.pop("files") == "400" and all("UNKNOWN_CA" in each for each in dead.values()), dead
    assert "certificate verify failed" in hosts.database(f"{KEPT}/ca.pem") and "Verify return code: 0" in hosts.database(f"{PKI}/ca.pem")
    assert hosts.trusted == {"1"}
    # Nor does anybody stay whom it let in: the senders of the logs have all come again.
    came = logs.check_output(f"journalctl --no-pager --output=cat --grep=^connected --unit=redoubt-log-server --since=@{since}")
    assert stayed == {"repository", "database's files", "files"}
    assert (hosts.staying, {line.split()[-1] for line in came.splitlines()}) == (set(), set(hosts.all))
    for host in hosts.all.values():
        assert host.run(f"openssl verify -x509_strict -CAfile {PKI}/ca.pem {PKI}/host.pem").rc == 0
        assert host.run(f"openssl verify -CAfile {PKI}/ca.pem {KEPT}/host.pem").rc != 0
    # What is sent away goes on, and what is there can be read.
    since = time.time()
    backups.play("backup")
    backups.archived()
    listing = backups.listing
    made = {(each["host"], each["kind"].split(",")[0]) for each in listing["backups"] if each["when"] > since}
    assert made == {(hosts.db, "database"), *((name, "files") for name in (*lab.groups["web"], hosts.db))} and not listing["errors"]
    assert_unchanged(lab.playbook("playbooks/site.yml"))
    table("rotation", {**load.row("internal CA, cut off four times"), "members": len(members.answers), "logged_out": 0})


@pytest.fixture
def states(hosts):
    """What every host trusts and shows, one after the other: how many CAs, and whether its certificate is another than before."""
    for host in hosts.all.values():
        host.check_output("systemd-run --quiet --collect --unit=drill-states --property=StandardOutput=file:/run/drill-states sh -c %s",
                          f"while sleep 0.1; do echo $(grep -c BEGIN {PKI}/ca.pem 2>/dev/null) $(cmp -s {PKI}/host.pem {KEPT}/host.pem && echo old || echo new); done")

    yield lambda: {name: host.check_output("systemctl stop drill-states; uniq /run/drill-states").splitlines() for name, host in hosts.all.items()}
    for host in hosts.all.values():
        host.run("systemctl stop drill-states; rm /run/drill-states")


def test_every_host_trusts_both_until_each_has_another(lab, keys, hosts, states) -> None:  # noqa: F811
    """A backup that takes as long as it likes is waited for before each step, and what a check says is what the run changes."""
    bundle, web = keys.path.with_name("pki.yml"), hosts.all[lab.web]
    checked = lab.playbook(*ROTATE, "--check")
    run, said = lab.start(*ROTATE), []
    reader = threading.Thread(target=lambda: said.extend(run.communicate()))
    reader.start()

    def until(reached) -> None:
        deadline = time.monotonic() + 240
        while not reached():
            assert time.monotonic() < deadline and run.poll() is None, "the rotation did not get that far"
            time.sleep(0.2)

    steps = (lambda: NEXT in keys.values, lambda: FORMER in keys.values, lambda: bundle.read_text().count("BEGIN") == 1, lambda: FORMER not in keys.values)
    try:
        for done, following in itertools.pairwise(steps):
            until(done)
            web.check_output(BUSY)
            until(lambda: waits(web))
            assert not following(), "a backup was not waited for"
            web.check_output("systemctl stop redoubt-backup-database@busy")
    finally:
        web.run("systemctl stop redoubt-backup-database@busy")
        reader.join()
    assert changed(checked) == changed(subprocess.CompletedProcess(run.args, run.returncode, *said)) > 0, checked.stdout + said[0]
    assert states() == {name: ["1 old", "2 old", "2 new", "1 new"] for name in hosts.all}
    assert set(hosts.knock(PKI).values()) == {"let in"}
    assert_unchanged(lab.playbook("playbooks/site.yml"))


def test_a_host_that_is_left_out_leaves_everything_as_it_was(lab, keys, hosts) -> None:  # noqa: F811
    before = keys.path.read_bytes(), keys.path.with_name("pki.yml").read_bytes()
    done = lab.playbook(*ROTATE, "--limit", "web", check=False)
    assert done.returncode != 0 and "left out of this run or did not answer, and would go on to trust the old CA alone" in " ".join(done.stdout.split()), done.stdout
    assert (keys.path.read_bytes(), keys.path.with_name("pki.yml").read_bytes()) == before and hosts.trusted == {"1"}


@pytest.fixture
def admins(lab, tmp_path):
    """The admin asks for certificates of this CA; at the end the edge is as the inventory says."""
    values = {"app_admin_client_ca": "environment"}
    register = tmp_path / "register.yml"

    def issued(name: str) -> str:
        bundle = tmp_path / f"{name}.p12"
        lab.playbook("playbooks/admin-cert.yml", "--extra-vars", json.dumps({**values, "admin_register": str(register), "issue": name, "to": str(bundle)}))
        return usable(bundle, Path(f"{bundle}.passphrase").read_text().strip())

    def revoked(name: str) -> None:
        lab.playbook("playbooks/admin-cert.yml", "--extra-vars", json.dumps({**values, "admin_register": str(register), "revoke": name}))

    def run():
        return lab.playbook("playbooks/rotate.yml", "--extra-vars", json.dumps({**values, **yaml.safe_load(register.read_text()), "secret": "pki_ca_key"}), check=False)

    yield issued, revoked, run
    lab.playbook("playbooks/site.yml")


def test_administrators_are_waited_for(lab, keys, hosts, admins) -> None:  # noqa: F811
    issued, revoked, run = admins

    def known(edge: Edge) -> list[str]:
        """The CAs whose certificates nginx asks visitors for."""
        said = hosts.all[edge.host].check_output(f"openssl s_client -connect 127.0.0.1:443 -servername {edge.canonical} </dev/null 2>/dev/null")
        return re.search(r"Acceptable client certificate CA names\n(.*?)\n(?:Requested|Client)", said, re.DOTALL)[1].splitlines()

    edges = [Edge(lab, name) for name in lab.groups["web"]]
    alice = issued("alice")
    stopped = run()
    assert stopped.returncode == 2 and "alice would come into the admin no more" in " ".join(stopped.stdout.split()), stopped.stdout
    assert hosts.trusted == {"2"} and FORMER in keys.values
    second = issued("alice.2")
    assert [status(edge, each) for edge in edges for each in (alice, second)] == [302] * 4 and [len(known(edge)) for edge in edges] == [2, 2]
    revoked("alice")
    done = run()
    assert done.returncode == 0 and hosts.trusted == {"1"} and FORMER not in keys.values, done.stdout
    assert [status(edge, each) for edge in edges for each in (alice, second)] == [404, 302] * 2
    assert [known(edge) for edge in edges] == [[hosts.all[lab.web].check_output(f"openssl x509 -noout -subject -in {PKI}/ca.pem").removeprefix("subject=")]] * 2
