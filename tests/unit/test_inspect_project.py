"""What is said of a project before its migrations run: by real Djangos, each in an environment of its own, on small projects with SQLite."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
release_host = importlib.import_module("release_host")

PROGRAM = release_host.FILES / "inspect_project.py"
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith(("DJANGO", "PYTHON", "VIRTUAL_ENV"))}
DJANGOS = ["4.2", "5.2"] + (["6.0"] if sys.version_info >= (3, 12) else [])

SETTINGS = """
SECRET_KEY = "x" * 60
DEBUG = False
ALLOWED_HOSTS = ["notes.test"]
INSTALLED_APPS = {apps!r}
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
"""
MIGRATION = """
import django
from django.db import migrations, models
from django.db.migrations import *
from django.db.models import *

class Migration(migrations.Migration):
    initial = {initial}
    dependencies = {dependencies}
    operations = [{operations}]
"""
# The tables of every case, before its own migration.
BEFORE = """
    CreateModel("Author", [("id", AutoField(primary_key=True)), ("name", CharField(max_length=50))]),
    CreateModel("Reader", [("id", AutoField(primary_key=True))]),
    CreateModel("Note", [
        ("id", AutoField(primary_key=True)), ("title", CharField(max_length=50)), ("body", TextField(null=True)),
        ("count", IntegerField(default=0)), ("small", SmallIntegerField(default=0)), ("kept", CharField(max_length=9, db_column="kept_as")),
        ("author", ForeignKey("{app}.author", CASCADE, null=True)), ("readers", ManyToManyField("{app}.reader")),
    ]),
    CreateModel("View", [("id", AutoField(primary_key=True)), ("name", CharField(max_length=9))], options={{"managed": False}}),
    CreateModel("Proxy", [], options={{"proxy": True}}, bases=("{app}.note",)),
