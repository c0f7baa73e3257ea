"""What goes wrong with backups, on purpose: what was there stays, what has failed is said, and the next one is good again."""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import secrets
import shlex
import time

import pytest

pytestmark = pytest.mark.once

# Runs a program with a clock that is so many seconds ahead: a container has its machine's, which is not ours to set.
SKEWED = """
import os, runpy, sys, time
ahead, real = float(sys.argv[1]), time.time
time.time = lambda: real() + ahead
sys.argv = sys.argv[2:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
STORES_UNITS = "redoubt-backup-files redoubt-backup-door redoubt-backup-repository@{name} redoubt-backup-keep.timer redoubt-backup-prune.timer"


@pytest.fixture(autouse=True)
def unharmed(backups, https):
    """Whatever happens to the backups, the site serves; and what was backed up before is there after."""
    before = {(row["kind"], row["name"]) for row in backups.listing["backups"]}
    yield
    backups.web.check_output(f"rm -rf /srv/{backups.app}/media/drill")
    backups.sql("DROP TABLE IF EXISTS redoubt.drill")
    assert https.get(f"https://{backups.lab.vars(backups.lab.web)['app_domains'][0]}/", timeout=30).status_code == 200
    assert before <= {(row["kind"], row["name"]) for row in backups.listing["backups"]}


def await_process(host, pattern: str) -> None:
    """Until a program runs, looked for on the host itself: it may be a short one. Begins with what is not found in the words of who looks."""
    host.check_output(f"timeout 60 sh -c {shlex.quote(f'until pgrep --full {shlex.quote(pattern)} >/dev/null; do sleep 0.02; done')}")


def ended(host, unit: str) -> str:
    """How a unit ended that was started without waiting for it."""
    deadline = time.monotonic() + 120
    while host.check_output("systemctl show --property=ActiveState --value %s", unit) in ("activating", "deactivating"):
        assert time.monotonic() < deadline, f"{unit} does not end"
        time.sleep(0.2)
    return host.check_output("systemctl show --property=Result --value %s", unit)


def said(host, unit: str) -> str:
    return host.check_output("journalctl --no-pager --output=cat --lines=12 --unit=%s", unit)


def drill(backups) -> dict[str, str]:
    """What the steps of a drill said that did not come out well."""
    backups.db.run("systemctl start redoubt-drill.service")
    return {step["step"]: step["told"] for step in backups.drilled["steps"] if not step["ok"]}


@pytest.mark.slow
def test_the_store_is_away_for_a_while(backups) -> None:
    """In the middle of the files, restic waits for it; of the log, nothing is dropped."""
    word = secrets.token_hex(8)
    backups.upload(f"drill/{word}", megabytes=100)
    backups.sql(f"CREATE TABLE redoubt.drill AS SELECT '{word}' AS word")
    backups.web.check_output("systemctl start --no-block redoubt-backup.service")
    await_process(backups.web, "^restic .* backup ")
    backups.store.check_output(f"systemctl stop redoubt-backup-door redoubt-backup-repository@{backups.name}")
    try:
        segment = backups.sql("SELECT pg_walfile_name(pg_switch_wal())")
        time.sleep(5)
        assert backups.db.run(f"test -e /var/lib/postgresql/pgbackrest-spool/{segment}").rc == 0
        assert backups.web.check_output("systemctl show --property=ActiveState --value redoubt-backup.service") == "activating", "the store was not missed"
    finally:
        backups.store.check_output(f"systemctl start redoubt-backup-door redoubt-backup-repository@{backups.name}")
    assert ended(backups.web, "redoubt-backup.service") == "success", said(backups.web, "redoubt-backup.service")
    backups.archived()
    assert backups.web.run(f"test -e /srv/{backups.app}/media/drill/{word}").rc == 0
    assert not drill(backups)


@pytest.mark.parametrize("line", [pytest.param("files", marks=pytest.mark.slow), "database"])
def test_a_backup_is_killed(backups, line) -> None:
    if line == "files":
        host, unit, process = backups.web, "redoubt-backup.service", "^restic .* backup "
        backups.upload(f"drill/{secrets.token_hex(8)}", megabytes=100)
    else:
        host, unit, process = backups.store, f"redoubt-backup-database@{backups.name}.service", f"[p]gbackrest .*stanza={backups.app} backup "
        backups.sql("CREATE TABLE redoubt.drill AS SELECT md5(n::text) AS word FROM generate_series(1, 200000) n")
    with backups.alert(host, unit):
        host.check_output(f"systemctl start --no-block {unit}")
        await_process(host, process)
        host.check_output(f"systemctl kill --signal=KILL {unit}")
        assert ended(host, unit) == "signal"
    # Neither its lock nor what it has left is in the way of the next.
    assert host.run(f"systemctl start {unit}").rc == 0, said(host, unit)
    assert not drill(backups)


@pytest.mark.parametrize("moment", [pytest.param("fetching", marks=pytest.mark.slow), "replaying"])
def test_a_restore_is_killed(backups, https, moment) -> None:
    word = secrets.token_hex(8)
    backups.sql(f"CREATE TABLE redoubt.drill AS SELECT '{word}' AS word")
    assert backups.store.run(f"systemctl start redoubt-backup-database@{backups.name}.service").rc == 0
    backups.db.check_output(f"rm -f /var/lib/redoubt/{backups.app}/restore.json")
    run = backups.lab.start("playbooks/restore.yml", "--extra-vars", json.dumps({"confirm": backups.app, "part": "database"}))
    if moment == "fetching":
        await_process(backups.db, "^pgbackrest .* restore ")
    else:
        backups.db.check_output("timeout 60 sh -c 'until grep -q replaying /var/lib/redoubt/%s/restore.json; do sleep 0.02; done'", backups.app)
    backups.db.check_output("systemctl kill --signal=KILL redoubt-restore.service")
    told, _ = run.communicate(timeout=120)
    assert run.returncode != 0, told
    if moment == "fetching":
        assert backups.sql("SELECT word FROM redoubt.drill") == word
    else:
        # The application stands still, and that is said.
        with backups.alert(backups.db, "A restore was cut off: run restore.yml again"):
            assert backups.db.run("systemctl start redoubt-backup-check.service").rc != 0
    done = backups.play("restore", confirm=backups.app, part="database")
    assert ("A restore that was cut off has been taken back first" in backups.told(done)) is (moment == "replaying"), done.stdout
    assert backups.sql("SELECT word FROM redoubt.drill") == word
    assert backups.db.run("systemctl start redoubt-backup-check.service").rc == 0, said(backups.db, "redoubt-backup-check.service")
    assert backups.db.check_output("ls -A /var/lib/postgresql/redoubt-restored") == ""


@pytest.mark.slow
def test_a_restore_is_taken_back(backups) -> None:
    """To a moment that only the log from before the first restore has; and what follows is backed up on the timeline that is left."""
    unit = f"redoubt-backup-database@{backups.name}.service"
    # The one that an earlier drill's restore has begun is waited for: what was before its end and after that restore cannot be gone back to.
    backups.store.check_output(f"systemctl start {unit}")
    # Of its end, the second is known: what is in the same one is sought after the backup before it.
    time.sleep(1)
    backups.sql("CREATE TABLE redoubt.drill AS SELECT 'early' AS word")
    early = backups.now
    time.sleep(0.1)
    backups.sql("INSERT INTO redoubt.drill VALUES ('late')")
    late = backups.now
    time.sleep(0.1)
    backups.sql("INSERT INTO redoubt.drill VALUES ('too late')")
    backups.archived()
    backups.play("restore", confirm=backups.app, part="database", at=early)
    assert backups.sql("SELECT word FROM redoubt.drill") == "early"
    backups.sql("INSERT INTO redoubt.drill VALUES ('on another timeline')")
    backups.archived()
    # It was begun by the restore, and is waited for.
    backups.store.check_output(f"systemctl start {unit}")
    backups.play("restore", confirm=backups.app, part="database", at=late)
    assert backups.sql("SELECT word FROM redoubt.drill ORDER BY word") == "early\nlate"
    backups.store.check_output(f"systemctl start {unit}")
    assert not drill(backups)


@pytest.fixture
def gone(lab, tmp_path):
    """Arguments of a playbook that does not reach a host."""

    def arguments(name: str) -> list[str]:
        source = tmp_path / "gone.yml"
        # Nothing listens there, and that is known at once.
        source.write_text(f"all: {{hosts: {{{name}: {{ansible_port: 1}}}}}}\n")
        return ["-i", str(source)]

    return arguments


def test_what_there_is_of_a_host_that_is_gone_is_listed(backups, gone) -> None:
    newest = backups.listing["backups"][-1]["name"]
    done = backups.lab.playbook(*gone(backups.name), "playbooks/backups.yml")
    assert f"fatal: [{backups.name}]: UNREACHABLE" in done.stdout, "it was reached"
    assert newest in done.stdout and "% of the file system in use" in done.stdout


def test_a_restore_without_a_store_that_can_be_told_is_one_and_says_what_is_missing(backups, gone) -> None:
    word, unit = secrets.token_hex(8), f"redoubt-backup-database@{backups.name}.service"
    backups.sql(f"CREATE TABLE redoubt.drill AS SELECT '{word}' AS word")
    backups.archived()
    # Its repository answers; the controller does not reach the host.
    done = backups.lab.playbook(*gone(backups.store_name), "playbooks/restore.yml", "--extra-vars", json.dumps({"confirm": backups.app, "part": "database"}),
                                check=False)
    assert done.returncode != 0
    assert (f"It was restored, but {backups.store_name} did not begin a new backup of the database on {backups.name}: make one with playbooks/backup.yml."
            in backups.told(done)), done.stdout
    assert backups.sql("SELECT word FROM redoubt.drill") == word
    assert backups.store.run(f"systemctl start {unit}").rc == 0, said(backups.store, unit)


def test_a_restore_goes_on_without_its_controller(backups) -> None:
    word, unit = secrets.token_hex(8), f"redoubt-backup-database@{backups.name}.service"
    backups.sql(f"CREATE TABLE redoubt.drill AS SELECT '{word}' AS word")
    backups.archived()
    run = backups.lab.start("playbooks/restore.yml", "--extra-vars", json.dumps({"confirm": backups.app, "part": "database"}))
    await_process(backups.db, "[s]ystemd-run .*unit=redoubt-restore")
    # The end of its connection.
    backups.db.check_output("pid=$(pgrep --exact --oldest systemd-run); until grep --quiet ^sshd /proc/$pid/comm; do"
                            " pid=$(ps -o ppid= -p $pid | tr -d ' '); done; kill -KILL $pid")
    told, _ = run.communicate(timeout=180)
    assert run.returncode != 0
    assert (f"The connection to {backups.name} was lost. A restore that had begun there goes on: `journalctl -u redoubt-restore` says what came of it."
            in re.sub(r"\s+", " ", told)), told
    deadline = time.monotonic() + 180
    while backups.db.run("systemctl is-active redoubt-restore.service").stdout.strip() in ("active", "activating", "deactivating"):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert backups.sql("SELECT word FROM redoubt.drill") == word
    assert backups.db.run(f"grep -Eqs 'replaying|swapping' /var/lib/redoubt/{backups.app}/restore.json").rc != 0
    assert backups.store.run(f"systemctl start {unit}").rc == 0, said(backups.store, unit)
    backups.archived()


@pytest.fixture
def small_store(backups):
    """The repositories on a file system that is nearly full; makes it larger when called."""
    units, root = STORES_UNITS.format(name=backups.name), backups.root
    backups.store.check_output(f"systemctl stop {units}")
    try:
        backups.store.check_output(f"mkdir /run/drill && mount -t tmpfs -o size=$(($(du -sm {root} | cut -f 1) + 40))m drill /run/drill"
                                   f" && cp -a {root}/. /run/drill && mount --bind /run/drill {root} && systemctl start {units}")
        yield lambda: backups.store.check_output("mount -o remount,size=3g /run/drill")
    finally:
        # With what has come meanwhile.
        backups.store.check_output(f"systemctl stop {units}; if mountpoint --quiet {root}; then umount {root} && find {root} -mindepth 1 -delete"
                                   f" && cp -a /run/drill/. {root}; fi; umount /run/drill; rmdir /run/drill; systemctl start {units}")


@pytest.mark.slow
def test_the_stores_disk_is_full(backups, small_store) -> None:
    word, since = secrets.token_hex(8), backups.store.check_output("date +@%s")
    backups.upload(f"drill/{word}", megabytes=100)
    backups.web.check_output("systemctl start --no-block redoubt-backup.service")
    refused = f"timeout 60 sh -c 'until journalctl --quiet --output=cat --since={since} --unit=redoubt-backup-door | grep -q \" 507 \"; do sleep 0.2; done'"
    backups.store.check_output(refused)
    # What no compression makes smaller.
    backups.sql("CREATE TABLE redoubt.drill AS SELECT sha512(n::text::bytea) || sha512((-n)::text::bytea) AS word FROM generate_series(1, 500000) n")
    segment = backups.sql("SELECT pg_walfile_name(pg_switch_wal())")
    time.sleep(5)
    assert backups.db.run(f"test -e /var/lib/postgresql/pgbackrest-spool/{segment}").rc == 0, "the log went where there is no room"
    with backups.alert(backups.store, "% full: give it more room"):
        assert backups.store.run("systemctl start redoubt-backup-watch.service").rc != 0
    # restic tries again for a quarter of an hour, as the log does for ever.
    assert backups.web.check_output("systemctl show --property=ActiveState --value redoubt-backup.service") == "activating"
    small_store()
    assert ended(backups.web, "redoubt-backup.service") == "success", said(backups.web, "redoubt-backup.service")
    backups.archived()
    backups.store.check_output("systemctl start redoubt-backup-watch.service")
    assert not drill(backups)


@contextlib.contextmanager
def full(host, folder: str):
    """A folder with no room."""
    host.check_output(f"mount -t tmpfs -o size=64k,mode=$(stat -c %a {folder}),uid=$(stat -c %u {folder}),gid=$(stat -c %g {folder}) drill {folder}")
    try:
        yield
    finally:
        host.check_output(f"umount {folder}")


def test_the_databases_disk_is_full(backups) -> None:
    backups.sql("CREATE TABLE redoubt.drill AS SELECT md5(n::text) AS word FROM generate_series(1, 10000) n")
    with full(backups.web, "/var/lib/redoubt-backup"), backups.alert(backups.web, "No space left on device"):
        assert backups.send() != 0
    assert backups.send() == 0
    with full(backups.db, "/var/lib/postgresql/redoubt-restored"):
        for words in ({"into": "look"}, {"confirm": backups.app}):
            done = backups.play("restore", check=False, part="database", **words)
            assert done.returncode != 0
            assert re.search(r"Room for [\d.]+ GB of the database is needed, beside what is there, and .* free: make room first", backups.told(done)), done.stdout
    assert backups.sql("SELECT count(*) FROM redoubt.drill") == "10000"


@pytest.fixture
def damage(backups):
    """Overwrites bytes in the middle of a file on the store's disk, which goes on to have its name, size and time."""
    undo = []

    def change(path: str) -> None:
        script = f"from pathlib import Path; import os; p = Path({path!r}); s = p.stat(); f = open(p, 'r+b'); f.seek(s.st_size // 2); "
        was = backups.store.check_output(f"python3 -c {shlex.quote(script + 'print(f.read(16).hex())')}")
        keep = "f.close(); os.utime(p, ns=(s.st_atime_ns, s.st_mtime_ns))"
        undo.append(f"python3 -c {shlex.quote(f'{script}f.write(bytes.fromhex({was!r})); {keep}')}")
        backups.store.check_output(f"python3 -c {shlex.quote(f'{script}f.write(bytes(255 - b for b in bytes.fromhex({was!r}))); {keep}')}")

    yield change
    for command in undo:
        backups.store.check_output(command)
    assert not drill(backups)


