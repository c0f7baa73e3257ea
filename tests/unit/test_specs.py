"""argument_specs, defaults and README of every role agree, and the check that says so can fail."""

from __future__ import annotations

import importlib.util
import pathlib
import re
import shutil

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
LOADER = importlib.util.spec_from_file_location("specs", ROOT / "tests" / "specs.py")
specs = importlib.util.module_from_spec(LOADER)
LOADER.loader.exec_module(specs)


@pytest.mark.parametrize("role", sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir()))
def test_role_is_in_step(role):
    assert list(specs.check_role(ROOT / "roles" / role)) == []


def test_roles_do_not_share_variables():
    assert [line for line in specs.check(ROOT) if "belongs to the role" in line] == []


@pytest.fixture
def copy(tmp_path):
    """A copy of the contract that a test may break."""
    shutil.copytree(ROOT / "roles" / "site", tmp_path / "roles" / "site")
    specs.write(tmp_path)
    assert list(specs.check(tmp_path)) == []
    return tmp_path


SPEC, DEFAULTS = "meta/contract.yml", "defaults/main.yml"


@pytest.mark.parametrize(
    ("name", "old", "new", "sentence"),
    [
        (SPEC, "      app_redis:\n", "      app_radis:\n", "app_redis is in defaults/main.yml but not in argument_specs"),
        (DEFAULTS, "app_redis: false", "app_radis: false", "app_redis has a default in argument_specs but none in defaults"),
        (DEFAULTS, "app_redis: false", "app_redis: true", "the default of app_redis is True in defaults/main.yml but False"),
        (DEFAULTS, "app_redis: false", "app_redis: 0", "the default of app_redis is 0 in defaults/main.yml but False"),
        (DEFAULTS, "\napp_guard: enforce", "\n\napp_guard: enforce", "app_guard has no comment on the line above"),
        (DEFAULTS, "app_redis: false", "app_redis: false\n\n# Internal.\n__site_x: 1", "__site_x is internal"),
        (DEFAULTS, "app_redis: false", "app_redis: false\n\n# Another role's.\nnginx_x: 1", "nginx_x does not begin with app_ or site_"),
        (SPEC, "        description: Dotted path of the settings.\n", "", "app_settings_module has no description"),
        (SPEC, "      app_wsgi:\n        type: str\n", "      app_wsgi:\n", "app_wsgi has no type"),
        (SPEC, "            description: Folder that answers it.\n", "", "app_static.path has no description"),
        (SPEC, "  app_routes:\n    short", "  app_rutes:\n    short", "the entry app_rutes is neither"),
        (SPEC, "Dotted path of the settings.", "Path of the settings.", "README.md is not what argument_specs say"),
        ("README.md", "# site", "# Site", "README.md is not what argument_specs say"),
        (SPEC, "  main:\n", "  other:\n", "has no entry main"),
        (SPEC, "      app_secret_key:\n", "      app_secret_key:\n        default: '{{ vault_app_secret_key }}'\n", "leave the default of app_secret_key out"),
        (SPEC, "      app_database:\n", "      app_database:\n        default: {}\n", "leave the default of app_database out"),
    ],
)
def test_the_check_can_fail(copy, name, old, new, sentence):
    path = copy / "roles" / "site" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert [line for line in specs.check(copy) if sentence in line], list(specs.check(copy))


def test_two_roles_with_one_variable(copy):
    shutil.copytree(copy / "roles" / "site", copy / "roles" / "twin")
    assert any("twin: app_name belongs to the role site already" in line for line in specs.check(copy))


def test_readme_shows_what_a_table_breaks_on():
    option = {"type": "list", "elements": "str", "default": ["a|b"], "description": "one | two\nthree"}
    assert specs.table({"x_y": option})[2] == '| `x_y` | list of str | `["a\\|b"]` | one \\| two three |'
    assert specs.code("`x`") == "`` `x` ``"


def test_guard_parts_are_those_of_the_guard():
    """The inventory may name what the package knows, no more and no less; Django is not there to ask."""
    source = (ROOT / "guard/redoubt_guard/overlay.py").read_text()
    parts = [*re.findall(r'\bOverride\(\s*"(\w+)"', source), *re.findall(r'"(\w+)"', re.search(r"^PARTS = (.*)$", source, re.MULTILINE)[1])]
    options = specs.load(ROOT / "roles/site/meta/contract.yml")["argument_specs"]["main"]["options"]
    assert len(parts) > 20 and options["app_guard_skip"]["choices"] == parts
