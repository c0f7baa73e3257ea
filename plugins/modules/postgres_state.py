#!/usr/bin/python
# Copyright: Redoubt maintainers
# MIT License (see LICENSE)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: postgres_state
short_description: Roles, privileges and extensions of one application's database, exactly
description:
  - Brings the PostgreSQL roles of an application, its database, its extensions and every privilege in it to the stated
    form in one call. What is missing is granted, and what these roles hold beyond it is revoked.
  - It reads the catalogs once, works out the statements that lead from there to the stated form, runs them, and reads
    the catalogs again to prove that none is left. In check mode it only lists them.
  - It talks to a server on the same host, as the operating system's C(postgres) user over the unix socket.
options:
  version:
    description: Major version of the server, which names the folder of its programs.
    type: int
    required: true
  socket_directory:
    description: Folder of the server's unix socket.
    type: path
    default: /run/postgresql
  port:
    description: Port number, which is a part of the socket's name.
    type: int
    default: 5432
  database:
    description: Name of the database.
    type: str
    required: true
  owner:
    description: Role of O(roles) that owns the database and everything in it.
    type: str
    required: true
  locale:
    description: Collation and character classes of a new database. One that exists keeps its own.
    type: str
    default: C.UTF-8
  roles:
    description:
      - Roles by name. They hold no attribute but those given here, no password but that of O(passwords), and no membership but
        O(roles[].member_of).
      - A role that may log in may connect to O(database) and to no other.
    type: dict
    required: true
  writers:
    description: Roles of O(roles) that may read and change the rows of every table, and nothing else.
    type: list
    elements: str
    default: []
  temporary:
    description: Roles of O(roles) that may make temporary tables.
    type: list
    elements: str
    default: []
  extensions:
    description: Extensions of O(database), made by the administrator.
    type: list
    elements: str
    default: []
  passwords:
    description:
      - Passwords by role of O(roles), for logins over the network. A role without one has none.
      - The server is given a SCRAM verifier that is computed here; neither its log nor RV(statements) hold it.
    type: dict
    default: {}
notes:
  - A value of O(roles) is a dictionary with C(login) (bool, default true), C(connection_limit) (int, default -1),
    C(member_of) (list), C(settings) and C(database_settings) (dictionaries of run-time settings for the role everywhere and in O(database)).
attributes:
  check_mode:
    support: full
    description: Nothing is changed. On a host without a server the statements for a new one are listed.
  diff_mode:
    support: full
    description: The statements.
author:
  - Redoubt maintainers (@redoubt)
"""

EXAMPLES = r"""
- name: Bring the roles and privileges to their stated form
  redoubt.django.postgres_state:
    version: 17
    database: notes
    owner: notes_owner
    roles:
      notes_owner: {login: false}
      notes_migrate: {member_of: [notes_owner], database_settings: {role: notes_owner}}
      notes: {connection_limit: 80, settings: {statement_timeout: 5min}}
    writers: [notes]
    extensions: [citext]
"""

RETURN = r"""
statements:
  description: The statements that were run, or would be.
  type: list
  elements: str
  returned: always
