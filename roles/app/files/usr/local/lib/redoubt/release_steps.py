"""What a release is made of and how it is put in service: the single steps, none of which knows of the others.

`fetch` and `install` run as the build user in a sandbox; the others run as root and touch nothing that the project's own
code could redirect (no link is followed out of the release). `app` is the application's description (``release.json``,
written by the role), `release` the folder ``<root>/releases/<id>``.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import http.client
import json
import os
import pwd
import re
import shutil
import socket
import ssl
import subprocess
import time
import tomllib
from collections.abc import Iterable
from pathlib import Path

TOOLS = Path("/usr/local/lib/redoubt")
STATE = Path("/var/lib/redoubt")
UV = TOOLS / "uv/bin/uv"
# Bytes that a build leaves to whoever else writes to the disk.
RESERVE = 512 * 2**20
GUARD_HEALTH = "/-/health"
# In the order of how exactly they pin: a lock with hashes before a list, a list before a declaration.
REQUIREMENTS = ("uv.lock", "poetry.lock", "Pipfile.lock", "requirements.txt", "requirements/production.txt", "pyproject.toml")


class Refused(Exception):
    """A sentence for the operator: what is wrong, where, and what to do."""


def run(*argv: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    """Run a command, its output going where ours goes; raise `Refused` with the command when it fails."""
    result = subprocess.run([str(arg) for arg in argv], cwd=cwd, env={**os.environ, **(env or {})}, check=False)
    if result.returncode:
        raise Refused(f"`{' '.join(str(arg) for arg in argv)}` exited with {result.returncode}")


def inside(base: Path, relative: str) -> Path:
    """Return ``base/relative`` once its folder is known to lie in `base` after every link has been followed."""
    path = base / relative
    if not path.parent.resolve().is_relative_to(base.resolve()):
        raise Refused(f"{relative!r} leads out of {base} through a link")
    return path


def git_environment(app: dict) -> dict[str, str]:
    """Return what git needs to reach the repository and nothing else: its key, and the servers it may trust."""
    config = Path(app["config"])
    options = f"-o BatchMode=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile={config}/known_hosts"
    if (config / "deploy_key").exists():
        options += f" -o IdentitiesOnly=yes -o IdentityFile={config}/deploy_key"
    # A repository on the host's own disk belongs to whoever put it there, which git wants to be told is meant.
    return {"GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_GLOBAL": str(config / "gitconfig"), "GIT_SSH_COMMAND": f"ssh {options}"}


def fetch(app: dict, release: Path, commit: str) -> None:
    """Bring the source at `commit`, with its submodules, into ``src``; a package from an index has none."""
    src = release / "src"
    shutil.rmtree(src, ignore_errors=True)
    src.mkdir()
    if app["source"] == "pypi":
        return
    env = git_environment(app)
    run("git", "init", "--quiet", "--initial-branch=release", cwd=src)
    run("git", "remote", "add", "origin", app["repo"], cwd=src)
    try:
        run("git", "fetch", "--quiet", "--depth=1", "origin", commit, cwd=src, env=env)
    except Refused:
        # Not every server hands out a commit that no branch or tag points at.
        run("git", "fetch", "--quiet", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*", cwd=src, env=env)
    run("git", "checkout", "--quiet", "--detach", commit, cwd=src, env=env)
    if (src / ".gitmodules").exists():
        update = ("git", "submodule", "update", "--quiet", "--init", "--recursive")
        try:
            run(*update, "--depth=1", cwd=src, env=env)
        except Refused:
            run(*update, cwd=src, env=env)


def find_requirements(app: dict, src: Path) -> Path:
    """Return the file that lists the requirements."""
    project = src / app["project_dir"]
    if app["requirements"] != "auto":
        for folder in (src, project):
            if (folder / app["requirements"]).is_file():
                return folder / app["requirements"]
        raise Refused(f"app_requirements: {app['requirements']!r} is not in the repository")
    for name in REQUIREMENTS:
        for folder in dict.fromkeys((project, src)):
            if (folder / name).is_file():
                return folder / name
    raise Refused("app_requirements: auto finds none of " + ", ".join(REQUIREMENTS) + "; name the file that lists the requirements")


def lock_tool(name: str, env: dict[str, str]) -> Path:
    """Return the program that reads another tool's lock file, installed into the build user's cache by hash."""
    lock = TOOLS / f"{name}.txt"
    home = Path(env["UV_CACHE_DIR"]).parent / "tools" / f"{name}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        run(UV, "venv", "--quiet", "--no-config", "--python", "/usr/bin/python3", home, env=env)
        run(UV, "pip", "install", "--quiet", "--no-config", "--require-hashes", "--requirement", lock, env={**env, "VIRTUAL_ENV": str(home)})
        (home / "complete").touch()
    return home / "bin" / name


def exported(argv: list[str | Path], folder: Path, out: Path, env: dict[str, str]) -> Path:
    """Write what `argv` prints, a requirements file, to `out`."""
    with out.open("wb") as sink:
        result = subprocess.run([str(arg) for arg in argv], cwd=folder, env={**os.environ, **env}, stdout=sink, check=False)
    if result.returncode:
        raise Refused(f"`{' '.join(str(arg) for arg in argv)}` exited with {result.returncode}")
    return out


def repeated(option: str, values: list[str]) -> list[str]:
    """Return the option once for each value."""
    return [word for value in values for word in (option, value)]


INDEX_OPTION = re.compile(r"-[if]|--(index-url|extra-index-url|find-links|no-index)\b")
FILE_OPTION = re.compile(r"(-r|--requirement|-c|--constraint)[ =]*(?P<file>[^\s#]+)")
LOCAL = re.compile(r"((-e|--editable)[ =]*)?(?P<path>\.{1,2}(/[^\s\[;]*|(?=[\s\[;]|$)))")


def without_indexes(path: Path, seen: dict[Path, Path], out: Path, folder: Path) -> Path:
    """Copy a requirements file and those it names, leaving out the lines that choose an index.

    As for pip, the names of other files are relative to the file, and those of packages to `folder`, where it is installed from.
    """
    path = path.resolve()
    if path in seen:
        return seen[path]
    copy = seen[path] = out / f"{len(seen)}-{path.name}"
    lines = []
    for line in path.read_text().splitlines():
        text = line.strip()
        if INDEX_OPTION.match(text):
            continue
        if (found := FILE_OPTION.match(text)) and "://" not in text:
            text = f"{found[1]} {without_indexes(path.parent / found['file'], seen, out, folder)}"
        elif found := LOCAL.match(text):
            text = f"{found[2] or ''} {(folder / found['path']).resolve()}{text[found.end():]}".strip()
        lines.append(text)
    copy.write_text("\n".join(lines) + "\n")
    return copy


def build_environment(release: Path) -> dict[str, str]:
    """Return what uv is told in the sandbox of a build, whose home is the build user's cache."""
    venv = str(release / "venv")
    return {"UV_CACHE_DIR": str(Path.home() / "uv"), "UV_LINK_MODE": "copy", "UV_NATIVE_TLS": "1", "UV_PYTHON_DOWNLOADS": "never",
            "UV_NO_PROGRESS": "1", "UV_COMPILE_BYTECODE": "1", "VIRTUAL_ENV": venv, "UV_PROJECT_ENVIRONMENT": venv, "UV_HTTP_TIMEOUT": "120"}


