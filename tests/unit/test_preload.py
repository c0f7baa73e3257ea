"""What every task would load for itself is there before the first of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.redoubt.django.plugins.callback.preload import CallbackModule
from ansible_collections.redoubt.django.plugins.plugin_utils.ahead import SETTLED
from ansible_collections.redoubt.django.plugins.plugin_utils.asked import ANSWERS

REPO = Path(__file__).parents[2]
LOADED = """
import gc, sys
sys.path.insert(0, "collections")
from ansible_collections.redoubt.django.plugins.callback.preload import CallbackModule
def loaded():
    # Ansible adds a number to the name of each.
    files = {f"{kind}.{name}" for kind in ("filter", "test") for name in ("core", "mathstuff")}
    return sorted(file for file in files if any(name.startswith(f"ansible.plugins.{file}_") for name in sys.modules))
print(loaded())
class Playbook:
    get_plays = staticmethod(lambda: ["a play"])
CallbackModule().v2_playbook_on_start(Playbook)
print(loaded(), gc.get_freeze_count() > 10000)
"""


def test_filters_and_tests_are_loaded_and_kept_from_the_collector():
    done = subprocess.run([sys.executable, "-c", LOADED], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n['filter.core', 'filter.mathstuff', 'test.core', 'test.mathstuff'] True\n"


def test_it_is_on_where_a_playbook_is_run_as_the_readme_says():
    done = subprocess.run([Path(sys.executable).with_name("ansible-config"), "dump", "--only-changed"], cwd=REPO, capture_output=True, text=True, check=True)
    assert "CALLBACKS_ENABLED" in done.stdout and "redoubt.django.preload" in done.stdout


def result(host: str, action: str = "ansible.builtin.command", delegate_to: str | None = None, **values) -> SimpleNamespace:
    return SimpleNamespace(host=SimpleNamespace(get_name=lambda: host), task=SimpleNamespace(resolved_action=action, delegate_to=delegate_to), result=values)


@pytest.fixture
def kept() -> CallbackModule:
    """Two hosts have been asked."""
    ANSWERS.clear()
    SETTLED.clear()
    callback = CallbackModule()
    for host in ("one", "two"):
        callback.v2_runner_on_ok(result(host, "redoubt.django.host_state", changed=False, answers=[{"questions": ["q"], "answer": host}], settled=["role"]))
    yield callback
    ANSWERS.clear()
    SETTLED.clear()


def test_what_a_host_has_said_is_kept(kept):
    kept.v2_runner_on_ok(result("one", changed=False))
    assert ANSWERS == {"one": {"q": "one"}, "two": {"q": "two"}} and SETTLED == {"one": ["role"], "two": ["role"]}


@pytest.mark.parametrize(("happens", "left"), [
    (lambda callback: callback.v2_runner_on_ok(result("one", changed=True)), {"two"}),
    (lambda callback: callback.v2_runner_on_failed(result("one", changed=False)), {"two"}),
    (lambda callback: callback.v2_runner_on_failed(result("one"), ignore_errors=True), {"two"}),
    (lambda callback: callback.v2_runner_on_unreachable(result("one")), {"two"}),
    (lambda callback: callback.v2_runner_on_async_ok(result("one", changed=False)), {"two"}),
    (lambda callback: callback.v2_runner_on_async_failed(result("one")), {"two"}),
    # Nobody knows which of them it was for.
    (lambda callback: callback.v2_runner_on_ok(result("three", delegate_to="{{ item }}", changed=True)), set()),
])
def test_it_is_forgotten_once_something_has_changed_or_failed(kept, happens, left):
    happens(kept)
    assert set(ANSWERS) == set(SETTLED) == left
    assert ANSWERS.get("one") in (None, {})


def test_a_fact_has_roles_want_something_else_and_no_host_be_otherwise(kept):
    kept.v2_runner_on_ok(result("one", "ansible.builtin.set_fact", changed=False, ansible_facts={"a": 1}))
    assert set(ANSWERS) == {"one", "two"} and SETTLED == {}


def test_another_playbook_leaves_no_host_because_of_the_first(kept):
    kept.v2_playbook_on_start(SimpleNamespace(get_plays=list))
    assert SETTLED == {}


@pytest.mark.parametrize("found", [{"ansible_facts": {"a": 1}, "changed": True}, {"add_host": {}, "changed": True}, {"add_group": "special", "changed": True}])
def test_what_all_hosts_may_go_by_has_every_role_run(kept, found):
    kept.v2_runner_on_ok(result("one", **found))
    assert SETTLED == {} and set(ANSWERS) == {"two"}


def test_a_state_that_is_not_to_be_logged_is_none(kept):
    kept.v2_runner_on_ok(result("one", "redoubt.django.host_state", censored="hidden", changed=False))
    assert ANSWERS["one"] == {} and SETTLED["one"] == []
