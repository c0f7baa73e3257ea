"""What staging serves comes into production: refused while it has not proven itself, as it was tried or not at all, and once.

Two hosts that each are an environment: `make demo LAB=pair INVENTORY=tests/drill/pair`, then `make drill LAB=pair INVENTORY=tests/drill/pair K=promote`.
"""

from __future__ import annotations

import json
import re

import pytest
from environments import Environments, other_packages

pytestmark = pytest.mark.slow
HOSTS = {"staging": "app1", "production": "app2"}


class Pair(Environments):
    """The lab's two hosts."""

    def __init__(self, lab, folder):
        super().__init__(folder)
        self.lab = lab
        for name, host in HOSTS.items():
            self.add(name, lab, host)

    def live(self, name: str) -> dict:
        return json.loads(self.lab.host(HOSTS[name]).check_output("cat /srv/notes/live/release/manifest.json"))


@pytest.fixture(scope="module")
def environments(lab, tmp_path_factory):
    if any(lab.groups.get(group) != sorted(HOSTS.values()) for group in ("web", "db")):
        pytest.skip("this lab has no two hosts that each are an environment (INVENTORY=tests/drill/pair)")
    found = Pair(lab, tmp_path_factory.mktemp("environments"))
    yield found
    for name in HOSTS:
        done = found.play(name, "deploy.yml")
        assert done.returncode == 0, done.words


def test_a_release_is_promoted_once_it_has_proven_itself(environments, source):
    commit = source.commit({"PROMOTED": "one\n"})
    done = environments.play("staging", "deploy.yml", app_version=commit)
    assert done.returncode == 0, done.words
    before = environments.live("production")["id"]

    # Too young.
    done = environments.promote()
    assert done.returncode == 2 and re.search(r"staging serves \S+ without a fault since \d+ seconds, when .{1,60} on app1, and promote_min_age is 3600: wait for another \d+ seconds. Nothing was changed", done.words), done.words
    # A worker that does not run.
    staging = environments.lab.host("app1")
    staging.check_output("systemctl stop notes-worker.service")
    done = environments.promote(promote_min_age=0)
    staging.check_output("systemctl start notes-worker.service")
    assert done.returncode == 2 and re.search(r"staging does not serve \S+ as it should: notes-worker.service is inactive on app1. Nothing", done.words), done.words
    # What would be.
    done = environments.promote("--check", promote_min_age=0)
    assert done.returncode == 0 and re.search(r"app2 : ok=\d+ changed=[1-9]", done.words), done.words
    assert environments.live("production")["id"] == before

    done = environments.promote(promote_min_age=0)
    assert done.returncode == 0 and f"Write `app_version: {commit}` into this inventory" in done.words, done.words
    assert environments.live("production")["commit"] == commit
    assert environments.lab.host("app2").check_output("cat /srv/notes/live/release/src/PROMOTED") == "one"

    # Once is enough.
    done = environments.promote(promote_min_age=3600)
    assert done.returncode == 0 and "is served here already" in done.words and not re.search(r"changed=[1-9]", done.words), done.words


def test_other_packages_are_not_switched_to(environments, source):
    commit = source.commit({"PROMOTED": "two\n"})
    assert environments.play("staging", "deploy.yml", app_version=commit).returncode == 0
    before = environments.live("production")["id"]
    staging = environments.lab.host("app1")
    with other_packages(staging):
        done = environments.promote(promote_min_age=0)
    assert done.returncode == 2 and "'compare'" in done.words and "are not those of the release that is promoted" in done.words, done.words
    assert environments.live("production")["id"] == before and environments.live("production")["commit"] != commit
