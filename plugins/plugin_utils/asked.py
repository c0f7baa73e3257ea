# Copyright: (c) 2026, Redoubt maintainers
# MIT License (see LICENSE)

"""Put one question to a host instead of one for each task: what a task has asked once is kept on the host, for C(host_state) to ask with the rest.

An answer is taken for as long as nothing has changed on the host in this run. Nobody can tell that but the process that every task is forked
from; there the callback C(redoubt.django.preload) keeps the answers, and without it each task asks for itself.

A question is of one of two kinds. `look` has a line for each thing that is looked at, and all of that kind are answered together: C(at PATH), what
is there; C(in PATH), everything below; C(user NAME) and C(group NAME), their entries; C(same SIZE SHA256  PATH), whether that is the content. C(/) is
always looked at. `sh` is a shell's input.
"""

from __future__ import annotations

import hashlib
import os
import typing as t

from ansible.plugins.action import ActionBase

# The answers by the names of hosts in the inventory, and by the SHA-256 of the question (kept as C(preload) does).
ANSWERS: dict[str, dict[str, str]] = {}
FOLDER = "/var/lib/redoubt/questions"
# Days after which a question is forgotten; a task that still asks it puts it there again.
FORGOTTEN = 30
# Seconds for all contents: what is there may be any size.
PATIENCE = 20
FIELDS = ("path", "kind", "mode", "owner", "group", "size", "target")
# Its parameters are files of questions of the first kind; none is its input. The contents are compared here: no hash of a secret leaves the host.
LOOK = f"""
set +e
exec 2>/dev/null
export LC_ALL=C
data=$(cat -- "$@")
of() {{
    printf '%s\\n' "$data" | sed -n "s/^$1 //p" | sort -u
}}
# A terminal would have find write names otherwise. It says 1 where something is not there; after anything else the answer is not whole.
paths() {{
    tr '\\n' '\\0' | {{
        find -files0-from - "$@" || test $? = 1 || printf 'failed\\0'
    }} | cat
}}
show='%p\\0%y\\0%m\\0%U\\0%G\\0%s\\0%l\\0'
printf '%s\\0' "$(id -u)" "$(id -g)"
printf '%s\\0' "$(of user | xargs -r -d '\\n' getent passwd)" "$(of group | xargs -r -d '\\n' getent group)"
{{
    echo /
    of at
}} | paths -maxdepth 0 -printf "$show"
of in | paths -mindepth 1 -printf "$show"
# What is no file may never end, and what has another size may take long.
same=$({{
    of same | sed 's/^[0-9]* .\\{{66\\}}//' | paths -maxdepth 0 -type f -printf 'is %s %p\\n'
    of same | sed 's/^/if /'
}} | awk '
    {{ size = $2; rest = substr($0, 5 + length(size)) }}
    $1 == "is" {{ is[size " " rest] }}
    $1 == "if" && (size " " substr(rest, 67)) in is {{ print rest }}
' | timeout {PATIENCE} sha256sum --check --strict)
printf 'same\\0%s\\0' "$same"
"""


def ask(action: ActionBase, kind: str, question: str, about: str, task_vars: dict[str, t.Any]) -> str | None:
    """What the host says to a question; none where it fails.

    C(about) names what it is about, so that a question takes the place of an earlier one about the same.
    """
    if not action._connection.is_pipelining_enabled():
        return None
    ours = is_ours(action)
    known = ANSWERS.get(task_vars.get("inventory_hostname", ""), {}) if ours else {}
    if (answer := known.get(digest(question))) is not None:
        return answer
    name = f"{digest(about)}.{kind}" if ours and not action._task.check_mode else ""
    said = action._low_level_execute_command(command(kind, name), sudoable=True, in_data=question.encode())
    return said["stdout"] if said["rc"] == 0 else None


def by_question(answers: list[dict[str, t.Any]]) -> dict[str, str]:
    """The answers that host_state returns, each with the questions that it is the answer to."""
    return {question: each["answer"] for each in answers for question in each["questions"]}


def parsed(answer: str) -> tuple[list[str], list[tuple[str, ...]], set[str]]:
    """An answer of the first kind: who was asked (uid, gid) and the entries of users and groups, what is there (C(FIELDS)), and which contents are the same.

    It raises ValueError where the answer is not whole.
    """
    # The last field is what follows the last zero: nothing.
    *said, mark, same, end = answer.split("\0")
    entries = list(zip(*[iter(said[4:])] * len(FIELDS), strict=True))
    if (mark, end) != ("same", "") or not any(path == "/" for path, *_ in entries):
        raise ValueError("the answer is not whole")
    return said[:4], entries, {line.removesuffix(": OK") for line in same.split("\n") if line.endswith(": OK")}


def is_ours(action: ActionBase) -> bool:
    """Whether it is the host's own root who is asked: what another host or user says is another answer. Nothing is kept on the controller."""
    user = action.get_become_option("become_user") or action._get_remote_user()
    return user == "root" and not action._task.delegate_to and action._connection.transport != "local"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def command(kind: str, name: str) -> str:
    """What answers its input; with a name the question is kept under it."""
    source = f"{FOLDER}/{name}" if name else ""
    keep = (f"mkdir -p -m 0755 {os.path.dirname(FOLDER)} && umask 077 && mkdir -p {FOLDER} && cd {FOLDER} && find . -type f -mtime +{FORGOTTEN} -delete"
            f" && cat >.{name} && mv .{name} {name} && cd / || exit 1\n") if name else ""
    # Ansible puts something behind a command, in the same line.
    return keep + (f"set -- {source}\n{LOOK.strip()}" if kind == "look" else f"exec /bin/sh {source}")
