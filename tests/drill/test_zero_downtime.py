"""Visitors notice no deploy, no rollback, and no release that is broken."""

from __future__ import annotations

import collections
import time

import pytest
from load import Load

pytestmark = pytest.mark.once

URLS = """
from django.http import HttpResponse
from django.urls import path

from {urls} import *  # noqa: F403

urlpatterns = [path("healthz", lambda request: HttpResponse("no", status=500)), *urlpatterns]  # noqa: F405
"""
FAILING = """
from django.db import migrations


def fail(apps, schema_editor):
    raise RuntimeError("this migration fails")


class Migration(migrations.Migration):
    dependencies = [("notes", "0004_queue_old_notes")]
    operations = [migrations.RunPython(fail)]
"""


@pytest.fixture
def load(lab, source, browse):
    """Makes the load; every request of it has to succeed, and every row that was acknowledged has to be there."""
    values = lab.vars(lab.web)
    return lambda: Load(lambda: browse(lab.web), f"https://{values['app_domains'][0]}", values["vault_app_admin_password"])


def assert_unharmed(done: Load, releases, rate: float = 100) -> None:
    assert not done.failed, done.failed[:10]
    assert len(done.answers) / (done.ended - done.started) >= rate, "too little load to show anything"
    kept = collections.Counter(releases.sql("select title from notes_note where title like 'load %'").splitlines())
    lost = [title for title in done.written if kept[title] != 1]
    assert done.written and not lost, lost


def broken(source, way: str) -> dict:
    """Commit a release that is broken in one way; return what else the deploy is told."""
    if way == "import error":
        source.commit({"src/config/wsgi.py": "import nothing_of_this_name\n"})
    elif way == "failing migration":
        source.commit({"src/notes/migrations/0005_drill_fails.py": FAILING})
    elif way == "health 500":
        source.commit({"src/config/drill_urls.py": URLS.format(urls="config.urls")}, settings='ROOT_URLCONF = "config.drill_urls"')
        return {"app_start_timeout": 5}
    elif way == "hanging start":
        wsgi = (source.folder / "src/config/wsgi.py").read_text()
        source.commit({"src/config/wsgi.py": f"import time\ntime.sleep(3600)\n{wsgi}"})
        return {"app_start_timeout": 5}
    else:
        source.commit()
        return {"app_requirements_extra": ["redoubt-no-such-package==1.0"]}
    return {}


def test_one_deploy_and_one_rollback_under_load(load, releases, source, table) -> None:
    old = releases.live
    source.commit()
    with load() as under:
        time.sleep(1)
        assert releases.deploy("drill").returncode == 0
        assert releases.rollback().returncode == 0
        time.sleep(1)
    table("zero_downtime_short", under.row("1 deploy, 1 rollback"))
    assert releases.live == old
    # The machine that makes the load also serves and builds; the long form below asks for more.
    assert_unharmed(under, releases, rate=40)


@pytest.mark.slow
def test_ten_deploys_and_five_rollbacks(load, releases, source, table) -> None:
    with load() as under:
        for number in range(10):
            source.commit(settings=f"SESSION_COOKIE_AGE = {1209600 + number}")
            done = releases.deploy("drill")
            assert done.returncode == 0, done.stdout
            if number % 2:
                assert releases.rollback().returncode == 0
    table("zero_downtime", under.row("10 deploys, 5 rollbacks"))
    assert_unharmed(under, releases)


@pytest.mark.slow
def test_broken_releases(load, releases, source, table) -> None:
    with load() as under:
        for way in ("import error", "failing migration", "health 500", "hanging start", "requirements"):
            for _ in range(2):
                source.commit(settings=f"SESSION_COOKIE_AGE = {time.time_ns() // 10**9}")
                assert releases.deploy("drill").returncode == 0
            live = releases.live
            done = releases.deploy("drill", **broken(source, way))
            assert done.returncode == 2, (way, done.stdout)
            assert releases.live == live, way
    table("zero_downtime", under.row("one deploy in three broken, 5 ways"))
    assert_unharmed(under, releases)


@pytest.mark.slow
def test_workers_are_killed(load, releases, table) -> None:
    unit = f"{releases.name}@$(basename $(readlink /srv/{releases.name}/live)).service"
    with load() as under:
        for _ in range(10):
            time.sleep(1)
            releases.host.check_output(f"main=$(systemctl show --property=MainPID --value {unit}); pkill -KILL --oldest --parent $main")
    table("zero_downtime", under.row("10 workers killed"))
    # What a killed worker was at is lost if it may have written: nginx must not send it twice. Reads are asked again.
    assert all(answer.what.startswith("POST") for answer in under.failed), under.failed[:10]
    assert len(under.failed) <= 2


@pytest.mark.slow
def test_database_restarts(load, releases, table) -> None:
    with load() as under:
        time.sleep(3)
        down = time.monotonic()
        releases.host.check_output("systemctl restart 'postgresql@*.service'")
        up = time.monotonic()
        time.sleep(5)
    table("zero_downtime", {**under.row("PostgreSQL restarted"), "down_s": round(up - down, 1)})
    outside = [answer for answer in under.failed if not down - 1 <= answer.at <= up + 0.5]
    assert not outside, outside[:10]