def test_the_drill_finds_damaged_files(backups, damage) -> None:
    backups.upload(f"drill/{secrets.token_hex(8)}", megabytes=2)
    assert backups.send() == 0
    damage(backups.store.check_output(f"find {backups.root}/files/{backups.lab.web}/data -type f -size +1M -printf '%T@ %p\\n' | sort -n | tail -n 1 | cut -d' ' -f2"))
    with backups.alert(backups.web, "redoubt-drill.service failed"):
        found = drill(backups)
    assert "files restored" in found, found
    problems = json.loads(backups.db.check_output("/usr/local/lib/redoubt/backup status"))["problems"]
    assert any("The drill of" in problem and "files restored" in problem for problem in problems), problems


@pytest.mark.slow
def test_the_drill_finds_a_damaged_database(backups, damage) -> None:
    label = backups.listing["backups"]
    newest = [row["name"] for row in label if row["kind"] == "database, full" and row["host"] == backups.name][-1]
    damage(backups.store.check_output(f"ls -S {backups.root}/database/{backups.name}/backup/{backups.app}/{newest}/bundle/* | head -n 1"))
    with backups.alert(backups.db, "redoubt-drill.service failed"):
        found = drill(backups)
    assert "dump restored" in found and re.search("checksum|decrypt|cipher|decompress|lz4|invalid|unable", found["dump restored"]), found