"""
# name: (operations, what they take away, what older code can no longer do; None: the same)
OPERATIONS: dict[str, tuple[str, list[str], list[str] | None]] = {
    "create": ('CreateModel("New", [("id", AutoField(primary_key=True)), ("name", CharField(max_length=9))])', [], None),
    "delete": ('DeleteModel("Author")', ["drops the table of Author"], None),
    "delete_unmanaged": ('DeleteModel("View")', [], None),
    "delete_proxy": ('DeleteModel("Proxy")', [], None),
    "rename_model": ('RenameModel("Author", "Writer")', ["renames the table of Author"], None),
    "table": ('AlterModelTable("Note", "papers")', ["renames the table of Note"], None),
    "options": ('AlterModelOptions("Note", {"ordering": ["title"]})', [], None),
    "index": ('AddIndex("Note", Index(fields=["title"], name="by_title"))', [], None),
    "remove": ('RemoveField("Note", "body")', ["drops the column Note.body"], None),
    "remove_relation": ('RemoveField("Note", "readers")', ["drops the column Note.readers"], None),
    "remove_unmanaged": ('RemoveField("View", "name")', [], None),
    "rename_field": ('RenameField("Note", "title", "name")', ["renames the column Note.title"], None),
    "rename_kept_column": ('RenameField("Note", "kept", "held")', [], None),
    "rename_by_trick": (
        'AlterField("Note", "title", CharField(max_length=50, db_column="title")), RenameField("Note", "title", "name")',
        [],
        None,
    ),
    "other_column": (
        'AlterField("Note", "title", CharField(max_length=50, db_column="name"))',
        ["renames the column Note.title from title to name"],
        None,
    ),
    "other_column_of_relation": (
        'AlterField("Note", "author", ForeignKey("{app}.author", CASCADE, null=True, db_column="writer"))',
        ["renames the column Note.author from author_id to writer"],
        None,
    ),
    "add_null": ('AddField("Note", "more", TextField(null=True))', [], None),
    "add_default": (
        'AddField("Note", "more", TextField(default=""))',
        [],
        ["adds the column Note.more, which must have a value that older code does not give"],
    ),
    "add_once_default": (
        'AddField("Note", "more", TextField(default=""), preserve_default=False)',
        ["adds the column Note.more, NOT NULL without a default"],
        None,
    ),
    "add_not_null": ('AddField("Note", "more", TextField())', ["adds the column Note.more, NOT NULL without a default"], None),
    "add_many": ('AddField("Note", "more", ManyToManyField("{app}.reader", related_name="+"))', [], None),
    "add_key": ('AddField("Note", "more", ForeignKey("{app}.reader", CASCADE, null=True, related_name="+"))', [], None),
    "add_unmanaged": ('AddField("View", "more", TextField())', [], None),
    "not_null": ('AlterField("Note", "body", TextField())', ["makes the column Note.body NOT NULL"], None),
    "not_null_default": ('AlterField("Note", "body", TextField(default=""))', ["makes the column Note.body NOT NULL"], None),
    "key_not_null": ('AlterField("Note", "author", ForeignKey("{app}.author", CASCADE))', ["makes the column Note.author NOT NULL"], None),
    "null": ('AlterField("Note", "title", CharField(max_length=50, null=True))', [], None),
    "only_in_python": ('AlterField("Note", "title", CharField("a title", max_length=50, blank=True, help_text="x"))', [], None),
    "wider": ('AlterField("Note", "title", CharField(max_length=51))', [], None),
    "to_text": ('AlterField("Note", "title", TextField())', [], None),
    "narrower": (
        'AlterField("Note", "title", CharField(max_length=49))',
        ["changes the type of the column Note.title from varchar(50) to varchar(49)"],
        None,
    ),
    "to_number": (
        'AlterField("Note", "title", IntegerField())',
        ["changes the type of the column Note.title from varchar(50) to integer"],
        None,
    ),
    "bigger": ('AlterField("Note", "count", BigIntegerField(default=0)), AlterField("Note", "small", IntegerField(default=0))', [], None),
    "smaller": (
        'AlterField("Note", "count", SmallIntegerField(default=0))',
        ["changes the type of the column Note.count from integer to smallint"],
        None,
    ),
    "other_target": (
        'AlterField("Note", "author", ForeignKey("{app}.reader", CASCADE, null=True))',
        ["changes the type of the column Note.author from reference to {app}.author to reference to {app}.reader"],
        None,
    ),
    "one_to_one": ('AlterField("Note", "author", OneToOneField("{app}.author", CASCADE, null=True))', [], ["makes the column Note.author unique"]),
    "many": ('AlterField("Note", "readers", ManyToManyField("{app}.reader", related_name="notes"))', [], None),
    "same_migration_not_null": (
        'AddField("Note", "more", TextField(null=True)), RunPython(RunPython.noop, RunPython.noop), AlterField("Note", "more", TextField())',
        ["makes the column Note.more NOT NULL"],
        None,
    ),
    "renamed_then_removed": (
        'RenameModel("Author", "Writer"), RemoveField("Writer", "name")',
        ["renames the table of Author", "drops the column Writer.name"],
        None,
    ),
    "made_here": (
        ('CreateModel("New", [("id", AutoField(primary_key=True)), ("a", TextField())]), AddField("new", "b", TextField()),'
        'RenameField("New", "a", "c"), AlterField("New", "c", IntegerField(null=True)), AlterField("New", "c", IntegerField()),'
        'AlterModelTable("New", "papers"), RenameModel("New", "Newer"), AddField("Newer", "d", TextField()), RemoveField("Newer", "b"),'
        'DeleteModel("Newer")'),
        [],
        None,
    ),
    "python": ("RunPython(RunPython.noop)", [], ["runs Python code that nothing reverses"]),
    "python_reversible": ("RunPython(RunPython.noop, RunPython.noop)", [], None),
    "unique": (
        'AlterField("Note", "title", CharField(max_length=50, unique=True))',
        [],
        ["makes the column Note.title unique"],
    ),
    "unique_together": (
        'AlterUniqueTogether("Note", {("title", "count")})',
        [],
        ["makes title, count of Note unique together"],
    ),
    "unique_together_no_more": (
        'AlterUniqueTogether("Note", {("title", "count")}), AlterUniqueTogether("Note", set())',
        [],
        ["makes title, count of Note unique together"],
    ),
    "constraint": (
        'AddConstraint("Note", UniqueConstraint(fields=["title"], name="one_title"))',
        [],
        ["adds the constraint one_title to Note"],
    ),
    "constraint_no_more": (
        'AddConstraint("Note", UniqueConstraint(fields=["title"], name="one_title")), RemoveConstraint("Note", "one_title")',
        [],
        ["adds the constraint one_title to Note"],
    ),
    "constraint_made_here": (
        ('CreateModel("New", [("id", AutoField(primary_key=True)), ("a", TextField())]),'
        'AddConstraint("New", UniqueConstraint(fields=["a"], name="one_a")), AlterUniqueTogether("New", {("a", "id")})'),
        [],
        None,
    ),
    "separate": (
        'SeparateDatabaseAndState(state_operations=[DeleteModel("Author"), RemoveField("Note", "body")])',
        [],
        None,
    ),
    "separate_database": (
        'SeparateDatabaseAndState(database_operations=[RemoveField("Note", "body"), RunSQL("DROP TABLE x")])',
        ["drops the column Note.body", "runs SQL with DROP"],
        None,
    ),
    "separate_in_order": (
        'SeparateDatabaseAndState([AddField("Note", "x", TextField(null=True)), AlterField("Note", "x", TextField())], [])',
        ["makes the column Note.x NOT NULL"],
        None,
    ),
    "sql_noop": ("RunSQL(RunSQL.noop, RunSQL.noop)", [], None),
    "sql_insert": ("RunSQL(\"INSERT INTO x VALUES (1); UPDATE x SET dropped = 1; CREATE INDEX y ON x (z)\", RunSQL.noop)", [], None),
    "sql_irreversible": ("RunSQL(\"UPDATE x SET y = 1\")", [], ["runs SQL that nothing reverses"]),
    "sql_nullable": ('RunSQL("ALTER TABLE x ALTER COLUMN y DROP NOT NULL")', ["runs SQL with DROP"], None),
    "sql_drop": ('RunSQL("drop table x")', ["runs SQL with DROP"], None),
    "sql_truncate": ('RunSQL("TRUNCATE x")', ["runs SQL with TRUNCATE"], None),
    "sql_delete": ('RunSQL("DELETE\\n  FROM x")', ["runs SQL with DELETE FROM"], None),
    "sql_rename": ('RunSQL("ALTER TABLE x RENAME TO y")', ["runs SQL with RENAME"], None),
    "sql_type": ('RunSQL("ALTER TABLE x ALTER COLUMN y TYPE int")', ["runs SQL with ALTER COLUMN Y TYPE"], None),
    "sql_data_type": ('RunSQL("ALTER TABLE x ALTER COLUMN y SET DATA TYPE int")', ["runs SQL with ALTER COLUMN Y SET DATA TYPE"], None),
    "sql_not_null": ('RunSQL("ALTER TABLE x ALTER y SET NOT NULL")', ["runs SQL with SET NOT NULL"], None),
    "sql_list": ('RunSQL(["SELECT 1", "DROP TABLE x"])', ["runs SQL with DROP"], None),
    "sql_parameters": ('RunSQL([("DELETE FROM x WHERE y = %s", [1])])', ["runs SQL with DELETE FROM"], None),
}
SINCE_5 = {
    "add_database_default": ('AddField("Note", "more", TextField(db_default=""))', [], None),
    "add_generated": (
        'AddField("Note", "more", GeneratedField(expression=F("count") + 1, output_field=IntegerField(), db_persist=False))',
        [],
        None,
    ),
    "not_null_database_default": ('AlterField("Note", "body", TextField(db_default=""))', ["makes the column Note.body NOT NULL"], None),
}


@pytest.fixture(scope="session", params=DJANGOS)
def django(request, tmp_path_factory) -> tuple[str, Path]:
    """A version of Django, and the interpreter that has it."""
    uv, home = release_host.find_uv(), tmp_path_factory.mktemp(f"django-{request.param}")
    if not uv:
        pytest.skip("there is no uv to install Django with")
    environment = {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1", "UV_HTTP_TIMEOUT": "20", "UV_PYTHON_DOWNLOADS": "never", **ENVIRONMENT}
    subprocess.run([uv, "venv", "--quiet", "--no-config", "--python", sys.executable, home], env=environment, check=True)
    words = [uv, "pip", "install", "--quiet", "--no-config", "--compile-bytecode", "--python", home / "bin/python", f"django=={request.param}.*"]
    answer = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if answer.returncode:
        pytest.skip(f"Django {request.param} cannot be installed for Python {sys.version_info[0]}.{sys.version_info[1]}: {last(answer.stderr)}")
    return request.param, home / "bin/python"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Django 6.0 wants Python 3.12 or newer")
def test_the_newest_django_is_among_them() -> None:
    assert DJANGOS[-1] == "6.0"


def last(text: str) -> str:
    return ([line.strip() for line in text.splitlines() if line.strip()] or [""])[-1]


class Project:
    """A Django project in a folder."""

    def __init__(self, folder: Path, python: Path, apps: list[str], settings: str = ""):
        self.folder, self.python = folder, python
        folder.mkdir(exist_ok=True)
        self.write("config.py", SETTINGS.format(apps=["django.contrib.contenttypes", *apps]) + settings)
        for app in apps:
            self.write(f"{app}/__init__.py", "")
            self.write(f"{app}/migrations/__init__.py", "")

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def migration(self, app: str, number: int, operations: str, dependencies: list | None = None) -> None:
        needs = dependencies if dependencies is not None else [(app, f"{number - 1:04}_x")] if number > 1 else []
        text = MIGRATION.format(initial=number == 1, dependencies=needs, operations=operations)
        self.write(f"{app}/migrations/{number:04}_x.py", text)

    def run(self, *words: str | Path) -> subprocess.CompletedProcess:
        environment = {**ENVIRONMENT, "DJANGO_SETTINGS_MODULE": "config", "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run([self.python, *words], cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    def migrate(self, *words: str) -> None:
        done = self.run("-m", "django", "migrate", "--verbosity=0", "--skip-checks", *words)
        assert done.returncode == 0, done.stderr

    def inspect(self, *words: str) -> dict:
        self.answer = self.run("-B", PROGRAM, *words)
        assert self.answer.returncode == 0, self.answer.stderr
        # As the release program finds it.
        (line,) = [line for line in self.answer.stdout.splitlines() if line.startswith("redoubt-findings:")]
        return json.loads(line.removeprefix("redoubt-findings:"))


# --- Migrations ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def judged(django, tmp_path_factory) -> dict[str, dict]:
    """What is said of each case's migration, all in one project: an application of its own has each."""
    version, python = django
    cases = OPERATIONS | (SINCE_5 if version >= "5" else {})
    project = Project(tmp_path_factory.mktemp("operations"), python, sorted(cases))
    for app in cases:
        project.migration(app, 1, BEFORE.format(app=app))
    # What is judged is the plan: the tables themselves are of no account.
    project.migrate("--fake")
    for app, (operations, _, _) in cases.items():
        project.migration(app, 2, operations.replace("{app}", app))
    found = project.inspect()
    assert found["django"].startswith(version)
    assert "broken" not in found
    assert not found["plan"]["first"]
    assert found["plan"]["applied"] == sorted([f"{app}.0001_x" for app in cases] + [name for name in found["plan"]["applied"] if "contenttypes" in name])
    return {entry["name"]: entry for entry in found["plan"]["plan"]}


