"""Backups are made, listed, drilled and restored; an intruder on the application's host destroys none; what fails is said."""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import shlex
import time

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.poly1305 import Poly1305

# Sends to restic's server, with the host's own key, what it gets in base64; or so many random bytes. Says under which name.
SEND = """
import base64, hashlib, http.client, os, ssl, sys
address, folder, content = sys.argv[1:]
body = os.urandom(int(content)) if content.isdigit() else base64.b64decode(content)
context = ssl.create_default_context(cafile="/etc/redoubt/pki/ca.pem")
context.load_cert_chain("/etc/redoubt/pki/host.pem", "/etc/redoubt/pki/host.key")
connection = http.client.HTTPSConnection(address, 8430, context=context, timeout=20)
connection.request("POST", f"{folder}/{hashlib.sha256(body).hexdigest()}", body)
answer = connection.getresponse()
assert answer.status == 200, (answer.status, answer.read())
print(hashlib.sha256(body).hexdigest())
"""


@pytest.fixture(autouse=True)
def clean(backups):
    yield
    backups.sql("DROP TABLE IF EXISTS redoubt.drill")


def test_a_night_is_drilled_and_listed(backups) -> None:
    word = secrets.token_hex(8)
    backups.upload(f"drill/{word}.txt", word)
    backups.play("backup")
    done = backups.play("drill")
    assert "FAILED" not in done.stdout
    drilled = backups.drilled
    assert drilled["ok"], drilled
    assert [step["step"] for step in drilled["steps"]] == [
        "log archived", "files restored", "files as listed", "dump restored", "rows as counted", "canary", "every page read", "migrations",
        # Debian 12's pgBackRest cannot do it over the network.
        *([] if "VERSION_CODENAME=bookworm" in backups.db.check_output("cat /etc/os-release") else ["database's repository"]), "files' repository"]
    found = backups.listing["backups"]
    assert {row["kind"].split(",")[0] for row in found if row["host"] == backups.name} == {"database", "files"}
    told = backups.play("backups").stdout
    assert f"{drilled['backup']} " in told and drilled["ended"] in told
    # Nothing of the drill is left.
    assert backups.db.run("ls /var/lib/postgresql/redoubt-restored /var/lib/redoubt-restored /run/redoubt-restored-drill").stdout.split() == [
        "/var/lib/postgresql/redoubt-restored:", "/var/lib/redoubt-restored:"]


@pytest.mark.once
def test_a_point_in_time_beside_the_service(backups) -> None:
    backups.sql("CREATE TABLE IF NOT EXISTS redoubt.drill (word text); INSERT INTO redoubt.drill VALUES ('before')")
    time.sleep(0.1)
    at = backups.now
    time.sleep(0.1)
    backups.sql("INSERT INTO redoubt.drill VALUES ('after')")
    backups.archived()
    backups.play("restore", into="look", at=at, part="database")
    try:
        assert backups.sql("SELECT word FROM redoubt.drill", socket="/run/redoubt-restored-look") == "before"
        assert backups.sql("SELECT count(*) FROM redoubt.drill") == "2"
        again = backups.play("restore", check=False, into="look", part="database")
        assert again.returncode != 0
        assert "There is a restore called look already" in backups.told(again)
    finally:
        backups.play("restore", into="look", remove=True)
        assert backups.db.run("ls -A /var/lib/postgresql/redoubt-restored").stdout == ""