"""

import base64
import hashlib
import hmac
import json
import os
import re

from ansible.module_utils.basic import AnsibleModule

# What a writer may do with each kind of object. TRUNCATE, REFERENCES and TRIGGER are not among them.
WRITER = {
    "TABLE": ("DELETE", "INSERT", "SELECT", "UPDATE"),
    "SEQUENCE": ("SELECT", "UPDATE", "USAGE"),
    "ROUTINE": ("EXECUTE",),
    "TYPE": ("USAGE",),
    "SCHEMA": ("USAGE",),
}
# Letter in pg_default_acl, and what PUBLIC holds on a new object of the kind when nothing else is said.
DEFAULTS = {"TABLE": ("r", ()), "SEQUENCE": ("S", ()), "ROUTINE": ("f", ("EXECUTE",)), "TYPE": ("T", ("USAGE",)), "SCHEMA": ("n", ())}
ROLE_KEYS = {"login", "connection_limit", "member_of", "settings", "database_settings"}
NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
SETTING = re.compile(r"[a-z_][a-z0-9_.]*")
EXTENSION = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_-]{0,62}")

# Debian's names for extensions whose package is not called after them.
PACKAGES = {
    "vector": "pgvector",
    "postgis": "postgis-3",
    "postgis_raster": "postgis-3",
    "postgis_topology": "postgis-3",
    "pg_cron": "cron",
    "pgrouting": "pgrouting",
    "timescaledb": "timescaledb",
    "pg_partman": "partman",
    "pgaudit": "pgaudit",
    "hll": "hll",
    "rum": "rum",
    "ip4r": "ip4r",
}

# A cluster that initdb has just made, and a database that CREATE DATABASE has just made.
NEW_SERVER = {
    "roles": {},
    "memberships": [],
    "settings": [],
    "databases": {
        "postgres": {"owner": "postgres", "acl": {"public": ["CONNECT", "TEMPORARY"]}},
        "template1": {"owner": "postgres", "acl": {"public": ["CONNECT"]}},
    },
}
NEW_DATABASE = {
    "extensions": [],
    "available": None,
    "reassign": [],
    "schemas": [{"name": "public", "owner": "pg_database_owner", "extension": False, "acl": {"public": ["USAGE"]}}],
    "objects": [],
    "columns": [],
    "defaults": [],
}


def ident(name):
    return '"' + name.replace('"', '""') + '"' if not NAME.fullmatch(name) else name


def literal(value):
    return "'" + str(value).replace("'", "''") + "'"


def grantee(name):
    return "PUBLIC" if name == "public" else ident(name)


def verifier(password, salt=None, iterations=4096):
    """What PostgreSQL keeps of a password (SCRAM-SHA-256, RFC 5803): enough to check one, not to log in with."""
    salt = salt or os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt, stored, server = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${iterations}:{salt}${stored}:{server}"


def is_verifier_of(kept, password):
    """Whether a role's password is this one."""
    found = re.fullmatch(r"SCRAM-SHA-256\$(\d+):([A-Za-z0-9+/=]+)\$[^$]+", kept or "")
    return bool(found) and hmac.compare_digest(kept, verifier(password, base64.b64decode(found[2]), int(found[1])))


def hidden(statement):
    """The statement as it may be shown."""
    return re.sub(r"PASSWORD '[^']*'", "PASSWORD '********'", statement)