@pytest.mark.parametrize("case", OPERATIONS | SINCE_5)
def test_an_operation_is_judged_by_what_it_takes_from_older_code(django, judged, case) -> None:
    if case in SINCE_5 and django[0] < "5":
        pytest.skip("Django 5.0 brought what this operation is about")
    _, takes_away, breaks_older = (OPERATIONS | SINCE_5)[case]
    entry = judged[f"{case}.0002_x"]
    assert entry["takes_away"] == [text.replace("{app}", case) for text in takes_away]
    assert entry["breaks_older"] == (entry["takes_away"] if breaks_older is None else breaks_older)
    # Each is shown, whatever is thought of it; what reaches no table is none.
    assert bool(entry["operations"]) is (case != "separate")


@pytest.fixture
def project(django, tmp_path) -> Project:
    """A project with one application and nothing to say of it."""
    found = Project(tmp_path / "project", django[1], ["notes"], "SILENCED_SYSTEM_CHECKS = ['security.W%03d' % number for number in range(30)]\n")
    found.write("notes/models.py", "from django.db import models\n\nclass Note(models.Model):\n    title = models.CharField(max_length=50)\n")
    found.migration("notes", 1, 'CreateModel("Note", [("id", BigAutoField(primary_key=True, serialize=False, auto_created=True, verbose_name="ID")),'
                                '("title", CharField(max_length=50))])')
    return found


