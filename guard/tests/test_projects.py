"""The overlay around projects of all kinds, each in a process of its own."""

import json
import re
import sys

import pytest
from conftest import GUARD, STRONG, python

SHOP = """
import json, django
django.setup()
from django.conf import settings
from django.apps import apps
print(json.dumps({
    "debug": settings.DEBUG, "hosts": settings.ALLOWED_HOSTS, "key": settings.SECRET_KEY, "engine": settings.DATABASES["default"]["ENGINE"],
    "middleware": settings.MIDDLEWARE, "guarded": apps.is_installed("redoubt_guard"), "header": settings.SECURE_PROXY_SSL_HEADER,
    "backends": list(settings.AUTHENTICATION_BACKENDS),
}))
"""
SHOPS = {
    "environ": {"REDOUBT_SETTINGS_MODULE": "shop.settings.production", "DATABASE_URL": "sqlite:///:memory:"},
    "decoupled": {"REDOUBT_SETTINGS_MODULE": "shop.settings", "DATABASE_NAME": ":memory:"},
    "split": {"REDOUBT_SETTINGS_MODULE": "shop.settings"},
}
COMMON = {"SECRET_KEY": STRONG, "ALLOWED_HOSTS": "*"}


@pytest.mark.parametrize("project", SHOPS)
def test_settings_that_read_the_environment(project):
    done = python(project, SHOP, **SHOPS[project], **COMMON)
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["debug"] is False
    assert values["hosts"] == ["example.test"]
    assert values["key"] == STRONG
    assert values["engine"] == "django.db.backends.sqlite3"
    assert values["guarded"] is True
    assert values["header"] == ["HTTP_X_FORWARDED_PROTO", "https"]


def test_report_observes_and_changes_nothing():
    config = json.dumps({"app": "shop", "mode": "report", "domains": ["example.test"]})
    done = python("environ", SHOP, REDOUBT_GUARD=config, **SHOPS["environ"], **COMMON)
    values = json.loads(done.stdout)
    assert (values["debug"], values["hosts"], values["header"], values["guarded"]) == (True, ["*"], None, True)
    assert values["middleware"] == ["redoubt_guard.middleware.GuardMiddleware"]
    assert values["backends"] == ["django.contrib.auth.backends.ModelBackend"]


def test_off_is_the_project_alone():
    done = python("environ", SHOP, REDOUBT_GUARD='{"mode": "off"}', **SHOPS["environ"], **COMMON)
    values = json.loads(done.stdout)
    assert (values["debug"], values["hosts"], values["guarded"], values["middleware"]) == (True, ["*"], False, [])


def test_a_mistake_in_the_projects_settings_comes_out_as_it_is():
    done = python("environ", SHOP, **SHOPS["environ"], ALLOWED_HOSTS="*")
    assert done.returncode == 1
    assert "environ/shop/settings/base.py" in done.stderr
    assert done.stderr.strip().endswith("Set the SECRET_KEY environment variable")
    done = python("environ", SHOP, REDOUBT_SETTINGS_MODULE="shop.settings.prodution", **COMMON)
    assert done.stderr.strip().endswith("ModuleNotFoundError: No module named 'shop.settings.prodution'")


def test_a_mistake_in_the_guards_configuration_is_one_sentence():
    done = python("environ", SHOP, REDOUBT_GUARD='{"mode": "on"}', **SHOPS["environ"], **COMMON)
    assert done.stderr.strip().endswith("REDOUBT_GUARD: mode must be one of enforce, report, off, not 'on'.")


def test_a_weak_key_keeps_the_project_from_starting():
    weak = {**COMMON, "SECRET_KEY": "hunter2"}
    done = python("environ", SHOP, **SHOPS["environ"], **weak)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("django.core.exceptions.ImproperlyConfigured: SECRET_KEY has fewer than 50 characters")
    assert "vault_app_secret_key" in last
    assert "hunter2" not in done.stderr
    assert python("environ", SHOP, REDOUBT_STAGE="build", **SHOPS["environ"], **weak).returncode == 0


def test_code_that_imports_its_own_settings_finds_the_changes():
    code = """
import django
django.setup()
from shop.settings import production
from shop.settings import base
print(production.DEBUG, production.ALLOWED_HOSTS, base.DEBUG)
"""
    # The module that Django is pointed at is right; one that it takes its values from keeps them: a limit that docs/guard.md tells.
    assert python("environ", code, **SHOPS["environ"], **COMMON).stdout == "False ['example.test'] True\n"


