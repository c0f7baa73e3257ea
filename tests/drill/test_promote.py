"""What staging serves comes into production: refused while it has not proven itself, as it was tried or not at all, and once.

Two hosts that each are an environment: `make demo LAB=pair INVENTORY=tests/drill/pair`, then `make drill LAB=pair INVENTORY=tests/drill/pair K=promote`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
HOSTS = {"staging": "app1", "production": "app2"}


class Environments:
    """The lab's two hosts, each as an inventory with a vault of its own."""

    def __init__(self, lab, folder: Path):
        self.lab, self.folder = lab, folder
        password = (lab.dir / "vault-password").read_text().strip()
        self.environment = {f"REDOUBT_VAULT_PASSWORD_{name.upper()}": password for name in HOSTS}
        lab_hosts = yaml.safe_load((lab.dir / "hosts.yml").read_text())["all"]
        for name, host in HOSTS.items():
            shutil.copytree(lab.inventory, folder / name)
            shutil.copytree(lab.dir / "group_vars", folder / name / "group_vars", dirs_exist_ok=True)
            groups = {group: {"hosts": {host: None}} for group in ("web", "db")}
            (folder / name / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {host: lab_hosts["hosts"][host]}, "vars": lab_hosts["vars"], "children": groups}}))

    def play(self, name: str, playbook: str, *arguments: str, **values) -> subprocess.CompletedProcess:
        command = [Path(sys.executable).with_name("ansible-playbook"), "-i", self.folder / name, "--vault-id", f"{name}@{ROOT}/inventories/vault-client",
                   ROOT / "playbooks" / playbook, "--extra-vars", json.dumps(values), *arguments]
        environment = {**os.environ, **self.environment, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0",
                       "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        done.words = re.sub(r"\s+", " ", done.stdout + done.stderr)
        return done

    def promote(self, *arguments: str, **values) -> subprocess.CompletedProcess:
        return self.play("production", "promote.yml", *arguments, **{"from": f"{self.folder}/staging"}, **values)

    def live(self, name: str) -> dict:
        return json.loads(self.lab.host(HOSTS[name]).check_output("cat /srv/notes/live/release/manifest.json"))


@pytest.fixture(scope="module")
def environments(lab, tmp_path_factory):
    if any(lab.groups.get(group) != sorted(HOSTS.values()) for group in ("web", "db")):
        pytest.skip("this lab has no two hosts that each are an environment (INVENTORY=tests/drill/pair)")
    found = Environments(lab, tmp_path_factory.mktemp("environments"))
    yield found
    for name in HOSTS:
        done = found.play(name, "deploy.yml")
        assert done.returncode == 0, done.words


def test_a_release_is_promoted_once_it_has_proven_itself(environments, source):
    commit = source.commit({"PROMOTED": "one\n"})
    done = environments.play("staging", "deploy.yml", app_version=commit)
    assert done.returncode == 0, done.words
    before = environments.live("production")["id"]

    # Too young.
    done = environments.promote()
    assert done.returncode == 2 and re.search(r"staging serves \S+ without a fault since \d+ seconds, when .{1,60}, and promote_min_age is 3600: wait for another \d+ seconds. Nothing was changed", done.words), done.words
    # A worker that does not run.
    staging = environments.lab.host("app1")
    staging.check_output("systemctl stop notes-worker.service")
    done = environments.promote(promote_min_age=0)
    staging.check_output("systemctl start notes-worker.service")
    assert done.returncode == 2 and re.search(r"staging does not serve \S+ as it should: notes-worker.service is inactive. Nothing", done.words), done.words
    # What would be.
    done = environments.promote("--check", promote_min_age=0)
    assert done.returncode == 0 and re.search(r"app2 : ok=\d+ changed=[1-9]", done.words), done.words
    assert environments.live("production")["id"] == before

    done = environments.promote(promote_min_age=0)
    assert done.returncode == 0 and f"Write `app_version: {commit}` into this inventory" in done.words, done.words
    assert environments.live("production")["commit"] == commit
    assert environments.lab.host("app2").check_output("cat /srv/notes/live/release/src/PROMOTED") == "one"

    # Once is enough.
    done = environments.promote(promote_min_age=3600)
    assert done.returncode == 0 and "is served here already" in done.words and not re.search(r"changed=[1-9]", done.words), done.words


def test_other_packages_are_not_switched_to(environments, source):
    commit = source.commit({"PROMOTED": "two\n"})
    assert environments.play("staging", "deploy.yml", app_version=commit).returncode == 0
    before = environments.live("production")["id"]
    staging = environments.lab.host("app1")
    folder = staging.check_output("echo $(readlink -f /srv/notes/live/release)/venv/lib/python3*/site-packages")
    staging.check_output(f"mkdir {folder}/other-1.0.dist-info")
    done = environments.promote(promote_min_age=0)
    staging.check_output(f"rmdir {folder}/other-1.0.dist-info")
    assert done.returncode == 2 and "'compare'" in done.words and "are not those of the release that is promoted" in done.words, done.words
    assert environments.live("production")["id"] == before and environments.live("production")["commit"] != commit
