# Copyright: (c) 2026, Redoubt maintainers
# MIT License (see LICENSE)

"""Find out, from what a host has told at once, which roles have nothing to do there: a fork for each of their tasks costs more than the answers.

The roles' own tasks are run in check mode, in the process that has the answers and without the host. A role is settled where each of its tasks is
skipped by its condition, or knows its state from the answers and would change nothing. Whatever else happens, the role runs as ever.
"""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleConnectionFailure
from ansible.executor.process import worker
from ansible.executor.task_executor import TaskExecutor
from ansible.playbook.block import Block
from ansible.playbook.play import Play
from ansible.playbook.task import Task
from ansible.template import Templar

# What can know its state without the host (C(asked), and the option O(redoubt.django.units#module:seen)).
KNOWING = ("redoubt.django.tree", "redoubt.django.units", "redoubt.django.once", "redoubt.django.host_certificate")
# Those that do nothing where nothing was notified; the condition that this is about; the end of a role.
IDLE = ("flush_handlers", "end_role", "role_complete")
# The run's plays, and the settled roles by the names of hosts in the inventory: both kept by the callback C(redoubt.django.preload).
PLAYS: list[Play] = []
SETTLED: dict[str, list[str]] = {}


class WithoutHost(TaskExecutor):
    """A task that must do without the host, and without telling of its items."""

    def _get_connection(self, *args: t.Any, **kwargs: t.Any) -> t.Any:
        connection = super()._get_connection(*args, **kwargs)
        connection.exec_command = connection.put_file = connection.fetch_file = refuse
        return connection

    def _run_loop(self, *_args: t.Any, **_kwargs: t.Any) -> t.NoReturn:
        refuse()


def refuse(*_args: t.Any, **_kwargs: t.Any) -> t.NoReturn:
    raise AnsibleConnectionFailure("The host is not asked for what may be to do.")


def settled(roles: list[str], known: dict[str, t.Any], facts: dict[str, t.Any]) -> list[str]:
    """The first of the roles, as far as they have nothing to do or do not concern the host; behind one that has, another may have because of it.

    C(known) are variables that are registered by now, and C(facts) the host's own.
    """
    process = worker.current_worker
    if process is None:
        return []
    plays = [play for play in PLAYS if concerns(process, play)]
    found: list[str] = []
    for role in roles:
        for play in plays:
            tasks = list(tasks_of(play, role))
            # That a play has it elsewhere than among its tasks is no reason to leave it.
            if not tasks and any(each.get_name(include_role_fqcn=True) == role for each in play.roles):
                return found
            if not all(is_idle(process, play, task, known, facts) for task in tasks):
                return found
        found.append(role)
    return found


def concerns(process: worker.WorkerProcess, play: Play) -> bool:
    """Whether a play that has not begun is the host's too."""
    hosts = Templar(loader=process._loader, variables=process._task_vars).template(play.hosts)
    return process._host in process._variable_manager._inventory.get_hosts(hosts)


def tasks_of(play: Play, role: str) -> t.Iterator[Task]:
    """What a play has of a role's tasks, in their order, but for those that only follow an error."""
    def inside(each: Block | Task) -> t.Iterator[Task]:
        if isinstance(each, Block):
            for item in each.block + each.always:
                yield from inside(item)
        elif each._role and each._role.get_name(include_role_fqcn=True) == role:
            yield each

    for block in play.tasks:
        yield from inside(block)


def is_idle(process: worker.WorkerProcess, play: Play, task: Task, known: dict[str, t.Any], facts: dict[str, t.Any]) -> bool:
    """Whether a task changes nothing; what it registers is known to those that follow."""
    if task.resolved_action == "ansible.builtin.meta":
        return task.args.get("_raw_params") in IDLE
    if task.until or task.async_val:
        return False
    tried = task.copy(exclude_parent=True)
    tried._parent = task._parent
    tried.check_mode = True
    variables = {**process._variable_manager.get_vars(play=play, host=process._host, task=tried), **known}
    variables["ansible_facts"] = {**variables.get("ansible_facts", {}), **facts}
    result = WithoutHost(process._host, tried, variables, process._play_context.copy(), process._loader, process._shared_loader_obj,
                         process._final_q, process._variable_manager).run()
    if task.register:
        known[task.register] = result
    if any(result.get(what) for what in ("changed", "failed", "unreachable")):
        return False
    return bool(result.get("skipped")) or task.resolved_action in KNOWING
