"""What makes, sends and keeps the backups: it runs, confined, and nothing of it is open to others. Reads only."""

from __future__ import annotations

import json

import pytest
from services import exposure, shown


@pytest.fixture
def client(host):
    if host.lab["inventory_hostname"] not in host.lab["site_backup_clients"]:
        pytest.skip("this host is not backed up")
    return host


@pytest.fixture
def store(host):
    if host.lab["inventory_hostname"] != host.lab["site_backup_host"]:
        pytest.skip("this host keeps no backups")
    return host


@pytest.mark.parametrize("timer", ["redoubt-backup", "redoubt-drill", "redoubt-backup-check"])
def test_timers_of_a_host_wait(client, timer) -> None:
    assert shown(client, f"{timer}.timer", "ActiveState", "UnitFileState") == {"ActiveState": "active", "UnitFileState": "enabled"}
    assert shown(client, f"{timer}.service", "OnFailure", "NeedDaemonReload") == {"OnFailure": f"redoubt-alert@{timer}.service.service", "NeedDaemonReload": "no"}


def test_timers_of_the_store_wait(store) -> None:
    databases = [name for name in store.lab["site_backup_clients"] if name in store.lab["groups"]["db"]]
    for timer in [*(f"redoubt-backup-database@{name}" for name in databases), "redoubt-backup-keep", "redoubt-backup-prune", "redoubt-backup-watch"]:
        assert shown(store, f"{timer}.timer", "ActiveState", "UnitFileState") == {"ActiveState": "active", "UnitFileState": "enabled"}, timer
        assert shown(store, f"{timer}.service", "OnFailure")["OnFailure"] == f"redoubt-alert@{timer}.service.service", timer
    # And of no host that the inventory names no more.
    enabled = store.check_output("cd /etc/systemd/system && ls -d multi-user.target.wants/redoubt-backup-repository@* timers.target.wants/redoubt-backup-database@*")
    assert {path.partition("/")[2] for path in enabled.split()} == {f"redoubt-backup-{unit}" for name in databases
                                                                   for unit in (f"repository@{name}.service", f"database@{name}.timer")}


def test_the_files_are_sent_by_nobody_who_can_write_them(client) -> None:
    found = shown(client, "redoubt-backup.service", "User", "CapabilityBoundingSet", "AmbientCapabilities", "NoNewPrivileges", "ProtectSystem")
    assert found == {"User": f"{client.lab['app_name']}_backup", "CapabilityBoundingSet": "cap_dac_read_search", "AmbientCapabilities": "cap_dac_read_search",
                     "NoNewPrivileges": "yes", "ProtectSystem": "strict"}


@pytest.mark.hosts("db")
@pytest.mark.parametrize("unit", ["pgbackrest.service", "redoubt-backup-send.service"])
def test_what_speaks_for_the_database_is_confined(client, unit) -> None:
    assert shown(client, unit, "ActiveState", "UnitFileState", "User", "CapabilityBoundingSet", "ReadOnlyPaths") == {
        "ActiveState": "active", "UnitFileState": "enabled", "User": "postgres", "CapabilityBoundingSet": "", "ReadOnlyPaths": "/var/lib/postgresql"}
    allowed = shown(client, unit, "IPAddressAllow")["IPAddressAllow"].split()
    assert sorted(address.rpartition("/")[0] or address for address in allowed) == sorted(client.lab["site_backup_addresses"])
    assert exposure(client, unit) <= 1.5


@pytest.mark.hosts("db")
def test_the_log_has_left_the_host(client) -> None:
    status = json.loads(client.check_output("/usr/local/lib/redoubt/backup status"))
    assert not [problem for problem in status["problems"] if "write-ahead log" in problem or "another cluster" in problem], status["problems"]


def test_the_servers_of_the_store_are_confined(store) -> None:
    names = [name for name in store.lab["site_backup_clients"] if name in store.lab["groups"]["db"]]
    for unit, user in {"redoubt-backup-files.service": "restic-rest-server", "redoubt-backup-door.service": "restic-rest-server",
                       **{f"redoubt-backup-repository@{name}.service": f"backup-{name}" for name in names}}.items():
        assert shown(store, unit, "ActiveState", "User", "CapabilityBoundingSet", "ProtectSystem") == {
            "ActiveState": "active", "User": user, "CapabilityBoundingSet": "", "ProtectSystem": "strict"}, unit
        assert exposure(store, unit) <= 1.5, unit