def test_lower_case_names_stay_out_and_files_stay_where_they_are():
    code = """
import django
django.setup()
from django.conf import settings
print(settings.DERIVED, hasattr(settings, "lower_case"), hasattr(settings, "REDOUBT_GUARD"))
"""
    done = python("bare", code, REDOUBT_SETTINGS_MODULE="bare_settings")
    assert done.stdout == "['bare_settings.py'] False False\n"


def test_a_project_without_users_and_database():
    code = """
import django, json
django.setup()
from django.test import Client
client = Client(headers={"host": "example.test"})
print(client.get("/").content, client.get("/-/health").content, client.get("/-/health/live").status_code)
from django.core.management import call_command
call_command("check")
"""
    done = python("bare", code, REDOUBT_SETTINGS_MODULE="bare_settings")
    assert done.returncode == 0, done.stderr
    assert b"bare" in done.stdout.encode()
    assert '"database": "none"' in done.stdout
    assert done.stdout.splitlines()[0].endswith(" 200")


CUSTOM = """
import django, json, uuid
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
call_command("createcachetable", "redoubt_guard_cache", verbosity=0)
from django.test import Client
from people.models import Person
person = Person(handle="ada")
person.set_password("correct horse battery")
person.save()
client = Client(headers={"host": "example.test", "x-forwarded-for": "203.0.113.9"})
def enter(**form):
    return client.post("/enter/", form).status_code
print([enter(handle="ada", password="wrong") for _ in range(7)])
print(enter(handle="ada", password="correct horse battery"))
print(client.post("/sign-up/", {"handle": "grace", "password": "correct horse battery"}).status_code, client.session["_auth_user_backend"])
"""


def test_a_project_with_users_of_its_own():
    """No names, no staff, no groups, keys that are UUIDs, a manager without natural keys, a backend with credentials of its own."""
    done = python("custom", CUSTOM, REDOUBT_SETTINGS_MODULE="custom_settings")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[401, 401, 401, 401, 401, 401, 401]", "401", "200 people.backends.Backend"]
    events = [json.loads(line.split(": ", 1)[1]) for line in done.stderr.splitlines() if "shop-security: {" in line]
    names = [event["event"] for event in events]
    assert names == ["user_created", *["login_failed"] * 6, *["login_throttled"] * 2, "user_created", "login_ok"]
    assert re.fullmatch(r"people\.person:[0-9a-f-]{36}", events[0]["target"])
    assert {event["user"] for event in events[1:9]} == {"ada"}


KINDS = """
import django
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from people.models import Customer, Member, Person
class Late(Person):
    class Meta:
        app_label, proxy = "people", True
for kind in (Person, Member, Late, Customer):
    account = kind(handle=kind.__name__)
    account.save()
    print(account.id)
    account.set_password("correct horse battery")
    account.save()
    account.delete()
person = Person(handle="ada", password="x")
person.save()
print(person.id)
customer = Customer(person_ptr=person, id=person.id, handle="ada", password="x")
customer._state.adding = False
customer.save()
"""


def test_accounts_are_saved_under_other_classes_too():
    """A proxy, also one that is there late, and a child with a table of its own: one event each, and one account."""
    done = python("custom", KINDS, REDOUBT_SETTINGS_MODULE="custom_settings")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line.split(": ", 1)[1]) for line in done.stderr.splitlines() if "shop-security: {" in line]
    *keys, ada = done.stdout.split()
    expected = [(event, f"people.person:{key}") for key in keys for event in ("user_created", "password_changed", "user_deleted")]
    assert [(event["event"], event["target"]) for event in events] == [*expected, ("user_created", f"people.person:{ada}")]


def check(project, *arguments, **env):
    return python(project, ["-m", "django", "check", *arguments], **env)


FULL = {"REDOUBT_SETTINGS_MODULE": "full.settings"}


def test_check_says_what_may_break():
    done = check("full", **FULL)
    assert done.returncode == 0, done.stderr
    assert "(redoubt_guard.I001) The guard sets DEBUG, TEMPLATES. What the settings module derived from DEBUG" in done.stderr
    assert "HINT: The switch debug leaves it as the project has it." in done.stderr
    # What nobody can feel is not told, nor the guard's own app.
    for number in ("005", "006", "020", "025"):
        assert f"I{number}" not in done.stderr
    assert "W101" not in done.stderr
    assert "W100" not in done.stderr