def install(app: dict, release: Path) -> None:
    """Make the release's environment from the project's own list of requirements."""
    src, venv = release / "src", release / "venv"
    env = build_environment(release)
    if app["index"]:
        env["UV_DEFAULT_INDEX"] = app["index"]
    shutil.rmtree(venv, ignore_errors=True)
    run(UV, "venv", "--quiet", "--no-config", "--python", app["python"], venv, env=env)
    # [tool.uv] of the project is for its uv.lock and pyproject.toml: its constraints and indexes are nobody else's.
    pip = [UV, "pip", "install", "--quiet", "--no-config"]
    declared = pip if app["index"] else pip[:-1]
    extras = f"[{','.join(app['extras'])}]" if app["extras"] else ""
    reused = False

    if app["source"] == "pypi":
        more = [app["package"].partition("[")[0].strip() + extras] if extras else []
        run(*pip, f"{app['package']}=={app['version']}", *more, env=env)
    else:
        listed = find_requirements(app, src)
        folder, scratch = listed.parent, release / "requirements.txt"
        print(f"requirements: {listed.relative_to(src)}", flush=True)
        if listed.name == "uv.lock":
            options = ["--frozen", "--no-dev", *repeated("--extra", app["extras"]), *repeated("--group", app["groups"])]
            if app["index"]:
                exported([UV, "export", "--quiet", "--no-editable", *options], folder, scratch, env)
                run(*pip, "--requirement", scratch, cwd=folder, env=env)
            else:
                run(UV, "sync", "--quiet", *options, cwd=folder, env=env)
        elif listed.name == "poetry.lock":
            groups = ["--only", ",".join(["main", *app["groups"]])]
            exported([lock_tool("poetry", env), "export", "--format=requirements.txt", *groups, *repeated("--extras", app["extras"])], folder, scratch, env)
        elif listed.name == "Pipfile.lock":
            categories = ["--categories", " ".join(["packages", *app["groups"]])]
            exported([lock_tool("pipenv", env), "requirements", "--hash", *categories], folder, scratch, {**env, "PIPENV_VERBOSITY": "-1"})
        elif listed.name == "pyproject.toml":
            groups = repeated("--group", app["groups"])
            if "build-system" in tomllib.loads(listed.read_text()):
                run(*declared, "--editable", f".{extras}", *groups, cwd=folder, env=env)
            else:
                run(*declared, "--requirement", listed.name, *repeated("--extra", app["extras"]), *groups, cwd=folder, env=env)
        else:
            scratch = listed
        if listed.name not in ("uv.lock", "pyproject.toml"):
            if app["index"]:
                copies = release / "requirements"
                copies.mkdir(exist_ok=True)
                scratch = without_indexes(scratch, {}, copies, folder)
            wanted = [*pip, "--requirement", scratch]
            reused = reuse(app, venv, [*wanted, *app["extra"]], folder, env)
            if not reused:
                run(*wanted, cwd=folder, env=env)

    if app["extra"] and not reused:
        run(*pip, *app["extra"], env=env)
    add("gunicorn", pip, release, env)
    if app["guard"]["mode"] != "off":
        try:
            add("argon2-cffi", pip, release, env)
        except Refused as error:
            # The guard does without, and `manage.py check` says so.
            print(f"argon2-cffi: {error}", flush=True)