def state_query(database, owner, roles, extensions):
    """A psql script that prints the server's state as one line of JSON, and the database's as a second when it exists."""
    managed = "ARRAY[{0}]::name[]".format(", ".join(literal(r) for r in sorted(roles)))
    wanted = "ARRAY[{0}]::name[]".format(", ".join(literal(e) for e in extensions))

    def acl(column, kind, holder):
        # The owner's own rights are not asked for: they come with ownership.
        return f"""(SELECT coalesce(jsonb_object_agg(g, p), '{{}}') FROM (
            SELECT CASE x.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(x.grantee)::text END AS g,
                   jsonb_agg(DISTINCT x.privilege_type || CASE WHEN x.is_grantable THEN '*' ELSE '' END) AS p
            FROM aclexplode(coalesce({column}, acldefault({kind}, {holder}))) x
            WHERE x.grantee = 0 OR (x.grantee <> {holder} AND pg_get_userbyid(x.grantee) = ANY ({managed}))
            GROUP BY 1) a)"""

    # acldefault() knows sequences by a letter that pg_class does not use for them.
    relation = """(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END)::"char" """
    system = "(n.nspname LIKE 'pg\\_%' OR n.nspname = 'information_schema')"
    # A schema is the application's when it is `public` or belongs to one of the application's roles.
    ours = f"(n.nspname = 'public' OR (NOT {system} AND pg_get_userbyid(n.nspowner) = ANY ({managed})))"

    def member(catalog, column):
        return (
            f"EXISTS (SELECT FROM pg_depend d WHERE d.classid = '{catalog}'::regclass AND d.objid = {column} "
            "AND d.objsubid = 0 AND d.deptype = 'e')"
        )

    return f"""
SET client_min_messages = error;
SELECT jsonb_build_object(
  'version', current_setting('server_version_num')::int / 10000,
  'checksums', current_setting('data_checksums') = 'on',
  'roles', (SELECT coalesce(jsonb_object_agg(rolname, jsonb_build_object(
      'login', rolcanlogin, 'connection_limit', rolconnlimit, 'password', rolpassword,
      'expires', rolvaliduntil IS NOT NULL AND rolvaliduntil <> 'infinity', 'superuser', rolsuper, 'createdb', rolcreatedb,
      'createrole', rolcreaterole, 'replication', rolreplication, 'bypassrls', rolbypassrls, 'inherit', rolinherit)), '{{}}')
    FROM pg_authid WHERE rolname = ANY ({managed})),
  'memberships', (SELECT coalesce(jsonb_agg(jsonb_build_array(
      pg_get_userbyid(roleid), pg_get_userbyid(member), admin_option)), '[]')
    FROM pg_auth_members WHERE pg_get_userbyid(roleid) = ANY ({managed}) OR pg_get_userbyid(member) = ANY ({managed})),
  'settings', (SELECT coalesce(jsonb_agg(jsonb_build_object(
      'role', r.rolname, 'database', d.datname, 'config', s.setconfig)), '[]')
    FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase
    WHERE r.rolname = ANY ({managed}) OR (s.setrole = 0 AND d.datname = {literal(database)})),
  'databases', (SELECT jsonb_object_agg(datname, jsonb_build_object(
      'owner', pg_get_userbyid(datdba), 'encoding', pg_encoding_to_char(encoding), 'collate', datcollate,
      'connection_limit', datconnlimit, 'acl', {acl("datacl", "'d'", "datdba")}))
    FROM pg_database WHERE datallowconn)
);
SELECT count(*) > 0 AS there FROM pg_database WHERE datname = {literal(database)} \\gset
\\if :there
\\connect {database}
SET client_min_messages = error;
SELECT jsonb_build_object(
  'extensions', (SELECT coalesce(jsonb_agg(extname), '[]') FROM pg_extension),
  'available', (SELECT coalesce(jsonb_agg(name), '[]') FROM pg_available_extensions WHERE name = ANY ({wanted})),
  'reassign', (SELECT coalesce(jsonb_agg(DISTINCT pg_get_userbyid(refobjid)), '[]') FROM pg_shdepend
    WHERE refclassid = 'pg_authid'::regclass AND deptype = 'o'
      AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND classid NOT IN ('pg_default_acl'::regclass, 'pg_user_mapping'::regclass)
      AND pg_get_userbyid(refobjid) = ANY ({managed}) AND pg_get_userbyid(refobjid) <> {literal(owner)}),
  'schemas', (SELECT coalesce(jsonb_agg(jsonb_build_object('name', n.nspname, 'owner', pg_get_userbyid(n.nspowner),
      'extension', {member("pg_namespace", "n.oid")}, 'acl', {acl("n.nspacl", "'n'", "n.nspowner")})), '[]')
    FROM pg_namespace n WHERE NOT {system}),
  'objects', (SELECT coalesce(jsonb_agg(o), '[]') FROM (
      SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, format('%I.%I', n.nspname, c.relname) AS name,
        pg_get_userbyid(c.relowner) AS owner,
        c.relkind = 'S' AND EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
          AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')) AS follows,
        {acl("c.relacl", relation, "c.relowner")} AS acl
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND {ours} AND NOT {member("pg_class", "c.oid")}
      UNION ALL
      SELECT 'ROUTINE', format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)),
        pg_get_userbyid(p.proowner), false, {acl("p.proacl", "'f'", "p.proowner")}
      FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
      WHERE {ours} AND NOT {member("pg_proc", "p.oid")}
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'i')
      UNION ALL
      SELECT 'TYPE', format('%I.%I', n.nspname, t.typname), pg_get_userbyid(t.typowner), false, {acl("t.typacl", "'T'", "t.typowner")}
      FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid
      WHERE {ours} AND NOT {member("pg_type", "t.oid")}
        AND (t.typtype IN ('e', 'd', 'r') OR (t.typtype = 'c' AND c.relkind = 'c'))) o),
  'columns', (SELECT coalesce(jsonb_agg(DISTINCT jsonb_build_array(format('%I.%I', n.nspname, c.relname), format('%I', a.attname),
      CASE x.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(x.grantee)::text END)), '[]')
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace,
      aclexplode(a.attacl) x
    WHERE a.attacl IS NOT NULL AND {ours} AND NOT {member("pg_class", "c.oid")}
      AND x.grantee <> c.relowner AND (x.grantee = 0 OR pg_get_userbyid(x.grantee) = ANY ({managed}))),
  'defaults', (SELECT coalesce(jsonb_agg(jsonb_build_object('kind', d.defaclobjtype, 'schema', n.nspname,
      'acl', {acl("d.defaclacl", "'r'", "d.defaclrole")})), '[]')
    FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace
    WHERE pg_get_userbyid(d.defaclrole) = {literal(owner)})
);
\\endif
"""


