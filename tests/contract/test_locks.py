"""Every kind of requirements file, installed by the host's own program in the sandbox of a build (molecule/projects/locks)."""

from __future__ import annotations

import json
import shlex
import subprocess

import pytest

CONFIG = "/etc/installed"
RELEASES = "/srv/installed/releases"
# Of each kind another version of the same package, so that what was installed says what was read.
KINDS = {
    "uv.lock": ("0.5.3", {"groups": ["prod"], "extras": ["postgres"]}),
    "poetry.lock": ("0.6.0", {"groups": ["prod"], "extras": ["postgres"]}),
    "Pipfile.lock": ("0.5.5", {"groups": ["prod", "postgres"], "extras": []}),
    "requirements.txt": ("0.5.2", {"groups": [], "extras": [], "extra": ["psycopg[binary]==3.3.9"]}),
    "pyproject.toml": (None, {"groups": ["prod"], "extras": ["postgres"]}),
}
NOWHERE = "https://index.nowhere.test/simple"


@pytest.fixture(scope="module")
def locks(lab):
    return lab.host("locks1")


class Bench:
    """A release of its own beside the live one, in which the requirements are installed one way after another."""

    def __init__(self, host, name: str):
        self.host, self.name = host, name
        self.path = f"{RELEASES}/{name}"
        self.app = json.loads(host.file(f"{CONFIG}/release.json").content_string)
        self.commit = json.loads(host.file("/srv/installed/live/release/manifest.json").content_string)["commit"]
        host.check_output(f"install -d -o installed_build -g installed_build {self.path}")
        self.run("fetch", self.commit)

    def run(self, step: str, *words: str, **values):
        text = json.dumps({**self.app, **values})
        file = f"{CONFIG}/{self.name}.json"
        self.host.check_output(f"printf %s {shlex.quote(text)} >{file}; chgrp installed_build {file}; chmod 0640 {file}")
        command = " ".join(["/usr/local/lib/redoubt/release", file, step, self.name, *words])
        # The role gives `fetch` the deploy key by its command line; here is none to give.
        return self.host.run(f"/usr/local/lib/redoubt/installed-run build {self.name} {shlex.quote(command)}")

    def packages(self) -> dict[str, str]:
        code = "import importlib.metadata as m, json; print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"
        return json.loads(self.host.check_output(f'{self.path}/venv/bin/python -c "{code}"'))

    def remove(self):
        self.host.check_output(f"rm -r {self.path} {CONFIG}/{self.name}.json")


@pytest.fixture(scope="module")
def bench(locks):
    found = Bench(locks, "bench")
    yield found
    found.remove()


def test_the_repository_is_on_the_hosts_own_disk(locks, lab) -> None:
    """app_repo: file:///, of root's, with a submodule beside it; fetched by the build user."""
    manifest = json.loads(locks.file("/srv/installed/live/release/manifest.json").content_string)
    argv = ["git", "--git-dir", str(lab.dir / "git/locks.git"), "rev-parse", "v2.0.0^{commit}"]
    commit = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    assert (manifest["from"], manifest["version"], manifest["commit"]) == ("file:///srv/git/locks.git", "v2.0.0", commit)
    assert locks.check_output("stat -c %U:%G /srv/git/locks.git /srv/git/ini.git").split() == ["root:root"] * 2
    assert locks.file("/srv/installed/live/release/src/theme/settings.py").exists


