"""From what a host has sent to the record that is kept: docs/log-fields.md is its page.

A host decides what its records say, and nothing else: neither whose they are, nor that they are one line each.
"""

from __future__ import annotations

import bisect
import contextlib
import datetime
import functools
import ipaddress
import json
import re
import zoneinfo
from typing import Any

LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
# Characters of a message that are kept, and bytes of a whole record as written: of a longer one the message is cut to what fits.
LONGEST = 32 << 10
LONGEST_FIELD = 2 << 10
LONGEST_RECORD = 64 << 10
# Characters of any other field of a record that would leave its message no room.
SHORT = 128
# Numbers beyond these are no measurements, and not every JSON parser reads them.
LARGEST = 2**53

POSTGRES_LEVELS = {"PANIC": "crit", "FATAL": "err", "ERROR": "err", "WARNING": "warning", "NOTICE": "notice", "LOG": "info", "INFO": "info"}
NGINX_LEVELS = {"warn": "warning", "error": "err"}
IDENTIFIERS = {"sshd": "sshd", "sshd-session": "sshd", "sshd-auth": "sshd", "sudo": "sudo", "certbot": "certbot", "redoubt-alert": "alert",
               "fail2ban-server": "fail2ban", "fail2ban.actions": "fail2ban"}
UNITS = (("fail2ban", "fail2ban"), ("certbot", "certbot"), ("redoubt-backup", "backup"), ("redoubt-drill", "backup"), ("pgbackrest", "backup"),
         ("redoubt-log-", "log_server"), ("auditd", "audit"))

DATASET = re.compile("[a-z][a-z0-9._-]{0,39}")
LOCAL = re.compile(r"(\d{4})[/-](\d\d)[/-](\d\d) (\d\d):(\d\d):(\d\d) ")
NGINX_ERROR = re.compile(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[(?P<level>\w+)\] (?P<pid>\d+)#\d+: (?P<text>.*)", re.DOTALL)
NGINX_CLIENT = re.compile(r", client: ([0-9a-f.:]{2,45}), server: ")
QUERY = re.compile(r"""((?:request|referrer|upstream): "[^"?]*)\?[^" ]*""")
DURATION = re.compile(r"duration: (\d{1,15}\.\d{1,6}) ms")
DPKG = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (?P<action>install|upgrade|remove|purge|configure|trigproc|status [a-z-]+) (?P<package>[a-z0-9.+-]+)"
                  r"(?::\S+)?(?P<versions>(?: \S+)*)")
AUDIT = re.compile(r"type=(?P<type>[A-Z0-9_]{1,40}) msg=audit\((?P<seconds>\d{9,10})\.(?P<thousandths>\d{3}):(?P<number>\d{1,12})\)")
AUDIT_KEY = re.compile(r' key="([a-z-]{1,31})"')
CURSOR = re.compile("s=([0-9a-f]{32});i=([0-9a-f]{1,16});")
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
# The year 2200, in microseconds.
LATEST = 7258118400 * 1_000_000
NOTHING = (None, "", "-")
# Of a line of nginx' access log, and what they are called in a record.
NGINX_TEXTS = (("client", "source.ip"), ("method", "http.request.method"), ("host", "url.domain"), ("path", "url.path"), ("id", "http.request.id"),
               ("referer", "http.request.referrer"), ("agent", "user_agent.original"), ("tls", "tls.version"), ("limit", "nginx.limit"),
               ("proxy", "nginx.proxy"), ("csp_document", "csp.document"), ("csp_directive", "csp.directive"), ("csp_blocked", "csp.blocked"),
               ("csp_source", "csp.source"), ("csp_line", "csp.line"))
NGINX_NUMBERS = (("status", "http.response.status_code"), ("bytes", "http.response.body.bytes"), ("seconds", "event.duration_s"))
PACKET = re.compile(r"\b(SRC|DST|PROTO|DPT)=([0-9A-Za-z.:]{1,45})")
# What stands behind a backslash, each only once.
ESCAPE = re.compile(r"\\(?:x[0-9a-f]{2}|.)", re.DOTALL)
ENCODE = json.JSONEncoder().encode
# Half of a character. Python's `surrogateescape` has one for a byte that is no UTF-8, too.
NO_TEXT = re.compile("[\ud800-\udfff]")


