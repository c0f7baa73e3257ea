"""Who a request comes from, and what the guard remembers while it is answered."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any


class Visit:
    """One request while it is answered.

    A single object for its whole life: signal receivers and backends run in other threads and tasks under ASGI, which get a copy of
    the context but the same object.
    """

    def __init__(self, request: Any, ip: str | None) -> None:
        self.request = request
        self.ip = ip
        # Names of the events that this request has caused.
        self.events: set[str] = set()
        # Login attempts under way that may still turn out good (see throttle).
        self.attempts: list[Any] = []


_visit: ContextVar[Visit | None] = ContextVar("redoubt_guard_visit", default=None)


def current() -> Visit | None:
    """The request that is being answered, or None in a command, a worker or a thread of the project's own."""
    return _visit.get()


def enter(visit: Visit) -> Any:
    """Make `visit` the current one; returns what `leave` takes."""
    return _visit.set(visit)


def leave(token: Any) -> None:
    """End what `enter` began."""
    _visit.reset(token)


def normalise(text: str) -> str | None:
    """The address in `text` in its one canonical form, or None when there is none.

    IPv4-mapped IPv6 addresses become IPv4, zones are cut off. A port after it, as some proxies send, is not part of it.
    """
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return str(getattr(address, "ipv4_mapped", None) or address)


def networks(texts: Iterable[str]) -> tuple[Any, ...]:
    """The networks of trusted proxies, parsed. Raises ValueError on what is none."""
    return tuple(ipaddress.ip_network(text) for text in texts)


def address(meta: Mapping[str, Any], trusted: Iterable[Any]) -> str | None:
    """The client's address, from the headers of a request that nginx has handed over.

    The last entry of X-Forwarded-For is nginx's own word. Entries before it count only as far as they were written by proxies in
    `trusted` (networks): the walk goes from the right and ends at the first address that is not one of them. Without the header
    it is the peer's own address; a unix socket has none.
    """
    found = None
    for entry in reversed(str(meta.get("HTTP_X_FORWARDED_FOR", "")).split(",")):
        candidate = normalise(entry)
        if candidate is None:
            break
        found = candidate
        if not any(ipaddress.ip_address(found) in network for network in trusted):
            break
    return found or normalise(str(meta.get("REMOTE_ADDR", "")))


def prefix(ip: str | None) -> str:
    """What counts as one place for guessing passwords: an IPv4 address, or the /64 of an IPv6 one. Empty for None."""
    if ip is None:
        return ""
    address_ = ipaddress.ip_address(ip)
    if address_.version == 4:
        return ip
    return str(ipaddress.ip_network((address_, 64), strict=False))
