"""The controller's side of tree, through ansible-playbook on a local connection."""

from __future__ import annotations

import importlib
import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).parents[2]
SECRET = "hunter2-in-a-template"
EXTRA_SECRET = "swordfish-in-an-extra"
BINARY = bytes(range(256)) * 2


class Project:
    """A throw-away playbook with one role, installing into a throw-away root."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.role = folder / "roles" / "demo"
        self.root = folder / "root"
        self.root.mkdir()

    def write(self, path: str, content: str | bytes) -> None:
        full = self.role / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes(content.encode() if isinstance(content, str) else content)

    def read(self, path: str) -> str:
        return (self.root / path).read_text()

    def tasks(self, *tasks: dict) -> None:
        names = ", ".join(f"'{task['register']}': {task['register']}" for task in tasks)
        content = f"{{{{ {{{names}}} | to_json }}}}"
        results = {"dest": str(self.folder / "results.json"), "content": content, "mode": "0644"}
        save = {"ansible.builtin.copy": results, "diff": False}
        self.write("tasks/main.yml", yaml.safe_dump([*tasks, save], sort_keys=False))

    def play(self, *options: str, tasks: list | None = None, **variables: object) -> subprocess.CompletedProcess:
        play = {
            "hosts": "localhost",
            "gather_facts": False,
            "vars": {"root": str(self.root), **variables},
            **({"tasks": tasks} if tasks else {"roles": ["demo"]}),
        }
        playbook = self.folder / "play.yml"
        playbook.write_text(yaml.safe_dump([play], sort_keys=False))
        (self.folder / "no.cfg").touch()
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(self.folder / "no.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(REPO / "collections"),
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
            "ANSIBLE_PIPELINING": "true",
            "ANSIBLE_NOCOLOR": "true",
            "ANSIBLE_LOCALHOST_WARNING": "false",
        }
        command = [Path(sys.executable).with_name("ansible-playbook"), "-c", "local", "-i", "localhost,", *options]
        return subprocess.run([*command, playbook], env=environment, cwd=self.folder, capture_output=True, text=True, check=False)

    def results(self) -> dict[str, dict]:
        return json.loads((self.folder / "results.json").read_text())


def tree(name: str, options: dict, **task: object) -> dict:
    """A tree task whose result, good or bad, ends among the project's results by that name."""
    return {"redoubt.django.tree": {"root": "{{ root }}", **options}, "register": name, "ignore_errors": True, **task}


def new_project(factory: pytest.TempPathFactory) -> Project:
    return Project(factory.mktemp("project"))


# --- what a role gets ---------------------------------------------------------------------------------------------

OPTIONS = {
    "modes": {"etc/app/keys/": "0700", "/etc/app/keys/key": "0600", "usr/bin/tool": "0755", "etc/extra-2": "0640"},
    "secret": ["etc/app/keys/"],
    "when": {"etc/app/off.conf": "{{ off }}", "etc/app/on.conf": "{{ not off }}", "etc/off/": False},
    "purge": ["etc/app"],
    "extra": "{{ extras }}",
    "links": {"/etc/link": "app/app.conf"},
    "folders": [{"path": "/srv/data", "mode": "2750"}],
    "absent": ["etc/old"],
    "before": "",
    "validate": "grep -q . {root}/etc/app/app.conf {root}/etc/extra-1",
}
EXTRAS = [
    {"dest": "/etc/extra-1", "template": "_each/thing", "vars": {"name": "one"}},
    {"dest": "/etc/extra-2", "template": "_each/thing", "vars": {"name": "{{ 1 + 1 }}"}},
    {"dest": "/etc/extra-3", "content": EXTRA_SECRET, "mode": "0600", "secret": True},
]
TEMPLATE = """\
# {{ ansible_managed }}: {{ template_path }}
{% from '_macros/all' import line with context %}
{% for number in range(2) %}
  {% if true %}
{{ line(number) }}
  {% endif %}
{% endfor %}
{{ lookup('template', '_each/nested') | trim }} {{ ['b', 'a'] | sort | join }} {{ nested }}
  \\1 {{ unsafe_braces }} {{ 'ab' | regex_replace('(a)', '\\\\1-') }}
{% include '_each/nested' %}
"""


