"""The kernel's audit rules as each kind of host gets them. No container can load them, so what auditctl would refuse is looked for here."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
templates = importlib.import_module("test_backup_templates")

GROUPS = {"web": ["app1"], "db": ["db1"], "backups": ["store1"], "logs": ["store1"]}
# What is there before a rule, and what the grammar of one is (auditctl(8)).
CONTROL = {"-D", "-b 8192", "--backlog_wait_time 0", "-f 1", "-i"}
FIELD = re.compile(r"-F (?:path|dir)=/\S+|-F perm=(?:wa|w|r)(?= )|-F auid(?:>=1000|!=unset)|-F euid=0")
CALLS = {"init_module", "finit_module", "delete_module", "settimeofday", "clock_settime", "adjtimex", "clock_adjtime", "open", "openat", "openat2", "creat",
         "truncate", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"}
# What only 32-bit programs have.
CALLS_32 = {"stime", "clock_settime64", "clock_adjtime64", "truncate64"}


def rules(name: str) -> list[str]:
    text = templates.Host(name, GROUPS).text("logs", "etc/audit/rules.d/60-redoubt.rules")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("name", ["app1", "db1", "store1"])
def test_every_line_is_a_rule(name: str) -> None:
    found = rules(name)
    assert set(found[:5]) == CONTROL
    for line in (line for line in found[5:] if not line.startswith("-a never")):
        match = re.fullmatch(r"-a always,exit -F arch=b(64|32) (.*)-F key=[a-z-]+", line)
        assert match, line
        known = CALLS | CALLS_32 if match[1] == "32" else CALLS
        rest = re.sub(r"-S (\w+) ", lambda call, known=known: "" if call[1] in known else call[0], match[2])
        assert FIELD.sub("", rest).strip() == "", line
        # A rule with neither would be about every call of every process.
        assert "-S " in line or "-F perm=" in line, line
    assert len(found) == len(set(found))


@pytest.mark.parametrize("name", ["app1", "db1", "store1"])
def test_a_rule_for_64_bits_is_one_for_32(name: str) -> None:
    more = re.compile(f"-S (?:{'|'.join(CALLS_32)}) ")
    by_arch = {arch: {more.sub("", line.replace(f"arch={arch} ", "")) for line in rules(name) if f"arch={arch} " in line} for arch in ("b64", "b32")}
    # A rule of calls of theirs alone has nothing left.
    assert by_arch["b64"] == {line for line in by_arch["b32"] if "-S " in line or "-F perm=" in line} != set()
    text = "\n".join(line for line in rules(name) if "arch=b32" in line)
    assert set(re.findall(r"-S (\w+)", text)) & CALLS_32 == (CALLS_32 if name == "app1" else CALLS_32 - {"truncate64"})


def test_what_lets_people_in_what_runs_and_the_clock_are_watched_everywhere() -> None:
    everywhere = {"identities", "sudoers", "sshd", "units", "cron", "modules", "time", "keys", "audit", "redoubt"}
    for host in ("app1", "db1", "store1"):
        keys = {line.rpartition("key=")[2] for line in rules(host)[5:] if "key=" in line}
        assert keys == everywhere | ({"app-secrets", "app-code"} if host == "app1" else set())
    text = "\n".join(rules("app1"))
    for path in ("path=/etc/shadow ", "dir=/etc/sudoers.d ", "dir=/etc/ssh ", "dir=/etc/systemd ", "dir=/usr/lib/systemd/system ", "dir=/usr/lib/systemd/system-generators ", "dir=/run/systemd/system ",
                 "dir=/etc/init.d ", "dir=/etc/notes ", "dir=/srv/notes/releases ",
                 "dir=/etc/redoubt/pki "):
        assert path in text


def test_what_happens_all_the_time_is_not_told() -> None:
    found = rules("app1")
    for arch in ("b64", "b32"):
        # The first rule that fits counts.
        never = f"-a never,exit -F arch={arch} -S unlink -S unlinkat -S rmdir -F dir=/srv/notes/releases"
        assert found.index(never) < min(found.index(line) for line in found if "app-code" in line and arch in line)
    for line in found:
        # Services read their keys at each start; a build writes thousands of files, and a removal takes as many away.
        if "perm=r " in line:
            assert "auid>=1000 -F auid!=unset" in line
        if "app-code" in line:
            assert "-F euid=0" in line and "unlink" not in line
        if "adjtimex" in line:
            assert "auid!=unset" in line


def test_auditds_own_files_are_bounded_and_adms() -> None:
    text = templates.Host("app1", GROUPS).text("logs", "etc/audit/auditd.conf")
    values = dict(re.findall(r"^(\w+) = (.+)$", text, re.MULTILINE))
    assert (values["max_log_file_action"], values["log_group"]) == ("ROTATE", "adm")
    assert int(values["max_log_file"]) * int(values["num_logs"]) <= 64
    assert {values["disk_full_action"], values["disk_error_action"], values["admin_space_left_action"]} == {"SUSPEND"}
