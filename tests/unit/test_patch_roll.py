"""How patch.yml goes from host to host: in which order, who is out of the load balancer's list meanwhile, and where it stops.

The hosts are names. What would look at them and change them, and what would tell the load balancer, only writes down that it was asked.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROOT = Path(__file__).resolve().parents[2]
GROUPS = {"web": ["app1", "app2"], "db": ["db1"]}
# Stands for ansible.builtin.command. A host's state are files beside the playbook: NAME.pending, .ill, .out, .hurts (whom its update makes ill).
COMMAND = """
import json
from pathlib import Path

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        folder, host = Path(task_vars["playbook_dir"]), self._task.delegate_to or task_vars["inventory_hostname"]
        state = lambda what, of=host: folder / f"{of}.{what}"
        words = self._task.args.get("argv") or self._task.args["cmd"].split()
        step = next(word for word in words if word in ("look", "install", "restart", "well", "leave", "back", "balancer"))
        done = " ".join(words) if step == "balancer" else f"{step} {host}"
        with (folder / "log").open("a") as log:
            print(done, file=log)
        answer = {}
        if ("--well" in words or step == "well") and state("ill").exists():
            answer = {"stopped": "notes@blue.service has failed."}
        elif step == "look":
            pending = [{"name": "bash", "from": "1", "to": "2"}] if state("pending").exists() else []
            answer = {"pending": pending, "held": [], "restart": [], "web": False, "waiting": [], "ending": [], "reboot": "", "cves": {"known": 0, "mended": 0}}
        elif step == "install":
            state("pending").unlink()
            if state("hurts").exists():
                state("ill", state("hurts").read_text()).touch()
            answer = {"installed": ["bash 1 to 2"]}
        elif step == "leave":
            state("out").touch()
        elif step == "back":
            state("out").unlink()
        return {"rc": 0, "stdout": json.dumps({**answer, "drained": state("out").exists()})}
