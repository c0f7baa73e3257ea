# Copyright: (c) 2026, Redoubt maintainers
# MIT License (see LICENSE)

"""Find out, from what a host has told at once, which roles have nothing to do there: a fork for each of their tasks costs more than the answers.

The roles' own tasks are run in check mode, in the process that has the answers and without the host. A role is settled where each of its tasks is
skipped by its condition, or knows its state from the answers and would change nothing. Whatever else happens, the role runs as ever.
"""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import os
import signal
import socket
import typing as t

from ansible._internal._task import TaskContext
from ansible._internal._templating._jinja_bits import _TEMPLATE_OVERRIDE_FIELD_NAMES, AnsibleEnvironment, _TemplateCompileContext
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.executor.process import worker
from ansible.executor.task_executor import TaskExecutor
from ansible.inventory.host import Host
from ansible.playbook.block import Block
from ansible.playbook.play import Play
from ansible.playbook.play_context import PlayContext
from ansible.playbook.role import Role
from ansible.playbook.task import Task
from ansible.plugins import loader as plugins
from ansible.template import Templar
from ansible.utils.display import Display
from ansible.utils.multiprocessing import context as multiprocessing_context
from ansible_collections.redoubt.django.plugins.plugin_utils.asked import ANSWERS, by_question

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


class Search:
    """Looks ahead for hosts of a play, and keeps for the next what is the same for all: whose the plays are, and the tasks of the roles."""

    def __init__(self, play: Play, context: PlayContext) -> None:
        self.play, self.context = play, context
        self.manager, self.loader = play.get_variable_manager(), play.get_loader()
        self.hosts: dict[Play, list[Host] | None] = {}
        self.parts: dict[str, list[tuple[Play, list[Task]]]] = {}

    def settled(self, host: Host, roles: list[str], known: dict[str, t.Any], facts: dict[str, t.Any]) -> list[str]:
        """The first of the roles, as far as they have nothing to do; behind one that has, another may have because of it.

        C(known) are variables that are registered by now, and C(facts) the host's own.
        """
        found: list[str] = []
        for role in roles:
            if role not in self.parts:
                self.parts[role] = [(play, tasks) for play in PLAYS if (tasks := list(tasks_of(play, role)))]
            parts = [(play, tasks) for play, tasks in self.parts[role] if self.concerns(play, host)]
            try:
                if not all(self.is_settled(play, host, tasks, known, facts) for play, tasks in parts):
                    break
            except AnsibleError:
                break
            # Where it is in no play of the host nothing was seen of it.
            found += [role] if parts else []
        return found

    def concerns(self, play: Play, host: Host) -> bool:
        """Whether a play is the host's too, as far as is known before it begins."""
        if play not in self.hosts:
            try:
                hosts = Templar(loader=self.loader, variables=self.manager.get_vars(play=play)).template(play.hosts)
                self.hosts[play] = self.manager._inventory.get_hosts(hosts)
            except AnsibleError:
                self.hosts[play] = None
        hosts = self.hosts[play]
        return hosts is None or host in hosts

    def is_settled(self, play: Play, host: Host, tasks: list[Task], known: dict[str, t.Any], facts: dict[str, t.Any]) -> bool:
        """Whether none of the tasks changes anything; what one registers is known to those that follow."""
        # A playbook from elsewhere has its files and variables there, and nobody knows what will be answered.
        if play._included_path != self.play._included_path or play.vars_prompt:
            return False
        ended: list[Role] = []
        for task in tasks:
            if any(task._role is role for role in ended):
                continue
            tried = task.copy(exclude_parent=True)
            tried._parent = task._parent
            variables = {**self.manager.get_vars(play=play, host=host, task=tried), **known}
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
            with TaskContext(tried):
                result = WithoutHost(host, tried, variables, self.context.copy(), self.loader, plugins, None, self.manager).run()
            if task.register:
                known[task.register] = result
            if any(result.get(what) for what in ("changed", "failed", "unreachable")):
                return False
            if task.resolved_action not in KNOWING and not result.get("skipped"):
                return False
        return True


