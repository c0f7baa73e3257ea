"""The sample projects that the lab deploys: they parse, they are pinned, and there is nothing in them that should not be."""

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest

PROJECTS = Path(__file__).resolve().parents[2] / "molecule/projects"
NAMES = sorted(path.name for path in PROJECTS.iterdir() if path.is_dir())
# What a developer's own runs leave; the projects' .gitignore has them too.
LEFTOVERS = {"__pycache__", ".ruff_cache", ".venv", "db.sqlite3", "media", "staticfiles"}
PINNED = re.compile(r"^[A-Za-z0-9._-]+(\[[a-z,]+\])?==[A-Za-z0-9.]+( ; .+)?( \\)?$")
HASH = re.compile(r"sha256:[0-9a-f]{64}")
# A key or password that somebody could use, and addresses that only exist where the file was made.
UNWANTED = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY|django-insecure|://[^/\s:@]+:[^/\s@]+@|file://|/root/|/home/|/tmp/"
    r"|(?:SECRET_KEY|PASSWORD)\s*=\s*[\"']?[A-Za-z0-9+/_-]{16,}",
    re.IGNORECASE,
)


def files(name, pattern="*"):
    found = [path for path in (PROJECTS / name).rglob(pattern) if path.is_file()]
    return [path for path in found if not LEFTOVERS & set(path.relative_to(PROJECTS).parts)]


def requirements():
    return [path for name in NAMES for path in files(name, "*.txt") if "requirements" in str(path.relative_to(PROJECTS))]


def test_the_projects_are_there():
    assert {"ini", "locks", "notes"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_parses_on_the_oldest_python(name):
    sources = files(name, "*.py")
    assert sources
    for path in sources:
        ast.parse(path.read_text(), str(path), feature_version=(3, 11))


@pytest.mark.parametrize("name", NAMES)
def test_is_a_django_project_with_its_own_tests(name):
    assert len(files(name, "manage.py")) == 1
    assert len(files(name, "wsgi.py")) == 1
    assert files(name, "tests.py") or files(name, "test_*.py")
    assert files(name, "README.md")


@pytest.mark.parametrize("path", requirements(), ids=lambda path: str(path.relative_to(PROJECTS)))
def test_requirements_are_exact(path):
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith(("#", "--hash"))]
    assert lines
    for line in lines:
        if line.startswith("-r "):
            assert (path.parent / line.split()[1]).is_file(), line
        else:
            assert PINNED.match(line), line


def test_locks_have_a_hash_for_everything_and_know_one_index():
    for path in files(".", "uv.lock"):
        for package in tomllib.loads(path.read_text())["package"]:
            if package["source"] == {"virtual": "."}:
                continue
            assert package["source"] == {"registry": "https://pypi.org/simple"}, path
            for file in [package["sdist"], *package["wheels"]] if "sdist" in package else package["wheels"]:
                assert HASH.fullmatch(file["hash"]), path
                assert file["url"].startswith("https://files.pythonhosted.org/"), path
    for package in tomllib.loads((PROJECTS / "locks/poetry.lock").read_text())["package"]:
        assert "source" not in package
        assert package["files"]
        assert all(HASH.fullmatch(file["hash"]) for file in package["files"])
    pipfile = json.loads((PROJECTS / "locks/Pipfile.lock").read_text())
    assert [source["url"] for source in pipfile["_meta"]["sources"]] == ["https://pypi.org/simple"]
    for category in pipfile.keys() - {"_meta"}:
        assert all(package["hashes"] for package in pipfile[category].values()), category


def test_the_locks_can_be_told_apart():
    locks = PROJECTS / "locks"
    versions = {
        "requirements.txt": re.search(r"^sqlparse==(\S+)", (locks / "requirements.txt").read_text(), re.MULTILINE)[1],
        "Pipfile.lock": json.loads((locks / "Pipfile.lock").read_text())["default"]["sqlparse"]["version"].removeprefix("=="),
    }
    for name in ("uv.lock", "poetry.lock"):
        packages = tomllib.loads((locks / name).read_text())["package"]
        versions[name] = next(package["version"] for package in packages if package["name"] == "sqlparse")
    assert len(set(versions.values())) == len(versions), versions


@pytest.mark.parametrize("name", NAMES)
def test_nothing_private_or_made_locally(name):
    for path in files(name):
        assert path.suffix not in {".pyc", ".sqlite3", ".log"}, path
        if path.suffix != ".png":
            found = UNWANTED.search(path.read_text())
            assert found is None, f"{path}: {found[0]}"
