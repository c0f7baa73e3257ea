"""Logins as a person makes them: over SSH with a new connection every time, never a shared one, and at the demo project's own form."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent


def ssh(values, *options: str, user: str = "", command: str = "true", timeout: int = 60) -> subprocess.CompletedProcess:
    """Run a command on a host over a connection of its own."""
    line = ["ssh", "-o", "ControlPath=none", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-p", str(values["ansible_port"])]
    line += ["-i", values["ansible_ssh_private_key_file"], *shlex.split(values["ansible_ssh_common_args"]), *options]
    line += [f"{user or values['ansible_user']}@{values['ansible_host']}", command]
    return subprocess.run(line, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL)


def wanted(values, role: str, name: str):
    """What the inventory says of a role's variable, or else the role's own default."""
    defaults = yaml.safe_load((ROOT / "roles" / role / "defaults/main.yml").read_text())
    return values.get(name, defaults[name])


def another_name(lab, name: str) -> str:
    """Name of a host of the lab to knock from; empty where there is none."""
    serving = lab.groups.get("web", []) + lab.groups.get("db", [])
    # Hosts of one site let each other in where they let nobody else.
    others = sorted((other for other in lab.groups["all"] if other not in (name, "localhost")), key=lambda other: other in serving)
    return next(iter(others), "")


def another(lab, name: str):
    """The host of that name."""
    found = another_name(lab, name)
    return lab.host(found) if found else None


def at_site(browser, site: str, user: str, password: str):
    """Fill in the form with a browser; the answer, 302 for a good login."""
    url = f"{site}/accounts/login/"
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', browser.get(url, timeout=20).text)[1]
    return browser.post(url, data={"username": user, "password": password, "csrfmiddlewaretoken": token}, headers={"Referer": url}, timeout=30,
                        allow_redirects=False)
