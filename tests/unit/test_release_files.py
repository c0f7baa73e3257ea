"""What a release is made of: its source, the inventory's files in it, what outlives it, and who may write where in the end."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
release_host = importlib.import_module("release_host")

ROOT, SHOP, BUILD, WWW = (0, 0), 2001, 2002, 33
IDS = {"shop": SHOP, "shop_build": BUILD, "www-data": WWW}


@pytest.fixture(scope="module")
def program():
    return release_host.load("release_files", release_host.FILES / "release_steps.py")


@pytest.fixture
def owners(program, monkeypatch) -> dict[Path, tuple[int, int]]:
    """Who was given what: the accounts are made up, so nothing is really handed over."""
    given: dict[Path, tuple[int, int]] = {}

    def chown(path, user, group):
        user, group = IDS.get(user, user), IDS.get(group, group)
        given[Path(path)] = (user, group)

    monkeypatch.setattr(os, "lchown", chown)
    monkeypatch.setattr(os, "chown", chown)
    monkeypatch.setattr(program.shutil, "chown", chown)
    monkeypatch.setattr(program.pwd, "getpwnam", lambda name: types.SimpleNamespace(pw_uid=IDS[name], pw_gid=IDS[name]))
    monkeypatch.setattr(program.grp, "getgrnam", lambda name: types.SimpleNamespace(gr_gid=IDS[name]))
    return given


@pytest.fixture
def app(tmp_path) -> dict:
    root = tmp_path / "srv/shop"
    (root / "releases/r1/src").mkdir(parents=True)
    (root / "releases/r1/venv/lib/python3.13/site-packages").mkdir(parents=True)
    (root / "data").mkdir()
    return {"root": str(root), "config": str(tmp_path / "etc/shop"), "user": "shop", "build_user": "shop_build", "static": str(root / "static"),
            "guard": {"mode": "off"}, "files": [], "shared": [], "served": [], "writable": [], "source": "git", "repo": "https://x.test/shop", "version": "v1"}


@pytest.fixture
def release(app) -> Path:
    return Path(app["root"], "releases/r1")


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def mode(path: Path) -> str:
    return oct(path.lstat().st_mode & 0o7777)[2:]


# --- place: the inventory's files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["nothing", "a file", "a link"])
def test_the_inventorys_file_takes_the_place_of_what_the_project_has_there(program, app, release, owners, tmp_path, before) -> None:
    outside = tmp_path / "outside"
    outside.write_text("somebody else's")
    app["files"] = [{"dest": "conf/site.ini", "secret": True}]
    write(Path(app["config"], "files/build"), {"conf/site.ini": "ours"})
    target = release / "src/conf/site.ini"
    if before != "nothing":
        target.parent.mkdir()
        target.write_text("example") if before == "a file" else target.symlink_to(outside)
    program.place(app, release)
    assert (target.read_text(), target.is_symlink(), mode(target), owners[target]) == ("ours", False, "640", (0, BUILD))
    assert outside.read_text() == "somebody else's"


def test_a_file_is_not_written_through_a_folder_that_leads_elsewhere(program, app, release, owners, tmp_path) -> None:
    (tmp_path / "etc/cron.d").mkdir(parents=True)
    (release / "src/conf").symlink_to(tmp_path / "etc/cron.d")
    app["files"] = [{"dest": "conf/site.ini", "secret": False}]
    write(Path(app["config"], "files/build"), {"conf/site.ini": "ours"})
    with pytest.raises(program.Refused, match=r"'conf/site\.ini' leads out of .*/src through a link"):
        program.place(app, release)
    assert not list((tmp_path / "etc/cron.d").iterdir())


@pytest.mark.parametrize("wanted", ["enforce", "off"])
def test_the_guard_of_a_release_is_the_one_it_was_built_with(program, app, release, owners, monkeypatch, tmp_path, wanted) -> None:
    write(tmp_path / "tools/redoubt_guard", {"settings.py": "new", "__pycache__/settings.pyc": ""})
    monkeypatch.setattr(program, "TOOLS", tmp_path / "tools")
    packages = release / "venv/lib/python3.13/site-packages"
    # An environment that was copied from the release before brings that one's.
    write(packages / "redoubt_guard", {"settings.py": "old", "gone.py": ""})
    app["guard"]["mode"] = wanted
    program.place(app, release)
    found = {path.name: path.read_text() for path in (packages / "redoubt_guard").glob("*")}
    assert found == ({"settings.py": "new"} if wanted == "enforce" else {})


# --- place: what outlives releases ---------------------------------------------------------------------------------------


def shared(app: dict, path: str, served: bool = False) -> None:
    app["shared"] = [{"path": path, "root": f"{app['root']}/data", "served": served}]


@pytest.mark.parametrize(("path", "files", "kept"), [
    ("var", {"var/seed.txt": "seed"}, {"seed.txt": "seed"}),
    ("var/", {}, {}),
    ("media/uploads", {}, {}),
    (".cache", {}, {}),
])
def test_a_folder_that_outlives_releases(program, app, release, owners, path, files, kept) -> None:
    write(release / "src", files)
    shared(app, path)
    program.place(app, release)
    link, keep = release / "src" / path.rstrip("/"), Path(app["root"], "data/shared", path.rstrip("/"))
    assert link.is_symlink() and link.resolve() == keep
    assert {found.name: found.read_text() for found in keep.iterdir()} == kept
    assert owners[keep] == (SHOP, SHOP)
    assert all(owners[found] == (SHOP, SHOP) for found in [*keep.rglob("*"), Path(app["root"], "data/shared")])


def test_what_a_later_release_brings_does_not_replace_what_was_kept(program, app, release, owners) -> None:
    write(Path(app["root"], "data/shared"), {"var/counter": "7"})
    write(release / "src", {"var/counter": "0", "var/new": ""})
    shared(app, "var")
    program.place(app, release)
    assert (release / "src/var/counter").read_text() == "7"
    assert not (release / "src/var/new").exists()


def test_a_file_that_outlives_releases(program, app, release, owners) -> None:
    write(release / "src", {"state.json": "{}"})
    shared(app, "state.json")
    program.place(app, release)
    assert (release / "src/state.json").is_symlink() and (release / "src/state.json").read_text() == "{}"
    assert owners[Path(app["root"], "data/shared/state.json")] == (SHOP, SHOP)


def test_a_file_that_nobody_has_made_yet_is_the_projects_to_make(program, app, release, owners) -> None:
    shared(app, "db.sqlite3")
    program.place(app, release)
    assert os.readlink(release / "src/db.sqlite3") == f"{app['root']}/data/shared/db.sqlite3"
    assert not Path(app["root"], "data/shared/db.sqlite3").exists()
    assert owners[Path(app["root"], "data/shared")] == (SHOP, SHOP), "it is made in here"


@pytest.mark.parametrize("served", [True, False])
def test_nginx_reads_what_it_serves_of_them_and_nothing_else(program, app, release, owners, served) -> None:
    write(release / "src", {"media/a.png": ""})
    (release / "src/media/a.png").chmod(0o600)
    (release / "src/media").chmod(0o700)
    shared(app, "media", served)
    program.place(app, release)
    keep = Path(app["root"], "data/shared/media")
    assert (owners[keep], owners[keep / "a.png"]) == ((SHOP, WWW if served else SHOP),) * 2
    assert (mode(keep), mode(keep / "a.png")) == (("2750", "640") if served else ("700", "600"))


def test_a_link_of_the_project_is_no_way_out_of_what_is_kept(program, app, release, owners, tmp_path) -> None:
    """The running process may have put a link where the next release's folder is to be."""
    (tmp_path / "etc").mkdir(exist_ok=True)
    Path(app["root"], "data/shared").mkdir()
    Path(app["root"], "data/shared/deep").symlink_to(tmp_path / "etc")
    shared(app, "deep/er/")
    with pytest.raises(program.Refused, match="leads out of"):
        program.place(app, release)
    assert not (tmp_path / "etc/er").exists()


