#!/usr/bin/python
# Copyright: Redoubt maintainers
# MIT License (see LICENSE)
"""Take one step of a release, once."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_step
short_description: Run the commands of one step of a release, each in the sandbox of its mode
description:
  - A step that a release has behind it is not taken again, so a run that was cut off goes on where it stopped.
  - When a command fails, the message says which step and command it was, and ends with the last lines it printed.
version_added: "0.1.0"
options:
  app:
    description: The application's C(release.json) on the host.
    type: path
    required: true
  release:
    description: Name of the release, as M(redoubt.django.release_plan) found it.
    type: str
    required: true
  name:
    description: Name of the step.
    type: str
    required: true
  run:
    description: Shell commands that the application's C(run) program gets, in order.
    type: list
    elements: str
    default: []
  mode:
    description: Sandbox that the commands of O(run) get. C(auto) is C(settings) for a command that uses the project's management
      command, and C(build) for one that does not.
    type: str
    choices: [auto, build, settings, migrate, runtime]
    default: build
  release_arguments:
    description: Arguments of the kit's own C(release) program, run as root, instead of O(run).
    type: list
    elements: str
    default: []
  once_per:
    description: Whether the step is taken once a release, once for the application, or each time.
    type: str
    choices: [release, application, call]
    default: release
  hint:
    description: What to do when it fails, added to the message.
    type: str
    default: ""
attributes:
  check_mode:
    support: full
    description: Says whether the step would be taken.
  diff_mode:
    support: none
    description: A step is not a text.
author: Redoubt maintainers
"""

EXAMPLES = r"""
- name: Install the requirements
  redoubt.django.release_step:
    app: /etc/notes/release.json
    release: 4f1c2d9e8a7b-0d1e2f3a
    name: install
    run: ["/usr/local/lib/redoubt/release /etc/notes/release.json install 4f1c2d9e8a7b-0d1e2f3a"]
"""

RETURN = r"""
output:
  description: What the commands printed, its last 200 lines.
  returned: when the step was taken
  type: list
  elements: str
"""

import json
import os
import pwd
import shutil

from ansible.module_utils.basic import AnsibleModule

TOOLS = "/usr/local/lib/redoubt"
STATE = "/var/lib/redoubt"


def main() -> None:
    """Run the module."""
    module = AnsibleModule(supports_check_mode=True, argument_spec={
        "app": {"type": "path", "required": True},
        "release": {"type": "str", "required": True},
        "name": {"type": "str", "required": True},
        "run": {"type": "list", "elements": "str", "default": []},
        "mode": {"type": "str", "choices": ["auto", "build", "settings", "migrate", "runtime"], "default": "build"},
        "release_arguments": {"type": "list", "elements": "str", "default": []},
        "once_per": {"type": "str", "choices": ["release", "application", "call"], "default": "release"},
        "hint": {"type": "str", "default": ""},
    })
    params = module.params
    if module.check_mode and not os.path.exists(params["app"]):
        module.exit_json(changed=True)
    with open(params["app"], encoding="utf-8") as source:
        app = json.load(source)
    name = os.path.basename(app["root"])
    release = os.path.join(app["root"], "releases", params["release"])
    state = os.path.join(STATE, name, "releases", params["release"])
    if not os.path.isdir(release):
        # What was done for a release that is gone has to be done again for one of the same name.
        shutil.rmtree(state, ignore_errors=True) if not module.check_mode else None
    marker = os.path.join(state if params["once_per"] == "release" else os.path.join(STATE, name), params["name"])
    if params["once_per"] != "call" and os.path.exists(marker):
        module.exit_json(changed=False)
    if module.check_mode:
        module.exit_json(changed=True)

    if not os.path.isdir(release):
        os.makedirs(release, 0o755)
        user = pwd.getpwnam(app["build_user"])
        os.chown(release, user.pw_uid, user.pw_gid)
    output = []
    calls = [(words, [f"{TOOLS}/release", params["app"], *words]) for words in [params["release_arguments"]] if words]
    for command in params["run"]:
        mode = params["mode"]
        if mode == "auto":
            mode = "settings" if "{manage}" in command else "build"
        command = command.replace("{manage}", app["manage"])
        calls.append((command, [f"{TOOLS}/{name}-run", mode, params["release"], command]))
    for shown, argv in calls:
        code, out, err = module.run_command(argv, cwd="/", encoding="utf-8", errors="replace")
        output += [line for line in (out + err).splitlines() if line.strip()]
        if code:
            shown = shown if isinstance(shown, str) else " ".join(["release", *shown])
            last = output[-1] if output else "it printed nothing"
            module.fail_json(msg=f"Step {params['name']!r} of release {params['release']} failed: `{shown}` exited with {code}: {last}. "
                                 f"{params['hint']} The release that was live still is.".replace("  ", " "), output=output[-60:])
    os.makedirs(os.path.dirname(marker), 0o755, exist_ok=True)
    if params["once_per"] != "call":
        with open(marker, "w", encoding="utf-8"):
            pass
    module.exit_json(changed=True, output=output[-200:])


if __name__ == "__main__":
    main()
