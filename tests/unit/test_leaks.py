"""The scan of `make lint` for secrets: red on what is planted, in the tree and in a past commit, and never with the value."""

from __future__ import annotations

import base64
import pathlib
import re
import secrets
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def random() -> str:
    """New each time, so that nothing of this file is a finding."""
    return "7a" + base64.b32encode(secrets.token_bytes(20)).decode().lower() + "Z9"


def key() -> str:
    made = ec.generate_private_key(ec.SECP256R1())
    return made.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()


class Repository:
    def __init__(self, folder):
        self.folder = folder
        self.write(".config/leaks/reviewed.yml", "[]\n")
        self.write(".gitignore", "/.lab/\n")
        self.write("README.md", "# Nothing to see\n")
        self.git("init", "-q", "-b", "main")
        self.commit()

    def git(self, *arguments):
        identity = ["-c", "user.name=test", "-c", "user.email=test@test", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", *identity, *arguments], cwd=self.folder, capture_output=True, text=True, check=True).stdout.strip()

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def commit(self):
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "work")
        return self.git("rev-parse", "HEAD")

    def scan(self, folder=None):
        done = subprocess.run([sys.executable, ROOT / "tests/leaks.py", folder or self.folder], capture_output=True, text=True, check=False)
        done.text = done.stdout + done.stderr
        return done


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path / "repository")


def test_nothing_planted_is_green(repository):
    answer = repository.scan()
    assert (answer.returncode, answer.stderr) == (0, ""), answer.text
    assert "0 values that look like secrets" in answer.stdout


PLANTED = {
    "inventories/production/group_vars/all/main.yml": "vault_app_secret_key: {}\n",
    "inventories/production/group_vars/all/more.yml": "app_secret_key: '{}'\n",
    ".env.production": "EMAIL_HOST_PASSWORD={}\n",
    "settings.py": 'SECRET_KEY = "{}"\n',
    "notes.md": "    DATABASE_URL=postgres://app:{}@db.our-site.net/app\n",
    "key.pem": "{}",
}


@pytest.mark.parametrize("past", [False, True])
def test_what_is_planted_is_found(repository, past):
    values = {name: key() if name == "key.pem" else random() for name in PLANTED}
    for name, text in PLANTED.items():
        repository.write(name, text.format(values[name]))
    if past:
        planted = repository.commit()
        for name in PLANTED:
            (repository.folder / name).unlink()
        repository.commit()
    answer = repository.scan()
    assert answer.returncode == 1, answer.text
    for name, value in values.items():
        assert re.search(rf"(?m)^{re.escape(name)}:\d+: .*{f'in the history, commit {planted[:12]}' if past else ''}", answer.stderr), (name, answer.text)
        assert not [line for line in value.splitlines() if line in answer.text and "-----" not in line]
    assert past or "history, commit" not in answer.stderr


def test_what_git_ignores_and_what_was_never_pushed_is_nobodys_business(repository):
    repository.write(".lab/key.pem", key())
    repository.git("checkout", "-q", "-b", "elsewhere")
    repository.write("key.pem", key())
    repository.commit()
    repository.git("checkout", "-q", "main")
    assert repository.scan().returncode == 0


def test_a_work_tree_of_its_own(repository, tmp_path):
    repository.write("key.pem", key())
    repository.commit()
    (repository.folder / "key.pem").unlink()
    repository.commit()
    repository.git("worktree", "add", "-q", tmp_path / "beside")
    answer = repository.scan(tmp_path / "beside")
    assert answer.returncode == 1 and "key.pem:1: " in answer.stderr and "in the history" in answer.stderr


def test_what_was_reviewed_is_let_pass_and_nothing_else(repository):
    value = random()
    repository.write("tests.py", f"vault_a: {value}\n")
    answer = repository.scan()
    entry = re.search(r"`(- \{.*, why: )…\}`", answer.stderr)[1]
    repository.write(".config/leaks/reviewed.yml", f"{entry}an example}}\n")
    assert repository.scan().returncode == 0
    # Without a reason it counts for nothing; the same value elsewhere, and another at this place, are others.
    repository.write(".config/leaks/reviewed.yml", f"{entry}}}\n")
    assert repository.scan().returncode == 1
    repository.write(".config/leaks/reviewed.yml", f"{entry}an example}}\n")
    repository.write("more.py", f"vault_a: {value}\n")
    answer = repository.scan()
    assert answer.returncode == 1 and answer.stderr.startswith("more.py:1: ")
    (repository.folder / "more.py").unlink()
    repository.write("tests.py", f"vault_a: {random()}\n")
    answer = repository.scan()
    assert "tests.py:1: " in answer.stderr and "tests.py has nothing with the mark" in answer.stderr


def test_a_shallow_clone_says_what_it_did_not_see(repository, tmp_path):
    repository.write("key.pem", key())
    repository.commit()
    (repository.folder / "key.pem").unlink()
    repository.commit()
    subprocess.run(["git", "clone", "-q", "--depth", "1", repository.folder.as_uri(), tmp_path / "shallow"], check=True)
    answer = repository.scan(tmp_path / "shallow")
    assert answer.returncode == 0 and "this clone is shallow, and only 1 of its commits could be looked at. `git fetch --unshallow`" in answer.stdout


def test_without_a_history_the_files_are_read_all_the_same(repository):
    subprocess.run(["rm", "-r", repository.folder / ".git"], check=True)
    answer = repository.scan()
    assert answer.returncode == 0 and "there is no git history here" in answer.stdout
    repository.write("key.pem", key())
    answer = repository.scan()
    assert answer.returncode == 1 and "key.pem:1: " in answer.stderr


def test_a_scan_that_does_not_run_is_red(repository):
    (repository.folder / ".config/leaks/reviewed.yml").unlink()
    assert repository.scan().returncode != 0
