# Copyright: (c) 2026, Redoubt maintainers
# MIT License (see LICENSE)

"""The controller's side of C(redoubt.django.tree): find the role's files, render them, send them in one call."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from typing import Any

from ansible._internal._templating._template_vars import generate_ansible_template_vars
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template
from ansible_collections.redoubt.django.plugins.module_utils.tree_transaction import Entry, Plan, parents
from ansible_collections.redoubt.django.plugins.modules.tree import ARGUMENTS, pack

# As the stock template action has them.
JINJA_OPTIONS = {"trim_blocks": True, "lstrip_blocks": False, "newline_sequence": "\n"}


class ActionModule(ActionBase):
    """Turns the task's options and the role's folders into a plan, and has the module carry it out."""

    _requires_connection = True
    _supports_check_mode = True
    _supports_diff = True
    _supports_async = False

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(ARGUMENTS)
        source = self.source_folder(args["src"])
        plan = self.make_plan(args, source, task_vars or {})
        result = self._execute_module(
            module_name="redoubt.django.tree",
            module_args={"plan": pack(plan), "root": args["root"]},
            task_vars=task_vars,
        )
        # The task's own arguments may hold contents (extra); what the module was sent says nothing to a person.
        result.pop("invocation", None)
        return result

    def source_folder(self, src: str | None) -> str:
        if src:
            return os.path.join(self._loader.get_basedir(), src)
        if self._task._role is None:
            raise AnsibleActionFail("tree installs a role's files; outside of a role, say which with src.")
        return self._task._role._role_path

    def make_plan(self, args: dict[str, Any], source: str, task_vars: dict[str, Any]) -> Plan:
        """Everything that the host needs to know. Only what is installed is rendered."""
        sources = find_sources(source)
        extras = {clean(item["dest"]): item for item in args["extra"]}
        links = {clean(path): str(target) for path, target in args["links"].items()}
        folders = {clean(item["path"]): item for item in args["folders"]}
        modes, owners, when = (
            {clean(path, folders=True): value for path, value in args[name].items()}
            for name in ("modes", "owners", "when")
        )
        secret = [clean(path, folders=True) for path in args["secret"]]
        purge = [clean(path) for path in args["purge"]]
        absent = [clean(path) for path in args["absent"]]

        known = [*sources, *extras, *links, *(f"{path}/" for path in folders)]
        refuse_doubles(known + absent)
        all_folders = {f"{folder}/" for path in known for folder in parents(path)}
        for name, paths in {"modes": modes, "owners": owners, "secret": secret, "when": when}.items():
            refuse_unknown(name, paths, all_folders.union(known))
        refuse_sweeping(purge + absent)

        def is_on(path: str) -> bool:
            return all(boolean(on) for item, on in when.items() if covers(item, path))

        entries = []
        for path, full in sources.items():
            if is_on(path):
                entries.append(self.entry_from_file(path, full, source, task_vars))
        for path, item in extras.items():
            if is_on(path):
                entries.append(self.entry_from_extra(path, item, source, task_vars))
        for path, target in links.items():
            if is_on(path):
                entries.append(Entry(path, "link", target=target))
        for path, item in folders.items():
            if is_on(f"{path}/"):
                entries.append(with_ownership(Entry(path, "folder"), item, f"folders, {path}"))

        by_path = {entry.path: entry for entry in entries}
        needed = {folder for path in by_path for folder in parents(path)}
        for path in {**modes, **owners}:
            if path.endswith("/") and path[:-1] in needed and path[:-1] not in by_path:
                by_path[path[:-1]] = Entry(path[:-1], "folder")
        for path, entry in by_path.items():
            key = f"{path}/" if entry.kind == "folder" else path
            if key in modes:
                entry.mode = parse_mode(modes[key], f"modes, {key}")
            if key in owners:
                entry.owner, entry.group = parse_owner(owners[key], f"owners, {key}")
            entry.secret = entry.secret or any(covers(item, path) for item in secret)
        return Plan(list(by_path.values()), purge, absent, secret, args["validate"], args["before"])

    def entry_from_file(self, path: str, full: str, source: str, task_vars: dict[str, Any]) -> Entry:
        if os.path.relpath(full, source).startswith("templates/"):
            return Entry(path, content=self.render(full, path, f"/{path}", task_vars))
        if os.path.islink(full):
            return Entry(path, "link", target=os.readlink(full))
        with open(full, "rb") as file:
            return Entry(path, content=file.read())

    def entry_from_extra(self, path: str, item: dict[str, Any], source: str, task_vars: dict[str, Any]) -> Entry:
        entry = with_ownership(Entry(path), item, f"extra, {path}")
        entry.secret = boolean(item["secret"])
        if item["template"] is None:
            entry.content = item["content"].encode()
            return entry
        full = os.path.join(source, "templates", item["template"])
        if not os.path.isfile(full):
            raise AnsibleActionFail(f"extra, {path}: there is no template {item['template']} in {source}/templates.")
        entry.content = self.render(full, item["template"], f"/{path}", {**task_vars, **item["vars"]})
        return entry

    def render(self, full: str, name: str, dest: str, variables: dict[str, Any]) -> bytes:
        """Render as the stock template action does, with the same variables and search path."""
        try:
            template = trust_as_template(self._loader.get_text_file_contents(full))
        except AnsibleError as error:
            raise AnsibleActionFail(f"The template {full} is not UTF-8 text; binary files belong in files/.") from error
        managed = "ansible_managed" not in variables
        about = generate_ansible_template_vars(name, full, dest, include_ansible_managed=managed)
        folders = [*variables.get("ansible_search_path", []), self._loader.get_basedir(), os.path.dirname(full)]
        templar = self._templar.copy_with_new_env(
            searchpath=[path for folder in folders for path in (os.path.join(folder, "templates"), folder)],
            available_variables={**variables, **about},
        )
        text = templar.template(template, escape_backslashes=False, overrides=JINJA_OPTIONS)
        return ("" if text is None else str(text)).encode()


def find_sources(source: str) -> dict[str, str]:
    """Every file in templates/ and files/, by destination, without the top-level folders that begin with _."""
    found: dict[str, str] = {}
    for kind in ("templates", "files"):
        for path, full in walk(os.path.join(source, kind)):
            if path in found:
                raise AnsibleActionFail(f"Both templates/ and files/ of {source} provide {path}.")
            found[path] = full
    return found


def walk(top: str) -> Iterator[tuple[str, str]]:
    for folder, names, files in os.walk(top):
        if folder == top:
            names[:] = [name for name in names if not name.startswith("_")]
        linked = [name for name in names if os.path.islink(os.path.join(folder, name))]
        names.sort()
        for name in sorted(files + linked):
            full = os.path.join(folder, name)
            yield os.path.relpath(full, top), full


def clean(path: str, folders: bool = False) -> str:
    """A path as the plan has it: no slash at either end, except that of a folder where it has a meaning."""
    parts = str(path).strip("/").split("/")
    if not all(part not in ("", ".", "..") for part in parts):
        raise AnsibleActionFail(f"{path!r} is not a plain path.")
    return "/".join(parts) + ("/" if folders and str(path).endswith("/") else "")


def covers(item: str, path: str) -> bool:
    return path == item or (item.endswith("/") and path.startswith(item))


def refuse_doubles(paths: list[str]) -> None:
    seen: set[str] = set()
    for path in (path.rstrip("/") for path in paths):
        if path in seen:
            raise AnsibleActionFail(f"/{path} is named twice among templates/, files/, extra, links, folders, absent.")
        seen.add(path)


def refuse_unknown(option: str, paths: Any, known: set[str]) -> None:
    """A misspelt path must not silently leave a key world-readable."""
    for path in paths:
        if path not in known:
            near = difflib.get_close_matches(path, known, n=1, cutoff=0.0)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise AnsibleActionFail(f"{option} names {path}, which nothing here provides.{hint}")


def refuse_sweeping(paths: list[str]) -> None:
    for path in paths:
        if "/" not in path:
            raise AnsibleActionFail(f"purge and absent do not take a top-level folder: /{path}.")


def parse_mode(value: Any, where: str) -> int:
    if not isinstance(value, str) or not re.fullmatch(r"[0-7]{3,4}", value):
        raise AnsibleActionFail(f'{where}: {value!r} is not a mode; write it in quotes, like "0640".')
    return int(value, 8)


def parse_owner(value: Any, where: str) -> tuple[str, str]:
    user, _, group = str(value).partition(":")
    if not user or not group:
        raise AnsibleActionFail(f"{where}: {value!r} is not an owner; write user:group.")
    return user, group


def with_ownership(entry: Entry, item: dict[str, Any], where: str) -> Entry:
    """The entry with the mode, owner and group of an item of extra or folders."""
    if item["mode"] is not None:
        entry.mode = parse_mode(item["mode"], where)
    entry.owner, entry.group = item["owner"], item["group"]
    if entry.owner and ":" in entry.owner:
        entry.owner, entry.group = parse_owner(entry.owner, where)
    return entry
