"""Another internal CA, while visitors are there and logs are sent: no host is without a certificate that the others believe, and the old CA is dead afterwards."""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from backups import CLIENT
from edge import Edge
from test_admin_certificates import status, usable
from test_rotation import assert_unharmed, changed
from test_rotation_database import cut_off, keys, rotate, visitors  # noqa: F401 (fixtures)

ROTATE = rotate("pki_ca_key")
NEXT, FORMER = "vault_pki_ca_key_next", "vault_pki_ca_former"
PKI = "/etc/redoubt/pki"
KEPT = "/run/drill-former"
# What the other end says to a certificate of this host. With TLS 1.3 a refusal is the first thing that is read.
KNOCK = """
import socket, ssl, sys
address, port, certificate = sys.argv[1], int(sys.argv[2]), sys.argv[3]
context = ssl.create_default_context(cafile="/etc/redoubt/pki/ca.pem")
context.load_cert_chain(certificate, "/etc/redoubt/pki/host.key")
try:
    with context.wrap_socket(socket.create_connection((address, port), timeout=10), server_hostname=address) as connection:
        connection.settimeout(2)
        print("let in" if connection.recv(1) else "closed")
except TimeoutError:
    print("let in")
except OSError as error:
    print(getattr(error, "reason", None) or type(error).__name__)
"""


class Hosts:
    """All hosts, and on each the certificate and the CA that it had, as a thief keeps them who has read its key."""

    def __init__(self, lab):
        self.lab, self.all = lab, {name: lab.host(name) for name in lab.groups["all"]}
        self.web, self.db, self.store = lab.web, lab.groups["db"][0], lab.groups["backups"][0]

    def keep(self) -> None:
        for host in self.all.values():
            host.check_output(f"umask 077; mkdir -p {KEPT}; cp {PKI}/host.pem {PKI}/ca.pem {KEPT}/")

    def forget(self) -> None:
        for host in self.all.values():
            host.run(f"systemctl stop redoubt-backup-database@busy; rm -rf {KEPT}")

    @property
    def trusted(self) -> set[str]:
        """How many CAs they trust."""
        return {host.check_output(f"grep -c BEGIN {PKI}/ca.pem") for host in self.all.values()}

    def knock(self, folder: str) -> dict[str, str]:
        """What each server of the environment says to a certificate."""
        values = self.lab.vars(self.web)
        servers = {"logs": (self.web, self.lab.groups["logs"][0], values["site_log_port"]),
                   "repository": (self.db, self.store, values["site_backup_repository_ports"][self.db]),
                   "database's files": (self.store, self.db, values["site_backup_database_port"])}
        said = {what: self.all[source].check_output("python3 -c %s %s %s %s", KNOCK, values["site_addresses"][target][0], str(port), f"{folder}/host.pem")
                for what, (source, target, port) in servers.items()}
        door = urlsplit(json.loads(self.all[self.web].check_output("cat /etc/redoubt/backup/config.json"))["repository"].removeprefix("rest:"))
        asked = self.all[self.web].check_output("python3 -c %s %s %s %s %s %s", CLIENT, str(door.hostname), str(door.port), json.dumps([["GET", f"{door.path}config"]]),
                                                f"{folder}/host.pem", f"{PKI}/host.key")
        return {**said, "files": {"[200]": "let in"}.get(asked, asked)}

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
        while any(found := {name: sorted(set(range(1, said)) - self.kept(name)) for name, said in self.said.items()}.values()) and time.monotonic() < deadline:
            time.sleep(1)
        return found


def test_a_new_ca_under_load(lab, fleet, keys, hosts, backups, visitors, table) -> None:  # noqa: F811
    """Killed wherever hosts or files are in between: the last run ends what the first began, and neither a visitor nor a line has noticed."""
    old, bundle, web = keys.values["vault_pki_ca_key"], keys.path.with_name("pki.yml"), hosts.all[lab.web]
    before = keys.path.read_bytes(), bundle.read_bytes()
    checked = lab.playbook(*ROTATE, "--check", "--diff")
    assert (keys.path.read_bytes(), bundle.read_bytes()) == before and "a run would say: Made a new CA" in " ".join(checked.stdout.split())
    assert set(hosts.knock(PKI).values()) == {"let in"} and "Verify return code: 0" in hosts.database(f"{KEPT}/ca.pem")

    def waits() -> bool:
        return web.run("pgrep -f 'list-units.*[r]edoubt-drill'").rc == 0

    # A backup that takes as long as it likes: until it is over nobody shows a certificate that it does not know.
    web.check_output("systemd-run --quiet --no-block --collect --unit=redoubt-backup-database@busy --property=Type=oneshot sleep 3000")
    load, members = visitors
    with Lines(hosts) as lines, load, members:
        said = cut_off(lab, "pki_ca_key", lambda: NEXT in keys.values)
        new = keys.values[NEXT]
        said += cut_off(lab, "pki_ca_key", waits)
        assert hosts.trusted == {"2"} and FORMER not in keys.values
        web.check_output("systemctl stop redoubt-backup-database@busy")
        said += cut_off(lab, "pki_ca_key", lambda: FORMER in keys.values)
        assert set(hosts.knock(PKI).values()) == {"let in"} == set(hosts.knock(KEPT).values())
        said += cut_off(lab, "pki_ca_key", lambda: bundle.read_text().count("BEGIN") == 1)
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
    assert dead.pop("files") == "[400]" and all("UNKNOWN_CA" in each for each in dead.values()), dead
    assert "certificate verify failed" in hosts.database(f"{KEPT}/ca.pem") and "Verify return code: 0" in hosts.database(f"{PKI}/ca.pem")
    assert hosts.trusted == {"1"}
    for host in hosts.all.values():
        assert host.run(f"openssl verify -x509_strict -CAfile {PKI}/ca.pem {PKI}/host.pem").rc == 0
        assert host.run(f"openssl verify -CAfile {PKI}/ca.pem {KEPT}/host.pem").rc != 0
    # What is sent away goes on, and what is there can be read.
    backups.play("backup")
    backups.archived()
    assert backups.play("backups").returncode == 0 and fleet.name in json.dumps(backups.listing)
    assert changed(lab.playbook("playbooks/site.yml")) == 0
    table("rotation", {**load.row("internal CA, cut off four times"), "members": len(members.answers), "logged_out": 0})


def test_what_a_check_says_is_what_a_run_changes(lab, keys, hosts) -> None:  # noqa: F811
    checked = lab.playbook(*ROTATE, "--check")
    done = lab.playbook(*ROTATE)
    assert changed(checked) == changed(done) > 0, checked.stdout + done.stdout
    assert set(hosts.knock(PKI).values()) == {"let in"} and changed(lab.playbook("playbooks/site.yml")) == 0


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
    edges = [Edge(lab, name) for name in lab.groups["web"]]
    alice = issued("alice")
    stopped = run()
    assert stopped.returncode == 2 and "alice would come into the admin no more" in " ".join(stopped.stdout.split()), stopped.stdout
    assert hosts.trusted == {"2"} and FORMER in keys.values
    second = issued("alice.2")
    assert [status(edge, each) for edge in edges for each in (alice, second)] == [302] * 4
    revoked("alice")
    done = run()
    assert done.returncode == 0 and hosts.trusted == {"1"} and FORMER not in keys.values, done.stdout
    # nginx answers a certificate of a CA that it does not know with 400, and one that it knows and does not list with 404.
    assert [status(edge, each) for edge in edges for each in (alice, second)] == [400, 302] * 2
