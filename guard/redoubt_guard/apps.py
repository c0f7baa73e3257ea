"""The guard as a Django app: it listens, and says in `manage.py check` what it has changed."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core import checks

from . import events, overlay


class GuardConfig(AppConfig):
    """No models, no templates, no commands."""

    name = "redoubt_guard"
    verbose_name = "Redoubt guard"

    def ready(self) -> None:
        """Begin to listen, once all apps are there."""
        from . import signals
        from .settings import config

        events.journal = events.Journal(f"{config.app}-security")
        events.enabled = "events" not in config.skip
        keep_login_simple()
        signals.connect()
        checks.register(check_settings, "redoubt_guard")


def keep_login_simple() -> None:
    """`login(request, user)` without a backend's name goes on working in a project that had one backend.

    Django asks for the name as soon as there are two, and the throttle is the second. It looks at `user.backend` first.
    """
    from django.conf import settings
    from django.contrib.auth import get_user_model

    others = [name for name in settings.AUTHENTICATION_BACKENDS if name != overlay.BACKEND]
    if len(others) != 1 or len(settings.AUTHENTICATION_BACKENDS) == 1:
        return
    model = get_user_model()
    if not hasattr(model, "backend"):
        model.backend = others[0]


def check_settings(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    """In `enforce`, what was changed that the project may feel; in `report`, all that would be."""
    from django.conf import settings

    from .settings import changes, config, project, refusal

    messages: list[checks.CheckMessage] = []
    texts: dict[str, tuple[Any, list[str], list[str]]] = {}
    for change in changes:
        if change.override.name == "guard":
            continue
        _, names, breaks = texts.setdefault(change.override.name, (change.override, [], []))
        if change.setting not in names:
            names.append(change.setting)
        if change.breaks and change.breaks not in breaks:
            breaks.append(change.breaks)
    for name, (override, names, breaks) in texts.items():
        what = " ".join([f"The guard {'sets' if config.mode == 'enforce' else 'would set'} {', '.join(names)}.", *breaks])
        hint = f"The switch {name} leaves it as the project has it."
        if config.mode == "report":
            messages.append(checks.Warning(what, hint=hint, id=f"redoubt_guard.W{override.number:03}"))
        elif breaks:
            messages.append(checks.Info(what, hint=hint, id=f"redoubt_guard.I{override.number:03}"))
    if refusal or config.mode == "report":
        weak = overlay.weakness(project.get("SECRET_KEY"))
        if weak:
            messages.append(checks.Warning(f"SECRET_KEY {weak}: in enforce the project would not start.", id="redoubt_guard.W101"))
    middleware = "django.middleware.csrf.CsrfViewMiddleware"
    if middleware not in settings.MIDDLEWARE and "django.contrib.sessions.middleware.SessionMiddleware" in settings.MIDDLEWARE:
        messages.append(
            checks.Warning(
                "The project has sessions and no CsrfViewMiddleware: other sites can post in a visitor's name. The guard does not add it, "
                "since calls that bring no token (webhooks, apps) would fail.",
                hint=f"Add {middleware} to MIDDLEWARE, and @csrf_exempt to views that other programs call.",
                id="redoubt_guard.W100",
            )
        )
    return messages
