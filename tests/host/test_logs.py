"""What collects and sends the logs, and what receives them: it runs, confined, and what is said here is on the log server. Reads only."""

from __future__ import annotations

import datetime
import json
import time

import pytest
from services import exposure, shown


@pytest.fixture
def client(host):
    if host.lab["inventory_hostname"] not in host.lab["site_log_clients"]:
        pytest.skip("no host of this inventory receives logs")
    return host


@pytest.mark.parametrize("unit", ["rsyslog.service", "redoubt-logs-collect.service", "redoubt-logs-send.service"])
def test_what_ships_runs_as_nobody_of_importance(client, unit) -> None:
    found = shown(client, unit, "ActiveState", "UnitFileState", "User", "CapabilityBoundingSet", "NoNewPrivileges", "ProtectSystem", "NeedDaemonReload")
    assert found == {"ActiveState": "active", "UnitFileState": "enabled", "User": "redoubt-logs", "CapabilityBoundingSet": "", "NoNewPrivileges": "yes",
                     "ProtectSystem": "strict", "NeedDaemonReload": "no"}
    assert exposure(client, unit) < 2


@pytest.mark.parametrize("unit", ["rsyslog.service", "redoubt-logs-collect.service"])
def test_who_collects_speaks_to_nobody(client, unit) -> None:
    found = shown(client, unit, "PrivateNetwork", "RestrictAddressFamilies", "InaccessiblePaths")
    assert found == {"PrivateNetwork": "yes", "RestrictAddressFamilies": "AF_UNIX", "InaccessiblePaths": f"-{client.lab['site_pki']}"}
    assert client.run("ss --no-header --listening --numeric --processes --tcp --udp | grep rsyslogd").rc == 1


def test_the_sender_reaches_the_log_server_alone(client) -> None:
    allowed = shown(client, "redoubt-logs-send.service", "IPAddressAllow")["IPAddressAllow"].split()
    assert {address.split("/")[0] for address in allowed} == set(client.lab["site_log_addresses"])


def test_the_watch_waits(client) -> None:
    assert shown(client, "redoubt-logs-watch.timer", "ActiveState", "UnitFileState") == {"ActiveState": "active", "UnitFileState": "enabled"}
    assert shown(client, "redoubt-logs-watch.service", "OnFailure") == {"OnFailure": "redoubt-alert@redoubt-logs-watch.service.service"}


def test_what_waits_is_acknowledged_soon(client) -> None:
    deadline = time.monotonic() + 30
    while True:
        state = json.loads(client.check_output("/usr/local/lib/redoubt/logs status"))
        if state["waiting"] < 100_000 and not state["halted"] and time.time() - state["acknowledged"] < 3600:
            break
        assert time.monotonic() < deadline, state
        time.sleep(1)
    assert state["limit"] == client.lab.get("logs_spool_max", 2 << 30)


def test_the_spool_is_nobodys_business(client) -> None:
    for path in ("/var/spool/redoubt-logs", "/var/lib/redoubt-logs"):
        assert client.check_output("stat --format='%%U %%a' %s", path) == "redoubt-logs 700"


def test_the_configuration_is_valid_and_the_only_one(client) -> None:
    assert client.run("rsyslogd -N1 -f /etc/rsyslog.conf").rc == 0
    # What the package writes where nobody configures it.
    assert "/var/log/syslog" not in client.check_output("cat /etc/rsyslog.conf")


def test_the_journal_drops_nothing_and_copies_nothing(client) -> None:
    said = client.check_output("systemd-analyze --no-pager cat-config systemd/journald.conf")
    assert "RateLimitIntervalSec=0" in said.splitlines() and "ForwardToSyslog=no" in said.splitlines()