@pytest.fixture(scope="module")
def converged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, dict[str, dict], str]:
    """Check, converge, converge again, change, all in one play; with everything that it printed."""
    project = new_project(tmp_path_factory)
    project.write("templates/etc/app/app.conf", TEMPLATE)
    project.write("templates/_macros/all", "{% macro line(number) %}line {{ number }} of {{ who }}{% endmacro %}")
    project.write("templates/_each/nested", "nested {{ who }}\n")
    project.write("templates/_each/thing", "thing {{ name }} of {{ who }}\n")
    project.write("templates/etc/app/keys/key", f"{SECRET} {{{{ who }}}}\n")
    project.write("templates/etc/app/off.conf", "{{ not_defined_here }}")
    project.write("templates/etc/off/off.conf", "{{ not_defined_here }}")
    project.write(
        "templates/etc/app/on.conf",
        "#jinja2: variable_start_string:'[%', variable_end_string:'%]'\n[% who %] {{ [% template_destpath %]",
    )
    project.write("templates/etc/app/empty", "")
    project.write("files/usr/bin/tool", BINARY)
    project.write("files/etc/plain", "{{ verbatim }}\n")
    project.write("files/_private/never", "never\n")
    (project.role / "files/etc/linked").symlink_to("plain")
    (project.root / "etc/app/keys").mkdir(parents=True)
    (project.root / "etc/app/keys/stale").write_text("stale")
    (project.root / "etc/old").write_text("old")
    stock = {"src": "etc/app/app.conf", "dest": "{{ root }}/../stock", "mode": "0644"}
    project.tasks(
        {"ansible.builtin.template": stock, "vars": {"who": "moon"}, "register": "stock"},
        tree("check", OPTIONS, check_mode=True),
        tree("first", OPTIONS),
        tree("second", OPTIONS),
        tree("changed", OPTIONS, vars={"who": "moon"}),
        tree("without", OPTIONS, vars={"who": "moon", "ansible_python_interpreter": "/there/is/none"}),
        tree(
            "failed",
            {**OPTIONS, "validate": f"sh -c 'cat {project.root}/etc/app/keys/key; exit 1'"},
            vars={"who": "mars"},
        ),
    )
    project.write("vars/main.yml", "unsafe_braces: !unsafe '{{ not a template }}'\n")
    project.write("defaults/main.yml", 'who: world\nnested: "from a variable: {{ who }}"\n')
    done = project.play("-vvvvv", "--diff", off=False, extras=EXTRAS)
    assert done.returncode == 0, done.stdout + done.stderr
    return project, project.results(), done.stdout + done.stderr


def test_renders_as_the_stock_template_action_does(converged):
    project, _, _ = converged
    rendered = project.read("etc/app/app.conf")
    assert rendered == project.read("../stock")
    assert "line 1 of moon" in rendered
    assert "nested moon ab from a variable: moon\n  \\1 {{ not a template }} a-b\nnested moon\n" in rendered


def test_header_overrides_are_honoured(converged):
    assert converged[0].read("etc/app/on.conf") == "moon {{ /etc/app/on.conf"


def test_installs_all_that_the_role_provides_and_no_more(converged):
    project, _, _ = converged
    found = {str(path.relative_to(project.root)) for path in project.root.rglob("*") if not path.is_dir()}
    assert found == {
        "etc/app/app.conf",
        "etc/app/empty",
        "etc/app/keys/key",
        "etc/app/on.conf",
        "etc/extra-1",
        "etc/extra-2",
        "etc/extra-3",
        "etc/link",
        "etc/linked",
        "etc/plain",
        "usr/bin/tool",
    }
    assert (project.root / "usr/bin/tool").read_bytes() == BINARY
    assert project.read("etc/plain") == "{{ verbatim }}\n"
    assert os.readlink(project.root / "etc/linked") == "plain"
    assert os.readlink(project.root / "etc/link") == "app/app.conf"
    assert project.read("etc/extra-1") == "thing one of moon\n"
    assert project.read("etc/extra-2") == "thing 2 of moon\n"
    assert project.read("etc/extra-3") == EXTRA_SECRET