def test_a_plan_goes_over_several_migrations(project) -> None:
    project.migration("notes", 2, 'RemoveField("Note", "title")')
    found = project.inspect()["plan"]
    assert found["first"] is True
    assert found["applied"] == []
    names = [entry["name"] for entry in found["plan"]]
    assert names[-2:] == ["notes.0001_x", "notes.0002_x"]
    assert found["plan"][-1]["operations"] == ["Remove field title from Note"]
    assert not any(entry["takes_away"] or entry["breaks_older"] for entry in found["plan"]), "nothing is taken from a table made by the same plan"
    assert not (project.folder / "db.sqlite3").exists() or (project.folder / "db.sqlite3").stat().st_size == 0, "it only reads"

    project.migrate()
    found = project.inspect()["plan"]
    assert found["plan"] == []
    assert found["first"] is False
    assert found["known"] == found["applied"]
    assert {"notes.0001_x", "notes.0002_x"} <= set(found["known"])

    # A field that one migration brings is one that the next can make NOT NULL.
    project.migration("notes", 3, 'AddField("Note", "more", TextField(null=True))')
    project.migration("notes", 4, 'AlterField("Note", "more", TextField())')
    assert [entry["takes_away"] for entry in project.inspect()["plan"]["plan"]] == [[], ["makes the column Note.more NOT NULL"]]


