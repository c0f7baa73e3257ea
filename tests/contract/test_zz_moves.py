"""A branch that moves: what a new commit changes, what outlives it, and what a broken one does not change."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

URL = "https://catalogue.test"
LIVE = "/srv/catalogue/live"


class Branch:
    """The branch `main` of the lab's repository; `push` replaces files of its first commit."""

    def __init__(self, repository: Path):
        self.environment = {
            **os.environ,
            "GIT_DIR": str(repository),
            "GIT_INDEX_FILE": str(repository.parent.parent / "moves.index"),
            "GIT_CONFIG_GLOBAL": "/dev/null",
            **{
                f"GIT_{who}_{what}": value
                for who in ("AUTHOR", "COMMITTER")
                for what, value in (("NAME", "Lab"), ("EMAIL", "lab@example.test"))
            },
        }
        self.first = self.git("rev-parse", "refs/tags/v1.0.0")

    def git(self, *words: str, given: str | None = None) -> str:
        done = subprocess.run(["git", *words], env=self.environment, input=given, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def push(self, message: str, **files: str) -> str:
        self.git("read-tree", self.first)
        for name, text in files.items():
            self.git("update-index", "--add", "--cacheinfo", f"100644,{self.git('hash-object', '-w', '--stdin', given=text)},{name}")
        commit = self.git("commit-tree", self.git("write-tree"), "-p", "refs/heads/main", "-m", message)
        self.git("update-ref", "refs/heads/main", commit)
        return commit

    def text(self, name: str) -> str:
        return self.git("show", f"{self.first}:{name}") + "\n"


@pytest.fixture(scope="module")
def ini(lab):
    return lab.host("ini1")


@pytest.fixture(scope="module")
def branch(lab):
    found = Branch(lab.dir / "git/ini.git")
    yield found
    found.git("update-ref", "refs/heads/main", found.first)


@pytest.fixture
def https(browse):
    return browse("ini1")


def deploy(lab, *arguments: str, check: bool = True):
    words = ["playbooks/site.yml", "--limit", "ini1", "-e", f"lab={lab.name}", *arguments]
    return lab.playbook(*words, check=check)


def live(ini) -> dict:
    return json.loads(ini.file(f"{LIVE}/release/manifest.json").content_string)


def releases(ini) -> list[str]:
    return ini.check_output("ls /srv/catalogue/releases").split()


# Each is what somebody pushes one day, and what the run must say of it.
BROKEN = {
    "login answers 500": (
        "urls.py",
        "from books import views\n",
        "from books import views\n\nviews.Login.form_class = 0\n",
        "/login/ answered 500",
    ),
    "does not start": ("wsgi.py", "import os\n", "import os\nimport nothing_of_this_name\n", "nothing_of_this_name"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_release_that_does_not_serve_is_not_switched_to(lab, ini, branch, https, kind) -> None:
    """app_probe_paths (its default: `/` and app_login_paths), app_start_timeout."""
    name, old, new, said = BROKEN[kind]
    before = live(ini), int(https.get(f"{URL}/visits/").text)
    text = branch.text(name)
    assert old in text
    branch.push(kind, **{name: text.replace(old, new, 1)})
    done = deploy(lab, "-e", '{"app_start_timeout": 20}', check=False)
    assert done.returncode != 0
    assert said in done.stdout, done.stdout[-3000:]
    assert "The release that was live still is." in done.stdout
    assert live(ini) == before[0]
    assert int(https.get(f"{URL}/visits/").text) == before[1] + 1
    idle = ini.check_output("systemctl list-units --all --plain --no-legend --state=active 'catalogue@*.service' | wc -l")
    assert idle == "1"


def test_a_new_commit_replaces_the_release_and_nothing_else(lab, ini, branch, https) -> None:
    """app_version: a branch; app_shared_paths, app_setup, app_releases_kept."""
    https.get(URL)
    before, visits = live(ini), int(https.get(f"{URL}/visits/").text)
    setup = ini.check_output("stat -c %Y /var/lib/redoubt/catalogue/setup")
    # Two, so that with the first there are more than are kept.
    for look in ("black", "green"):
        commit = branch.push(f"A new look: {look}", **{"static/site.css": f"body {{ color: {look} }}\n"})
        deploy(lab)
        after = live(ini)
        assert after["commit"] == commit
        assert https.get(f"{URL}/static/site.css").text == f"body {{ color: {look} }}\n"
    assert int(https.get(f"{URL}/visits/").text) == visits + 1
    assert ini.check_output("stat -c %Y /var/lib/redoubt/catalogue/setup") == setup
    assert after["id"] in releases(ini) and before["id"] not in releases(ini)
    assert len(releases(ini)) == lab.vars("ini1")["app_releases_kept"] == 2, releases(ini)


@pytest.mark.parametrize("version", ["main", "commit"])
def test_a_run_without_a_new_commit_changes_nothing(lab, ini, branch, version) -> None:
    """app_version: a branch that did not move, and the full hash of a commit."""
    before = live(ini)
    done = deploy(lab, "-e", f"app_version={branch.git('rev-parse', 'refs/heads/main') if version == 'commit' else version}")
    changed = [line for line in done.stdout.splitlines() if line.startswith("ini1 ") and "changed=" in line]
    assert changed
    if version == "main":
        assert "changed=0 " in changed[0], done.stdout[-3000:]
    assert live(ini)["commit"] == before["commit"]