def privileges(kind, name, wanted, actual, prefix="", suffix=""):
    """Statements that make the rights of every grantee in either map exactly the wanted ones."""
    out = []
    for who in sorted(set(wanted) | set(actual)):
        want, have = set(wanted.get(who, ())), set(actual.get(who, ()))
        plain = {p.rstrip("*") for p in have}
        if plain - want:
            out.append(f"{prefix}REVOKE {', '.join(sorted(plain - want))} ON {kind}{name} FROM {grantee(who)}{suffix}")
        delegated = sorted(p for p in want if p + "*" in have)
        if delegated:
            out.append(f"{prefix}REVOKE GRANT OPTION FOR {', '.join(delegated)} ON {kind}{name} FROM {grantee(who)}{suffix}")
        if want - plain:
            out.append(f"{prefix}GRANT {', '.join(sorted(want - plain))} ON {kind}{name} TO {grantee(who)}")
    return out


def plan_roles(wanted, actual):
    out = []
    fixed = {"superuser": False, "createdb": False, "createrole": False, "replication": False, "bypassrls": False, "inherit": True}
    words = {True: "{0}", False: "NO{0}"}
    for name, want in sorted(wanted.items()):
        have = actual["roles"].get(name)
        attributes = dict(fixed, login=want["login"])
        password = f"PASSWORD '{verifier(want['password'])}'" if want["password"] else ""
        if have is None:
            login = words[want["login"]].format("LOGIN")
            out.append(f"CREATE ROLE {ident(name)} {login} CONNECTION LIMIT {want['connection_limit']} {password}".strip())
            continue
        change = [words[v].format(k.upper()) for k, v in sorted(attributes.items()) if have[k] != v]
        if have["connection_limit"] != want["connection_limit"]:
            change.append(f"CONNECTION LIMIT {want['connection_limit']}")
        if have["password"] and not password:
            change.append("PASSWORD NULL")
        elif password and not is_verifier_of(have["password"], want["password"]):
            change.append(password)
        if have["expires"]:
            change.append("VALID UNTIL 'infinity'")
        if change:
            out.append(f"ALTER ROLE {ident(name)} {' '.join(change)}")
    return out


def plan_memberships(wanted, actual):
    want = {(group, name) for name, role in wanted.items() for group in role["member_of"]}
    have = {(group, name): admin for group, name, admin in actual["memberships"]}
    out = [f"REVOKE {ident(g)} FROM {ident(n)} CASCADE" for g, n in sorted(set(have) - want)]
    out += [f"REVOKE ADMIN OPTION FOR {ident(g)} FROM {ident(n)} CASCADE" for g, n in sorted(want) if have.get((g, n))]
    out += [f"GRANT {ident(g)} TO {ident(n)}" for g, n in sorted(want - set(have))]
    return out


def plan_settings(wanted, actual, database):
    want = {}
    for name, role in wanted.items():
        want[(name, None)] = {k: str(v) for k, v in role["settings"].items()}
        want[(name, database)] = {k: str(v) for k, v in role["database_settings"].items()}
    have = {(s["role"], s["database"]): dict(c.split("=", 1) for c in s["config"]) for s in actual["settings"]}
    out = []
    for role, db in sorted(set(want) | set(have), key=str):
        if role is None:
            subject = f"DATABASE {ident(db)}"
        else:
            subject = f"ROLE {ident(role)}" + (f" IN DATABASE {ident(db)}" if db else "")
        new, old = want.get((role, db), {}), have.get((role, db), {})
        out += [f"ALTER {subject} RESET {key}" for key in sorted(set(old) - set(new))]
        out += [f"ALTER {subject} SET {key} = {literal(value)}" for key, value in sorted(new.items()) if old.get(key) != value]
    return out