def test_what_is_applied_is_told_though_the_code_has_lost_it(project) -> None:
    project.migration("notes", 2, 'AddField("Note", "more", TextField(default=""))')
    project.migrate()
    (project.folder / "notes/migrations/0002_x.py").unlink()
    found = project.inspect()["plan"]
    assert "notes.0002_x" in found["applied"]
    assert "notes.0002_x" not in found["known"]


def test_a_squashed_migration_knows_what_it_replaces(project) -> None:
    project.migrate()
    text = (project.folder / "notes/migrations/0001_x.py").read_text()
    (project.folder / "notes/migrations/0001_x.py").unlink()
    project.write("notes/migrations/0001_squashed.py", text + '\n    replaces = [("notes", "0001_x"), ("notes", "0002_gone")]\n')
    assert {"notes.0001_squashed", "notes.0001_x", "notes.0002_gone"} <= set(project.inspect()["plan"]["known"])


@pytest.mark.parametrize(
    ("old", "new", "wider"),
    [
        ("varchar(50)", "varchar(50)", True),
        ("varchar(50)", "varchar(500)", True),
        ("varchar(50)", "varchar(9)", False),
        ("varchar(50)", "text", True),
        ("varchar(50)", "varchar", True),
        ("varchar(50)", "integer", False),
        ("text", "varchar(50)", False),
        ("text", "varchar", True),
        ("varchar", "text", True),
        ("smallint", "integer", True),
        ("smallint", "bigint", True),
        ("integer", "bigint", True),
        ("bigint", "integer", False),
        ("serial", "bigserial", True),
        ("bigserial", "serial", False),
        ("integer", "text", False),
        (None, "text", False),
    ],
)
def test_what_every_old_value_fits_into(old, new, wider) -> None:
    assert release_host.load("inspect_project", PROGRAM).widens(old, new) is wider


# --- Checks, drift, deprecations -------------------------------------------------------------------------------------


def test_nothing_is_said_of_a_project_that_is_in_order(project) -> None:
    found = project.inspect()
    assert (found["checks"], found["drift"], found["deprecations"], "broken" in found) == ([], [], [], False)


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ("SESSION_ENGINE = 'django.contrib.sessions.backends.file'", "in files"),
        ("SESSION_ENGINE = 'django.contrib.sessions.backends.cache'", "in the cache 'default', a LocMemCache"),
        ("SESSION_ENGINE = 'django.contrib.sessions.backends.cached_db'", "in the cache 'default', a LocMemCache"),
        ("SESSION_ENGINE = 'django.contrib.sessions.backends.cache'\nCACHES = {'default': {'BACKEND': 'django.core.cache.backends.redis.RedisCache'}}", ""),
        ("SESSION_ENGINE = 'django.contrib.sessions.backends.signed_cookies'", ""),
        ("", ""),
    ],
    ids=["file", "cache", "cached_db", "redis", "cookies", "database"],
)
def test_sessions_that_a_host_would_keep_for_itself_are_found_where_several_serve(project, settings, kept) -> None:
    middleware = "MIDDLEWARE = ['django.contrib.sessions.middleware.SessionMiddleware']\n"
    project.write("config.py", (project.folder / "config.py").read_text() + middleware + settings + "\n")
    found = [check for check in project.inspect("--several")["checks"] if check["id"] == "redoubt.E001"]
    assert [kept in check["text"] and check["number"] >= 50 for check in found] == ([True] if kept else [])
    assert not [check for check in project.inspect()["checks"] if check["id"] == "redoubt.E001"]


def test_drift_is_found(project) -> None:
    text = (project.folder / "notes/models.py").read_text()
    project.write("notes/models.py", text + "    more = models.TextField()\n\nclass New(models.Model):\n    pass\n")
    assert project.inspect()["drift"] == ["notes: Create model New", "notes: Add field more to note"]
    assert sorted(path.name for path in (project.folder / "notes/migrations").glob("*.py")) == ["0001_x.py", "__init__.py"], "it only reads"


