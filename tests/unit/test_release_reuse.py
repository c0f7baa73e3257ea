"""A release whose packages are those of the live one copies its environment: by the real uv, with small wheels in a folder and no network."""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
release_host = importlib.import_module("release_host")
UV = release_host.find_uv()
pytestmark = pytest.mark.skipif(not UV, reason="there is no uv to install packages with")


def wheel(folder: Path, name: str, version: str, requires: str = "", body: str = "") -> Path:
    """A package with one module and a command of its name that says which environment it runs in."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"import sys\n{body}\n\ndef main():\n    print(sys.prefix)\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + (f"Requires-Dist: {requires}\n" if requires else ""),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n",
    }
    record = [f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}" for path, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"]) + "\n"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as sink:
        for each, text in files.items():
            sink.writestr(zipfile.ZipInfo(each, (2030, 5, 17, 10, 0, 0)), text)
    return path


class Kit:
    """The releases of one application, each made as on a host."""

    def __init__(self, base: Path, steps):
        self.steps, self.root, self.wheels, self.tools = steps, base / "srv/notes", base / "wheels", base / "tools"
        self.app = {"root": str(self.root), "source": "git", "project_dir": ".", "requirements": "auto", "extras": [], "groups": [], "extra": [], "index": "",
                    "python": sys.executable, "guard": {"mode": "off"}}
        self.tools.mkdir()
        (self.tools / "argon2-cffi.txt").touch()
        for name, version in (("apple", "1.0"), ("pear", "1.0")):
            wheel(self.wheels, name, version, requires="pear" if name == "apple" else "")
        self.pin_gunicorn("23.0")

    def pin_gunicorn(self, version: str) -> None:
        digest = hashlib.sha256(wheel(self.wheels, "gunicorn", version).read_bytes()).hexdigest()
        (self.tools / "gunicorn.txt").write_text(f"gunicorn=={version} \\\n    --hash=sha256:{digest}\n")

    def build(self, name: str, requirements: str) -> Path:
        """Make a release; return its environment."""
        release = self.root / "releases" / name
        (release / "src").mkdir(parents=True, exist_ok=True)
        (release / "src/requirements.txt").write_text(requirements)
        self.steps.install(self.app, release)
        return release / "venv"

    def serve(self, name: str, requirements: str) -> Path:
        """Make a release and have it serve; a file that no package brought tells its environment from others."""
        venv = self.build(name, requirements)
        colour = self.root / "colours/blue"
        colour.mkdir(parents=True)
        (colour / "release").symlink_to(f"../../releases/{name}")
        (self.root / "live").symlink_to("colours/blue")
        (self.packages(venv) / "mark").touch()
        return venv

    def packages(self, venv: Path) -> Path:
        (found,) = venv.glob("lib/python3*/site-packages")
        return found

    def copied(self, venv: Path) -> bool:
        return (self.packages(venv) / "mark").exists()

    def listed(self, venv: Path) -> dict[str, str]:
        answer = subprocess.run([UV, "pip", "list", "--no-config", "--format=json", f"--python={venv}"], capture_output=True, check=True)
        return {row["name"]: row["version"] for row in json.loads(answer.stdout)}


@pytest.fixture
def kit(tmp_path, monkeypatch, tmp_path_factory) -> Kit:
    steps = release_host.load("release_steps", release_host.FILES / "release_steps.py")
    found = Kit(tmp_path, steps)
    monkeypatch.setattr(steps, "UV", UV)
    monkeypatch.setattr(steps, "TOOLS", found.tools)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    # As little as there is to compile, there is no need to.
    build_environment = steps.build_environment
    monkeypatch.setattr(steps, "build_environment", lambda release: build_environment(release) | {"UV_COMPILE_BYTECODE": "0"})
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX", "VIRTUAL_ENV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(found.wheels))
    return found


def test_the_same_packages_are_copied_and_know_nothing_of_where_they_were(kit, capfd) -> None:
    old = kit.serve("old", "apple==1.0\n")
    # Commands that a build step may have left: a link, a file that cannot be written, a folder.
    (old / "bin/link").symlink_to("apple")
    (old / "bin/apple").chmod(0o555)
    (old / "bin/folder").mkdir()
    capfd.readouterr()
    new = kit.build("new", "# the same\napple==1.0\n")
    assert kit.copied(new)
    assert "packages: the same as those of old" in capfd.readouterr().out
    assert kit.listed(new) == {"apple": "1.0", "pear": "1.0", "gunicorn": "23.0"}
    for path in (new / "bin").rglob("*"):
        assert path.is_dir() or str(old).encode() not in path.read_bytes(), path
    assert str(old) not in (new / "pyvenv.cfg").read_text()
    # Which is why it runs without the other.
    shutil.rmtree(old.parent)
    for name in ("apple", "gunicorn"):
        assert subprocess.run([new / "bin" / name], capture_output=True, text=True, check=True).stdout.strip() == str(new)
    assert (new / "bin/link").readlink() == Path("apple")
    assert (new / "bin/apple").stat().st_mode & 0o777 == 0o755, "who copies it may write it"


def test_the_first_release_has_nothing_to_copy(kit) -> None:
    assert not kit.copied(kit.build("new", "apple==1.0\n"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("apple==1.0 pear==1.0", "apple==1.0 pear==2.0", id="another version"),
        pytest.param("pear==2.0", "pear==1.0", id="an older one"),
        pytest.param("pear==1.0", "pear==1.0 plum==1.0", id="one more"),
        pytest.param("pear==1.0 plum==1.0", "pear==1.0", id="one less"),
    ],
)
def test_other_packages_are_installed(kit, before, after) -> None:
    wheel(kit.wheels, "pear", "2.0")
    wheel(kit.wheels, "plum", "1.0")
    kit.serve("old", "\n".join(before.split()) + "\n")
    new = kit.build("new", "\n".join(after.split()) + "\n")
    assert not kit.copied(new)
    assert kit.listed(new) == dict(word.split("==") for word in [*after.split(), "gunicorn==23.0"])


def test_a_list_without_versions_gets_its_updates(kit) -> None:
    kit.serve("old", "pear\n")
    assert kit.copied(kit.build("new", "pear\n"))
    wheel(kit.wheels, "pear", "2.0")
    new = kit.build("newer", "pear\n")
    assert not kit.copied(new)
    assert kit.listed(new)["pear"] == "2.0"


def test_what_the_inventory_adds_counts_too(kit) -> None:
    kit.app["extra"] = ["pear"]
    kit.serve("old", "gunicorn==23.0\n")
    assert kit.copied(kit.build("new", "gunicorn==23.0\n"))
    kit.app["extra"] = []
    new = kit.build("newer", "gunicorn==23.0\n")
    assert not kit.copied(new)
    assert "pear" not in kit.listed(new)


def test_another_gunicorn_of_the_kit_is_installed(kit) -> None:
    kit.serve("old", "pear\n")
    kit.pin_gunicorn("24.0")
    new = kit.build("new", "pear\n")
    assert not kit.copied(new)
    assert kit.listed(new)["gunicorn"] == "24.0"


def test_the_projects_own_gunicorn_stays(kit) -> None:
    kit.pin_gunicorn("22.0")
    kit.pin_gunicorn("23.0")
    kit.serve("old", "gunicorn==22.0\n")
    new = kit.build("new", "gunicorn==22.0\n")
    assert kit.copied(new)
    assert kit.listed(new) == {"gunicorn": "22.0"}
    # Without one in its list, it is the kit's turn.
    assert kit.listed(kit.build("newer", "pear\n"))["gunicorn"] == "23.0"


@pytest.mark.parametrize("form", ["{path}\n", "pear @ file://{path}\n", "./vendor/{name}\n"])
def test_a_package_from_a_path_is_not_the_same_because_its_version_is(kit, form) -> None:
    """Neither from one to the other, nor from an index to it, nor back."""
    body = wheel(kit.root / "elsewhere", "pear", "1.0", body="ours = True")

    def text(name: str) -> str:
        vendor = kit.root / "releases" / name / "src/vendor"
        vendor.mkdir(parents=True)
        shutil.copy(body, vendor)
        return form.format(path=body, name=body.name)

    kit.serve("old", text("old"))
    new = kit.build("new", text("new"))
    assert not kit.copied(new)
    assert "ours" in (kit.packages(new) / "pear.py").read_text()
    newest = kit.build("newest", "pear==1.0\n")
    assert not kit.copied(newest)
    assert "ours" not in (kit.packages(newest) / "pear.py").read_text()


def test_from_an_index_to_a_path(kit) -> None:
    body = wheel(kit.root / "elsewhere", "pear", "1.0", body="ours = True")
    kit.serve("old", "pear==1.0\n")
    new = kit.build("new", f"{body}\n")
    assert not kit.copied(new)
    assert "ours" in (kit.packages(new) / "pear.py").read_text()


def test_an_environment_that_a_path_file_ties_to_its_place_is_not_copied(kit) -> None:
    old = kit.serve("old", "pear\n")
    (kit.packages(old) / "tied.pth").write_text(f"{old}/lib/more\n")
    assert not kit.copied(kit.build("new", "pear\n"))


def test_another_interpreter_has_an_environment_of_its_own(kit, tmp_path) -> None:
    old = kit.serve("old", "pear\n")
    (tmp_path / "python").write_bytes(b"")
    (old / "bin/python").unlink()
    (old / "bin/python").symlink_to(tmp_path / "python")
    new = kit.build("new", "pear\n")
    assert not kit.copied(new)
    assert (new / "bin/python").resolve() == Path(sys.executable).resolve()


def test_what_cannot_be_installed_is_an_error_also_beside_one_that_serves(kit, capfd) -> None:
    kit.serve("old", "pear\n")
    with pytest.raises(kit.steps.Refused, match="exited with"):
        kit.build("new", "pear==9\n")
    assert "pear==9" in capfd.readouterr().err
