"""Says what a release's code is about to do, before it does it: run by the release's own interpreter, as the database's migrator.

Prints one line of JSON behind `MARK`: the findings of `check --deploy`, model changes without a migration, deprecated calls, and the
migrations that are not applied with what each does to the tables. Reads only. Knows Django 3.2 and later and nothing of the kit.
"""

import json
import re
import sys
import warnings

MARK = "redoubt-findings:"
# What a statement of a migration's own SQL may take away. A guess by words, which is why it only ever stops a deploy.
TAKES_AWAY = re.compile(r"\b(DROP|TRUNCATE|DELETE\s+FROM|RENAME|ALTER\s+COLUMN\s+\S+\s+(SET\s+DATA\s+)?TYPE|SET\s+NOT\s+NULL)\b", re.IGNORECASE)


def statements(sql):
    """The text of RunSQL's `sql`, which may be a text, or a list of texts and of (text, parameters)."""
    if isinstance(sql, str):
        return sql
    return ";".join(part if isinstance(part, str) else part[0] for part in sql or [])


def default_of(field):
    """Whether the database knows a default, and whether the code does."""
    from django.db.models import NOT_PROVIDED

    in_database = getattr(field, "db_default", NOT_PROVIDED) is not NOT_PROVIDED
    return in_database, field.has_default()


def column(field):
    """What the database is told of a field, as far as a migration can narrow it."""
    from django.db import connection

    return field.db_type(connection), field.null


def target(field):
    """What a field that is a relation leads to; the kind of one that is none."""
    related = getattr(field.remote_field, "model", None)
    name = related if isinstance(related, str) else getattr(getattr(related, "_meta", None), "label", None)
    return "reference to " + name.lower() if name else type(field).__name__


def column_name(field, name):
    """What the column of a field of this name is called."""
    bound = field.clone()
    bound.set_attributes_from_name(name)
    return bound.column


def judge(operation, app, state, new_models):
    """Return (what the operation takes away, what an older release can no longer do after it); None for nothing."""
    from django.db import migrations

    name = getattr(operation, "model_name", None) or getattr(operation, "name", "")
    if (app, name.lower()) in new_models:
        if isinstance(operation, migrations.RenameModel):
            new_models.add((app, operation.new_name.lower()))
        return None, None
    known = state.models.get((app, name.lower()))
    if known is not None and (known.options.get("proxy") or not known.options.get("managed", True)):
        # Its table is somebody else's, or another model's.
        return None, None
    model = name + "." if name else ""
    if isinstance(operation, migrations.CreateModel):
        new_models.add((app, operation.name.lower()))
    elif isinstance(operation, migrations.DeleteModel):
        return ("drops the table of " + operation.name,) * 2
    elif isinstance(operation, migrations.RemoveField):
        return ("drops the column " + model + operation.name,) * 2
    elif isinstance(operation, migrations.RenameModel):
        return ("renames the table of " + operation.old_name,) * 2
    elif isinstance(operation, migrations.RenameField):
        before = known.fields.get(operation.old_name) if known else None
        if before is not None and before.db_column:
            return None, None
        return ("renames the column " + model + operation.old_name,) * 2
    elif isinstance(operation, migrations.AlterModelTable):
        return ("renames the table of " + operation.name,) * 2
    elif isinstance(operation, migrations.AddField):
        field = operation.field
        in_database, in_code = default_of(field)
        if field.many_to_many or field.null or in_database or getattr(field, "generated", False):
            return None, None
        if in_code and operation.preserve_default:
            return None, "adds the column " + model + operation.name + ", which must have a value that older code does not give"
        return ("adds the column " + model + operation.name + ", NOT NULL without a default",) * 2
    elif isinstance(operation, migrations.AlterField):
        before = known.fields.get(operation.name) if known else None
        if before is None or before.many_to_many or operation.field.many_to_many:
            return None, None
        try:
            (old_type, old_null), (new_type, new_null) = column(before), column(operation.field)
        except Exception:  # noqa: BLE001 (a relation whose target is not resolved has no type of its own to compare, but a target)
            old_type, new_type = target(before), target(operation.field)
            old_null, new_null = before.null, operation.field.null
        old_name, new_name = (column_name(field, operation.name) for field in (before, operation.field))
        if old_name != new_name:
            return ("renames the column " + model + operation.name + " from " + old_name + " to " + new_name,) * 2
        if old_null and not new_null:
            return ("makes the column " + model + operation.name + " NOT NULL",) * 2
        if old_type != new_type and not widens(old_type, new_type):
            return ("changes the type of the column " + model + operation.name + " from " + str(old_type) + " to " + str(new_type),) * 2
        if operation.field.unique and not before.unique:
            return None, "makes the column " + model + operation.name + " unique"
    elif isinstance(operation, migrations.AlterUniqueTogether):
        before = {tuple(fields) for fields in known.options.get("unique_together") or ()} if known else set()
        added = sorted(", ".join(fields) for fields in {tuple(fields) for fields in operation.unique_together} - before)
        if added:
            return None, "makes " + " and ".join(added) + " of " + operation.name + " unique together"
    elif isinstance(operation, migrations.AddConstraint):
        return None, "adds the constraint " + operation.constraint.name + " to " + operation.model_name
    elif isinstance(operation, migrations.RunSQL):
        found = TAKES_AWAY.search(statements(operation.sql))
        if found:
            return ("runs SQL with " + " ".join(found.group(0).upper().split()),) * 2
        if not operation.reversible:
            return None, "runs SQL that nothing reverses"
    elif isinstance(operation, migrations.RunPython) and not operation.reversible:
        # What it makes of the rows only its author knows, who has named no way back.
        return None, "runs Python code that nothing reverses"
    return None, None


