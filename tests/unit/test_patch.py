"""What patch.py makes of systemd's, dpkg's, needrestart's and debsecan's answers, and in which order it restarts."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "roles/patch/files/patch.py"


@pytest.fixture
def patch():
    spec = importlib.util.spec_from_file_location("redoubt_patch", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answers(monkeypatch, patch, **by_word) -> list[list[str]]:
    """Answer commands by a word of theirs; return what was asked."""
    asked = []

    def run(*words, **_):
        asked.append(list(words))
        out = next((text for word, text in by_word.items() if word in words), "")
        return types.SimpleNamespace(returncode=int(out == "fails"), stdout=out, stderr="E: it fails." if out == "fails" else "")

    monkeypatch.setattr(patch, "run", run)
    return asked


# --- Is it well? -----------------------------------------------------------------------------------------------------

UNIT = {"Id": "a.service", "ActiveState": "active", "UnitFileState": "enabled", "ConditionResult": "yes", "Type": "simple"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, None),
        ({"ActiveState": "failed"}, "a.service has failed"),
        ({"ActiveState": "failed", "UnitFileState": "disabled", "Type": "oneshot"}, "a.service has failed"),
        ({"ActiveState": "inactive"}, "a.service is enabled and does not run"),
        ({"ActiveState": "inactive", "UnitFileState": "enabled-runtime"}, "a.service is enabled and does not run"),
        ({"ActiveState": "activating"}, None),
        ({"ActiveState": "inactive", "UnitFileState": "disabled"}, None),
        ({"ActiveState": "inactive", "Type": "oneshot"}, None),
        # Its own conditions keep it from running here.
        ({"ActiveState": "inactive", "ConditionResult": "no"}, None),
        ({"ActiveState": "inactive", "UnitFileState": "static"}, None),
    ],
)
def test_which_units_are_ill(patch, changes, sentence):
    assert patch.ill_units([{**UNIT, **changes}]) == ([sentence] if sentence else [])


def test_a_host_is_given_time_and_not_more(patch, monkeypatch):
    seen = iter([["a.service has failed"], ["a.service has failed"], []])
    monkeypatch.setattr(patch, "ill", lambda app, timeout: next(seen))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    assert patch.well(None, 60) == []
    monkeypatch.setattr(patch, "ill", lambda app, timeout: ["a.service has failed"])
    assert patch.well(None, 0) == ["a.service has failed"]


@pytest.mark.parametrize(("looks", "said"), [
    ([["a"], ["rsyslog", "a"]], ["a"]), ([["a"], ["rsyslog"]], ["rsyslog"]), ([["rsyslog"], []], []), ([["a"], ["a"], ["b", "a"], ["b", "a"]], ["a"]), ([[]], []),
])
def test_what_is_wrong_for_a_moment_is_not_told_beside_what_stays_wrong(patch, monkeypatch, looks, said) -> None:
    clock, answers = [0.0], iter(looks)
    monkeypatch.setattr(patch.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(patch.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    monkeypatch.setattr(patch, "ill", lambda app, timeout: next(answers))
    assert patch.well(None, 2 * (len(looks) - 1)) == said


def test_who_is_out_of_the_list_is_known_until_it_is_back(patch, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(patch, "OUT", str(tmp_path / "redoubt/patch-drained"))
    monkeypatch.setattr(patch, "well", lambda app, timeout: ["a.service has failed"])

    def said(step):
        monkeypatch.setattr(sys, "argv", ["patch", step])
        assert patch.main() == 0
        return json.loads(capsys.readouterr().out)

    assert said("well") == {"stopped": "a.service has failed.", "drained": False}
    # A run that was cut off does it again.
    assert [said("leave"), said("leave")] == [{"drained": True}] * 2
    assert said("well") == {"stopped": "a.service has failed.", "drained": True}
    assert [said("back"), said("back")] == [{"drained": False}] * 2


# --- dpkg ------------------------------------------------------------------------------------------------------------


def test_a_lock_is_waited_for_and_its_holder_named(patch, monkeypatch, tmp_path):
    lock = tmp_path / "lock"
    lock.touch()
    monkeypatch.setattr(patch, "LOCKS", (str(tmp_path / "none"), str(lock)))
    patch.wait_for_locks(0)
    program = f"import fcntl, time; f = open({str(lock)!r}, 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); print('has it', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "has it\n"
            with pytest.raises(patch.Stopped) as stopped:
                patch.wait_for_locks(0)
            assert f"(process {other.pid}) has had the lock {lock} for 0 seconds (patch_lock_timeout)" in str(stopped.value)
        finally:
            other.kill()
    patch.wait_for_locks(0)


@pytest.mark.parametrize(
    ("listed", "broken"),
    [
        ("ii  bash\nhi  held\nrc  gone\nun  never\n", ""),
        ("ii  bash\niF  nginx\n", "nginx"),
        ("iU  nginx\niHR bash\n", "nginx, bash"),
        ("iW  man-db\nit  libc-bin\n", "man-db, libc-bin"),
        ("iiR bash\n", "bash"),
    ],
)
def test_what_dpkg_has_not_finished(patch, monkeypatch, listed, broken):
    answers(monkeypatch, patch, **{"dpkg-query": listed})
    assert patch.half_configured() == broken


def test_what_the_disk_cannot_hold_is_not_begun(patch, tmp_path):
    usage = lambda _: types.SimpleNamespace(free=300 << 20)
    patch.room({str(tmp_path): 200 << 20, "/nowhere": 1 << 60}, usage)
    with pytest.raises(patch.Stopped) as stopped:
        patch.room({str(tmp_path): 200 << 20, str(tmp_path.parent): (100 << 20) + 1}, usage)
    assert f"{tmp_path} and {tmp_path.parent} have 300 MB left, and the updates take 301 MB: make room (`apt-get clean`" in str(stopped.value)


# --- What runs old code ----------------------------------------------------------------------------------------------

BATCH = """NEEDRESTART-VER: 3.6
NEEDRESTART-KCUR: 6.1.0-18-amd64
NEEDRESTART-KEXP: 6.1.0-20-amd64
NEEDRESTART-KSTA: {status}
NEEDRESTART-SVC: nginx.service
NEEDRESTART-SVC: notes@green.service
NEEDRESTART-SVC: notes-worker.service
NEEDRESTART-SVC: dbus.service
NEEDRESTART-SVC: user@1000.service
NEEDRESTART-SVC: getty@tty1.service
NEEDRESTART-SESS: root @ session #1
"""


@pytest.mark.parametrize(("status", "reboot"), [(0, ""), (1, ""), (2, "kernel 6.1.0-18-amd64 runs, and 6.1.0-20-amd64 is installed"), (3, "kernel 6.1.0-18-amd64 runs, and 6.1.0-20-amd64 is installed")])
def test_what_needrestart_says(patch, status, reboot):
    assert patch.old_code(BATCH.format(status=status), "notes", set) == {
        "restart": [], "web": True, "waiting": ["dbus.service", "getty@tty1.service", "user@1000.service"], "ending": ["nginx.service", "notes-worker.service"], "reboot": reboot}
    # On a host that serves nothing they are units like others.
    assert "notes@green.service" in patch.old_code(BATCH.format(status=1), "", none)["restart"]
    assert not patch.old_code("NEEDRESTART-VER: 3.6\nNEEDRESTART-SVC: notes-green.service\n", "notes", none)["web"]


def none(units):
    return set()


def test_what_runs_to_its_end_is_not_cut_off_and_begun_again(patch, monkeypatch):
    shown = ("Id=notes-prune.service\nType=oneshot\nTransient=no\n\nId=notes-build-4711.service\nType=exec\nTransient=yes\n\n"
             "Id=nginx.service\nType=forking\nTransient=no\n")
    units = ("nginx", "notes-build-4711", "notes-prune")
    batch = "NEEDRESTART-VER: 3.6\n" + "".join(f"NEEDRESTART-SVC: {unit}.service\n" for unit in units)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    asked = answers(monkeypatch, patch, needrestart=batch, systemctl=shown)
    found = patch.services("notes")
    assert (found["restart"], found["ending"]) == (["nginx.service"], ["notes-build-4711.service", "notes-prune.service"])
    assert asked[-1][-3:] == [f"{unit}.service" for unit in units]
    # What systemd does not tell of is not restarted on a guess either.
    answers(monkeypatch, patch, needrestart=batch, systemctl="fails")
    with pytest.raises(patch.Stopped, match="systemctl does not say what kind of units they are"):
        patch.services("notes")


def test_a_restart_that_has_no_end_is_a_sentence(patch, monkeypatch, capsys):
    def run(*words, **_):
        raise subprocess.TimeoutExpired(words, 3600)

    monkeypatch.setattr(patch, "run", run)
    monkeypatch.setattr(sys, "argv", ["patch", "restart", "slow.service"])
    assert patch.main() == 0
    assert json.loads(capsys.readouterr().out)["stopped"] == "`systemctl restart slow.service` has not ended within 60 minutes."


def test_what_is_restarted_in_which_order(patch, monkeypatch):
    asked = answers(monkeypatch, patch)
    monkeypatch.setattr(patch, "hand_nginx_on", lambda: asked.append(["nginx"]))
    patch.restart(["nginx.service", "ssh.service", "redis-server@notes.service", "postgresql@17-main.service", "systemd-manager"])
    assert asked == [["systemctl", "daemon-reexec"], ["systemctl", "restart", "postgresql@17-main.service"], ["systemctl", "restart", "redis-server@notes.service"],
                     ["systemctl", "restart", "ssh.service"], ["nginx"]]
    answers(monkeypatch, patch, restart="fails")
    with pytest.raises(patch.Stopped, match=r"`systemctl restart ssh.service` failed: E: it fails. `journalctl -u ssh.service` on the host says why"):
        patch.restart(["ssh.service"])


MASTER = """
import os, signal, sys, time
from pathlib import Path