# One moment is that of all records that came together.
@functools.lru_cache(maxsize=64)
def stamp(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def text(value: Any, longest: int = LONGEST_FIELD) -> str:
    """A value as a text that every reader can hold."""
    if not isinstance(value, str):
        value = "" if value is None else str(value)
    value = value[:longest]
    return value if value.isascii() else NO_TEXT.sub(shown, value)


def encoded(value: Any) -> bytes:
    """As ASCII, without the one control character that JSON leaves as it is."""
    return ENCODE(value).encode().replace(b"\x7f", b"\\u007f")


def shown(found: re.Match) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else "\N{REPLACEMENT CHARACTER}"


def single(value: Any) -> Any:
    """A field of the journal as journalctl writes it: bytes that are no text as numbers, and several of one name as a list."""
    if isinstance(value, list) and value and all(isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 256 for item in value):
        return bytes(value).decode("utf-8", "surrogateescape")
    return single(value[0]) if isinstance(value, list) and value and isinstance(value[0], (str, list)) else value


def number(value: Any) -> int | float | None:
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if not -LARGEST < found < LARGEST:
        return None
    return int(found) if found.is_integer() and "." not in str(value) else found


def fields(**given: Any) -> dict[str, Any]:
    """Names with `__` for dots; what is empty is left out."""
    return {dotted(name): value for name, value in given.items() if value not in NOTHING}


@functools.cache
def dotted(name: str) -> str:
    return name.replace("__", ".")


class Reader:
    """What one host's records are made of."""

    def __init__(self, host: str, app: str = "", zone: str = "Etc/UTC") -> None:
        self.host, self.app = host, app
        try:
            self.zone: datetime.tzinfo = zoneinfo.ZoneInfo(zone)
        except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
            self.zone = datetime.UTC

    def record(self, raw: bytes, now: datetime.datetime) -> bytes:
        """The line that is kept of what a host has sent."""
        try:
            given = json.loads(raw.decode("utf-8", "surrogateescape"))
            found = self.fields(given)
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            # No object, so that it is no rsyslog of ours: kept as what it is.
            given, found = {}, fields(event__dataset="journal", message=raw.decode("utf-8", "surrogateescape"))
        message = text(found.pop("message", ""), LONGEST + 1)
        record = {
            "@timestamp": self.time(found.pop("@timestamp", None) or given.get("t"), now),
            "host.name": self.host,
            **{name: text(value) if isinstance(value, str) else value for name, value in found.items()},
            "message": message[:LONGEST],
            "event.ingested": stamp(now),
        }
        record.setdefault("log.level", "info")
        if len(message) > LONGEST:
            record["log.truncated"] = True
        line = encoded(record)
        if len(line) > LONGEST_RECORD:
            record |= {"message": "", "log.truncated": True}
            if len(encoded(record)) > LONGEST_RECORD // 2:
                record = {name: text(value, SHORT) if isinstance(value, str) else value for name, value in record.items()} | {"host.name": self.host}
            room = LONGEST_RECORD - len(encoded(record))
            # With its quotes, of which an empty one has two as well.
            record["message"] = message[: bisect.bisect_right(range(1, len(message) + 1), room + 2, key=lambda count: len(encoded(message[:count])))]
            line = encoded(record)
        return line + b"\n"

    @staticmethod
    def time(value: Any, now: datetime.datetime) -> str:
        try:
            found = value if isinstance(value, datetime.datetime) else datetime.datetime.fromisoformat(value)
            return stamp(found if found.tzinfo else found.replace(tzinfo=datetime.UTC))
        except (TypeError, ValueError, OverflowError):
            return stamp(now)

    def fields(self, given: dict[str, Any]) -> dict[str, Any]:
        """All but what every record has."""
        message = text(given.get("m"), 1 << 20)
        if given.get("in") == "imfile":
            kind = text(given.get("tag")).rstrip(":")
            kind = kind if DATASET.fullmatch(kind) else "journal"
            found = {"event.dataset": kind, "service.name": kind.split(".")[0], "log.file.path": text(given.get("f")), "message": message}
            return {**found, **FILES.get(kind, lambda _: {})(message), **self.local(kind, message)}
        entry = {name: single(value) for name, value in given["j"].items()} if isinstance(given.get("j"), dict) else {"MESSAGE": message}
        message = text(entry.get("MESSAGE"), 1 << 20)
        level, micros, cursor = number(entry.get("PRIORITY")), number(entry.get("__REALTIME_TIMESTAMP")), CURSOR.match(text(entry.get("__CURSOR")))
        found = fields(
            **{"@timestamp": stamp(EPOCH + datetime.timedelta(microseconds=micros)) if isinstance(micros, int) and 0 <= micros < LATEST else None},
            log__level=LEVELS[level] if isinstance(level, int) and 0 <= level < len(LEVELS) else "info",
            log__id=cursor and f"{cursor[1]}:{cursor[2]}",
            process__pid=number(entry.get("_PID")),
            process__executable=text(entry.get("_EXE")),
            user__id=number(entry.get("_UID")),
            systemd__unit=text(entry.get("UNIT") or entry.get("_SYSTEMD_UNIT")),
            service__name=text(entry.get("SYSLOG_IDENTIFIER")),
            message=message,
        )
        return {**found, **self.journal(entry, message)}

    def local(self, kind: str, message: str) -> dict[str, Any]:
        """The time of a file whose lines have that of the host's zone, without a word of the zone."""
        found = LOCAL.match(message) if kind in ("nginx.error", "packages") else None
        if not found:
            return {}
        with contextlib.suppress(ValueError):
            return {"@timestamp": datetime.datetime(*map(int, found.groups()), tzinfo=self.zone).isoformat()}
        return {}

    def journal(self, entry: dict[str, Any], message: str) -> dict[str, Any]:
        identifier, unit, way = (text(entry.get(name)) for name in ("SYSLOG_IDENTIFIER", "_SYSTEMD_UNIT", "_TRANSPORT"))
        if way == "kernel":
            return {"service.name": "kernel", **(packet(message) if message.startswith("redoubt-drop") else {"event.dataset": "journal"})}
        if way == "audit":
            return {"service.name": "kernel", "event.dataset": "audit"}
        if self.app:
            # What a project prints has another way into the journal than what the guard sends.
            if identifier == f"{self.app}-security" and way == "journal" and unit.startswith((f"{self.app}@", f"{self.app}-")):
                return {"service.name": self.app, "event.dataset": "django.security", **security(message)}
            if unit.startswith(f"{self.app}@"):
                return {"service.name": self.app, "event.dataset": "django"}
            if unit.startswith(f"{self.app}-") and unit.endswith(".service"):
                name = unit[len(self.app) + 1 : -len(".service")]
                return {"service.name": f"{self.app}-{name}", "event.dataset": f"app.{name}"}
        if identifier in ("redoubt-release", "release"):
            return {"event.dataset": "app.release"}
        # What systemd says of a unit is of the unit's kind. Others may claim to speak of one.
        about = text(entry.get("UNIT")) if unit == "init.scope" else unit
        dataset = next((name for start, name in UNITS if about.startswith(start)), None) or IDENTIFIERS.get(identifier)
        if dataset == "log_server":
            return {"event.dataset": dataset, **server(message)}
        return {"event.dataset": dataset or "journal"}


def parsed(message: str) -> dict[str, Any]:
    """The object that a line is. A visitor's byte that is no UTF-8, which stands here as `\\xff`, is no reason not to know who he was."""
    for line in (message, ESCAPE.sub(lambda found: found[0].replace("\\x", "\\\\x"), message)):
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(line)
            return found if isinstance(found, dict) else {}
    return {}


def nginx_access(message: str) -> dict[str, Any]:
    line = parsed(message)
    if not line:
        return {}
    found: dict[str, Any] = {name: text(line[key]) for key, name in NGINX_TEXTS if line.get(key) not in NOTHING}
    found |= {name: value for key, name in NGINX_NUMBERS if (value := number(text(line.get(key)))) is not None}
    status = text(line.get("status"))
    moment: Any = text(line.get("at") or line.get("time"))
    with_milliseconds = number(text(line.get("at")))
    if with_milliseconds is not None:
        moment = datetime.datetime.fromtimestamp(round(with_milliseconds * 1000) / 1000, datetime.UTC)
    upstream, version = number(text(line.get("upstream_seconds")).split(",")[-1]), text(line.get("protocol")).removeprefix("HTTP/")
    return found | fields(
        **{"@timestamp": moment}, message=f"{text(line.get('method')) or '-'} {text(line.get('path'))} {status or '-'}",
        log__level="err" if found.get("http.response.status_code", 0) >= 500 else "info", http__version=version, nginx__upstream_s=upstream,
    )


def nginx_error(message: str) -> dict[str, Any]:
    found = NGINX_ERROR.match(message)
    if not found:
        return fields(log__level="err")
    client = NGINX_CLIENT.search(found["text"])
    return fields(
        log__level=NGINX_LEVELS.get(found["level"], found["level"] if found["level"] in LEVELS else "err"),
        process__pid=number(found["pid"]), source__ip=client and client[1],
        # Query strings hold secrets, as in the access log, which has none.
        message=QUERY.sub(r"\1", found["text"]),
    )


def security(message: str) -> dict[str, Any]:
    line = parsed(message)
    get = {name: text(value) for name, value in line.items()}.get
    return fields(
        event__action=get("event"), source__ip=get("ip"), user__name=get("user"), user__target__name=get("target"), event__reason=get("detail"),
        http__request__method=get("method"), url__path=get("path"), http__request__id=get("request"),
    )


def postgresql(message: str) -> dict[str, Any]:
    line = parsed(message)
    if not line:
        return {}
    get = {name: text(value, LONGEST) for name, value in line.items()}.get
    # DETAIL quotes rows ("Failing row contains …"), CONTEXT statements: people's data, and passwords' hashes. The host's own file has them.
    said = "\n".join(part for part in (get("message"), f"HINT: {get('hint')}" if get("hint") else "") if part)
    duration = DURATION.match(get("message") or "")
    return fields(
        **{"@timestamp": (get("timestamp") or "").replace(" UTC", "+00:00").replace(" ", "T")},
        log__level="debug" if (get("error_severity") or "").startswith("DEBUG") else POSTGRES_LEVELS.get(get("error_severity") or "", "info"),
        message=said, process__pid=number(get("pid")), user__name=get("user"), postgresql__database=get("dbname"),
        postgresql__application=get("application_name"), postgresql__sql_state=get("state_code"), postgresql__command=get("ps"),
        postgresql__backend=get("backend_type"), postgresql__session=get("session_id"), source__ip=(get("remote_host") or "").replace("[local]", ""),
        event__duration_ms=number(duration and duration[1]),
    )


def audit(message: str) -> dict[str, Any]:
    """One line of an event; all its lines have the same number."""
    found = AUDIT.match(message)
    if not found:
        return {}
    key = AUDIT_KEY.search(message)
    moment = stamp(datetime.datetime.fromtimestamp(int(found["seconds"]), datetime.UTC).replace(microsecond=int(found["thousandths"]) * 1000))
    return fields(**{"@timestamp": moment}, service__name="auditd", event__action=found["type"].lower(), event__sequence=number(found["number"]),
                  audit__key=key and key[1])


def packages(message: str) -> dict[str, Any]:
    found = DPKG.match(message)
    if not found:
        return fields(service__name="dpkg")
    versions = found["versions"].split()
    return fields(
        service__name="dpkg", event__action=found["action"], package__name=found["package"], package__version=versions[-1].replace("<none>", "") if versions else "",
    )


def address(found: str | None) -> str | None:
    """An address as everybody else writes it: the kernel writes all the zeros of IPv6."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(found or ""))
    return None


def packet(message: str) -> dict[str, Any]:
    found = dict(PACKET.findall(message))
    return fields(event__dataset="firewall", source__ip=address(found.get("SRC")), destination__ip=address(found.get("DST")), destination__port=number(found.get("DPT")),
                  network__transport=(found.get("PROTO") or "").lower())


def server(message: str) -> dict[str, Any]:
    """The log server's own lines: `refused ADDRESS: why`, `connected ADDRESS: HOST`."""
    found = re.match(r"(refused|connected|gone) ([0-9a-f.:]+): (.*)", message)
    return fields(event__action=found[1], source__ip=found[2], event__reason=found[3]) if found else {}


FILES = {"nginx.access": nginx_access, "nginx.error": nginx_error, "postgresql": postgresql, "packages": packages, "audit": audit}
