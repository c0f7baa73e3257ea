"""What the guard changes in a project's settings: one small function an override.

Each function looks at the settings (a mapping it must not change) and says what it would set. `plan` runs them one after the other,
so that `report` and `enforce` go the same way. None of them loosens what a project already does.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable, NamedTuple

from django.conf import global_settings

from .config import Config

MIDDLEWARE = "redoubt_guard.middleware.GuardMiddleware"
BACKEND = "redoubt_guard.throttle.ThrottleBackend"
CACHE_ALIAS = "redoubt_guard"
CACHE_TABLE = "redoubt_guard_cache"

Settings = Mapping[str, Any]


class Change(NamedTuple):
    """One setting and the value it gets."""

    setting: str
    value: Any
    # What may stop working in the project, for `manage.py check`. Empty: nothing that we know of.
    breaks: str = ""


@dataclass(frozen=True)
class Override:
    """One named switch."""

    name: str
    # Number in the ids of `manage.py check`; never given to another override.
    number: int
    function: Callable[[Settings, Config], list[Change]]
    # The settings it looks after, and the warnings of Django's deployment checklist it answers.
    settings: tuple[str, ...]
    checks: tuple[str, ...] = ()


class Applied(NamedTuple):
    """One change of a plan, with what was there before."""

    override: Override
    setting: str
    before: Any
    after: Any
    breaks: str


_MISSING = object()


def get(settings: Settings, name: str) -> Any:
    """A setting as Django would see it: the project's own value, or else Django's default."""
    value = settings.get(name, _MISSING)
    return getattr(global_settings, name, None) if value is _MISSING else value


def _listed(settings: Settings, name: str) -> list[Any]:
    return list(get(settings, name) or [])


def _uses_auth(settings: Settings) -> bool:
    return any(str(app).startswith("django.contrib.auth") for app in _listed(settings, "INSTALLED_APPS"))


def debug(settings: Settings, config: Config) -> list[Change]:
    """No pages with source code and settings in them, and no exception that goes past Django's handlers."""
    changes = []
    if get(settings, "DEBUG"):
        changes.append(
            Change(
                "DEBUG",
                False,
                "What the settings module derived from DEBUG while it was read stays as it was: set DEBUG off in the project's own way too.",
            )
        )
    if get(settings, "DEBUG_PROPAGATE_EXCEPTIONS"):
        changes.append(Change("DEBUG_PROPAGATE_EXCEPTIONS", False))
    templates = []
    for engine in _listed(settings, "TEMPLATES"):
        if engine.get("OPTIONS", {}).get("debug"):
            engine = {**engine, "OPTIONS": {**engine["OPTIONS"], "debug": False}}
        templates.append(engine)
    if templates != _listed(settings, "TEMPLATES"):
        changes.append(Change("TEMPLATES", templates))
    return changes


def allowed_hosts(settings: Settings, config: Config) -> list[Change]:
    """The site's names and no wildcard for all: a made-up Host would end up in links that are mailed."""
    if isinstance(get(settings, "ALLOWED_HOSTS"), str):
        # Django says best itself what is wrong with that.
        return []
    current = _listed(settings, "ALLOWED_HOSTS")
    wanted = [host for host in current if host != "*"]
    wanted += [domain for domain in config.domains if domain not in wanted]
    if wanted == current:
        return []
    breaks = "Requests for host names other than these get 400." if "*" in current else ""
    return [Change("ALLOWED_HOSTS", wanted, breaks)]


def weakness(key: Any) -> str:
    """Why a SECRET_KEY can be guessed, by the measure of Django's own check (security.W009), or nothing."""
    if not isinstance(key, (str, bytes)) or not key:
        return "is empty"
    text = key.decode("latin-1") if isinstance(key, bytes) else key
    if text.startswith("django-insecure-"):
        return "is the one that startproject wrote into the source"
    if len(text) < 50:
        return "has fewer than 50 characters"
    if len(set(text)) < 5:
        return "has fewer than 5 different characters"
    return ""


def refusal(settings: Settings, config: Config) -> str:
    """Why the project must not start, in one sentence, or nothing: there is no right value that the guard could set."""
    if config.mode != "enforce" or config.stage == "build" or "secret_key" in config.skip:
        return ""
    why = weakness(get(settings, "SECRET_KEY"))
    if not why:
        return ""
    return (
        f"SECRET_KEY {why}, so sessions and password resets could be forged: put at least 50 random characters into vault_app_secret_key "
        "and let the project read them (app_secret_key in app_secret_env)."
    )


