# Copyright: (c) 2026, Redoubt maintainers
# MIT License (see LICENSE)

"""The controller's side of C(redoubt.django.tree): find the role's files, render them, send them in one call."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from ansible._internal._templating._template_vars import generate_ansible_template_vars
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template
from ansible_collections.redoubt.django.plugins.module_utils.tree_transaction import Entry, Plan, parents
from ansible_collections.redoubt.django.plugins.modules.tree import ARGUMENTS, pack
from ansible_collections.redoubt.django.plugins.plugin_utils import asked, tree_seen
from jinja2 import TemplateSyntaxError, Undefined

# As the stock template action has them.
JINJA_OPTIONS = {"trim_blocks": True, "lstrip_blocks": False, "newline_sequence": "\n"}


class ActionModule(ActionBase):
    """Turns the task's options and the role's folders into a plan, and has the module carry it out."""

    _requires_connection = True
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(ARGUMENTS)
        source = self.source_folder(args["src"])
        plan = self.make_plan(args, source, task_vars or {})
        if self.is_unchanged(plan, args["root"], task_vars or {}):
            # As the module says it.
            return {"changed": False, "files": {}, "changed_paths": [], "validated": True, **({"diff": []} if self._task.diff else {})}
        result = self._execute_module(
            module_name="redoubt.django.tree",
            module_args={"plan": pack(plan), "root": args["root"]},
            task_vars=task_vars,
        )
        # The task's own arguments may hold contents (extra); what the module was sent says nothing to a person.
        result.pop("invocation", None)
        return result

    def is_unchanged(self, plan: Plan, root: str, task_vars: dict[str, Any]) -> bool:
        """Whether the host has all of it already, as far as that can be told without the module."""
        question = tree_seen.question(plan, root)
        if question is None:
            return False
        answer = asked.ask(self, "look", question, tree_seen.about(plan, root), task_vars)
        return answer is not None and tree_seen.unchanged(plan, root, answer)

    def source_folder(self, src: str | None) -> str:
        if src:
            return os.path.join(self._loader.get_basedir(), src)
        if self._task._role is None:
            raise AnsibleActionFail("tree installs a role's files; outside of a role, say which with src.")
        return self._task._role._role_path

    def make_plan(self, args: dict[str, Any], source: str, task_vars: dict[str, Any]) -> Plan:
        """Everything that the host needs to know. Only what is installed is rendered."""
        sources = find_sources(source)
        extras = [(clean(item["dest"]), item) for item in args["extra"]]
        links = [(clean(path), str(target)) for path, target in args["links"].items()]
        folders = [(clean(item["path"]), item) for item in args["folders"]]
        modes, owners, when = (
            {clean(path, folders=True): value for path, value in args[name].items()} for name in ("modes", "owners", "when")
        )
        secret = [clean(path, folders=True) for path in args["secret"]]
        secret += [path for path, item in extras if parse_switch(item["secret"], f"extra, {path}, secret")]
        purge = [clean(path) for path in args["purge"]]
        absent = [clean(path) for path in args["absent"]]

        file_paths = [*sources, *(path for path, _ in extras)]
        link_paths = [path for path, _ in links]
        folder_paths = [path for path, _ in folders]
        wanted = [*file_paths, *link_paths, *folder_paths]
        known = {*file_paths, *(f"{path}/" for path in folder_paths)}
        known.update(f"{folder}/" for path in wanted for folder in parents(path))
        refuse_doubles([*wanted, *absent])
        refuse_below(wanted, {*file_paths, *link_paths, *absent})
        refuse_sweeping(purge + absent)
        for name, paths in {"modes": modes, "owners": owners, "secret": secret}.items():
            refuse_unknown(name, paths, known)
        refuse_unknown("when", when, known.union(link_paths))

        off = [path for path, value in when.items() if not parse_switch(value, f"when, {path}")]

        def is_on(path: str) -> bool:
            return not any(covers(item, path) for item in off)

        entries = [self.entry_from_file(path, full, source, task_vars) for path, full in sources.items() if is_on(path)]
        entries += [self.entry_from_extra(path, item, source, task_vars) for path, item in extras if is_on(path)]
        entries += [Entry(path, "link", target=target) for path, target in links if is_on(path)]
        entries += [with_ownership(Entry(path, "folder"), item, f"folders, {path}") for path, item in folders if is_on(f"{path}/")]
        return Plan(
            with_options(entries, modes, owners, secret),
            purge=purge,
            absent=absent,
            secret=secret,
            validate=commands(args["validate"], "validate"),
            before=commands(args["before"], "before"),
        )

    def entry_from_file(self, path: str, full: str, source: str, task_vars: dict[str, Any]) -> Entry:
        if os.path.relpath(full, source).startswith("templates/"):
            return Entry(path, content=self.render(full, source, f"/{path}", task_vars))
        if os.path.islink(full):
            return Entry(path, "link", target=os.readlink(full))
        with open(full, "rb") as file:
            return Entry(path, content=file.read())

    def entry_from_extra(self, path: str, item: dict[str, Any], source: str, task_vars: dict[str, Any]) -> Entry:
        entry = with_ownership(Entry(path), item, f"extra, {path}")
        if item["template"] is None:
            entry.content = item["content"].encode()
            return entry
        full = os.path.join(source, "templates", item["template"])
        if not os.path.isfile(full):
            raise AnsibleActionFail(f"extra, {path}: there is no template {item['template']} in {source}/templates.")
        entry.content = self.render(full, source, f"/{path}", {**task_vars, **item["vars"]})
        return entry

    def render(self, full: str, source: str, dest: str, variables: dict[str, Any]) -> bytes:
        """Render as the stock template action does, with the same variables and search path."""
        template = trust_as_template(self._loader.get_text_file_contents(full))
        try:
            template.encode()
        except UnicodeEncodeError as error:
            raise AnsibleActionFail(f"The template {full} is not UTF-8 text; binary files belong in files/.") from error
        name = os.path.relpath(full, os.path.join(source, "templates"))
        managed = "ansible_managed" not in variables
        about = generate_ansible_template_vars(name, full, dest, include_ansible_managed=managed)
        folders = [*variables.get("ansible_search_path", []), source, self._loader.get_basedir(), os.path.dirname(full)]
        templar = self._templar.copy_with_new_env(
            searchpath=[path for folder in folders for path in (os.path.join(folder, "templates"), folder)],
            available_variables={**variables, **about},
        )

        def template_it() -> Any:
            return templar.template(template, escape_backslashes=False, overrides=JINJA_OPTIONS)

        try:
            text = template_it()
        except AnsibleError as error:
            raise AnsibleActionFail(f"Could not render {full}{failing_line(error, template_it)}.") from error
        return ("" if text is None else str(text)).encode()


def failing_line(error: BaseException, render: Callable[[], Any]) -> str:
    """Where a failed rendering stopped, as words to add to the template's name.

    Ansible defers an undefined variable past the template's own code, so that the error knows only the file. A second
    rendering is watched: the line that gave out the undefined value, or else the last one that ran, is to blame.
    """
    cause: BaseException | None = error
    while cause:
        if isinstance(cause, TemplateSyntaxError):
            return f", line {cause.lineno}"
        cause = cause.__cause__

    outermost = None
    where = ""
    found = False

    def watch(frame: FrameType, event: str, value: Any) -> Callable | None:
        nonlocal outermost, where, found
        template = frame.f_globals.get("__jinja_template__")
        outermost = outermost or template
        # A variable that is itself a template has no name, unlike an included file.
        if template is None or not (template is outermost or template.name) or found:
            return None
        included = "" if template is outermost else f" of {template.filename}, included there"
        where = f", line {template.get_corresponding_lineno(frame.f_lineno)}{included}"
        found = event == "return" and isinstance(value, Undefined)
        return watch

    tracer = sys.gettrace()
    sys.settrace(watch)
    try:
        render()
    except AnsibleError:
        pass
    finally:
        sys.settrace(tracer)
    return where


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


def refuse_below(paths: list[str], not_folders: set[str]) -> None:
    for path in paths:
        for folder in parents(path):
            if folder in not_folders:
                raise AnsibleActionFail(f"/{path} needs a folder /{folder}, which is to be something else here.")


def refuse_unknown(option: str, paths: Any, known: set[str]) -> None:
    """A misspelt path must not silently leave a key world-readable."""
    for path in paths:
        if path not in known:
            near = difflib.get_close_matches(path, known, n=1, cutoff=0.4)
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


def parse_switch(value: Any, where: str) -> bool:
    try:
        return boolean(value)
    except TypeError:
        raise AnsibleActionFail(f"{where}: {value!r} is neither true nor false.") from None


def parse_owner(value: Any, where: str) -> tuple[str, str]:
    user, _, group = str(value).partition(":")
    if not user or not group:
        raise AnsibleActionFail(f"{where}: {value!r} is not an owner; write user:group.")
    return user, group


def with_options(entries: list[Entry], modes: dict[str, Any], owners: dict[str, Any], secret: list[str]) -> list[Entry]:
    """The entries with what modes, owners and secret say of them; plus the folders that only these name."""
    by_path = {entry.path: entry for entry in entries}
    needed = {folder for path in by_path for folder in parents(path)}
    for path in {**modes, **owners}:
        folder = path[:-1]
        if path.endswith("/") and folder in needed and folder not in by_path:
            by_path[folder] = Entry(folder, "folder")
    for path, entry in by_path.items():
        key = f"{path}/" if entry.kind == "folder" else path
        if key in modes:
            entry.mode = parse_mode(modes[key], f"modes, {key}")
        if key in owners:
            entry.owner, entry.group = parse_owner(owners[key], f"owners, {key}")
        entry.secret = any(covers(item, path) for item in secret)
    return list(by_path.values())


def with_ownership(entry: Entry, item: dict[str, Any], where: str) -> Entry:
    """The entry with the mode, owner and group of an item of extra or folders."""
    if item["mode"] is not None:
        entry.mode = parse_mode(item["mode"], where)
    entry.owner, entry.group = item["owner"], item["group"]
    if entry.owner and ":" in entry.owner:
        entry.owner, entry.group = parse_owner(entry.owner, where)
    return entry


def commands(value: Any, where: str) -> list[str]:
    """One command or several; an empty string means none, as in C({{ command if wanted else '' }})."""
    found = [value] if isinstance(value, str) and value else value or []
    for command in found if isinstance(found, list) else [found]:
        try:
            words = shlex.split(command) if isinstance(command, str) else []
        except ValueError:
            words = []
        if not words:
            raise AnsibleActionFail(f"{where}: {command!r} is not a command line.")
    return found