def test_the_deployment_checks_are_among_the_checks(project) -> None:
    settings = (project.folder / "config.py").read_text().partition("SILENCED")[0].replace("DEBUG = False", "DEBUG = True")
    project.write("config.py", settings + "SILENCED_SYSTEM_CHECKS = ['notes.W001']\n")
    project.write(
        "notes/__init__.py",
        "from django.core import checks\n\n@checks.register()\ndef own(**_):\n    return [checks.Error('two\\n  lines', id='notes.E001'), checks.Critical('c'), checks.Warning('w', id='notes.W001')]\n",
    )
    found = project.inspect()["checks"]
    by_id = {check["id"]: check for check in found}
    assert by_id["security.W018"]["level"] == "WARNING"
    assert by_id["security.W018"]["number"] == 30
    assert by_id["notes.E001"] == {"id": "notes.E001", "level": "ERROR", "number": 40, "text": "two lines"}
    assert by_id[""] == {"id": "", "level": "CRITICAL", "number": 50, "text": "c"}
    assert "notes.W001" not in by_id, "what the project silences is silenced"


def test_deprecated_calls_are_found_the_frameworks_own_too(django, project) -> None:
    own = {"4.2": "USE_L10N = True", "5.2": "FORMS_URLFIELD_ASSUME_HTTPS = True", "6.0": "URLIZE_ASSUME_HTTPS = True"}[django[0]]
    project.write("config.py", (project.folder / "config.py").read_text() + own + "\n")
    project.write(
        "notes/models.py",
        (project.folder / "notes/models.py").read_text()
        + "import warnings\nfor _ in 'ab':\n    warnings.warn('the old way', DeprecationWarning)\n"
        + "warnings.warn('the next old way', PendingDeprecationWarning)\nwarnings.warn('no matter', UserWarning)\n",
    )
    found = project.inspect()["deprecations"]
    assert len(found) == 3
    assert [text for text in found if text.startswith("the old way (") and text.endswith("notes/models.py)")]
    assert [text for text in found if text.startswith("the next old way (")]
    assert [text for text in found if own.split()[0] in text]


def test_a_project_that_prints_is_heard_all_the_same(project) -> None:
    project.write("notes/models.py", "print('no end of line', end='', flush=True)\n" + (project.folder / "notes/models.py").read_text())
    project.write("notes/apps.py", "import atexit\nfrom django.apps import AppConfig\natexit.register(print, 'bye')\nclass Notes(AppConfig):\n    name = 'notes'\n")
    assert project.inspect()["checks"] == []
    assert project.answer.stdout.startswith("no end of line\n")
    assert project.answer.stdout.endswith("bye\n")


def test_checks_that_raise_leave_the_rest_to_be_told(project) -> None:
    project.write("notes/__init__.py", "from django.core import checks\n\n@checks.register()\ndef own(**_):\n    raise ValueError('what\\n a check')\n")
    found = project.inspect()
    assert found["broken"] == {"checks": "ValueError: what a check"}
    assert found["checks"] is None
    assert found["drift"] == []
    assert found["plan"]["first"] is True


def test_migrations_that_cannot_be_read_leave_the_rest_to_be_told(project) -> None:
    project.migration("notes", 2, "", dependencies=[("notes", "0009_nowhere")])
    found = project.inspect()
    assert sorted(found["broken"]) == ["drift", "plan"]
    assert found["broken"]["plan"].startswith("NodeNotFoundError: ")
    assert (found["plan"], found["checks"]) == (None, [])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("import environ_that_is_not_there\n", "ModuleNotFoundError: No module named 'environ_that_is_not_there'"),
        ("raise RuntimeError('SECRET is not set')\n", "RuntimeError: SECRET is not set"),
        ("INSTALLED_APPS = ['nowhere']\n", "ModuleNotFoundError: No module named 'nowhere'"),
        ("x =\n", "SyntaxError: invalid syntax"),
    ],
)
def test_settings_that_cannot_be_read_say_why_in_their_last_line(project, settings, said) -> None:
    project.write("config.py", settings)
    answer = project.run("-B", PROGRAM)
    assert answer.returncode != 0
    assert "redoubt-findings:" not in answer.stdout
    assert last(answer.stderr) == said
