"""Looks at a host's security updates and what they ask for, installs them, and restarts what still runs old code. Prints one JSON object.

    look        what is pending, held, and runs old code, whether a boot is due, which vulnerabilities are known; and what stands in the way
    install     what unattended-upgrades may install by itself, by unattended-upgrades itself
    restart     units, in an order that costs least; nginx by handing its sockets on
    well        whether all units run and the site answers, within a time
    leave       note that this host is out of the load balancer's list
    back        forget that

It comes over standard input and leaves nothing on the host but that note.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.machinery
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

TOOLS = "/usr/local/lib/redoubt"
UPGRADES = "/usr/bin/unattended-upgrade"
LOCKS = ("/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock", "/var/cache/apt/archives/lock", "/var/lib/apt/lists/lock")
# Until the host is back in the list, however many runs and boots that takes.
OUT = "/var/lib/redoubt/patch-drained"
MEGABYTE = 1 << 20
# Beside what the packages themselves take: logs, dpkg's own copies, a new initrd.
SPARE = 200 * MEGABYTE
# What a restart would hang up on, take the way in with it, or do a second time: old until the next boot.
FOR_A_BOOT = re.compile(r"(dbus|dbus-broker|systemd-logind|networking|NetworkManager|systemd-networkd|wpa_supplicant|rc-local)\.service|(serial-|console-)?getty@.*|user@.*")


class Stopped(Exception):
    """A sentence: what stands in the way, and what to do."""


def run(*words: str, timeout: float = 3600, **environment: str) -> subprocess.CompletedProcess:
    # The last of `environment` is what dpkg and debconf must not ask anybody.
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1", "LC_ALL": "C.UTF-8", **environment}
    return subprocess.run(words, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout, check=False)


def last_line(*texts: str) -> str:
    lines = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    told = [line for line in lines if re.match(r"(E|error|ERROR|dpkg: error)\b", line)]
    return (told or lines or ["it said nothing"])[-1].rstrip(".")


# --- Is the host well? -----------------------------------------------------------------------------------------------


def shown(text: str) -> Iterable[dict[str, str]]:
    for block in text.strip().split("\n\n"):
        yield dict(line.split("=", 1) for line in block.splitlines() if "=" in line)


def ill_units(units: Iterable[dict[str, str]]) -> list[str]:
    """Of units as `systemctl show` prints them: those that have failed, and those that were to run and do not."""
    found = []
    for unit in units:
        state, name = unit.get("ActiveState", ""), unit.get("Id", "")
        wanted = unit.get("UnitFileState", "").startswith("enabled") and unit.get("ConditionResult") == "yes"
        if state == "failed":
            found.append(f"{name} has failed")
        elif wanted and state not in ("active", "activating", "reloading") and unit.get("Type") != "oneshot":
            found.append(f"{name} is enabled and does not run")
    return found


def ill(app: dict | None, timeout: float) -> list[str]:
    answer = run("systemctl", "show", "--all", "--property=Id,ActiveState,UnitFileState,ConditionResult,Type", "*.service", "*.socket", "*.timer")
    found = ill_units(shown(answer.stdout)) if answer.returncode == 0 else [f"systemctl does not answer ({last_line(answer.stderr)})"]
    if app and not found:
        sys.path.insert(0, TOOLS)
        import release_steps

        app["probe"]["timeout"] = max(5, min(timeout, app["probe"]["timeout"]))
        live = Path(app["root"], "live")
        try:
            if not live.is_symlink():
                raise release_steps.Refused("no release is live")
            release_steps.probe(app, os.path.basename(os.readlink(live)))
            release_steps.probe(app, "")
        except release_steps.Refused as error:
            found.append(str(error))
    return found


def well(app: dict | None, timeout: float) -> list[str]:
    """What is still wrong when the time is over, and was at the look before: each hour rsyslog is away for a second."""
    deadline = time.monotonic() + timeout
    found = ill(app, timeout)
    while found and time.monotonic() < deadline:
        time.sleep(2)
        now = ill(app, deadline - time.monotonic())
        found = [text for text in now if text in found] or now
    return found


# --- dpkg ------------------------------------------------------------------------------------------------------------


def holder(path: str) -> str:
    """Who has the lock of a file, by the kernel's own list."""
    inode = os.stat(path).st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if "->" not in words and words[5].endswith(f":{inode}"):
            try:
                return f"{Path('/proc', words[4], 'comm').read_text().strip()} (process {words[4]})"
            except OSError:
                break
    return "another program"


