"""What systemd says of a unit on a host."""

from __future__ import annotations

import time


def shown(host, unit: str, *properties: str) -> dict[str, str]:
    """Properties by name, as text.

    What somebody has just started or stopped is given nine seconds: each hour rsyslog is, when its files are rotated. What systemd itself starts
    again and again is not: it would be met in a moment when it runs.
    """
    for attempt in range(10):
        lines = host.check_output("systemctl show --property=%s %s", ",".join([*properties, "NRestarts"]), unit).splitlines()
        found = dict(line.split("=", 1) for line in lines)
        again = found.pop("NRestarts", "0") != "0"
        if again or found.get("ActiveState") not in ("activating", "deactivating", "reloading"):
            break
        time.sleep(attempt and 1)
    return found


def exposure(host, unit: str) -> float:
    """From 0, confined, to 10, not at all."""
    return float(host.check_output("systemd-analyze security --no-pager %s", unit).splitlines()[-1].split(":")[1].split()[0])
