"""postgres_state's plan: from what the catalogs say to the statements that are missing. The statements' effect is tested on the lab's servers."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

SOURCE = Path(__file__).parents[2] / "plugins/modules/postgres_state.py"
SPEC = importlib.util.spec_from_file_location("postgres_state", SOURCE)
state = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(state)

PARAMS = {
    "version": 17,
    "database": "notes",
    "owner": "notes_owner",
    "locale": "C.UTF-8",
    "roles": {
        "notes_owner": {"login": False},
        "notes_migrate": {"member_of": ["notes_owner"], "settings": {"lock_timeout": "5s"}, "database_settings": {"role": "notes_owner"}},
        "notes": {"connection_limit": 80, "settings": {"statement_timeout": "5min"}},
    },
    "writers": ["notes"],
    "temporary": [],
    "extensions": ["citext"],
}
WANTED = state.normal_roles(PARAMS)

ROLE = {
    "login": True,
    "connection_limit": -1,
    "password": False,
    "expires": False,
    "superuser": False,
    "createdb": False,
    "createrole": False,
    "replication": False,
    "bypassrls": False,
    "inherit": True,
}
WRITES = ["DELETE", "INSERT", "SELECT", "UPDATE"]
SERVER = {
    "version": 17,
    "checksums": True,
    "roles": {"notes_owner": {**ROLE, "login": False}, "notes_migrate": ROLE, "notes": {**ROLE, "connection_limit": 80}},
    "memberships": [["notes_owner", "notes_migrate", False]],
    "settings": [
        {"role": "notes", "database": None, "config": ["statement_timeout=5min"]},
        {"role": "notes_migrate", "database": None, "config": ["lock_timeout=5s"]},
        {"role": "notes_migrate", "database": "notes", "config": ["role=notes_owner"]},
    ],
    "databases": {
        "notes": {"owner": "notes_owner", "connection_limit": -1, "acl": {"notes": ["CONNECT"], "notes_migrate": ["CONNECT"]}},
        "postgres": {"owner": "postgres", "connection_limit": -1, "acl": {}},
        "template1": {"owner": "postgres", "connection_limit": -1, "acl": {}},
        "other": {"owner": "joe", "connection_limit": 5, "acl": {"public": ["CONNECT", "TEMPORARY"]}},
    },
}
DATABASE = {
    "extensions": ["plpgsql", "citext"],
    "available": ["citext"],
    "reassign": [],
    "schemas": [{"name": "public", "owner": "pg_database_owner", "extension": False, "acl": {"notes": ["USAGE"]}}],
    "objects": [
        {"kind": "TABLE", "name": "public.item", "owner": "notes_owner", "follows": False, "acl": {"notes": WRITES}},
        {
            "kind": "SEQUENCE",
            "name": "public.item_id_seq",
            "owner": "notes_owner",
            "follows": True,
            "acl": {"notes": ["SELECT", "UPDATE", "USAGE"]},
        },
    ],
    "columns": [],
    "defaults": [
        {"kind": "r", "schema": None, "acl": {"notes": WRITES}},
        {"kind": "S", "schema": None, "acl": {"notes": ["SELECT", "UPDATE", "USAGE"]}},
        {"kind": "f", "schema": None, "acl": {"notes": ["EXECUTE"]}},
        {"kind": "T", "schema": None, "acl": {"notes": ["USAGE"]}},
        {"kind": "n", "schema": None, "acl": {"notes": ["USAGE"]}},
    ],
}


def statements(change=lambda _server, _database: None, **params):
    server, database = copy.deepcopy(SERVER), copy.deepcopy(DATABASE)
    change(server, database)
    return [s for step in state.plan({**PARAMS, **params}, WANTED, server, database) for s in step]


def test_nothing_is_missing():
    assert statements() == []


def test_a_new_server_gets_everything_in_the_order_it_depends_on():
    steps = state.plan(PARAMS, WANTED, state.NEW_SERVER, None)
    before, create, after, inside = steps
    assert before[0].startswith("CREATE ROLE notes LOGIN CONNECTION LIMIT 80")
    assert "CREATE ROLE notes_owner NOLOGIN CONNECTION LIMIT -1" in before
    assert before[-1] == "GRANT notes_owner TO notes_migrate"
    assert create == ["CREATE DATABASE notes OWNER notes_owner TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C.UTF-8'"]
    assert "REVOKE CONNECT, TEMPORARY ON DATABASE notes FROM PUBLIC CASCADE" in after
    assert "REVOKE CONNECT ON DATABASE template1 FROM PUBLIC CASCADE" in after
    assert inside[0] == "CREATE EXTENSION IF NOT EXISTS citext CASCADE"
    text = state.script(PARAMS, steps)
    assert text.index("COMMIT;") < text.index("CREATE DATABASE") < text.index("\\connect notes") < text.index("CREATE EXTENSION")
    assert text.count("BEGIN;") == text.count("COMMIT;") == 3


def test_a_password_is_kept_as_postgresql_keeps_it():
    kept = state.verifier("correct horse battery staple", b"0123456789abcdef", 4096)
    assert kept.startswith("SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$")
    assert state.is_verifier_of(kept, "correct horse battery staple")
    assert not state.is_verifier_of(kept, "correct horse battery stapler")
    for other in (None, "", "md5" + "0" * 32, kept.replace("4096", "4097")):
        assert not state.is_verifier_of(other, "correct horse battery staple")


def test_a_password_is_set_once_and_never_shown():
    wanted = state.normal_roles({**PARAMS, "passwords": {"notes": "k3Qx81hfT0pzLwGvk3Qx"}})
    server = copy.deepcopy(SERVER)
    said = state.plan_roles(wanted, server)
    assert len(said) == 1 and said[0].startswith("ALTER ROLE notes PASSWORD 'SCRAM-SHA-256$")
    assert state.hidden(said[0]) == "ALTER ROLE notes PASSWORD '********'"
    assert "k3Qx81" not in str(said)
    # Nor by the server's log, whatever it writes down of statements.
    text = state.script(PARAMS, (said, [], [], ["GRANT x TO y"]))
    assert text.index("SET LOCAL log_statement = none") < text.index("SCRAM") < text.index("COMMIT")
    assert text.count("SET LOCAL log_statement") == 1
    server["roles"]["notes"]["password"] = said[0].split("'")[1]
    assert state.plan_roles(wanted, server) == []
    # Without one in the inventory it is taken away.
    assert state.plan_roles(WANTED, server) == ["ALTER ROLE notes PASSWORD NULL"]
    # A role that is new gets it at once.
    del server["roles"]["notes"]
    assert state.hidden(state.plan_roles(wanted, server)[0]) == "CREATE ROLE notes LOGIN CONNECTION LIMIT 80 PASSWORD '********'"


def test_a_password_of_nobody_is_refused():
    with pytest.raises(ValueError, match="passwords names the role 'nobody'"):
        state.normal_roles({**PARAMS, "passwords": {"nobody": "x"}})


def attribute(name, value):
    return lambda server, _database: server["roles"]["notes"].update({name: value})


def acl(target, **rights):
    return lambda server, database: {"database": server["databases"]["notes"], "other": server["databases"]["other"],
        "postgres": server["databases"]["postgres"], "schema": database["schemas"][0], "table": database["objects"][0],
        "default": database["defaults"][0], "routine": database["defaults"][2]}[target]["acl"].update(rights)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (attribute("superuser", True), "ALTER ROLE notes NOSUPERUSER"),
        (attribute("createdb", True), "ALTER ROLE notes NOCREATEDB"),
        (attribute("login", False), "ALTER ROLE notes LOGIN"),
        (attribute("connection_limit", -1), "ALTER ROLE notes CONNECTION LIMIT 80"),
        (attribute("password", True), "ALTER ROLE notes PASSWORD NULL"),
        (attribute("expires", True), "ALTER ROLE notes VALID UNTIL 'infinity'"),
        (lambda s, _d: s["memberships"].append(["notes_owner", "notes", False]), "REVOKE notes_owner FROM notes CASCADE"),
        (lambda s, _d: s["memberships"].append(["pg_read_server_files", "notes", False]), "REVOKE pg_read_server_files FROM notes CASCADE"),
        (lambda s, _d: s["memberships"].append(["notes_owner", "Joe's", False]), 'REVOKE notes_owner FROM "Joe\'s" CASCADE'),
        (lambda s, _d: s["memberships"][0].__setitem__(2, True), "REVOKE ADMIN OPTION FOR notes_owner FROM notes_migrate CASCADE"),
        (lambda s, _d: s["memberships"].clear(), "GRANT notes_owner TO notes_migrate"),
        (lambda s, _d: s["settings"].pop(0), "ALTER ROLE notes SET statement_timeout = '5min'"),
        (lambda s, _d: s["settings"][0]["config"].append("work_mem=1GB"), "ALTER ROLE notes RESET work_mem"),
        (lambda s, _d: s["settings"].pop(2), "ALTER ROLE notes_migrate IN DATABASE notes SET role = 'notes_owner'"),
        (
            lambda s, _d: s["settings"].append({"role": None, "database": "notes", "config": ["search_path=a=b"]}),
            "ALTER DATABASE notes RESET search_path",
        ),
        (
            lambda s, _d: s["settings"].append({"role": "notes", "database": "other", "config": ["role=joe"]}),
            "ALTER ROLE notes IN DATABASE other RESET role",
        ),
        (lambda s, _d: s["databases"]["notes"].update(owner="postgres"), "ALTER DATABASE notes OWNER TO notes_owner"),
        (acl("database", public=["TEMPORARY"]), "REVOKE TEMPORARY ON DATABASE notes FROM PUBLIC CASCADE"),
        (acl("database", notes=["CONNECT", "CREATE"]), "REVOKE CREATE ON DATABASE notes FROM notes CASCADE"),
        (acl("postgres", public=["CONNECT"]), "REVOKE CONNECT ON DATABASE postgres FROM PUBLIC CASCADE"),
        (acl("other", notes=["CONNECT"]), "REVOKE CONNECT ON DATABASE other FROM notes CASCADE"),
        (lambda _s, d: d["extensions"].remove("citext"), "CREATE EXTENSION IF NOT EXISTS citext CASCADE"),
        (acl("schema", public=["USAGE"]), "REVOKE USAGE ON SCHEMA public FROM PUBLIC CASCADE"),
        (acl("schema", notes=["USAGE", "CREATE"]), "REVOKE CREATE ON SCHEMA public FROM notes CASCADE"),
        (acl("table", notes=["SELECT", "UPDATE", "DELETE"]), "GRANT INSERT ON public.item TO notes"),
        (acl("table", notes=[*WRITES, "TRUNCATE*"]), "REVOKE TRUNCATE ON public.item FROM notes CASCADE"),
        (
            acl("table", notes=["DELETE", "INSERT", "SELECT*", "UPDATE"]),
            "REVOKE GRANT OPTION FOR SELECT ON public.item FROM notes CASCADE",
        ),
        (acl("table", notes_migrate=["SELECT"]), "REVOKE SELECT ON public.item FROM notes_migrate CASCADE"),
        (
            lambda _s, d: d["columns"].append(["public.item", "id", "notes_migrate"]),
            "REVOKE ALL (id) ON public.item FROM notes_migrate CASCADE",
        ),
        (lambda _s, d: d["reassign"].append("notes"), "REASSIGN OWNED BY notes TO notes_owner"),
        (lambda _s, d: d["objects"][0].update(owner="postgres"), "ALTER TABLE public.item OWNER TO notes_owner"),
        (
            acl("default", notes=["SELECT"]),
            "ALTER DEFAULT PRIVILEGES FOR ROLE notes_owner GRANT DELETE, INSERT, UPDATE ON TABLES TO notes",
        ),
        (
            acl("routine", public=["EXECUTE"]),
            "ALTER DEFAULT PRIVILEGES FOR ROLE notes_owner REVOKE EXECUTE ON ROUTINES FROM PUBLIC",
        ),
        (
            lambda _s, d: d["defaults"].append({"kind": "r", "schema": "public", "acl": {"notes": ["TRUNCATE"]}}),
            "ALTER DEFAULT PRIVILEGES FOR ROLE notes_owner IN SCHEMA public REVOKE TRUNCATE ON TABLES FROM notes",
        ),
    ],
)
def test_one_difference_is_one_statement(change, expected):
    assert statements(change) == [expected]


def test_a_sequence_of_a_column_changes_hands_with_its_table():
    made = statements(lambda _s, d: [thing.update(owner="postgres") for thing in d["objects"]])
    assert made == ["ALTER TABLE public.item OWNER TO notes_owner"]


def test_other_schemas_are_not_ours_but_our_roles_may_not_enter():
    schema = {"name": "dba", "owner": "postgres", "extension": False, "acl": {"public": ["USAGE"], "notes": ["USAGE"]}}
    assert statements(lambda _s, d: d["schemas"].append(schema)) == ["REVOKE USAGE ON SCHEMA dba FROM notes CASCADE"]


def test_a_schema_of_the_application_is_ours():
    schema = {"name": "app2", "owner": "notes_owner", "extension": False, "acl": {}}
    assert statements(lambda _s, d: d["schemas"].append(schema)) == ["GRANT USAGE ON SCHEMA app2 TO notes"]


def test_temporary_tables_are_a_choice():
    assert statements(temporary=["notes"]) == ["GRANT TEMPORARY ON DATABASE notes TO notes"]


def test_a_missing_extension_is_named_with_its_package():
    params = {**PARAMS, "extensions": ["vector", "citext", "my-ext"]}
    first, second = state.complaints(params, ["citext"])
    assert "'vector'" in first and "postgresql-17-pgvector" in first and "app_apt_packages" in first
    assert "postgresql-17-my-ext" in second
    assert state.complaints(params, None) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"roles": {"Notes": {}}}, "'Notes' cannot be the name of a role"),
        ({"roles": {**PARAMS["roles"], "x": {"superuser": True}}}, "roles.x: unknown key superuser"),
        ({"roles": {**PARAMS["roles"], "x": {"settings": {"a; DROP": 1}}}}, "cannot be the name of a setting"),
        ({"owner": "joe"}, "owner names the role 'joe'"),
        ({"writers": ["joe"]}, "writers names the role 'joe'"),
        ({"database": "a b"}, "cannot be the name of a database"),
        ({"extensions": ["a; b"]}, "cannot be the name of an extension"),
    ],
)
def test_bad_input_is_a_sentence(change, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        state.normal_roles({**PARAMS, **change})


RIGHTS = st.dictionaries(
    st.sampled_from(["public", "notes", "notes_migrate", "joe"]),
    st.lists(st.sampled_from(["SELECT", "SELECT*", "INSERT", "UPDATE*", "TRUNCATE", "DELETE"]), unique_by=lambda p: p.rstrip("*")),
)


def follow(made, held):
    """What is held after the statements."""
    held = {who: set(rights) for who, rights in held.items()}
    for statement in made:
        verb, rights, who = re.fullmatch(r"(GRANT|REVOKE(?: GRANT OPTION FOR)?) (.+) ON t (?:FROM|TO) (\w+)", statement).groups()
        mine = held.setdefault("public" if who == "PUBLIC" else who, set())
        for right in rights.split(", "):
            mine -= {right, right + "*"} if verb == "REVOKE" else {right + "*"}
            if verb != "REVOKE":
                mine.add(right)
    return {who: rights for who, rights in held.items() if rights}


@given(RIGHTS, RIGHTS)
def test_privileges_become_exactly_the_wanted_ones(wanted, held):
    wanted = {who: {p.rstrip("*") for p in rights} for who, rights in wanted.items()}
    after = follow(state.privileges("", "t", wanted, held), held)
    assert after == {who: rights for who, rights in wanted.items() if rights}
    assert state.privileges("", "t", wanted, after) == []


@given(st.text(min_size=1).filter(lambda t: "\0" not in t))
def test_names_and_values_cannot_end_their_quotes(text):
    assert state.ident(text) == text or re.fullmatch(r'"([^"]|"")*"', state.ident(text), re.DOTALL)
    assert re.fullmatch(r"'([^']|'')*'", state.literal(text), re.DOTALL)


# --- The module itself, on a machine without that server ---------------------------------------------------------------


def call(arguments, check):
    payload = {"ANSIBLE_MODULE_ARGS": {**arguments, "_ansible_check_mode": check, "_ansible_diff": True, "_ansible_remote_tmp": "/tmp"}}
    done = subprocess.run([sys.executable, str(SOURCE)], input=json.dumps(payload), capture_output=True, text=True, check=False)
    return json.loads(done.stdout)


ARGUMENTS = {name: PARAMS[name] for name in ("database", "owner", "locale", "roles", "writers", "extensions")} | {"version": 99}


def test_a_blank_host_is_predicted():
    answer = call(ARGUMENTS, check=True)
    assert answer["changed"] is True
    assert "CREATE ROLE notes_owner NOLOGIN CONNECTION LIMIT -1" in answer["statements"]
    assert "CREATE DATABASE notes" in answer["diff"]["after"]


def test_without_a_server_nothing_is_pretended():
    assert "PostgreSQL 99 is not installed" in call(ARGUMENTS, check=False)["msg"]