def test_the_live_release_has_the_lock_that_auto_takes_first(browse) -> None:
    answer = browse("locks1").get("https://installed.test/").json()
    assert answer["packages"]["sqlparse"] == KINDS["uv.lock"][0]
    assert (answer["database"], answer["models"]) == ("postgresql", 4)
    assert "django-debug-toolbar" not in answer["packages"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_this_kind_is_installed_as_it_says(bench, kind) -> None:
    """app_requirements, _groups, _extras, _extra: the named ones and no others, and a gunicorn where there is none."""
    version, values = KINDS[kind]
    done = bench.run("install", requirements=kind, **values)
    assert done.rc == 0, done.stdout + done.stderr
    assert f"requirements: {kind}\n" in done.stdout
    packages = bench.packages()
    assert version is None or packages["sqlparse"] == version
    assert {"django", "gunicorn", "psycopg", "psycopg-binary", "python-json-logger"} <= set(packages)
    assert "django-debug-toolbar" not in packages


@pytest.mark.parametrize("kind", ["uv.lock", "poetry.lock", "Pipfile.lock"])
def test_groups_and_extras_that_are_not_named_stay_out(bench, kind) -> None:
    done = bench.run("install", requirements=kind, groups=[], extras=[])
    assert done.rc == 0, done.stdout + done.stderr
    assert not {"psycopg", "python-json-logger", "django-debug-toolbar"} & set(bench.packages())


@pytest.mark.parametrize("kind", KINDS)
def test_the_inventorys_index_is_asked_and_no_other(bench, kind) -> None:
    """app_pip_index: over the `-i` that Pipfile.lock, poetry.lock or a requirements file begin with, and over uv.lock's own addresses."""
    done = bench.run("install", requirements=kind, index=NOWHERE, **KINDS[kind][1])
    assert done.rc != 0
    assert NOWHERE.removesuffix("/simple") in done.stdout + done.stderr
    assert "pypi.org" not in done.stdout + done.stderr


@pytest.fixture
def uv_settings(bench):
    """Settings for uv in the project's own pyproject.toml, under which nothing can be installed."""
    file = f"{bench.path}/src/pyproject.toml"
    constraint = """[tool.uv]\\nindex-url = "https://index.nowhere.test/simple"\\nconstraint-dependencies = ["sqlparse<0.1"]"""
    bench.host.check_output(f"cp -p {file} {file}.kept && sed -i 's|^.tool.uv.$|{constraint}|' {file} && grep -q nowhere {file}")
    yield
    bench.host.check_output(f"mv {file}.kept {file}")


@pytest.mark.parametrize("kind", ["poetry.lock", "Pipfile.lock", "requirements.txt"])
@pytest.mark.usefixtures("uv_settings")
def test_settings_for_uv_are_not_for_others_files(bench, kind) -> None:
    done = bench.run("install", requirements=kind, **KINDS[kind][1])
    assert done.rc == 0, done.stdout + done.stderr
    assert bench.packages()["sqlparse"] == KINDS[kind][0]


@pytest.mark.usefixtures("uv_settings")
def test_they_are_for_its_pyproject(bench) -> None:
    done = bench.run("install", requirements="pyproject.toml", **KINDS["pyproject.toml"][1])
    assert done.rc != 0
    assert "sqlparse" in done.stderr or "nowhere" in done.stderr


@pytest.fixture
def package(bench):
    """The project as a package that is built, not only a list of what it needs."""
    file = f"{bench.path}/src/pyproject.toml"
    built = '\\n[build-system]\\nrequires = ["setuptools>=77"]\\nbuild-backend = "setuptools.build_meta"\\n\\n[tool.setuptools]\\npackages = ["installed"]\\n'
    bench.host.check_output(f"cp -p {file} {file}.kept && printf '{built}' >>{file}")
    yield
    bench.host.check_output(f"mv {file}.kept {file}")


@pytest.mark.usefixtures("package")
def test_a_project_that_is_a_package_is_installed_with_its_extras(bench) -> None:
    """app_requirements_extras and _groups of a pyproject.toml with a build system."""
    done = bench.run("install", requirements="pyproject.toml", **KINDS["pyproject.toml"][1])
    assert done.rc == 0, done.stdout + done.stderr
    packages = bench.packages()
    assert {"installed", "django", "psycopg", "python-json-logger"} <= set(packages), packages
    assert "django-debug-toolbar" not in packages


def test_the_inventorys_interpreter_is_taken_and_no_other(bench) -> None:
    """app_python."""
    done = bench.run("install", python="/usr/bin/python3.99")
    assert done.rc != 0
    assert "/usr/bin/python3.99" in done.stderr


def test_a_file_that_is_not_there_is_a_sentence(bench) -> None:
    done = bench.run("install", requirements="requirements/live.txt")
    assert done.rc != 0
    assert "app_requirements: 'requirements/live.txt' is not in the repository" in done.stderr


def test_without_login_admin_static_files_and_uploads_nothing_is_made_up(locks, browse) -> None:
    """app_login_paths, app_admin_path, app_static, app_media: empty."""
    https = browse("locks1")
    for path in ("/admin/", "/static/x.css", "/media/x", "/accounts/login/"):
        assert https.get(f"https://installed.test{path}").status_code == 404, path
    assert "alias" not in locks.file("/etc/nginx/sites-enabled/https.conf").content_string
