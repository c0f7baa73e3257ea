# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""What an inventory says of a host that others need to know."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

ADDRESS = re.compile("[0-9.]+$|[0-9a-fA-F]*:[0-9a-fA-F:.]+$")


def addresses(variables: Mapping[str, Any]) -> list[str]:
    """Addresses that others know a host by, from its variables (C(hostvars)): base_addresses, or else the one that Ansible knows it by."""
    given = str(variables.get("ansible_host") or "")
    return variables.get("base_addresses") or ([given] if ADDRESS.match(given) else [])


class FilterModule:
    def filters(self) -> dict:
        return {"addresses": addresses}
