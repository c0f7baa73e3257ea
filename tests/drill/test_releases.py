"""Releases as an operator meets them: deploy, roll back, and everything that can go wrong meanwhile."""

from __future__ import annotations

import os
import signal
import time

import pytest

pytestmark = pytest.mark.once

BROKEN_OUTSIDE = """
class OnlyInside:
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        if "HTTP_X_REQUEST_ID" in request.META:
            raise RuntimeError("nginx is a stranger here")
        return self.get_response(request)
"""
ADD = """
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("notes", "0004_queue_old_notes")]
    operations = [migrations.CreateModel(name="Drill", fields=[("id", models.BigAutoField(primary_key=True)), ("word", models.TextField())])]
"""
REMOVE = """
from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("notes", "0005_drill_add")]
    operations = [migrations.RemoveField("drill", "word")]
"""
MODEL = "\n\nclass Drill(models.Model):\n    id = models.BigAutoField(primary_key=True)\n"


def deploy_after_a_minute(releases):
    """Deploy until nobody is in the way; the minute that a dead run is waited for is taken as passed."""
    for _ in range(10):
        done = releases.deploy("drill")
        if "is deploying" in releases.told(done):
            time.sleep(2)
        elif "takes over in" in releases.told(done):
            path = f"/var/lib/redoubt/{releases.name}/claim.json"
            releases.host.run(f"sed -i -E 's/\"at\": [0-9.]+/\"at\": 0/' {path}")
        else:
            break
    return done


@pytest.fixture
def unharmed(releases, https, lab):
    """Whatever the test does: the release that was live is, at the end, and answers."""
    before = releases.live
    yield
    assert releases.live == before
    assert https.get(f"https://{lab.vars(lab.web)['app_domains'][0]}/", timeout=20).status_code == 200
    assert releases.host.run(f"systemctl is-active {releases.name}@$(basename $(readlink /srv/{releases.name}/live)).service").stdout.strip() == "active"


def test_deploy_then_roll_back_then_stay(releases, source, lab) -> None:
    old = releases.live
    commit = source.commit()
    done = releases.deploy("drill")
    assert done.returncode == 0, done.stdout
    assert releases.commit == commit
    entry = releases.journal[-1]
    assert (entry["action"], entry["result"], entry["commit"], entry["previous"]) == ("deploy", "ok", commit, old)
    assert "@" in entry["who"] and entry["seconds"]["install"] > 0

    # An inventory that is half edited does not stand in the way.
    done = releases.rollback(app_source="gti", app_domains="notes")
    assert done.returncode == 0, done.stdout
    assert releases.live == old
    entry = releases.journal[-1]
    assert (entry["action"], entry["result"], entry["release"]) == ("rollback", "ok", old)
    # How long it takes is for `make bench` to say; it is no second build.
    assert "start" in entry["seconds"] and not entry["seconds"].keys() & {"fetch", "install", "build", "migrate"}

    # The inventory still asks for what was rolled back from: a run of the site must not bring it back, a deploy may.
    done = lab.playbook("playbooks/site.yml", "--extra-vars", "app_version=drill")
    assert "was rolled back from" in releases.told(done) and releases.live == old
    listed = releases.told(lab.playbook("playbooks/releases.yml"))
    assert commit[:12] in listed and "LIVE" in listed and "rollback" in listed and "held back since" in listed
    assert releases.deploy("drill").returncode == 0
    assert releases.commit == commit
    assert releases.rollback(release=old).returncode == 0
    assert releases.live == old
    done = releases.rollback(release="nonsense")
    assert done.returncode == 2 and "Release nonsense has not been live or is no longer on the host; there are:" in releases.told(done)


def test_public_site_that_does_not_answer_is_switched_back(releases, source, unharmed) -> None:
    source.commit({"src/notes/outside.py": BROKEN_OUTSIDE}, settings='MIDDLEWARE = ["notes.outside.OnlyInside", *MIDDLEWARE]')
    done = releases.deploy("drill")
    assert done.returncode == 2
    assert "Step 'public probe' of release" in releases.told(done) and "answered 500" in releases.told(done) and "The release that was live still is." in releases.told(done)
    assert (releases.journal[-1]["result"], releases.journal[-1]["step"]) == ("failed", "public probe")
    # What never served is nothing to go back to.
    assert releases.journal[-1]["release"] not in releases.told(releases.rollback(release="nonsense"))


def test_process_that_does_not_stay_or_does_not_listen_is_switched_back(releases, source, lab, unharmed) -> None:
    source.commit(settings="SESSION_COOKIE_AGE = 1209603")
    processes = lab.vars(lab.web)["app_processes"]
    broken = {"worker": {"command": "false"}, "websocket": {"command": "sleep 600", "listen": True}}
    said = {"worker": "ended as soon as it was started", "websocket": "did not listen on"}
    for name, process in broken.items():
        # Said again by a second run: a bad command is not the host's own because it is in place.
        for _ in range(2 if name == "worker" else 1):
            done = releases.deploy("drill", app_processes={**processes, name: process}, app_start_timeout=10)
            assert done.returncode == 2, done.stdout
            assert f"{releases.name}-{name}.service {said[name]}" in releases.told(done) and "The release that was live still is." in releases.told(done)
            assert (releases.journal[-1]["result"], releases.journal[-1]["step"]) == ("failed", "processes")
    assert releases.deploy("v1.0.0").returncode == 0
    units = " ".join(f"{releases.name}-{name}.service" for name in processes)
    assert set(releases.host.check_output(f"systemctl is-active {units}").split()) == {"active"}