def test_what_a_kept_link_leads_to_changes_no_hands(program, app, release, owners, tmp_path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("")
    secret.chmod(0o600)
    (release / "src/var").mkdir()
    (release / "src/var/link").symlink_to(secret)
    shared(app, "var", served=True)
    program.place(app, release)
    assert secret not in owners
    assert mode(secret) == "600"
    assert (Path(app["root"], "data/shared/var/link")).is_symlink()


# --- seal ----------------------------------------------------------------------------------------------------------------


def test_a_sealed_release_is_roots_and_readable_by_all(program, app, release, owners) -> None:
    write(release, {"src/.git/config": "", "src/a.py": "", "src/run.sh": "", "src/deep/b.py": "", "venv/bin/tool": ""})
    for name, before in {"src/a.py": 0o666, "src/run.sh": 0o4711, "src/deep/b.py": 0o600, "venv/bin/tool": 0o700}.items():
        (release / name).chmod(before)
    (release / "src/deep").chmod(0o2777)
    program.seal(app, release, "c0ffee")
    assert not (release / "src/.git").exists()
    assert {name: mode(release / name) for name in ("src/a.py", "src/run.sh", "src/deep", "src/deep/b.py", "venv/bin/tool", ".")} == {
        "src/a.py": "644", "src/run.sh": "755", "src/deep": "755", "src/deep/b.py": "644", "venv/bin/tool": "755", ".": "755"}
    assert set(owners.values()) == {ROOT}
    assert {release, release / "src/deep/b.py", release / "venv/bin/tool"} <= owners.keys()


def test_what_links_lead_to_is_left_alone(program, app, release, owners, tmp_path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("")
    (outside / "secret").chmod(0o600)
    (release / "src/folder").symlink_to(outside)
    (release / "src/file").symlink_to(outside / "secret")
    program.seal(app, release, "c0ffee")
    assert mode(outside / "secret") == "600"
    assert not {path for path in owners if path.is_relative_to(outside)}
    assert owners[release / "src/file"] == ROOT, "the link itself"


def test_a_secret_file_is_for_the_processes_alone(program, app, release, owners) -> None:
    write(release, {"src/secret.py": "", "src/public.py": ""})
    app["files"] = [{"dest": "secret.py", "secret": True}, {"dest": "public.py", "secret": False}]
    program.seal(app, release, "c0ffee")
    assert (mode(release / "src/secret.py"), owners[release / "src/secret.py"]) == ("640", (0, SHOP))
    assert (mode(release / "src/public.py"), owners[release / "src/public.py"]) == ("644", ROOT)


@pytest.mark.parametrize(("name", "where", "group"), [
    ("cache", "src/cache", SHOP),
    ("index/new", "src/index/new", SHOP),
    ("theme", "src/theme", WWW),
    ("{static}/CACHE", "static/CACHE", WWW),
])
def test_what_may_be_written_is_the_processes_own(program, app, release, owners, name, where, group) -> None:
    write(release, {"src/cache/deep/old": "", "src/theme/a.css": "", "static/a.css": ""})
    app |= {"writable": [name.replace("{static}", app["static"])], "served": ["theme"]}
    program.seal(app, release, "c0ffee")
    assert owners[release / where] == (SHOP, group)
    assert all(owners[path] == (SHOP, group) for path in (release / where).rglob("*"))
    assert mode(release / where) == ("2755" if group == WWW else "755")
    others = {path: who for path, who in owners.items() if not path.is_relative_to(release / where)}
    assert set(others.values()) == {ROOT}


def test_a_link_is_nothing_that_may_be_written(program, app, release, owners, tmp_path) -> None:
    (release / "src/cache").symlink_to(tmp_path)
    app["writable"] = ["cache"]
    with pytest.raises(program.Refused, match=r"app_writable_paths: 'cache' is a link in the repository"):
        program.seal(app, release, "c0ffee")
    assert tmp_path not in owners


def test_a_release_says_what_it_was_made_of_last_of_all(program, app, release, owners, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(os, "sync", lambda: seen.append((release / "manifest.json").exists()))
    program.seal(app, release, "c0ffee")
    manifest = json.loads((release / "manifest.json").read_text())
    assert seen == [False], "it is on the disk before it counts"
    assert {name: manifest[name] for name in ("id", "source", "from", "version", "commit")} == {
        "id": "r1", "source": "git", "from": "https://x.test/shop", "version": "v1", "commit": "c0ffee"}


# --- fetch ---------------------------------------------------------------------------------------------------------------


class Repository:
    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *words: str) -> str:
        command = ["git", "-c", "user.name=test", "-c", "user.email=test@shop.test", "-c", "protocol.file.allow=always", *words]
        return subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, files: dict[str, str]) -> str:
        write(self.folder, files)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=test")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path, app, monkeypatch) -> Repository:
    # As on the host, where the template of this file says what git may do.
    write(Path(app["config"]), {"gitconfig": "[protocol \"file\"]\n\tallow = always\n[safe]\n\tdirectory = *\n"})
    found = Repository(tmp_path / "repository")
    app["repo"] = f"file://{found.folder}"
    return found


def test_the_source_is_that_of_the_commit(program, app, release, repository) -> None:
    first = repository.commit({"a.py": "1"})
    repository.commit({"a.py": "2"})
    write(release / "src", {"left/from/before": ""})
    program.fetch(app, release, first)
    assert {path.name for path in (release / "src").iterdir()} == {".git", "a.py"}
    assert (release / "src/a.py").read_text() == "1"


def test_a_server_that_hands_out_no_single_commit(program, app, release, repository, monkeypatch) -> None:
    first = repository.commit({"a.py": "1"})
    repository.commit({"a.py": "2"})
    run, asked = program.run, []

    def server(*argv, **more):
        asked.append(argv)
        if argv[:2] == ("git", "fetch") and first in argv:
            raise program.Refused("Server does not allow request for unadvertised object")
        run(*argv, **more)

    monkeypatch.setattr(program, "run", server)
    program.fetch(app, release, first)
    assert (release / "src/a.py").read_text() == "1"
    assert any("--tags" in argv for argv in asked)


def test_submodules_come_too(program, app, release, repository, tmp_path) -> None:
    other = Repository(tmp_path / "other")
    other.commit({"b.py": "b"})
    repository.git("submodule", "--quiet", "add", f"file://{other.folder}", "vendor/other")
    program.fetch(app, release, repository.commit({"a.py": "a"}))
    assert (release / "src/vendor/other/b.py").read_text() == "b"


def test_a_commit_that_is_not_there_is_a_sentence(program, app, release, repository) -> None:
    repository.commit({"a.py": "1"})
    with pytest.raises(program.Refused, match="`git checkout --quiet --detach " + "0" * 40 + "` exited with"):
        program.fetch(app, release, "0" * 40)


def test_a_package_from_an_index_has_no_source(program, app, release) -> None:
    write(release / "src", {"left": ""})
    program.fetch(app | {"source": "pypi"}, release, "")
    assert not list((release / "src").iterdir())


@pytest.mark.parametrize("key", [True, False])
def test_git_asks_nobody_and_trusts_only_known_servers(program, app, key) -> None:
    Path(app["config"]).mkdir(parents=True)
    if key:
        Path(app["config"], "deploy_key").touch()
    found = program.git_environment(app)
    assert found["GIT_TERMINAL_PROMPT"] == "0"
    assert "-o BatchMode=yes -o StrictHostKeyChecking=yes " in found["GIT_SSH_COMMAND"]
    assert f"UserKnownHostsFile={app['config']}/known_hosts" in found["GIT_SSH_COMMAND"]
    assert (f"-o IdentitiesOnly=yes -o IdentityFile={app['config']}/deploy_key" in found["GIT_SSH_COMMAND"]) is key


# --- lock_tool -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tool(program, tmp_path, monkeypatch):
    """Asks for a program that reads lock files; what uv was told is in `calls`."""
    lock = tmp_path / "tools/pipenv.txt"
    write(lock.parent, {lock.name: "pipenv==1 --hash=sha256:00\n"})
    monkeypatch.setattr(program, "TOOLS", lock.parent)

    def ask():
        return program.lock_tool("pipenv", {"UV_CACHE_DIR": str(tmp_path / "home/uv")})

    ask.lock, ask.calls = lock, []
    monkeypatch.setattr(program, "run", lambda *argv, **more: ask.calls.append((argv, more)))
    monkeypatch.setattr(program.Path, "touch", lambda path, touch=Path.touch: (path.parent.mkdir(parents=True, exist_ok=True), touch(path)))
    return ask


def test_a_lock_tool_is_installed_by_hash_and_once(tool) -> None:
    path = tool()
    (venv, _), (install, more) = tool.calls
    assert {"--require-hashes", "--no-config"} <= set(install) and install[-1] == tool.lock
    assert path.parent.parent == venv[-1] == Path(more["env"]["VIRTUAL_ENV"])
    assert tool() == path
    assert len(tool.calls) == 2


def test_another_list_makes_another_tool(tool) -> None:
    path = tool()
    tool.lock.write_text("pipenv==2 --hash=sha256:00\n")
    assert tool() != path
    assert len(tool.calls) == 4


def test_a_lock_tool_that_was_cut_off_is_installed_again(program, tool, monkeypatch) -> None:
    def fail(*argv, **more):
        if "venv" not in argv:
            raise program.Refused("no network")
        argv[-1].mkdir(parents=True)

    with monkeypatch.context() as patch:
        patch.setattr(program, "run", fail)
        with pytest.raises(program.Refused):
            tool()
    tool()
    assert len(tool.calls) == 2