def plan_databases(params, wanted, actual):
    out = []
    rights = {name: {"CONNECT"} for name, role in wanted.items() if role["login"]}
    for name in params["temporary"]:
        rights.setdefault(name, set()).add("TEMPORARY")
    for name, database in sorted(actual["databases"].items()):
        if name == params["database"]:
            if database["owner"] != params["owner"]:
                out.append(f"ALTER DATABASE {ident(name)} OWNER TO {ident(params['owner'])}")
            if database["connection_limit"] != -1:
                out.append(f"ALTER DATABASE {ident(name)} CONNECTION LIMIT -1")
            out += privileges("DATABASE ", ident(name), rights, database["acl"], suffix=" CASCADE")
        else:
            # Other databases are not ours, except that our roles, and on the two that every cluster has nobody, may enter.
            held = {who: p for who, p in database["acl"].items() if who != "public" or name in ("postgres", "template1")}
            out += privileges("DATABASE ", ident(name), {}, held, suffix=" CASCADE")
    return out


def plan_objects(params, actual):
    owner, writers = params["owner"], params["writers"]

    def wanted(kind):
        return dict.fromkeys(writers, WRITER[kind])

    out = [f"REASSIGN OWNED BY {ident(name)} TO {ident(owner)}" for name in sorted(actual["reassign"])]
    taken = set(actual["reassign"]) | {owner}
    for schema in sorted(actual["schemas"], key=lambda s: s["name"]):
        ours = not schema["extension"] and (schema["name"] == "public" or schema["owner"] in taken)
        held = {who: p for who, p in schema["acl"].items() if ours or who != "public"}
        out += privileges("SCHEMA ", ident(schema["name"]), wanted("SCHEMA") if ours else {}, held, suffix=" CASCADE")
    for thing in sorted(actual["objects"], key=lambda o: (o["kind"], o["name"])):
        kind = thing["kind"]
        if thing["owner"] not in taken and not thing["follows"]:
            verb = "TABLE" if kind == "SEQUENCE" else kind
            out.append(f"ALTER {verb} {thing['name']} OWNER TO {ident(owner)}")
        target = "" if kind == "TABLE" else kind + " "
        out += privileges(target, thing["name"], wanted(kind), thing["acl"], suffix=" CASCADE")
    for table, column, who in sorted(actual["columns"]):
        out.append(f"REVOKE ALL ({column}) ON {table} FROM {grantee(who)} CASCADE")
    return out


def plan_defaults(params, actual):
    owner, out = params["owner"], []
    found = {(d["kind"], d["schema"]): d["acl"] for d in actual["defaults"]}
    for kind, (letter, public) in DEFAULTS.items():
        have = found.pop((letter, None), {"public": list(public)} if public else {})
        prefix = f"ALTER DEFAULT PRIVILEGES FOR ROLE {ident(owner)} "
        out += privileges(kind, "S", dict.fromkeys(params["writers"], WRITER[kind]), have, prefix=prefix)
    # Those of a single schema only add to the global ones, so there is nothing they could be for.
    kinds = {letter: kind for kind, (letter, _public) in DEFAULTS.items()}
    for (letter, schema), have in sorted(found.items(), key=str):
        prefix = f"ALTER DEFAULT PRIVILEGES FOR ROLE {ident(owner)} IN SCHEMA {ident(schema)} "
        out += privileges(kinds[letter], "S", {}, have, prefix=prefix)
    return out