def test_a_wrong_passphrase(backups) -> None:
    path = "/etc/redoubt/backup/files.pass"
    backups.web.check_output(f"cp -p {path} {path}.drill && echo another >{path}")
    try:
        with backups.alert(backups.web, "does not open: app_backup_files_pass is another than the one it was made with"):
            assert backups.send() != 0
    finally:
        backups.web.check_output(f"mv {path}.drill {path}")
    assert backups.send() == 0
    path, unit = f"/etc/redoubt/backup-server/{backups.name}.d/pass.conf", f"redoubt-backup-database@{backups.name}.service"
    backups.store.check_output(f"cp -p {path} {path}.drill && sed -i 's/^\\(repo1-cipher-pass=\\).*/\\1another/' {path}")
    try:
        with backups.alert(backups.store, f"The repository of {backups.name} cannot be read: "):
            assert backups.store.run(f"systemctl start {unit}").rc != 0
    finally:
        backups.store.check_output(f"mv {path}.drill {path}")
    assert backups.store.run(f"systemctl start {unit}").rc == 0, said(backups.store, unit)
    backups.archived()


@pytest.mark.parametrize("days", [-1, 1, 400])
def test_a_clock_that_is_off(backups, days) -> None:
    """The store's, which decides what is removed: it removes nothing that a right one would not, and says what it sees."""

    def skewed(host, *words: str):
        return host.run(f"python3 -c {shlex.quote(SKEWED)} {days * 86400} /usr/local/lib/redoubt/{shlex.join(words)}")

    assert backups.send() == 0
    backups.store.check_output("systemctl start redoubt-backup-keep.service")
    kept = backups.listing["kept"]
    for verb in ("keep", "prune"):
        done = skewed(backups.store, "backup-server", verb)
        assert done.rc == 0, done.stderr
    # All of a day is thinned to its last when that day is over; a wrong clock may say so early, and takes no day.
    after = backups.listing["kept"]
    assert {name[:10] for name in kept} <= {name[:10] for name in after}
    assert kept[-1] in after
    told = skewed(backups.store, "backup-server", "watch")
    assert (told.rc != 0) is (days != 1), told.stderr
    assert {-1: "hours ahead of this host's clock", 1: "", 400: "hours old"}[days] in told.stderr
    told = skewed(backups.db, "backup", "watch")
    assert (told.rc != 0) is (days == 400), told.stderr
    # What was kept under the wrong date goes with its day, or is removed by whoever has set the clock right.
    wrong = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)).strftime("%Y-%m-%d")
    backups.store.check_output(f"rm -rf {backups.root}/kept/{wrong}T*")
    backups.store.check_output("systemctl start redoubt-backup-watch.service")