def secret_key(settings: Settings, config: Config) -> list[Change]:
    """Old keys that could be guessed no longer count. The key itself is `refusal`'s matter."""
    current = _listed(settings, "SECRET_KEY_FALLBACKS")
    kept = [key for key in current if not weakness(key)]
    if kept == current:
        return []
    return [Change("SECRET_KEY_FALLBACKS", kept, "Sessions and links signed with the weak old keys end.")]


def secret_key_fallbacks(settings: Settings, config: Config) -> list[Change]:
    """The keys that were rotated away, from the inventory, so that a rotation logs nobody out."""
    current = _listed(settings, "SECRET_KEY_FALLBACKS")
    key = get(settings, "SECRET_KEY")
    more = [fallback for fallback in config.secret_key_fallbacks if fallback not in current and fallback != key]
    return [Change("SECRET_KEY_FALLBACKS", current + more)] if more else []


def proxy_ssl_header(settings: Settings, config: Config) -> list[Change]:
    """The header that nginx sets on every request, and none that it lets through."""
    wanted = ("HTTP_X_FORWARDED_PROTO", "https")
    if tuple(get(settings, "SECURE_PROXY_SSL_HEADER") or ()) == wanted:
        return []
    return [Change("SECURE_PROXY_SSL_HEADER", wanted)]


def nginx_checks(settings: Settings, config: Config) -> list[Change]:
    """HSTS and the redirect to https are nginx's: Django's check need not ask for them again."""
    current = _listed(settings, "SILENCED_SYSTEM_CHECKS")
    more = [check for check in ("security.W004", "security.W005", "security.W008", "security.W021") if check not in current]
    return [Change("SILENCED_SYSTEM_CHECKS", current + more)] if more else []


def session_cookie(settings: Settings, config: Config) -> list[Change]:
    """Sent over https only, and out of reach for scripts."""
    changes = []
    if not get(settings, "SESSION_COOKIE_SECURE"):
        changes.append(Change("SESSION_COOKIE_SECURE", True))
    if not get(settings, "SESSION_COOKIE_HTTPONLY"):
        changes.append(Change("SESSION_COOKIE_HTTPONLY", True, "Scripts of the pages cannot read the session cookie any more."))
    return changes


def session_age(settings: Settings, config: Config) -> list[Change]:
    """Sessions last no longer than the inventory says, if it says anything."""
    if not config.session_age or get(settings, "SESSION_COOKIE_AGE") <= config.session_age:
        return []
    return [Change("SESSION_COOKIE_AGE", config.session_age, f"Everybody logs in again after {config.session_age} seconds.")]


def csrf_cookie(settings: Settings, config: Config) -> list[Change]:
    """Sent over https only. HttpOnly is left alone: scripts are meant to read this one."""
    return [] if get(settings, "CSRF_COOKIE_SECURE") else [Change("CSRF_COOKIE_SECURE", True)]


def samesite(settings: Settings, config: Config) -> list[Change]:
    """Other sites' forms and frames do not bring the cookies along."""
    changes = []
    for name in ("SESSION_COOKIE_SAMESITE", "CSRF_COOKIE_SAMESITE"):
        value = get(settings, name)
        if str(value).lower() not in ("lax", "strict"):
            breaks = "Pages of other sites that frame this one or post to it (LTI, SAML, payment returns) find no session."
            changes.append(Change(name, "Lax", breaks))
    return changes


def csrf_trusted_origins(settings: Settings, config: Config) -> list[Change]:
    """The site's own names may post to each other."""
    current = _listed(settings, "CSRF_TRUSTED_ORIGINS")
    more = [origin for origin in (f"https://{domain}" for domain in config.domains) if origin not in current]
    return [Change("CSRF_TRUSTED_ORIGINS", current + more)] if more else []


def _middleware(settings: Settings) -> list[Any]:
    return _listed(settings, "MIDDLEWARE")


def security_middleware(settings: Settings, config: Config) -> list[Change]:
    """Without it the next two settings do nothing. It goes first, where startproject has it."""
    current = _middleware(settings)
    name = "django.middleware.security.SecurityMiddleware"
    if name in current:
        return []
    changes = [Change("MIDDLEWARE", [name, *current])]
    if "SECURE_CROSS_ORIGIN_OPENER_POLICY" not in settings:
        # Its default would cut the windows of other sites' logins off from the page that opened them.
        changes.append(Change("SECURE_CROSS_ORIGIN_OPENER_POLICY", "same-origin-allow-popups"))
    return changes