def test_two_deploys_at_once_end_in_a_sentence(releases, source) -> None:
    commit = source.commit(settings="SESSION_COOKIE_AGE = 1209601")
    first = releases.start("drill")
    releases.wait_for_step("install")
    second = releases.deploy("v1.0.0", app_env={"NOTES_VERSION": "second"})
    out, err = first.communicate(timeout=120)
    assert second.returncode == 2, second.stdout
    assert "Wait until that has ended" in releases.told(second) and os.uname().nodename in releases.told(second)
    assert first.returncode == 0, out + err
    assert releases.commit == commit


@pytest.mark.slow
@pytest.mark.parametrize("step", ["install", "migrate", "probe"])
def test_killed_controller_leaves_the_old_release_and_the_next_run_goes_on(releases, source, step) -> None:
    old = releases.live
    commit = source.commit(settings=f"SESSION_COOKIE_AGE = {time.time_ns() // 10**9}")
    run = releases.start("drill")
    releases.wait_for_step(step)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    # The phase that was under way may end by itself; nothing after it is begun.
    if step != "probe":
        time.sleep(8)
        assert releases.live == old
    done = deploy_after_a_minute(releases)
    assert done.returncode == 0, done.stdout
    assert releases.commit == commit


@pytest.mark.slow
def test_killed_release_program_is_repaired_by_the_next_run(releases, source, https, lab) -> None:
    url = f"https://{lab.vars(lab.web)['app_domains'][0]}/"
    commit = source.commit(settings=f"SESSION_COOKIE_AGE = {time.time_ns() // 10**9}")
    run = releases.start("drill")
    releases.wait_for_step("drain")
    releases.host.run("pkill -KILL -f '[r]edoubt/release '")
    run.communicate(timeout=60)
    assert run.returncode == 2
    assert https.get(url, timeout=20).status_code == 200
    done = deploy_after_a_minute(releases)
    assert done.returncode == 0, done.stdout
    assert releases.commit == commit and https.get(url, timeout=20).status_code == 200
    assert any(entry["result"] == "cut off" for entry in releases.journal)
    running = releases.host.check_output(f"systemctl list-units --plain --no-legend '{releases.name}@*.service' | wc -l")
    assert running == "1", "the old colour goes on running"


@pytest.mark.slow
def test_migration_that_takes_away_stops_and_a_rollback_over_it_too(releases, source) -> None:
    models = (source.folder / "src/notes/models.py").read_text()
    first = source.commit({"src/notes/migrations/0005_drill_add.py": ADD, "src/notes/models.py": models + MODEL + "    word = models.TextField()\n"})
    assert releases.deploy("drill").returncode == 0
    assert "notes.0005_drill_add" in releases.journal[-1]["migrations"]
    with_table = releases.live

    second = source.commit({"src/notes/migrations/0006_drill_remove.py": REMOVE, "src/notes/models.py": models + MODEL}, parent=first)
    done = releases.deploy("drill")
    assert done.returncode == 2, done.stdout
    assert "notes.0006_drill_remove drops the column drill.word" in releases.told(done) and "app_allow_destructive=true" in releases.told(done)
    assert releases.live == with_table
    assert releases.sql("select count(*) from django_migrations where name = '0006_drill_remove'") == "0"

    done = releases.deploy("drill", app_allow_destructive=True)
    assert done.returncode == 0, done.stdout
    assert releases.commit == second
    done = releases.rollback()
    assert done.returncode == 2
    assert "cannot run on the tables as they are now: notes.0006_drill_remove drops the column drill.word" in releases.told(done)
    assert releases.commit == second
    # The same code by way of a deploy.
    done = releases.deploy(first)
    assert done.returncode == 2 and "notes.0006_drill_remove drops the column drill.word" in releases.told(done)
    assert releases.commit == second
    releases.forget_migrations()


@pytest.mark.slow
def test_hooks_run_in_their_moment_and_a_failing_one_stops_the_deploy(releases, source) -> None:
    data = f"/srv/{releases.name}/data"
    source.commit(settings="SESSION_COOKIE_AGE = 1209602")
    hooks = {"before_migrate": [f"readlink -f /srv/{releases.name}/live/release >{data}/before; id -un >>{data}/before"],
             "after_switch": [f"readlink -f /srv/{releases.name}/live/release >{data}/after", "echo the cache is cold; exit 3"]}
    old = releases.live
    done = releases.deploy("drill", app_hooks=hooks)
    assert done.returncode == 2, done.stdout
    assert "Step 'after_switch'" in releases.told(done) and "exited with 3: the cache is cold" in releases.told(done) and "Check app_hooks." in releases.told(done)
    assert releases.live == old
    before, user = releases.host.check_output(f"cat {data}/before").split()
    after = releases.host.check_output(f"cat {data}/after")
    assert before.endswith(old) and user == releases.name and not after.endswith(old)
    releases.host.check_output(f"rm {data}/before {data}/after")


@pytest.mark.slow
def test_findings_of_the_checks_are_told_and_gate_at_the_level_asked_for(releases, source) -> None:
    commit = source.commit(settings="SILENCED_SYSTEM_CHECKS = []\nimport warnings; warnings.warn('soon gone', PendingDeprecationWarning)")
    # Under the whole guard the demo has no warning left.
    warned = {"app_guard_skip": ["nginx_checks"]}
    done = releases.deploy("drill", app_check_fail_level="WARNING", **warned)
    assert done.returncode == 2 and "`check --deploy` says WARNING security." in releases.told(done), done.stdout
    assert releases.commit != commit
    done = releases.deploy("drill", **warned)
    assert done.returncode == 0, done.stdout
    assert "WARNING security." in releases.told(done) and "Deprecated: soon gone" in releases.told(done)
