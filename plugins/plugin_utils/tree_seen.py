# Copyright: (c) 2026, Redoubt maintainers
# MIT License (see LICENSE)

"""Find out with a host's own tools whether a plan has anything to change there: a module takes ten times as long to say that it has not.

What the tools print is compared as the module compares what it finds. Whatever they leave open counts as different, and is the module's to judge.
"""

from __future__ import annotations

import hashlib
import shlex

from ansible_collections.redoubt.django.plugins.module_utils.tree_transaction import STATE_DIR, Entry, Plan, State, Tree, TreeError, parents

# Seconds: what is there may be any size.
PATIENCE = 20
KINDS = {"f": "file", "d": "folder", "l": "link"}


def script(plan: Plan, root: str) -> str | None:
    """The question as a shell's input, so that neither a log of commands nor a list of processes has it; none where it cannot be put.

    The contents go as hashes to the host, which compares them: no hash of a secret comes back.
    """
    files = [entry for entry in plan.entries if entry.kind == "file"]
    if not root.startswith("/") or any("\n" in entry.path or "\\" in entry.path for entry in files):
        return None
    base = root.rstrip("/")

    def quoted(paths: set[str]) -> str:
        return shlex.join(f"{base}/{path}" for path in sorted(paths))

    wanted = {entry.path for entry in plan.entries}
    above = {folder for path in wanted.union(plan.absent, plan.purge) for folder in parents(path)}
    users, groups = ({name for entry in plan.entries if (name := getattr(entry, kind)) and not name.isdigit()} for kind in ("owner", "group"))
    show = "-printf '%p\\0%y\\0%m\\0%U\\0%G\\0%s\\0%l\\0'"
    lines = ["exec 2>/dev/null", "export LC_ALL=C", "printf '%s\\0' \"$(id -u)\" \"$(id -g)\""]
    for kind, names in (("passwd", users), ("group", groups)):
        lines.append(f"printf '%s\\0' \"$(getent {kind} {shlex.join(sorted(names))})\"" if names else "printf '\\0'")
    lines.append(f"find {quoted(wanted.union(plan.absent, plan.purge, above))} -maxdepth 0 {show}")
    if plan.purge:
        lines.append(f"find {quoted(set(plan.purge))} -mindepth 1 {show}")
    # An interrupted call is the module's to settle.
    lines.append(f"find {quoted({STATE_DIR})} -mindepth 1 {show}")
    if files:
        others = f"find {quoted({entry.path for entry in files})} -maxdepth 0 ! -type f -printf x"
        lines.append(f"test -z \"$({others})\" && timeout {PATIENCE} sha256sum --check --status --strict <<'END' && printf 'same\\0'")
        lines += [f"{hashlib.sha256(entry.content).hexdigest()}  {base}/{entry.path}" for entry in files]
        lines.append("END")
    else:
        lines.append("printf 'same\\0'")
    return "\n".join(lines) + "\n:\n"


def unchanged(plan: Plan, root: str, answer: str) -> bool:
    """Whether the host's answer to C(script) leaves no doubt that the plan changes nothing."""
    try:
        return not Seen(plan, root, answer).compare()
    except (TreeError, ValueError):
        return False


class Seen(Tree):
    """A tree as a host has described it. What it has not described is not there."""

    def __init__(self, plan: Plan, root: str, answer: str):
        super().__init__(plan, root)
        uid, gid, users, groups, *rest = answer.split("\0")
        self.own = {"user": int(uid), "group": int(gid)}
        self.known = {(kind, words[0]): int(words[2]) for kind, text in (("user", users), ("group", groups))
                      for words in (line.split(":") for line in text.splitlines())}
        # The last field is what follows the last zero: nothing.
        if rest[-2:] != ["same", ""] or len(rest) % 7 != 2:
            raise ValueError("the contents are not known to be the same")
        self.there: dict[str, State] = {}
        self.targets: dict[str, str] = {}
        self.inside: dict[str, list[str]] = {}
        for path, kind, mode, owner, group, size, target in zip(*[iter(rest[:-2])] * 7, strict=True):
            name = path.removeprefix(root.rstrip("/")).lstrip("/")
            if name.startswith(f"{STATE_DIR}/"):
                raise ValueError("an interrupted call is to be settled first")
            if name not in self.there:
                folder, _, last = name.rpartition("/")
                self.inside.setdefault(folder, []).append(last)
            self.there[name] = State(KINDS.get(kind, "other"), int(mode, 8), int(owner), int(group), int(size))
            self.targets[name] = target

    def own_id(self, kind: str) -> int:
        return self.own[kind]

    def id_of(self, kind: str, name: str) -> int | None:
        return self.known.get((kind, name))

    def names(self, folder: str) -> list[str]:
        return sorted(self.inside.get(folder, []))

    def is_folder(self, path: str) -> bool:
        return path in self.there

    def same_content(self, entry: Entry, state: State) -> bool:
        return self.targets[entry.path] == entry.target if entry.kind == "link" else state.size == len(entry.content)

    def state(self, path: str, follow: bool = False) -> State | None:
        return self.there.get(path)

    def refuse_foreign_link(self, path: str) -> None:
        if (state := self.state(path)) and state.kind == "link":
            raise TreeError(f"/{path} is a symbolic link; where it leads is not known.")
