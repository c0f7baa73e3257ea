"""PostgreSQL as the application, its neighbours on the host and an intruder meet it.

What must be refused is tried by the user that must not succeed. What has to be written is in a schema of the test's own,
which the migrator makes and drops.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.hosts("db")

VERSIONS = {"12": 15, "13": 17}
PROBE = f"redoubt_probe_{os.getpid()}"


@dataclasses.dataclass
class Database:
    """The application's database, and who is who in it."""

    host: object
    app: str
    version: int
    # The web host that it is used from, where that is another one.
    web: object = None

    @property
    def unit(self) -> str:
        return f"postgresql@{self.version}-main.service"

    @property
    def config(self) -> str:
        return f"/etc/postgresql/{self.version}/main"

    def run(self, user: str, sql: str, database: str | None = None, options: str = ""):
        """Run SQL as a user of the host, by psql over the socket; as the application's, on the host where they are users."""
        if self.web and user.startswith(self.app):
            return self.remote(user, sql, database or self.app, options)
        psql = "psql -w -XqAt -v ON_ERROR_STOP=1 -v VERBOSITY=terse -d %s " + options
        return self.host.run(f"cd /; printf %s %s | timeout 60 runuser -u %s -- {psql}", "%s", sql, user, database or self.app)

    def remote(self, user: str, sql: str, database: str, options: str):
        values = self.web.lab["app_database"]
        role = options.removeprefix("-U ") if options.startswith("-U ") else self.role(user)
        words = f"host={values['host']} dbname={database} user={role} sslmode=verify-full sslrootcert={values['sslrootcert']}"
        program = base64.b64encode((Path(__file__).parent.parent / "psql.py").read_bytes()).decode()
        python = f"/srv/{self.app}/live/release/venv/bin/python"
        run = f'exec(__import__("base64").b64decode("{program}"))'
        return self.web.run(f"cd /; printf %s %s | timeout 60 runuser -u %s -- env PGPASSFILE=/etc/{self.app}/pgpass-{user} {python} -c %s {words}",
                            "%s", sql, user, run)

    def role(self, user: str) -> str:
        """The one that a user of the application logs in by: of two that take turns over the network, whose password it has."""
        return self.web.check_output(f"sed -En '1s/.*:([^:]+):[^:]+$/\\1/p' /etc/{self.app}/pgpass-{user}") if self.web else user

    def ask(self, sql: str, database: str | None = None, user: str = "postgres") -> str:
        answer = self.run(user, sql, database)
        assert answer.rc == 0, f"as {user}: {sql}\n{answer.stderr}"
        return answer.stdout.strip()

    def rows(self, sql: str, database: str | None = None) -> list:
        return json.loads(self.ask(f"SELECT coalesce(jsonb_agg(x), '[]') FROM ({sql}) x", database))


@pytest.fixture(scope="module")
def db(host, lab) -> Database:
    app = host.lab["app_name"]
    web = None
    if host.lab["site_fleet"]:
        web = lab.host(lab.web)
        web.lab = lab.vars(lab.web)
    return Database(host, app, VERSIONS[host.file("/etc/debian_version").content_string.split(".")[0]], web)


@pytest.fixture(scope="module")
def settings(db) -> dict[str, str]:
    return {row["name"]: row["value"] for row in db.rows("SELECT name, current_setting(name) AS value FROM pg_settings")}


@pytest.fixture(scope="module")
def probe(db):
    """A schema with a table, made by the migrator the way a migration makes one."""
    db.ask(
        f"""CREATE SCHEMA {PROBE};
        CREATE TABLE {PROBE}.note (id serial PRIMARY KEY, body text);
        CREATE TYPE {PROBE}.colour AS ENUM ('red', 'green');
        CREATE VIEW {PROBE}.bodies AS SELECT body FROM {PROBE}.note;
        CREATE FUNCTION {PROBE}.twice(integer) RETURNS integer LANGUAGE sql AS 'SELECT 2 * $1';""",
        user=f"{db.app}_migrate",
    )
    yield PROBE
    db.ask(f"DROP SCHEMA {PROBE} CASCADE", user=f"{db.app}_migrate")