def test_modes(converged):
    project, _, _ = converged
    wanted = {
        "etc/app": 0o755,
        "etc/app/keys": 0o700,
        "etc/app/keys/key": 0o600,
        "etc/app/app.conf": 0o644,
        "usr/bin/tool": 0o755,
        "etc/extra-2": 0o640,
        "etc/extra-3": 0o600,
        "srv/data": 0o2750,
    }
    assert {path: (project.root / path).stat().st_mode & 0o7777 for path in wanted} == wanted


def test_check_mode_predicts_the_run(converged):
    _, results, _ = converged
    for key in ("changed", "files", "changed_paths", "diff", "validated"):
        assert results["check"][key] == results["first"][key], key
    assert results["first"]["files"]["/etc/app/keys/"] == "mode"
    assert results["first"]["files"]["/etc/app/keys/stale"] == "removed"
    assert results["first"]["files"]["/etc/old"] == "removed"


def test_second_run_changes_nothing(converged):
    assert converged[1]["second"]["changed"] is False
    assert converged[1]["second"]["files"] == {}


def test_what_is_there_already_is_found_without_the_module(converged):
    result = converged[1]["without"]
    assert {key: result.get(key) for key in ("changed", "files", "changed_paths", "validated", "diff")} == {
        "changed": False, "files": {}, "changed_paths": [], "validated": True, "diff": []}


def test_result_says_what_changed(converged):
    assert set(converged[1]["changed"]["changed_paths"]) == {
        "/etc/app/app.conf",
        "/etc/app/keys/key",
        "/etc/app/on.conf",
        "/etc/extra-1",
        "/etc/extra-2",
    }


def test_failed_validator_fails_the_task_and_puts_back(converged):
    project, results, _ = converged
    assert "failed (exit code 1); the previous files are back" in results["failed"]["msg"]
    assert "world" not in project.read("etc/app/app.conf")
    assert "mars" not in project.read("etc/app/app.conf")


def test_secrets_are_nowhere_in_the_output(converged):
    """With five v, with a diff, from added, changed, removed and refused files alike."""
    project, results, output = converged
    text = output + json.dumps(results)
    assert project.read("etc/app/keys/key").startswith(SECRET)
    assert "contents hidden" in output
    for secret in (SECRET, EXTRA_SECRET, "stale\n"):
        assert secret not in text.replace(f"/{secret}", "")


def test_output_is_not_scrubbed(converged):
    assert "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER" not in converged[2]
    assert "+# Ansible managed: etc/app/app.conf" in converged[2]
    assert "-  nested world ab" in converged[2]
    assert "invocation" not in converged[1]["first"]


# --- what a role author gets wrong ---------------------------------------------------------------------------------

