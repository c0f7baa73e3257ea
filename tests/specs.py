"""Keep each role's interface in one piece: argument_specs, defaults and README.

    python tests/specs.py            say what is out of step, exit code 1 if anything is
    python tests/specs.py --write    write roles/*/README.md from the argument_specs
"""

from __future__ import annotations

import json
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Variables of `site` begin with app_, site_ or promote_: what an inventory says, and what follows from it.
PREFIXES = {"site": ("app_", "site_", "promote_")}
NOTHING = object()


def load(path: pathlib.Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None


def specification(role: pathlib.Path) -> pathlib.Path:
    """The file that describes a role's variables. That of `site` says itself why it is called otherwise."""
    contract = role / "meta" / "contract.yml"
    return contract if contract.is_file() else role / "meta" / "argument_specs.yml"


# --- README ----------------------------------------------------------------------------------------------------------


def paragraphs(text: str | list[str] | None) -> list[str]:
    return [text] if isinstance(text, str) else list(text or [])


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(value: Any) -> str:
    """A value as YAML's flow style writes it."""
    text = cell(value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False))
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def type_of(option: dict) -> str:
    kind = option.get("type", "str")
    if kind == "list":
        kind = f"list of {option.get('elements', 'raw')}"
    if "choices" in option:
        kind += ": " + ", ".join(code(choice) for choice in option["choices"])
    return kind


def default_of(option: dict) -> str:
    if option.get("required"):
        return "required"
    return code(option["default"]) if "default" in option else ""


def table(options: dict) -> list[str]:
    lines = ["| variable | type | default | meaning |", "|---|---|---|---|"]
    for name, option in options.items():
        meaning = " ".join(paragraphs(option.get("description")))
        lines.append(f"| `{name}` | {type_of(option)} | {default_of(option)} | {cell(meaning)} |")
    return lines


def nested(options: dict, above: str = "") -> Iterator[tuple[str, dict]]:
    for name, option in options.items():
        if "options" in option:
            yield above + name, option
            yield from nested(option["options"], f"{above}{name}.")


def is_entry_point(role: pathlib.Path, entry: str) -> bool:
    """Whether tasks/<entry>.yml exists; the other entries describe one value of a mapping of that name."""
    return (role / "tasks" / f"{entry}.yml").is_file()


def readme(role: pathlib.Path, specs: dict) -> str:
    main = specs["main"]
    lines = [f"# {role.name}", "", f"{main['short_description'].rstrip('.')}.", ""]
    for paragraph in paragraphs(main.get("description")):
        lines += [" ".join(paragraph.split()), ""]
    options = main.get("options") or {}
    if options:
        lines += ["## Variables", "", *table(options), ""]
    for name, option in nested(options):
        what = "One entry of" if option.get("type") == "list" else "Keys of"
        lines += [f"### {what} `{name}`", "", *table(option["options"]), ""]
    for entry, spec in specs.items():
        if entry == "main":
            continue
        if is_entry_point(role, entry):
            lines += [f"## Entry point `{entry}`", "", f"{spec['short_description'].rstrip('.')}.", ""]
        else:
            lines += [f"### One value of `{entry}`", ""]
        lines += [*table(spec["options"]), ""] if spec.get("options") else []
    lines.append(f"<!-- Written by `make docs` from meta/{specification(role).name}. Change that file instead. -->")
    return "\n".join(lines) + "\n"


# --- Checks ----------------------------------------------------------------------------------------------------------


def check_options(options: dict, where: str) -> Iterator[str]:
    for name, option in options.items():
        path = f"{where}.{name}"
        if "type" not in option:
            yield f"{path} has no type"
        if not paragraphs(option.get("description")):
            yield f"{path} has no description"
        if option.get("required") and "default" in option:
            yield f"{path} is required and has a default: one of them"
        yield from check_options(option.get("options") or {}, path)


def tells_a_secret(default: Any, secrets: set[str]) -> bool:
    """Whether a default is rendered from the vault, or from an option that is no log's business."""
    text = json.dumps(default)
    return "{{" in text and any(word.startswith("vault_") or word in secrets for word in re.findall(r"\w+", text))


