"""Programs that a backup runs, as small scripts that write down what they were asked and answer as the test says."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

ROLES = Path(__file__).resolve().parents[2] / "roles"

# The first rule whose words are in the command decides: who is killed, what a shell does, what is said, and how it ends.
FAKE = r"""#!{python} -SI
import json, os, signal, subprocess, sys
from pathlib import Path

base, name, words = Path({base!r}), {name!r}, sys.argv[1:]
if name == "setpriv":
    # All users are the one who runs the test; what else is asked of it is the real one's to do.
    kept = [word for word in words[:words.index("--")] if word.startswith("--pdeathsig")]
    command = words[words.index("--") + 1:]
    os.execvp("/usr/bin/setpriv", ["setpriv", *kept, "--", *command]) if kept else os.execvp(command[0], command)
line = " ".join([name, *words])
with (base / "calls").open("a") as sink:
    sink.write(line + "\n")
rules = json.loads((base / "rules.json").read_text())
rule = next((rule for rule in rules if rule["in"] in line), {})
if rule.get("kill") == "before":
    os.kill(os.getppid(), signal.SIGKILL)
    sys.exit(0)
if "sh" in rule:
    done = subprocess.run(["sh", "-euc", rule["sh"], name, *words], check=False)
    if done.returncode:
        sys.exit(done.returncode)
if name == "systemctl" and not rule.get("code"):
    units = base / "units"
    named = [word for word in words[1:] if word.endswith((".service", ".socket", ".timer"))]
    if words[0] == "list-units":
        for path in sorted(units.glob("notes*")):
            print(f"{path.name} loaded active running x")
    elif "is-active" in words:
        sys.exit(0 if all((units / unit).exists() for unit in named) else 3)
    for unit in named:
        if words[0] in ("start", "restart"):
            (units / unit).touch()
        elif words[0] == "stop":
            (units / unit).unlink(missing_ok=True)
if rule.get("kill") == "after":
    os.kill(os.getppid(), signal.SIGKILL)
if "out" in rule:
    print(rule["out"])
if "err" in rule:
    print(rule["err"], file=sys.stderr)
sys.exit(rule.get("code", 0))
"""


class Fakes:
    """A folder of such programs, and what they were asked."""

    def __init__(self, base: Path) -> None:
        self.base, self.bin = base, base / "bin"
        self.bin.mkdir()
        (base / "units").mkdir()
        self.rules: list[dict] = []
        self.write()
        (base / "calls").touch()

    def add(self, *names: str, folder: Path | None = None) -> None:
        for name in names:
            path = (folder or self.bin) / name
            path.write_text(FAKE.replace("{python}", sys.executable).replace("{base!r}", repr(str(self.base))).replace("{name!r}", repr(name)))
            path.chmod(0o755)

    def write(self) -> None:
        pending = self.base / "rules.new"
        pending.write_text(json.dumps(self.rules))
        pending.rename(self.base / "rules.json")

    def rule(self, inside: str, **what: object) -> None:
        """From now on, answer a command that has `inside` in it like this."""
        self.rules = [{"in": inside, **what}, *[rule for rule in self.rules if rule["in"] != inside]]
        self.write()

    def calls(self, *inside: str) -> list[str]:
        return [line for line in (self.base / "calls").read_text().splitlines() if all(word in line for word in inside)]

    def forget(self) -> None:
        (self.base / "calls").write_text("")

    def running(self) -> set[str]:
        return {path.name for path in (self.base / "units").iterdir()}

    def on_path(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", f"{self.bin}:/usr/sbin:/usr/bin:/sbin:/bin")


def load(name: str, path: Path) -> types.ModuleType:
    """Import a program that has no suffix."""
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    sys.modules[name] = module
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


DEAD = 77


def dies(action: Callable[[], object], at: int, calls: tuple[str, ...], processes: bool = False) -> bool:
    """Run in a child that dies before its call number `at` of these of `os`, or before a process; false when it ended before that."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            count = 0

            def wrap(original: Callable) -> Callable:
                def call(*args: object, **kwargs: object) -> object:
                    nonlocal count
                    count += 1
                    if count == at:
                        os._exit(DEAD)
                    return original(*args, **kwargs)

                return call

            for name in calls:
                setattr(os, name, wrap(getattr(os, name)))
            if processes:
                subprocess.run = wrap(subprocess.run)
            action()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, DEAD)
    return status == DEAD