def test_check_in_report_warns_of_all():
    config = json.dumps({"app": "shop", "mode": "report", "domains": ["example.test"]})
    # The project's own log file cannot be opened in the sandbox, and in report mode nobody repairs that.
    assert "Unable to configure handler 'file'" in check("full", REDOUBT_GUARD=config, **FULL).stderr
    done = check("full", REDOUBT_GUARD=config, FULL_SECRET_KEY="weak", FULL_LOG="/dev/null", **FULL)
    assert done.returncode == 0
    for number in ("001", "002", "003", "005", "007", "024", "101"):
        assert f"(redoubt_guard.W{number})" in done.stderr
    assert "The guard would set DEBUG" in done.stderr
    assert "W025" not in done.stderr
    assert check("full", "--fail-level", "WARNING", REDOUBT_GUARD=config, FULL_LOG="/dev/null", **FULL).returncode == 1


def test_check_warns_of_a_missing_csrf_middleware():
    done = check("custom", REDOUBT_SETTINGS_MODULE="custom_settings")
    assert "(redoubt_guard.W100) The project has sessions and no CsrfViewMiddleware" in done.stderr
    assert "W100" not in check("bare", REDOUBT_SETTINGS_MODULE="bare_settings").stderr


def test_the_deployment_checklist_is_content():
    """But for W019: a project that never forbade frames may frame its own pages."""
    done = check("full", "--deploy", **FULL)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"security\.[A-Z]\d+", done.stderr) == ["security.W019"]


def test_skipped_switches_are_left():
    config = json.dumps({"app": "shop", "domains": ["example.test"], "skip": ["debug", "logging", "password_validators"]})
    code = "import django\ndjango.setup()\nfrom django.conf import settings\nprint(settings.DEBUG, settings.AUTH_PASSWORD_VALIDATORS)"
    # The log file that the guard would have replaced cannot be opened.
    done = python("full", code, REDOUBT_GUARD=config, **FULL)
    assert "Unable to configure handler 'file'" in done.stderr
    config = config.replace('"logging", ', "")
    assert python("full", code, REDOUBT_GUARD=config, **FULL).stdout == "True []\n"


def test_the_guard_itself_can_be_left_out():
    config = json.dumps({"app": "shop", "domains": ["example.test"], "skip": ["guard"]})
    code = """
import django
django.setup()
from django.conf import settings
print(settings.DEBUG, "redoubt_guard" in settings.INSTALLED_APPS, settings.AUTHENTICATION_BACKENDS)
"""
    done = python("full", code, REDOUBT_GUARD=config, **FULL)
    assert done.stdout == "False False ['django.contrib.auth.backends.ModelBackend']\n", done.stderr


def test_parts_can_be_left_out():
    config = json.dumps({"app": "shop", "domains": ["example.test"], "skip": ["events", "health", "remote_addr", "throttle"]})
    code = """
import django
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from django.test import Client
client = Client(headers={"host": "example.test", "x-forwarded-for": "203.0.113.9"}, REMOTE_ADDR="")
print(client.get("/-/health").status_code, client.get("/").content, {client.post("/api/", {"username": "a", "password": "b"}).status_code for _ in range(8)})
"""
    done = python("full", code, REDOUBT_GUARD=config, **FULL)
    assert done.stdout == "404 b'' {401}\n", done.stderr
    assert "security: {" not in done.stderr


def report(project, *arguments, **env):
    return python(project, ["-m", "redoubt_guard", "report", *arguments], **env)


def test_report_as_text_and_json():
    done = report("full", **FULL, REDOUBT_STAGE="web")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mode enforce, stage web\n")
    assert re.search(r"^debug +DEBUG +W018 +set +True +False$", done.stdout, re.MULTILINE)
    assert re.search(r"^csrf_cookie +CSRF_COOKIE_SECURE +W016 +set +False +True$", done.stdout, re.MULTILINE)
    assert re.search(r"^upload_permissions +FILE_UPLOAD_PERMISSIONS +set +0o644 +0o640$", done.stdout, re.MULTILINE)
    assert re.search(r"^secret_key +SECRET_KEY +W009 W025 +left +strong, 56 characters$", done.stdout, re.MULTILINE)
    assert re.search(r"Still open in Django's deployment checklist:\n  security.W019  .*\n$", done.stdout)
    data = json.loads(report("full", "--json", **FULL).stdout)
    assert (data["mode"], data["stage"], data["refusal"]) == ("enforce", "worker", None)
    assert [item["id"] for item in data["open"]] == ["security.W019"]
    assert {
        "switch": "debug",
        "setting": "DEBUG",
        "asked_by": ["security.W018"],
        "project": "True",
        "guard": "False",
        "state": "set",
    } in data["rows"]
    from redoubt_guard.overlay import OVERRIDES

    assert [row["switch"] for row in data["rows"]] == [override.name for override in OVERRIDES for _ in override.settings]


