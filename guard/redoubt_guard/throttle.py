"""Guessing the password of one account from many addresses gets slow; nobody is locked out for good.

How it counts. Every failed login of an account takes one numbered slot in a cache that all workers and hosts share. A slot is taken by
`add`, which is an INSERT (or SET NX), so that of two failures at the same time each gets its own number. The names of slots contain the
window of time they belong to and are not used again: an entry that expires cannot be mistaken for a free one. This window and the one
before count, so failures are forgotten between one and two windows after they happened.

How it delays. After FREE failures the next attempt waits 1 s from the last one, then 2, 4, 8 … up to the cap. While a delay runs,
attempts are refused unseen, and do not count. When it is over, one attempt is let in (the gate, again by `add`): of a hundred that come
at the same moment, one is tried.

Who is exempt. An address that has logged in to the account, or has set its password, in the last TRUST days: it has a counter of its own.
"""

from __future__ import annotations

import threading
import time
import unicodedata
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Callable, TypeVar

from django.contrib.auth import get_user_model
from django.core.cache import caches
from django.core.cache.backends.db import DatabaseCache
from django.core.exceptions import PermissionDenied
from django.db import connections, router

from . import client, events
from .overlay import CACHE_ALIAS
from .settings import config

FREE = config.throttle_free
CAP = config.throttle_cap
TRUST = config.throttle_trust_days * 24 * 3600
# Long enough that the failures of one window, made as fast as delays allow, keep the delay near the cap in the next.
WINDOW = max(12 * CAP, 600)

# What one window can hold at that rate, and some more for failures that come at once. Further ones push the last slot's time forward.
SLOTS = FREE + CAP.bit_length() + 12 + 16

# A gate whose process died is open again after this many seconds.
GATE = 60

# Seconds between two complaints of one process about the cache.
COMPLAIN = 60

T = TypeVar("T")
_complained = 0.0

# Whether the login under way was refused here: Django then calls it failed, which would count it.
_refused: ContextVar[bool] = ContextVar("redoubt_guard_refused", default=False)


def delay(failures: int) -> int:
    """Seconds to wait after the last of so many failures: none up to FREE, then 1, 2, 4 … CAP."""
    if failures <= FREE:
        return 0
    return min(2 ** min(failures - FREE - 1, 30), CAP)


@dataclass(frozen=True)
class Counter:
    """The failed logins of one account, or of one account from one address that is known to it."""

    key: str

    def _windows(self, now: float) -> tuple[str, str]:
        number = int(now // WINDOW)
        return f"{self.key}:{number}", f"{self.key}:{number - 1}"

    def names(self, now: float) -> list[str]:
        """The cache keys of all slots that count at `now` (seconds since 1970), this window's first."""
        return [f"{window}:{slot}" for window in self._windows(now) for slot in range(1, SLOTS + 1)]

    def read(self, found: dict[str, float], now: float) -> tuple[int, float]:
        """How many failures there are, and when the last was, from what the cache has of `names`."""
        times = [found[name] for name in self.names(now) if name in found]
        return len(times), max(times, default=0.0)

    def fail(self, cache: Any, now: float) -> None:
        """Count one failure."""
        window = self._windows(now)[0]
        names = [f"{window}:{slot}" for slot in range(1, SLOTS + 1)]
        # Somebody else may be quicker with the number that was free, or hold the whole table (SQLite); then it is tried again.
        for tries in range(2 * SLOTS):
            taken = cache.get_many(names)
            free = next((name for name in names if name not in taken), None)
            if free is None:
                break
            if cache.add(free, now, 2 * WINDOW):
                return
            time.sleep(tries / 1000)
        cache.set(names[-1], now, 2 * WINDOW)

    def clear(self, cache: Any, now: float) -> None:
        """Forget all failures."""
        cache.delete_many(self.names(now))


@dataclass
class Attempt:
    """One login under way."""

    account: Account
    counter: Counter
    gate: str | None
    trusted: bool


@dataclass(frozen=True)
class Account:
    """An account as the cache knows it: nothing in the key tells its name."""

    key: str
    # Its name where there is such an account, else None.
    name: str | None

    def counter(self) -> Counter:
        """Of everybody who is not known to the account."""
        # Django empties a full cache in the order of keys: accounts that do not exist go first, known addresses last.
        return Counter(f"{'b' if self.name is not None else 'a'}:{self.key}")

    def counter_at(self, place: str) -> Counter:
        """Of one known address."""
        return Counter(f"c:{self.key}:{events.pseudonym(place)}")

    def trust_key(self, place: str) -> str:
        """Where it is noted that an address is known."""
        return f"d:{self.key}:{events.pseudonym(place)}"


def account_of(user: Any) -> Account:
    """The account of a user object."""
    return Account(events.pseudonym(f"id {user.pk}"), str(user.get_username()))


def typed_name(credentials: dict[str, Any]) -> str | None:
    """What was typed as the name, whatever the project calls it, or None (a login by token, by another site, …)."""
    model = get_user_model()
    for field in (model.USERNAME_FIELD, "username", "email", "login"):
        value = credentials.get(field)
        if isinstance(value, str) and value:
            return value
    return None


def find(name: str) -> Account:
    """The account that a typed name belongs to: by its name, or by an address that only it has. Raises what the database raises."""
    model = get_user_model()
    manager = model._default_manager
    if "\0" not in name:
        try:
            natural = getattr(manager, "get_by_natural_key", None)
            return account_of(natural(name) if natural else manager.get(**{model.USERNAME_FIELD: name}))
        except (model.DoesNotExist, model.MultipleObjectsReturned):
            pass
        email = getattr(model, "EMAIL_FIELD", "")
        if "@" in name and email in {field.name for field in model._meta.get_fields()}:
            users = manager.filter(**{f"{email}__iexact": name})[:2]
            if len(users) == 1:
                return account_of(users[0])
    plain = unicodedata.normalize("NFKC", name).strip().casefold()
    return Account(events.pseudonym(f"name {plain}"), None)


def apart(work: Callable[[Any], T]) -> T:
    """Run `work(cache)` outside the transaction of the request, which may be rolled back, and must not be broken by an error here.

    A counter that a rollback takes back would never count for a project with ATOMIC_REQUESTS whose login answers with an exception.
    Raises what `work` raises.
    """
    cache = caches[CACHE_ALIAS]
    if not isinstance(cache, DatabaseCache) or not connections[router.db_for_write(cache.cache_model_class)].in_atomic_block:
        return work(cache)
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["value"] = work(caches[CACHE_ALIAS])
        except Exception as error:
            outcome["error"] = error
        finally:
            connections.close_all()

    # A thread has a database connection of its own.
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]


