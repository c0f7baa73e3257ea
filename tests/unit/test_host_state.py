"""What the play reads of a host, and what is not asked or done again because of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible_collections.redoubt.django.plugins.action import host_state
from ansible_collections.redoubt.django.plugins.action.units import as_wanted

REPO = Path(__file__).parents[2]
UNITS = """\
Id=nginx.service
Names=nginx.service
LoadState=loaded
ActiveState=active
UnitFileState=enabled
NeedDaemonReload=no
ConditionResult=yes
ConditionTimestampMonotonic=5

Id=clock.service
Names=clock.service time.service
LoadState=loaded
ActiveState=inactive
UnitFileState=enabled
NeedDaemonReload=no
ConditionResult=no
ConditionTimestampMonotonic=5

Id=stopped.service
Names=stopped.service
LoadState=loaded
ActiveState=inactive
UnitFileState=enabled
NeedDaemonReload=no
ConditionResult=yes
ConditionTimestampMonotonic=0

Id=unlinked.service
Names=unlinked.service
LoadState=loaded
ActiveState=active
UnitFileState=disabled
NeedDaemonReload=no
ConditionResult=yes
ConditionTimestampMonotonic=5

Id=newer.service
Names=newer.service
LoadState=loaded
ActiveState=active
UnitFileState=enabled
NeedDaemonReload=yes
ConditionResult=yes
ConditionTimestampMonotonic=5
"""
# Of what nothing enables only this is asked.
LISTED = """
Id=listed.service
Names=listed.service
LoadState=loaded
ActiveState=active
UnitFileState=

Id=ended.service
Names=ended.service
LoadState=loaded
ActiveState=inactive
UnitFileState=
"""
SEEN = {"units": UNITS + LISTED, "enabled": ["nginx.service", "asleep.service"], "aliases": ["by-another-name.service"]}


@pytest.mark.parametrize(("args", "answer"), [
    ({"enabled": ["nginx.service"]}, True),
    ({"enabled": ["nginx.service"], "daemon_reload": False, "restarted": []}, True),
    # Kept from running by its own conditions; known by another name.
    ({"enabled": ["time.service"]}, True),
    ({"started": ["unlinked.service"]}, True),
    ({"enabled": ["unlinked.service"]}, False),
    ({"enabled": ["nginx.service", "stopped.service"]}, False),
    ({"enabled": ["newer.service"]}, False),
    ({"enabled": ["unheard-of.service"]}, False),
    ({"disabled": ["unheard-of.service"]}, True),
    ({"disabled": ["unlinked.service"]}, False),
    ({"disabled": ["stopped.service"]}, False),
    # Linked, and systemd has not loaded it: it must be looked at.
    ({"disabled": ["asleep.service"]}, False),
    ({"disabled": ["ended.service"]}, True),
    ({"disabled": ["listed.service"]}, False),
    ({"enabled": ["listed.service"]}, False),
    ({"enabled": ["ended.service"]}, False),
    ({"started": ["ended.service"]}, False),
    # It may be the name of one that runs.
    ({"disabled": ["by-another-name.service"]}, False),
    ({"enabled": ["nginx.service"], "daemon_reload": True}, False),
    ({"restarted": ["nginx.service"]}, False),
    ({"reloaded": ["nginx.service"]}, False),
    ({"enabled": ["nginx.service"], "former": {"files": [], "having": "x", "kept": []}}, False),
])
def test_units_are_asked_for_unless_they_were_seen_as_wanted(args, answer):
    assert as_wanted(args, SEEN) is answer


@pytest.fixture
def play(tmp_path: Path):
    """Run tasks on this machine, on which `bin` comes first; return Ansible's answer, and what was run from `bin`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (tmp_path / "no.cfg").touch()

    def stub(name: str, script: str) -> None:
        path = folder / name
        path.write_text(f"#!/bin/sh\necho {name} >>{tmp_path}/calls\n{script}\n")
        path.chmod(0o755)

    def run(*tasks: dict, check: bool = False) -> tuple[subprocess.CompletedProcess, list[str], list[dict]]:
        content = "{{ [" + ", ".join(f"result_{index}" for index in range(len(tasks))) + "] | to_json }}"
        report = {"ansible.builtin.copy": {"dest": f"{tmp_path}/results", "content": content, "mode": "0600"}, "check_mode": False}
        registered = [{**task, "register": f"result_{index}"} for index, task in enumerate(tasks)]
        (tmp_path / "play.yml").write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "tasks": [*registered, report]}]))
        environment = {**os.environ, "ANSIBLE_CONFIG": f"{tmp_path}/no.cfg", "ANSIBLE_COLLECTIONS_PATH": str(REPO / "collections"),
                       "PATH": f"{folder}:{os.environ['PATH']}", "ANSIBLE_PYTHON_INTERPRETER": sys.executable, "ANSIBLE_LOCAL_TEMP": str(tmp_path), "ANSIBLE_REMOTE_TEMP": str(tmp_path)}
        command = [Path(sys.executable).parent / "ansible-playbook", "-i", "localhost,", "-c", "local", *(["--check"] if check else []), "play.yml"]
        answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        calls = (tmp_path / "calls").read_text().split() if (tmp_path / "calls").exists() else []
        (tmp_path / "calls").unlink(missing_ok=True)
        return answer, calls, json.loads((tmp_path / "results").read_text()) if (tmp_path / "results").exists() else []

    run.stub = stub
    return run


