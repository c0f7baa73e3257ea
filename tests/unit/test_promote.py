"""What is said of an environment that is asked what it serves, and of one that cannot be asked."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
ONE = {"host": "app1", "live": "r1", "commit": "c0ffee", "version": "v1", "source": "git", "from": "https://git.test/notes.git", "packages": "x", "faults": [], "seconds": 4000, "why": "it was put in service"}
TWO = {**ONE, "host": "app2"}
NONE = {"host": "app2", "live": "", "faults": [], "seconds": 0}


def said(candidates: list[dict], commit: str, packages: str | None) -> tuple[str, bool]:
    """The reason why not, and whether it is here already, on a host that serves this."""
    loader = DataLoader()
    values = loader.load_from_file(str(ROOT / "roles/app/vars/main.yml"), trusted_as_template=True)
    site = loader.load_from_file(str(ROOT / "roles/site/defaults/main.yml"), trusted_as_template=True)
    releases = {"releases": [{"live": False, "commit": "0ld"}, *([{"live": True, "commit": commit}] if commit else [])], **({} if packages is None else {"packages": packages})}
    templar = Templar(loader=loader, variables={**site, **values, "__app_candidates": candidates, "__app_releases": releases, "app_promoted_from": "staging",
                                                "app_repo": "https://git.test/notes.git", "inventory_hostname": "web1"})
    return templar.template(values["__app_refused"]), templar.template(values["__app_promoted"])


@pytest.mark.parametrize(
    ("candidates", "sentence"),
    [
        ([ONE], ""),
        ([{**ONE, "seconds": 3600}], ""),
        ([{**NONE, "host": "app1"}], "staging serves nothing: deploy there first."),
        ([ONE, {**TWO, "live": "r2"}], "The hosts of staging do not serve one release (app1 r1, app2 r2): run playbooks/deploy.yml there first."),
        ([ONE, NONE], "The hosts of staging do not serve one release (app1 r1, app2 nothing): run playbooks/deploy.yml there first."),
        ([ONE, {**TWO, "packages": "y"}], "The hosts of staging serve r1 with different packages: pin every package of the project, deploy that there, and promote it."),
        ([ONE, {**TWO, "faults": ["notes-worker.service is inactive", "https://notes.test/ answered 500"]}],
         "staging does not serve r1 as it should: notes-worker.service is inactive on app2; https://notes.test/ answered 500 on app2."),
        ([{**ONE, "from": "https://elsewhere.test/notes.git"}], ("staging has its code from https://elsewhere.test/notes.git (git), and this environment from "
                                                                "https://git.test/notes.git (git): give both the same app_repo.")),
        ([{**ONE, "source": "pypi"}], "staging has its code from https://git.test/notes.git (pypi), and this environment from https://git.test/notes.git (git): give both the same app_repo."),
        ([{**ONE, "seconds": 3599}], "staging serves r1 without a fault since 3599 seconds, when it was put in service on app1, and promote_min_age is 3600: wait for another 1 seconds."),
        # Of several hosts, the one that has served for the shortest time counts.
        ([ONE, {**TWO, "seconds": 10, "why": "a visitor was answered 502"}],
         "staging serves r1 without a fault since 10 seconds, when a visitor was answered 502 on app2, and promote_min_age is 3600: wait for another 3590 seconds."),
    ],
)
def test_the_first_reason_why_not(candidates, sentence):
    assert said(candidates, "0lder", "x") == (sentence, False)


@pytest.mark.parametrize(
    ("candidates", "commit", "packages", "promoted"),
    [
        ([ONE, TWO], "c0ffee", "x", True),
        # However short it has served there.
        ([{**ONE, "seconds": 0, "faults": ["notes-worker.service is inactive"]}], "c0ffee", "x", True),
        ([ONE], "c0ffee", "y", False),
        # One of the two hosts there has another.
        ([ONE, {**TWO, "live": "r2", "commit": "c0c0a"}], "c0ffee", "x", False),
        ([ONE, {**TWO, "packages": "y"}], "c0ffee", "x", False),
        # A program from before promotions does not say it: the deploy brings one that does, and compares.
        ([ONE], "c0ffee", None, False),
        ([ONE], "", "", False),
        ([NONE], "", "", False),
    ],
)
def test_what_is_here_already(candidates, commit, packages, promoted):
    assert said(candidates, commit, packages)[1] is promoted


def test_what_is_here_with_other_packages_is_not_what_was_tried():
    assert said([ONE], "c0ffee", "y")[0] == "web1 serves commit c0ffee already, with other packages than staging: pin every package of the project, deploy that there, and promote it."
    assert said([ONE], "c0ffee", None)[0] == ""


def play(folder, *arguments, inventory=ROOT / "inventories/demo"):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("REDOUBT_", "ANSIBLE_", "XDG_"))}
    environment |= {"HOME": str(folder), "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_HOME": str(folder / "ansible"),
                    # Without the folder that ansible-playbook is in: it may be called by its path.
                    "PATH": "/usr/bin:/bin"}
    command = ["ansible-playbook", "-i", inventory, "-e", f"inventories={folder}", *arguments, ROOT / "playbooks/promote.yml"]
    done = subprocess.run([pathlib.Path(sys.executable).with_name(command[0]), *command[1:]], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_an_environment_that_cannot_be_asked(tmp_path):
    code, words = play(tmp_path)
    assert code == 2 and "from is not given: name the environment, `-e from=staging`." in words
    code, words = play(tmp_path, "-e", "from=stagin")
    assert code == 2 and f"{tmp_path}/stagin is not there: name the folder, `-e from=staging`." in words
    # `--limit` leaves out this machine, and is for hosts that are away.
    code, words = play(tmp_path, "-e", "from=stagin", "--limit", "app1")
    assert code == 2 and f"{tmp_path}/stagin is not there: name the folder, `-e from=staging`." in words
    (tmp_path / "nobody.yml").write_text("db: {hosts: {app1: {}}}\n")
    code, words = play(tmp_path, "-e", f"from={ROOT}/inventories/demo", inventory=tmp_path / "nobody.yml")
    assert code == 2 and "This inventory has no host in the group web: name the environment that is promoted to, `-i inventories/production`." in words
    # The hosts that it is promoted to are all left out.
    code, words = play(tmp_path, "-e", f"from={ROOT}/inventories/demo", "--limit", "store1")
    assert code == 2 and "`--limit store1` leaves out app1, and nothing would be done: run this with one of them, or without it." in words
    # Its password is nowhere.
    (tmp_path / "staging/group_vars/all").mkdir(parents=True)
    (tmp_path / "staging/hosts.yml").write_text("web: {hosts: {app1: {ansible_connection: local, ansible_become: false}}}\n")
    (tmp_path / "staging/group_vars/all/vault.yml").write_text("$ANSIBLE_VAULT;1.2;AES256;staging\n61\n")
    code, words = play(tmp_path, "-e", "from=staging")
    assert code == 2 and "staging does not say what it serves: " in words and "Nothing here has the password of the vault staging" in words, words
    # And a host of it that nothing was deployed to, where the secrets are kept in no vault; its folder with the slash that a shell completes.
    (tmp_path / "staging/group_vars/all/vault.yml").unlink()
    (tmp_path / "staging/group_vars/all/main.yml").write_text("app_name: nothinghere\n")
    for name in ("staging", f"{tmp_path}/staging/"):
        code, words = play(tmp_path, "-e", f"from={name}")
        assert code == 2 and "staging does not say what it serves: " in words and "There is no /etc/nothinghere/release.json on this host: nothing has been deployed here yet." in words, words