MISTAKES = {
    "mode-number": ({"modes": {"etc/a": 420}}, 'modes, etc/a: 420 is not a mode; write it in quotes, like "0640".'),
    "mode-typo": (
        {"modes": {"etc/aa": "0600"}},
        "modes names etc/aa, which nothing here provides. Did you mean etc/a?",
    ),
    "mode-folder": ({"modes": {"etc/b/": "0700"}}, "modes names etc/b/, which nothing here provides."),
    "mode-of-link": ({"modes": {"etc/l": "0600"}, "links": {"etc/l": "a"}}, "modes names etc/l"),
    "owner-typo": ({"owners": {"etc/aa": "root:root"}}, "owners names etc/aa"),
    "owner-alone": ({"owners": {"etc/a": "root"}}, "owners, etc/a: 'root' is not an owner; write user:group."),
    "owner-unknown": ({"owners": {"etc/a": "nobody-here:root"}}, "/etc/a is to belong to the user 'nobody-here'"),
    "secret-typo": ({"secret": ["etc/aa"]}, "secret names etc/aa"),
    "when-typo": ({"when": {"etc/aa": True}}, "when names etc/aa"),
    "when-value": ({"when": {"etc/a": "perhaps"}}, "when, etc/a: 'perhaps' is neither true nor false."),
    "twice": ({"extra": [{"dest": "/etc/a", "content": ""}]}, "/etc/a is named twice"),
    "extra-twice": ({"extra": [{"dest": "/etc/b", "content": ""}, {"dest": "etc/b", "content": "x"}]}, "/etc/b is named twice"),
    "wanted-and-absent": ({"absent": ["/etc/a"]}, "/etc/a is named twice"),
    "below-absent": ({"absent": ["srv/x"], "folders": [{"path": "srv/x/y"}]}, "/srv/x/y needs a folder /srv/x"),
    "below-file": ({"extra": [{"dest": "/etc/a/b", "content": ""}]}, "/etc/a/b needs a folder /etc/a"),
    "purge-all": ({"purge": ["/etc"]}, "purge and absent do not take a top-level folder: /etc."),
    "up": ({"absent": ["etc/../../x"]}, "'etc/../../x' is not a plain path."),
    "no-template": ({"extra": [{"dest": "/b", "template": "_each/no"}]}, "extra, b: there is no template _each/no in"),
    "extra-both": ({"extra": [{"dest": "/b", "template": "x", "content": "y"}]}, "mutually exclusive"),
    "extra-key": ({"extra": [{"dest": "/b", "content": "y", "mod": "0600"}]}, "extra.mod"),
    "option": ({"purges": ["x/y"]}, "Unsupported parameters"),
    "command": ({"validate": [["nginx", "-t"]]}, "validate: ['nginx', '-t'] is not a command line."),
    "quotes": ({"before": "echo 'open"}, "is not a command line."),
    "no-command": ({"validate": "no-such-command, --with=a,b"}, "'no-such-command,' is not on this host"),
    "no-source": ({"src": "elsewhere-both"}, "Both templates/ and files/ of"),
    "binary": ({"src": "elsewhere-binary"}, "is not UTF-8 text; binary files belong in files/"),
    "undefined": ({"src": "elsewhere-undefined"}, "elsewhere-undefined/templates/x, line 3: 'nope' is undefined"),
    "attribute": (
        {"src": "elsewhere-attribute"},
        "elsewhere-attribute/templates/x, line 2: object of type 'dict' has no",
    ),
    "loop": ({"src": "elsewhere-loop"}, "elsewhere-loop/templates/x, line 2: 'nope' is undefined"),
    "syntax": ({"src": "elsewhere-syntax"}, "elsewhere-syntax/templates/x, line 2: Syntax error in template"),
    "nested": ({"src": "elsewhere-nested"}, "elsewhere-nested/templates/x, line 2: 'nope' is undefined"),
    "include": ({"src": "elsewhere-include"}, "_other, included there: 'nope' is undefined"),
}
BROKEN_TEMPLATES = {
    "undefined": "a\n{% if true %}\nb {{ nope }}\n{% endif %}\nc\n{{ d.a }}\n",
    "attribute": "a {{ d.b | default('x') }}\n{{ d.b }}\nc\n{{ d.a }}\n",
    "loop": "a\n{% for x in nope %}\nb\n{% endfor %}\n",
    "syntax": "a\n{% if %}\n",
    "nested": "a\n{{ lazy }}\nb\n{{ d.a }}\n",
    "include": "a\n{% include '_sub/_other' %}\n{{ d.a }}\n",
    "binary": b"\xff\xfe",
    "both": "",
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict], Path]:
    project = new_project(tmp_path_factory)
    project.write("templates/etc/a", "a\n")
    for name, content in BROKEN_TEMPLATES.items():
        project.write(f"../../elsewhere-{name}/templates/x", content)
    project.write("../../elsewhere-both/files/x", "")
    project.write("../../elsewhere-include/templates/_sub/_other", "x\n{{ nope }}\n")
    project.tasks(*(tree(name.replace("-", "_"), options) for name, (options, _) in MISTAKES.items()))
    done = project.play(d={"a": 1}, lazy="{{ nope }}")
    assert done.returncode == 0, done.stdout + done.stderr
    return project.results(), project.root


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_refused_in_words(refused, name):
    results, root = refused
    assert MISTAKES[name][1] in results[name.replace("-", "_")]["msg"]
    assert list(root.iterdir()) in ([], [root / "var"])


