"""What one environment serves comes to all hosts of another or, before the database is migrated, to none; and of an environment with several hosts all are asked.

Production is the lab: `make demo LAB=fleet INVENTORY=molecule/fleet/inventory`, then, with REDOUBT_LAB and REDOUBT_INVENTORY of it, `pytest tests/fleet/test_promote.py`.
Staging is a host in a lab of its own, which is booted for these tests: `make lab-down LAB=fleet-staging` if they were killed.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from environments import Environments, other_packages
from load import Load
from test_releases import MIGRATION
from test_rotation_database import killed

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def staging(lab, tmp_path_factory):
    """One host with its database on it; of the lab's own kind, for a project that is the same."""
    inventory = tmp_path_factory.mktemp("inventory") / "staging"
    shutil.copytree(ROOT / "tests/drill/pair", inventory)
    (inventory / "hosts.yml").write_text(yaml.safe_dump({group: {"hosts": {"app1": None}} for group in ("web", "db")}))
    words = [f"LAB={lab.name}-staging", f"INVENTORY={inventory}"]
    try:
        done = subprocess.run(["make", "demo", *words], cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stdout + done.stderr
        found = type(lab)(f"{lab.name}-staging", str(inventory))
        yield found
        found.hang_up()
    finally:
        subprocess.run(["make", "lab-down", *words], cwd=ROOT, capture_output=True, check=True, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def environments(lab, staging, tmp_path_factory):
    found = Environments(tmp_path_factory.mktemp("environments"))
    found.add("staging", staging)
    found.add("production", lab)
    return found


@pytest.fixture
def candidate(staging, environments, source):
    """Has staging serve a commit of the drill; its address is the same, and the repository behind it another."""

    def deploy(*arguments, **options) -> str:
        commit = source.commit(*arguments, **options)
        source.git("push", "--quiet", "--force", str(staging.dir / "git/notes.git"), "HEAD:refs/heads/drill")
        done = environments.play("staging", "deploy.yml", app_version=commit)
        assert done.returncode == 0, done.words
        return commit

    return deploy


def visitors(lab, browse, site, *hosts: str) -> Load:
    """Who goes to these hosts in turn."""
    turns = itertools.cycle(hosts)
    return Load(lambda: browse(next(turns)), site, lab.vars(lab.web)["vault_app_admin_password"])


def compared(done) -> set[str]:
    """The hosts that have found other packages."""
    said = re.findall(r"fatal: \[(\w+)\]: FAILED! => (.*?)(?= fatal: \[| TASK \[| PLAY )", done.words)
    return {host for host, why in said if "are not those of the release that is promoted" in why}


def test_all_hosts_get_what_staging_serves_once_it_has_proven_itself(releases, environments, candidate, lab, browse, site, table) -> None:
    serving, (first, second) = releases.serving, releases.hosts
    before = {name: len(journal) for name, journal in releases.journals.items()}
    commit = candidate({"src/notes/migrations/0005_drill.py": MIGRATION})
    done = environments.promote()
    assert done.returncode == 2 and re.search(r"staging serves \S+ without a fault since \d+ seconds, when .{1,60} on app1, and promote_min_age is 3600", done.words), done.words
    # What would be.
    done = environments.promote("--check", promote_min_age=0)
    assert done.returncode == 0 and all(re.search(rf"{name} : ok=\d+ changed=[1-9]", done.words) for name in releases.hosts), done.words
    assert releases.serving == serving

    with visitors(lab, browse, site, first, second) as load:
        done = environments.promote(promote_min_age=0)
    table("promote", load.row("two hosts, one migration"))
    assert done.returncode == 0 and done.words.count(f"Write `app_version: {commit}` into this inventory") == 1, done.words
    assert not load.failed, load.failed[:10]
    assert load.written and len(load.answers) > 300
    assert releases.commits == {commit}
    since = {name: journal[before[name]:] for name, journal in releases.journals.items()}
    assert [len(entries) for entries in since.values()] == [1, 1], since
    assert [migration for entries in since.values() for entry in entries for migration in entry["migrations"]] == ["notes.0005_drill"]
    assert releases.sql("select count(*) from django_migrations where name = '0005_drill'") == "1"

    # Once is enough, on each.
    done = environments.promote(promote_min_age=3600)
    assert done.returncode == 0 and done.words.count("is served here already") == 2 and not re.search(r"changed=[1-9]", done.words), done.words
    # Unless one of them has made something else of it.
    with other_packages(releases.hosts[second]):
        done = environments.promote(promote_min_age=0)
    assert done.returncode == 2 and f"{second} serves commit {commit} already, with other packages than staging" in done.words, done.words


def test_other_packages_on_one_host_keep_all_from_migrating(releases, environments, staging, candidate) -> None:
    serving, second = releases.serving, list(releases.hosts)[1]
    commit = candidate({"src/notes/migrations/0005_drill.py": MIGRATION})
    with other_packages(staging.host("app1")):
        done = environments.promote(promote_min_age=0)
    assert done.returncode == 2 and compared(done) == set(releases.hosts), done.words
    with other_packages(releases.hosts[second], f"releases/{commit[:12]}-*"):
        done = environments.promote(promote_min_age=0)
    assert done.returncode == 2 and compared(done) == {second}, done.words
    assert f"No release with the packages that are promoted was built on {second}. Nothing was migrated and nothing switched: every host serves what it did." in done.words
    assert releases.serving == serving
    assert releases.sql("select count(*) from django_migrations where name like '%drill%'") == "0"
    assert all(host.run(f"test -e /var/lib/redoubt/{releases.name}/claim.json").rc for host in releases.hosts.values())


def test_a_promotion_that_was_killed_goes_on_with_the_host_it_had_not_come_to(releases, environments, candidate, lab, browse, site, table) -> None:
    serving, (first, second) = releases.serving, releases.hosts
    entries = len(releases.journals[first])
    commit = candidate()
    with visitors(lab, browse, site, first, second) as load:
        run = environments.start("production", "promote.yml", **{"from": f"{environments.folder}/staging", "promote_min_age": 0})
        killed(run, lambda: len(releases.journals[first]) > entries)
        half = releases.serving
        assert half == {first: half[first], second: serving[second]} and half[first].startswith(commit[:12])
        # Nobody would know which of the two had proven itself.
        done = environments.promote(there="production", here="staging", promote_min_age=0)
        assert done.returncode == 2 and (f"The hosts of production do not serve one release ({first} {half[first]}, {second} {half[second]}): "
                                         "run playbooks/deploy.yml there first. Nothing was changed.") in done.words, done.words
        # Until it is known to be over.
        time.sleep(61)
        done = environments.promote(promote_min_age=0)
    table("promote", load.row("killed after the first host, and again"))
    assert done.returncode == 0 and done.words.count("is served here already") == 1 and done.words.count("Write `app_version: ") == 1, done.words
    assert not load.failed, load.failed[:10]
    assert releases.commits == {commit} and releases.serving[first] == half[first] and len(releases.journals[first]) == entries + 1


def test_a_host_that_is_away_stops_it_before_anything_is_changed_unless_it_is_left_out(releases, environments, candidate, lab, browse, site, table) -> None:
    serving, (first, second) = releases.serving, releases.hosts
    commit = candidate()
    subprocess.run([*(["sudo", "-n"] if os.geteuid() else []), "podman", "kill", "--signal=KILL", lab.vars(second)["lab_container"]], check=True, capture_output=True)
    lab.hang_up()
    try:
        with visitors(lab, browse, site, first) as load:
            done = environments.promote(promote_min_age=0)
            assert done.returncode != 0 and f"[{second}]: UNREACHABLE!" in done.words and not re.search(r"changed=[1-9]", done.words), done.words
            # Nor does such an environment say what it serves.
            done = environments.promote(there="production", here="staging", promote_min_age=0)
            assert done.returncode == 2 and "production does not say what it serves: " in done.words and second in done.words, done.words
            done = environments.promote("--limit", first, promote_min_age=0)
        table("promote", load.row("one host, the other is away"))
        assert done.returncode == 0 and done.words.count(f"Write `app_version: {commit}`") == 1, done.words
        assert not load.failed, load.failed[:10]
    finally:
        lab.playbook("molecule/lab/create.yml", "--extra-vars", f"lab={lab.name}")
    assert releases.serving == {first: releases.serving[first], second: serving[second]} and releases.serving[first].startswith(commit[:12])
    entries = len(releases.journals[first])
    done = environments.promote(promote_min_age=0)
    assert done.returncode == 0 and done.words.count(f"Write `app_version: {commit}`") == 1, done.words
    assert releases.commits == {commit} and len(releases.journals[first]) == entries


def test_of_several_hosts_the_last_to_have_been_at_fault_counts_and_all_have_the_same_packages(fleet, environments, staging, candidate) -> None:
    candidate()
    first, second = fleet.hosts.values()
    name, worker = list(fleet.hosts)[1], "notes-worker.service"

    def promote(**values):
        return environments.promote(there="production", here="staging", **values)

    first.check_output(f"systemctl restart {worker}")
    time.sleep(3)
    second.check_output(f"systemctl restart {worker}")
    done = promote()
    assert done.returncode == 2 and re.search(rf"production serves \S+ without a fault since \d+ seconds, when {worker} was started on {name}, and promote_min_age is", done.words), done.words
    second.check_output(f"systemctl stop {worker}")
    done = promote(promote_min_age=0)
    second.check_output(f"systemctl start {worker}")
    assert done.returncode == 2 and f"as it should: {worker} is inactive on {name}. Nothing was changed." in done.words, done.words
    with other_packages(second):
        done = promote(promote_min_age=0)
    assert done.returncode == 2 and "The hosts of production serve " in done.words and "with different packages: pin every package" in done.words, done.words
    done = promote(promote_min_age=0)
    assert done.returncode == 0, done.words
    assert json.loads(staging.host("app1").check_output("cat /srv/notes/live/release/manifest.json"))["commit"] in fleet.commits
