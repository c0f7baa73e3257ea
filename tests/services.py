"""What systemd says of a unit on a host."""

from __future__ import annotations


def shown(host, unit: str, *properties: str) -> dict[str, str]:
    """Properties by name, as text."""
    lines = host.check_output("systemctl show --property=%s %s", ",".join(properties), unit).splitlines()
    return dict(line.split("=", 1) for line in lines)


def exposure(host, unit: str) -> float:
    """From 0, confined, to 10, not at all."""
    return float(host.check_output("systemd-analyze security --no-pager %s", unit).splitlines()[-1].split(":")[1].split()[0])