def test_a_server_whose_key_cannot_be_read_has_not_started(backups) -> None:
    key = "/etc/redoubt/pki/host.key"
    backups.db.check_output(f"cp -a {key} {key}.drill && echo none >{key}")
    try:
        assert backups.db.run("systemctl restart pgbackrest.service").rc == 1
    finally:
        backups.db.check_output(f"mv {key}.drill {key} && systemctl restart pgbackrest.service")


@pytest.mark.slow
def test_a_certificate_that_has_ended(lab, backups, expired) -> None:
    expired(backups.web)
    backups.db.check_output("systemctl restart pgbackrest.service redoubt-backup-send.service")
    with backups.alert(backups.web, f"{backups.store_name} does not let {backups.lab.web} to its files"):
        assert backups.send() != 0
    segment = backups.sql("SELECT pg_walfile_name(pg_switch_wal())")
    time.sleep(5)
    assert backups.db.run(f"test -e /var/lib/postgresql/pgbackrest-spool/{segment}").rc == 0
    unit = f"redoubt-backup-database@{backups.name}.service"
    with backups.alert(backups.store, f"{unit} failed"):
        assert backups.store.run(f"systemctl start {unit}").rc != 0
    assert "certificate" in said(backups.store, unit)
    # As the docs say: the next site.yml makes another.
    lab.playbook("playbooks/site.yml")
    assert backups.send() == 0, said(backups.web, "redoubt-backup.service")
    assert backups.store.run(f"systemctl start {unit}").rc == 0, said(backups.store, unit)
    backups.archived()
    assert not drill(backups)


def test_a_drill_is_killed(backups) -> None:
    """And leaves nothing, not even the server of its own."""
    backups.db.check_output("systemctl start --no-block redoubt-drill.service")
    await_process(backups.db, "[u]nix_socket_directories=/run/redoubt-restored-drill")
    backups.db.check_output("systemctl kill --signal=KILL redoubt-drill.service")
    assert ended(backups.db, "redoubt-drill.service") == "signal"
    assert backups.db.run("ls -A /var/lib/postgresql/redoubt-restored /var/lib/redoubt-restored /run/redoubt-restored-drill").stdout.split() == [
        "/var/lib/postgresql/redoubt-restored:", "/var/lib/redoubt-restored:"]
    assert backups.drilled["ok"] is False
    assert not drill(backups)