# --- The server -------------------------------------------------------------------------------------------------------


def test_it_runs_and_starts_at_boot(db):
    unit = db.host.service(db.unit)
    journal = db.host.run("journalctl --no-pager -n 30 -u %s", db.unit).stdout
    assert unit.is_running, journal
    assert db.host.service("postgresql.service").is_enabled
    assert db.host.run("systemctl is-failed %s", db.unit).stdout.strip() == "active", journal


def test_it_listens_on_no_tcp_port(db):
    if db.web:
        pytest.skip("no TCP port: this database is another host's, see tests/fleet")
    assert db.ask("SHOW listen_addresses") == ""
    listening = db.host.run("ss --no-header --tcp --udp --listening --numeric --processes").stdout
    assert "postgres" not in listening
    assert ":5432 " not in listening


def test_a_host_connection_is_refused(db):
    if db.web:
        pytest.skip("no TCP port: this database is another host's, see tests/fleet")
    answer = db.run(db.app, "SELECT 1", options="-h 127.0.0.1")
    assert answer.rc != 0
    assert "Connection refused" in answer.stderr


def test_pages_have_checksums(db):
    assert db.ask("SHOW data_checksums") == "on"


def test_database_sorts_by_code_point_in_utf8(db):
    sql = "SELECT pg_encoding_to_char(encoding) || ' ' || datcollate || ' ' || datctype FROM pg_database WHERE datname = current_database()"
    assert db.ask(sql) == "UTF8 C.UTF-8 C.UTF-8"


def test_the_files_are_what_the_server_runs_with(db):
    assert db.rows("SELECT name FROM pg_settings WHERE pending_restart") == []
    assert db.rows("SELECT sourcefile, sourceline, name, error FROM pg_file_settings WHERE error IS NOT NULL") == []
    assert db.rows("SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL") == []
    assert db.rows("SELECT sourcefile, name FROM pg_file_settings WHERE sourcefile LIKE '%auto.conf'") == []
    ours = db.rows("SELECT DISTINCT name FROM pg_file_settings WHERE sourcefile LIKE '%/50-redoubt.conf' AND applied")
    assert len(ours) > 25


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("password_encryption", "scram-sha-256"),
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("jit", "off"),
        ("log_connections", "on"),
        ("log_disconnections", "on"),
        ("log_lock_waits", "on"),
        ("log_statement", "none"),
        ("log_min_error_statement", "panic"),
        ("log_timezone", "UTC"),
        ("log_parameter_max_length", "0"),
        ("log_min_duration_statement", "-1"),
        ("pgaudit.log", "role,ddl"),
        ("pgaudit.log_statement", "off"),
        ("pgaudit.log_parameter", "off"),
        ("wal_compression", "lz4"),
    ],
)
def test_setting(settings, name, value):
    assert settings[name] == value


def test_slow_statements_are_logged_of_the_application_alone(db):
    for suffix in ("", "_migrate"):
        assert db.ask("SHOW log_min_duration_statement", user=db.app + suffix) == "500ms"
    assert db.ask("SHOW log_min_duration_statement") == "-1"


def test_tls_is_for_other_hosts(db, settings):
    assert settings["ssl"] == ("on" if db.web else "off")
    if db.web:
        assert settings["ssl_min_protocol_version"] == "TLSv1.3"
        assert (settings["ssl_cert_file"], settings["ssl_key_file"]) == ("/etc/redoubt/pki/host.pem", "/etc/redoubt/pki/host.key")


def test_configuration_cannot_be_changed_from_inside(db):
    if db.version < 17:
        pytest.skip("PostgreSQL 15 has no allow_alter_system")
    answer = db.run("postgres", "ALTER SYSTEM SET work_mem = '5MB'")
    assert "is not allowed in this environment" in answer.stderr


