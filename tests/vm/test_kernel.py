"""What the kernel of a virtual machine says arrives at the log server, with the fields of docs/log-fields.md."""

from __future__ import annotations

import re
import secrets

import logged
import pytest

# What is done as root, over SSH and sudo, and the rule that has to tell of it. MARK is in the name of a file, so that it is this and no other time.
WRITES = {
    "identities": "/etc/security/MARK",
    "sudoers": "/etc/sudoers.d/MARK~",
    "sshd": "/etc/ssh/MARK",
    "units": "/etc/systemd/system/MARK",
    "cron": "/etc/cron.d/MARK~",
    "modules": "/etc/modprobe.d/MARK",
    "audit": "/etc/rsyslog.d/MARK",
    "redoubt": "/usr/local/lib/redoubt/MARK",
    "keys": "/etc/redoubt/MARK",
    "app-secrets": "/etc/notes/MARK",
    "app-code": "/srv/notes/releases/MARK",
}
# What has no file of its own: a command, and what its records have in common.
CALLS = {
    "modules": ("modprobe dummy && modprobe -r dummy", 'name="dummy"'),
    "time": ('date --set="@$(date +%s.%N)"', 'key="time"'),
    "keys": ("head -c 0 /etc/redoubt/pki/host.key", 'name="/etc/redoubt/pki/host.key"'),
    "app-secrets": ("head -c 0 /etc/notes/env", 'name="/etc/notes/env"'),
}


def told(answers, key: str, text: str) -> None:
    """One of the records with this text belongs to an event that the rule has told of, done by the administrator who logged in."""
    records = answers.wait("show", "--dataset", "audit", "--host", answers.lab.web, "--text", text, seconds=120)[0]
    for number in {record["event.sequence"] for record in records}:
        event = answers.wait("show", "--dataset", "audit", "--host", answers.lab.web, "--text", f":{number})")[0]
        calls = [record for record in event if record["event.action"] == "syscall" and record.get("audit.key") == key]
        if calls:
            break
    else:
        pytest.fail(f"no rule {key} has told of it: {records}")
    (call,) = calls
    assert (call["host.name"], call["service.name"]) == (answers.lab.web, "auditd")
    assert isinstance(call["event.sequence"], int) and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", call["@timestamp"])
    # Who did it is the one who logged in, whatever sudo made of him.
    login = answers.web.check_output("id -u ops")
    assert f" auid={login} " in call["message"] and " uid=0 " in call["message"]


@pytest.mark.parametrize("key", list(WRITES))
def test_a_change_is_told_of(answers, key: str) -> None:
    mark = f"drill-{secrets.token_hex(6)}"
    path = WRITES[key].replace("MARK", mark)
    answers.web.check_output(f"touch {path} && rm {path}")
    told(answers, key, mark)


@pytest.mark.parametrize("key", list(CALLS))
def test_a_call_is_told_of(answers, key: str) -> None:
    command, text = CALLS[key]
    answers.web.check_output(command)
    told(answers, key, text)


def test_no_record_of_the_audit_has_a_secret(answers, lab) -> None:
    # In a command line, and with a blank, so that all of it is hexadecimal.
    typed = f"drill {secrets.token_hex(12)}"
    answers.web.check_output(f"touch '/etc/security/{typed}' && rm '/etc/security/{typed}'")
    answers.wait("show", "--dataset", "audit", "--host", lab.web, "--text", typed.encode().hex().upper(), seconds=120)
    wanted = {**logged.vault(lab), "typed": typed}
    for name, folder in ((lab.web, "/var/log/audit/"), (lab.groups["logs"][0], f"/var/log/redoubt/{lab.web}/")):
        found = {place: names for place, names in logged.search(lab, name, wanted)["found"].items() if place.startswith(folder)}
        assert {secret for names in found.values() for secret in names} == {"typed"}, found


def test_a_firewalls_drops_are_told_of_and_a_flood_of_them_is_a_sample(answers, lab, stranger) -> None:
    addresses = lab.vars(lab.web)
    began = answers.web.check_output("date +@%s")
    for family in ("lab_ipv4", "lab_ipv6"):
        if not addresses[family]:
            continue
        stranger.run(f"for number in $(seq 40); do timeout 0.1 bash -c 'echo > /dev/tcp/{addresses[family]}/2323'; done")
        records = answers.wait("show", "--dataset", "firewall", "--host", lab.web, "--text", "DPT=2323", seconds=120)[0]
        record = records[-1]
        assert (record["destination.port"], record["network.transport"], record["host.name"]) == (2323, "tcp", lab.web)
        assert {record["source.ip"], record["destination.ip"]} <= {lab.vars(name)[kind] for name in lab.groups["all"] for kind in ("lab_ipv4", "lab_ipv6")}
    # Of eighty, as many as `firewall_log_rate` and its burst let through.
    dropped = answers.web.check_output(f"journalctl --dmesg --since={began} --output=cat | grep -c DPT=2323")
    assert 0 < int(dropped) < 20


def test_apparmor_confines(machine) -> None:
    assert machine.check_output("cat /sys/module/apparmor/parameters/enabled") == "Y"
    assert machine.service("apparmor").is_running
    assert machine.check_output("wc -l </sys/kernel/security/apparmor/profiles") != "0"
