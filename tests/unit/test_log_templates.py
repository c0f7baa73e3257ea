"""What an inventory with a host for logs changes on the others, and what one without leaves as it was."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_backup_templates import ADDRESSES, Host

ROLE = Path(__file__).parents[2] / "roles/log_server"

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


def test_log_files_are_bounded_by_size_on_every_host() -> None:
    for groups in (NONE, GROUPS):
        host = Host("app1", groups, base_log_file_size=123456)
        # Before any other file of the folder.
        assert "\nmaxsize 123456\n" in host.text("base", "etc/logrotate.d/00-redoubt")
        assert {"OnCalendar=", "OnCalendar=hourly"} <= set(host.text("base", "etc/systemd/system/logrotate.timer.d/50-redoubt.conf").splitlines())


def test_of_postgresqls_files_the_newest_stay(tmp_path) -> None:
    path = "etc/systemd/system/logrotate.service.d/50-redoubt-postgres.conf"
    (command,) = [line.partition("=-+")[2] for line in Host("app1", GROUPS).text("postgres", path).splitlines() if line.startswith("ExecStartPre=")]
    words = [word.replace("/var/log/postgresql/json", str(tmp_path)) for word in shlex.split(command)]
    for number in range(60):
        (tmp_path / f"{number}.json").touch()
        os.utime(tmp_path / f"{number}.json", (number, number))
    for _ in range(2):
        subprocess.run(words, check=True)
        assert {int(path.stem) for path in tmp_path.iterdir()} == set(range(10, 60))


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


def test_a_span_is_put_where_its_reader_is_and_over_no_file(tmp_path) -> None:
    program, play = tmp_path / "program", tmp_path / "playbooks/logs.yml"
    program.write_text('#!/bin/sh\nwhile [ "$1" != --to ]; do shift; done\necho "{}" >"$2"\n')
    program.chmod(0o755)
    play.parent.mkdir()
    (play.parent / "fetch.yml").write_text((ROLE / "tasks/fetch.yml").read_text().replace("/usr/local/sbin/redoubt-logs", str(program)).replace("/var/tmp", str(tmp_path)))
    play.write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "vars_files": [str(ROLE / "vars/main.yml")],
                                     "tasks": [{"ansible.builtin.import_tasks": "fetch.yml"}]}]))
    reader = tmp_path / "reader"
    reader.mkdir()

    def fetch(to: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "ANSIBLE_CONFIG": str(tmp_path / "no.cfg"), "ANSIBLE_PYTHON_INTERPRETER": sys.executable, "HOME": str(tmp_path),
                       "ANSIBLE_LOCAL_TEMP": str(tmp_path / "ansible"), "ANSIBLE_REMOTE_TEMP": str(tmp_path / "ansible")}
        command = [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", "-c", "local", "-e", "since=1h", "-e", f"to={to}", play]
        return subprocess.run(command, cwd=reader, env=environment, capture_output=True, text=True, check=False)

    for to, file in (("span.jsonl", reader / "span.jsonl"), ("~/mine.jsonl", tmp_path / "mine.jsonl")):
        done = fetch(to)
        assert done.returncode == 0, done.stdout + done.stderr
        assert file.read_text() == "{}\n" and file.stat().st_mode & 0o777 == 0o600
        file.write_text("kept")
        done = fetch(to)
        assert done.returncode != 0 and f"{file} is there already." in done.stdout + done.stderr and file.read_text() == "kept"
    assert not list(play.parent.glob("*.jsonl")) and not list(tmp_path.glob("redoubt-logs.*"))