def test_in_place_database_and_uploads_come_back(backups, https) -> None:
    word = secrets.token_hex(8)
    path = backups.upload(f"drill/{word}.txt", word)
    backups.sql(f"CREATE TABLE redoubt.drill AS SELECT '{word}' AS word")
    backups.play("backup")
    # What was committed after the last archived segment is only on this disk.
    backups.sql("INSERT INTO redoubt.drill VALUES ('not archived yet')")
    backups.web.check_output(f"rm {path}")
    refused = backups.play("restore", check=False)
    assert refused.returncode != 0
    assert f"-e confirm={backups.app}" in backups.told(refused)
    before = backups.web.check_output("systemctl list-units --plain --no-legend --state=active '%s@*' '%s-*' | cut -d' ' -f1", backups.app, backups.app)
    backups.play("restore", confirm=backups.app)
    assert backups.web.check_output(f"cat {path}") == word
    assert backups.web.check_output(f"stat -c %U {path}") == backups.app
    assert backups.sql("SELECT word FROM redoubt.drill ORDER BY 1").split("\n") == sorted([word, "not archived yet"])
    assert backups.web.check_output("systemctl list-units --plain --no-legend --state=active '%s@*' '%s-*' | cut -d' ' -f1", backups.app, backups.app) == before
    assert https.get(f"https://{backups.lab.vars(backups.lab.web)['app_domains'][0]}/", timeout=30).status_code == 200
    # What was there before is aside, and the log goes on to be archived on the new timeline.
    backups.db.check_output("test -f /var/lib/postgresql/*/main.before-restore/PG_VERSION")
    backups.archived()


@pytest.mark.once
def test_a_restore_that_cannot_be_leaves_what_was(backups, https) -> None:
    backups.sql("CREATE TABLE redoubt.drill AS SELECT 'here' AS word")
    for at, sentence in (("2020-01-01T00:00:00Z", "unable to find backup set with stop time less than"), ("2020-01-01", "'2020-01-01' is no time"),
                         ("2100-01-01T00:00:00Z", "is yet to come")):
        done = backups.play("restore", check=False, confirm=backups.app, part="database", at=at)
        assert done.returncode != 0
        assert sentence in backups.told(done), done.stdout
    # What only turns out when the log is replayed: it does not lead that far.
    backups.archived()
    backups.db.check_output("systemctl stop redoubt-backup-send.service")
    try:
        done = backups.play("restore", check=False, confirm=backups.app, part="database", at=backups.now)
    finally:
        backups.db.check_output("systemctl start redoubt-backup-send.service")
    assert done.returncode != 0
    assert "recovery ended before configured recovery target was reached. The database from before is in its place." in backups.told(done), done.stdout
    assert backups.sql("SELECT word FROM redoubt.drill") == "here"
    assert https.get(f"https://{backups.lab.vars(backups.lab.web)['app_domains'][0]}/", timeout=30).status_code == 200


