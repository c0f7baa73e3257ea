# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""Values of an inventory in the two syntaxes that systemd reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

# systemd ignores a line that is not UTF-8, and counts surrogates and noncharacters as not UTF-8.
UNREADABLE = re.compile("[\x00\ud800-\udfff\ufdd0-\ufdef" + "".join(chr(plane << 16 | end) for plane in range(17) for end in (0xFFFE, 0xFFFF)) + "]")
# The kernel's MAX_ARG_STRLEN, for one argument or one variable with its name, the final NUL included.
LONGEST = 128 * 1024


def refuse(text: str, what: str) -> None:
    bad = UNREADABLE.search(text)
    if bad:
        raise AnsibleFilterError(f"{what} holds the character U+{ord(bad.group()):04X}, which systemd does not read: remove it.")
    if len(text.encode()) >= LONGEST:
        raise AnsibleFilterError(f"{what} is longer than the {LONGEST // 1024} KiB that the kernel takes: put it into a file (app_files).")


def env_text(key: str, value: Any) -> str:
    """One value as the process finds it: true is `True`, as Python writes it."""
    if isinstance(value, (str, int, float)):
        return str(value)
    kind = "empty" if value is None else f"a {type(value).__name__}"
    raise AnsibleFilterError(f"{key} is {kind}, but an environment holds texts, numbers, true and false (rendered as True and False).")


def env_file(variables: Mapping[str, Any]) -> str:
    """Content of an EnvironmentFile that gives a service exactly these variables. A POSIX shell reads it alike."""
    if not isinstance(variables, Mapping):
        raise AnsibleFilterError(f"env_file takes a mapping of names to values, not a {type(variables).__name__}.")
    lines = []
    for key, value in variables.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(key)):
            raise AnsibleFilterError(f"{key!r} cannot name an environment variable: letters, digits and _, no digit first.")
        text = env_text(key, value)
        refuse(f"{key}={text}", str(key))
        # Inside double quotes these four are all that systemd unescapes; line breaks stand for themselves.
        escaped = re.sub(r'[\\"`$]', r"\\\g<0>", text)
        lines.append(f'{key}="{escaped}"\n')
    return "".join(lines)


CONTROL = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def unit_quote(value: Any) -> str:
    """One argument of a unit's ExecStart= (and its kin) that reaches the program unchanged."""
    if not isinstance(value, (str, int, float)):
        raise AnsibleFilterError(f"unit_quote takes a text, not a {type(value).__name__}.")
    text = str(value)
    refuse(text, "An argument of a command")
    text = re.sub(r'[\\"]', r"\\\g<0>", text).replace("%", "%%").replace("$", "$$")
    text = re.sub(r"[\x01-\x1f\x7f]", lambda match: CONTROL.get(match[0], f"\\x{ord(match[0]):02x}"), text)
    return f'"{text}"'


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., str]]:
        return {"env_file": env_file, "unit_quote": unit_quote}