"""


class Roll:
    """The playbook and the role without their commands."""

    def __init__(self, folder: Path):
        self.folder = folder
        shutil.copytree(ROOT / "roles/patch", folder / "roles/patch")
        for path in (folder / "roles/patch/tasks").iterdir():
            path.write_text(path.read_text().replace("ansible.builtin.command:", "asked:"))
        (folder / "roles/patch/tasks/tools.yml").write_text("---\n- ansible.builtin.meta: noop\n")
        (folder / "action_plugins").mkdir()
        (folder / "action_plugins/asked.py").write_text(COMMAND)
        first, play = yaml.safe_load((ROOT / "playbooks/patch.yml").read_text())
        role = play["tasks"].pop()
        assert role["ansible.builtin.import_role"].pop("name") == "redoubt.django.patch"
        role["ansible.builtin.import_role"]["name"] = "patch"
        play["tasks"] = [role]
        (folder / "patch.yml").write_text(yaml.safe_dump([first, play]))
        # Not in the order that they are to be patched in.
        hosts = ("db1", "app1", "app2")
        self.touch(*(f"{name}.pending" for name in hosts))
        groups = {group: {"hosts": dict.fromkeys(names)} for group, names in GROUPS.items()}
        values = {"app_name": "notes", "patch_drain_seconds": 0, "patch_drain_command": "balancer off {host}", "patch_resume_command": "balancer on {host}"}
        (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": dict.fromkeys(hosts), "children": groups, "vars": values}}))

    def touch(self, *names: str) -> None:
        for name in names:
            (self.folder / name).touch()

    def run(self, *arguments: str) -> tuple[int, str, list[str]]:
        """How it ended, what was said, and what was changed."""
        log = self.folder / "log"
        log.write_text("")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("REDOUBT_", "ANSIBLE_", "XDG_"))}
        environment |= {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_HOME": str(self.folder / "ansible"), "HOME": str(self.folder)}
        command = [Path(sys.executable).with_name("ansible-playbook"), "-i", self.folder / "hosts.yml", self.folder / "patch.yml", *arguments]
        done = subprocess.run(command, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=180)
        asked = [line.removeprefix("balancer ") for line in log.read_text().splitlines()]
        return done.returncode, " ".join((done.stdout + done.stderr).split()), [line for line in asked if line.split()[0] not in ("look", "well")]


@pytest.fixture
def roll(tmp_path) -> Roll:
    return Roll(tmp_path)


def test_the_order_is_the_inventory_s_within_who_serves_nobody_who_serves_and_whom_they_ask():
    _, play = yaml.safe_load((ROOT / "playbooks/patch.yml").read_text())

    def order(**groups):
        return Templar(loader=DataLoader(), variables={"groups": groups}).template(trust_as_template(play["hosts"]))

    others, web = [f"store{number}" for number in range(9, 0, -1)], [f"app{number}" for number in range(9, 0, -1)]
    assert order(all=["db1", *web, *others], web=web, db=["db1"]) == [*others, *web, "db1"]
    # The database on one of several web hosts; and a group that is not there.
    assert order(all=[*web, *others], web=web, db=["app9"]) == [*others, *web[1:], "app9"]
    assert order(all=[*web, *others], web=web) == [*others, *web]


def test_a_host_that_became_ill_stays_out_of_the_list_and_comes_back_in_the_run_that_finds_it_well(roll):
    (roll.folder / "app1.hurts").write_text("app1")
    code, words, changes = roll.run("-e", '{"patch_health_timeout": 1}')
    assert code == 2 and ("app1 is not done: notes@blue.service has failed. It stays out of the load balancer's list. The run ends here, before app2 and db1; "
                          "mend that, and run playbooks/patch.yml again") in words, words
    assert changes == ["leave app1", "off app1", "install app1"]

    (roll.folder / "app1.ill").unlink()
    (roll.folder / "db1.hurts").write_text("app2")
    code, words, changes = roll.run()
    # One is in the list again before the other leaves it; and the database is the last.
    assert changes == ["on app1", "back app1", "leave app2", "off app2", "install app2", "on app2", "back app2", "install db1"]
    assert "An earlier run has left it out of the load balancer's list. It is well, and comes back." in words
    # Whose own units are well, and those of a host that asks it are not.
    assert code == 2 and "db1 is not done: the site is not well now that its database has been patched (app2: notes@blue.service has failed). The run ends here; mend that" in words, words


def test_a_host_for_which_nobody_stands_in_does_not_leave_and_comes_back_all_the_same(roll):
    roll.touch("app1.out", "app2.ill")
    code, words, changes = roll.run("--limit", "web")
    assert code == 2 and ("app1 was not touched: no other web host takes its visitors meanwhile (app2: notes@blue.service has failed). "
                          "The run ends here, before app2; mend that") in words, words
    assert changes == ["on app1", "back app1"]


@pytest.mark.parametrize(("told", "sentence"), [
    ("patch_reboot=false", "patch_reboot is the text 'false' but must be true or false: remove the quotes"),
    ("patch_drain_comand=x", "patch_drain_comand is no variable of this kit: did you mean patch_drain_command?"),
    ('{"patch_health_timeout": "5m"}', "patch_health_timeout is a text ('5m'), but must be a whole number"),
])
def test_what_it_does_not_understand_it_does_not_do(roll, told, sentence):
    code, words, changes = roll.run("-e", told)
    assert code == 2 and sentence in words and changes == [], words
    # Whatever else the inventory has.
    assert "app_name" not in words


WELL = {"item": "app2", "rc": 0, "stdout": '{"drained": false}'}
OUT = {"item": "app2", "rc": 0, "stdout": '{"drained": true}'}
ILL = {"item": "app3", "rc": 0, "stdout": '{"stopped": "nginx.service has failed.", "drained": true}'}
AWAY = {"item": "app3", "unreachable": True, "msg": "Failed to connect"}
BROKEN = {"item": "app3", "rc": 1, "stdout": "", "stderr": "KeyError"}


@pytest.mark.parametrize(
    ("asked", "before", "after"),
    [
        ([WELL], "", ""),
        # One of them is enough to stand in; and all are looked at when the database has been patched.
        ([WELL, ILL], "", "the site is not well now that its database has been patched (app3: nginx.service has failed)."),
        ([WELL, AWAY], "", "the site is not well now that its database has been patched (app3: it does not answer)."),
        ([OUT, ILL], "no other web host takes its visitors meanwhile (app2: it is out of the list; app3: nginx.service has failed).",
         "the site is not well now that its database has been patched (app3: nginx.service has failed)."),
        ([OUT, AWAY], "no other web host takes its visitors meanwhile (app2: it is out of the list; app3: it does not answer).",
         "the site is not well now that its database has been patched (app3: it does not answer)."),
        ([BROKEN], "no other web host takes its visitors meanwhile (app3: it does not answer).", "the site is not well now that its database has been patched (app3: it does not answer)."),
    ],
)
def test_who_stands_in_for_a_host_and_whether_the_site_is_well_after_its_database(asked, before, after):
    loader = DataLoader()
    values = loader.load_from_file(str(ROOT / "roles/patch/vars/main.yml"), trusted_as_template=True)
    hosts = [*(each["item"] for each in asked), "app1"]
    known = {**values, "inventory_hostname": "app1", "group_names": ["web"], "site_web_hosts": hosts, "ansible_play_hosts_all": hosts, "ansible_check_mode": False,
             "__patch_asked": {"results": asked}, "patch_drain_command": "lb off {host}", "patch_resume_command": "lb on {host}"}

    def said(**more):
        return Templar(loader=loader, variables={**known, **more}).template(values["__patch_unserved"])

    assert (said(__patch_takes_over=True), said(__patch_takes_over=False)) == (before, after)
    # Who was before it comes back, but not under --check, which says what would be.
    assert ("out of the list" in before) == (said(__patch_takes_over=True, ansible_check_mode=True) != before)
    assert said(__patch_takes_over=True, patch_resume_command="").startswith("patch_drain_command is given and patch_resume_command is not")
    assert said(__patch_takes_over=True, patch_drain_command="", patch_resume_command="") == before


@pytest.mark.parametrize(
    ("failed", "values", "sentence"),
    [
        ({"rc": 0, "stdout": '{"stopped": "x.service has failed.", "drained": false}'}, {}, "app1 was not touched: x.service has failed. The run ends here, before app2;"),
        # Out since another run.
        ({"rc": 0, "stdout": '{"stopped": "x.service has failed.", "drained": true}'}, {},
         "app1 was not touched: x.service has failed. It stays out of the load balancer's list. The run ends here, before app2;"),
        # After it was taken out, whichever step it is that fails.
        ({"rc": 0, "stdout": '{"stopped": "dpkg was interrupted.", "drained": true}'}, {"__patch_left": {"rc": 0}},
         "app1 is not done: dpkg was interrupted. It stays out of the load balancer's list. The run ends here, before app2;"),
        ({"msg": "Timed out waiting for last boot time check"}, {"__patch_left": {"rc": 0}, "__patch_noted": OUT},
         "app1 is not done: Timed out waiting for last boot time check It stays out of the load balancer's list. The run ends here"),
        # And when it was back already.
        ({"msg": "the site is not well (app2: it does not answer)."}, {"__patch_left": {"rc": 0}, "__patch_returned": {"rc": 0}, "__patch_noted": WELL},
         "app1 is not done: the site is not well (app2: it does not answer). The run ends here"),
        # Nobody was told.
        ({"rc": 0, "stdout": '{"stopped": "dpkg was interrupted.", "drained": false}'}, {"__patch_left": {"skipped": True}, "__patch_noted": {"skipped": True}},
         "app1 is not done: dpkg was interrupted. The run ends here, before app2;"),
        ({"rc": 3, "msg": "non-zero return code", "stdout": "{no JSON", "stderr": "a line\nno such server.", "failed": True}, {"__patch_left": "failed"},
         "app1 was not touched: patch_drain_command ended with 3: no such server. The run ends here"),
        ({"rc": 2, "msg": "[Errno 2] No such file or directory: b'lb-admin'", "stdout": "", "stderr": "", "failed": True}, {"__patch_left": "failed"},
         "app1 was not touched: patch_drain_command ended with 2: [Errno 2] No such file or directory: b'lb-admin'. The run ends here"),
        ({"rc": 1, "msg": "non-zero return code", "stdout": "refused", "stderr": "", "failed": True}, {"__patch_left": {"rc": 0}, "__patch_noted": OUT, "__patch_returned": "failed"},
         "app1 is not done: patch_resume_command ended with 1: refused. It stays out of the load balancer's list. The run ends here"),
        ({"rc": 1, "msg": "non-zero return code", "stdout": "refused", "stderr": "", "failed": True}, {"__patch_returned": "failed"},
         "app1 was not touched: patch_resume_command ended with 1: refused. It stays out of the load balancer's list. The run ends here"),
        ({"rc": 1, "msg": "non-zero return code", "stdout": "", "stderr": "Traceback\nKeyError: 'x'", "failed": True}, {}, "app1 was not touched: KeyError: 'x'. The run ends here"),
    ],
)
def test_what_is_said_where_it_stops(failed, values, sentence):
    text = trust_as_template((ROOT / "roles/patch/templates/_patch/stopped.txt").read_text())
    values = {name: failed if value == "failed" else value for name, value in values.items()}
    known = {"inventory_hostname": "app1", "ansible_play_hosts_all": ["store1", "app1", "app2"], "__patch_drains": True, "ansible_failed_result": failed, **values}
    said = Templar(loader=DataLoader(), variables=known).template(text)
    assert " ".join(said.split()).startswith(sentence), said
