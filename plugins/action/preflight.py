# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""Validate the whole inventory on the controller, before the first change on any host."""

from __future__ import annotations

import collections
import os
import re
import typing as t

import jinja2
from ansible.errors import AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase
from ansible_collections.redoubt.django.plugins.plugin_utils import contract, secret_needs, sources

try:  # where a value was written; a private interface, so that its absence only costs the file names in the sentences
    from ansible._internal._datatag._tags import Origin
except ImportError:  # pragma: no cover
    Origin = None

UNDEFINED = re.compile(r"'(\w+)' is undefined")
# Rendered for the rules that compare them with our own variables.
CONNECTION = ("ansible_user", "ansible_connection", "ansible_host", "ansible_port")


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec({"facts": {"type": "bool", "default": False}, "replaces": {"type": "str", "default": ""}, "only": {"type": "str", "default": ""}})
        self.replaces, self.only = arguments["replaces"], arguments["only"]
        mistakes = self.platforms(task_vars) if arguments["facts"] else self.alone(task_vars) if self.only else self.inventory(task_vars)
        result["changed"] = False
        if len(mistakes) == 1:
            result.update(failed=True, msg=mistakes[0])
        elif mistakes:
            result.update(
                failed=True,
                msg=f"{len(mistakes)} things must be corrected before anything is touched.",
                mistakes="\n".join(f"- {mistake}" for mistake in mistakes),
            )
        return result

    # --- The operating system, from gathered facts -------------------------------------------------------------------

    def platforms(self, task_vars: dict) -> list[str]:
        mistakes, majors, packages = [], {}, {}
        for host in task_vars["ansible_play_hosts"]:
            variables = self.host_vars(task_vars, host)
            facts = variables.get("ansible_facts") or {}
            majors[host] = str(facts.get("distribution_major_version"))
            packages[host] = (variables.get("site_host_state") or {}).get("packages") or []
            sentence = contract.check_platform(facts.get("distribution"), facts.get("distribution_major_version"))
            if sentence:
                mistakes.append(f"{host} {sentence}.")
        groups = task_vars["groups"]
        return mistakes or [f"{sentence}." for sentence in (*contract.check_backup_platforms(groups, majors), *contract.check_postgres(groups, majors, packages))]

    # --- One role ----------------------------------------------------------------------------------------------------

    def alone(self, task_vars: dict) -> list[str]:
        """What one role is told, where the rest of the inventory may be half edited."""
        report, shared, roles = Report(task_vars["ansible_play_hosts_all"]), Shared(), {self.only: secret_needs.roles(self._loader)[self.only]}
        for host in report.hosts:
            checked = HostCheck(self, task_vars, host, [], roles, shared)
            for problem in checked.stated():
                report.add(f"{problem.name} {problem.sentence}", host, checked.place(problem))
        return report.sentences()

    # --- The inventory -----------------------------------------------------------------------------------------------

    def inventory(self, task_vars: dict) -> list[str]:
        groups = task_vars["groups"]
        # localhost is in the play so that an inventory without hosts does not pass for one with nothing to do.
        hosts = [host for host in task_vars["ansible_play_hosts_all"] if host in groups["all"]]
        roles = secret_needs.roles(self._loader)
        report = Report(hosts)
        inventory = [str(source) for source in task_vars.get("ansible_inventory_sources") or []]
        for sentence in sources.check_twice(inventory):
            report.add(sentence)
        for sentence in contract.check_groups(groups, hosts):
            report.add(sentence)
        fleet = contract.is_fleet(groups)
        rendered, checks, shared = {}, [], Shared()
        places: dict[str, set[str]] = collections.defaultdict(set)
        for host in hosts:
            checked = HostCheck(self, task_vars, host, [name for name in groups if host in groups[name]], roles, shared)
            rendered[host] = checked.values
            report.secrets.update(checked.secrets())
            for problem in checked.problems():
                report.add(f"{problem.name} {problem.sentence}", host, checked.place(problem))
            checks.append((host, checked))
            for name, value in checked.raw.items():
                origin = Origin.get_tag(value) if Origin else None
                if origin and origin.path:
                    places[origin.path].add(name)
        for sentence in sources.check_environments(inventory, places):
            report.add(sentence)
        # Where one host's rule has refused a value, the name that it has in the vault is not a second mistake, on no host.
        said = set().union(*(checked.said for _, checked in checks))
        ours = set().union(*(checked.ours() for _, checked in checks))
        for host, checked in checks:
            vault = {name: contract.literal(checked.raw.get(name), value) for name, value in checked.values.items() if name.startswith("vault_")}
            for problem in contract.check_vault(vault, said, ours, checked.raw.get("accepted_secrets")):
                report.add(f"{problem.name} {problem.sentence}", host, checked.place(problem))
        self.across_hosts(rendered, groups, report, fleet)
        for sentence in contract.check_fleet(groups, rendered) if fleet else contract.check_addresses(groups, rendered) if groups.get("backups") or groups.get("logs") else []:
            report.add(sentence)
        return report.sentences()

    @staticmethod
    def across_hosts(rendered: dict[str, dict], groups: dict, report: Report, fleet: bool) -> None:
        served = collections.defaultdict(list)
        address = collections.defaultdict(list)
        for host, values in rendered.items():
            domains = values.get("app_domains")
            if host in groups.get("web", []) and isinstance(domains, list):
                for domain in {str(domain) for domain in domains}:
                    served[domain].append(host)
            if values.get("ansible_host"):
                address[values["ansible_host"], str(values.get("ansible_port", 22))].append(host)
        for domain, hosts in sorted(served.items()):
            if len(hosts) > 1 and not fleet:
                report.add(f"{domain} is in app_domains of {contract.listed(hosts)}, which have a database each: leave it to one of them, or leave one "
                           "host in db, which is then the database of all")
        for (name, port), hosts in sorted(address.items()):
            if len(hosts) > 1:
                report.add(f"{contract.listed(hosts)} are the same machine ({name}, port {port}): keep one name, in all its groups")

    def host_vars(self, task_vars: dict, host: str) -> dict:
        """What the host's variables are in this play, not rendered."""
        hostvars = task_vars["hostvars"]
        try:  # with the play's own vars and vars_files, which hostvars lack
            manager, play = hostvars._variable_manager, self._task._parent._play
            variables = manager.get_vars(play=play, host=hostvars._inventory.get_host(host), include_hostvars=False)
        except AttributeError:
            variables = hostvars.raw_get(host)
        return {**variables, "hostvars": hostvars}