def plan(params, wanted, server, database):
    """The statements in the order they have to be run: on the server, CREATE DATABASE, on the server again, in the database."""
    name = params["database"]
    create, databases = [], server["databases"]
    if name not in databases:
        create.append(
            f"CREATE DATABASE {ident(name)} OWNER {ident(params['owner'])} TEMPLATE template0 "
            f"ENCODING 'UTF8' LOCALE {literal(params['locale'])}"
        )
        made = {"owner": params["owner"], "connection_limit": -1, "acl": {"public": ["CONNECT", "TEMPORARY"]}}
        databases = dict(databases, **{name: made})
        database = NEW_DATABASE
    before = plan_roles(wanted, server) + plan_memberships(wanted, server)
    after = plan_databases(params, wanted, dict(server, databases=databases)) + plan_settings(wanted, server, name)
    missing = [e for e in params["extensions"] if e not in database["extensions"]]
    inside = [f"CREATE EXTENSION IF NOT EXISTS {ident(e)} CASCADE" for e in missing]
    inside += plan_objects(params, database) + plan_defaults(params, database)
    return before, create, after, inside


def script(params, steps):
    """A psql script that runs the steps. Each is one transaction, except CREATE DATABASE, which cannot be in any."""
    before, create, after, inside = steps
    lines = ["SET client_min_messages = error;"]

    def transaction(statements):
        if statements:
            # What makes the role's password is none of the log's business, also where it fails or takes long.
            quiet = ["SET LOCAL log_statement = none;", "SET LOCAL log_min_error_statement = panic;", "SET LOCAL log_min_duration_statement = -1;"]
            secret = any(hidden(s) != s for s in statements)
            lines.extend(["BEGIN;", *(quiet if secret else []), *(s + ";" for s in statements), "COMMIT;"])

    transaction(before)
    lines.extend(s + ";" for s in create)
    transaction(after)
    if inside:
        lines.append(f"\\connect {params['database']}")
        # Extensions without a schema of their own go where projects look for them.
        lines.append("SET client_min_messages = error;\nSET search_path = public;")
        transaction(inside)
    return "\n".join(lines) + "\n"


def complaints(params, available):
    """A sentence for each extension that the server does not find on the host."""
    out = []
    for name in params["extensions"]:
        if available is not None and name not in available:
            package = f"postgresql-{params['version']}-{PACKAGES.get(name, name.replace('_', '-'))}"
            out.append(
                f"app_postgres_extensions names '{name}', which PostgreSQL {params['version']} does not find on this host. "
                f"Debian packages extensions as postgresql-{params['version']}-*: look for {package} "
                f"(apt-cache search 'postgresql-{params['version']}.*{name}') and add it to app_apt_packages."
            )
    return out


def normal_roles(params):
    """The roles with every key present. Raises ValueError with a sentence."""
    out = {}
    for name, role in params["roles"].items():
        role = role or {}
        unknown = set(role) - ROLE_KEYS
        if not NAME.fullmatch(name):
            raise ValueError(f"'{name}' cannot be the name of a role: lower-case letters, digits and underscores only")
        if unknown:
            raise ValueError(f"roles.{name}: unknown key {', '.join(sorted(unknown))}; known are {', '.join(sorted(ROLE_KEYS))}")
        for key in ("settings", "database_settings"):
            for setting in role.get(key) or {}:
                if not SETTING.fullmatch(setting):
                    raise ValueError(f"roles.{name}.{key}: '{setting}' cannot be the name of a setting")
        out[name] = {
            "login": bool(role.get("login", True)),
            "connection_limit": int(role.get("connection_limit", -1)),
            "member_of": list(role.get("member_of") or []),
            "settings": role.get("settings") or {},
            "database_settings": role.get("database_settings") or {},
            "password": (params.get("passwords") or {}).get(name, ""),
        }
    for name in params.get("passwords") or {}:
        if name not in out:
            raise ValueError(f"passwords names the role '{name}', which is not among roles")
    for key in ("owner", "writers", "temporary"):
        for name in [params[key]] if key == "owner" else params[key]:
            if name not in out:
                raise ValueError(f"{key} names the role '{name}', which is not among roles")
    if not NAME.fullmatch(params["database"]):
        raise ValueError(f"'{params['database']}' cannot be the name of a database: lower-case letters, digits and underscores only")
    for name in params["extensions"]:
        if not EXTENSION.fullmatch(name):
            raise ValueError(f"'{name}' cannot be the name of an extension")
    return out