@pytest.mark.once
def test_what_an_owned_host_cannot_destroy(backups) -> None:
    """With root on the application's host: databases' backups are destroyed and come back, files' cannot be touched, others' not be read."""
    backups.play("backup")
    kept = backups.listing["kept"][-1]
    files = {row["name"] for row in backups.listing["backups"] if row["kind"] == "files"}
    label = [row["name"] for row in backups.listing["backups"] if row["kind"].startswith("database")][-1]

    # Its own files: nothing is deleted or written again; another's: nothing is read; without the key: no answer at all.
    snapshot = backups.store.check_output(f"ls {backups.root}/files/{backups.name}/snapshots | head -n 1")
    pack = backups.store.check_output(f"cd {backups.root}/files/{backups.name}/data && ls */* | head -n 1").split("/")[1]
    own = f"/{backups.lab.web}"
    assert backups.ask(("DELETE", f"{own}/snapshots/{snapshot}"), ("DELETE", f"{own}/data/{pack}"), ("DELETE", f"{own}/config"), ("DELETE", f"{own}/"),
                       ("POST", f"{own}/config"), ("POST", f"{own}/snapshots/{snapshot}"), ("POST", f"{own}/data/{pack}")) == [403, 403, 403, 405, 403, 403, 403]
    assert backups.ask(("GET", "/another/config"), ("GET", f"{own}/../another/config"), ("GET", "/"), ("GET", f"{own}/config")) == [401, 301, 401, 200]
    assert backups.ask(("GET", f"{own}/config"), key=False) == [400]
    assert backups.restic("forget --keep-last 1 --prune").rc != 0
    # Snapshots with dates of their own choosing do not age what is there.
    for date in ("2100-01-01 00:00:00", "2001-01-01 00:00:00"):
        assert backups.restic(f"backup --time '{date}' --host {backups.lab.web} /etc/hostname").rc == 0
    for _ in range(3):
        assert backups.restic(f"backup --force --host {backups.lab.web} /etc/hostname").rc == 0
    backups.store.check_output("systemctl start redoubt-backup-prune.service")
    assert files <= {row["name"] for row in backups.listing["backups"]}

    # Its own database's: a piece of the log, overwritten by pgBackRest's own words, which archive-push would not do.
    # Of those that were kept: another has come since.
    piece = backups.store.check_output(f"cd {backups.root}/kept/{kept}/database/{backups.name} && find archive -name '*-*.lz4' | sort | tail -n 1")
    assert backups.pgbackrest(f"repo-put {piece}", feed="junk").rc == 0
    with backups.alert(backups.store, f"have changed since they were kept ({piece.split('/')[-1][:24]})"):
        assert backups.store.run("systemctl start redoubt-backup-watch.service").rc != 0

    # A backup: overwritten, which is seen also when it was kept so; and gone from the repository.
    assert backups.pgbackrest(f"repo-put backup/{backups.app}/{label}/backup.manifest", feed="junk").rc == 0
    backups.store.check_output("systemctl start redoubt-backup-keep.service")
    with backups.alert(backups.store, f"have changed since they were kept ({label})"):
        assert backups.store.run("systemctl start redoubt-backup-watch.service").rc != 0
    assert backups.pgbackrest(f"repo-put backup/{backups.app}/backup.info", feed="junk").rc == 0
    assert backups.pgbackrest("stop").rc == 0
    backups.pgbackrest("stanza-delete --force")
    backups.pgbackrest("start")
    assert label not in backups.store.run(f"find {backups.root}/database/{backups.name}").stdout, "the attack did not even hurt"
    backups.store.check_output("systemctl start redoubt-backup-keep.service")
    with backups.alert(backups.store, "have gone from its repository before their time"):
        assert backups.store.run("systemctl start redoubt-backup-watch.service").rc != 0

    backups.store.check_output(f"/usr/local/lib/redoubt/backup-server bring-back {kept} {backups.name}")
    assert label in {row["name"] for row in backups.listing["backups"]}
    backups.archived()
    backups.play("backup")
    assert backups.play("drill").returncode == 0
    # All is well again, and the store says so: a unit that stays failed would be somebody's next alarm.
    backups.store.check_output("systemctl start redoubt-backup-watch.service")


def test_what_an_owned_host_can_read(backups) -> None:
    """The server of its repository opens what it is told to, which is little."""
    own = backups.pgbackrest(f"repo-get --raw archive/{backups.app}/archive.info")
    assert own.rc == 0 and own.stdout_bytes, "the attack itself does not work"
    for folder, name in (("/etc/redoubt/pki", "host.key"), ("/proc/self", "maps"), ("/proc/self", "mem"), ("/proc/1/root/etc/redoubt/pki", "host.key"),
                         ("/dev/fd", "0"), ("/etc/redoubt/backup-server", "files.pass"), (f"{backups.root}/kept", "."), ("/etc", "shadow")):
        done = backups.pgbackrest(f"--repo1-path={folder} repo-get --raw {name}")
        assert done.rc != 0 and not done.stdout_bytes, f"{folder}/{name} is read"
    # What it reads there it reads all the same, so that the answers above are not those of a server that is broken.
    assert backups.pgbackrest("--repo1-path=/etc repo-get --raw hostname").stdout == backups.store.file("/etc/hostname").content_string


