"""The application's processes, what they may reach, and who may read what is theirs. Reads only."""

from __future__ import annotations

import re

import pytest

pytestmark = pytest.mark.hosts("web")

SANDBOX = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "ProtectProc": "invisible",
    "ProcSubset": "pid",
    "PrivateTmp": "yes",
    "PrivateMounts": "yes",
    "PrivateDevices": "yes",
    "DevicePolicy": "closed",
    "ProtectClock": "yes",
    "ProtectHostname": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectKernelModules": "yes",
    "ProtectControlGroups": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "RestrictNamespaces": "yes",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "LockPersonality": "yes",
    "RemoveIPC": "yes",
    "KeyringMode": "private",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "SystemCallArchitectures": "native",
}
# System calls of the groups that the filter leaves out, one of each.
REFUSED_CALLS = {"mount", "setuid", "ptrace", "bpf", "init_module", "reboot", "settimeofday", "swapon", "setrlimit", "sched_setscheduler"}
# A unit that answers requests of strangers: DESIGN's bound for the exposure that systemd computes, 0 best, 10 worst.
EXPOSURE = 1.5


@pytest.fixture(scope="module")
def app(host):
    """The application's name."""
    return host.lab["app_name"]


@pytest.fixture(scope="module")
def live(host, app):
    """The unit of the live colour."""
    colour = host.check_output(f"basename $(readlink /srv/{app}/live)")
    return f"{app}@{colour}.service"


@pytest.fixture(scope="module")
def units(host, app, live):
    """Every unit that runs the project's code all the time."""
    return [live, *(f"{app}-{name}.service" for name in host.lab["app_processes"])]


def properties(host, unit: str) -> dict[str, str]:
    """The live properties of a unit, by name; prints its journal when it does not run."""
    found = dict(line.split("=", 1) for line in host.check_output(f"systemctl show --all {unit}").splitlines() if "=" in line)
    if found["ActiveState"] != "active":
        print(host.check_output(f"journalctl --no-pager --lines=40 --unit={unit}"))
    return found


def timers(host) -> dict:
    """Of several hosts, the first one runs them."""
    return host.lab["app_timers"] if host.lab["inventory_hostname"] == host.lab["site_web_hosts"][0] else {}


def processes(host, unit: str) -> list[int]:
    group = properties(host, unit)["ControlGroup"]
    pids = host.check_output(f"cat /sys/fs/cgroup/systemd{group}/cgroup.procs 2>/dev/null || cat /sys/fs/cgroup{group}/cgroup.procs")
    return [int(pid) for pid in pids.split()]


def test_units_run_in_the_sandbox(host, app, units) -> None:
    listening = {f"{app}-{name}.service" for name, process in host.lab["app_processes"].items() if process.get("listen")}
    scheduled = [f"{app}-{name}.service" for name in timers(host)]
    for unit in [*units, *scheduled]:
        found = properties(host, unit)
        assert unit in scheduled or found["ActiveState"] == "active", unit
        assert {name: found[name] for name in SANDBOX} == SANDBOX, unit
        calls = set(found["SystemCallFilter"].split())
        assert "read" in calls and not calls & REFUSED_CALLS, unit
        # nginx writes to a socket through its group.
        assert found["UMask"] == ("0007" if unit in listening else "0027"), unit
        assert found["User"] == found["Group"] == app, unit
        assert found["MemoryHigh"] != "infinity", unit


def test_processes_have_lost_every_privilege(host, app, units) -> None:
    uid = host.user(app).uid
    for unit in units:
        pids = processes(host, unit)
        assert pids, unit
        paths = " ".join(f"/proc/{pid}/status" for pid in pids)
        for text in host.check_output(f"cat {paths}").split("Name:")[1:]:
            status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
            assert set(status["Uid"].split()) == {str(uid)}, unit
            assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0, unit
            assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2", unit


