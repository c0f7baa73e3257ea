"""Security events: one line of JSON each, in a form that nobody's input can change.

The line (version 1) is an object with these keys, always all of them, always in this order, separated by `, ` and `: `:

    {"v": 1, "ip": "203.0.113.9", "event": "login_failed", "user": null, "target": null, "detail": "unknown account 1f8a90ce27d3",
     "method": "POST", "path": "/accounts/login/", "request": "b64d…"}

Every value but `v` is a string or null. A string is printable ASCII, escaped as JSON does, and at most LONGEST characters as written.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import hmac
import json
import logging
import re
import socket
import sys
import threading
from typing import Any, Callable

from . import client

VERSION = 1

# Characters of a field as written, escapes included. All fields together stay below 2.5 kB, which every log shipper takes in one piece.
LONGEST = 256

# The events and their syslog severity: 6 informational, 5 notice, 4 warning.
SEVERITIES = {
    "login_ok": 6,
    "login_failed": 4,
    "login_throttled": 4,
    "logout": 6,
    "password_changed": 5,
    "password_rehashed": 6,
    "password_reset_requested": 5,
    "password_reset": 5,
    "user_created": 5,
    "user_deleted": 5,
    "active_changed": 5,
    "staff_changed": 4,
    "superuser_changed": 4,
    "groups_changed": 4,
    "permissions_changed": 4,
    "admin_added": 5,
    "admin_changed": 5,
    "admin_deleted": 5,
    "csrf_failed": 4,
    "suspicious_operation": 4,
    "permission_denied": 4,
    "disallowed_host": 4,
    "throttle_unavailable": 4,
    "events_lost": 4,
}

# JSON allows these, but storage behind a log does not: half a character (UTF-16), and the character that ends a C string.
_UNSTORABLE = re.compile("[\ud800-\udfff\0]")
# A character beyond the first 65,536 is two escapes; half of one is none.
_PIECE = re.compile(r"\\ud[89ab]..\\ud[c-f]..|\\u....|\\.|.")


def written(value: Any) -> str:
    """One value as it stands in the line: `null`, or a JSON string of printable ASCII of at most LONGEST characters and two quotes."""
    if value is None:
        return "null"
    # No more than LONGEST characters can stay; cutting first keeps a huge value from costing time.
    text = _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", str(value)[: LONGEST + 1])
    escaped = json.dumps(text)[1:-1]
    if len(escaped) > LONGEST:
        mark = "\\u2026"
        kept = ""
        for piece in _PIECE.findall(escaped):
            if len(kept) + len(piece) + len(mark) > LONGEST:
                break
            kept += piece
        escaped = kept + mark
    return f'"{escaped}"'


def line(event: str, *, ip: str | None, user: Any, target: Any, detail: Any, method: Any, path: Any, request: Any) -> str:
    """The line of one event, without an end of line. Raises KeyError for an event that is not in SEVERITIES."""
    if event not in SEVERITIES:
        raise KeyError(event)
    values = {
        "ip": ip,
        "event": event,
        "user": user,
        "target": target,
        "detail": detail,
        "method": method,
        "path": path,
        "request": request,
    }
    return f'{{"v": {VERSION}, ' + ", ".join(f'"{key}": {written(value)}' for key, value in values.items()) + "}"


def pseudonym(text: str) -> str:
    """A mark of 12 hexadecimal digits that stands for `text`, the same every time, and says nothing without the project's SECRET_KEY."""
    from django.conf import settings

    key = hashlib.sha256(b"redoubt_guard.pseudonym" + str(settings.SECRET_KEY).encode("utf-8", "replace")).digest()
    return hmac.new(key, text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()[:12]


class Journal:
    """Where events go: the journal's own datagram socket, or standard error on a machine without one.

    What a project prints reaches the journal over another way (`_TRANSPORT=stdout`) and under its unit's own identifier, so nothing
    printed can pass for an event. Sending never waits: what the journal cannot take at once is sent with the next event or at the end
    of the next request. Beyond WAITING of them the oldest are lost, and how many is an event too (`events_lost`).
    """

    WAITING = 256

    def __init__(self, identifier: str, path: str = "/run/systemd/journal/socket") -> None:
        self.identifier = identifier
        self.path = path
        self.lost = 0
        self._waiting: collections.deque[tuple[str, int]] = collections.deque()
        self._complained = False
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def send(self, text: str, severity: int) -> None:
        """File one line. `severity` is a syslog level, 0 to 7. Never raises, never waits."""
        with self._lock:
            self._waiting.append((text, severity))
            if len(self._waiting) > self.WAITING:
                self._waiting.popleft()
                self.lost += 1
        self.flush()

    def flush(self) -> None:
        """Send what is waiting, as far as the journal takes it. Never raises, never waits."""
        if not self._waiting:
            return
        with self._lock:
            try:
                if self.lost:
                    count = line("events_lost", ip=None, user=None, target=None, detail=self.lost, method=None, path=None, request=None)
                    self._transmit(count, SEVERITIES["events_lost"])
                    self.lost = 0
                while self._waiting:
                    self._transmit(*self._waiting[0])
                    self._waiting.popleft()
            except BlockingIOError:
                self._complain("the journal is busy; they wait")
            except (FileNotFoundError, ConnectionRefusedError, PermissionError):
                while self._waiting:
                    text, severity = self._waiting.popleft()
                    self._print(f"<{severity}>{self.identifier}: {text}")
            except Exception as error:
                self._waiting.popleft()
                self.lost += 1
                self._complain(f"{type(error).__name__}: {error}")

    def _transmit(self, text: str, severity: int) -> None:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        # 10 is syslog's facility for authentication.
        fields = {"MESSAGE": text, "PRIORITY": severity, "SYSLOG_IDENTIFIER": self.identifier, "SYSLOG_FACILITY": 10}
        self._socket.sendto("".join(f"{key}={value}\n" for key, value in fields.items()).encode("ascii"), self.path)

    def _complain(self, why: str) -> None:
        """Once a process: events do not reach the journal as they should."""
        if not self._complained:
            self._complained = True
            self._print(f"<4>{self.identifier}: security events cannot be sent: {why}")

    @staticmethod
    def _print(text: str) -> None:
        try:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
        except Exception:
            # There is nowhere left to say it.
            return


journal = Journal("django-security")

# Whether events are sent at all (the switch `events`).
enabled = True


# Values captured from an address that let somebody in, by name or, unnamed, by length.
_SECRET_NAME = re.compile("token|key|code|secret|hash|sign|password", re.IGNORECASE)
_SECRET_LENGTH = 16


def shown_path(request: Any) -> str:
    """The path of a request without what may be a token of a password reset, an invitation or the like."""
    path = str(request.path)
    match = getattr(request, "resolver_match", None)
    if match is None:
        return "/".join("…" if len(part) >= _SECRET_LENGTH else part for part in path.split("/"))
    captured = [*((name, value) for name, value in match.kwargs.items()), *(("", value) for value in match.args)]
    for name, value in captured:
        if isinstance(value, str) and value and (len(value) >= _SECRET_LENGTH or _SECRET_NAME.search(name)):
            path = path.replace(value, "…")
    return path


def prepare(event: str, *, user: Any = None, target: Any = None, detail: Any = None) -> tuple[str, int]:
    """The line and the severity of an event of the current request; `emit` sends it at once.

    Apart because a change in the database is an event only once it is committed, and may be so after the request's end.
    """
    visit = client.current()
    ip = method = path = request_id = None
    if visit is not None:
        visit.events.add(event)
        ip, request = visit.ip, visit.request
        method, path, request_id = request.method, shown_path(request), request.META.get("HTTP_X_REQUEST_ID")
    return line(event, ip=ip, user=user, target=target, detail=detail, method=method, path=path, request=request_id), SEVERITIES[event]


def emit(event: str, *, user: Any = None, target: Any = None, detail: Any = None) -> None:
    """File an event of the current request, or of no request. Never waits, and raises only for an event that there is not."""
    if enabled:
        journal.send(*prepare(event, user=user, target=target, detail=detail))


def harmless(function: Callable[..., Any]) -> Callable[..., Any]:
    """A mistake of the guard's own in `function` is logged (`redoubt_guard`), and does not cost the project a request."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception:
            logging.getLogger("redoubt_guard").exception("%s failed; the project goes on", function.__qualname__)
            return None

    return wrapper
