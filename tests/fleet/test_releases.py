"""A release of several hosts: one migration, one host after the other, and a host that is broken is said and stops the rest."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from load import Load

MIGRATION = """
from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("notes", "0004_queue_old_notes")]
    operations = [migrations.RunSQL("create table notes_drill (id int)", "drop table notes_drill")]
"""


@contextlib.contextmanager
def broken(host, name: str):
    """No web process of this host starts any more; what runs goes on."""
    folder = f"/etc/systemd/system/{name}@.service.d"
    host.check_output(f"mkdir -p {folder} && printf '[Service]\\nExecStartPre=/bin/false\\n' > {folder}/drill.conf && systemctl daemon-reload")
    try:
        yield
    finally:
        host.check_output(f"rm -r {folder} && systemctl daemon-reload && systemctl reset-failed '{name}@*'")


def test_visitors_of_both_hosts_notice_no_deploy_and_the_database_is_migrated_once(releases, lab, source, browse, site) -> None:
    password = lab.vars(lab.web)["vault_app_admin_password"]
    turns = itertools.cycle(releases.hosts)
    before = {name: len(journal) for name, journal in releases.journals.items()}
    commit = source.commit({"src/notes/migrations/0005_drill.py": MIGRATION})
    with Load(lambda: browse(next(turns)), site, password) as load:
        done = releases.deploy("drill")
    assert done.returncode == 0, releases.told(done)
    assert not load.failed, load.failed[:10]
    assert load.written and len(load.answers) > 500
    assert releases.commits == {commit}
    since = {name: journal[before[name]:] for name, journal in releases.journals.items()}
    assert [len(entries) for entries in since.values()] == [1] * len(since), since
    assert [migration for entries in since.values() for entry in entries for migration in entry["migrations"]] == ["notes.0005_drill"]
    assert releases.sql("select count(*) from django_migrations where name = '0005_drill'") == "1"
    # One after the other: the second was switched when the first had ended.
    assert done.stdout.index("PLAY [Switch]") < done.stdout.rindex("PLAY [Switch]")
    # An answer of each host alone, after it.
    for name in releases.hosts:
        assert browse(name).get(f"{site}/", timeout=20).status_code == 200


def test_a_host_that_cannot_build_keeps_all_from_migrating(releases, source) -> None:
    serving, names = releases.serving, list(releases.hosts)
    source.commit({"src/notes/migrations/0005_drill.py": MIGRATION})
    second = releases.hosts[names[1]]
    second.check_output("echo 127.0.0.9 acme.test >> /etc/hosts")
    try:
        done = releases.deploy("drill")
    finally:
        second.check_output("grep -v 127.0.0.9 /etc/hosts > /tmp/hosts; cat /tmp/hosts > /etc/hosts; rm /tmp/hosts")
    assert done.returncode != 0
    assert f"No release was built on {names[1]}. Nothing was migrated and nothing switched: every host serves what it did." in releases.told(done)
    assert releases.serving == serving
    assert releases.sql("select count(*) from django_migrations where name like '%drill%'") == "0"
    assert all(host.run(f"test -e /var/lib/redoubt/{releases.name}/claim.json").rc for host in releases.hosts.values())


def test_a_first_host_that_does_not_start_leaves_all_on_the_old_release(releases, source, browse, site) -> None:
    serving, first = releases.serving, releases.hosts[next(iter(releases.hosts))]
    source.commit()
    with broken(first, releases.name):
        done = releases.deploy("drill")
    told = releases.told(done)
    assert done.returncode != 0 and "No further host is switched. Now serve: " + ", ".join(f"{name} {release}" for name, release in serving.items()) + "." in told
    assert releases.serving == serving
    for name in releases.hosts:
        assert browse(name).get(f"{site}/", timeout=20).status_code == 200
    # Nobody waits for the run that is over.
    assert all(host.run(f"test -e /var/lib/redoubt/{releases.name}/claim.json").rc for host in releases.hosts.values())


def test_a_second_host_that_does_not_start_is_said_and_one_release_is_on_both_again(releases, source, browse, site) -> None:
    serving, names = releases.serving, list(releases.hosts)
    source.commit()
    with broken(releases.hosts[names[1]], releases.name):
        done = releases.deploy("drill")
    now = releases.serving
    assert done.returncode != 0
    assert now[names[0]] != serving[names[0]] and now[names[1]] == serving[names[1]]
    assert f"Now serve: {names[0]} {now[names[0]]}, {names[1]} {serving[names[1]]}." in releases.told(done)
    for name in names:
        assert browse(name).get(f"{site}/", timeout=20).status_code == 200
    # The release before is not the same on both, so it has to be named.
    done = releases.rollback()
    assert done.returncode != 0 and "The hosts serve different releases, so the one before is not the same: name it" in releases.told(done)
    assert releases.serving == now
    done = releases.rollback(release=serving[names[1]])
    assert done.returncode == 0, releases.told(done)
    assert releases.serving == serving
    # What one of them was taken back from is not brought to the other by the next run of the site.
    done = lab_site(releases, "drill")
    assert done.returncode == 0, releases.told(done)
    assert releases.serving == serving


def lab_site(releases, version: str):
    return releases.lab.playbook("playbooks/site.yml", "--extra-vars", f"app_version={version}", check=False)


def test_rolling_back_takes_all_to_the_release_before(releases, source) -> None:
    serving = releases.serving
    source.commit()
    assert releases.deploy("drill").returncode == 0
    assert all(releases.serving[name] != release for name, release in serving.items())
    done = releases.rollback()
    assert done.returncode == 0, releases.told(done)
    assert releases.serving == serving
    listed = releases.lab.playbook("playbooks/releases.yml").stdout
    assert all(name in listed for name in releases.hosts)


@pytest.mark.parametrize("batch", [2])
def test_a_batch_is_switched_together(releases, source, batch) -> None:
    commit = source.commit()
    done = releases.deploy("drill", app_batch=batch)
    assert done.returncode == 0, releases.told(done)
    assert done.stdout.count("PLAY [Switch]") == 1
    assert releases.commits == {commit}
