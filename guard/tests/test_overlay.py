"""Every override: what it changes, what it leaves alone, and that it neither loosens anything nor touches what it was given."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redoubt_guard import overlay
from redoubt_guard.config import Config
from redoubt_guard.overlay import BACKEND, MIDDLEWARE, OVERRIDES, SWITCHES, get, plan, refusal, values, weakness

STRONG = "0123456789abcdefghijklmnopqrstuvwxyz-0123456789-ABCDEFGH"
CONFIG = Config(domains=("example.test", "www.example.test"), stage="web")
HASHERS = "django.contrib.auth.hashers."
VALIDATORS = "django.contrib.auth.password_validation."
AUTH = {"INSTALLED_APPS": ["django.contrib.auth"]}


def changed(name, settings, config=CONFIG, **more):
    """What one override sets, by setting."""
    config = Config(**{**config.__dict__, **more})
    function = next(override.function for override in OVERRIDES if override.name == name)
    before = copy.deepcopy(settings)
    changes = function(settings, config)
    assert settings == before
    result = {change.setting: change.value for change in changes}
    assert len(result) == len(changes)
    # What was changed once is right.
    assert function({**settings, **result}, config) == []
    override = next(override for override in OVERRIDES if override.name == name)
    assert set(result) <= set(override.settings)
    return result


def told(name, settings, config=CONFIG):
    """What one override says may break."""
    function = next(override.function for override in OVERRIDES if override.name == name)
    return [change.breaks for change in function(settings, config)]


def test_get_is_what_django_would_see():
    assert get({}, "DEBUG") is False
    assert get({"DEBUG": None}, "DEBUG") is None
    assert get({}, "NO_SUCH_SETTING") is None


def test_debug():
    assert changed("debug", {}) == {}
    assert changed("debug", {"DEBUG": True, "DEBUG_PROPAGATE_EXCEPTIONS": True}) == {"DEBUG": False, "DEBUG_PROPAGATE_EXCEPTIONS": False}
    engines = [{"BACKEND": "a", "OPTIONS": {"debug": True, "x": 1}}, {"BACKEND": "b"}, {"BACKEND": "c", "OPTIONS": {"debug": False}}]
    assert changed("debug", {"TEMPLATES": engines}) == {
        "TEMPLATES": [
            {"BACKEND": "a", "OPTIONS": {"debug": False, "x": 1}},
            {"BACKEND": "b"},
            {"BACKEND": "c", "OPTIONS": {"debug": False}},
        ]
    }
    assert changed("debug", {"TEMPLATES": engines[1:]}) == {}
    assert told("debug", {"DEBUG": True}) == [
        "What the settings module derived from DEBUG while it was read stays as it was: set DEBUG off in the project's own way too."
    ]


def test_allowed_hosts():
    domains = ["example.test", "www.example.test"]
    assert changed("allowed_hosts", {}) == {"ALLOWED_HOSTS": domains}
    assert changed("allowed_hosts", {"ALLOWED_HOSTS": ["*"]}) == {"ALLOWED_HOSTS": domains}
    assert changed("allowed_hosts", {"ALLOWED_HOSTS": (".intern", "*", "www.example.test")}) == {
        "ALLOWED_HOSTS": [".intern", "www.example.test", "example.test"]
    }
    assert changed("allowed_hosts", {"ALLOWED_HOSTS": domains}) == {}
    assert changed("allowed_hosts", {"ALLOWED_HOSTS": "example.test"}) == {}
    assert told("allowed_hosts", {"ALLOWED_HOSTS": ["*"]}) == ["Requests for host names other than these get 400."]
    assert told("allowed_hosts", {"ALLOWED_HOSTS": []}) == [""]


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("", "is empty"),
        (None, "is empty"),
        (5, "is empty"),
        ("x" * 49, "has fewer than 50 characters"),
        (STRONG[:49], "has fewer than 50 characters"),
        (b"abcde" * 9, "has fewer than 50 characters"),
        ("abcd" * 20, "has fewer than 5 different characters"),
        ("django-insecure-" + STRONG, "is the one that startproject wrote into the source"),
        ("abcde" * 10, ""),
        (b"abcde" * 10, ""),
        (STRONG, ""),
    ],
)
def test_weakness_is_what_django_calls_weak(key, why):
    assert weakness(key) == why
    if isinstance(key, str):
        from django.core.checks.security.base import _check_secret_key

        assert _check_secret_key(key) == (why == "")


def test_a_weak_key_is_refused():
    sentence = (
        "SECRET_KEY has fewer than 50 characters, so sessions and password resets could be forged: put at least 50 random characters into "
        "vault_app_secret_key and let the project read them (app_secret_key in app_secret_env)."
    )
    for stage in ("web", "worker", "migrate"):
        assert refusal({"SECRET_KEY": "weak"}, Config(stage=stage)) == sentence
    assert refusal({"SECRET_KEY": STRONG}, CONFIG) == ""
    assert refusal({"SECRET_KEY": "weak"}, Config(stage="build")) == ""
    assert refusal({"SECRET_KEY": "weak"}, Config(mode="report")) == ""
    assert refusal({"SECRET_KEY": "weak"}, Config(mode="off")) == ""
    assert refusal({"SECRET_KEY": "weak"}, Config(skip=("secret_key",))) == ""
    assert "hunter2" not in refusal({"SECRET_KEY": "hunter2"}, CONFIG)


def test_secret_keys():
    assert changed("secret_key", {}) == {}
    assert changed("secret_key", {"SECRET_KEY_FALLBACKS": [STRONG, "weak"]}) == {"SECRET_KEY_FALLBACKS": [STRONG]}
    assert changed("secret_key", {"SECRET_KEY_FALLBACKS": [STRONG]}) == {}
    assert told("secret_key", {"SECRET_KEY_FALLBACKS": ["weak"]}) == ["Sessions and links signed with the weak old keys end."]
    assert changed("secret_key_fallbacks", {}) == {}
    assert changed(
        "secret_key_fallbacks", {"SECRET_KEY": "now", "SECRET_KEY_FALLBACKS": ["a"]}, secret_key_fallbacks=("a", "b", "now")
    ) == {"SECRET_KEY_FALLBACKS": ["a", "b"]}
    assert changed("secret_key_fallbacks", {"SECRET_KEY_FALLBACKS": ["a"]}, secret_key_fallbacks=("a",)) == {}


def test_proxy_ssl_header():
    wanted = {"SECURE_PROXY_SSL_HEADER": ("HTTP_X_FORWARDED_PROTO", "https")}
    assert changed("proxy_ssl_header", {}) == wanted
    assert changed("proxy_ssl_header", {"SECURE_PROXY_SSL_HEADER": ("HTTP_X_FORWARDED_SSL", "on")}) == wanted
    assert changed("proxy_ssl_header", wanted) == {}
    assert changed("proxy_ssl_header", {"SECURE_PROXY_SSL_HEADER": ["HTTP_X_FORWARDED_PROTO", "https"]}) == {}


def test_nginx_checks():
    ids = ["security.W004", "security.W005", "security.W008", "security.W021"]
    assert changed("nginx_checks", {}) == {"SILENCED_SYSTEM_CHECKS": ids}
    assert changed("nginx_checks", {"SILENCED_SYSTEM_CHECKS": ["a", "security.W008"]}) == {
        "SILENCED_SYSTEM_CHECKS": ["a", "security.W008", "security.W004", "security.W005", "security.W021"]
    }
    assert changed("nginx_checks", {"SILENCED_SYSTEM_CHECKS": ids}) == {}


def test_cookies():
    assert changed("session_cookie", {}) == {"SESSION_COOKIE_SECURE": True}
    assert changed("session_cookie", {"SESSION_COOKIE_SECURE": True, "SESSION_COOKIE_HTTPONLY": False}) == {"SESSION_COOKIE_HTTPONLY": True}
    assert told("session_cookie", {"SESSION_COOKIE_HTTPONLY": False}) == [
        "",
        "Scripts of the pages cannot read the session cookie any more.",
    ]
    assert changed("csrf_cookie", {}) == {"CSRF_COOKIE_SECURE": True}
    assert changed("csrf_cookie", {"CSRF_COOKIE_SECURE": True}) == {}


def test_session_age():
    assert changed("session_age", {}) == {}
    assert changed("session_age", {}, session_age=3600) == {"SESSION_COOKIE_AGE": 3600}
    assert changed("session_age", {"SESSION_COOKIE_AGE": 60}, session_age=3600) == {}
    assert changed("session_age", {"SESSION_COOKIE_AGE": 3600}, session_age=3600) == {}
    assert told("session_age", {}, Config(session_age=60)) == ["Everybody logs in again after 60 seconds."]


def test_samesite():
    assert changed("samesite", {}) == {}
    assert changed("samesite", {"SESSION_COOKIE_SAMESITE": "strict", "CSRF_COOKIE_SAMESITE": "Strict"}) == {}
    for weak in ("None", None, False):
        assert changed("samesite", {"SESSION_COOKIE_SAMESITE": weak}) == {"SESSION_COOKIE_SAMESITE": "Lax"}
        assert changed("samesite", {"CSRF_COOKIE_SAMESITE": weak}) == {"CSRF_COOKIE_SAMESITE": "Lax"}
    assert told("samesite", {"CSRF_COOKIE_SAMESITE": None}) == [
        "Pages of other sites that frame this one or post to it (LTI, SAML, payment returns) find no session."
    ]


def test_csrf_trusted_origins():
    assert changed("csrf_trusted_origins", {}) == {"CSRF_TRUSTED_ORIGINS": ["https://example.test", "https://www.example.test"]}
    assert changed("csrf_trusted_origins", {"CSRF_TRUSTED_ORIGINS": ("https://a", "https://www.example.test")}) == {
        "CSRF_TRUSTED_ORIGINS": ["https://a", "https://www.example.test", "https://example.test"]
    }


def test_middleware():
    security = "django.middleware.security.SecurityMiddleware"
    frames = "django.middleware.clickjacking.XFrameOptionsMiddleware"
    assert changed("security_middleware", {"MIDDLEWARE": ("a",)}) == {
        "MIDDLEWARE": [security, "a"],
        "SECURE_CROSS_ORIGIN_OPENER_POLICY": "same-origin-allow-popups",
    }
    assert changed("security_middleware", {"MIDDLEWARE": ["a"], "SECURE_CROSS_ORIGIN_OPENER_POLICY": None}) == {
        "MIDDLEWARE": [security, "a"]
    }
    assert changed("security_middleware", {"MIDDLEWARE": ["a", security]}) == {}
    assert changed("frame_middleware", {"MIDDLEWARE": ("a",)}) == {"MIDDLEWARE": ["a", frames], "X_FRAME_OPTIONS": "SAMEORIGIN"}
    assert changed("frame_middleware", {"MIDDLEWARE": ["a"], "X_FRAME_OPTIONS": "DENY"}) == {"MIDDLEWARE": ["a", frames]}
    assert changed("frame_middleware", {"MIDDLEWARE": [frames, "a"]}) == {}
    assert told("frame_middleware", {}) == ["Pages that other sites are meant to frame need @xframe_options_exempt.", ""]


def test_csrf_middleware_is_not_added():
    """Calls without a token, of webhooks and apps, would fail: `manage.py check` warns instead (see test_checks)."""
    assert all("CsrfViewMiddleware" not in str(change.after) for change in plan({"MIDDLEWARE": []}, CONFIG))


def test_headers():
    assert changed("content_type_nosniff", {}) == {}
    assert changed("content_type_nosniff", {"SECURE_CONTENT_TYPE_NOSNIFF": False}) == {"SECURE_CONTENT_TYPE_NOSNIFF": True}
    for good in (
        "no-referrer",
        "same-origin",
        "strict-origin",
        ["unsafe-url", "same-origin"],
        "no-referrer, strict-origin-when-cross-origin",
    ):
        assert changed("referrer_policy", {"SECURE_REFERRER_POLICY": good}) == {}
    for weak in (None, "", "unsafe-url", [], "same-origin, unsafe-url", "no-referrer,unsafe-url", ("no-referrer-when-downgrade",)):
        assert changed("referrer_policy", {"SECURE_REFERRER_POLICY": weak}) == {"SECURE_REFERRER_POLICY": "same-origin"}
    assert told("referrer_policy", {"SECURE_REFERRER_POLICY": None}) == [
        "Other sites are not told any more from which page a visitor comes."
    ]
    for good in ("DENY", "deny", "SAMEORIGIN"):
        assert changed("x_frame_options", {"X_FRAME_OPTIONS": good}) == {}
    for weak in (None, "ALLOWALL", "ALLOW-FROM https://a.test"):
        assert changed("x_frame_options", {"X_FRAME_OPTIONS": weak}) == {"X_FRAME_OPTIONS": "SAMEORIGIN"}
    assert told("x_frame_options", {"X_FRAME_OPTIONS": None}) == ["Pages that other sites are meant to frame need @xframe_options_exempt."]


def test_password_validators():
    similar, common, number = (
        {"NAME": VALIDATORS + name} for name in ("UserAttributeSimilarityValidator", "CommonPasswordValidator", "NumericPasswordValidator")
    )
    length = {"NAME": VALIDATORS + "MinimumLengthValidator", "OPTIONS": {"min_length": 12}}
    own = {"NAME": "shop.validators.Own"}
    assert changed("password_validators", {}) == {}
    assert changed("password_validators", AUTH) == {"AUTH_PASSWORD_VALIDATORS": [similar, length, common, number]}
    assert changed("password_validators", {**AUTH, "AUTH_PASSWORD_VALIDATORS": [own, {"NAME": length["NAME"]}, common]}) == {
        "AUTH_PASSWORD_VALIDATORS": [own, length, common, similar, number]
    }
    short = {"NAME": length["NAME"], "OPTIONS": {"min_length": 11, "x": 1}}
    assert changed("password_validators", {**AUTH, "AUTH_PASSWORD_VALIDATORS": [short, common, similar, number]}) == {
        "AUTH_PASSWORD_VALIDATORS": [{"NAME": length["NAME"], "OPTIONS": {"min_length": 12, "x": 1}}, common, similar, number]
    }
    for enough in (12, 20):
        kept = {"NAME": length["NAME"], "OPTIONS": {"min_length": enough}}
        assert changed("password_validators", {**AUTH, "AUTH_PASSWORD_VALIDATORS": [kept, common, similar, number]}) == {}
    assert told("password_validators", AUTH) == ["Commands and tests that set short passwords through a form are refused."]
    assert changed("password_validators", {"INSTALLED_APPS": ["django.contrib.auth.apps.AuthConfig"]}) != {}


def test_password_hashers_with_argon2():
    argon, pbkdf, md5 = (HASHERS + name for name in ("Argon2PasswordHasher", "PBKDF2PasswordHasher", "MD5PasswordHasher"))
    assert changed("password_hashers", {}) == {}
    first, *rest = changed("password_hashers", AUTH)["PASSWORD_HASHERS"]
    assert first == argon
    assert rest == [name for name in get({}, "PASSWORD_HASHERS") if name != argon]
    assert changed("password_hashers", {**AUTH, "PASSWORD_HASHERS": [md5, pbkdf]}) == {"PASSWORD_HASHERS": [argon, md5, pbkdf]}
    assert changed("password_hashers", {**AUTH, "PASSWORD_HASHERS": (pbkdf, argon)}) == {"PASSWORD_HASHERS": [argon, pbkdf]}
    assert changed("password_hashers", {**AUTH, "PASSWORD_HASHERS": [argon, md5]}) == {}
    assert changed("password_hashers", {**AUTH, "PASSWORD_HASHERS": ["shop.hashers.SlowArgon2PasswordHasher"]}) == {}
    assert told("password_hashers", AUTH) == [
        "A password is stored anew at its next use, and the account's other sessions end then. Keep Argon2 in the project's own list."
    ]


def test_password_hashers_without_argon2(monkeypatch):
    monkeypatch.setattr(overlay.importlib.util, "find_spec", lambda name: None)
    pbkdf, md5, scrypt = (HASHERS + name for name in ("PBKDF2PasswordHasher", "MD5PasswordHasher", "ScryptPasswordHasher"))
    assert changed("password_hashers", AUTH) == {}
    assert changed("password_hashers", {**AUTH, "PASSWORD_HASHERS": [md5, scrypt, pbkdf]}) == {"PASSWORD_HASHERS": [scrypt, md5, pbkdf]}
    assert changed("password_hashers", {**AUTH, "PASSWORD_HASHERS": [md5]}) == {"PASSWORD_HASHERS": [pbkdf, md5]}
    assert changed("password_hashers", {**AUTH, "PASSWORD_HASHERS": []}) == {"PASSWORD_HASHERS": [pbkdf]}
    assert changed("password_hashers", {**AUTH, "PASSWORD_HASHERS": [scrypt, md5]}) == {}
    for weak in ("SHA1PasswordHasher", "CryptPasswordHasher", "UnsaltedMD5PasswordHasher", "UnsaltedSHA1PasswordHasher"):
        assert changed("password_hashers", {**AUTH, "PASSWORD_HASHERS": [HASHERS + weak]}) == {"PASSWORD_HASHERS": [pbkdf, HASHERS + weak]}
    assert told("password_hashers", {**AUTH, "PASSWORD_HASHERS": [md5]}) == [
        "A password is stored anew at its next use, and the account's other sessions end then."
    ]


def test_upload_limits():
    assert changed("upload_limits", {}) == {}
    assert changed(
        "upload_limits",
        {"DATA_UPLOAD_MAX_MEMORY_SIZE": None, "DATA_UPLOAD_MAX_NUMBER_FIELDS": None, "DATA_UPLOAD_MAX_NUMBER_FILES": None},
    ) == {"DATA_UPLOAD_MAX_MEMORY_SIZE": 10485760, "DATA_UPLOAD_MAX_NUMBER_FIELDS": 10000, "DATA_UPLOAD_MAX_NUMBER_FILES": 1000}
    assert changed("upload_limits", {"DATA_UPLOAD_MAX_MEMORY_SIZE": None}, max_body=5) == {"DATA_UPLOAD_MAX_MEMORY_SIZE": 5}
    assert told("upload_limits", {"DATA_UPLOAD_MAX_MEMORY_SIZE": None}) == ["Larger requests than 10485760 get 400."]
    assert changed("upload_limits", {"DATA_UPLOAD_MAX_MEMORY_SIZE": 10**9, "DATA_UPLOAD_MAX_NUMBER_FIELDS": 10**6}) == {}
    assert changed("upload_limits", {"FILE_UPLOAD_MAX_MEMORY_SIZE": 10485761}) == {"FILE_UPLOAD_MAX_MEMORY_SIZE": 10485760}
    assert changed("upload_limits", {"FILE_UPLOAD_MAX_MEMORY_SIZE": 10485760}) == {}


def test_upload_permissions():
    both = {"FILE_UPLOAD_PERMISSIONS": 0o640, "FILE_UPLOAD_DIRECTORY_PERMISSIONS": None}
    assert changed("upload_permissions", {}) == {"FILE_UPLOAD_PERMISSIONS": 0o640}
    assert changed("upload_permissions", {"FILE_UPLOAD_PERMISSIONS": None, "FILE_UPLOAD_DIRECTORY_PERMISSIONS": 0o755}) == both
    assert changed("upload_permissions", {"FILE_UPLOAD_PERMISSIONS": 0o600, "FILE_UPLOAD_DIRECTORY_PERMISSIONS": 0o700}) == {}
    assert changed("upload_permissions", both) == {}
    assert changed("upload_permissions", {}, stage="build") == {}
    assert changed("upload_permissions", {"INSTALLED_APPS": ["compressor"]}) == {}
    assert changed("upload_permissions", {}, stage="worker") == {"FILE_UPLOAD_PERMISSIONS": 0o640}


POSTGRES = {"ENGINE": "django.db.backends.postgresql", "NAME": "shop"}


def database(name, entry, **more):
    return changed(name, {"DATABASES": {"default": entry}}, **more).get("DATABASES", {}).get("default")


def test_database_connections():
    assert changed("database_connections", {}) == {}
    assert changed("database_connections", {"DATABASES": None}) == {}
    assert changed("database_connections", {"DATABASES": {"default": {}}}) == {}
    assert database("database_connections", POSTGRES) == {**POSTGRES, "CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True}
    assert told("database_connections", {"DATABASES": {"default": POSTGRES}}) == [""]
    assert database("database_connections", POSTGRES, conn_max_age=5)["CONN_MAX_AGE"] == 5
    assert database("database_connections", POSTGRES, conn_max_age=0) is None
    assert database("database_connections", POSTGRES, stage="worker") is None
    assert database("database_connections", {"ENGINE": "django.db.backends.sqlite3"}) is None
    assert database("database_connections", {**POSTGRES, "CONN_MAX_AGE": 0}) is None
    assert database("database_connections", {**POSTGRES, "CONN_MAX_AGE": None}) == {
        **POSTGRES,
        "CONN_MAX_AGE": None,
        "CONN_HEALTH_CHECKS": True,
    }
    assert database("database_connections", {**POSTGRES, "CONN_MAX_AGE": 9}, stage="worker")["CONN_HEALTH_CHECKS"] is True
    assert database("database_connections", {**POSTGRES, "OPTIONS": {"pool": True}}) is None
    assert database("database_connections", {**POSTGRES, "OPTIONS": {"pool": False}})["CONN_MAX_AGE"] == 60


@pytest.mark.parametrize(
    "engine",
    ["django.contrib.gis.db.backends.postgis", "django_prometheus.db.backends.postgresql", "psqlextra.backend", "timescale.db.backends"],
)
def test_other_ways_to_postgresql(engine):
    assert database("database_timeouts", {"ENGINE": engine}) is not None


def test_database_timeouts():
    both = "-c statement_timeout=60000 -c idle_in_transaction_session_timeout=60000"
    assert changed("database_timeouts", {}) == {}
    assert database("database_timeouts", POSTGRES) == {**POSTGRES, "OPTIONS": {"options": both, "connect_timeout": 5}}
    for stage in ("worker", "migrate", "build"):
        assert database("database_timeouts", POSTGRES, stage=stage) is None
    assert database("database_timeouts", {"ENGINE": "django.db.backends.sqlite3"}) is None
    assert database("database_timeouts", {**POSTGRES, "DISABLE_SERVER_SIDE_CURSORS": True}) is None
    given = {**POSTGRES, "OPTIONS": {"sslmode": "prefer", "connect_timeout": 1, "options": "-c statement_timeout=5s"}}
    assert database("database_timeouts", given)["OPTIONS"] == {
        "sslmode": "prefer",
        "connect_timeout": 1,
        "options": "-c statement_timeout=5s -c idle_in_transaction_session_timeout=60000",
    }
    assert (
        database("database_timeouts", POSTGRES, statement_timeout=0)["OPTIONS"]["options"] == "-c idle_in_transaction_session_timeout=60000"
    )
    assert (
        database("database_timeouts", POSTGRES, idle_in_transaction_timeout=0, statement_timeout=2)["OPTIONS"]["options"]
        == "-c statement_timeout=2000"
    )
    assert database("database_timeouts", POSTGRES, connect_timeout=0)["OPTIONS"] == {"options": both}
    assert database("database_timeouts", POSTGRES, connect_timeout=0, statement_timeout=0, idle_in_transaction_timeout=0) == {
        **POSTGRES,
        "OPTIONS": {},
    }
    assert told("database_timeouts", {"DATABASES": {"default": POSTGRES}}) == ["A page whose query takes longer than 60 s gets an error."]


def test_throttle():
    assert changed("throttle", {}) == {}
    assert changed("throttle", {**AUTH, "AUTHENTICATION_BACKENDS": []}) == {}
    table = {
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": "redoubt_guard_cache",
        "OPTIONS": {"MAX_ENTRIES": 100000},
    }
    memory = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    assert changed("throttle", AUTH) == {
        "CACHES": {"default": memory, "redoubt_guard": table},
        "AUTHENTICATION_BACKENDS": [BACKEND, "django.contrib.auth.backends.ModelBackend"],
    }
    assert changed("throttle", {**AUTH, "CACHES": {"default": {"BACKEND": "x"}}, "AUTHENTICATION_BACKENDS": ("a", "b")}) == {
        "CACHES": {"default": {"BACKEND": "x"}, "redoubt_guard": table},
        "AUTHENTICATION_BACKENDS": [BACKEND, "a", "b"],
    }
    assert changed("throttle", AUTH, redis="unix:///r")["CACHES"]["redoubt_guard"] == {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": "unix:///r",
    }
    assert told("throttle", AUTH) == ["", "User.objects.with_perm() must be told the backend by name."]


def test_throttle_without_redis_installed(monkeypatch):
    monkeypatch.setattr(overlay.importlib.util, "find_spec", lambda name: None)
    assert "DatabaseCache" in changed("throttle", AUTH, redis="unix:///r")["CACHES"]["redoubt_guard"]["BACKEND"]


JOURNAL = {"class": "redoubt_guard.logs.JournalHandler"}
PLAIN = {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "f"}


def logged(logging, **more):
    return changed("logging", {"LOGGING": logging, **more}).get("LOGGING")


def test_logging_of_a_project_without_any():
    wanted = {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"redoubt_guard": JOURNAL},
        "root": {"handlers": ["redoubt_guard"]},
    }
    assert changed("logging", {}) == {"LOGGING": wanted}
    # A project that disables the loggers there are goes on doing so.
    assert logged({"version": 1}) == {"version": 1, "handlers": {"redoubt_guard": JOURNAL}, "root": {"handlers": ["redoubt_guard"]}}


def test_logging_that_is_the_projects_own_way():
    assert changed("logging", {"LOGGING_CONFIG": None}) == {}
    assert changed("logging", {"LOGGING_CONFIG": "shop.logs.configure"}) == {}
    assert logged(None) is None
    assert logged({"version": 1, "incremental": True}) is None


def test_logging_to_a_stream_gets_severities():
    project = {
        "version": 1,
        "handlers": {"console": PLAIN, "mail": {"class": "x"}},
        "root": {"handlers": ["console", "mail"], "level": "INFO"},
    }
    assert logged(project) == {**project, "handlers": {"console": {**PLAIN, **JOURNAL}, "mail": {"class": "x"}}}
    other = {"version": 1, "handlers": {"mail": {"class": "x"}}, "root": {"handlers": ["mail"], "level": "INFO"}}
    assert logged(other) == {
        "version": 1,
        "handlers": {"mail": {"class": "x"}, "redoubt_guard": JOURNAL},
        "root": {"handlers": ["mail", "redoubt_guard"], "level": "INFO"},
    }


def test_logging_of_the_root_by_its_other_name():
    project = {
        "version": 1,
        "handlers": {"console": PLAIN},
        "loggers": {"": {"handlers": ["console"], "level": "INFO"}, "a": {"level": "INFO"}},
    }
    assert logged(project) == {
        "version": 1,
        "handlers": {"console": {**PLAIN, **JOURNAL}},
        "root": {"handlers": ["console"], "level": "INFO"},
        "loggers": {"a": {"level": "INFO"}},
    }


def test_logging_of_loggers_that_keep_to_themselves():
    handlers = {"console": PLAIN, "mail": {"class": "x"}, "null": {"class": "logging.NullHandler"}, "made": {"()": "x"}}
    project = {
        "version": 1,
        "handlers": handlers,
        "root": {"handlers": ["console"]},
        "loggers": {
            "mails": {"handlers": ("mail",), "propagate": False},
            "made": {"handlers": ["made", "null"], "propagate": False},
            "shows": {"handlers": ["console"], "propagate": False},
            "passes": {"handlers": ["mail"]},
            "silent": {"handlers": ["null"], "propagate": False},
            "empty": {"propagate": False},
            "wrong": {"handlers": ["nosuch"], "propagate": False},
        },
    }
    result = logged(project)
    assert result["handlers"] == {**handlers, "console": {**PLAIN, **JOURNAL}, "redoubt_guard": JOURNAL}
    assert result["root"] == {"handlers": ["console"]}
    assert result["loggers"] == {
        **project["loggers"],
        "mails": {"handlers": ["mail", "redoubt_guard"], "propagate": False},
        "wrong": {"handlers": ["nosuch", "redoubt_guard"], "propagate": False},
        "made": {"handlers": ["made", "null", "redoubt_guard"], "propagate": False},
    }


def test_logging_to_files(tmp_path):
    writable = {"class": "logging.FileHandler", "filename": str(tmp_path / "new.log")}
    there = {"class": "logging.handlers.RotatingFileHandler", "filename": tmp_path / "old.log", "maxBytes": 5}
    there["filename"].touch()
    lost = {"class": "logging.FileHandler", "filename": "/nowhere/x.log", "level": "INFO", "formatter": "f", "filters": ["g"], "mode": "w"}
    relative = {"class": "logging.FileHandler", "filename": "x.log"}
    project = {"version": 1, "handlers": {"a": writable, "b": there, "c": lost, "d": relative}, "root": {"handlers": ["c"]}}
    assert logged(project)["handlers"] == {
        "a": writable,
        "b": there,
        "c": {**JOURNAL, "level": "INFO", "formatter": "f", "filters": ["g"]},
        "d": relative,
    }
    assert logged(project)["root"] == {"handlers": ["c"]}


def test_logging_to_a_file_of_somebody_else(tmp_path, monkeypatch):
    """A file that is there and cannot be written, in a folder that can."""
    path = tmp_path / "roots.log"
    path.touch()
    monkeypatch.setattr(overlay.os, "access", lambda name, mode: str(name) != str(path) and mode == overlay.os.W_OK)
    handlers = {
        "a": {"class": "logging.FileHandler", "filename": str(path)},
        "b": {"class": "logging.FileHandler", "filename": str(tmp_path / "b")},
    }
    result = logged({"version": 1, "handlers": handlers, "root": {"handlers": []}})["handlers"]
    assert result["a"] == JOURNAL
    assert result["b"] == handlers["b"]


def test_guard():
    assert changed("guard", {"INSTALLED_APPS": ("a",), "MIDDLEWARE": ("m",)}) == {
        "INSTALLED_APPS": ["redoubt_guard", "a"],
        "MIDDLEWARE": [MIDDLEWARE, "m"],
    }
    assert changed("guard", {"INSTALLED_APPS": ["a", "redoubt_guard"], "MIDDLEWARE": [MIDDLEWARE]}) == {}


BAD = {
    "DEBUG": True,
    "SECRET_KEY": STRONG,
    "MIDDLEWARE": ["m"],
    "INSTALLED_APPS": ["django.contrib.auth"],
    "DATABASES": {"default": POSTGRES},
}


def test_plan_runs_one_after_the_other():
    applied = plan(BAD, CONFIG)
    middlewares = [change.after for change in applied if change.setting == "MIDDLEWARE"]
    assert [name.rpartition(".")[2] for name in middlewares[-1]] == [
        "GuardMiddleware",
        "SecurityMiddleware",
        "m",
        "XFrameOptionsMiddleware",
    ]
    assert [change.before for change in applied if change.setting == "MIDDLEWARE"] == [["m"], *middlewares[:-1]]
    options = values(BAD, CONFIG, applied)["DATABASES"]["default"]
    assert options["CONN_MAX_AGE"] == 60
    assert "statement_timeout" in options["OPTIONS"]["options"]
    assert values(BAD, CONFIG, applied)["MIDDLEWARE"] == middlewares[-1]
    debug = applied[0]
    assert (debug.override.name, debug.setting, debug.before, debug.after) == ("debug", "DEBUG", True, False)
    assert debug.breaks.startswith("What the settings module derived")
    # Applied twice, nothing is left to do.
    assert plan({**BAD, **values(BAD, CONFIG, applied)}, CONFIG) == []


def test_modes():
    report = Config(mode="report", domains=("a",))
    planned = [(change.setting, change.after) for change in plan(BAD, Config(domains=("a",)))]
    assert [(change.setting, change.after) for change in plan(BAD, report)] == planned
    assert values(BAD, report, plan(BAD, report)) == {
        "INSTALLED_APPS": ["redoubt_guard", "django.contrib.auth"],
        "MIDDLEWARE": [MIDDLEWARE, "m"],
    }
    off = Config(mode="off")
    assert plan(BAD, off) == []
    assert values(BAD, off, []) == {}
    hidden = Config(mode="report", skip=("guard",))
    assert values(BAD, hidden, plan(BAD, hidden)) == {}


@pytest.mark.parametrize("name", [override.name for override in OVERRIDES])
def test_each_switch_leaves_its_override_out_and_no_other(name):
    everything = {
        **BAD,
        "SECRET_KEY_FALLBACKS": ["weak"],
        "SESSION_COOKIE_SAMESITE": None,
        "SECURE_CONTENT_TYPE_NOSNIFF": False,
        "SECURE_REFERRER_POLICY": None,
        "X_FRAME_OPTIONS": "x",
        "DATA_UPLOAD_MAX_NUMBER_FIELDS": None,
    }
    config = Config(**{**CONFIG.__dict__, "session_age": 60, "secret_key_fallbacks": (STRONG + "x",)})
    assert {change.override.name for change in plan(everything, config)} == {override.name for override in OVERRIDES}
    skipping = Config(**{**config.__dict__, "skip": (name,)})
    missing = {name, "throttle"} if name == "guard" else {name}
    assert {change.override.name for change in plan(everything, skipping)} == {override.name for override in OVERRIDES} - missing


def test_numbers_and_names_are_unique():
    assert sorted(override.number for override in OVERRIDES) == list(range(1, len(OVERRIDES) + 1))
    assert len(set(SWITCHES)) == len(SWITCHES) == len(OVERRIDES) + 3
    assert {"events", "health", "remote_addr"} < set(SWITCHES)


def test_numbers_stay():
    """Inventories silence checks by these ids."""
    assert [override.name for override in OVERRIDES] == [
        "debug", "allowed_hosts", "secret_key", "secret_key_fallbacks", "proxy_ssl_header", "nginx_checks", "session_cookie", "session_age",
        "csrf_cookie", "samesite", "csrf_trusted_origins", "security_middleware", "frame_middleware", "content_type_nosniff", "referrer_policy",
        "x_frame_options", "password_validators", "password_hashers", "upload_limits", "upload_permissions", "database_connections",
        "database_timeouts", "throttle", "logging", "guard",
    ]  # fmt: skip
    assert [override.number for override in OVERRIDES] == list(range(1, 26))


hosts = st.lists(st.sampled_from(["*", "a.test", ".b.test", "example.test"]), max_size=4)
settings_ = st.fixed_dictionaries(
    {},
    optional={
        "DEBUG": st.booleans(),
        "ALLOWED_HOSTS": hosts,
        "SECRET_KEY_FALLBACKS": st.lists(st.sampled_from([STRONG, "weak"]), max_size=2),
        "SESSION_COOKIE_SECURE": st.booleans(),
        "SESSION_COOKIE_HTTPONLY": st.booleans(),
        "SESSION_COOKIE_SAMESITE": st.sampled_from([None, False, "None", "Lax", "Strict"]),
        "SECURE_REFERRER_POLICY": st.sampled_from([None, "no-referrer", "unsafe-url"]),
        "X_FRAME_OPTIONS": st.sampled_from(["DENY", "SAMEORIGIN", "ALLOWALL"]),
        "FILE_UPLOAD_PERMISSIONS": st.sampled_from([None, 0o600, 0o640, 0o644, 0o666]),
        "MIDDLEWARE": st.lists(st.sampled_from(["m", "django.middleware.security.SecurityMiddleware"]), max_size=2, unique=True),
        "INSTALLED_APPS": st.sampled_from([[], ["django.contrib.auth"]]),
    },
)


@given(settings_)
def test_whatever_the_project_has_the_outcome_is_right_and_stays(settings):
    before = copy.deepcopy(settings)
    outcome = {**settings, **values(settings, CONFIG, plan(settings, CONFIG))}
    assert settings == before
    assert get(outcome, "DEBUG") is False
    assert "*" not in outcome["ALLOWED_HOSTS"]
    assert set(CONFIG.domains) <= set(outcome["ALLOWED_HOSTS"])
    assert all(host in outcome["ALLOWED_HOSTS"] for host in settings.get("ALLOWED_HOSTS", []) if host != "*")
    assert get(outcome, "SESSION_COOKIE_SECURE") is True
    assert get(outcome, "SESSION_COOKIE_HTTPONLY") is True
    assert get(outcome, "FILE_UPLOAD_PERMISSIONS") & ~0o640 == 0
    # What was stricter is as it was.
    if settings.get("SESSION_COOKIE_SAMESITE") == "Strict":
        assert outcome["SESSION_COOKIE_SAMESITE"] == "Strict"
    if settings.get("X_FRAME_OPTIONS") == "DENY":
        assert outcome["X_FRAME_OPTIONS"] == "DENY"
    if settings.get("SECURE_REFERRER_POLICY") == "no-referrer":
        assert outcome["SECURE_REFERRER_POLICY"] == "no-referrer"
    if settings.get("FILE_UPLOAD_PERMISSIONS") == 0o600:
        assert outcome["FILE_UPLOAD_PERMISSIONS"] == 0o600
    assert plan(outcome, CONFIG) == []