def test_outside_of_a_role_src_is_needed(tmp_path_factory):
    project = new_project(tmp_path_factory)
    project.write("../../kit/templates/etc/a", "{{ 1 + 1 }} {% include '_deep/two' %}")
    project.write("../../kit/templates/_deep/two", "two\n")
    options = {"root": str(project.root)}
    done = project.play(
        tasks=[{"redoubt.django.tree": {**options, "src": "kit"}}, {"redoubt.django.tree": options}],
    )
    assert "outside of a role, say which with src" in done.stdout + done.stderr
    assert project.read("etc/a") == "2 two"


def test_what_is_beside_a_template_can_be_included(tmp_path_factory):
    project = new_project(tmp_path_factory)
    for folder in ("a", "b"):
        project.write(f"templates/etc/{folder}/one", "{% include 'beside' %}")
        project.write(f"templates/etc/{folder}/beside", f"{{{{ '{folder}' }}}}\n")
    project.tasks(tree("result", {}))
    project.play()
    assert [project.read(f"etc/{folder}/one").strip() for folder in ("a", "b")] == ["a", "b"]


# --- the module itself ---------------------------------------------------------------------------------------------


def run_module(monkeypatch: pytest.MonkeyPatch, **arguments: object) -> tuple[dict, list[str]]:
    """The module's result and what it sent to the system's log."""
    monkeypatch.syspath_prepend(str(REPO / "collections"))
    module = importlib.import_module("ansible_collections.redoubt.django.plugins.modules.tree")
    testing = importlib.import_module("ansible.module_utils.testing")
    logged: list[str] = []
    monkeypatch.setattr(module.AnsibleModule, "log", lambda self, message, log_args=None: logged.append(message))
    if "plan" in arguments:
        arguments["plan"] = module.pack(arguments["plan"](module))
    output = io.StringIO()
    with testing.patch_module_args(arguments), redirect_stdout(output), pytest.raises(SystemExit):
        module.main()
    return json.loads(output.getvalue()), logged


def test_log_of_the_host_holds_no_contents(tmp_path, monkeypatch):
    content = f"{SECRET}\n".encode() * 50 + BINARY

    def plan(module):
        return module.Plan([module.Entry("etc/key", content=content, secret=True)])

    result, logged = run_module(monkeypatch, plan=plan, root=str(tmp_path))
    assert result["changed"]
    assert (tmp_path / "etc/key").read_bytes() == content
    assert "plan=NOT_LOGGING_PARAMETER" in logged[0]
    assert len(logged[0]) < 1000
    assert SECRET not in json.dumps(result)


def test_failure_of_the_disk_is_said_in_words(tmp_path, monkeypatch):
    (tmp_path / "var").write_text("in the way")
    result, _ = run_module(monkeypatch, plan=lambda module: module.Plan([module.Entry("etc/a")]), root=str(tmp_path))
    assert result["failed"]
    assert "Not a directory" in result["msg"]


def test_module_without_its_action_plugin_says_so(monkeypatch):
    result, _ = run_module(monkeypatch)
    assert result["failed"]
    assert "through its action plugin only" in result["msg"]


def test_documentation_and_argument_spec_agree(monkeypatch):
    monkeypatch.syspath_prepend(str(REPO / "collections"))
    module = importlib.import_module("ansible_collections.redoubt.django.plugins.modules.tree")

    def compare(documented: dict, spec: dict) -> None:
        assert set(documented) == set(spec)
        for name, option in spec.items():
            for key in ("type", "default", "required", "elements"):
                assert documented[name].get(key) == option.get(key), (name, key)
            compare(documented[name].get("suboptions", {}), option.get("options", {}))

    documented = yaml.safe_load(module.DOCUMENTATION)["options"]
    compare({name: option for name, option in documented.items() if name != "plan"}, module.ARGUMENTS)
    assert yaml.safe_load(module.EXAMPLES) and yaml.safe_load(module.RETURN)
