"""The guard's own configuration: every mistake gets one sentence that says what to write instead."""

import datetime
import json

import pytest
from django.core.exceptions import ImproperlyConfigured

from redoubt_guard.config import Config, from_environment
from redoubt_guard.overlay import SWITCHES

GOOD = {"domains": ["example.test"]}


def read(config=GOOD, **env):
    text = config if isinstance(config, str) else json.dumps(config)
    return from_environment({"REDOUBT_GUARD": text, "REDOUBT_SETTINGS_MODULE": "shop.settings", **env}, SWITCHES)


def complaint(config=GOOD, **env):
    with pytest.raises(ImproperlyConfigured) as caught:
        read(config, **env)
    return str(caught.value)


def test_defaults_and_given_values():
    config = read()
    assert (config.mode, config.stage, config.app, config.domains) == ("enforce", "worker", "django", ("example.test",))
    config = read(
        {
            **GOOD,
            "app": "shop",
            "mode": "report",
            "skip": ["debug", "events"],
            "trusted_proxies": ["192.0.2.0/24", "::1"],
            "redis": "unix:///r",
            "throttle_cap": 60,
        },
        REDOUBT_STAGE="web",
        REDOUBT_SECRET_KEY_FALLBACKS='[{"key": "old"}]',
    )
    assert config == Config(
        app="shop",
        mode="report",
        skip=("debug", "events"),
        domains=("example.test",),
        trusted_proxies=("192.0.2.0/24", "::1"),
        redis="unix:///r",
        throttle_cap=60,
        settings_module="shop.settings",
        stage="web",
        secret_key_fallbacks=("old",),
        known_switches=SWITCHES,
    )


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({**GOOD, "skp": []}, "REDOUBT_GUARD: there is no key 'skp'; the keys are app, mode, skip,"),
        ({**GOOD, "stage": "web"}, "there is no key 'stage'"),
        ({**GOOD, "mode": "enforced"}, "mode must be one of enforce, report, off, not 'enforced'."),
        ({**GOOD, "mode": 1}, "mode must be a string."),
        ({**GOOD, "skip": "debug"}, "skip must be a list of strings that are not empty."),
        ({**GOOD, "skip": ["debug", "dbug", "x"]}, "skip names dbug, x, which is no switch; the switches are debug, "),
        ({**GOOD, "domains": ["https://example.test"]}, "'https://example.test' is none."),
        ({**GOOD, "domains": ["*"]}, "'*' is none."),
        ({**GOOD, "domains": [""]}, "domains must be a list of strings that are not empty."),
        ({}, "domains must name at least one host name, or every request would be refused."),
        ({**GOOD, "trusted_proxies": ["192.0.2.1/24"]}, "trusted_proxies must be networks like 192.0.2.0/24; '192.0.2.1/24' is none."),
        ({**GOOD, "redis": "/run/redis.sock"}, "redis must be a URL"),
        ({**GOOD, "app": "My App"}, "app must be lower-case letters"),
        ({**GOOD, "conn_max_age": -1}, "conn_max_age must be a whole number, at least 0."),
        ({**GOOD, "conn_max_age": True}, "conn_max_age must be a whole number"),
        ({**GOOD, "throttle_cap": 0}, "throttle_cap must be a whole number, at least 1."),
        ({**GOOD, "statement_timeout": "5s"}, "statement_timeout must be a whole number"),
        ("{nonsense", "REDOUBT_GUARD: is not JSON (line 1, column 2)."),
        ("[]", "REDOUBT_GUARD: must be an object in JSON."),
    ],
)
def test_a_mistake_is_named(config, sentence):
    text = complaint(config)
    assert sentence in text
    assert len(text.splitlines()) == 1


def test_mistakes_of_the_environment():
    assert complaint(REDOUBT_STAGE="prod") == "REDOUBT_STAGE: must be one of web, worker, migrate, build, not 'prod'."
    assert complaint(REDOUBT_SETTINGS_MODULE="") == "REDOUBT_SETTINGS_MODULE: must name the project's own settings module."
    assert complaint(REDOUBT_SETTINGS_MODULE="redoubt_guard.settings").endswith("not the guard's.")
    for wrong in ('"x"', "[1]", '["x"]', '[{"key": ""}]', '[{"key": 1}]', '[{"until": ""}]'):
        assert "REDOUBT_SECRET_KEY_FALLBACKS: must be" in complaint(REDOUBT_SECRET_KEY_FALLBACKS=wrong)
    for wrong in ("tomorrow", "2026-02-30", 20261231, None):
        value = json.dumps([{"key": "hunter2", "until": wrong}])
        assert complaint(REDOUBT_SECRET_KEY_FALLBACKS=value) == "REDOUBT_SECRET_KEY_FALLBACKS: until must be a day, 2026-12-31, or empty."


def test_a_fallback_ends_with_its_last_day():
    today = datetime.datetime.now(datetime.timezone.utc).date()
    days = {"over": today - datetime.timedelta(days=1), "last": today, "next": ""}
    value = json.dumps([{"key": key, "until": str(day)} for key, day in days.items()])
    assert read(GOOD, REDOUBT_SECRET_KEY_FALLBACKS=value).secret_key_fallbacks == ("last", "next")


def test_a_broken_secret_is_not_repeated():
    assert "hunter2" not in complaint(REDOUBT_SECRET_KEY_FALLBACKS='["hunter2')


def test_every_mistake_has_its_own_line():
    assert len(complaint({"mode": "x", "skip": 1, "typo": 1}, REDOUBT_STAGE="y").splitlines()) == 4


def test_domains_are_only_needed_to_enforce():
    assert read({"mode": "report"}).domains == ()
    assert read({"mode": "off"}).mode == "off"