class Server:
    def __init__(self, module):
        self.module, self.params = module, module.params
        self.psql = f"/usr/lib/postgresql/{self.params['version']}/bin/psql"

    def installed(self):
        return os.access(self.psql, os.X_OK)

    def run(self, text):
        params = self.params
        argv = [self.psql, "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", params["socket_directory"], "-p", str(params["port"]), "-d", "postgres"]
        if os.geteuid() == 0:
            argv = ["runuser", "-u", "postgres", "--", *argv]
        # A folder that the postgres user may not enter would add a warning to the output.
        return self.module.run_command(argv, data=text, cwd="/", binary_data=False)

    def state(self, wanted):
        """(server, database) as the catalogs have it; the database's is None when it does not exist. (None, None): no answer."""
        params = self.params
        rc, out, err = self.run(state_query(params["database"], params["owner"], wanted, params["extensions"]))
        if rc == 2 and self.module.check_mode:
            return None, err
        if rc != 0:
            self.module.fail_json(
                msg=f"PostgreSQL {params['version']} does not answer on {params['socket_directory']}: {err.strip()}. "
                f"`journalctl -u postgresql@{params['version']}-main` and /var/log/postgresql say why."
            )
        lines = [json.loads(line) for line in out.splitlines() if line]
        return lines[0], lines[1] if len(lines) > 1 else None


def main():
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "int", "required": True},
            "socket_directory": {"type": "path", "default": "/run/postgresql"},
            "port": {"type": "int", "default": 5432},
            "database": {"type": "str", "required": True},
            "owner": {"type": "str", "required": True},
            "locale": {"type": "str", "default": "C.UTF-8"},
            "roles": {"type": "dict", "required": True},
            "writers": {"type": "list", "elements": "str", "default": []},
            "temporary": {"type": "list", "elements": "str", "default": []},
            "extensions": {"type": "list", "elements": "str", "default": []},
            "passwords": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        wanted = normal_roles(params)
    except (TypeError, ValueError) as error:
        module.fail_json(msg=str(error))

    host = Server(module)
    if host.installed():
        server, database = host.state(wanted)
        if server is None:
            module.warn(f"PostgreSQL does not run, so its roles and privileges cannot be compared: {database.strip()}")
            module.exit_json(changed=False, statements=[])
        if not server["checksums"]:
            module.warn(
                "This PostgreSQL cluster has no data checksums, so damage on its disk would go unnoticed. "
                f"Stop it once and run: /usr/lib/postgresql/{params['version']}/bin/pg_checksums --enable -D <data directory>"
            )
    elif module.check_mode:
        server, database = NEW_SERVER, None
    else:
        module.fail_json(msg=f"{host.psql} does not exist: PostgreSQL {params['version']} is not installed on this host.")

    steps = plan(params, wanted, server, database)
    statements = [hidden(s) for step in steps for s in step]
    result = {"changed": bool(statements), "statements": statements}
    if module._diff and statements:
        result["diff"] = {
            "before_header": params["database"],
            "after_header": params["database"],
            "before": "",
            "after": ";\n".join(statements) + ";\n",
        }
    if not statements or module.check_mode:
        module.exit_json(**result)

    text = script(params, steps)
    if steps[1]:
        # pg_available_extensions is the same in every database; asking before anything is made keeps the host as it was.
        names = ", ".join(literal(e) for e in params["extensions"]) or "NULL"
        _rc, out, _err = host.run(f"SELECT name FROM pg_available_extensions WHERE name IN ({names});")
        available = out.split()
    else:
        available = database["available"]
    sentences = complaints(params, available)
    if sentences:
        module.fail_json(msg=" ".join(sentences))

    rc, _out, err = host.run(text)
    if rc != 0:
        module.fail_json(msg=f"PostgreSQL refused: {hidden(err.strip())}", statements=statements)
    left = [hidden(s) for step in plan(params, wanted, *host.state(wanted)) for s in step]
    if left:
        module.fail_json(msg="PostgreSQL accepted every statement, yet these are still missing: " + "; ".join(left), statements=statements)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