def frame_middleware(settings: Settings, config: Config) -> list[Change]:
    """Other sites cannot frame the pages. It goes last, where startproject has it; a view's own decorators still count."""
    current = _middleware(settings)
    name = "django.middleware.clickjacking.XFrameOptionsMiddleware"
    if name in current:
        return []
    changes = [Change("MIDDLEWARE", [*current, name], "Pages that other sites are meant to frame need @xframe_options_exempt.")]
    if "X_FRAME_OPTIONS" not in settings:
        # A project that never had the middleware may well frame its own pages.
        changes.append(Change("X_FRAME_OPTIONS", "SAMEORIGIN"))
    return changes


def content_type_nosniff(settings: Settings, config: Config) -> list[Change]:
    """Browsers believe the content type they are told."""
    return [] if get(settings, "SECURE_CONTENT_TYPE_NOSNIFF") else [Change("SECURE_CONTENT_TYPE_NOSNIFF", True)]


def referrer_policy(settings: Settings, config: Config) -> list[Change]:
    """Addresses with ids and tokens in them are not told to other sites."""
    value = get(settings, "SECURE_REFERRER_POLICY")
    policies = [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value or [])
    # The last one that a browser knows counts.
    if policies and policies[-1] not in ("", "unsafe-url", "no-referrer-when-downgrade"):
        return []
    return [Change("SECURE_REFERRER_POLICY", "same-origin", "Other sites are not told any more from which page a visitor comes.")]


def x_frame_options(settings: Settings, config: Config) -> list[Change]:
    """Only values that browsers know: others are as good as none."""
    if str(get(settings, "X_FRAME_OPTIONS")).upper() in ("DENY", "SAMEORIGIN"):
        return []
    return [Change("X_FRAME_OPTIONS", "SAMEORIGIN", "Pages that other sites are meant to frame need @xframe_options_exempt.")]


_VALIDATORS = "django.contrib.auth.password_validation."


def password_validators(settings: Settings, config: Config) -> list[Change]:
    """New passwords have 12 characters, are not common, not a number and not the user's name. The project's own validators stay."""
    if not _uses_auth(settings):
        return []
    current = _listed(settings, "AUTH_PASSWORD_VALIDATORS")
    wanted = []
    for validator in current:
        if validator.get("NAME") == _VALIDATORS + "MinimumLengthValidator" and validator.get("OPTIONS", {}).get("min_length", 8) < 12:
            validator = {**validator, "OPTIONS": {**validator.get("OPTIONS", {}), "min_length": 12}}
        wanted.append(validator)
    names = {validator.get("NAME") for validator in wanted}
    for name, options in {
        "UserAttributeSimilarityValidator": {},
        "MinimumLengthValidator": {"min_length": 12},
        "CommonPasswordValidator": {},
        "NumericPasswordValidator": {},
    }.items():
        if _VALIDATORS + name not in names:
            wanted.append({"NAME": _VALIDATORS + name, **({"OPTIONS": options} if options else {})})
    if wanted == current:
        return []
    return [Change("AUTH_PASSWORD_VALIDATORS", wanted, "Commands and tests that set short passwords through a form are refused.")]


_HASHERS = "django.contrib.auth.hashers."
# Good enough to check an old password with, never to store a new one.
_WEAK_HASHERS = (
    "MD5PasswordHasher",
    "SHA1PasswordHasher",
    "CryptPasswordHasher",
    "UnsaltedMD5PasswordHasher",
    "UnsaltedSHA1PasswordHasher",
)


def password_hashers(settings: Settings, config: Config) -> list[Change]:
    """New passwords are stored with Argon2 where argon2-cffi is installed, and never with a broken hash; old ones are still checked."""
    if not _uses_auth(settings):
        return []
    current = _listed(settings, "PASSWORD_HASHERS")
    first = str(current[0]).rpartition(".")[2] if current else ""
    if importlib.util.find_spec("argon2"):
        best = None if "Argon2" in first else _HASHERS + "Argon2PasswordHasher"
        breaks = (
            "A password is stored anew at its next use, and the account's other sessions end then. Keep Argon2 in the project's own list."
        )
    else:
        strong = [name for name in current if str(name).rpartition(".")[2] not in _WEAK_HASHERS]
        best = (strong or [_HASHERS + "PBKDF2PasswordHasher"])[0] if not first or first in _WEAK_HASHERS else None
        breaks = "A password is stored anew at its next use, and the account's other sessions end then."
    if best is None:
        return []
    return [Change("PASSWORD_HASHERS", [best, *(name for name in current if name != best)], breaks)]