def reuse(app: dict, venv: Path, wanted: list[str | Path], folder: Path, env: dict[str, str]) -> bool:
    """Copy the live release's environment when an installation would come to the very same packages; say whether it did.

    What would be installed is resolved anew each time, so that a project without pins gets its updates.
    """
    source = Path(app["root"], "live/release/venv").resolve()
    if not source.exists() or (source / "bin/python").resolve() != (venv / "bin/python").resolve():
        return False
    answer = subprocess.run([str(word) for word in [*wanted, "--dry-run"] if word != "--quiet"], cwd=folder, env={**os.environ, **env},
                            capture_output=True, text=True, check=False)
    resolved = {line[3:] for line in answer.stderr.splitlines() if line.startswith(" + ")}
    listing = subprocess.run([UV, "pip", "list", "--no-config", "--format=json", f"--python={source}"], env={**os.environ, **env}, capture_output=True, check=True)
    present = {f"{row['name']}=={row['version']}" for row in json.loads(listing.stdout)}
    # What the kit itself may have added.
    ours = {name for lock in ("gunicorn", "argon2-cffi") for name in re.findall(r"^\S+==[^\s;\\]+", (TOOLS / f"{lock}.txt").read_text(), re.MULTILINE)}
    gunicorn = {name for name in present if name.startswith("gunicorn==")}
    # A package from a path or an address shows it, and is not the same only because its version is.
    if answer.returncode or not gunicorn or not resolved <= present or not present - resolved <= ours:
        return False
    old, new = os.fsencode(source), os.fsencode(venv)
    packages = list(source.glob("lib/python3*/site-packages"))
    if any(old in path.read_bytes() for folder in packages for path in folder.glob("*.pth")):
        return False
    # Nor is what came from one, where the same version would now come from an index.
    if any(path for folder in packages for path in folder.glob("*.dist-info/direct_url.json")):
        return False
    shutil.rmtree(venv)
    run("cp", "--archive", "--no-preserve=ownership", "--reflink=auto", source, venv)
    for path in (venv / "bin").iterdir():
        if path.is_file() and not path.is_symlink() and old in (text := path.read_bytes()):
            path.chmod(0o755)
            path.write_bytes(text.replace(old, new))
    print(f"packages: the same as those of {source.parent.name}", flush=True)
    return True


