"""`/-/health`: can this process serve? `/-/health/live`: does it answer at all?"""

from __future__ import annotations

from typing import Any

from django.db import connections
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, JsonResponse

READY = "/-/health"
LIVE = "/-/health/live"

# Once the database has every migration of this code it keeps them: a process looks only until then.
_migrated = False


def answers(path: str) -> bool:
    """Whether `path` (path_info of a request) is one of the two."""
    return path in (READY, LIVE)


def respond(request: HttpRequest, mode: str) -> JsonResponse:
    """The answer: 200 or 503, JSON, never stored. `mode` is the guard's, so that a probe sees that the guard is in place."""
    body: dict[str, Any] = {"status": "ok", "guard": mode}
    if request.method not in ("GET", "HEAD"):
        response = JsonResponse({"status": "error"}, status=405, headers={"Allow": "GET, HEAD"})
    elif request.path_info == LIVE:
        response = JsonResponse(body)
    else:
        checks = ready()
        body["checks"] = checks
        if not all(state in ("ok", "none") for state in checks.values()):
            body["status"] = "unavailable"
        response = JsonResponse(body, status=200 if body["status"] == "ok" else 503)
    response["Cache-Control"] = "no-store"
    return response


def ready() -> dict[str, str]:
    """The state of the default database and of its migrations: `ok`, `none` without a database, or what is wrong in a word."""
    global _migrated
    connection = connections["default"]
    if connection.settings_dict["ENGINE"] == "django.db.backends.dummy":
        return {"database": "none", "migrations": "none"}
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Exception as error:
        # Only the kind: the message names hosts and users.
        return {"database": type(error).__name__, "migrations": "unknown"}
    if not _migrated:
        try:
            executor = MigrationExecutor(connection)
            missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
        except Exception as error:
            return {"database": "ok", "migrations": type(error).__name__}
        if missing:
            return {"database": "ok", "migrations": f"{len(missing)} unapplied"}
        _migrated = True
    return {"database": "ok", "migrations": "ok"}
