"""What the tests of several hosts share with the drills of releases, with the database where it is."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

DRILL = Path(__file__).resolve().parent.parent / "drill"
sys.path.append(str(DRILL))
spec = importlib.util.spec_from_file_location("drill_conftest", DRILL / "conftest.py")
drill = importlib.util.module_from_spec(spec)
spec.loader.exec_module(drill)
backups, table, pytest_terminal_summary = drill.backups, drill.table, drill.pytest_terminal_summary


class Fleet(drill.Releases):
    """The releases of every web host."""

    def __init__(self, lab):
        super().__init__(lab, lab.host(lab.web))
        self.hosts = {name: lab.host(name) for name in lab.groups["web"]}
        self.database = lab.host(lab.groups["db"][0])

    def sql(self, statement: str) -> str:
        return self.database.check_output(f"cd /; runuser -u postgres -- psql -XAtq -d {self.name} -c \"{statement}\"")

    def forget_migrations(self) -> None:
        for host in self.hosts.values():
            host.check_output(f"rm -f /var/lib/redoubt/{self.name}/migrations.json")
        self.sql("delete from django_migrations where app = 'notes' and name like '%drill%'; drop table if exists notes_drill")

    @property
    def serving(self) -> dict[str, str]:
        return {name: drill.Releases(self.lab, host).live for name, host in self.hosts.items()}

    @property
    def commits(self) -> set[str]:
        return {drill.Releases(self.lab, host).commit for host in self.hosts.values()}

    @property
    def journals(self) -> dict[str, list[dict]]:
        return {name: drill.Releases(self.lab, host).journal for name, host in self.hosts.items()}


@pytest.fixture(scope="session")
def fleet(lab) -> Fleet:
    return Fleet(lab)


@pytest.fixture(scope="module")
def source(lab, tmp_path_factory):
    found = drill.Source(lab, tmp_path_factory.mktemp("source") / "notes")
    yield found
    subprocess.run(["git", "-C", str(found.bare), "branch", "--quiet", "-D", drill.BRANCH], check=False)


@pytest.fixture
def releases(fleet, source):
    """At the end the inventory's own release serves again everywhere, and what the drill's migrations left is gone."""
    yield fleet
    fleet.forget_migrations()
    done = fleet.lab.playbook("playbooks/deploy.yml")
    assert done.stdout.count("failed=0") == done.stdout.count("failed="), done.stdout
    assert len(set(fleet.serving.values())) == 1


@pytest.fixture
def site(lab) -> str:
    return f"https://{lab.vars(lab.web)['app_domains'][0]}"