def sealed(key: dict, content: bytes) -> bytes:
    """As restic writes an index, with the key of the repository."""
    nonce, text = os.urandom(16), base64.b64decode
    cipher = Cipher(algorithms.AES(text(key["encrypt"])), modes.CTR(nonce)).encryptor().update(content)
    word = Cipher(algorithms.AES(text(key["mac"]["k"])), modes.ECB()).encryptor().update(nonce)
    return nonce + cipher + Poly1305.generate_tag(text(key["mac"]["r"]) + word, cipher)


@pytest.mark.once
def test_what_is_old_goes_and_what_is_claimed_to_be_there_does_not_cost_what_is(backups) -> None:
    """As the unit runs it, with fewer days. The intruder has the host's key and passphrase."""
    assert backups.send() == 0
    repository, as_restic = f"{backups.root}/files/{backups.lab.web}", "setpriv --reuid=restic-rest-server --regid=restic-rest-server --init-groups"
    config = "/etc/redoubt/backup-server/config.json"

    def there(kind: str) -> set[str]:
        return set(backups.store.check_output(f"find {repository}/{kind} -type f -printf '%f\\n'").split())

    def restic(words: str):
        return backups.store.run(f"{as_restic} restic --no-cache --repo={repository} --password-file=/etc/redoubt/backup-server/files.pass {words}")

    def send(folder: str, content: str) -> str:
        words = [backups.lab.vars(backups.store_name)["lab_ipv4"], f"/{backups.lab.web}/{folder}", content]
        return backups.web.check_output(f"python3 -c {shlex.quote(SEND)} {shlex.join(words)}")

    before, made, planted = there("snapshots"), [], []
    backups.store.check_output(f"cp -p {config} {config}.drill && sed -i 's/\"days\": 30/\"days\": 1/' {config}")
    try:
        for days in (40, 39, 5):
            word = secrets.token_hex(5000)
            backups.web.check_output(f"printf %s {word} >/run/drill.txt")
            assert backups.restic("backup --host drill /run/drill.txt").rc == 0
            (name,) = there("snapshots") - before - set(made)
            backups.store.check_output(f"touch --date='{days} days ago' {repository}/snapshots/{name}")
            made.append(name)

        # All that is in some pack is said to be in another too, whose bytes are random.
        key = json.loads(backups.restic("cat masterkey").stdout)
        indexes = [json.loads(backups.restic(f"cat index {name}").stdout) for name in there("index")]
        pack = next(pack for index in indexes for pack in index["packs"] if pack["blobs"][0]["type"] == "data")
        size = backups.store.check_output(f"stat -c %s {repository}/data/{pack['id'][:2]}/{pack['id']}")
        rubbish = send("data", size)
        planted.append(f"{repository}/data/{rubbish[:2]}/{rubbish}")
        index = send("index", base64.b64encode(sealed(key, json.dumps({"packs": [{**pack, "id": rubbish}]}).encode())).decode())
        planted.append(f"{repository}/index/{index}")
        everything = there("data")
        assert restic("check").rc == 0, "only reading finds it"
        with backups.alert(backups.store, f"Nothing was removed of {backups.lab.web}'s files, where something is there twice"):
            assert backups.store.run("systemctl start redoubt-backup-prune.service").rc != 0
        assert (there("data"), there("snapshots")) == (everything, before | set(made))

        backups.store.check_output(f"rm {shlex.join(planted)}")
        backups.store.check_output("systemctl start redoubt-backup-prune.service")
        assert there("snapshots") == before | {made[2]}
        done = restic("check --read-data")
        assert done.rc == 0, done.stderr
        assert restic(f"dump {made[2]} /run/drill.txt").stdout == word
    finally:
        backups.store.check_output(f"mv {config}.drill {config}")
        backups.web.run("rm /run/drill.txt")
        backups.store.run(f"rm -f {shlex.join(planted)}")
        restic(f"forget --prune {shlex.join(there('snapshots') & set(made))}")