def test_local_logs_are_read_by_administrators_only(client) -> None:
    """Of what writes into /var/log. Which packages there are, and who logged in when, is no secret on a Debian host."""
    usual = ["wtmp*", "lastlog*", "alternatives.log*", "dpkg.log*", "bootstrap.log", "faillog", "README"]
    names = " ".join(f"! -name '{name}'" for name in usual)
    # In a folder that others may not enter, a file's own mode says nothing.
    found = client.check_output(f"find /var/log -xdev -type d ! -perm /o=x -prune -o -type f -perm /o=r {names} ! -path '/var/log/apt/*' -print").split()
    assert found == []


# --- The log server --------------------------------------------------------------------------------------------------


@pytest.mark.hosts("logs")
def test_the_server_is_confined(host) -> None:
    found = shown(host, "redoubt-log-server.service", "ActiveState", "UnitFileState", "User", "CapabilityBoundingSet", "NoNewPrivileges", "ProtectSystem",
                  "NeedDaemonReload", "ReadWritePaths")
    assert found == {"ActiveState": "active", "UnitFileState": "enabled", "User": "redoubt-log-server", "CapabilityBoundingSet": "", "NoNewPrivileges": "yes",
                     "ProtectSystem": "strict", "NeedDaemonReload": "no", "ReadWritePaths": "/var/log/redoubt"}
    assert exposure(host, "redoubt-log-server.service") < 2
    allowed = shown(host, "redoubt-log-server.service", "IPAddressAllow")["IPAddressAllow"].split()
    wanted = {address for name in host.lab["site_log_clients"] for address in host.lab["site_addresses"][name]}
    assert {address.split("/")[0] for address in allowed} == wanted


@pytest.mark.hosts("logs")
def test_timers_of_the_server_wait(host) -> None:
    for timer in ("redoubt-log-keep", "redoubt-log-watch"):
        assert shown(host, f"{timer}.timer", "ActiveState", "UnitFileState") == {"ActiveState": "active", "UnitFileState": "enabled"}
        assert shown(host, f"{timer}.service", "OnFailure") == {"OnFailure": f"redoubt-alert@{timer}.service.service"}


@pytest.mark.hosts("logs")
def test_every_host_has_its_records_and_only_administrators_read_them(host) -> None:
    root = "/var/log/redoubt"
    assert host.check_output("stat --format='%%U:%%G %%a' %s", root) == "redoubt-log-server:adm 2750"
    assert set(host.check_output("ls %s", root).split()) >= set(host.lab["site_log_clients"])
    wrong = r"\( ! -user redoubt-log-server -o ! -group adm -o -type f ! -perm 640 -o -type d ! -perm 2750 \)"
    assert host.check_output(f"find %s -name lost+found -prune -o {wrong} -print", root) == ""


@pytest.mark.hosts("logs")
def test_what_a_host_says_is_there_under_its_name(host, lab) -> None:
    for name in host.lab["site_log_clients"]:
        # The newest that is there: this test's own way in.
        said = json.loads(lab.host(name).check_output("journalctl --lines=1 --output=json --identifier=sudo --no-pager"))
        seconds, micros = divmod(int(said["__REALTIME_TIMESTAMP"]), 1_000_000)
        moment = f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%dT%H:%M:%S}.{micros:06}Z"
        deadline = time.monotonic() + 30
        while not (found := host.run("grep --no-filename --fixed-strings %s /var/log/redoubt/%s/*.jsonl", f'"@timestamp": "{moment}"', name).stdout):
            assert time.monotonic() < deadline, (name, said)
            time.sleep(1)
        record = json.loads(found.splitlines()[0])
        assert (record["host.name"], record["event.dataset"], record["message"]) == (name, "sudo", said["MESSAGE"])


def test_the_port_is_open_to_hosts_that_ship_and_to_nobody_else(client, lab) -> None:
    server = lab.host(client.lab["site_log_host"])
    rule = [line for line in server.check_output("nft list chain inet redoubt input").splitlines() if str(client.lab["site_log_port"]) in line]
    assert rule and all("saddr" in line for line in rule)