def test_report_of_what_would_be():
    config = json.dumps({"app": "shop", "mode": "report", "domains": ["example.test"], "skip": ["samesite"]})
    data = json.loads(report("full", "--json", REDOUBT_GUARD=config, FULL_LOG="/dev/null", **FULL).stdout)
    states = {(row["switch"], row["setting"]): row["state"] for row in data["rows"]}
    assert states["debug", "DEBUG"] == "would be set"
    assert states["samesite", "SESSION_COOKIE_SAMESITE"] == "skipped"
    assert states["session_age", "SESSION_COOKIE_AGE"] == "left"
    assert states["guard", "MIDDLEWARE"] == "set"
    assert "security.W018" in {item["id"] for item in data["open"]}


def test_report_without_the_guard():
    data = json.loads(report("environ", "--json", REDOUBT_GUARD='{"mode": "off"}', **SHOPS["environ"], **COMMON).stdout)
    assert {row["state"] for row in data["rows"]} == {"off"}


def test_report_of_a_project_that_needs_nothing_more():
    from redoubt_guard.__main__ import table

    assert table({"mode": "enforce", "stage": "web", "refusal": None, "rows": [], "open": []}).endswith(
        "Nothing is open in Django's deployment checklist."
    )


def test_report_of_a_project_that_does_not_start():
    done = report("full", FULL_SECRET_KEY="hunter2", **FULL)
    assert done.returncode == 0, done.stderr
    assert "The project does not start: SECRET_KEY has fewer than 50 characters" in done.stdout
    assert "weak: has fewer than 50 characters" in done.stdout
    assert "hunter2" not in done.stdout


def test_report_shows_no_secrets():
    for arguments in ((), ("--json",)):
        done = report("full", *arguments, REDOUBT_SECRET_KEY_FALLBACKS=json.dumps([{"key": "another-secret-" + STRONG}]), **FULL)
        for secret in (STRONG, "another-secret", "a-secret-database-password", "django-insecure"):
            assert secret not in done.stdout + done.stderr
    config = json.dumps({"app": "shop", "domains": ["example.test"], "redis": "redis://:hunter2@localhost/0"})
    done = report("full", "--json", REDOUBT_GUARD=config, **FULL)
    assert "hunter2" not in done.stdout
    assert "RedisCache" in done.stdout


def test_report_says_a_mistake_in_a_sentence():
    done = report("full", REDOUBT_GUARD='{"mode": "on"}', **FULL)
    assert done.returncode == 2
    assert done.stderr == "REDOUBT_GUARD: mode must be one of enforce, report, off, not 'on'.\n"
    assert report("full", "--yaml", **FULL).returncode == 2


def test_values_in_the_report():
    from redoubt_guard.__main__ import _cut, shown

    database = {
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
        "PASSWORD": "hunter2",
        "OPTIONS": {"options": "-c statement_timeout=60000 -c x=hunter2"},
    }
    assert shown("DATABASES", {"default": database, "empty": {}}) == "default: kept 60 s, looked at, statement_timeout=60000"
    assert shown("DATABASES", {}) == "none"
    assert shown("LOGGING", None) == "handlers none; of the root logger none"
    assert (
        shown("AUTH_PASSWORD_VALIDATORS", [{"NAME": "a.MinimumLengthValidator", "OPTIONS": {"min_length": 12}}, {"NAME": "a.B"}])
        == "MinimumLengthValidator 12, B"
    )
    assert shown("AUTH_PASSWORD_VALIDATORS", None) == "none"
    assert shown("MIDDLEWARE", None) == "0 entries, first none"
    assert shown("FILE_UPLOAD_PERMISSIONS", None) == "none"
    assert shown("PASSWORD_HASHERS", ["a.B", "c.D"]) == "B, D"
    assert shown("ALLOWED_HOSTS", []) == "none"
    assert _cut("a\n" + "b" * 100) == "a?" + "b" * 57 + "…"


def test_the_package_needs_nothing_but_django():
    code = f"""
import ast, pathlib, sys
for path in pathlib.Path({str(GUARD / "redoubt_guard")!r}).glob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        for name in names:
            top = name.split(".")[0]
            if top not in sys.stdlib_module_names and top not in ("django", "asgiref"):
                print(path.name, name)
"""
    import subprocess

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == ""