def upload_limits(settings: Settings, config: Config) -> list[Change]:
    """No request may fill the memory. A limit that the project sets, of whatever size, is the project's."""
    changes = []
    for name, limit in (
        ("DATA_UPLOAD_MAX_MEMORY_SIZE", config.max_body),
        ("DATA_UPLOAD_MAX_NUMBER_FIELDS", 10_000),
        ("DATA_UPLOAD_MAX_NUMBER_FILES", 1_000),
    ):
        if get(settings, name) is None:
            changes.append(Change(name, limit, f"Larger requests than {limit} get 400."))
    largest = 10 * 1024 * 1024
    if get(settings, "FILE_UPLOAD_MAX_MEMORY_SIZE") > largest:
        changes.append(Change("FILE_UPLOAD_MAX_MEMORY_SIZE", largest))
    return changes


def upload_permissions(settings: Settings, config: Config) -> list[Change]:
    """What is uploaded is the project's and, through the group of its folder, nginx's to read.

    Not where static files are collected (they are for all to read), nor with django-compressor, which writes static files while it runs.
    """
    if config.stage == "build" or "compressor" in _listed(settings, "INSTALLED_APPS"):
        return []
    changes = []
    value = get(settings, "FILE_UPLOAD_PERMISSIONS")
    if value is None or value & ~0o640:
        changes.append(Change("FILE_UPLOAD_PERMISSIONS", 0o640))
    # Folders get the unit's umask, 0027. Any mode given to Django is a chmod, which takes the set-group bit that nginx reads through.
    value = get(settings, "FILE_UPLOAD_DIRECTORY_PERMISSIONS")
    if value is not None and value & ~0o750:
        changes.append(Change("FILE_UPLOAD_DIRECTORY_PERMISSIONS", None))
    return changes


def _databases(settings: Settings, change: Callable[[dict[str, Any]], dict[str, Any]], breaks: str = "") -> list[Change]:
    """A change of each database that the settings describe."""
    current = get(settings, "DATABASES")
    if not isinstance(current, Mapping):
        return []
    wanted = {alias: change(dict(database)) for alias, database in current.items()}
    return [Change("DATABASES", wanted, breaks)] if wanted != current else []


def _postgres(database: Mapping[str, Any]) -> bool:
    engine = str(database.get("ENGINE"))
    return any(word in engine for word in ("postgresql", "postgis", "psqlextra", "timescale"))


def database_connections(settings: Settings, config: Config) -> list[Change]:
    """Connections are kept between requests where the project does not say otherwise, and looked at before they are used again."""

    def change(database: dict[str, Any]) -> dict[str, Any]:
        pooled = database.get("OPTIONS", {}).get("pool")
        if config.stage == "web" and config.conn_max_age and _postgres(database) and not pooled:
            database.setdefault("CONN_MAX_AGE", config.conn_max_age)
        if database.get("CONN_MAX_AGE", 0) != 0:
            database["CONN_HEALTH_CHECKS"] = True
        return database

    return _databases(settings, change)


def database_timeouts(settings: Settings, config: Config) -> list[Change]:
    """A query, a forgotten transaction or a dead server holds a web process only so long.

    In web processes alone: migrations, commands and workers may take their time. Behind PgBouncer, which refuses such options, a
    project has DISABLE_SERVER_SIDE_CURSORS.
    """
    if config.stage != "web":
        return []

    def change(database: dict[str, Any]) -> dict[str, Any]:
        if not _postgres(database) or database.get("DISABLE_SERVER_SIDE_CURSORS"):
            return database
        options = dict(database.get("OPTIONS", {}))
        given = str(options.get("options", ""))
        for name, seconds in (
            ("statement_timeout", config.statement_timeout),
            ("idle_in_transaction_session_timeout", config.idle_in_transaction_timeout),
        ):
            if seconds and name not in given:
                given = f"{given} -c {name}={seconds * 1000}".strip()
        if given:
            options["options"] = given
        if config.connect_timeout:
            options.setdefault("connect_timeout", config.connect_timeout)
        return {**database, "OPTIONS": options}

    return _databases(settings, change, f"A page whose query takes longer than {config.statement_timeout} s gets an error.")