class Searchers:
    """Processes that look ahead for the hosts of a task: they compile once what each host's own process would compile for itself.

    There is one for each core that this process may use, but not more than hosts. It raises OSError where not all can be made; those that are do it. They
    end with C(end), or with the process that has made them.
    """

    running: Searchers | None = None
    # Seconds to wait for one that is free; whoever waits longer looks ahead itself.
    PATIENCE = 5

    def __init__(self, play: Play, context: PlayContext, hosts: int) -> None:
        self.entrance, questions = socket.socketpair(type=socket.SOCK_SEQPACKET)
        self.processes: list[multiprocessing.Process] = []
        Searchers.running = self
        with questions:
            for _ in range(min(hosts, len(os.sched_getaffinity(0)))):
                process = multiprocessing_context.Process(target=self.serve, args=(questions, play, context), daemon=True)
                # As for Ansible's own forks: what another thread holds here is held in a fork for ever.
                with Display()._lock:
                    process.start()
                self.processes.append(process)

    def serve(self, questions: socket.socket, play: Play, context: PlayContext) -> None:
        """What each of the processes does, until nobody holds the entrance."""
        self.entrance.close()
        # As in Ansible's own forks: what a lookup starts has no terminal, is not heard, and ends with it.
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: os.killpg(0, signal.SIGKILL))
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nothing, stream)
        compile_once()
        search = Search(play, context)
        inventory = play.get_variable_manager()._inventory
        while (received := socket.recv_fds(questions, 1, 1))[0]:
            with multiprocessing.connection.Connection(*received[1]) as connection, contextlib.suppress(OSError, EOFError):
                connection.send("free")
                name, answers, roles, known, facts = connection.recv()
                ANSWERS[name] = by_question(answers)
                connection.send(search.settled(inventory.get_host(name), roles, known, facts))

    def settled(self, *question: t.Any) -> list[str] | None:
        """What one of them says, asked by a host's own process; none where none is free, or it has come to an end over the question."""
        with contextlib.suppress(OSError, EOFError):
            ours, theirs = multiprocessing.Pipe()
            with ours:
                with theirs:
                    socket.send_fds(self.entrance, [b"?"], [theirs.fileno()])
                if ours.poll(self.PATIENCE):
                    ours.recv()
                    ours.send(question)
                    return ours.recv()
        return None

    def end(self) -> None:
        Searchers.running = None
        self.entrance.close()
        for process in self.processes:
            if process.is_alive():
                # It may not have got as far as to lead a group.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.kill()
            process.join()


def settled(answers: list[dict[str, t.Any]], roles: list[str], known: dict[str, t.Any], facts: dict[str, t.Any]) -> list[str]:
    """What C(Search) says of the host of the task that is run."""
    process = worker.current_worker
    if process is None or not roles:
        return []
    name = process._host.get_name()
    found = Searchers.running.settled(name, answers, roles, known, facts) if Searchers.running else None
    if found is None:
        ANSWERS[name] = by_question(answers)
        found = Search(process._task.get_play(), process._play_context).settled(process._host, roles, known, facts)
    return found


def compile_once() -> None:
    """From now on compile each template once in this process. Ansible does so for every task and host, which takes half of the time."""
    compiled: dict[tuple[t.Any, ...], t.Any] = {}
    compile_ = AnsibleEnvironment.compile

    def known(self: AnsibleEnvironment, source: t.Any, *args: t.Any, **kwargs: t.Any) -> t.Any:
        if not isinstance(source, str):
            return compile_(self, source, *args, **kwargs)
        # Whatever else Ansible's lexer and parser go by.
        context = _TemplateCompileContext.current(optional=True)
        overrides = [getattr(self, name) for name in _TEMPLATE_OVERRIDE_FIELD_NAMES]
        key = (str(source), args, *kwargs.items(), context and context.escape_backslashes, *overrides)
        if key not in compiled:
            compiled[key] = compile_(self, source, *args, **kwargs)
        return compiled[key]

    AnsibleEnvironment.compile = known


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
