"""A host in a folder: the release program, the sandbox's wrapper, systemctl and journalctl as small scripts that write down what they were asked."""

from __future__ import annotations

import contextlib
import getpass
import importlib.machinery
import importlib.util
import io
import json
import os
import shutil
import sys
import types
from pathlib import Path

from ansible.module_utils.testing import patch_module_args

FILES = Path(__file__).resolve().parents[2] / "roles/app/files/usr/local/lib/redoubt"
PROGRAM = FILES / "release"

# What every fake does: write down its words; kill who called it, answer, wait and fail as the first rule for its words says. Tests
# start thousands of these: what each imports is most of what they take.
FAKE = r"""#!{python}
import os, sys, time

host, name, words = {host!r}, {name!r}, sys.argv[1:]
line = " ".join([name, *words])
with open(f"{host}/calls", "a") as sink:
    sink.write(line + "\n")
with open(f"{host}/rules") as source:
    rules = eval(source.read())
rule = next((rule for rule in rules if rule["in"] in line), {})
if rule.get("kill") == "before":
    os.kill(os.getppid(), 9)
    sys.exit(0)
if name == "systemctl":
    for path in (f"{host}/units/{unit}" for unit in words[1:]):
        if words[0] in ("start", "restart"):
            open(path, "a").close()
        elif words[0] == "stop" and os.path.exists(path):
            os.unlink(path)
if "--property=ActiveState" in words and "out" not in rule:
    print("\n\n".join("active" for word in words if word.startswith("notes-")))
if name == "journalctl":
    print("what the processes said")
if rule.get("kill") == "after":
    os.kill(os.getppid(), 9)
time.sleep(rule.get("sleep", 0))
with open(f"{host}/ended", "a") as sink:
    sink.write(line + "\n")
print(rule.get("out", ""))
print(rule.get("err", ""), file=sys.stderr)
sys.exit(rule.get("code", 0))
"""