def _open(error: Exception) -> None:
    """The cache does not answer: logins go on without delays, and it is said once a minute."""
    global _complained
    if time.monotonic() - _complained > COMPLAIN or not _complained:
        _complained = time.monotonic()
        events.emit("throttle_unavailable", detail=type(error).__name__)


def begin(name: str) -> None:
    """A login with this name is about to be tried. Raises PermissionDenied while its delay runs."""
    _refused.set(False)
    visit = client.current()
    place = client.prefix(visit.ip if visit else None)
    try:
        account = find(name)
        waiting, attempt = apart(lambda cache: _look(cache, account, place, time.time()))
    except Exception as error:
        _open(error)
        return
    if waiting:
        _refused.set(True)
        events.emit("login_throttled", user=account.name, target=_stranger(account), detail=f"{waiting} s")
        raise PermissionDenied(f"wait {waiting} s")
    if visit is not None:
        visit.attempts.append(attempt)


def _stranger(account: Account) -> str | None:
    """A mark for a name without an account, which is not shown: it may be a password in the wrong field."""
    return None if account.name is not None else f"unknown:{account.key}"


def _look(cache: Any, account: Account, place: str, now: float) -> tuple[int, Attempt]:
    """The seconds still to wait, at least 1, or 0 with the attempt that may go on."""
    everybody, here, trust = account.counter(), account.counter_at(place), account.trust_key(place)
    found = cache.get_many([trust, *everybody.names(now), *here.names(now)])
    trusted = bool(place) and trust in found
    counter = here if trusted else everybody
    failures, last = counter.read(found, now)
    attempt = Attempt(account, counter, None, trusted)
    wait = delay(failures)
    if not wait:
        return 0, attempt
    # A clock that was set back must not make a delay longer than it is.
    left = min(last + wait - now, wait)
    if left > 0:
        return int(left) + 1, attempt
    attempt.gate = f"{counter.key}:gate:{last:.6f}"
    return (0, attempt) if cache.add(attempt.gate, now, GATE) else (1, attempt)


def failed(credentials: dict[str, Any]) -> None:
    """Django says that a login has failed."""
    if _refused.get():
        _refused.set(False)
        return
    name = typed_name(credentials)
    if name is None:
        events.emit("login_failed")
        return
    visit = client.current()
    attempt = visit.attempts.pop() if visit and visit.attempts else None
    try:
        account = attempt.account if attempt else find(name)
        events.emit("login_failed", user=account.name, target=_stranger(account))
    except Exception:
        # The database is gone: the failure is still one.
        events.emit("login_failed")
        return
    if active():
        counter = attempt.counter if attempt else account.counter()
        try:
            apart(lambda cache: counter.fail(cache, time.time()))
        except Exception as error:
            _open(error)


def trust(user: Any) -> None:
    """The owner of an account is at this request's address: it is known from now on, and its failures are forgotten."""
    visit = client.current()
    if visit is None or visit.ip is None or not active():
        return
    place = client.prefix(visit.ip)
    account = account_of(user)

    def work(cache: Any) -> None:
        now = time.time()
        cache.set(account.trust_key(place), now, TRUST)
        account.counter_at(place).clear(cache, now)

    try:
        apart(work)
    except Exception as error:
        _open(error)


def settle(visit: client.Visit) -> None:
    """At the end of a request: an attempt that nothing failed was right, also where nobody logs in (HTTP Basic of an API)."""
    for attempt in visit.attempts:
        if attempt.gate is not None:
            gate = attempt.gate
            try:
                apart(lambda cache, gate=gate: cache.delete(gate))
            except Exception as error:
                _open(error)
    visit.attempts.clear()


def active() -> bool:
    """Whether this project's logins are throttled: in `enforce`, with Django's authentication, and not switched off."""
    from django.conf import settings

    return CACHE_ALIAS in settings.CACHES and any(name.startswith("redoubt_guard.") for name in settings.AUTHENTICATION_BACKENDS)


class ThrottleBackend:
    """The first authentication backend. It knows nobody: it lets an attempt go on to the next one, or refuses it.

    Without a `get_user`, so that nobody mistakes it for the backend of a session (the test client's force_login looks for that).
    """

    def authenticate(self, request: Any, **credentials: Any) -> None:
        """Returns None, or raises PermissionDenied, which ends the login for all backends."""
        name = typed_name(credentials)
        if name is not None:
            begin(name)

    async def aauthenticate(self, request: Any, **credentials: Any) -> None:
        """The same for asynchronous logins (Django 5.2 and newer)."""
        from asgiref.sync import sync_to_async

        await sync_to_async(self.authenticate)(request, **credentials)