def test_restics_server_only_adds_and_only_behind_its_door(store) -> None:
    pid = shown(store, "redoubt-backup-files.service", "MainPID")["MainPID"]
    words = store.check_output("tr '\\0' ' ' </proc/%s/cmdline", pid).split()
    assert {"--append-only", "--private-repos"} <= set(words)
    assert "--no-auth" not in words
    assert store.check_output("stat -c %s %s", "%U %a", "/run/redoubt-backup-files") == "restic-rest-server 700"
    # Nothing of it on TCP but the door, and nothing of Debian's own units beside it.
    listening = store.check_output("ss --no-header --listening --tcp --numeric --processes")
    assert "restic-rest" not in listening
    for unit in ("restic-rest-server.service", *(["nginx.service"] if store.lab["inventory_hostname"] not in store.lab["groups"]["web"] else [])):
        assert not store.service(unit).is_enabled, unit
        assert not store.service(unit).is_running, unit


def test_a_server_sees_its_own_repository_alone(store) -> None:
    names = [name for name in store.lab["site_backup_clients"] if name in store.lab["groups"]["db"]]
    for name in names:
        pid = shown(store, f"redoubt-backup-repository@{name}.service", "MainPID")["MainPID"]
        assert store.check_output("find /proc/%s/root/var/lib/redoubt-backups -maxdepth 2 -mindepth 1", pid).split() == [
            f"/proc/{pid}/root/var/lib/redoubt-backups/database", f"/proc/{pid}/root/var/lib/redoubt-backups/database/{name}"]


def test_a_server_sees_little_else_that_could_be_read(store) -> None:
    """It opens what its client names, and its client may be somebody else."""
    for name in (name for name in store.lab["site_backup_clients"] if name in store.lab["groups"]["db"]):
        pid = shown(store, f"redoubt-backup-repository@{name}.service", "MainPID")["MainPID"]
        assert store.check_output("cd /proc/%s/root && ls -A boot media mnt opt srv home root 2>/dev/null | grep -v ':$'; true", pid).split() == []
        assert set(store.check_output("find /proc/%s/root/var -type f -not -path '*/redoubt-backups/database/*'", pid).split()) == set()
        assert store.check_output("ls -A /proc/%s/root/etc/redoubt/backup-server", pid).split() == [f"{name}.conf", f"{name}.d"]
        # Neither this host's key, which it has read, nor a way to its memory.
        assert store.check_output("ls -A /proc/%s/root/etc/redoubt/pki", pid).split() == ["ca.pem", "host.pem"]
        assert store.check_output("ls -A /proc/%s/root/proc /proc/%s/root/tmp", pid, pid).split() == [f"/proc/{pid}/root/proc:", f"/proc/{pid}/root/tmp:"]
    pid = shown(store, "redoubt-backup-files.service", "MainPID")["MainPID"]
    assert store.check_output("ls -A /proc/%s/root/etc/redoubt/pki", pid) == ""


def test_what_is_kept_is_roots_alone(store) -> None:
    assert store.check_output("stat -c %s %s", "%U:%G %a", "/var/lib/redoubt-backups/kept") == "root:root 700"


def test_secrets_are_closed(host) -> None:
    for path, wanted in {"/etc/redoubt/backup/files.pass": "root:root 600", "/etc/redoubt/backup-server/files.pass": "root:restic-rest-server 640",
                         "/etc/redoubt/alert.url": "root:root 600"}.items():
        if host.file(path).exists:
            assert host.check_output("stat -c %s %s", "%U:%G %a", path) == wanted, path
    for name in host.check_output("ls /etc/redoubt").split():
        if name == "backup-server":
            for path in host.check_output("ls -d /etc/redoubt/backup-server/*.d/pass.conf").split():
                assert host.check_output("stat -c %s %s", "%U:%G %a", path) == f"root:backup-{path.split('/')[-2][:-2]} 640", path