def test_memory_is_planned_from_the_hosts(db):
    total = int(db.host.check_output("awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo"))
    settings = (
        "SELECT name, setting::bigint * CASE unit WHEN '8kB' THEN 8 ELSE 1 END / 1024 AS mb FROM pg_settings WHERE unit IN ('kB', '8kB')"
    )
    mb = {row["name"]: row["mb"] for row in db.rows(settings)}
    assert 128 <= mb["shared_buffers"] <= max(128, total * 0.27)
    assert mb["shared_buffers"] < mb["effective_cache_size"] <= total + 256
    assert 4 <= mb["work_mem"] <= 64


# --- Who gets in ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "_migrate"])
def test_the_applications_users_get_in(db, suffix):
    assert db.ask("SELECT session_user", user=db.app + suffix) == db.role(db.app + suffix)


@pytest.mark.parametrize("database", ["postgres", "template1"])
@pytest.mark.parametrize("suffix", ["", "_migrate"])
def test_they_get_into_no_other_database(db, suffix, database):
    answer = db.run(db.app + suffix, "SELECT 1", database)
    assert answer.rc == 2
    assert "pg_hba.conf rejects connection" in answer.stderr


@pytest.mark.parametrize("role", ["postgres", "{app}_owner", "{app}_migrate", "{app}_backup", "{app}_monitor"])
def test_the_runtime_user_is_nobody_else(db, role):
    answer = db.run(db.app, "SELECT 1", options=f"-U {role.format(app=db.app)}")
    assert answer.rc == 2
    # Over the network the user has no password but its own.
    assert any(said in answer.stderr for said in ("Peer authentication failed", "pg_hba.conf rejects connection", "no password supplied"))


@pytest.mark.parametrize("role", ["postgres", "{app}", "{app}_migrate", "{app}_backup", "nobody"])
def test_other_users_of_the_host_do_not_get_in(db, role):
    answer = db.run("nobody", "SELECT 1", options=f"-U {role.format(app=db.app)}")
    assert answer.rc == 2
    assert "Peer authentication failed" in answer.stderr or "pg_hba.conf rejects connection" in answer.stderr


def test_replication_is_refused(db):
    answer = db.run("postgres", "SELECT 1", "replication=true")
    assert answer.rc == 2
    assert "pg_hba.conf rejects replication connection" in answer.stderr


def test_rules_say_nothing_else(db):
    # Without the line numbers: what is allowed, in order, and then the refusals.
    rules = db.rows(
        "SELECT type, database[1] AS db, user_name[1] AS role, auth_method AS method FROM pg_hba_file_rules ORDER BY line_number"
    )
    allowed = [(r["type"], r["db"], r["role"]) for r in rules if r["method"] != "reject"]
    logins = [db.app, f"{db.app}_migrate", f"{db.app}_backup", f"{db.app}_monitor"]
    clients = [address for name in db.host.lab["site_web_hosts"] for address in db.host.lab["site_addresses"][name]] if db.web else []
    over_tls = [("hostssl", db.app, f"{role}{turn}") for role in logins[:2] for turn in ("", "_2") for _ in clients]
    assert allowed == [("local", "all", "postgres"), *(("local", db.app, role) for role in logins), *over_tls]
    assert {r["method"] for r in rules} == {"peer", "reject", *(["scram-sha-256"] if clients else [])}
    assert all(r["method"] == "scram-sha-256" for r in rules if r["type"] == "hostssl")
    assert db.rows("SELECT * FROM pg_ident_file_mappings") == []


# --- What the roles are -----------------------------------------------------------------------------------------------


def test_postgres_is_the_only_superuser(db):
    assert db.rows("SELECT rolname FROM pg_roles WHERE rolsuper") == [{"rolname": "postgres"}]