def load(name: str = "release", path: Path = PROGRAM) -> types.ModuleType:
    """Import a program that has no suffix, its neighbours in reach."""
    if str(FILES) not in sys.path:
        sys.path.append(str(FILES))
    loader = importlib.machinery.SourceFileLoader(f"redoubt_{name}", str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def find_uv() -> str | None:
    """The uv that the Makefile installs, also for a second work tree with the first one's .venv, or the system's."""
    root = Path(__file__).resolve().parents[2]
    for path in (root / ".cache/uv/bin/uv", (root / ".venv").resolve().parent / ".cache/uv/bin/uv"):
        if path.exists():
            return str(path)
    return shutil.which("uv")


def run_module(module: types.ModuleType, check: bool = False, **arguments: object) -> dict:
    """What a module answers to a task."""
    out = io.StringIO()
    with patch_module_args({**arguments, "_ansible_check_mode": check}), contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        module.main()
    answer = json.loads(out.getvalue())
    answer.pop("invocation", None)
    return answer


NOTHING_FOUND = {"checks": [], "drift": [], "deprecations": [], "plan": {"plan": [], "known": [], "applied": [], "first": False}, "django": "5.2"}


class Host:
    """One application on one host."""

    def __init__(self, base: Path):
        self.base = base
        self.root, self.tools, self.state, self.config = base / "srv/notes", base / "tools", base / "state", base / "etc"
        for folder in (self.root / "releases", self.root / "colours", self.tools, self.state, self.config, base / "bin", base / "units", base / "run"):
            folder.mkdir(parents=True)
        self.rules: list[dict] = []
        self.write_rules()
        (base / "calls").touch()
        for path in (self.tools / "notes-run", base / "bin/systemctl", base / "bin/journalctl", base / "bin/ask"):
            path.write_text(FAKE.replace("{python}", f"{sys.executable} -SI").replace("{host!r}", repr(str(base))).replace("{name!r}", repr(path.name)))
            path.chmod(0o755)
        for name in ("env", "gunicorn.conf.py"):
            (self.config / name).write_text(f"{name} of today\n")
        user = getpass.getuser()
        self.app = {
            "root": str(self.root),
            "run": str(base / "run"),
            "config": str(self.config),
            "certificate": str(base / "certificate"),
            "user": user,
            "build_user": user,
            "source": "git",
            "repo": "https://git.test/notes.git",
            "package": "",
            "version": "v1",
            "project_dir": ".",
            "requirements": "auto",
            "manage": "python manage.py",
            "build": [],
            "collectstatic": True,
            "files": [],
            "shared": [],
            "static": "/var/lib/notes/static",
            "served": [],
            "writable": [],
            "migrate": ["migrate --noinput"],
            "setup": [],
            "hooks": {},
            "processes": [],
            "listening": {},
            "kept": 5,
            "check_fail_level": "ERROR",
            "allow_destructive": False,
            "audit": {"service": "https://osv.test", "refuse": False, "waivers": []},
            "probe": {"domain": "notes.test", "health": "/-/health", "paths": ["/", "/login/"], "timeout": 10, "guarded": False},
            "guard": {"mode": "off", "code": ""},
        }
        self.audit('{"dependencies": []}')
        self.findings()

    # --- What the fakes answer ---------------------------------------------------------------------------------------

    def write_rules(self) -> None:
        """Write in one rename: a fake may be reading."""
        pending = self.base / "rules.new"
        pending.write_text(repr(self.rules))
        pending.rename(self.base / "rules")

    def rule(self, inside: str, **what: object) -> None:
        """From now on, answer a command that has `inside` in it like this."""
        self.rules = [{"in": inside, **what}, *[rule for rule in self.rules if rule["in"] != inside]]
        self.write_rules()

    def audit(self, out: str, **what: object) -> None:
        self.rule("/release " + str(self.config / "release.json") + " audit", out=out, **what)

    def findings(self, **parts: object) -> None:
        """What inspect_project.py prints."""
        self.rule("inspect_project.py", out="redoubt-findings:" + json.dumps(NOTHING_FOUND | parts))

    def plan(self, *migrations: dict, known: tuple = (), applied: tuple = ("notes.0001",), first: bool = False) -> None:
        empty = {"operations": [], "takes_away": [], "breaks_older": []}
        self.findings(plan={"plan": [empty | each for each in migrations], "known": list(known), "applied": list(applied), "first": first})

    # --- What is there -----------------------------------------------------------------------------------------------

    @property
    def home(self) -> Path:
        return self.state / "notes"

    def calls(self, *without: str) -> list[str]:
        """What the fakes were asked, without the folders."""
        text = (self.base / "calls").read_text().replace(f"{self.config}/", "").replace(f"{self.tools}/", "")
        return [line for line in text.splitlines() if not any(word in line for word in ("release release.json audit", *without))]

    def forget_calls(self) -> None:
        (self.base / "calls").write_text("")

    def journal(self) -> list[dict]:
        path = self.home / "journal.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def results(self) -> list[tuple[str, str]]:
        return [(entry["release"], entry["result"]) for entry in self.journal()]

    def live(self) -> tuple[str, str]:
        """The colour and the release that visitors get."""
        link = self.root / "live"
        if not link.is_symlink():
            return "", ""
        return os.readlink(link).removeprefix("colours/"), (link / "release").resolve().name

    def running(self) -> set[str]:
        return {path.name for path in (self.base / "units").iterdir() if path.match("notes@*.service")}

    def released(self, name: str, served: bool = True) -> Path:
        """Put a finished release there."""
        release = self.root / "releases" / name
        (release / "src").mkdir(parents=True)
        (release / "manifest.json").write_text(json.dumps({"id": name, "commit": f"commit of {name}", "version": f"version of {name}", "built": "then"}))
        state = self.home / "releases" / name
        state.mkdir(parents=True, exist_ok=True)
        for mark in ("fetch", "install", "place", "build", "audit", "seal", "before_migrate", "migrate", *(["served"] if served else [])):
            (state / mark).touch()
        (state / "known.json").write_text('["notes.0001"]')
        (self.home / "setup").touch()
        return release

    def serving(self, name: str, colour: str = "blue", env: str = "env of then\n") -> Path:
        """Have a finished release serve."""
        release = self.released(name) if not (self.root / "releases" / name).exists() else self.root / "releases" / name
        self.staged(name, colour, env)
        (self.root / "live").unlink(missing_ok=True)
        (self.root / "live").symlink_to(f"colours/{colour}")
        (self.base / "units" / f"notes@{colour}.service").touch()
        return release

    def staged(self, name: str, colour: str, env: str = "env of then\n") -> None:
        home = self.root / "colours" / colour
        home.mkdir(exist_ok=True)
        (home / "release").unlink(missing_ok=True)
        (home / "release").symlink_to(f"../../releases/{name}")
        (home / "env").write_text(env)
        (home / "gunicorn.conf.py").write_text("then\n")
        (home / "fingerprint").write_text(f"fingerprint of {name}\n")

    def forget_state(self, release: str) -> None:
        shutil.rmtree(self.home / "releases" / release)