def packages(app: dict, release: Path) -> str:
    """Return what a release has beside its own code, as a hash: the list of its requirements, and each package that came of it with its version."""
    digest = hashlib.sha256()
    if app["source"] != "pypi":
        digest.update(find_requirements(app, release / "src").read_bytes())
    for name in sorted(path.name for path in (release / "venv/lib").glob("python3*/site-packages/*.dist-info")):
        digest.update(f"{name}\n".encode())
    return digest.hexdigest()


def add(name: str, pip: list[str | Path], release: Path, env: dict[str, str]) -> None:
    """Install a package of the kit's own list where the project brings none, leaving what it brings as it is."""
    listing = subprocess.run([UV, "pip", "list", "--no-config", "--format=json"], env={**os.environ, **env}, capture_output=True, check=True)
    present = {row["name"] for row in json.loads(listing.stdout)}
    if name in present:
        return
    blocks = (TOOLS / f"{name}.txt").read_text().replace("\\\n", "").splitlines()
    wanted = [line for line in blocks if "==" in line and line.split("==")[0] not in present]
    lock = release / f"{name}.txt"
    lock.write_text("\n".join(wanted) + "\n")
    run(*pip, "--require-hashes", "--no-deps", "--requirement", lock, env=env)
    lock.unlink()


def audit(app: dict, release: Path) -> None:
    """Print what is publicly known to be vulnerable in the release's environment, as JSON in pip-audit's form."""
    tool = lock_tool("pip-audit", build_environment(release))
    packages = next((release / "venv/lib").glob("python3*/site-packages"))
    run(tool, "--path", packages, "--format=json", "--progress-spinner=off", "--vulnerability-service=osv", f"--osv-url={app['audit']['service']}",
        "--timeout=10", f"--cache-dir={Path.home() / 'pip-audit'}")


def room(app: dict) -> None:
    """Refuse to begin a build that may fill the disk, which others write to: the database, the logs."""
    root, live = Path(app["root"]), Path(app["root"], "live/release")
    # As much as the release that serves, which is the best guess there is.
    size = 0
    for folder, _, names in os.walk(live.resolve()) if live.exists() else ():
        for name in names:
            # What the processes may write there comes and goes.
            with contextlib.suppress(FileNotFoundError):
                size += os.lstat(os.path.join(folder, name)).st_blocks * 512
    free = shutil.disk_usage(root).free
    if free < size + RESERVE:
        raise Refused(f"{root} has {free // 2**20} MiB left, and a release like the one that serves wants {(size + RESERVE) // 2**20}: its own "
                      f"{size // 2**20} and {RESERVE // 2**20} for whoever else writes to that disk")