def test_roles_are_exactly_these(db):
    rows = db.rows(
        """SELECT rolname, rolcanlogin AS login, rolconnlimit AS connections, rolpassword IS NOT NULL AS password,
        rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls AS powers
        FROM pg_authid WHERE rolname NOT LIKE 'pg\\_%' AND rolname <> 'postgres'"""
    )
    roles = {r.pop("rolname"): r for r in rows}
    users = [db.app, f"{db.app}_migrate"]
    turns = {f"{user}{turn}" for user in users for turn in ("", "_2")} if db.web else set()
    awake = [db.role(user) for user in users]
    assert set(roles) == {f"{db.app}{suffix}" for suffix in ("", "_owner", "_migrate", "_backup", "_monitor")} | turns
    assert not [name for name, r in roles.items() if r["powers"]]
    assert {name for name, r in roles.items() if r["password"]} == (set(awake) if db.web else set())
    assert {name for name, r in roles.items() if not r["login"]} == {f"{db.app}_owner", *turns} - set(awake)
    assert all(0 < r["connections"] < 100 for name, r in roles.items() if name != f"{db.app}_owner")


def test_memberships_are_exactly_these(db):
    rows = db.rows(
        """SELECT pg_get_userbyid(member) AS member, pg_get_userbyid(roleid) AS of, admin_option AS admin FROM pg_auth_members
        WHERE pg_get_userbyid(member) NOT LIKE 'pg\\_%'"""
    )
    assert {(r["member"], r["of"], r["admin"]) for r in rows} == {
        (f"{db.app}_migrate", f"{db.app}_owner", False),
        (f"{db.app}_backup", "pg_read_all_data", False),
        (f"{db.app}_monitor", "pg_monitor", False),
        *([(f"{db.app}_2", db.app, False), (f"{db.app}_migrate_2", f"{db.app}_owner", False)] if db.web else []),
    }


@pytest.mark.parametrize(
    ("suffix", "setting", "value"),
    [
        ("", "statement_timeout", "5min"),
        ("", "idle_in_transaction_session_timeout", "1min"),
        ("", "lock_timeout", "0"),
        ("_migrate", "lock_timeout", "5s"),
        ("_migrate", "statement_timeout", "0"),
        ("_migrate", "role", "{app}_owner"),
    ],
)
def test_limits_of_a_session(db, suffix, setting, value):
    assert db.ask(f"SHOW {setting}", user=db.app + suffix) == value.format(app=db.app)


# --- What the runtime role can do -------------------------------------------------------------------------------------


def test_what_a_migration_makes_belongs_to_the_owner(db, probe):
    rows = db.rows(f"SELECT DISTINCT pg_get_userbyid(relowner) AS owner FROM pg_class WHERE relnamespace = '{probe}'::regnamespace")
    assert rows == [{"owner": f"{db.app}_owner"}]


def test_the_runtime_role_can_use_it_at_once(db, probe):
    answer = db.ask(
        f"""BEGIN;
        INSERT INTO {probe}.note (body) VALUES ('a'), ('b');
        UPDATE {probe}.note SET body = 'c' WHERE body = 'b';
        DELETE FROM {probe}.note WHERE body = 'a';
        SELECT count(*) || body || {probe}.twice(4) || 'red'::{probe}.colour FROM {probe}.bodies GROUP BY body;
        ROLLBACK""",
        user=db.app,
    )
    assert answer == "1c8red"


# Each is more than the rows of the application's tables.
REFUSED = [
    "CREATE TABLE public.intruder (id int)",
    "CREATE TABLE {probe}.intruder (id int)",
    "CREATE SCHEMA intruder",
    "CREATE TEMPORARY TABLE intruder (id int)",
    "CREATE FUNCTION public.intruder() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE EXTENSION hstore",
    "CREATE DATABASE intruder",
    "CREATE ROLE intruder",
    "DROP TABLE {probe}.note",
    "ALTER TABLE {probe}.note ADD COLUMN evil text",
    "ALTER TABLE {probe}.note DISABLE TRIGGER ALL",
    "TRUNCATE {probe}.note",
    "CREATE INDEX ON {probe}.note (body)",
    "CREATE TRIGGER evil BEFORE INSERT ON {probe}.note FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE TABLE {probe}.child (id int REFERENCES {probe}.note)",
    "DROP SCHEMA {probe} CASCADE",
    "DROP DATABASE {app}",
    "SET ROLE {app}_owner",
    "SET ROLE postgres",
    "SET SESSION AUTHORIZATION postgres",
    "ALTER ROLE {app} SUPERUSER",
    "ALTER SYSTEM SET work_mem = '1GB'",
    "SELECT * FROM pg_authid",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_ls_dir('/')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT pg_reload_conf()",
    "SELECT pg_promote()",
    "COPY (SELECT 1) TO PROGRAM 'id'",
    "COPY (SELECT 1) TO '/tmp/intruder'",
    "COPY {probe}.note (body) FROM '/etc/passwd'",
]
REFUSALS = ("permission denied", "must be", "only superuser", "Only roles with", "not allowed")


