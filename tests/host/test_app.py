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
    "PrivateDevices": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectKernelModules": "yes",
    "ProtectControlGroups": "yes",
    "RestrictSUIDSGID": "yes",
    "RestrictNamespaces": "yes",
    "LockPersonality": "yes",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "SystemCallArchitectures": "native",
}
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


def processes(host, unit: str) -> list[int]:
    group = properties(host, unit)["ControlGroup"]
    pids = host.check_output(f"cat /sys/fs/cgroup/systemd{group}/cgroup.procs 2>/dev/null || cat /sys/fs/cgroup{group}/cgroup.procs")
    return [int(pid) for pid in pids.split()]


def test_units_run_in_the_sandbox(host, units) -> None:
    for unit in units:
        found = properties(host, unit)
        assert found["ActiveState"] == "active", unit
        assert {name: found[name] for name in SANDBOX} == SANDBOX, unit


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


def test_process_cannot_write_outside_its_folders(host, app, live) -> None:
    pid = properties(host, live)["MainPID"]
    inside = f"nsenter --target {pid} --mount -- runuser -u {app} --"
    release = host.check_output(f"readlink -f /srv/{app}/live/release")
    for folder in (f"{release}/src", f"{release}/venv", f"/srv/{app}/static", "/etc", "/var/lib", "/usr/local/bin", "/home", "/srv"):
        result = host.run(f"{inside} touch {folder}/.redoubt-probe")
        assert result.rc != 0, folder
        assert "Read-only" in result.stderr or "Permission denied" in result.stderr or "No such file" in result.stderr, result.stderr
    # Root in the same view meets the read-only mounts, not only the modes.
    assert "Read-only" in host.run(f"nsenter --target {pid} --mount -- touch {release}/src/.redoubt-probe").stderr


def test_release_belongs_to_root(host, app) -> None:
    release = host.check_output(f"readlink -f /srv/{app}/live/release")
    writable = [f"{release}/src/{path}" for path in host.lab["app_writable_paths"]]
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
    assert ports <= {22, 80, 443}, sockets


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
    for path in (f"/srv/{app}/media", f"/srv/{app}/data", f"/etc/{app}/env"):
        assert "Permission denied" in host.run(f"runuser -u nobody -- ls {path}/").stderr + host.run(f"runuser -u nobody -- cat {path}").stderr, path
    build = f"runuser -u {host.lab['site_build_user']} --"
    for path in (f"/etc/{app}/env", f"/srv/{app}/data/", f"/srv/{app}/media/"):
        assert "Permission denied" in host.run(f"{build} ls -l {path}").stderr + host.run(f"{build} cat {path}").stderr, path


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
    assert shown.splitlines()[-1].split() == ["False", host.lab["app_settings_module"], "True"]


def test_every_migration_is_applied(host, app) -> None:
    assert host.run(f"{app}-manage migrate --check").rc == 0


def test_scheduled_commands_are_due(host, app) -> None:
    for name in host.lab["app_timers"]:
        timer = properties(host, f"{app}-{name}.timer")
        assert timer["ActiveState"] == "active" and timer["UnitFileState"] == "enabled", name
        assert timer["NextElapseUSecRealtime"], name


def test_boot_makes_the_sockets_again(host, app) -> None:
    for colour in ("blue", "green"):
        assert host.service(f"{app}@{colour}.socket").is_enabled
    planned = host.check_output(f"cat /etc/tmpfiles.d/{app}.conf")
    assert f"L+ /run/{app}/live.sock - - - - /srv/{app}/live/sock" in planned
