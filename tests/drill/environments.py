"""Labs, or hosts of one, as environments: each an inventory with a vault of its own, that playbooks are run for."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


class Environments:
    def __init__(self, folder: Path) -> None:
        self.folder, self.variables = folder, {}

    def add(self, name: str, lab, *hosts: str) -> None:
        """All hosts of a lab, or these, in the groups that they have in its inventory."""
        found = yaml.safe_load((lab.dir / "hosts.yml").read_text())["all"]
        hosts = hosts or tuple(found["hosts"])
        groups = {str(group): {"hosts": {str(host): None for host in names if host in hosts}} for group, names in lab.groups.items() if group not in ("all", "ungrouped")}
        shutil.copytree(lab.inventory, self.folder / name)
        shutil.copytree(lab.dir / "group_vars", self.folder / name / "group_vars", dirs_exist_ok=True)
        (self.folder / name / "hosts.yml").write_text(yaml.safe_dump(
            {"all": {"hosts": {host: found["hosts"][host] for host in hosts}, "vars": found["vars"], "children": groups}}))
        self.variables[f"REDOUBT_VAULT_PASSWORD_{name.upper()}"] = (lab.dir / "vault-password").read_text().strip()

    def start(self, name: str, playbook: str, *arguments: str, **values) -> subprocess.Popen:
        """A playbook that nobody waits for."""
        command = [Path(sys.executable).with_name("ansible-playbook"), "-i", self.folder / name, "--vault-id", f"{name}@{ROOT}/inventories/vault-client",
                   ROOT / "playbooks" / playbook, "--extra-vars", json.dumps(values), *arguments]
        environment = {**os.environ, **self.variables, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0",
                       "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                start_new_session=True)

    def play(self, *words: str, **values) -> subprocess.CompletedProcess:
        run = self.start(*words, **values)
        done = subprocess.CompletedProcess(run.args, None, *run.communicate())
        done.returncode = run.returncode
        done.words = re.sub(r"\s+", " ", done.stdout + done.stderr)
        return done

    def promote(self, *arguments: str, there: str = "staging", here: str = "production", **values) -> subprocess.CompletedProcess:
        return self.play(here, "promote.yml", *arguments, **{"from": f"{self.folder}/{there}"}, **values)


@contextlib.contextmanager
def other_packages(host, release: str = "live/release"):
    """A release of this host has one package more."""
    folder = host.check_output(f"echo $(readlink -f /srv/notes/{release})/venv/lib/python3*/site-packages") + "/other-1.0.dist-info"
    host.check_output(f"mkdir {folder}")
    try:
        yield
    finally:
        host.check_output(f"rmdir {folder}")