@pytest.fixture(scope="module")
def refusals(db, probe) -> list[str]:
    """What PostgreSQL answers to each of REFUSED, in one session of the runtime user."""
    script = ["\\set ON_ERROR_STOP 0"]
    for sql in REFUSED:
        statement = sql.format(probe=probe, app=db.app)
        # Neither can be inside a transaction.
        alone = "DATABASE" in sql or "SYSTEM" in sql
        script += ["\\warn ====", f"{statement};" if alone else f"BEGIN;\n{statement};\nROLLBACK;"]
    answer = db.run(db.app, "\n".join(script))
    db.ask("DROP DATABASE IF EXISTS intruder")
    assert answer.rc == 0, answer.stderr
    return answer.stderr.split("====\n")[1:]


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=REFUSED)
def test_the_runtime_role_cannot(refusals, number):
    assert len(refusals) == len(REFUSED)
    assert "ERROR:" in refusals[number], "it was not refused"
    assert any(word in refusals[number] for word in REFUSALS), refusals[number]


def test_privileges_on_every_object_are_exact(db):
    app, owner = db.app, f"{db.app}_owner"
    wrong = db.rows(
        f"""SELECT c.oid::regclass::text AS relation, c.relkind AS kind, x.grantee::regrole::text AS grantee, x.privilege_type, x.is_grantable
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
          aclexplode(coalesce(c.relacl, acldefault((CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END)::"char", c.relowner))) x
        WHERE pg_get_userbyid(c.relowner) = '{owner}' AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND x.grantee <> c.relowner
          AND NOT (x.grantee <> 0 AND pg_get_userbyid(x.grantee) = '{app}' AND NOT x.is_grantable AND x.privilege_type = ANY (
            CASE c.relkind WHEN 'S' THEN ARRAY['SELECT', 'UPDATE', 'USAGE'] ELSE ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE'] END))"""
    )
    assert wrong == []
    missing = db.rows(
        f"""SELECT c.oid::regclass::text AS relation, p FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
          unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p
        WHERE n.nspname = 'public' AND pg_get_userbyid(c.relowner) = '{owner}' AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
          AND NOT has_table_privilege('{app}', c.oid, p)"""
    )
    assert missing == []


def test_everything_in_public_belongs_to_the_owner(db):
    strangers = db.rows(
        f"""SELECT c.oid::regclass::text AS relation, pg_get_userbyid(c.relowner) AS owner
        FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
          AND pg_get_userbyid(c.relowner) <> '{db.app}_owner'
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')"""
    )
    assert strangers == []


def test_everybody_has_nothing(db):
    # pg_monitor is a role without any right of its own here, so what it may do everybody may.
    held = db.rows(
        f"""SELECT 'database ' || d AS thing, p FROM unnest(ARRAY['{db.app}', 'postgres', 'template1']) d, unnest(ARRAY['CONNECT', 'TEMPORARY']) p
        WHERE has_database_privilege('pg_monitor', d, p)
        UNION ALL SELECT 'schema public', p FROM unnest(ARRAY['USAGE', 'CREATE']) p WHERE has_schema_privilege('pg_monitor', 'public', p)"""
    )
    assert held == []