def uncommented(text: str) -> Iterator[str]:
    """Top-level keys of a YAML file without a comment on the line above."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        match = re.match(r"([A-Za-z_]\w*):", line)
        if match and not (number and lines[number - 1].startswith("# ")):
            yield match[1]


def check_role(folder: pathlib.Path) -> Iterator[str]:
    role = folder.name
    specs = (load(specification(folder)) or {}).get("argument_specs") or {}
    if "main" not in specs:
        yield f"{role}: meta/{specification(folder).name} has no entry main"
        return
    if not specs["main"].get("short_description"):
        yield f"{role}: argument_specs.main has no short_description"
        return
    options = specs["main"].get("options") or {}
    defaults = load(folder / "defaults" / "main.yml") or {}
    prefixes = PREFIXES.get(role, (f"{role}_",))
    for name in {**options, **defaults}:
        if not name.startswith(prefixes):
            yield f"{role}: {name} does not begin with {' or '.join(prefixes)}"
        if "__" in name:
            yield f"{role}: {name} is internal (__): keep it out of defaults and argument_specs"
    secrets = {name for name, option in options.items() if option.get("no_log")}
    for name in defaults:
        specified = options.get(name, {}).get("default", NOTHING)
        if name not in options:
            yield f"{role}: {name} is in defaults/main.yml but not in argument_specs"
        elif tells_a_secret(defaults[name], secrets):
            if specified is not NOTHING:
                yield f"{role}: leave the default of {name} out of argument_specs: a validation that fails prints it, rendered"
        elif specified is NOTHING:
            yield f"{role}: {name} has a default in defaults/main.yml but none in argument_specs"
        elif specified != defaults[name] or type(specified) is not type(defaults[name]):
            yield f"{role}: the default of {name} is {defaults[name]!r} in defaults/main.yml but {specified!r} in argument_specs"
    for name, option in options.items():
        if "default" in option and name not in defaults:
            yield f"{role}: {name} has a default in argument_specs but none in defaults/main.yml"
    for entry, spec in specs.items():
        yield from check_options(spec.get("options") or {}, f"{role}: {entry}")
        if entry != "main" and not is_entry_point(folder, entry) and options.get(entry, {}).get("type") != "dict":
            yield f"{role}: the entry {entry} is neither tasks/{entry}.yml nor a mapping in main whose values it describes"
    if defaults:
        for name in uncommented((folder / "defaults" / "main.yml").read_text(encoding="utf-8")):
            yield f"{role}: {name} has no comment on the line above it in defaults/main.yml"
    page = folder / "README.md"
    if not page.is_file() or page.read_text(encoding="utf-8") != readme(folder, specs):
        yield f"{role}: README.md is not what argument_specs say: run `make docs`"


def check(root: pathlib.Path) -> Iterator[str]:
    owner: dict[str, str] = {}
    for folder in sorted((root / "roles").iterdir()):
        if not folder.is_dir():
            continue
        yield from check_role(folder)
        specs = load(specification(folder)) or {}
        for name in (specs.get("argument_specs", {}).get("main", {}).get("options")) or {}:
            if owner.setdefault(name, folder.name) != folder.name:
                yield f"{folder.name}: {name} belongs to the role {owner[name]} already"


def write(root: pathlib.Path) -> None:
    for role in sorted(path for path in (root / "roles").iterdir() if path.is_dir()):
        page = role / "README.md"
        text = readme(role, load(specification(role))["argument_specs"])
        if not page.is_file() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")
            print(page.relative_to(root))


def main(arguments: list[str]) -> int:
    if arguments == ["--write"]:
        write(ROOT)
    elif arguments:
        print(__doc__, file=sys.stderr)
        return 2
    found = list(check(ROOT))
    print("\n".join(found) or f"{len(list((ROOT / 'roles').iterdir()))} roles: argument_specs, defaults and README agree.", file=sys.stderr if found else sys.stdout)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
