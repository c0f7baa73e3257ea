# Copyright: Redoubt maintainers
# MIT License (see LICENSE)

"""Filters for nginx configuration."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Callable

from ansible.errors import AnsibleFilterError

# `$` begins a variable wherever nginx takes one and cannot be escaped there; a control character ends a line.
REFUSED = re.compile(r"[\x00-\x1f\x7f$]")


def nginx_string(value: object) -> str:
    """Quote a value from an inventory so that nginx takes it as one literal word."""
    text = str(value)
    bad = REFUSED.search(text)
    if bad:
        raise AnsibleFilterError(f"nginx cannot take {bad.group()!r} in {text!r}. Take it out of the inventory's value.")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def decoded_path(value: object) -> str:
    """A path as nginx compares it: the inventory has it as a URL is written."""
    return urllib.parse.unquote(str(value))


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[[object], str]]:
        return {"nginx_string": nginx_string, "decoded_path": decoded_path}
