"""What the hosts have to say: the kernel's audit, and who may read the store. Reads only."""

from __future__ import annotations

import json

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


def test_the_kernel_has_the_rules_of_the_file(audited) -> None:
    wanted = [line.split("key=")[1] for line in audited.check_output("cat /etc/audit/rules.d/60-redoubt.rules").splitlines() if line.startswith("-a ")]
    loaded = audited.check_output("auditctl -l")
    assert set(wanted) == {line.rpartition("key=")[2] for line in loaded.splitlines() if "key=" in line}
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