class Report:
    """The sentences, each once, with the hosts and the place it is true of; secret values are blotted out."""

    def __init__(self, hosts: list[str]) -> None:
        self.hosts = hosts
        self.secrets: set[str] = set()
        self.found: dict[tuple[str, str], list[str]] = {}

    def add(self, sentence: str, host: str | None = None, place: str = "") -> None:
        hosts = self.found.setdefault((sentence.rstrip("."), place), [])
        if host and host not in hosts:
            hosts.append(host)

    def sentences(self) -> list[str]:
        return [self.finish(sentence, place, hosts) for (sentence, place), hosts in self.found.items()]

    def finish(self, sentence: str, place: str, hosts: list[str]) -> str:
        for secret in sorted(self.secrets, key=len, reverse=True):
            sentence = sentence.replace(secret, "********")
        shown = contract.listed(hosts if len(hosts) < 4 else [*hosts[:3], f"{len(hosts) - 3} more"]) if hosts else ""
        where = ", ".join(part for part in (place, shown) if part)
        end = "" if sentence.endswith("?") else "."
        return f"{sentence}{end}{f' ({where})' if where else ''}"


class Shared:
    """What was rendered for one host, for the others on which the variable and all that it is made of are the same."""

    # What takes a variable by a name that only rendering shows, or from a file.
    HIDDEN = frozenset({"lookup", "query", "q", "vars", "varnames"})
    FILES = (jinja2.nodes.Include, jinja2.nodes.Import, jinja2.nodes.FromImport, jinja2.nodes.Extends)

    def __init__(self) -> None:
        self.environment = jinja2.Environment(extensions=["jinja2.ext.do", "jinja2.ext.loopcontrols"])
        self.different: dict[str, list[t.Any]] = collections.defaultdict(list)
        self.named: dict[tuple[str, int], frozenset[str] | None] = {}
        self.results: dict[tuple, tuple] = {}

    def once(self, name: str, variables: dict, render: t.Callable[[str], tuple]) -> tuple:
        made_of = self.made_of(name, variables)
        if made_of is None:
            return render(name)
        if (name, made_of) not in self.results:
            self.results[name, made_of] = render(name)
        return self.results[name, made_of]

    def made_of(self, name: str, variables: dict) -> frozenset | None:
        """The names that it leads to, with which of its different values each has here; None where that cannot be told."""
        found, left = {}, [name]
        while left:
            each = left.pop()
            if each in found:
                continue
            found[each] = None
            if each in variables:
                found[each] = which = self.which(each, variables[each])
                if (each, which) not in self.named:
                    self.named[each, which] = self.names(variables[each])
                if self.named[each, which] is None:
                    return None
                left += self.named[each, which]
        return frozenset(found.items())

    def which(self, name: str, value: t.Any) -> int:
        known = self.different[name]
        for index, other in enumerate(known):
            # Written in one place, or the same text: 1 is not true, and of two equal templates one may be marked as unsafe.
            if other is value or (type(other) is type(value) and repr(other) == repr(value) and not any(self.template(leaf) for leaf in contract.leaves(value))):
                return index
        known.append(value)
        return len(known) - 1

    @staticmethod
    def template(text: str) -> bool:
        return "{{" in text or "{%" in text or text.startswith("#jinja2:")

    def names(self, value: t.Any) -> frozenset[str] | None:
        """The names in the templates of a value."""
        found: set[str] = set()
        for leaf in contract.leaves(value):
            if not self.template(leaf):
                continue
            try:
                tree = self.environment.parse(leaf)
            except jinja2.TemplateSyntaxError:
                return None
            found.update(node.name for node in tree.find_all(jinja2.nodes.Name))
            if leaf.startswith("#jinja2:") or not found.isdisjoint(self.HIDDEN) or next(tree.find_all(self.FILES), None):
                return None
        return frozenset(found)


