"""What drills share: commits of the demo project that exist for a test only, playbooks that deploy them, and the backups."""

from __future__ import annotations

import datetime
import json
import re
import subprocess
import time
from pathlib import Path

import pytest
from backups import Backups

BRANCH = "drill"
SETTINGS = "src/config/settings/production.py"


class Source:
    """The demo's repository, with a branch of its own for the drill."""

    def __init__(self, lab, folder: Path):
        self.bare, self.folder = lab.dir / "git/notes.git", folder
        self.git("clone", "--quiet", str(self.bare), str(folder), cwd=lab.dir)
        self.first = self.git("rev-parse", "v1.0.0^{commit}")

    def git(self, *words: str, cwd: Path | None = None) -> str:
        command = ["git", "-c", "user.name=drill", "-c", "user.email=drill@notes.test", *words]
        return subprocess.run(command, cwd=cwd or self.folder, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, files: dict[str, str] | None = None, settings: str = "", parent: str = "") -> str:
        """Commit files (path to text) and lines for the settings on top of `parent` (v1.0.0), and return the commit."""
        self.git("checkout", "--quiet", "--detach", parent or self.first)
        for name, text in (files or {}).items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        if settings:
            with (self.folder / SETTINGS).open("a") as sink:
                sink.write(f"\n{settings}\n")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message=drill")
        self.git("push", "--quiet", "--force", "origin", f"HEAD:refs/heads/{BRANCH}")
        return self.git("rev-parse", "HEAD")


class Releases:
    """The application's releases as an operator deploys and sees them."""

    def __init__(self, lab, host):
        self.lab, self.host = lab, host
        self.name = lab.vars(lab.web)["app_name"]

    def deploy(self, version: str, **values):
        return self.lab.playbook("playbooks/deploy.yml", "--extra-vars", json.dumps({"app_version": version, **values}), check=False)

    def rollback(self, **values):
        return self.lab.playbook("playbooks/rollback.yml", "--extra-vars", json.dumps(values), check=False)

    def start(self, version: str, **values):
        """A deploy that nobody waits for."""
        return self.lab.start("playbooks/deploy.yml", "--extra-vars", json.dumps({"app_version": version, **values}))

    def wait_for_step(self, step: str, seconds: float = 60) -> None:
        """Until the deploy that is under way has reached a step."""
        deadline = time.monotonic() + seconds
        while f'"step": "{step}"' not in self.host.run(f"cat /var/lib/redoubt/{self.name}/claim.json").stdout:
            assert time.monotonic() < deadline, f"step {step!r} was not reached"
            time.sleep(0.1)

    def forget_migrations(self) -> None:
        """Take back what the drill's migrations have made, as nothing of the kit does."""
        self.host.check_output(f"rm -f /var/lib/redoubt/{self.name}/migrations.json")
        self.sql("delete from django_migrations where app = 'notes' and name like '%drill%'; drop table if exists notes_drill")

    @staticmethod
    def told(done) -> str:
        """What a playbook printed, on one line."""
        return re.sub(r"\s+", " ", done.stdout + done.stderr)

    @property
    def live(self) -> str:
        return self.host.check_output(f"basename $(readlink -f /srv/{self.name}/live/release)")

    @property
    def commit(self) -> str:
        return json.loads(self.host.check_output(f"cat /srv/{self.name}/live/release/manifest.json"))["commit"]

    @property
    def journal(self) -> list[dict]:
        return [json.loads(line) for line in self.host.check_output(f"cat /var/lib/redoubt/{self.name}/journal.jsonl").splitlines()]

    def sql(self, statement: str) -> str:
        return self.host.check_output(f"runuser -u postgres -- psql -XAtq -d {self.name} -c \"{statement}\"")


@pytest.fixture(scope="module")
def source(lab, tmp_path_factory):
    if lab.vars(lab.web)["app_repo"].rsplit("/", 1)[-1] != "notes.git":
        pytest.skip("these commits are of the demo project")
    found = Source(lab, tmp_path_factory.mktemp("source") / "notes")
    yield found
    subprocess.run(["git", "-C", str(found.bare), "branch", "--quiet", "-D", BRANCH], check=False)


@pytest.fixture(scope="module")
def releases(lab, source):
    """At the end the inventory's own release serves again, and what the drill's migrations left is gone."""
    host = lab.host(lab.web)
    found = Releases(lab, host)
    yield found
    found.forget_migrations()
    done = lab.playbook("playbooks/deploy.yml")
    assert done.returncode == 0
    assert lab.playbook("playbooks/deploy.yml").stdout.count("changed=0") == 1


@pytest.fixture(scope="module")
def backups(lab):
    if not lab.groups.get("backups"):
        pytest.skip("no host of this inventory keeps backups")
    found = Backups(lab)
    # The first backup is made while site.yml ends.
    found.store.check_output(f"systemctl start redoubt-backup-database@{found.name}.service")
    return found


@pytest.fixture
def expired(lab):
    """Gives a host a certificate that ended yesterday, of the environment's own CA, for the key that it has."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    pem, authority_key = lab.vars(lab.web)["pki_ca_certificate"], lab.vars(lab.web)["vault_pki_ca_key"]
    authority, key = x509.load_pem_x509_certificate(pem.encode()), serialization.load_pem_private_key(authority_key.encode(), None)
    path = "/etc/redoubt/pki/host.pem"

    def end(host) -> None:
        own = x509.load_pem_x509_certificate(host.check_output(f"cat {path}").encode())
        now = datetime.datetime.now(datetime.UTC)
        made = x509.CertificateBuilder(authority.subject, own.subject, own.public_key(), x509.random_serial_number(),
                                       now - datetime.timedelta(days=700), now - datetime.timedelta(days=1))
        for extension in own.extensions:
            made = made.add_extension(extension.value, extension.critical)
        text = made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
        host.check_output(f"cat >{path} <<'END'\n{text}END")

    return end


# --- Tables: what a drill measured, printed at the end and kept beside the code, not in it -------------------------------

TABLES: dict[str, list[dict]] = {}


@pytest.fixture
def table():
    """Add a row of figures to the table of a drill."""
    return lambda name, row: TABLES.setdefault(name, []).append(row)


def pytest_terminal_summary(terminalreporter):
    folder = Path(__file__).resolve().parents[2] / "drill"
    for name, rows in TABLES.items():
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(rows, indent=2) + "\n")
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines = [columns, *([str(row.get(column, "")) for column in columns] for row in rows)]
        widths = [max(len(line[number]) for line in lines) for number in range(len(columns))]
        terminalreporter.write_sep("-", name)
        for line in lines:
            terminalreporter.write_line("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
