"""What the hosts have to say: the kernel's audit, and who may read the store. Reads only."""

from __future__ import annotations

import itertools
import json
import re

import pytest


@pytest.fixture
def client(host):
    if host.lab["inventory_hostname"] not in host.lab["site_log_clients"]:
        pytest.skip("no host of this inventory receives logs")
    return host


@pytest.fixture
def audited(client):
    if client.run("systemd-detect-virt --quiet --container").rc == 0:
        pytest.skip("audit: a container's kernel takes no rules from it")
    return client


def rules(text: str) -> set[tuple[str, frozenset[str], frozenset[str]]]:
    """What each does, and of which calls and fields: as they are written and as the kernel says them."""
    found = set()
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["-a"]:
            given = [(option, value) for option, value in itertools.pairwise(words) if option in ("-S", "-F")]
            fields = frozenset(re.sub(r"auid!=(-1|4294967295)$", "auid!=unset", value) for option, value in given if option == "-F")
            calls = {call for option, value in given if option == "-S" for call in value.split(",")} - {"all"}
            # auditctl 4 writes out the calls that a permission is about.
            found.add((words[1], frozenset() if any(field.startswith("perm=") for field in fields) else frozenset(calls), fields))
    return found


def test_the_kernel_has_the_rules_of_the_file(audited) -> None:
    wanted, loaded = (rules(audited.check_output(command)) for command in ("cat /etc/audit/rules.d/60-redoubt.rules", "auditctl -l"))
    assert loaded <= wanted
    # What the host does not have is watched from the next load on.
    paths = [[field.split("=")[1] for field in fields if field.startswith(("path=", "dir="))] for *_, fields in wanted - loaded]
    assert all(path and not audited.file(path[0]).exists for path in paths), wanted - loaded
    assert "enabled 1" in audited.check_output("auditctl -s")


def test_auditd_runs_and_the_journal_has_nothing_of_it_twice(audited) -> None:
    assert audited.service("auditd").is_running and audited.service("auditd").is_enabled
    assert audited.check_output("systemctl show --value --property=LoadState systemd-journald-audit.socket") == "masked"
    file = audited.file("/var/log/audit/audit.log")
    assert (file.user, file.group, file.mode) == ("root", "adm", 0o640)


@pytest.mark.hosts("logs")
def test_a_member_of_adm_reads_the_store_and_nobody_else(host) -> None:
    question = "/usr/local/sbin/redoubt-logs show --json --since 5m --dataset sudo"
    answer = host.run(f"cd /; setpriv --reuid=nobody --regid=nogroup --groups=adm {question}")
    assert answer.rc == 0, answer.stderr
    # These tests run by sudo.
    assert all(json.loads(line)["event.dataset"] == "sudo" for line in answer.stdout.splitlines()) and answer.stdout
    refused = host.run(f"cd /; setpriv --reuid=nobody --regid=nogroup --clear-groups {question}")
    assert (refused.rc, refused.stdout) == (2, "") and "is for root and for members of adm: use sudo" in refused.stderr


@pytest.mark.hosts("logs")
def test_every_question_is_answered(host) -> None:
    for question in ("logins", "bans", "sudo", "errors", "slow", "deploys", "show"):
        answer = host.run(f"redoubt-logs {question} --since 10m")
        assert (answer.rc, answer.stderr.replace("Authorised users only. All activity on this system is logged.", "").strip()) == (0, ""), question
