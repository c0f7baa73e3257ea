"""The database moves from the web host to a host of its own, under load, by the lines of docs/own-database-host.md as they stand there.

`make lab LAB=move INVENTORY=tests/drill/move`, then `make drill LAB=move INVENTORY=tests/drill/move K=moves`: the drill begins with blank hosts.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import yaml
from load import Load

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/own-database-host.md"
pytestmark = pytest.mark.slow


class Operator:
    """Somebody with the page, an inventory and a shell."""

    def __init__(self, lab, folder: Path) -> None:
        self.lab, self.inventory, self.ssh = lab, folder / "inventory", folder / "ssh"
        shutil.copytree(lab.inventory, self.inventory)
        shutil.copytree(lab.dir / "group_vars", self.inventory / "group_vars", dirs_exist_ok=True)
        known = yaml.safe_load((lab.dir / "hosts.yml").read_text())["all"]
        self.hosts, self.values = known["hosts"], known["vars"]
        # As ssh knows the hosts that the page names.
        self.ssh.write_text("".join(f"Host {name}\n HostName {each['ansible_host']}\n Port {each['ansible_port']}\n User ops\n IdentityFile {lab.dir}/id_ed25519\n"
                                    f" UserKnownHostsFile {lab.dir}/known_hosts\n IdentitiesOnly yes\n LogLevel ERROR\n" for name, each in self.hosts.items()))
        section = PAGE.read_text().split("## Move the database there")[1].split("\n## ")[0]
        blocks = re.findall(r"^ +```(yaml)?\n(.*?)^ +```$", section, re.DOTALL | re.MULTILINE)
        (_, first), *rest = [(kind, textwrap.dedent(block)) for kind, block in blocks]
        self.head = "".join(line for line in first.splitlines(keepends=True) if re.match("[A-Z]+=", line))
        self.steps = [("", first.replace(self.head, "")), *rest]
        self.set("-i inventories/production --vault-id production@inventories/vault-client", f"-i {self.inventory} --vault-id {lab.name}@molecule/lab/vault-client")
        for name, value in {"APP": "notes", "WEB": "app1", "DB": "db1", "STORE": "store1"}.items():
            self.set(rf"\b{name}=\S+", f"{name}={value}")

    def set(self, written: str, value: str) -> None:
        """A value of this environment in the place of the page's."""
        self.head, found = re.subn(written, value, self.head)
        assert found == 1, f"the page does not say {written}"

    def groups(self, **changes: dict) -> None:
        """The inventory with these groups; a host of none is not there yet."""
        self.said = {**getattr(self, "said", {}), **changes}
        there = {host for group in self.said.values() for host in group["hosts"]}
        hosts = {name: values for name, values in self.hosts.items() if name in there}
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": self.values, "children": self.said}}))

    def run(self, lines: str) -> str:
        environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", f'ssh() {{ command ssh -F {self.ssh} "$@"; }}\n{self.head}{lines}'], cwd=ROOT, env=environment,
                              capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, f"{lines}\n{done.stdout[-6000:]}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def operator(lab, tmp_path_factory):
    if lab.groups.get("db") != ["db1"] or lab.groups.get("web") != ["app1"]:
        pytest.skip("this lab has no web host whose database moves to another (INVENTORY=tests/drill/move)")
    if lab.host("db1").run("test -e /etc/postgresql").rc == 0:
        pytest.skip("db1 has a database already: the drill begins with blank hosts")
    found = Operator(lab, tmp_path_factory.mktemp("operator"))
    found.groups(**{group: {"hosts": {name: None}} for group, name in (("web", "app1"), ("db", "app1"), ("logs", "store1"), ("backups", "store1"))})
    found.run("$PLAY playbooks/site.yml")
    found.set(r"\bMAJOR=\S+", f"MAJOR={lab.host('app1').check_output('ls /etc/postgresql')}")
    return found


def test_the_database_moves_with_all_that_was_written(lab, operator, browse, table) -> None:
    web, database, values = lab.host("app1"), lab.host("db1"), lab.vars("app1")
    site = f"https://{values['app_domains'][0]}"
    count = "cd /; runuser -u postgres -- psql -XAtd notes -c 'SELECT title FROM notes_note'"
    with Load(lambda: browse("app1"), site, values["vault_app_admin_password"]) as load:
        for kind, block in operator.steps:
            if kind == "yaml":
                operator.groups(**yaml.safe_load(block))
                continue
            began = time.monotonic()
            told = operator.run(block)
            if "sha256sum" in block:
                stopped, sums = began, told.split("\n")[-3:-1]
                assert sums[0] == sums[1] and len(sums[0].split()[0]) == 64, told
        time.sleep(3)
    failed = [answer.at for answer in load.failed]
    back = next(answer.at for answer in load.answers if answer.at > failed[-1])
    table("database_moves", {**load.row("moved under load"), "write_stop_s": round(back - failed[0], 1)})
    # One stop, which begins where the page says so; before and after it all is answered.
    assert stopped <= failed[0]
    assert not [answer for answer in load.answers if failed[0] + 5 < answer.at < failed[-1] and answer.what.startswith("POST") and answer.status == 302]
    # What was answered as written is there, from before the stop and from after it.
    assert set(load.written) <= set(database.check_output(count).splitlines())
    assert load.written and max(answer.at for answer in load.answers if answer.what == "POST /notes/new/" and answer.status == 302) > back
    # The old cluster is aside: whole, not running, and not started by a boot.
    assert web.run("systemctl is-active 'postgresql@*'").rc != 0 and web.run("ss -Hltnx | grep -c 's.PGSQL'").stdout.strip() == "0"
    assert web.check_output("pg_lsclusters --no-header").split()[3] == "down" and web.check_output("cat /etc/postgresql/*/main/start.conf") == "disabled"
    # The new one is backed up, and what looks after the old one does not complain.
    assert lab.host("store1").run("systemctl is-enabled redoubt-backup-database@app1.timer").rc != 0
    assert "main" not in web.check_output("systemctl list-units --failed --plain --no-legend")
    assert operator.run("$PLAY playbooks/site.yml").count("changed=0") == 3