def test_the_monitor_sees_no_rows_and_the_backup_only_reads(db, probe):
    rows = db.rows(
        f"""SELECT r AS role, has_table_privilege('{db.app}_' || r, '{probe}.note', 'SELECT') AS reads,
        has_table_privilege('{db.app}_' || r, '{probe}.note', 'INSERT, UPDATE, DELETE, TRUNCATE') AS writes
        FROM unnest(ARRAY['backup', 'monitor']) r"""
    )
    assert rows == [{"role": "backup", "reads": True, "writes": False}, {"role": "monitor", "reads": False, "writes": False}]


def test_extensions_are_there(db):
    wanted = db.host.lab["app_postgres_extensions"]
    if not wanted:
        pytest.skip("this inventory asks for no extension")
    assert set(wanted) <= {row["extname"] for row in db.rows("SELECT extname FROM pg_extension")}


# --- The sandbox ------------------------------------------------------------------------------------------------------


def test_files_cannot_be_read_or_changed_by_others(db):
    for name in ("pg_hba.conf", "pg_ident.conf", "conf.d/50-redoubt.conf"):
        stat = db.host.check_output("stat -c %s %s", "%U:%G %a", f"{db.config}/{name}")
        assert stat == "root:postgres 640", name
    assert db.host.check_output("stat -c %s %s", "%U %a", f"/var/lib/postgresql/{db.version}/main") == "postgres 700"
    assert db.host.check_output("stat -c %s %s", "%U", "/run/postgresql/.s.PGSQL.5432") == "postgres"


def test_the_unit_is_hardened(db):
    wanted = {
        "User": "postgres",
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
        "PrivateDevices": "yes",
        "PrivateNetwork": "no" if db.web else "yes",
        "ProtectProc": "invisible",
        "ProtectKernelModules": "yes",
        "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX" if db.web else "AF_UNIX",
        "MemoryDenyWriteExecute": "yes",
        "RestrictNamespaces": "yes",
        "NeedDaemonReload": "no",
    }
    shown = db.host.check_output("systemctl show --property=%s %s", ",".join(wanted), db.unit)
    found = dict(line.split("=", 1) for line in shown.splitlines())
    found["RestrictAddressFamilies"] = " ".join(sorted(found["RestrictAddressFamilies"].split()))
    assert found == wanted
    allowed = db.host.check_output("systemctl show --property=IPAddressAllow --value %s", db.unit).split()
    clients = [address for name in db.host.lab["site_web_hosts"] for address in db.host.lab["site_addresses"][name]] if db.web else []
    assert sorted(address.rpartition("/")[0] or address for address in allowed) == sorted(clients)


def test_its_exposure_is_low(db):
    line = db.host.check_output("systemd-analyze security --no-pager %s", db.unit).splitlines()[-1]
    assert float(line.split(":")[1].split()[0]) <= (1.5 if db.web else 0.5), line


def test_the_running_process_is_in_the_sandbox(db):
    pid = db.host.check_output("systemctl show --property=MainPID --value %s", db.unit)
    lines = db.host.check_output("cat /proc/%s/status", pid).splitlines()
    status = dict(line.split(":", 1) for line in lines)
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {0}


@pytest.mark.parametrize("path", ["/etc/postgresql/intruder", "/usr/local/intruder", "/var/www/intruder", "/etc/cron.d/intruder"])
def test_not_even_the_administrators_sql_writes_elsewhere(db, path):
    answer = db.run("postgres", f"COPY (SELECT 1) TO '{path}'")
    assert answer.rc == 3
    assert "Read-only file system" in answer.stderr or "No such file or directory" in answer.stderr
    assert not db.host.file(path).exists


def test_not_even_the_administrators_sql_reaches_the_network(db):
    if db.web:
        pytest.skip("no network: this database serves other hosts, see tests/fleet")
    lines = db.ask(
        "CREATE TEMP TABLE t (l text); COPY t FROM PROGRAM 'cat /proc/self/net/dev'; SELECT l FROM t WHERE l LIKE '%:%'"
    ).splitlines()
    assert [line.split(":")[0].strip() for line in lines] == ["lo"]