class HostCheck:
    """One host: its variables rendered, and everything that is wrong with them."""

    def __init__(self, action: ActionModule, task_vars: dict, host: str, groups: list[str], roles: dict[str, dict], shared: Shared) -> None:
        self.raw = action.host_vars(task_vars, host)
        self.replaces = action.replaces
        authority = contract.is_fleet(task_vars["groups"]) or self.raw.get("app_admin_client_ca") == "environment"
        self.roles = roles if action.only else {name: role for name, role in roles.items() if name in contract.roles_of(groups, authority, *(bool(task_vars["groups"].get(name)) for name in ("backups", "logs")))}
        self.all_roles = roles
        self.options = {key: spec for role in self.roles.values() for key, spec in role["specs"]["main"].get("options", {}).items()}
        self.defaults = {key: value for role in roles.values() for key, value in role["defaults"].items()}
        self.available = {**self.defaults, **self.raw}
        # What is rendered already stands here in the place of its template, so that nothing made of it renders it again.
        scope = dict(self.available)
        self.templar = action._templar.copy_with_new_env(available_variables=scope)
        self.values: dict[str, t.Any] = {}
        self.failed: dict[str, list[AnsibleError]] = {}
        self.meant: set[str] = set()  # what misspelt variables seem to stand for
        self.said: set[str] = set()  # values that a rule has complained of
        wanted = [*self.options, *(() if action.only else (*CONNECTION, *(name for name in self.raw if name.startswith("vault_"))))]
        for name in wanted:
            if name in self.available:
                value, errors = shared.once(name, self.available, self.render)
                if errors:
                    self.failed[name] = errors
                else:
                    self.values[name] = scope[name] = value

    def render(self, name: str) -> tuple[t.Any, list[AnsibleError]]:
        try:
            return self.templar.template(self.available[name]), []
        except AnsibleError as error:
            return None, list(self.errors(self.available[name])) or [error]

    def errors(self, value: t.Any) -> t.Iterator[AnsibleError]:
        """Of each part of a value: Ansible stops at the first."""
        if isinstance(value, (dict, list)):
            for item in value.values() if isinstance(value, dict) else value:
                yield from self.errors(item)
            return
        try:
            self.templar.template(value)
        except AnsibleError as error:
            yield error

    # --- Secrets and places ------------------------------------------------------------------------------------------

    def is_secret(self, name: str, path: tuple = ()) -> bool:
        """Whether this part of a value came from the vault, or its role says that it is none of a log's business."""
        if name.startswith("vault_") or self.options.get(name, {}).get("no_log"):
            return True
        raw = self.available.get(name)
        for step in path:
            try:
                raw = raw[step]
            except (LookupError, TypeError):
                break
        return any("vault_" in leaf for leaf in contract.leaves(raw))

    def ours(self) -> set[str]:
        """Values that a role calls secret, and that nobody else gives out."""
        names = [name for name, spec in self.options.items() if spec.get("no_log") and spec.get("type") == "str" and not contract.foreign(name)]
        return {str(self.values[name]) for name in names if isinstance(self.values.get(name), str) and self.values[name]}

    def secrets(self) -> set[str]:
        """Values that no sentence may hold. Shorter ones would blot out ordinary words, and are refused anyway."""
        found = set()
        for name, value in self.values.items():
            found.update(leaf for path, leaf in paths(value) if len(leaf) >= 6 and self.is_secret(name, path))
        return found

    def place(self, problem: contract.Problem) -> str:
        """`file:line` of the nearest part of the raw value that knows where it was written."""
        if Origin is None or problem.variable not in self.raw:
            return ""
        value = self.raw[problem.variable]
        # The name itself was first written where the variable has its lowest precedence: right for a variable that
        # should not be there at all, misleading for the others.
        origin = Origin.get_tag(value)
        if not origin and problem.variable not in self.options:
            origin = Origin.get_tag(next(name for name in self.raw if name == problem.variable))
        for step in problem.path:
            try:
                value = value[step]
            except (LookupError, TypeError):
                break
            origin = Origin.get_tag(value) or origin
        if not origin:
            return ""
        path = origin.path
        if not path:
            return (origin.description or "").strip("<>")
        return f"{shorten(path)}:{origin.line_num}" if origin.line_num else shorten(path)

    def vault_file(self) -> str:
        sources = [self.raw.get("inventory_dir"), *(self.raw.get("ansible_inventory_sources") or [])]
        folders = [os.path.join(str(source), "group_vars", "all") for source in sources if source]
        folder = next((folder for folder in folders if os.path.isdir(folder)), folders[0] if folders else "group_vars/all")
        return shorten(os.path.join(folder, "vault.yml"))

    # --- Problems ----------------------------------------------------------------------------------------------------

    def problems(self) -> t.Iterator[contract.Problem]:
        derived = list(self.unrendered(defaults=True))
        found = 0
        for problem in self.stated():
            found += 1
            yield problem
        if not found:  # a default of ours that cannot be rendered follows from a mistake above, when there is one
            yield from derived

    def stated(self) -> t.Iterator[contract.Problem]:
        """Problems of what the inventory says, not of what was derived from it."""
        yield from self.unknown()
        yield from self.unrendered(defaults=False)
        bad = set()
        for name, spec in self.options.items():
            for problem in self.typed(name, spec):
                bad.add(name)
                yield problem
        for problem in contract.check_rules(self.values, skip=bad, replaces=self.replaces):
            self.said.update(contract.leaves(self.values[problem.variable]))
            # The rules show what they complain of; a value that came from the vault is blotted out as a whole.
            if self.is_secret(problem.variable, problem.path):
                problem = contract.Problem(problem.variable, re.sub(r"^(is|names) (['\"]).*?\2", r"\1 not as it should be", problem.sentence), problem.path)
            yield problem
        if not bad:
            yield from self.backstop()

    def unknown(self) -> t.Iterator[contract.Problem]:
        known = {key for role in self.all_roles.values() for entry in role["specs"].values() for key in entry.get("options") or {}}
        prefixes = tuple(f"{role}_" for role in self.all_roles)
        for name in self.raw:
            if name in known or name.startswith(("ansible_", "vault_", "_")):
                continue
            # A name without one of our prefixes may be anybody's, unless it is nearly one of ours.
            ours = name.startswith(prefixes)
            better = contract.nearest(name, known, 0.6 if ours else 0.92)
            if better:
                self.meant.add(better)
                yield contract.Problem(name, f"is no variable of this kit: did you mean {better}?")
            elif ours:
                yield contract.Problem(name, "is no variable of this kit: remove it, or give a variable of your own another prefix")

    def unrendered(self, defaults: bool) -> t.Iterator[contract.Problem]:
        """Values whose template fails; one sentence for each name that is missing, not for each that needs it."""
        users = collections.defaultdict(list)
        for name, errors in self.failed.items():
            if self.wants_facts(name):
                continue  # nothing is gathered yet; the role renders it when there are facts
            for error in errors:
                match = UNDEFINED.search(str(error))
                derived = name not in self.raw and not (match and match[1].startswith("vault_"))
                if derived != defaults:
                    continue
                if match:
                    users[match[1]] += [] if name in users[match[1]] else [name]
                elif "undecryptable" in str(error):
                    yield contract.Problem(name, "cannot be decrypted with the vault password given: give the one it was encrypted with (--vault-id)")
                else:
                    yield contract.Problem(name, f"cannot be rendered: {' '.join(str(error).split())}")
        for missing, names in users.items():
            if self.options.get(missing, {}).get("required") or missing in self.failed:
                continue  # said already: it is missing, or its own template fails
            wanted = contract.listed(names if len(names) < 5 else [*names[:4], "others"])
            if missing.startswith("vault_"):
                sentence = (f"is not defined, but {wanted} take{'s' if len(names) == 1 else ''} it from the vault: playbooks/secrets.yml makes it, or add it with "
                            f"`ansible-vault edit {self.vault_file()}`")
            else:
                sentence = f"is not defined, but {wanted} use{'s' if len(names) == 1 else ''} it{contract.closest(missing, self.available, 0.75) or ': define it, or correct the template'}"
            yield contract.Problem(missing, sentence)

    def wants_facts(self, name: str, seen: frozenset = frozenset()) -> bool:
        words = {word for leaf in contract.leaves(self.available[name]) for word in re.findall(r"\w+", leaf)}
        return "ansible_facts" in words or any(self.wants_facts(word, seen | {name}) for word in words if word in self.failed and word not in {*seen, name})

    def typed(self, name: str, spec: dict) -> t.Iterator[contract.Problem]:
        if name in self.failed:
            return
        if name not in self.values:
            if spec.get("required") and name not in self.meant:
                yield contract.Problem(name, f"is required, {contract.WANTED[spec.get('type', 'str')]}: {contract.first_sentence(spec)}")
            return
        value = self.values[name]
        secret = self.is_secret(name)
        problems = list(contract.check_type(spec, name, value, secret=secret))
        yield from problems
        # An entry point with the name of a variable describes one value of that mapping.
        entry = next((role["specs"][name] for role in self.roles.values() if name in role["specs"] and name != "main"), None)
        if entry and not problems and isinstance(value, dict):
            for key, item in value.items():
                yield from contract.check_type({"type": "dict", "options": entry["options"]}, name, item, (key,), secret)

    def backstop(self) -> t.Iterator[contract.Problem]:
        """What an argument spec can say beyond types (required_if, mutually_exclusive …), by Ansible's own validator."""
        for role in self.roles.values():
            spec = role["specs"]["main"]
            rules = {key: value for key, value in spec.items() if key in ("mutually_exclusive", "required_together", "required_one_of", "required_if", "required_by")}
            if rules:
                options = spec.get("options", {})
                values = {key: value for key, value in self.values.items() if key in options}
                for message in ArgumentSpecValidator(options, **rules).validate(values, validate_role_argument_spec=True).error_messages:
                    yield contract.Problem(contract.listed(options), message)


def paths(value: t.Any, path: tuple = ()) -> t.Iterator[tuple[tuple, str]]:
    """Every text inside a value, and where it is."""
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(item, (*path, key))
    elif isinstance(value, str):
        yield path, str(value)


def shorten(path: str) -> str:
    """Relative to the working directory when it is inside."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
