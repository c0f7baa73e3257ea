"""What the environment says to the guard: REDOUBT_GUARD (JSON), REDOUBT_STAGE, REDOUBT_SETTINGS_MODULE, REDOUBT_SECRET_KEY_FALLBACKS."""

from __future__ import annotations

import datetime
import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from django.core.exceptions import ImproperlyConfigured

MODES = ("enforce", "report", "off")

# web: processes that answer requests. worker: background processes, timers, commands. migrate: the migrator of the database.
# build: collecting files and the like, without the secrets of the running processes.
STAGES = ("web", "worker", "migrate", "build")


@dataclass(frozen=True)
class Config:
    """The guard's configuration, checked. Every field but the last four is a key of REDOUBT_GUARD."""

    # Name of the application: what events are filed under, `<app>-security`.
    app: str = "django"
    mode: str = "enforce"
    # Names of overrides and parts that are left out.
    skip: tuple[str, ...] = ()
    # Host names the site is served under.
    domains: tuple[str, ...] = ()
    # Networks of further proxies in front of nginx, whose word on the client's address counts.
    trusted_proxies: tuple[str, ...] = ()
    # URL of a Redis server that counts failed logins. Empty: a table of the database.
    redis: str = ""
    # Seconds that a session may last at most. 0: what the project says.
    session_age: int = 0
    # Largest body that is not an uploaded file, in bytes, for a project that allows any.
    max_body: int = 10 * 1024 * 1024
    # Seconds, for the web processes. 0: no limit.
    statement_timeout: int = 60
    idle_in_transaction_timeout: int = 60
    connect_timeout: int = 5
    # Seconds that a database connection is kept between requests.
    conn_max_age: int = 60
    # Failed logins of an account that cost nothing, the longest delay in seconds, and the days that a known address is remembered.
    throttle_free: int = 5
    throttle_cap: int = 300
    throttle_trust_days: int = 30

    settings_module: str = ""
    stage: str = "worker"
    # Those whose last day is not over.
    secret_key_fallbacks: tuple[str, ...] = ()
    # What `skip` may name; the overlay knows.
    known_switches: tuple[str, ...] = ()


# Smallest value of each number. Zero is "no limit" for timeouts, and would be an endless or a useless throttle.
_SMALLEST = {"throttle_free": 1, "throttle_cap": 1, "throttle_trust_days": 1, "max_body": 1}
_NOT_KEYS = {"settings_module", "stage", "secret_key_fallbacks", "known_switches"}
_DEFAULTS = {field.name: field.default for field in fields(Config) if field.name not in _NOT_KEYS}


def from_environment(environ: Mapping[str, str], known_switches: tuple[str, ...] = ()) -> Config:
    """Read and check the configuration.

    `known_switches` are the names that `skip` may have. Raises ImproperlyConfigured with one sentence for each mistake.
    """
    mistakes: list[str] = []
    values = _json(environ, "REDOUBT_GUARD", dict, "an object", mistakes)
    fallbacks = _fallbacks(environ, mistakes)
    given = {}
    for key, value in values.items():
        mistake = _mistake(key, value, known_switches)
        if mistake:
            mistakes.append(f"REDOUBT_GUARD: {mistake}")
        else:
            given[key] = tuple(value) if isinstance(value, list) else value
    stage = environ.get("REDOUBT_STAGE") or "worker"
    if stage not in STAGES:
        mistakes.append(f"REDOUBT_STAGE: must be one of {', '.join(STAGES)}, not {stage!r}.")
    module = environ.get("REDOUBT_SETTINGS_MODULE", "")
    if not module:
        mistakes.append("REDOUBT_SETTINGS_MODULE: must name the project's own settings module.")
    elif module == "redoubt_guard.settings":
        mistakes.append("REDOUBT_SETTINGS_MODULE: must name the project's own settings module, not the guard's.")
    if not mistakes and given.get("mode", "enforce") == "enforce" and not given.get("domains"):
        mistakes.append("REDOUBT_GUARD: domains must name at least one host name, or every request would be refused.")
    if mistakes:
        raise ImproperlyConfigured("\n".join(mistakes))
    return Config(**given, settings_module=module, stage=stage, secret_key_fallbacks=fallbacks, known_switches=known_switches)


def _fallbacks(environ: Mapping[str, str], mistakes: list[str]) -> tuple[str, ...]:
    """The keys that still count today: one whose end has passed is dead, however old the environment is that it stands in."""
    name = "REDOUBT_SECRET_KEY_FALLBACKS"
    today = datetime.datetime.now(datetime.timezone.utc).date()
    keys = []
    for entry in _json(environ, name, list, 'a list of {"key": …, "until": …}', mistakes):
        key, until = (entry.get("key"), entry.get("until", "")) if isinstance(entry, dict) else ("", "")
        try:
            # Without a last day: one that is about to be the key.
            counts = until == "" or datetime.date.fromisoformat(until) >= today
        except (TypeError, ValueError):
            mistakes.append(f"{name}: until must be a day, 2026-12-31, or empty.")
            return ()
        if not isinstance(key, str) or not key:
            mistakes.append(f'{name}: must be a JSON list of {{"key": …, "until": …}}, with keys that are strings and not empty.')
            return ()
        if counts:
            keys.append(key)
    return tuple(keys)


def _json(environ: Mapping[str, str], name: str, kind: type, called: str, mistakes: list[str]) -> Any:
    """The value of a variable that holds JSON, or an empty one with the mistake noted."""
    text = environ.get(name)
    if not text:
        return kind()
    try:
        value = json.loads(text)
    except ValueError as error:
        # The text may be a secret: only the place of the mistake is told.
        mistakes.append(f"{name}: is not JSON (line {getattr(error, 'lineno', '?')}, column {getattr(error, 'colno', '?')}).")
        return kind()
    if not isinstance(value, kind):
        mistakes.append(f"{name}: must be {called} in JSON.")
        return kind()
    return value


def _mistake(key: str, value: Any, known_switches: tuple[str, ...]) -> str:
    """What is wrong with one key, as a sentence, or nothing."""
    if key not in _DEFAULTS:
        return f"there is no key {key!r}; the keys are {', '.join(_DEFAULTS)}."
    default = _DEFAULTS[key]
    if isinstance(default, tuple):
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            return f"{key} must be a list of strings that are not empty."
    elif isinstance(default, int):
        smallest = _SMALLEST.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
            return f"{key} must be a whole number, at least {smallest}."
    elif not isinstance(value, str):
        return f"{key} must be a string."
    if key == "app" and not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", value):
        return "app must be lower-case letters, digits, _ and -, and start with a letter."
    if key == "mode" and value not in MODES:
        return f"mode must be one of {', '.join(MODES)}, not {value!r}."
    if key == "skip":
        unknown = sorted(set(value) - set(known_switches))
        if unknown:
            return f"skip names {', '.join(unknown)}, which is no switch; the switches are {', '.join(known_switches)}."
    if key == "domains":
        bad = [name for name in value if not re.fullmatch(r"(?=.{1,253}$)[a-z0-9]([a-z0-9.-]*[a-z0-9])?", name)]
        if bad:
            return f"domains must be lower-case host names, without scheme, port or *; {bad[0]!r} is none."
    if key == "trusted_proxies":
        for network in value:
            try:
                ipaddress.ip_network(network)
            except ValueError:
                return f"trusted_proxies must be networks like 192.0.2.0/24; {network!r} is none."
    if key == "redis" and value and not re.match(r"(unix|rediss?)://", value):
        return "redis must be a URL that starts with unix://, redis:// or rediss://."
    return ""
