# Copyright: (c) 2026, Redoubt maintainers
# MIT License (see LICENSE)

"""Find out with a host's own tools whether a plan has anything to change there: a module takes ten times as long to say that it has not.

What the tools print is compared as the module compares what it finds. Whatever they leave open counts as different, and is the module's to judge.
"""

from __future__ import annotations

import hashlib

from ansible_collections.redoubt.django.plugins.module_utils.tree_transaction import STATE_DIR, Entry, Plan, State, Tree, TreeError, parents
from ansible_collections.redoubt.django.plugins.plugin_utils.asked import parsed

KINDS = {"f": "file", "d": "folder", "l": "link"}


def question(plan: Plan, root: str) -> str | None:
    """What is to be looked at (C(asked)); none where it cannot be put."""
    base = root.rstrip("/")
    wanted = {entry.path for entry in plan.entries}
    above = {folder for path in wanted.union(plan.absent, plan.purge) for folder in parents(path)}
    lines = [f"at {base}/{path}" for path in sorted(wanted.union(plan.absent, plan.purge, above))]
    # An interrupted call is the module's to settle.
    lines += [f"in {base}/{path}" for path in sorted({*plan.purge, STATE_DIR})]
    for kind in ("owner", "group"):
        names = {name for entry in plan.entries if (name := getattr(entry, kind)) and not name.isdigit()}
        lines += [f"{'user' if kind == 'owner' else kind} {name}" for name in sorted(names)]
    lines += [f"same {len(entry.content)} {hashlib.sha256(entry.content).hexdigest()}  {base}/{entry.path}" for entry in plan.entries if entry.kind == "file"]
    odd = any("\n" in line or "\\" in line for line in lines)
    return None if odd or not root.startswith("/") else "\n".join([*lines, ""])


def about(plan: Plan, root: str) -> str:
    """What the question is about, whatever is to be there."""
    return "\0".join([root, *sorted({entry.path for entry in plan.entries}.union(plan.absent, plan.purge))])


def unchanged(plan: Plan, root: str, answer: str) -> bool:
    """Whether the host's answer to C(question) leaves no doubt that the plan changes nothing. It may tell of more than was asked."""
    try:
        return not Seen(plan, root, answer).compare()
    except (TreeError, ValueError):
        return False


class Seen(Tree):
    """A tree as a host has described it. What it has not described is not there."""

    def __init__(self, plan: Plan, root: str, answer: str):
        super().__init__(plan, root)
        self.base = root.rstrip("/")
        (uid, gid, users, groups), found, self.same = parsed(answer)
        self.own = {"user": int(uid), "group": int(gid)}
        self.known = {(kind, words[0]): int(words[2]) for kind, text in (("user", users), ("group", groups))
                      for words in (line.split(":") for line in text.split("\n") if line)}
        self.there: dict[str, State] = {}
        self.targets: dict[str, str] = {}
        self.inside: dict[str, list[str]] = {}
        for path, kind, mode, owner, group, size, target in found:
            # Another tree may have another root.
            if not path.startswith(f"{self.base}/"):
                continue
            name = path.removeprefix(f"{self.base}/")
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
        if entry.kind == "link":
            return self.targets[entry.path] == entry.target
        return state.size == len(entry.content) and f"{self.base}/{entry.path}" in self.same

    def state(self, path: str, follow: bool = False) -> State | None:
        return self.there.get(path)

    def refuse_foreign_link(self, path: str) -> None:
        if (state := self.state(path)) and state.kind == "link":
            raise TreeError(f"/{path} is a symbolic link; where it leads is not known.")