def test_the_kept_copies_are_out_of_the_servers_reach(backups) -> None:
    for user in (f"backup-{backups.name}", "restic-rest-server"):
        done = backups.store.run(f"setpriv --reuid={user} --regid={user} --init-groups sh -c 'ls {backups.root}/kept'")
        assert done.rc != 0, user
    # Once kept, a file cannot be written by the server that made it.
    one = backups.store.check_output(f"find {backups.root}/database/{backups.name} -name '*.manifest' -links +1 | head -n 1")
    assert one
    done = backups.store.run(f"setpriv --reuid=backup-{backups.name} --regid=backup-{backups.name} --init-groups sh -c 'echo junk >>{one}'")
    assert done.rc != 0
    assert backups.store.check_output(f"stat -c '%U %a' {one}") == "root 440"


def test_nothing_can_be_read_in_the_repositories(backups) -> None:
    word = f"canary-{secrets.token_hex(12)}"
    backups.upload(f"drill/{word}.txt", word)
    backups.sql(f"CREATE TABLE redoubt.drill AS SELECT '{word}' AS word FROM generate_series(1, 100)")
    backups.play("backup")
    backups.archived()
    assert backups.store.run(f"grep --recursive --binary-files=text --files-with-matches {word} {backups.root}").stdout == ""
    # The search itself can find it.
    assert word in backups.web.run(f"grep --recursive --files-with-matches {word} /srv/{backups.app}/media").stdout


@pytest.mark.once
def test_a_backup_that_fails_says_so(backups) -> None:
    backups.store.check_output("systemctl stop redoubt-backup-door.service")
    try:
        with backups.alert(backups.web, f"redoubt-backup.service failed: {backups.store_name} cannot be reached"):
            done = backups.play("backup", check=False)
        assert done.returncode != 0
        assert re.search(rf"{backups.store_name} cannot be reached.*What was backed up before is as it was", backups.told(done)), done.stdout
    finally:
        backups.store.check_output("systemctl start redoubt-backup-door.service")
    assert backups.play("backup").returncode == 0


@pytest.mark.once
def test_a_deploy_warns_and_then_refuses(backups) -> None:
    """A drill that is older than it may be, as the check sees it."""
    drilled = f"/var/lib/redoubt/{backups.app}/drill.json"
    backups.db.check_output(f"cp -p {drilled} {drilled}.drill && sed -i 's/\"ended\": \"20[0-9][0-9]-/\"ended\": \"2020-/' {drilled}")
    try:
        warned = backups.play("deploy", check=False)
        assert warned.returncode == 0, warned.stdout
        assert "No backup has been restored in a drill since 2020-" in backups.told(warned)
        refused = backups.play("deploy", check=False, backup_required="refuse")
        assert refused.returncode != 0
        assert "Nothing was deployed, because backup_required is `refuse`" in backups.told(refused)
        assert "Build the release" not in refused.stdout
    finally:
        backups.db.check_output(f"mv {drilled}.drill {drilled}")
    quiet = backups.play("deploy")
    assert "in a drill since" not in backups.told(quiet)


def test_secrets_are_in_no_command_line_and_no_log(backups) -> None:
    values = backups.lab.vars(backups.name)
    for host in (backups.db, backups.store):
        # Looked for here: sudo would log a search on the host, with what it searches for.
        said = host.check_output("journalctl --no-pager -o cat; cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
        for name in ("app_backup_database_pass", "app_backup_files_pass"):
            assert values[name] not in said, f"{name} is in the log, or in a command line"
    owners = {"/etc/redoubt/backup/files.pass": (backups.web, "root 600"),
              "/etc/redoubt/backup-server/files.pass": (backups.store, "root 640"),
              f"/etc/redoubt/backup-server/{backups.name}.d/pass.conf": (backups.store, "root 640")}
    for path, (host, wanted) in owners.items():
        assert host.check_output(f"stat -c '%U %a' {path}") == wanted, path