def widens(old, new):
    """Whether every value of the old type is one of the new."""
    pattern = re.compile(r"varchar\((\d+)\)$")
    before, after = pattern.match(str(old)), pattern.match(str(new))
    if before:
        # PostgreSQL's varchar without a length is a text.
        return new in ("text", "varchar") or bool(after and int(after.group(1)) >= int(before.group(1)))
    return (old, new) in {
        ("smallint", "integer"), ("smallint", "bigint"), ("integer", "bigint"), ("varchar", "text"), ("text", "varchar"),
        ("smallserial", "serial"), ("smallserial", "bigserial"), ("serial", "bigserial"),
    }


def operations(migration, state):
    """The operations that reach the database, those of SeparateDatabaseAndState's own list instead of itself; each with the models before it.

    `state` has the models after the whole migration in the end.
    """
    from django.db.migrations import SeparateDatabaseAndState

    label = migration.app_label
    for operation in migration.operations:
        if isinstance(operation, SeparateDatabaseAndState):
            inner = state.clone()
            for each in operation.database_operations:
                yield each, inner
                each.state_forwards(label, inner)
        else:
            yield operation, state
        operation.state_forwards(label, state)


def plan():
    from django.db import connection
    from django.db.migrations.executor import MigrationExecutor

    executor = MigrationExecutor(connection)
    applied = set(executor.loader.applied_migrations)
    disk = executor.loader.disk_migrations
    # A squashed migration stands for those it replaces, also once their files are gone.
    names = {*disk, *(tuple(replaced) for migration in disk.values() for replaced in migration.replaces)}
    known = [f"{app}.{name}" for app, name in sorted(names)]
    found, new_models = [], set()
    state = executor.loader.project_state(sorted(applied & set(executor.loader.graph.nodes)))
    for migration, _ in executor.migration_plan(executor.loader.graph.leaf_nodes()):
        entry = {"name": f"{migration.app_label}.{migration.name}", "operations": [], "takes_away": [], "breaks_older": []}
        for operation, before in operations(migration, state):
            entry["operations"].append(operation.describe())
            takes_away, breaks_older = judge(operation, migration.app_label, before, new_models)
            entry["takes_away"] += [takes_away] if takes_away else []
            entry["breaks_older"] += [breaks_older] if breaks_older else []
        found.append(entry)
    return {"plan": found, "known": known, "applied": [f"{app}.{name}" for app, name in sorted(applied)], "first": not applied}


def drift():
    from django.apps import apps
    from django.db.migrations.autodetector import MigrationAutodetector
    from django.db.migrations.loader import MigrationLoader
    from django.db.migrations.questioner import MigrationQuestioner
    from django.db.migrations.state import ProjectState

    loader = MigrationLoader(None, ignore_no_migrations=True)
    # One that never asks. The command's own gives up where a column would need a default, which is for whoever writes the migration to say.
    changes = MigrationAutodetector(loader.project_state(), ProjectState.from_apps(apps), MigrationQuestioner()).changes(graph=loader.graph)
    return [f"{app}: {operation.describe()}" for app in sorted(changes) for each in changes[app] for operation in each.operations]


def checks():
    from django.core import checks as framework

    levels = {framework.DEBUG: "DEBUG", framework.INFO: "INFO", framework.WARNING: "WARNING", framework.ERROR: "ERROR", framework.CRITICAL: "CRITICAL"}
    return [
        {"level": levels.get(message.level, str(message.level)), "number": message.level, "id": message.id or "", "text": " ".join(str(message.msg).split())}
        for message in framework.run_checks(include_deployment_checks=True)
        if not message.is_silenced()
    ]


def apart():
    """What one process or one host would keep for itself that all hosts of a site must share: sessions, first of all."""
    from django.conf import settings

    engine = getattr(settings, "SESSION_ENGINE", "")
    if "django.contrib.sessions.middleware.SessionMiddleware" not in settings.MIDDLEWARE:
        return []
    alias = getattr(settings, "SESSION_CACHE_ALIAS", "default")
    backend = getattr(settings, "CACHES", {}).get(alias, {}).get("BACKEND", "").rpartition(".")[2]
    own = ("LocMemCache", "FileBasedCache", "DummyCache")
    if engine.endswith(".file"):
        kept = "in files"
    elif engine.endswith((".cache", ".cached_db")) and backend in own:
        kept = "in the cache " + repr(alias) + ", a " + backend
    else:
        return []
    text = "SESSION_ENGINE keeps sessions " + kept + ", which is each host's or process' own, and several hosts serve this site: keep them in the database"
    return [{"level": "CRITICAL", "number": 50, "id": "redoubt.E001", "text": text}]


def part(findings, name, function):
    """What one part finds; where it breaks, why, so that the others are still told."""
    try:
        findings[name] = function()
    except Exception as error:  # noqa: BLE001 (it is somebody else's code)
        findings[name] = None
        findings.setdefault("broken", {})[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def main():
    sys.path.insert(0, "")
    findings = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
        # Subclasses of these are what Django calls RemovedInDjango61Warning and the like.
        warnings.simplefilter("always", DeprecationWarning)
        warnings.simplefilter("always", PendingDeprecationWarning)
        import django

        django.setup()
        part(findings, "checks", checks)
        if "--several" in sys.argv[1:]:
            findings["checks"] = (findings["checks"] or []) + apart()
        part(findings, "drift", drift)
        part(findings, "plan", plan)
    texts = {f"{' '.join(str(warning.message).split())[:200]} ({warning.filename.rpartition('site-packages/')[2]})" for warning in caught}
    findings["deprecations"] = sorted(texts)
    findings["django"] = django.get_version()
    print("\n" + MARK + json.dumps(findings), flush=True)


if __name__ == "__main__":
    main()