STATE = {"redoubt.django.host_state": {}}


def test_what_a_host_has_is_read(play):
    play.stub("dpkg-query", "printf 'ii nginx\\nrc apache2\\nhi linux-image\\niU half\\n'")
    lines = "nginx.service loaded active running A web server\nlisted.service loaded active running Nothing enables it\nended.service loaded inactive dead It ended"
    play.stub("systemctl", f"case $1 in show) cat <<'E'\n{UNITS}E\n;; *) cat <<'E'\n{lines}\nE\nesac")
    play.stub("nproc", "echo 7")
    play.stub("systemd-detect-virt", 'case "$*" in --container) echo podman;; *) exit 1;; esac')
    play.stub("getent", """
case "$*" in
    "group sudo") echo sudo:x:27:ann,bob,eve,gone,zed;;
    "passwd bob") echo bob:x:1:1::/:/bin/sh;;
    "passwd zed") echo zed:x:1:1::/not/there:/bin/bash;;
    "passwd gone") exit 2;;
    passwd*) echo "$2:x:1:1:A, B:/:/bin/bash";;
    "shadow eve") echo "eve:hash:1:0:99999:7::1:";;
    shadow*) echo "$2:hash:1:0:99999:7:::";;
esac""")
    answer, _calls, [state] = play(STATE, check=True)
    assert answer.returncode == 0, answer.stdout
    assert state["packages"] == ["nginx", "linux-image"]
    assert state["units"] == UNITS + LISTED and as_wanted({"enabled": ["nginx.service"]}, state)
    assert state["ansible_facts"] | {"distribution_release": ""} == {
        "distribution": "Debian", "distribution_major_version": re.search(r'VERSION_ID="?(\d+)', Path("/etc/os-release").read_text())[1],
        "distribution_release": "", "processor_vcpus": 7, "memtotal_mb": int(Path("/proc/meminfo").read_text().split()[1]) // 1024,
        "virtualization_tech_guest": ["podman", "container"]}
    # The others have another shell, an end, no account, no home.
    assert state["administrators"] == ["ann"] and "hash" not in json.dumps(state)
    assert state["changed"] is False


def test_sudo_has_one_line_to_log():
    assert host_state.command(True)["cmd"] == "exec /bin/sh" and host_state.SCRIPT.encode() in host_state.command(True)["in_data"]
    assert host_state.command(False) == {"cmd": host_state.SCRIPT}


def test_what_is_started_does_not_read_the_rest_of_the_script(tmp_path):
    for name in ("dpkg-query", "systemctl"):
        (tmp_path / name).write_text("#!/bin/sh\ncat\n")
        (tmp_path / name).chmod(0o755)
    # Not Debian's sh, which has read all of it by then.
    done = subprocess.run(["bash"], input=host_state.command(True)["in_data"], env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, capture_output=True, check=True)
    assert done.stdout.startswith(b"--redoubt--\n") and b"echo" not in done.stdout


def test_a_host_that_is_no_debian_gets_a_sentence(play):
    play.stub("dpkg-query", "echo 'dpkg-query: nothing here' >&2; exit 3")
    answer, _calls, _results = play(STATE)
    assert answer.returncode and "The host does not say which packages and units it has: dpkg-query: nothing here." in answer.stdout, answer.stdout


def test_units_that_are_as_wanted_cost_the_host_nothing(play):
    play.stub("systemctl", "exit 1")
    wanted = {"redoubt.django.units": {"enabled": ["nginx.service"], "seen": SEEN}}
    answer, calls, [result] = play(wanted)
    assert (answer.returncode, calls) == (0, []), answer.stdout
    assert result["changed"] is False and result["actions"] == []
    for other in ({"enabled": ["stopped.service"], "seen": SEEN}, {"enabled": ["nginx.service"], "seen": {}}, {"enabled": ["nginx.service"]}):
        answer, calls, _ = play({"redoubt.django.units": other})
        assert answer.returncode and calls[:1] == ["systemctl"], answer.stdout


def test_a_command_is_run_once(play, tmp_path):
    play.stub("make-it", 'printf %s "$2" >"$1"')
    task = {"redoubt.django.once": {"argv": ["make-it", f"{tmp_path}/it is", "a b; c"], "creates": f"{tmp_path}/it is"}}
    answer, calls, [result] = play(task, check=True)
    assert (answer.returncode, calls, result["changed"], (tmp_path / "it is").exists()) == (0, [], True, False), answer.stdout
    answer, calls, [result] = play(task)
    assert (answer.returncode, calls, result["changed"], (tmp_path / "it is").read_text()) == (0, ["make-it"], True, "a b; c"), answer.stdout
    for check in (True, False):
        answer, calls, [result] = play(task, check=check)
        assert (answer.returncode, calls, result["changed"]) == (0, [], False), answer.stdout


def test_a_command_that_fails_fails(play, tmp_path):
    play.stub("make-it", "echo no >&2; exit 4")
    answer, _calls, _results = play({"redoubt.django.once": {"argv": ["make-it"], "creates": f"{tmp_path}/it"}})
    assert answer.returncode and "no" in answer.stdout, answer.stdout
