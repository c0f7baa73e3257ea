"""A play leaves a host where its roles have nothing to do, and only there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from ansible._internal._templating._jinja_bits import AnsibleEnvironment
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.redoubt.django.plugins.plugin_utils.ahead import compile_once

REPO = Path(__file__).parents[2]
# This machine as a host that is asked as others are, and keeps its questions in the test's folder.
PLAYBOOK = """
import os
from ansible.plugins.loader import init_plugin_loader
init_plugin_loader()
from ansible_collections.redoubt.django.plugins.plugin_utils import asked
asked.FOLDER = os.environ["QUESTIONS"]
asked.is_ours = lambda action: not action._task.delegate_to
exec(os.environ["BEFORE"])
from ansible.cli.playbook import main
main()
"""
STUBS = {
    "dpkg-query": "printf 'ii nginx\\n'",
    "systemctl": "case $1 in show) printf 'Id=a.service\\nNames=a.service\\nLoadState=loaded\\nActiveState=active\\nUnitFileState=enabled\\nNeedDaemonReload=no\\n';; esac",
    "systemd-detect-virt": "exit 1",
}
TREE = {"name": "Put files there", "redoubt.django.tree": {"root": "{{ root }}"}, "register": "files"}
UNITS = {"name": "Run it", "redoubt.django.units": {"started": ["a.service"], "seen": "{{ {} if files.changed else state }}"}}
ONCE = {"name": "Make it", "redoubt.django.once": {"argv": ["touch", "{{ root }}/made"], "creates": "{{ root }}/made"}}
TASKS = [ONCE, TREE, {"name": "Skipped", "ansible.builtin.include_tasks": "more.yml", "when": "files is changed"},
         {"name": "Apply", "ansible.builtin.meta": "flush_handlers"}, UNITS]

READ = {"name": "Read", "redoubt.django.host_state": {"roles": ["one", "two"]}, "register": "state"}
LEAVE = {"name": "Leave", "ansible.builtin.meta": "end_host", "when": "inventory_hostname is redoubt.django.settled(ansible_play_role_names)"}


class Host:
    def __init__(self, path: Path) -> None:
        self.path, self.root = path, path / "root"
        for folder in ("bin", "roles/one/tasks", "roles/one/templates/etc", "roles/two/tasks", "roles/two/files/etc", "root/etc"):
            (path / folder).mkdir(parents=True)
        for name, script in STUBS.items():
            (path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
            (path / "bin" / name).chmod(0o755)
        (path / "roles/one/tasks/more.yml").write_text("[]")
        (path / "roles/one/templates/etc/one.conf").write_text("{{ ansible_facts['distribution'] }} {{ word | default('') }}\n")
        (path / "roles/two/files/etc/two.conf").write_text("two\n")
        (path / "no.cfg").write_text("[defaults]\nroles_path = roles\n")
        (path / "ansible.cfg").write_text("[defaults]\nroles_path = roles\ncallbacks_enabled = redoubt.django.preload\n")
        self.tasks("one", *TASKS)
        self.tasks("two", TREE)

    def tasks(self, role: str, *tasks: dict) -> None:
        (self.path / f"roles/{role}/tasks/main.yml").write_text(yaml.safe_dump(list(tasks)))

    def several(self, *words: str, before: str = "", text: str = "", names: str = "abc", **more: object) -> tuple[list[str], int]:
        """The first role, on hosts that have a folder each."""
        (self.path / "inventory").write_text("".join(f"{name} ansible_connection=local\n" for name in names))
        for name in names:
            (self.path / name / "etc").mkdir(parents=True, exist_ok=True)
        (self.path / "roles/one/templates/etc/text.conf").write_text(text)
        return self.play([play(self, READ, LEAVE, role("one"), vars={"root": f"{self.path}/{{{{ inventory_hostname }}}}"}, **more)], "-i", "inventory", *words, before=before)

    def run(self, *words: str, between: tuple[dict, ...] = (), hosts: str = "all", callback: bool = True) -> tuple[list[str], int]:
        """Both roles, each in a play of its own."""
        plays = [play(self, READ, LEAVE, role("one")), play(self, *between, LEAVE, role("two"), hosts=hosts)]
        return self.play(plays, *words, callback=callback)

    def play(self, plays: list[dict], *words: str, callback: bool = True, before: str = "") -> tuple[list[str], int]:
        """The roles' tasks that were run, and how many changed something."""
        done = self.started(plays, *words, callback=callback, before=before)
        try:
            said, errors = done.communicate(timeout=300)
        finally:
            done.kill()
        assert done.returncode == 0, said + errors
        errors = errors.replace("[WARNING]: Not prompting as we are not in interactive mode", "")
        assert "WARNING" not in errors and "ERROR" not in errors, errors
        tasks = re.findall(r"^TASK \[(\w+ : .+?)\]", said, re.MULTILINE)
        self.hosts = re.findall(r"^(?:ok|changed): \[(\w+)\]", said, re.MULTILINE)
        return tasks, sum(map(int, re.findall(r"changed=(\d+)", said)))

    def started(self, plays: list[dict], *words: str, callback: bool = True, before: str = "") -> subprocess.Popen:
        (self.path / "play.yml").write_text(yaml.safe_dump(plays))
        environment = {**os.environ, "ANSIBLE_CONFIG": f"{self.path}/ansible.cfg", "ANSIBLE_COLLECTIONS_PATH": str(REPO / "collections"),
                       "PATH": f"{self.path}/bin:{os.environ['PATH']}", "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
                       "ANSIBLE_LOCAL_TEMP": f"{self.path}/tmp", "ANSIBLE_REMOTE_TEMP": f"{self.path}/tmp", "QUESTIONS": f"{self.path}/questions",
                       "ANSIBLE_PIPELINING": "true", "BEFORE": before}
        if not callback:
            environment["ANSIBLE_CONFIG"] = f"{self.path}/no.cfg"
        inventory = [] if "-i" in words else ["-i", "localhost,"]
        return subprocess.Popen([sys.executable, "-c", PLAYBOOK, *inventory, "-c", "local", *words, "play.yml"], cwd=self.path, env=environment,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


ONE = ["one : Make it", "one : Put files there", "one : Skipped", "one : Apply", "one : Run it"]
TWO = ["two : Put files there"]


def converged(path: Path) -> Host:
    """As the roles want it, in a run that has asked it for the first time."""
    place = Host(path)
    tasks, changed = place.run()
    assert (tasks, changed) == (ONE + TWO, 3)
    return place


@pytest.fixture
def place(tmp_path) -> Host:
    return converged(tmp_path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Host:
    return converged(tmp_path_factory.mktemp("host"))


@pytest.fixture
def undisturbed(shared) -> Host:
    """One for all tests that leave it as it is, but for the roles' tasks."""
    shared.tasks("one", *TASKS)
    shared.tasks("two", TREE)
    return shared


def test_a_host_that_is_as_it_should_be_is_left(undisturbed):
    for words in ([], ["--check"], ["--check", "--diff"]):
        assert undisturbed.run(*words) == ([], 0)


def test_without_the_callback_every_task_is_run(undisturbed):
    assert undisturbed.run(callback=False) == (ONE + TWO, 0)


DISTURBANCES = {
    "content": lambda place: (place.root / "etc/one.conf").write_text("other"),
    "mode": lambda place: (place.root / "etc/one.conf").chmod(0o600),
    "missing": lambda place: (place.root / "made").unlink(),
    "variable": lambda place: (place.path / "roles/one/vars").mkdir() or (place.path / "roles/one/vars/main.yml").write_text("word: new\n"),
    "template": lambda place: (place.path / "roles/one/templates/etc/one.conf").write_text("new\n"),
    "new file": lambda place: (place.path / "roles/one/templates/etc/more.conf").write_text("new\n"),
}


def test_a_host_that_is_not_is_put_right(place):
    for disturb in DISTURBANCES.values():
        disturb(place)
        assert place.run() == (ONE + TWO, 1)


def test_what_was_asked_in_a_run_that_changed_something_is_told_by_the_next(place):
    (place.root / "etc/one.conf").write_text("other")
    assert place.run("--check") == (ONE + TWO, 1)
    assert place.run() == (ONE + TWO, 1)
    assert place.run() == ([], 0)


def test_a_unit_that_does_not_run_is_started(place):
    stub = place.path / "bin/systemctl"
    stub.write_text(stub.read_text().replace("=active", "=inactive"))
    assert place.run() == (ONE + TWO, 1)


def test_only_the_second_role_has_something_to_do(place):
    (place.root / "etc/two.conf").unlink()
    assert place.run() == (TWO, 1)


@pytest.mark.parametrize(("task", "left"), [
    ({"ansible.builtin.command": "true"}, False),
    ({"ansible.builtin.command": "true", "delegate_to": "localhost"}, False),
    ({"ansible.builtin.command": "false", "ignore_errors": True}, False),
    ({"ansible.builtin.command": "true", "changed_when": False}, True),
])
def test_what_happens_before_a_play_has_it_run(undisturbed, task, left):
    tasks, _ = undisturbed.run(between=({"name": "Before", **task},))
    assert tasks == ([] if left else TWO)


@pytest.mark.parametrize("task", [
    {"ansible.builtin.debug": {"msg": "said each time"}},
    {"ansible.builtin.command": "true", "changed_when": False},
    {"ansible.builtin.command": "true", "changed_when": False, "check_mode": False},
    {"ansible.builtin.set_fact": {"a": 1}},
    # These say in check mode that they were skipped.
    {"ansible.builtin.raw": "true", "changed_when": False},
    {"ansible.builtin.fetch": {"src": "/etc/hostname", "dest": "{{ root }}/../fetched/", "flat": True}},
    {"redoubt.django.once": {"argv": ["rm", "{{ root }}/not-made"], "creates": "{{ root }}/not-made"}, "changed_when": False, "failed_when": False},
    {"ansible.builtin.meta": "clear_facts"},
    {"ansible.builtin.include_tasks": "more.yml"},
    {"redoubt.django.once": {"argv": ["touch", "{{ item }}"], "creates": "{{ root }}/made"}, "loop": [1]},
    {"redoubt.django.once": {"argv": ["true"], "creates": "{{ root }}/made"}, "register": "made", "until": "made is not changed"},
])
def test_a_role_that_does_something_each_time_is_run(undisturbed, task):
    undisturbed.tasks("one", *TASKS, {"name": "Each time", **task})
    tasks, _ = undisturbed.run()
    assert tasks[:5] == ONE and tasks[-1:] == TWO


def test_a_task_in_a_block_counts_and_a_rescue_does_not(undisturbed):
    rescue = [{"name": "Rescue", "ansible.builtin.command": "true"}]
    undisturbed.tasks("one", {"block": TASKS, "rescue": rescue})
    assert undisturbed.run() == ([], 0)
    undisturbed.tasks("one", {"block": TASKS, "always": [{"name": "Always", "ansible.builtin.debug": {}}]})
    assert undisturbed.run()[0] == [*ONE, "one : Always", *TWO]


def test_a_play_that_is_not_the_hosts_does_not_count(undisturbed):
    undisturbed.tasks("two", {"name": "Each time", "ansible.builtin.debug": {}})
    assert undisturbed.run()[0] == ["two : Each time"]
    read = {**READ, "redoubt.django.host_state": {"roles": ["two", "one"]}}
    for hosts, run in (("all", ONE), ("{{ [] }}", [])):
        assert undisturbed.play([play(undisturbed, read, LEAVE, role("one")), play(undisturbed, LEAVE, role("two"), hosts=hosts)])[0][:len(ONE)] == run


def play(place: Host, *tasks: dict, **more: object) -> dict:
    return {"hosts": "all", "gather_facts": False, **more, "vars": {"root": str(place.root), **more.get("vars", {})}, "tasks": list(tasks)}


def role(name: str, **more: str) -> dict:
    return {"name": name, "ansible.builtin.import_role": {"name": name, **more}}


def test_what_a_role_depends_on_is_the_roles(place):
    folder = place.path / "roles/below"
    (folder / "tasks").mkdir(parents=True)
    (folder / "files/etc").mkdir(parents=True)
    (folder / "files/etc/below.conf").write_text("below\n")
    (place.path / "roles/two/meta").mkdir()
    (place.path / "roles/two/meta/main.yml").write_text("dependencies: [{role: below}]\n")
    place.tasks("below", {"name": "End", "ansible.builtin.meta": "end_role", "when": "over is defined"}, TREE)
    assert place.run() == (["below : End", "below : Put files there", *TWO], 1)
    assert place.run() == ([], 0)
    (place.root / "etc/below.conf").unlink()
    assert place.run("-e", "over=true") == ([], 0)
    assert place.run() == (["below : End", "below : Put files there", *TWO], 1)


@pytest.mark.parametrize("where", ["roles", "pre_tasks", "post_tasks"])
def test_a_role_may_stand_anywhere_in_a_play(place, where):
    (place.path / "roles/two/tasks/other.yml").write_text("[]")
    there = {"roles": ["two"], "pre_tasks": [LEAVE, role("two")], "post_tasks": [role("two")]}[where]
    plays = [play(place, {**READ, "redoubt.django.host_state": {"roles": ["two"]}}), play(place, LEAVE, role("two", tasks_from="other"), **{"pre_tasks": [LEAVE], where: there})]
    assert place.play(plays) == ([], 0)
    (place.root / "etc/two.conf").unlink()
    assert place.play(plays) == (TWO, 1)


def test_whose_a_play_is_its_own_variables_say(place):
    plays = [play(place, READ, LEAVE, role("one")), play(place, LEAVE, role("two"), hosts="{{ mine | default([]) }}", vars={"mine": "all"})]
    assert place.play(plays) == ([], 0)
    (place.root / "etc/two.conf").unlink()
    assert place.play(plays) == (TWO, 1)


def test_hosts_that_only_the_run_will_know_are_no_error(undisturbed):
    later = [play(undisturbed, LEAVE, role("two"), hosts="{{ hostvars.localhost.state.packages[:0] }}")]
    assert undisturbed.play([play(undisturbed, READ, LEAVE, role("one")), *later]) == ([], 0)


def test_a_fact_between_has_the_role_run(undisturbed):
    plays = [play(undisturbed, READ), play(undisturbed, {"ansible.builtin.set_fact": {"word": ""}}), play(undisturbed, LEAVE, role("one"))]
    assert undisturbed.play(plays) == (ONE, 0)


def test_a_host_that_is_added_between_has_the_role_run_on_all(place):
    """It may be of a group that the roles go by."""
    (place.path / "inventory").write_text("a ansible_connection=local\nb ansible_connection=local\n")
    (place.path / "roles/one/templates/etc/one.conf").write_text("{{ groups.special | default([]) }}\n")
    added = play(place, {"name": "Add", "ansible.builtin.add_host": {"name": "c", "groups": "special"}}, hosts="a")
    plays = [play(place, READ), added, play(place, LEAVE, role("one"), hosts="b")]
    place.play([plays[0], plays[2]], "-i", "inventory")
    assert place.play([plays[0], plays[2]], "-i", "inventory") == ([], 0)
    tasks, changed = place.play(plays, "-i", "inventory")
    # The host that was added is the other change.
    assert tasks[:1] == ONE[:1] and changed == 2


def test_what_is_asked_before_a_play_is_not_known(undisturbed):
    asked = play(undisturbed, LEAVE, role("one"), vars_prompt=[{"name": "word", "default": "", "private": False}])
    assert undisturbed.play([play(undisturbed, READ), asked]) == (ONE, 0)


def test_a_condition_that_fails_is_the_roles_to_say(undisturbed):
    undisturbed.tasks("two", {"name": "End", "ansible.builtin.meta": "end_role", "when": "nowhere_defined"})
    said = {"name": "x : said", "ansible.builtin.assert": {"that": "state.settled == ['one']"}}
    failing = play(undisturbed, {"ansible.builtin.meta": "end_play"}, role("two"))
    assert undisturbed.play([play(undisturbed, READ, said), play(undisturbed, LEAVE, role("one")), failing])[0] == ["x : said"]


def test_of_several_hosts_each_is_looked_at(place):
    assert place.several()[1] == 6
    assert place.several() == ([], 0)
    for name in "abc":
        (place.path / name / "made").unlink()
        assert place.several() == (ONE, 1)
        # All were read, and three tasks of the role were run on one.
        assert sorted(place.hosts) == sorted(f"abc{name * 3}")


# Who renders it leads a session of its own (the sixth field there), and hears no complaint.
RENDERED_BY = "{{ lookup('pipe', 'echo no >&2; echo $PPID >>by; readlink /proc/self/fd/2; set -- $(cat /proc/$PPID/stat); test $6 = $PPID && echo leads') }}\n"
AHEAD = "import time; from ansible_collections.redoubt.django.plugins.plugin_utils.ahead import Search, Searchers, worker; "
# Two processes, however many cores there are, and each host has the time to be looked at by them.
TWO_CORES = f"{AHEAD}os.sched_getaffinity = lambda pid: {{0, 1}}; Searchers.PATIENCE = 600; "


def rendered_by(place: Host) -> list[int]:
    path = place.path / "by"
    found = list(map(int, path.read_text().split()))
    path.write_text("")
    return found


@pytest.fixture
def several(six) -> Host:
    rendered_by(six)
    return six


@pytest.fixture(scope="module")
def six(tmp_path_factory) -> Host:
    """Six hosts that are as they should be."""
    found = Host(tmp_path_factory.mktemp("several"))
    assert found.several(text=RENDERED_BY, names="abcdef")[1] == 12
    assert found.several(text=RENDERED_BY, names="abcdef") == ([], 0)
    return found


def test_several_hosts_are_looked_at_by_one_process_a_core_and_it_ends(several):
    assert several.several(text=RENDERED_BY, names="abcdef", before=TWO_CORES) == ([], 0)
    processes = rendered_by(several)
    assert len(processes) == 6 and len(set(processes)) <= 2
    assert not [process for process in processes if Path(f"/proc/{process}").exists()]


@pytest.mark.parametrize(("words", "more", "rendered"), [(["-l", "a"], {}, 1), ([], {"strategy": "free"}, 6), ([], {"strategy": "host_pinned"}, 6), ([], {"serial": 1}, 6)])
def test_who_is_alone_or_goes_at_its_own_pace_is_looked_at_by_its_own_process(several, words, more, rendered):
    before = f"{TWO_CORES}Searchers.__init__ = lambda *_: open('made', 'w')"
    assert several.several(*words, text=RENDERED_BY, names="abcdef", before=before, **more) == ([], 0)
    assert len(set(rendered_by(several))) == rendered and not (several.path / "made").exists()


def test_there_are_no_more_than_hosts_and_cores(several):
    before = f"{AHEAD}os.sched_getaffinity = lambda pid: set(range(64)); start = Searchers.serve; Searchers.serve = lambda *told: (open('begun', 'a').write('1'), start(*told))"
    assert several.several("-l", "a,b,c", text=RENDERED_BY, names="abcdef", before=before) == ([], 0)
    assert len((several.path / "begun").read_text()) <= 3


@pytest.mark.parametrize("before", [
    "Searchers.serve = lambda *_: None",
    "Searchers.serve = lambda *_: time.sleep(3600); Searchers.PATIENCE = 0.1",
    # It ends over the first question.
    "search = Search.settled; Search.settled = lambda *told: search(*told) if worker.current_worker else 1 / 0",
    "import multiprocessing; multiprocessing.Pipe = lambda: open('/nowhere')",
    "import socket; socket.socketpair = lambda **_: open('/nowhere')",
])
def test_a_host_that_nobody_else_looks_at_is_looked_at_by_its_own_process(several, before):
    assert several.several(text=RENDERED_BY, names="abcdef", before=f"{TWO_CORES}{before}") == ([], 0)
    assert len(set(rendered_by(several))) == 6 and not processes_in(several.path)


def test_where_not_all_can_be_made_one_does_it(several):
    before = """
from ansible.utils.multiprocessing import context
make, made = context.Process, []
context.Process = lambda **told: make(**told) if made.append(told) or len(made) == 1 else open("/nowhere")
"""
    assert several.several(text=RENDERED_BY, names="abcdef", before=f"{TWO_CORES}{before}") == ([], 0)
    assert len(set(rendered_by(several))) == 1 and not processes_in(several.path)


def test_hosts_that_come_in_batches_are_looked_at(several):
    assert several.several(text=RENDERED_BY, names="abcdef", serial=2, before=TWO_CORES) == ([], 0)
    variables = {"root": f"{several.path}/{{{{ inventory_hostname }}}}"}
    plays = [play(several, READ, serial=2, vars=variables), play(several, LEAVE, role("one"), vars=variables)]
    assert several.play(plays, "-i", "inventory", before=TWO_CORES) == ([], 0)


def test_a_handler_that_reads_again_is_told_what_has_happened_since(place):
    text, names = "{{ word | default('old') }}\n", "ab"
    place.several(text=text, names=names)
    assert place.several(text=text, names=names) == ([], 0)
    handlers = [{"name": "Decide", "ansible.builtin.set_fact": {"word": "new"}, "listen": "H"}, {**READ, "name": "Read again", "listen": "H"}]
    first = {"name": "First", "ansible.builtin.command": "true", "notify": "H"}
    each = play(place, LEAVE, role("one"), pre_tasks=[first, READ], handlers=handlers, vars={"root": f"{place.path}/{{{{ inventory_hostname }}}}"})
    assert place.play([each], "-i", "inventory", before=TWO_CORES)[1] == 4
    assert [(place.path / f"{name}/etc/text.conf").read_text() for name in names] == ["new\n", "new\n"]


@pytest.mark.parametrize(("number", "seconds"), [(signal.SIGINT, 120), (signal.SIGTERM, 5), (signal.SIGKILL, 5)])
def test_they_end_with_the_run_that_is_ended(several, number, seconds):
    """While a host is looked at, which takes some seconds."""
    text = f"{{{{ lookup('pipe', 'echo $PPID >>by; sleep {seconds}') }}}}"
    (several.path / "roles/one/templates/etc/text.conf").write_text(text)
    tasks = [{"name": "Before", "ansible.builtin.command": "true", "changed_when": False}, READ, LEAVE, role("one")]
    run = several.started([play(several, *tasks, vars={"root": f"{several.path}/{{{{ inventory_hostname }}}}"})], "-i", "inventory", before=TWO_CORES)
    try:
        wait(lambda: len(set((several.path / "by").read_text().split())) == 2)
        run.send_signal(number)
        run.communicate(timeout=30)
        # A run that is killed tells nobody, and what is under way goes on to its end; one that is interrupted waits for nothing.
        wait(lambda: not processes_in(several.path))
    finally:
        run.kill()


def test_what_they_have_started_ends_with_a_task_that_waits_no_longer(several):
    (several.path / "roles/one/templates/etc/text.conf").write_text("{{ lookup('pipe', 'echo $PPID >>by; exec sleep 3600') }}")
    read = {**READ, "timeout": 5, "ignore_errors": True}
    plays = [play(several, read, {"ansible.builtin.meta": "end_play"}, role("one"), vars={"root": f"{several.path}/{{{{ inventory_hostname }}}}"})]
    run = several.started(plays, "-i", "inventory", before=TWO_CORES)
    try:
        said, _ = run.communicate(timeout=120)
    finally:
        run.kill()
    assert said.count("ignored=1") == 6 and rendered_by(several)
    wait(lambda: not processes_in(several.path), 10)


def processes_in(path: Path) -> list[str]:
    def folder(process: Path) -> str:
        try:
            return os.readlink(process / "cwd")
        except OSError:
            return ""

    return [process.name for process in Path("/proc").iterdir() if process.name.isdigit() and folder(process) == str(path)]


def wait(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_looks_the_same_and_is_not_is_told_apart(place):
    """A template is compiled once, but for the marks that it names itself, and for the backslashes that YAML has in it, too."""
    folder = place.path / "roles/one/templates/etc"
    text = "{{ 'a\\tb' }}\n{% if true %}\n  c\n{% endif %}\n"
    (folder / "plain.conf").write_text(text)
    (folder / "special.conf").write_text(f"#jinja2: trim_blocks: False\n{text}")
    extra = [{"dest": "etc/yaml.conf", "content": text}]
    place.tasks("one", {**TREE, "redoubt.django.tree": {"root": "{{ root }}", "extra": extra}})
    assert place.several()[1] == 3
    assert len({(place.path / f"a/etc/{name}.conf").read_text() for name in ("plain", "special", "yaml")}) == 3
    assert place.several() == ([], 0)


def test_a_template_is_compiled_once(monkeypatch):
    compiled = []

    def compile_(self, source, *args, **kwargs):
        compiled.append(source)
        return super(AnsibleEnvironment, self).compile(source, *args, **kwargs)

    monkeypatch.setattr(AnsibleEnvironment, "compile", compile_, raising=False)
    compile_once()
    for word in ("one", "two"):
        assert Templar(loader=DataLoader(), variables={"word": word}).template(trust_as_template("{{ word }}!")) == f"{word}!"
    assert compiled == ["{{ word }}!"]


def test_a_playbook_from_another_folder_is_run(undisturbed):
    folder = undisturbed.path / "sub/group_vars"
    folder.mkdir(parents=True)
    (folder / "all.yml").write_text("other: variables\n")
    (undisturbed.path / "sub/play.yml").write_text(yaml.safe_dump([play(undisturbed, LEAVE, role("one"))]))
    assert undisturbed.play([play(undisturbed, READ), {"ansible.builtin.import_playbook": "sub/play.yml"}]) == (ONE, 0)


def test_a_connection_with_ways_of_its_own_to_the_host_is_not_believed(undisturbed, monkeypatch):
    [strategies] = [path / "ansible_mitogen/plugins/strategy" for path in map(Path, sys.path) if (path / "ansible_mitogen").is_dir()]
    monkeypatch.setenv("ANSIBLE_STRATEGY_PLUGINS", str(strategies))
    monkeypatch.setenv("ANSIBLE_STRATEGY", "mitogen_linear")
    monkeypatch.setenv("ANSIBLE_DEPRECATION_WARNINGS", "false")
    plays = [play(undisturbed, READ, {"name": "x : said", "ansible.builtin.assert": {"that": "state.settled == []"}}, role("one"))]
    assert undisturbed.play(plays) == (["x : said", *ONE], 0)


def test_another_hosts_state_is_not_this_ones(undisturbed):
    (undisturbed.path / "inventory").write_text("a ansible_connection=local\nb ansible_connection=local\n")
    undisturbed.tasks("one", {**UNITS, "redoubt.django.units": {"started": ["a.service"], "seen": "{{ state }}"}})
    plays = [play(undisturbed, {**READ, "delegate_to": "b"}, LEAVE, role("one"), hosts="a")]
    assert undisturbed.play(plays, "-i", "inventory") == (["one : Run it"], 0)


def test_without_the_callback_nothing_is_known_to_be_settled(undisturbed):
    plays = [play(undisturbed, READ, {"name": "x : said", "ansible.builtin.assert": {"that": "state.settled == []"}})]
    assert undisturbed.play(plays, callback=False) == (["x : said"], 0)


def test_a_role_in_no_play_is_not_settled(undisturbed):
    plays = [play(undisturbed, READ, {"name": "x : said", "ansible.builtin.assert": {"that": "state.settled == ['two']"}}), play(undisturbed, role("two"))]
    assert undisturbed.play(plays) == (["x : said", *TWO], 0)


def test_a_play_without_roles_is_run(undisturbed):
    task = {"name": "other : Task", "ansible.builtin.debug": {}}
    assert undisturbed.play([play(undisturbed, READ), play(undisturbed, LEAVE, task)]) == (["other : Task"], 0)


@pytest.mark.parametrize("path", [*sorted(REPO.glob("playbooks/*.yml")), REPO / "bench/hosts.yml"], ids=lambda path: path.name)
def test_a_play_that_may_be_left_has_nothing_but_roles_behind_that(path):
    for each in yaml.safe_load(path.read_text()):
        tasks = each.get("tasks", [])
        left = [index for index, task in enumerate(tasks) if "redoubt.django.settled" in str(task.get("when", ""))]
        assert all("ansible.builtin.import_role" in task for index in left for task in tasks[index + 1:]) and not (left and each.get("post_tasks"))
