# Copyright: (c) 2026, Redoubt maintainers
# MIT License (see LICENSE)

"""Find out, from what a host has told at once, which roles have nothing to do there: a fork for each of their tasks costs more than the answers.

The roles' own tasks are run in check mode, in the process that has the answers and without the host. A role is settled where each of its tasks is
skipped by its condition, or knows its state from the answers and would change nothing. Whatever else happens, the role runs as ever.
"""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.executor.process import worker
from ansible.executor.task_executor import TaskExecutor
from ansible.playbook.block import Block
from ansible.playbook.play import Play
from ansible.playbook.role import Role
from ansible.playbook.task import Task
from ansible.template import Templar

# What can know its state without the host (C(asked), and the option O(redoubt.django.units#module:seen)).
KNOWING = ("redoubt.django.tree", "redoubt.django.units", "redoubt.django.once", "redoubt.django.host_certificate")
# What does nothing where nothing was notified, and what marks the end of a role.
IDLE = ("flush_handlers", "role_complete")
# The run's plays, and the settled roles by the names of hosts in the inventory: both kept by the callback C(redoubt.django.preload).
PLAYS: list[Play] = []
SETTLED: dict[str, list[str]] = {}


class WithoutHost(TaskExecutor):
    """A task that must know its state without the host, and has nothing to tell of its items."""

    def _get_connection(self, *args: t.Any, **kwargs: t.Any) -> t.Any:
        connection = super()._get_connection(*args, **kwargs)
        connection.exec_command = connection.put_file = connection.fetch_file = refuse
        return connection

    # Behind the task's condition: what is skipped without the host in check mode is not skipped otherwise.
    def _get_action_handler_with_module_context(self, *args: t.Any, **kwargs: t.Any) -> t.Any:
        if self._task.resolved_action not in KNOWING:
            refuse()
        return super()._get_action_handler_with_module_context(*args, **kwargs)

    def _run_loop(self, *_args: t.Any, **_kwargs: t.Any) -> t.NoReturn:
        refuse()


def refuse(*_args: t.Any, **_kwargs: t.Any) -> t.NoReturn:
    raise AnsibleConnectionFailure("The host is not asked for what may be to do.")


def settled(roles: list[str], known: dict[str, t.Any], facts: dict[str, t.Any]) -> list[str]:
    """The first of the roles, as far as they have nothing to do; behind one that has, another may have because of it.

    C(known) are variables that are registered by now, and C(facts) the host's own.
    """
    process = worker.current_worker
    if process is None or not roles:
        return []
    found: list[str] = []
    for role in roles:
        parts = [(play, tasks) for play in PLAYS if (tasks := list(tasks_of(play, role))) and concerns(process, play)]
        try:
            if not all(is_settled(process, play, tasks, known, facts) for play, tasks in parts):
                break
        except AnsibleError:
            break
        # Where it is in no play of the host nothing was seen of it.
        found += [role] if parts else []
    return found


def concerns(process: worker.WorkerProcess, play: Play) -> bool:
    """Whether a play is the host's too, as far as is known before it begins."""
    variables = process._variable_manager.get_vars(play=play)
    try:
        hosts = Templar(loader=process._loader, variables=variables).template(play.hosts)
    except AnsibleError:
        return True
    return process._host in process._variable_manager._inventory.get_hosts(hosts)


def tasks_of(play: Play, role: str) -> t.Iterator[Task]:
    """What a play has of a role's tasks and of those that it depends on, in their order, but for those that only follow an error."""
    def inside(each: Block | Task) -> t.Iterator[Task]:
        if isinstance(each, Block):
            for item in each.block + each.always:
                yield from inside(item)
        elif each._role and role in (whose.get_name(include_role_fqcn=True) for whose in (each._role, *(each.get_dep_chain() or []))):
            yield each

    for block in [*play.pre_tasks, *play._compile_roles(), *play.tasks, *play.post_tasks]:
        yield from inside(block)


def is_settled(process: worker.WorkerProcess, play: Play, tasks: list[Task], known: dict[str, t.Any], facts: dict[str, t.Any]) -> bool:
    """Whether none of the tasks changes anything; what one registers is known to those that follow."""
    # A playbook from elsewhere has its files and variables there, and nobody knows what will be answered.
    if play._included_path != process._task.get_play()._included_path or play.vars_prompt:
        return False
    ended: list[Role] = []
    for task in tasks:
        if any(task._role is role for role in ended):
            continue
        tried = task.copy(exclude_parent=True)
        tried._parent = task._parent
        variables = {**process._variable_manager.get_vars(play=play, host=process._host, task=tried), **known}
        variables["ansible_facts"] = {**variables.get("ansible_facts", {}), **facts}
        if task.resolved_action == "ansible.builtin.meta":
            if task.args.get("_raw_params") == "end_role":
                ended += [task._role] if tried._resolve_conditional(tried.when, variables) else []
            elif task.args.get("_raw_params") not in IDLE:
                return False
            continue
        if task.until or task.async_val:
            return False
        tried.check_mode = True
        tried.changed_when = tried.failed_when = []
        result = WithoutHost(process._host, tried, variables, process._play_context.copy(), process._loader, process._shared_loader_obj,
                             process._final_q, process._variable_manager).run()
        if task.register:
            known[task.register] = result
        if any(result.get(what) for what in ("changed", "failed", "unreachable")):
            return False
        if task.resolved_action not in KNOWING and not result.get("skipped"):
            return False
    return True
