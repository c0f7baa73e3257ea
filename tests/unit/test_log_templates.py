"""What an inventory with a host for logs changes on the others, and what one without leaves as it was."""

from __future__ import annotations

import json

import pytest
from test_backup_templates import ADDRESSES, Host

GROUPS = {"web": ["app1"], "db": ["app1"], "logs": ["store1"], "backups": ["store1"]}
FLEET = {"web": ["app1", "app2"], "db": ["db1"], "logs": ["store1"]}
NONE = {"web": ["app1"], "db": ["app1"]}


@pytest.mark.parametrize("groups", [GROUPS, FLEET])
def test_the_log_server_is_reached_by_all_hosts_and_nobody_else(groups) -> None:
    everybody = {address for name in Host("store1", groups)["groups"]["all"] for address in ADDRESSES[name]}
    assert Host("store1", groups).allowed()["8440"] == everybody
    assert "8440" not in Host("app1", groups).allowed()
    unit = Host("store1", groups).text("log_server", "etc/systemd/system/redoubt-log-server.service").splitlines()
    (allow,) = [line for line in unit if line.startswith("IPAddressAllow=")]
    assert set(allow.split("=")[1].split()) == everybody and "IPAddressDeny=any" in unit


def test_the_sender_reaches_the_log_server_alone() -> None:
    unit = Host("app1", GROUPS).text("logs", "etc/systemd/system/redoubt-logs-send.service").splitlines()
    assert {"IPAddressDeny=any", f"IPAddressAllow={' '.join(ADDRESSES['store1'])}"} <= set(unit)
    assert "User=redoubt-logs" in unit and "CapabilityBoundingSet=" in unit


@pytest.mark.parametrize(("name", "wanted"), [("app1", {"nginx.access", "nginx.error", "audit", "packages"}), ("db1", {"postgresql", "audit", "packages"}), ("store1", {"audit", "packages"})])
def test_files_are_read_where_they_are(name, wanted) -> None:
    host = Host(name, FLEET)
    assert {item["dataset"] for item in host["__logs_files"]} == wanted
    text = host.text("logs", "etc/rsyslog.conf")
    assert text.count('type="imfile"') == len(wanted) and "imjournal" not in text and "omrelp" not in text
    # One action, and no queue: what is noted as read is written.
    assert text.count("action(") == 1 and 'main_queue(queue.type="Direct")' in text and "queue.filename" not in text
    assert text.count('maxSubmitAtOnce="1"') == len(wanted)


def test_files_of_the_inventory_are_read_as_well() -> None:
    text = Host("app1", GROUPS, logs_files=[{"path": "/srv/notes/data/*.log", "dataset": "billing"}]).text("logs", "etc/rsyslog.conf")
    assert 'file="/srv/notes/data/*.log" tag="billing"' in text


def test_the_server_knows_each_host_and_its_application() -> None:
    found = Host("store1", FLEET)["__log_server_settings"]
    assert found["hosts"] == {"app1": {"app": "notes", "zone": "Etc/UTC"}, "app2": {"app": "notes", "zone": "Etc/UTC"}, "db1": {"app": "", "zone": "Etc/UTC"},
                              "store1": {"app": "", "zone": "Etc/UTC"}}
    assert found["forward"] == {}
    given = {"host": "siem.test", "ca": "-----BEGIN…"}
    assert Host("store1", FLEET, log_server_forward=given)["__log_server_settings"]["forward"] == {
        "host": "siem.test", "port": 6514, "ca": "/etc/redoubt/log-server/forward.pem"}
    host = Host("store1", FLEET, log_server_forward=given)
    assert json.loads(host["__log_server_files"][0]["content"])["port"] == 8440
    assert host["__log_server_forward_files"][0]["content"] == "-----BEGIN…\n"


def test_postgresql_logs_as_json_where_it_is_shipped_and_as_it_did_elsewhere() -> None:
    text = Host("app1", GROUPS).text("postgres", "_cluster/redoubt.conf")
    assert {"log_destination = 'jsonlog'", "logging_collector = on", "log_file_mode = 0640", "log_parameter_max_length = 0"} <= set(text.splitlines())
    assert "logging_collector" not in Host("app1", NONE).text("postgres", "_cluster/redoubt.conf")
    assert Host("app1", NONE)["__postgres_log_files"] == []


def test_without_a_log_server_nothing_is_shipped() -> None:
    host = Host("app1", NONE)
    assert (host["site_log_host"], host["site_log_clients"], host["site_log_addresses"]) == ("", [], [])
    assert "8440" not in host.allowed()