def place(app: dict, release: Path) -> None:
    """Put the inventory's files into the source, and link what outlives the release."""
    src, build = release / "src", grp.getgrnam(app["build_user"]).gr_gid
    (release / "static").mkdir(exist_ok=True)
    for packages in (release / "venv/lib").glob("python3*/site-packages"):
        shutil.rmtree(packages / "redoubt_guard", ignore_errors=True)
        if app["guard"]["mode"] != "off":
            # Beside the project's packages, so that a release has the guard it was checked with.
            shutil.copytree(TOOLS / "redoubt_guard", packages / "redoubt_guard", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.chown(release / "static", app["build_user"], app["build_user"])
    for item in app["files"]:
        target = inside(src, item["dest"])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copyfile(Path(app["config"], "files/build", item["dest"]), target)
        os.chown(target, 0, build)
        target.chmod(0o640)
    user = pwd.getpwnam(app["user"])
    for item in app["shared"]:
        name = item["path"].rstrip("/")
        # The folder is the project's own: what it has put there must not lead root elsewhere.
        keep, link = inside(Path(item["root"]), f"shared/{name}"), inside(src, name)
        group = grp.getgrnam("www-data").gr_gid if item["served"] else user.pw_gid
        keep.parent.mkdir(parents=True, exist_ok=True)
        if not keep.exists():
            if link.is_dir() and not link.is_symlink():
                shutil.copytree(link, keep, symlinks=True)
            elif link.is_file() and not link.is_symlink():
                shutil.copyfile(link, keep)
            elif item["path"].endswith("/") or "." not in Path(name).name.lstrip("."):
                keep.mkdir()
            hand_over([keep, *keep.rglob("*")] if keep.exists() else [], user.pw_uid, group, item["served"])
        parents = keep.parents[: len(keep.relative_to(item["root"]).parts) - 1]
        hand_over(parents, user.pw_uid, group, item["served"])
        if link.is_dir() and not link.is_symlink():
            shutil.rmtree(link)
        link.unlink(missing_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(keep)


def hand_over(paths: Iterable[Path], user: int, group: int, served: bool) -> None:
    """Give paths to the running processes; where nginx serves them, new files there get its group and it can read them."""
    for path in paths:
        os.lchown(path, user, group)
        if path.is_symlink():
            continue
        mode = path.stat().st_mode & 0o7777 | 0o600
        path.chmod(mode | (0o2050 if served else 0) if path.is_dir() else mode | (0o040 if served else 0))


def seal(app: dict, release: Path, commit: str) -> None:
    """Give the release to root, readable by all and writable by none but where the inventory says so."""
    src = release / "src"
    shutil.rmtree(src / ".git", ignore_errors=True)
    for folder, names, files in os.walk(release):
        for name in [*names, *files, "."]:
            path = os.path.normpath(os.path.join(folder, name))
            os.lchown(path, 0, 0)
            if not os.path.islink(path):
                mode = os.stat(path).st_mode
                reach = 0o555 if os.path.isdir(path) or mode & 0o100 else 0o444
                os.chmod(path, reach | 0o200)
    user, group = pwd.getpwnam(app["user"]), grp.getgrnam(app["user"]).gr_gid
    for item in app["files"]:
        target = inside(src, item["dest"])
        if item["secret"]:
            os.chown(target, 0, group)
            target.chmod(0o640)
    for name in app["writable"]:
        base = release / "static" if name.startswith(app["static"]) else src
        path = inside(base, os.path.relpath(name, app["static"]) if base != src else name)
        if path.is_symlink():
            raise Refused(f"app_writable_paths: {name!r} is a link in the repository; name what it leads to")
        if not path.exists():
            path.mkdir(parents=True)
        # What is compressed at the first request is served by nginx, and lies in folders that the process makes itself.
        served = base != src or any(Path(name).is_relative_to(folder) for folder in app["served"])
        hand_over([path, *path.rglob("*")], user.pw_uid, grp.getgrnam("www-data").gr_gid if served else group, served)
    manifest = {"id": release.name, "source": app["source"], "from": app.get("repo") or app.get("package"), "version": app["version"],
                "commit": commit, "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    pending = release / ".manifest.json"
    pending.write_text(json.dumps(manifest, indent=2) + "\n")
    os.sync()
    pending.rename(release / "manifest.json")


def relink(path: Path, target: str) -> None:
    """Point the link `path` at `target` in one rename, so that it never leads nowhere."""
    pending = path.with_name(f".{path.name}.new")
    pending.unlink(missing_ok=True)
    pending.symlink_to(target)
    pending.rename(path)


def stage(app: dict, release: Path, colour: str, fingerprint: str) -> None:
    """Point a colour at the release, with the environment as it is now, so that a later bad value cannot reach it."""
    home = Path(app["root"], "colours", colour)
    home.mkdir(parents=True, exist_ok=True)
    # Back when all of it is in place: who finds none has a colour that is not as anything has served.
    (home / "fingerprint").unlink(missing_ok=True)
    relink(home / "release", f"../../releases/{release.name}")
    relink(home / "sock", f"{app['run']}/{colour}.sock")
    for name in ("env", "gunicorn.conf.py"):
        pending = home / f".{name}.new"
        pending.unlink(missing_ok=True)
        # The name that systemd opens is never readable by others, not even between two calls.
        with os.fdopen(os.open(pending, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as sink:
            sink.write(Path(app["config"], name).read_bytes())
        if name != "env":
            pending.chmod(0o644)
        pending.rename(home / name)
    (home / "fingerprint").write_text(fingerprint + "\n")


def state(app: dict, release: str) -> Path:
    """Return the folder of what the kit remembers of a release."""
    return STATE / Path(app["root"]).name / "releases" / release


def switch(app: dict, colour: str) -> None:
    """Make a colour the live one: what nginx reads and whom it asks change with one rename."""
    relink(Path(app["root"], "live"), f"colours/{colour}")


class LocalConnection(http.client.HTTPSConnection):
    """HTTPS to this host's own nginx under a public name. It must show the very certificate that the host keeps for it."""

    def __init__(self, host: str, timeout: float, authority: Path) -> None:
        context = ssl.create_default_context(cafile=str(authority))
        # The issuer's intermediate is enough: what is asked is whether nginx serves what certbot got, not whom the world trusts.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        super().__init__(host, timeout=timeout, context=context)

    def connect(self) -> None:
        """Connect to the loopback address, with the name in the handshake."""
        plain = socket.create_connection(("127.0.0.1", 443), self.timeout)
        self.sock = self._context.wrap_socket(plain, server_hostname=self.host)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, host: str, timeout: float) -> None:
        super().__init__(host, timeout=timeout)
        self.path = path

    def connect(self) -> None:
        """Connect to the socket instead of the host."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def ask(app: dict, colour: str, path: str, timeout: float) -> tuple[int, str]:
    """Ask for a path, of a colour as nginx will or, without one, of nginx as a visitor; return the status (0: none) and how to say it."""
    domain = app["probe"]["domain"]
    headers = {"Host": domain, "User-Agent": "redoubt-probe", "Accept": "text/html,*/*", "Connection": "close"}
    if colour:
        connection = UnixConnection(f"{app['run']}/{colour}.sock", domain, timeout)
        headers |= {"X-Forwarded-Host": domain, "X-Forwarded-Proto": "https", "X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1"}
    else:
        authority = Path(app["certificate"], "chain.pem")
        if not authority.exists():
            return 0, "nothing, there is no certificate"
        try:
            connection = LocalConnection(domain, timeout, authority)
        except ssl.SSLError as error:
            return 0, f"no proper certificate ({authority}: {error.reason or error})"
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        leads = f" to {answer.headers['Location']}" if "Location" in answer.headers else ""
        return answer.status, f"{answer.status}{leads}"
    except ssl.SSLError as error:
        return 0, f"no proper certificate ({error.reason or error})"
    except (OSError, http.client.HTTPException):
        return 0, "nothing"
    finally:
        connection.close()


def restarts(unit: str) -> int:
    """How often systemd has started a unit again because it ended by itself."""
    shown = subprocess.run(["systemctl", "show", "--property=NRestarts", "--value", unit], capture_output=True, text=True, check=False)
    return int(shown.stdout.strip() or 0)


def ended(units: list[str]) -> list[str]:
    """Return those of the units that do not run, among them one that systemd is about to start again."""
    shown = subprocess.run(["systemctl", "show", "--property=ActiveState", "--value", *units], capture_output=True, text=True, check=False)
    if shown.returncode:
        raise Refused(f"systemctl does not say how {', '.join(units)} fare: {shown.stderr.strip() or 'it printed nothing'}")
    return [unit for unit, state in zip(units, shown.stdout.split(), strict=True) if state != "active"]


def listens(path: str) -> bool:
    """Whether somebody answers on a unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        try:
            client.connect(path)
        except OSError:
            return False
    return True


def probe(app: dict, colour: str) -> list[str]:
    """Refuse a colour that does not answer as it must: the health path with 200, the others with anything but a 5xx.

    Without a colour it is the public site that is asked, for the others only. Return what somebody should know.
    """
    notes = []
    wanted = app["probe"]
    unit = f"{Path(app['root']).name}@{colour}.service"
    deadline = time.monotonic() + wanted["timeout"]
    for path in filter(None, [colour and wanted["health"], *wanted["paths"]]):
        health, patience, answered = bool(colour) and path == wanted["health"], 5.0, 0.0
        while True:
            # Until its processes have started, a colour keeps a question waiting; one whose processes end and end again, for ever.
            status, said = ask(app, colour, path, max(1, min(patience, deadline - time.monotonic())))
            if status == 200 or (not health and 200 <= status < 500):
                break
            if health and status == 404 and path == GUARD_HEALTH and wanted["guarded"]:
                notes.append("The guard is not in place: the project sets DJANGO_SETTINGS_MODULE itself instead of with setdefault. Nothing "
                             "answers for its health, and its settings are as they are.")
                break
            reason = f"https://{wanted['domain']}{path} answered {said}{' instead of 200' if health and status else ''}"
            if colour and status == 0 and restarts(unit) > 1:
                raise Refused(f"{reason}, because the processes end as soon as they start")
            answered = answered or (time.monotonic() if status or not colour else 0.0)
            # A page that is an error is so for good, but for a slip of the first moments. A health page may wait for something.
            if not health and answered and time.monotonic() - answered > 4:
                raise Refused(reason)
            if time.monotonic() >= deadline:
                raise Refused(f"{reason} within {wanted['timeout']} seconds (app_start_timeout)")
            patience *= 2
            time.sleep(1 if answered or patience > 20 else 0.2)
        deadline = time.monotonic() + wanted["timeout"]
    return notes


def served(app: dict) -> list[Path]:
    """Return the releases that are on the host and have been live, the last one first."""
    found = {}
    for path in Path(app["root"], "releases").iterdir():
        mark = state(app, path.name) / "served"
        if mark.exists() and (path / "manifest.json").exists():
            found[path] = mark.stat().st_mtime_ns
    return sorted(found, key=found.get, reverse=True)


def prune(app: dict, keep: int) -> None:
    """Remove what never served and the oldest releases beyond `keep`, never one that a colour points at."""
    base = Path(app["root"], "releases")
    held = {path.resolve() for path in Path(app["root"], "colours").glob("*/release")}
    kept = served(app)[:keep]
    for path in base.iterdir():
        if path not in kept and path.resolve() not in held:
            # First what is remembered of it: what is left when this is cut off must not pass for a release.
            shutil.rmtree(state(app, path.name), ignore_errors=True)
            (path / "manifest.json").unlink(missing_ok=True)
            shutil.rmtree(path)
