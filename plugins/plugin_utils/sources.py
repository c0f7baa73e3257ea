# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""What only the files of an inventory show, since Ansible has merged it away: names that stand twice, and files of another environment."""

from __future__ import annotations

import os
import re
import typing as t
from pathlib import Path

import yaml
from ansible.plugins.inventory import expand_hostname_range
from ansible_collections.redoubt.django.plugins.plugin_utils import contract, environment_secrets

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
VAULT_ID = re.compile(rb"\$ANSIBLE_VAULT;1\.2;AES256;([^\s;]+)")
short = environment_secrets.short


def files(sources: t.Iterable[str]) -> t.Iterator[Path]:
    """The inventory's own files; what a program prints is its own affair."""
    for source in map(Path, sources):
        for path in [source] if source.is_file() else sorted(source.glob("*")) if source.is_dir() else []:
            if path.is_file() and not path.name.startswith(".") and not path.name.endswith("~") and not os.access(path, os.X_OK):
                yield path


def check_twice(sources: t.Iterable[str]) -> t.Iterator[str]:
    """Ansible takes the last of two lines and warns at most: with the first go its address and its variables."""
    for path in files(sources):
        try:
            text = path.read_text()
            found = list(_yaml(text) if path.suffix in (".yml", ".yaml", ".json") else _ini(text))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            # Ansible's own message says what is wrong with it.
            continue
        seen: dict[tuple[str, str], int] = {}
        for group, name, line in found:
            first = seen.setdefault((group, name), line)
            if first != line:
                yield f"{name} stands twice in {group} ({short(path)}, lines {first} and {line}), and only the last would count: leave one."


def _names(pattern: str) -> list[str]:
    return expand_hostname_range(pattern) if "[" in pattern else [pattern]


def _yaml(text: str) -> t.Iterator[tuple[str, str, int]]:
    """Group, host and line of every host in a group; in the place of a group, for one that stands twice beside itself, what it is in."""
    root = yaml.compose(text, Loader=LOADER)
    if isinstance(root, yaml.MappingNode):
        yield from _groups(root, "the file")


def _groups(node: yaml.MappingNode, where: str) -> t.Iterator[tuple[str, str, int]]:
    for key, content in node.value:
        yield where, f"the group {key.value}", key.start_mark.line + 1
        for part, inner in content.value if isinstance(content, yaml.MappingNode) else []:
            if not isinstance(inner, yaml.MappingNode):
                continue
            if part.value == "hosts":
                for host, _ in inner.value:
                    yield from ((key.value, name, host.start_mark.line + 1) for name in _names(host.value))
            elif part.value == "children":
                yield from _groups(inner, f"the children of {key.value}")


def _ini(text: str) -> t.Iterator[tuple[str, str, int]]:
    group = "ungrouped"
    for number, line in enumerate(text.splitlines(), 1):
        if section := re.match(r"\[([^\]]+)\]", line.strip()):
            group = section[1]
        elif ":" not in group and (words := line.split("#")[0].split()) and not line.lstrip().startswith(";"):
            yield from ((group, name, number) for name in _names(words[0]))


def check_environments(sources: t.Iterable[str], places: t.Mapping[str, t.Collection[str]]) -> t.Iterator[str]:
    """Whether all is of one environment. `places` are the variables of this run by the file that they were written in."""
    own = list(dict.fromkeys(Path(os.path.abspath(source if os.path.isdir(source) else os.path.dirname(source))) for source in sources if os.path.exists(source)))
    for folder in own:
        beside = [other for other in sorted(folder.parent.iterdir()) if other != folder and other.is_dir() and not other.name.startswith(".") and any(other.glob("hosts*"))]
        for other in beside:
            if other in own:
                if own.index(folder) < own.index(other):
                    yield f"{short(folder)} and {short(other)} are two environments, whose variables would mix: run for one of them (-i)."
                continue
            for path in sorted(places):
                if Path(os.path.abspath(path)).is_relative_to(other):
                    names = sorted(places[path])
                    shown = contract.listed(names if len(names) < 4 else [*names[:3], f"{len(names) - 3} more"])
                    yield (f"{short(Path(path))} is of the environment {other.name}, and {shown} would come from it into {folder.name}: "
                           f"leave it out, or run for {other.name} (-i {short(other)}).")
        names = {other.name for other in beside}
        for path in environment_secrets.variable_files(folder):
            for identity in sorted({found.decode(errors="replace") for found in VAULT_ID.findall(path.read_bytes())} & names):
                yield (f"{short(path)} has a vault of the environment {identity}, but is in {folder.name}: make secrets of its own "
                       f"(playbooks/secrets.yml), or, if they are, encrypt it under its own id (ansible-vault rekey --new-vault-id {folder.name}@…).")