pid, works = Path(sys.argv[1]), sys.argv[2]

def second(*_):
    if works == "works":
        pid.rename(f"{pid}.oldbin")
        pid.write_text("1\\n")

signal.signal(signal.SIGUSR2, second)
signal.signal(signal.SIGQUIT, lambda *_: sys.exit(0))
pid.write_text(f"{os.getpid()}\\n")
print("runs", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("works", ["works", "fails"])
def test_nginx_is_handed_on_and_ends_only_after_that(patch, monkeypatch, tmp_path, works):
    pid = tmp_path / "nginx.pid"
    with subprocess.Popen([sys.executable, "-c", MASTER, pid, works], stdout=subprocess.PIPE, text=True) as old:
        assert old.stdout.readline() == "runs\n"
        monkeypatch.setattr(patch, "main_pid", lambda _: old.pid)
        monkeypatch.setattr(os.path, "exists", lambda path, known=os.path.exists: old.poll() is None if path == f"/proc/{old.pid}" else known(path))
        clock = iter(range(0, 10**6, 1 if works == "works" else 8))
        monkeypatch.setattr(time, "monotonic", lambda: next(clock) / 100 if works == "works" else next(clock))
        if works == "works":
            patch.hand_nginx_on(str(pid))
            assert old.wait(10) == 0 and pid.read_text() == "1\n"
        else:
            with pytest.raises(patch.Stopped, match="nginx has not started its new program beside the old one, which goes on"):
                patch.hand_nginx_on(str(pid))
            assert old.poll() is None
            old.send_signal(signal.SIGQUIT)


def test_without_needrestart_nothing_is_known_and_nothing_said_to_be_well(patch, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert "not installed yet" in patch.services("notes")["restart_unknown"]
    assert patch.cves("https://x/") == {"unknown": "debsecan is not installed yet; a run without --check does that"}
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    answers(monkeypatch, patch, needrestart="fails")
    with pytest.raises(patch.Stopped, match="needrestart does not say what runs old code: E: it fails"):
        patch.services("notes")


# --- Vulnerabilities -------------------------------------------------------------------------------------------------


def test_how_many_vulnerabilities_there_are_and_how_many_are_mended(patch):
    text = "CVE-2026-1 nginx (fixed, remotely exploitable, high urgency)\nCVE-2026-1 nginx-common (fixed, remotely exploitable, high urgency)\nCVE-2026-2 bash\nTEMP-1 bash (low urgency)\n\nsomething else\n"
    assert patch.count_cves(text) == {"known": 3, "mended": 1}
    assert patch.count_cves("") == {"known": 0, "mended": 0}


def test_vulnerabilities_that_cannot_be_had_are_not_none(patch, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(patch, "Path", lambda path: types.SimpleNamespace(read_text=lambda: "ID=debian\nVERSION_CODENAME=trixie\n"))
    asked = answers(monkeypatch, patch, debsecan="fails")
    assert patch.cves("https://x/") == {"unknown": "https://x/ gave nothing (E: it fails; patch_cve_source)"}
    assert asked == [["debsecan", "--suite", "trixie", "--source", "https://x/"]]

    def late(*_, **__):
        raise subprocess.TimeoutExpired("debsecan", 90)

    monkeypatch.setattr(patch, "run", late)
    assert patch.cves("https://x/") == {"unknown": "https://x/ has not answered within 90 seconds (patch_cve_source)"}


def test_locks_of_a_file_are_seen_without_keeping_them(patch, tmp_path, monkeypatch):
    lock = tmp_path / "lock"
    lock.touch()
    monkeypatch.setattr(patch, "LOCKS", (str(lock),))
    assert patch.taken() == ""
    check = f"import fcntl; fcntl.lockf(open({str(lock)!r}, 'r+'), {fcntl.LOCK_EX | fcntl.LOCK_NB})"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