def test_exposure_is_low(host, units) -> None:
    for unit in units:
        verdict = host.check_output(f"systemd-analyze security --no-pager {unit} | tail -n 1")
        score = float(re.search(r": ([0-9.]+) ", verdict)[1])
        print(verdict.strip())
        assert score <= EXPOSURE, verdict


def test_process_cannot_write_outside_its_folders(host, app, units) -> None:
    release = host.check_output(f"readlink -f /srv/{app}/live/release")
    folders = (f"{release}/src", f"{release}/venv", f"/srv/{app}/static", f"/srv/{app}", "/etc", f"/etc/{app}", "/var/lib", "/var/log",
               "/usr/local/bin", "/home", "/root", "/srv", "/boot")
    for unit in units:
        # As root: what stops it are the read-only mounts, not only the modes.
        inside = f"nsenter --target {properties(host, unit)['MainPID']} --mount --"
        for folder in folders:
            result = host.run(f"{inside} touch {folder}/.redoubt-probe")
            host.run(f"rm -f {folder}/.redoubt-probe")
            assert "Read-only file system" in result.stderr, f"{unit} in {folder}: {result.stderr}"
        # systemd leaves /run to the modes.
        for folder in ("/run", f"/run/{app}", "/run/systemd", *(["/run/postgresql"] if "db" in host.lab["group_names"] else [])):
            result = host.run(f"{inside} runuser -u {app} -- touch {folder}/.redoubt-probe")
            host.run(f"rm -f {folder}/.redoubt-probe")
            assert "Permission denied" in result.stderr, f"{unit} in {folder}: {result.stderr}"
        assert host.run(f"{inside} ls -A /home /root /run/user | grep -v :").stdout.split() == [], unit


def test_release_belongs_to_root(host, app) -> None:
    release = host.check_output(f"readlink -f /srv/{app}/live/release")
    static = host.lab["app_static_root"]
    writable = [f"{release}/static{path.removeprefix(static)}" if path.startswith(f"{static}/") else f"{release}/src/{path}"
                for path in host.lab["app_writable_paths"]]
    pruned = "".join(f" -path {path} -prune -o" for path in writable)
    assert host.check_output(f"find {release}{pruned} ( ! -user root -o -perm /022 ) ! -type l -print".replace("(", r"\(").replace(")", r"\)")) == ""
    assert host.run(f"runuser -u {app} -- cat {release}/manifest.json").rc == 0


def test_process_runs_the_live_release(host, app, units) -> None:
    release = host.check_output(f"readlink -f /srv/{app}/live/release")
    for unit in units:
        paths = " ".join(f"/proc/{pid}/cwd" for pid in processes(host, unit))
        assert all(folder.startswith(f"{release}/") for folder in host.check_output(f"readlink {paths}").split()), unit


def test_nothing_of_the_application_listens_on_tcp(host, app) -> None:
    sockets = host.check_output("ss --no-header --listening --tcp --udp --numeric --processes")
    owners = set(re.findall(r'users:\(\("([^"]+)"', sockets))
    assert not owners & {"gunicorn", "python", "python3", "uvicorn", "celery", "redis-server", "postgres"}, sockets
    ports = {int(line.split()[4].rsplit(":", 1)[1]) for line in sockets.splitlines() if line.startswith("tcp")}
    # pgBackRest, for the host of the backups alone.
    backups = {host.lab["site_backup_database_port"]} if host.lab["site_backup_host"] else set()
    assert ports <= {22, 80, 443} | backups, sockets


def test_sockets_are_for_nginx_alone(host, app, live) -> None:
    path = f"/run/{app}/live.sock"
    probe = f"import socket; socket.socket(socket.AF_UNIX).connect('{path}')"
    assert host.run(f'runuser -u www-data -- python3 -c "{probe}"').rc == 0
    for user in ("nobody", app):
        assert "PermissionError" in host.run(f'runuser -u {user} -- python3 -c "{probe}"').stderr, user