def throttle(settings: Settings, config: Config) -> list[Change]:
    """Failed logins are counted in a cache of the guard's own, and a backend before the project's own refuses while a delay runs."""
    backends = _listed(settings, "AUTHENTICATION_BACKENDS")
    if not _uses_auth(settings) or not backends:
        return []
    if config.redis and importlib.util.find_spec("redis"):
        cache = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": config.redis}
    else:
        # Many more entries than attackers make in the hours that they last: Django throws away counters beyond it.
        cache = {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": CACHE_TABLE, "OPTIONS": {"MAX_ENTRIES": 100_000}}
    changes = []
    caches = get(settings, "CACHES")
    if caches.get(CACHE_ALIAS) != cache:
        changes.append(Change("CACHES", {**caches, CACHE_ALIAS: cache}))
    if BACKEND not in backends:
        changes.append(
            Change("AUTHENTICATION_BACKENDS", [BACKEND, *backends], "User.objects.with_perm() must be told the backend by name.")
        )
    return changes


_PLAIN_HANDLER = "logging.StreamHandler"
_HANDLER = "redoubt_guard.logs.JournalHandler"


def logging(settings: Settings, config: Config) -> list[Change]:
    """Errors reach the journal with their severity, and no log file that cannot be written keeps the project from starting."""
    current = get(settings, "LOGGING")
    if get(settings, "LOGGING_CONFIG") != "logging.config.dictConfig" or not isinstance(current, Mapping) or current.get("incremental"):
        return []
    # Nothing at all means Django's own loggers, which must go on.
    wanted = dict(current) or {"version": 1, "disable_existing_loggers": False}
    handlers = {name: _handler(handler) for name, handler in wanted.get("handlers", {}).items()}
    root = dict(wanted.get("root") or wanted.get("loggers", {}).get("", {}))
    shown = {name for name, handler in handlers.items() if handler.get("class") == _HANDLER}
    if not shown.intersection(root.get("handlers", [])):
        handlers["redoubt_guard"] = {"class": _HANDLER}
        root["handlers"] = [*root.get("handlers", []), "redoubt_guard"]
    loggers = {}
    for name, logger in wanted.get("loggers", {}).items():
        own = [handler for handler in logger.get("handlers", []) if handlers.get(handler, {}).get("class") != "logging.NullHandler"]
        # A logger with nothing but a null handler was silenced on purpose.
        if name and own and not logger.get("propagate", True) and not shown.intersection(own):
            handlers["redoubt_guard"] = {"class": _HANDLER}
            logger = {**logger, "handlers": [*logger["handlers"], "redoubt_guard"]}
        if name:
            loggers[name] = logger
    wanted.update(handlers=handlers, root=root)
    if "loggers" in wanted:
        wanted["loggers"] = loggers
    return [Change("LOGGING", wanted)] if wanted != current else []


def _handler(handler: Mapping[str, Any]) -> dict[str, Any]:
    """A handler as it works in the sandbox: plain streams know the journal, files that cannot be written become such a stream."""
    handler = dict(handler)
    if handler.get("class") == _PLAIN_HANDLER:
        handler["class"] = _HANDLER
    path = handler.get("filename")
    if path is not None and not os.access(path if os.path.exists(path) else os.path.dirname(os.path.abspath(path)), os.W_OK):
        kept = {key: value for key, value in handler.items() if key in ("level", "filters", "formatter")}
        return {"class": _HANDLER, **kept}
    return handler


def guard(settings: Settings, config: Config) -> list[Change]:
    """The guard's own app and its middleware, before all others: events, health answers, the client's address, and the checks."""
    changes = []
    apps, middleware = _listed(settings, "INSTALLED_APPS"), _middleware(settings)
    if "redoubt_guard" not in apps:
        changes.append(Change("INSTALLED_APPS", ["redoubt_guard", *apps]))
    if MIDDLEWARE not in middleware:
        changes.append(Change("MIDDLEWARE", [MIDDLEWARE, *middleware]))
    return changes


# In the order they are applied: of those that add a middleware in front, the last one ends up first.
OVERRIDES = (
    Override("debug", 1, debug, ("DEBUG", "DEBUG_PROPAGATE_EXCEPTIONS", "TEMPLATES"), ("security.W018",)),
    Override("allowed_hosts", 2, allowed_hosts, ("ALLOWED_HOSTS",), ("security.W020",)),
    Override("secret_key", 3, secret_key, ("SECRET_KEY", "SECRET_KEY_FALLBACKS"), ("security.W009", "security.W025")),
    Override("secret_key_fallbacks", 4, secret_key_fallbacks, ("SECRET_KEY_FALLBACKS",)),
    Override("proxy_ssl_header", 5, proxy_ssl_header, ("SECURE_PROXY_SSL_HEADER",)),
    Override("nginx_checks", 6, nginx_checks, ("SILENCED_SYSTEM_CHECKS",), ("security.W004", "security.W008")),
    Override("session_cookie", 7, session_cookie, ("SESSION_COOKIE_SECURE", "SESSION_COOKIE_HTTPONLY"), ("security.W012", "security.W015")),
    Override("session_age", 8, session_age, ("SESSION_COOKIE_AGE",)),
    Override("csrf_cookie", 9, csrf_cookie, ("CSRF_COOKIE_SECURE",), ("security.W016",)),
    Override("samesite", 10, samesite, ("SESSION_COOKIE_SAMESITE", "CSRF_COOKIE_SAMESITE")),
    Override("csrf_trusted_origins", 11, csrf_trusted_origins, ("CSRF_TRUSTED_ORIGINS",)),
    Override("security_middleware", 12, security_middleware, ("MIDDLEWARE", "SECURE_CROSS_ORIGIN_OPENER_POLICY"), ("security.W001",)),
    Override("frame_middleware", 13, frame_middleware, ("MIDDLEWARE", "X_FRAME_OPTIONS"), ("security.W002",)),
    Override("content_type_nosniff", 14, content_type_nosniff, ("SECURE_CONTENT_TYPE_NOSNIFF",), ("security.W006",)),
    Override("referrer_policy", 15, referrer_policy, ("SECURE_REFERRER_POLICY",), ("security.W022",)),
    Override("x_frame_options", 16, x_frame_options, ("X_FRAME_OPTIONS",), ("security.W019",)),
    Override("password_validators", 17, password_validators, ("AUTH_PASSWORD_VALIDATORS",)),
    Override("password_hashers", 18, password_hashers, ("PASSWORD_HASHERS",)),
    Override(
        "upload_limits",
        19,
        upload_limits,
        (
            "DATA_UPLOAD_MAX_MEMORY_SIZE",
            "DATA_UPLOAD_MAX_NUMBER_FIELDS",
            "DATA_UPLOAD_MAX_NUMBER_FILES",
            "FILE_UPLOAD_MAX_MEMORY_SIZE",
        ),
    ),
    Override("upload_permissions", 20, upload_permissions, ("FILE_UPLOAD_PERMISSIONS", "FILE_UPLOAD_DIRECTORY_PERMISSIONS")),
    Override("database_connections", 21, database_connections, ("DATABASES",)),
    Override("database_timeouts", 22, database_timeouts, ("DATABASES",)),
    Override("throttle", 23, throttle, ("CACHES", "AUTHENTICATION_BACKENDS")),
    Override("logging", 24, logging, ("LOGGING",)),
    Override("guard", 25, guard, ("INSTALLED_APPS", "MIDDLEWARE")),
)

# Parts of the guard's app that change no setting, with the same right to a switch.
PARTS = ("events", "health", "remote_addr")

SWITCHES = (*(override.name for override in OVERRIDES), *PARTS)


def plan(settings: Settings, config: Config) -> list[Applied]:
    """Every change that the overrides ask for, in order. `settings` stays as it is; what to do with the plan is the caller's."""
    if config.mode == "off":
        return []
    seen = dict(settings)
    applied = []
    for override in OVERRIDES:
        # The throttle counts in receivers and a middleware that come with the app.
        if override.name in config.skip or (override.name == "throttle" and "guard" in config.skip):
            continue
        for change in override.function(seen, config):
            applied.append(Applied(override, change.setting, get(seen, change.setting), change.value, change.breaks))
            seen[change.setting] = change.value
    return applied


def values(settings: Settings, config: Config, applied: list[Applied]) -> dict[str, Any]:
    """What is really set, by setting: in `enforce` the outcome of the plan, in `report` the guard's app alone, which has to observe."""
    if config.mode == "report" and "guard" not in config.skip:
        return {change.setting: change.value for change in guard(settings, config)}
    return {change.setting: change.after for change in applied} if config.mode == "enforce" else {}


# Whether a project that must not start is kept from it. The report says it instead.
refuse = True
