"""`python -m redoubt_guard report [--json]`: what Django's deployment checklist asks, what the project has, what the guard changes.

Values that may be secrets are described, never shown.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ImproperlyConfigured


def shown(name: str, value: Any) -> str:
    """A setting's value in few words, without anything that may be secret."""
    from . import overlay

    if name == "SECRET_KEY":
        return "weak: " + overlay.weakness(value) if overlay.weakness(value) else f"strong, {len(value)} characters"
    if name == "SECRET_KEY_FALLBACKS":
        return f"{len(value or [])} keys, {sum(bool(overlay.weakness(key)) for key in value or [])} of them weak"
    if name == "DATABASES":
        return "; ".join(_database(alias, database) for alias, database in sorted(value.items()) if database) or "none"
    if name == "CACHES":
        return ", ".join(f"{alias}: {str(cache.get('BACKEND', '')).rpartition('.')[2]}" for alias, cache in sorted(value.items()))
    if name == "LOGGING":
        root = (value or {}).get("root", {}).get("handlers", [])
        return f"handlers {', '.join(sorted((value or {}).get('handlers', {}))) or 'none'}; of the root logger {', '.join(root) or 'none'}"
    if name == "TEMPLATES":
        return f"{sum(bool(engine.get('OPTIONS', {}).get('debug')) for engine in value or [])} with debug"
    if name == "AUTH_PASSWORD_VALIDATORS":
        return ", ".join(_validator(validator) for validator in value or []) or "none"
    if name in ("INSTALLED_APPS", "MIDDLEWARE"):
        return f"{len(value or [])} entries, first {(list(value or []) or ['none'])[0]}"
    if name in ("FILE_UPLOAD_PERMISSIONS", "FILE_UPLOAD_DIRECTORY_PERMISSIONS"):
        return "none" if value is None else f"0o{value:o}"
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item).rpartition(".")[2] if name.endswith(("HASHERS", "BACKENDS")) else str(item) for item in value) or "none"
    return str(value)


def _database(alias: str, database: Mapping[str, Any]) -> str:
    options = str(database.get("OPTIONS", {}).get("options", ""))
    timeouts = [word for word in options.split() if word.startswith(("statement_timeout=", "idle_in_transaction_session_timeout="))]
    age, looked = database.get("CONN_MAX_AGE", 0), database.get("CONN_HEALTH_CHECKS", False)
    return ", ".join([f"{alias}: kept {age} s", "looked at" if looked else "not looked at", *timeouts])


def _validator(validator: Mapping[str, Any]) -> str:
    length = validator.get("OPTIONS", {}).get("min_length")
    return str(validator.get("NAME", "")).rpartition(".")[2] + (f" {length}" if length else "")


def report() -> dict[str, Any]:
    """The whole report as plain data: `mode`, `stage`, `refusal`, `rows` (one a switch and setting) and `open` (what the checklist still finds)."""
    import django

    django.setup()
    from django.core import checks

    from . import overlay
    from . import settings as guarded

    config = guarded.config
    rows = []
    for override in overlay.OVERRIDES:
        touched = {change.setting: change.after for change in guarded.changes if change.override is override}
        done = config.mode == "enforce" or override.name == "guard"
        for name in override.settings:
            if name in touched:
                state = "set" if done else "would be set"
            else:
                state = "off" if config.mode == "off" else "skipped" if override.name in config.skip else "left"
            rows.append(
                {
                    "switch": override.name,
                    "setting": name,
                    "asked_by": list(override.checks),
                    "project": shown(name, overlay.get(guarded.project, name)),
                    "guard": shown(name, touched[name]) if name in touched else None,
                    "state": state,
                }
            )
    found = checks.run_checks(tags=[checks.Tags.security], include_deployment_checks=True)
    remaining = [{"id": message.id, "text": str(message.msg).strip().splitlines()[0]} for message in found if not message.is_silenced()]
    return {"mode": config.mode, "stage": config.stage, "refusal": guarded.refusal or None, "rows": rows, "open": remaining}


def table(data: Mapping[str, Any]) -> str:
    """The report as text."""
    columns = ("switch", "setting", "asked_by", "state", "project", "guard")
    lines = [("switch", "setting", "asked by", "state", "the project has", "with the guard")]
    for row in data["rows"]:
        values = {**row, "asked_by": " ".join(name.rpartition(".")[2] for name in row["asked_by"]), "guard": row["guard"] or ""}
        lines.append(tuple(_cut(values[name]) for name in columns))
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
    text = [f"mode {data['mode']}, stage {data['stage']}", ""]
    text += ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    if data["refusal"]:
        text += ["", f"The project does not start: {data['refusal']}"]
    text += ["", "Still open in Django's deployment checklist:" if data["open"] else "Nothing is open in Django's deployment checklist."]
    text += [f"  {item['id']}  {item['text']}" for item in data["open"]]
    return "\n".join(text)


def _cut(text: str) -> str:
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= 60 else text[:59] + "…"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code. 2: the environment is not complete."""
    parser = argparse.ArgumentParser(prog="python -m redoubt_guard", description="Tell what the guard does to a project's settings.")
    parser.add_argument("command", choices=["report"])
    parser.add_argument("--json", action="store_true", help="as JSON instead of a table")
    options = parser.parse_args(arguments)
    from . import overlay

    os.environ["DJANGO_SETTINGS_MODULE"] = "redoubt_guard.settings"
    overlay.refuse = False
    try:
        data = report()
    except ImproperlyConfigured as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(data, indent=2) if options.json else table(data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
