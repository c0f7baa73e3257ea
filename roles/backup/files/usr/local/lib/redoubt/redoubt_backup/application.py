"""The application while its data is replaced: it stands still, and runs again after."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from redoubt_backup.common import Refused, Settings, call, now, read, write


def units(settings: Settings) -> list[str]:
    """What of the application runs, its sockets and timers included."""
    told = call(["systemctl", "list-units", "--plain", "--no-legend", "--full", "--state=active,activating", f"{settings.app}@*", f"{settings.app}-*"],
                "systemd does not answer")
    names = [line.split()[0] for line in told.splitlines()]
    # Of its commands that somebody runs by hand, each is its own affair.
    return [name for name in names if name.endswith((".service", ".socket", ".timer"))]


@contextlib.contextmanager
def held(settings: Settings) -> Iterator[None]:
    """Nothing of the application runs; what ran before runs again after, also if the run between the two was killed."""
    record = settings.state / "standing-still.json"
    try:
        hold(settings)
        yield
    finally:
        if record.exists():
            release(settings)


def forget_migrations(settings: Settings) -> None:
    """The next run of a deploy asks the database anew which migrations it has, and applies the rest."""
    for marker in settings.state.glob("releases/*/migrate"):
        marker.unlink()


def hold(settings: Settings) -> None:
    record = settings.state / "standing-still.json"
    forget_migrations(settings)
    running = read(record).get("units") or []
    running = sorted({*running, *units(settings)})
    write(record, {"units": running, "at": now()})
    # Sockets first: a connection would start the service again.
    for kind in (".timer", ".socket", ".service"):
        names = [name for name in running if name.endswith(kind)]
        if names:
            call(["systemctl", "stop", *names], "The application could not be stopped")


def release(settings: Settings) -> None:
    record = settings.state / "standing-still.json"
    running = read(record).get("units") or []
    known = [name for name in running if not name.startswith(f"{settings.app}-build-")]
    failed = ""
    # One that does not start again is no reason for the others to stand still.
    for kind in (".socket", ".service", ".timer"):
        names = [name for name in known if name.endswith(kind)]
        try:
            if names:
                call(["systemctl", "start", *names], "The application was not started again")
        except Refused as error:
            failed = failed or str(error)
    if failed:
        raise Refused(failed)
    record.unlink(missing_ok=True)