def taken() -> str:
    """The first lock that somebody else has."""
    for path in LOCKS:
        try:
            with open(path, "r+") as file:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            continue
        except OSError:
            return path
    return ""


def wait_for_locks(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while path := taken():
        if time.monotonic() >= deadline:
            raise Stopped(f"{holder(path)} has had the lock {path} for {seconds:.0f} seconds (patch_lock_timeout): wait until it is done, or see what it "
                          "waits for (`systemctl status apt-daily-upgrade`), and run this again")
        time.sleep(2)


def half_configured() -> str:
    """The packages that dpkg has begun with and not finished."""
    answer = run("dpkg-query", "--show", "--showformat=${db:Status-Abbrev} ${Package}\\n")
    rows = (line.split() for line in answer.stdout.splitlines())
    return ", ".join(words[-1] for words in rows if words[0][1:2] not in ("i", "c", "n") or words[0][2:3] == "R")


def check_dpkg() -> None:
    if broken := half_configured() or ("its own list" if any(Path("/var/lib/dpkg/updates").iterdir()) else ""):
        raise Stopped(f"dpkg was interrupted and has not finished with {broken}: run `dpkg --configure -a` on the host, mend what it complains of, and run this again")


def room(needs: dict[str, int], usage=shutil.disk_usage) -> None:
    """Refuse to begin what the disk cannot hold. `needs` are bytes by folder; folders of one file system share it."""
    wanted: dict[int, tuple[list[str], int]] = {}
    for path, size in needs.items():
        if os.path.isdir(path):
            paths, total = wanted.setdefault(os.stat(path).st_dev, ([], 0))
            wanted[os.stat(path).st_dev] = ([*paths, path], total + size)
    for paths, size in wanted.values():
        free = usage(paths[0]).free
        if free < size:
            raise Stopped(f"{' and '.join(paths)} {'has' if len(paths) == 1 else 'have'} {free // MEGABYTE} MB left, and the updates take {-(-size // MEGABYTE)} MB: "
                          "make room (`apt-get clean`, `apt-get autoremove`, `journalctl --vacuum-size=200M`), and run this again")


def upgrades():
    """unattended-upgrades as a module: which origins it may take from is for it to say."""
    sys.dont_write_bytecode = True
    loader = importlib.machinery.SourceFileLoader("unattended_upgrade", UPGRADES)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def pending() -> tuple[list[dict[str, str]], list[str], dict[str, int]]:
    """What is to be installed, what would be but is held by somebody, and the room it takes."""
    import apt
    import apt_pkg

    judge = upgrades()
    allowed = judge.get_allowed_origins()
    cache = apt.Cache()
    found, held = [], []
    for package in cache:
        if not package.is_installed:
            continue
        newer = [version for version in package.versions if version > package.installed and version.policy_priority >= 0
                 and any(judge.is_allowed_origin(origin, allowed) for origin in version.origins)]
        if newer and package._pkg.selected_state == apt_pkg.SELSTATE_HOLD:
            held.append(f"{package.name} is held at {package.installed.version}, which {max(newer).version} mends: it stays (`apt-mark unhold {package.name}` lets it come)")
        elif newer:
            package.candidate = max(newer)
            package.mark_install(auto_fix=False, from_user=False)
            found.append({"name": package.name, "from": package.installed.version, "to": max(newer).version})
    needs = {"/var/cache/apt/archives": cache.required_download + 10 * MEGABYTE, "/usr": max(cache.required_space, 0) + SPARE}
    if any(each["name"].startswith("linux-image") for each in found):
        needs["/boot"] = 150 * MEGABYTE
    return sorted(found, key=lambda each: each["name"]), sorted(held), needs


def install(seconds: float) -> list[str]:
    """Let unattended-upgrades do what it does at night; return what was installed."""
    before = {each["name"]: each for each in pending()[0]}
    deadline = time.monotonic() + seconds
    while True:
        wait_for_locks(max(0, deadline - time.monotonic()))
        answer = run(UPGRADES, "--verbose")
        # It looks for the lock itself, and somebody may have been quicker.
        if "already taken" not in answer.stdout + answer.stderr or time.monotonic() >= deadline:
            break
        time.sleep(2)
    check_dpkg()
    if answer.returncode:
        raise Stopped(f"unattended-upgrades ended with {answer.returncode}: {last_line(answer.stdout, answer.stderr)}. See /var/log/unattended-upgrades on the host, and run this again")
    left = {each["name"] for each in pending()[0]}
    return [f"{name} {each['from']} to {each['to']}" for name, each in before.items() if name not in left]


# --- What runs old code ----------------------------------------------------------------------------------------------


def ending(units: Iterable[dict[str, str]]) -> set[str]:
    """Of units as `systemctl show` prints them, what runs to its end: a backup, a scheduled command, a step of a deploy. A restart would cut it off, and begin it again."""
    return {unit["Id"] for unit in units if unit.get("Type") == "oneshot" or unit.get("Transient") == "yes"}


def old_code(text: str, app: str, ends: Callable[[list[str]], set[str]]) -> dict:
    """What `needrestart -b` says: units to restart, whether the web processes are among them, what waits for a boot, and what for its own end."""
    fields = [line.split(": ", 1) for line in text.splitlines() if line.startswith("NEEDRESTART-") and ": " in line]
    values = dict(fields)
    units = sorted({value.strip() for key, value in fields if key == "NEEDRESTART-SVC"})
    web = re.compile(rf"{re.escape(app)}@(blue|green)\.service") if app else re.compile(r"(?!)")
    reboot = ""
    if values.get("NEEDRESTART-KSTA", "0").strip() in ("2", "3"):
        reboot = f"kernel {values.get('NEEDRESTART-KCUR', '?')} runs, and {values.get('NEEDRESTART-KEXP', '?')} is installed"
    others = [unit for unit in units if not FOR_A_BOOT.fullmatch(unit) and not web.fullmatch(unit)]
    to_its_end = ends(others)
    return {"restart": [unit for unit in others if unit not in to_its_end], "web": any(map(web.fullmatch, units)),
            "waiting": [unit for unit in units if FOR_A_BOOT.fullmatch(unit)], "ending": sorted(to_its_end), "reboot": reboot}


def services(app: str) -> dict:
    if not shutil.which("needrestart"):
        return {**old_code("", app, lambda units: set()), "restart_unknown": "needrestart is not installed yet; a run without --check does that"}
    answer = run("needrestart", "-b", timeout=300)
    if answer.returncode or "NEEDRESTART-VER" not in answer.stdout:
        raise Stopped(f"needrestart does not say what runs old code: {last_line(answer.stdout, answer.stderr)}. Run `needrestart -b` on the host")

    def ends(units: list[str]) -> set[str]:
        if not units:
            return set()
        answer = run("systemctl", "show", "--property=Id,Type,Transient", *units)
        if answer.returncode:
            raise Stopped(f"systemctl does not say what kind of units they are that run old code: {last_line(answer.stderr)}")
        return ending(shown(answer.stdout))

    found = old_code(answer.stdout, app, ends)
    if not found["reboot"] and os.path.exists("/run/reboot-required"):
        asked = Path("/run/reboot-required.pkgs")
        names = sorted(set(asked.read_text().split())) if asked.exists() else []
        found["reboot"] = f"{', '.join(names) or 'an update'} asked for it"
    return found


def rank(unit: str) -> int:
    """The database before what asks it, and what visitors meet last."""
    order = ("systemd-manager", "postgresql", "redis", "", "nginx")
    return next((number for number, name in enumerate(order) if name and unit.startswith(name)), 3)


def restart(units: list[str]) -> None:
    for unit in sorted(units, key=lambda unit: (rank(unit), unit)):
        if unit == "nginx.service":
            hand_nginx_on()
            continue
        words = ("daemon-reexec",) if unit == "systemd-manager" else ("restart", unit)
        answer = run("systemctl", *words)
        if answer.returncode:
            raise Stopped(f"`systemctl {' '.join(words)}` failed: {last_line(answer.stderr)}. `journalctl -u {unit}` on the host says why")


def main_pid(unit: str) -> int:
    return int(run("systemctl", "show", "--property=MainPID", "--value", unit).stdout.strip() or 0)


def hand_nginx_on(pid_file: str = "/run/nginx.pid") -> None:
    """A new nginx on the same sockets, then the old one ends what it is at: nobody's connection is refused meanwhile."""
    old = main_pid("nginx.service")
    if not old:
        raise Stopped("nginx.service does not run: `journalctl -u nginx` on the host says why")
    os.kill(old, signal.SIGUSR2)
    deadline = time.monotonic() + 15
    while not (os.path.exists(f"{pid_file}.oldbin") and Path(pid_file).exists() and Path(pid_file).read_text().strip() not in ("", str(old))):
        if time.monotonic() >= deadline:
            raise Stopped("nginx has not started its new program beside the old one, which goes on: `nginx -t` and /var/log/nginx/error.log on the host say why")
        time.sleep(0.1)
    # The new workers are there by now or a moment later; what comes until then waits in the sockets they share.
    time.sleep(1)
    os.kill(old, signal.SIGQUIT)
    deadline = time.monotonic() + 60
    while os.path.exists(f"/proc/{old}"):
        if time.monotonic() >= deadline:
            # Websockets stay open for hours.
            os.kill(old, signal.SIGTERM)
            deadline += 30
        time.sleep(0.2)


# --- Known vulnerabilities -------------------------------------------------------------------------------------------


def count_cves(text: str) -> dict[str, int]:
    """Of debsecan's lines, how many vulnerabilities there are, and how many of them an update mends."""
    rows = [re.match(r"((?:CVE|TEMP)-\S+) \S+(?: \((.*)\))?$", line) for line in text.splitlines()]
    names = {row[1] for row in rows if row}
    return {"known": len(names), "mended": len({row[1] for row in rows if row and "fixed" in (row[2] or "").split(", ")})}


def cves(source: str) -> dict:
    if not shutil.which("debsecan"):
        return {"unknown": "debsecan is not installed yet; a run without --check does that"}
    codename = next(line.partition("=")[2] for line in Path("/etc/os-release").read_text().splitlines() if line.startswith("VERSION_CODENAME="))
    try:
        answer = run("debsecan", "--suite", codename, "--source", source, timeout=90)
    except subprocess.TimeoutExpired:
        return {"unknown": f"{source} has not answered within 90 seconds (patch_cve_source)"}
    if answer.returncode:
        return {"unknown": f"{source} gave nothing ({last_line(answer.stderr)}; patch_cve_source)"}
    return count_cves(answer.stdout)


# --- The whole -------------------------------------------------------------------------------------------------------


def look(app: dict | None, name: str, lock: float, source: str, update: bool) -> dict:
    wait_for_locks(lock)
    check_dpkg()
    if update:
        answer = run("apt-get", "--quiet", "--option=APT::Update::Error-Mode=any", "update")
        if answer.returncode:
            raise Stopped(f"the lists of packages cannot be fetched ({last_line(answer.stderr, answer.stdout)}): see that the host reaches base_apt_security_mirror, and run this again")
    found, held, needs = pending()
    if found:
        room(needs)
    return {"pending": found, "held": held, **services(name), **({"cves": cves(source)} if source else {})}


def main() -> int:
    parser = argparse.ArgumentParser(prog="patch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lock", type=float, default=600)
    parser.add_argument("--well", type=float, default=0, help="seconds that the host has to be well, before anything else is done")
    parser.add_argument("--app", default="", help="the application's release.json, on a host that serves it")
    parser.add_argument("--cves", default="")
    parser.add_argument("--update", action="store_true")
    parser.add_argument("step", choices=["look", "install", "restart", "well", "leave", "back"])
    parser.add_argument("units", nargs="*")
    options = parser.parse_args()
    answer: dict = {}
    try:
        app = json.loads(Path(options.app).read_text()) if options.app and os.path.exists(options.app) else None
        if options.app and app is None:
            raise Stopped("nothing has been deployed here yet: run playbooks/site.yml first")
        if (options.well or options.step == "well") and (found := well(app, options.well)):
            raise Stopped(f"{'; '.join(found[:5])}{' …' if len(found) > 5 else ''}")
        if options.step == "look":
            answer = look(app, Path(app["root"]).name if app else "", options.lock, options.cves, options.update)
        elif options.step == "install":
            answer = {"installed": install(options.lock)}
        elif options.step == "restart":
            restart(options.units)
        elif options.step == "leave":
            Path(OUT).parent.mkdir(parents=True, exist_ok=True)
            Path(OUT).touch()
        elif options.step == "back":
            Path(OUT).unlink(missing_ok=True)
    except Stopped as error:
        answer = {"stopped": f"{error}."}
    except subprocess.TimeoutExpired as error:
        answer = {"stopped": f"`{' '.join(error.cmd)}` has not ended within {error.timeout / 60:.0f} minutes."}
    print(json.dumps({**answer, "drained": os.path.exists(OUT)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
