"""The first middleware: health answers, the client's address, and the events that only a whole request shows."""

from __future__ import annotations

from typing import Any, Callable

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.http import HttpRequest, HttpResponse
from django.utils.functional import empty

from . import client, events, health, throttle
from .settings import config

# Refusals that say more than "403".
_SAID = {"login_failed", "login_throttled", "csrf_failed", "permission_denied"}


class GuardMiddleware:
    """Wraps every request, under WSGI and under ASGI. It comes before all that can refuse or redirect one."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self.trusted = client.networks(config.trusted_proxies)
        self.health = "health" not in config.skip
        # In `report` nothing that the project sees is changed.
        self.rewrite = config.mode == "enforce" and "remote_addr" not in config.skip
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        """Answer one request."""
        if iscoroutinefunction(self):
            return self._answer(request)
        if self.health and health.answers(request.path_info):
            return health.respond(request, config.mode)
        visit, token = self._begin(request)
        try:
            response = self.get_response(request)
            throttle.settle(visit)
            self._look(visit, response)
            return response
        finally:
            client.leave(token)

    async def _answer(self, request: HttpRequest) -> HttpResponse:
        if self.health and health.answers(request.path_info):
            return await sync_to_async(health.respond)(request, config.mode)
        visit, token = self._begin(request)
        try:
            response = await self.get_response(request)
            if visit.attempts:
                await sync_to_async(throttle.settle)(visit)
            self._look(visit, response)
            return response
        finally:
            client.leave(token)

    def _begin(self, request: HttpRequest) -> tuple[client.Visit, Any]:
        ip = client.address(request.META, self.trusted)
        if self.rewrite and ip is not None:
            request.META["REMOTE_ADDR"] = ip
        visit = client.Visit(request, ip)
        return visit, client.enter(visit)

    @events.harmless
    def _look(self, visit: client.Visit, response: HttpResponse) -> None:
        """The events that no signal tells of."""
        request = visit.request
        if response.status_code == 403 and not visit.events & _SAID:
            events.emit("permission_denied", user=_name(request))
        if request.method == "POST" and 300 <= response.status_code < 400 and on_view(request, "PasswordResetView"):
            events.emit("password_reset_requested")
        events.journal.flush()


def on_view(request: Any, *names: str) -> bool:
    """Whether a class-based view with one of these names, or a subclass, answers the request.

    By name, because Django's password views and those of django-allauth are called alike and are no relatives.
    """
    match = getattr(request, "resolver_match", None)
    view = getattr(getattr(match, "func", None), "view_class", None)
    return any(base.__name__ in names for base in getattr(view, "__mro__", ()))


def _name(request: Any) -> str | None:
    """The name of who is logged in, as far as it is known already: nothing is read from the database for it."""
    user = request.__dict__.get("user")
    if user is None or getattr(user, "_wrapped", None) is empty:
        return None
    return user.get_username() if user.is_authenticated else None
