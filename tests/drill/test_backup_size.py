"""A gigabyte of rows and a thousand uploads: how long they take to be backed up and to be there again, beside what copying alone takes."""

from __future__ import annotations

import statistics
import threading
import time

import pytest
from backups import AS_POSTGRES
from load import Load

FILES, FILE_SIZE = 1000, 100_000


def timed(host, command: str) -> float:
    """Seconds that a command takes on a host."""
    began, ended = host.check_output(f"date +%s.%N; {{ {command}; }} >/dev/null && date +%s.%N").split()
    return float(ended) - float(began)


def p99(*loads: Load) -> float:
    return statistics.quantiles([answer.seconds for load in loads for answer in load.answers], n=100)[-1]


@pytest.fixture
def large(backups):
    """Rows of what compresses as text does, and files of what does not compress."""
    backups.sql("CREATE TABLE redoubt.drill AS SELECT n AS id, md5(n::text) || md5((-n)::text) AS word, repeat(md5((n % 1000)::text), 2) AS text "
                "FROM generate_series(1, 6000000) n")
    # Of other drills.
    backups.web.check_output(f"rm -rf /srv/{backups.app}/media/drill")
    backups.upload("drill/first", "x")
    backups.web.check_output(f"setpriv --reuid={backups.app} --regid={backups.app} --init-groups sh -c "
                             f"'cd /srv/{backups.app}/media/drill && for n in $(seq {FILES}); do head -c {FILE_SIZE} /dev/urandom >$n; done'")
    backups.archived()
    yield
    backups.sql("DROP TABLE IF EXISTS redoubt.drill")
    backups.web.check_output(f"rm -rf /srv/{backups.app}/media/drill /srv/{backups.app}/*.before-restore-* /var/lib/postgresql/*/main.before-restore")


@pytest.mark.slow
def test_a_gigabyte_and_a_thousand_files(lab, backups, large, browse, table) -> None:
    values = lab.vars(lab.web)
    site = f"https://{values['app_domains'][0]}"

    def load() -> Load:
        return Load(lambda: browse(lab.web), site, values["vault_app_admin_password"])

    size = int(backups.sql(f"SELECT pg_database_size('{backups.app}')"))
    assert size >= 1e9
    megabytes, media = size / 1e6, FILES * FILE_SIZE / 1e6

    # Copying alone, on the same disks: the floor of each line, and of the way back.
    floor = "/var/lib/postgresql/floor"
    dumped = timed(backups.db, f"{AS_POSTGRES} pg_dump --format=custom --compress=0 --file={floor}.dump {backups.app}; rm {floor}.dump")
    copied = timed(backups.web, f"cp -a /srv/{backups.app}/media {floor}-media && sync; rm -r {floor}-media")
    cluster = backups.db.check_output("ls -d /var/lib/postgresql/*/main")
    back = timed(backups.db, f"cp -a {cluster} {floor} && cp -a /srv/{backups.app}/media {floor}-media && sync && systemctl restart 'postgresql@*-main'")
    backups.db.check_output(f"rm -r {floor} {floor}-media")

    # What was written for the floor is on the disk. Some of a hundred requests meet a log-in, which takes a processor for as long as hashing its
    # password does: that these are as likely here as there, what the others are compared with is measured before each, and counted together.
    backups.sql("CHECKPOINT")
    backups.db.check_output("sync")
    calm: list[Load] = []

    def undisturbed() -> None:
        with load() as alone:
            time.sleep(20)
        calm.append(alone)

    served = {}
    undisturbed()
    with load() as during:
        # As docs/drills.md says, with what the unit leaves to others.
        whole = timed(backups.store, f"chrt --idle 0 sudo -u backup-{backups.name} /usr/local/lib/redoubt/backup-server database {backups.name} --full")
    served["a whole backup of the database"] = during
    undisturbed()
    with load() as during:
        files = timed(backups.web, "systemctl start redoubt-backup.service")
    served["a backup of the files, with the dump"] = during
    undisturbed()
    with load() as during:
        drilled = timed(backups.db, "systemctl start redoubt-drill.service")
    served["a drill"] = during
    assert backups.drilled["ok"], backups.drilled

    rows = int(backups.sql("SELECT count(*) FROM redoubt.drill"))
    backups.sql("DROP TABLE redoubt.drill; CREATE TABLE redoubt.drill (id int)")
    backups.web.check_output(f"rm -r /srv/{backups.app}/media/drill")
    at = backups.drilled["started"]
    away = []
    stop = threading.Event()

    def look() -> None:
        session = browse(lab.web)
        while not stop.wait(0.2):
            try:
                status = session.get(f"{site}/", timeout=5).status_code
            except OSError:
                status = 0
            if status != 200:
                away.append(time.monotonic())

    visitor = threading.Thread(target=look)
    visitor.start()
    began = time.monotonic()
    backups.play("restore", confirm=backups.app, at=at)
    restored = time.monotonic() - began
    stop.set()
    visitor.join()
    assert int(backups.sql("SELECT count(*) FROM redoubt.drill")) == rows
    assert backups.web.check_output(f"ls /srv/{backups.app}/media/drill | wc -l") == str(FILES + 1)

    table("backup_size", {"what": "database, whole backup and its verification", "MB": round(megabytes), "s": round(whole, 1), "floor_s": round(dumped, 1),
                          "ratio": round(whole / dumped, 1), "floor": "pg_dump to a file"})
    table("backup_size", {"what": "files with the dump, sent", "MB": round(megabytes + media), "s": round(files, 1), "floor_s": round(dumped + copied, 1),
                          "ratio": round(files / (dumped + copied), 1), "floor": "pg_dump and cp"})
    table("backup_size", {"what": "drill of both", "MB": round(2 * megabytes + media), "s": round(drilled, 1), "floor_s": round(back, 1),
                          "ratio": round(drilled / back, 1), "floor": "cp and PostgreSQL's start"})
    table("backup_size", {"what": f"restore in place (away {len(away) and away[-1] - away[0]:.1f} s)", "MB": round(megabytes + media), "s": round(restored, 1),
                          "floor_s": round(back, 1), "ratio": round(restored / back, 1), "floor": "cp and PostgreSQL's start"})
    rest = p99(*calm)
    for case, done in [*(("nothing else", alone) for alone in calm), *served.items()]:
        table("backup_requests", {**done.row(case), "p99_s": round(p99(done), 3), "ratio": round(p99(done) / rest, 2)})
    for case, done in served.items():
        assert not done.failed, (case, done.failed[:5])
        assert p99(done) <= 2 * rest, f"{case}: visitors wait {p99(done):.3f} s instead of {rest:.3f}"
    assert sum(len(alone.answers) for alone in calm) > 3000, "too little load to show anything"
