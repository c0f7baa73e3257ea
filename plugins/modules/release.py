#!/usr/bin/python
# Copyright: Redoubt maintainers
# MIT License (see LICENSE)
"""Take one phase of a release on its host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Build, migrate, activate, roll back or list the releases of an application
description:
  - Runs one phase of the host's own release program, C(/usr/local/lib/redoubt/release), in one call. The program takes the steps of
    a phase one after the other, holds a lock meanwhile, keeps a journal, and leaves the live release serving when a step fails.
  - A step that a release has behind it is not taken again, so a run that was cut off goes on where it stopped.
version_added: "0.1.0"
options:
  app:
    description: The application's C(release.json) on the host.
    type: path
    required: true
  phase:
    description: What to do. C(check) is the first step of C(migrate), for several hosts with one database, of which one migrates and the
      others C(adopt) what it did. C(compare) refuses a release with other packages than O(packages). C(standing) says since when the live one
      serves without a fault, and what it is made of. C(restart) puts what serves in service once more, with new processes. C(end) lets the
      next run come, whatever became of this one, and like C(list) and C(standing) changes nothing.
    type: str
    choices: [build, compare, check, migrate, adopt, activate, rollback, restart, end, list, standing]
    required: true
  release:
    description: Name of the release, as M(redoubt.django.release_plan) found it; for C(rollback), empty for the one before.
    type: str
    default: ""
  commit:
    description: Commit of the source, or the version of the package, for C(build).
    type: str
    default: ""
  fingerprint:
    description: What the colour is started with, for C(activate).
    type: str
    default: ""
  packages:
    description: Hash of a release's packages, as C(standing) gives it, for C(compare).
    type: str
    default: ""
  seconds:
    description: How far C(standing) looks back.
    type: str
    default: "0"
  action:
    description: What the journal calls it.
    type: str
    default: deploy
  who:
    description: Who is noted in the journal.
    type: str
    default: ""
  token:
    description: What the phases of one run have in common, and no other run has.
    type: str
    default: ""
attributes:
  check_mode:
    support: full
    description: Every phase but C(list) and C(standing) says that it would change something; M(redoubt.django.release_plan) says whether there is anything to do.
  diff_mode:
    support: none
    description: A release is not a text.
author: Redoubt maintainers
"""

EXAMPLES = r"""
- name: Build the release
  redoubt.django.release:
    app: /etc/notes/release.json
    phase: build
    release: 4f1c2d9e8a7b-0d1e2f3a
    commit: 4f1c2d9e8a7b1122334455667788990011223344
"""

RETURN = r"""
notes:
  description: What somebody should know, though nothing failed.
  returned: always
  type: list
  elements: str
output:
  description: The last lines that commands of the phase printed; when a colour did not start, the last lines of its log.
  returned: always
  type: list
  elements: str
seconds:
  description: How long each step of the run took.
  returned: always
  type: dict
"""

import json
import os

from ansible.module_utils.basic import AnsibleModule

PROGRAM = "/usr/local/lib/redoubt/release"
ARGUMENTS = {"build": ("release", "commit"), "check": ("release",), "migrate": ("release",), "adopt": ("release",),
            "activate": ("release", "fingerprint"), "rollback": ("release",), "restart": (), "end": (), "list": (), "compare": ("release", "packages"), "standing": ("seconds",)}


def main() -> None:
    """Run the module."""
    text = {"type": "str", "default": ""}
    module = AnsibleModule(supports_check_mode=True, argument_spec={
        "app": {"type": "path", "required": True},
        "phase": {"type": "str", "choices": list(ARGUMENTS), "required": True},
        "release": text, "commit": text, "fingerprint": text, "who": text, "token": text,
        "action": {"type": "str", "default": "deploy"}, "packages": text, "seconds": {"type": "str", "default": "0"},
    })
    params = module.params
    phase = params["phase"]
    if module.check_mode and phase not in ("list", "standing"):
        module.exit_json(changed=phase != "end", notes=[], output=[], seconds={})
    # A first run that failed before it wrote its description ends all the same, with its own sentence and no second one.
    if phase != "end" and not os.path.exists(params["app"]):
        module.fail_json(msg=f"There is no {params['app']} on this host: nothing has been deployed here yet. Run playbooks/site.yml first.")
    words = [params[name] for name in ARGUMENTS[phase] if params[name] or phase != "rollback"]
    code, out, err = module.run_command(
        [PROGRAM, f"--who={params['who']}", f"--token={params['token']}", f"--action={params['action']}", params["app"], phase, *words],
        cwd="/", encoding="utf-8", errors="replace")
    if phase == "end":
        module.exit_json(changed=False)
    try:
        answer = json.loads(out.strip().splitlines()[-1])
    except (ValueError, IndexError):
        module.fail_json(msg=f"`release {phase}` ended with {code} and no answer: {(err.strip().splitlines() or ['it printed nothing'])[-1]}", output=err.splitlines()[-60:])
    answer.setdefault("changed", False)
    if answer.pop("failed", False):
        module.fail_json(**answer)
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