def test_secrets_are_roots(host, app, lab) -> None:
    for path in (f"/etc/{app}/env", f"/etc/{app}/migrate.env", f"/etc/{app}/build.env", f"/srv/{app}/live/env"):
        found = host.file(path)
        assert (found.user, found.group, oct(found.mode)) == ("root", "root", "0o600"), path
    secrets = [value for value in host.lab["app_secret_env"].values() if len(str(value)) >= 12]
    assert secrets
    # Shown to nobody by systemd, on no command line, and in no file of the release or of /etc that others can read.
    seen = host.check_output(f"systemctl show '{app}*'; systemctl cat '{app}*'; cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    readable = host.check_output(f"find /etc /srv/{app} /usr/local /var/lib/redoubt -type f -perm /o=r -size -1024k -not -path '*/venv/*' -print0 2>/dev/null "
                                 "| xargs -0 cat 2>/dev/null | tr -cd '[:print:]\\n'")
    for secret in secrets:
        assert str(secret) not in seen
        assert str(secret) not in readable


def test_files_of_the_application_are_closed_to_others(host, app) -> None:
    for user in ("nobody", host.lab["site_build_user"], host.lab["site_migrate_user"]):
        for folder in (host.lab["app_media_root"], host.lab["app_data_root"]):
            for command in (f"ls {folder}/", f"stat {folder}/.", f"touch {folder}/.redoubt-probe"):
                done = host.run(f"runuser -u {user} -- {command}")
                assert done.rc != 0 and "Permission denied" in done.stderr, f"{user}: {command}"
        for name in ("env", "migrate.env", "build.env"):
            done = host.run(f"runuser -u {user} -- cat /etc/{app}/{name}")
            assert done.rc != 0 and "Permission denied" in done.stderr, f"{user}: {name}"


def test_accounts_cannot_log_in(host, app) -> None:
    for name in (app, host.lab["site_migrate_user"], host.lab["site_build_user"]):
        user = host.user(name)
        assert user.shell.endswith("nologin"), name
        assert user.uid < 1000, name
        assert user.groups == [name], name
        assert host.check_output(f"passwd --status {name}").split()[1] in ("L", "LK"), name


def test_settings_as_the_process_has_them(host, app) -> None:
    shown = host.check_output(f"{app}-manage shell -v 0 -c "
                              "'from django.conf import settings as s; print(s.DEBUG, s.SETTINGS_MODULE, len(s.SECRET_KEY) >= 50)'")
    module = host.lab["app_settings_module"] if host.lab.get("app_guard", "enforce") == "off" else "redoubt_guard.settings"
    assert shown.splitlines()[-1].split() == ["False", module, "True"]


def test_every_migration_is_applied(host, app) -> None:
    assert host.run(f"{app}-manage migrate --check").rc == 0


def test_scheduled_commands_are_due(host, app) -> None:
    for name in timers(host):
        timer = properties(host, f"{app}-{name}.timer")
        assert timer["ActiveState"] == "active" and timer["UnitFileState"] == "enabled", name
        assert timer["NextElapseUSecRealtime"], name


def test_what_is_due_at_a_time_is_due_on_one_host(host, app) -> None:
    here = host.run(f"systemctl list-unit-files --no-legend --plain '{app}-*.timer'").stdout.split()
    assert {name for name in here if name.endswith(".timer")} == {f"{app}-{name}.timer" for name in timers(host)}


def test_boot_makes_the_sockets_again(host, app) -> None:
    for colour in ("blue", "green"):
        assert host.service(f"{app}@{colour}.socket").is_enabled
    planned = host.check_output(f"cat /etc/tmpfiles.d/{app}.conf").splitlines()
    assert f"L+ /run/{app}/live.sock - - - - /srv/{app}/live/sock" in planned
    for name, process in host.lab["app_processes"].items():
        assert (f"d /run/{app}/{name} 2750 {app} www-data" in planned) == process.get("listen", False), name
