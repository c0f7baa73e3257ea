#!/usr/bin/python
# Copyright: (c) 2026, Redoubt maintainers
# MIT License (see LICENSE)

from __future__ import annotations

DOCUMENTATION = r"""
module: tree
short_description: Install a role's files in one transaction
version_added: 0.1.0
author: Redoubt maintainers (@redoubt)
description:
  - Renders every file in the role's C(templates/) and takes every file in its C(files/) as it is. The path below
    these folders is the destination on the host.
  - All files go to the host in one call, are compared there, and are put in place together. If a validator fails,
    everything that was there before is put back. A call that was interrupted is undone by the next one.
  - Top-level folders of C(templates/) and C(files/) whose names begin with C(_) are not installed; they hold
    macros, includes and the templates that O(extra) names.
  - A file is C(root:root) C(0644) unless told otherwise. Missing folders are made C(root:root) C(0755); folders that
    exist are left as they are unless O(modes), O(owners) or O(folders) name them.
  - Paths may be written with or without a leading slash. An option that names a path which nothing provides is an
    error.
options:
  src:
    description: The folder that holds C(templates/) and C(files/), when it is not the role's.
    type: path
  root:
    description: The folder on the host that stands for C(/).
    type: path
    default: /
  modes:
    description:
      - Modes by path, quoted (C("0640")). A path that ends in C(/) is a folder and means this folder only.
    type: dict
    default: {}
  owners:
    description:
      - Owners by path, as C(user:group). A path that ends in C(/) is a folder and means this folder only.
    type: dict
    default: {}
  secret:
    description:
      - Files whose contents never appear in a diff, a log or a result. A path that ends in C(/) means everything below.
    type: list
    elements: str
    default: []
  when:
    description:
      - Whether to install, by path. What is off is not rendered, and is removed if it is inside a folder in O(purge).
        A path that ends in C(/) means everything below.
    type: dict
    default: {}
  purge:
    description:
      - Folders from which everything is removed that this task does not install, with everything below.
    type: list
    elements: str
    default: []
  extra:
    description:
      - Files whose number or names depend on variables.
    type: list
    elements: dict
    default: []
    suboptions:
      dest:
        description: Where it goes.
        type: str
        required: true
      template:
        description: Path below C(templates/), say C(_each/process.service). Exclusive with O(extra[].content).
        type: str
      content:
        description: The contents as they are.
        type: str
      vars:
        description: More variables for the template.
        type: dict
        default: {}
      mode:
        description: Like a value of O(modes).
        type: str
      owner:
        description: User, or C(user:group).
        type: str
      group:
        description: Group.
        type: str
      secret:
        description: Like being in O(secret). A boolean.
        type: raw
        default: false
  links:
    description: Symbolic links, as destination and target.
    type: dict
    default: {}
  folders:
    description: Folders to have, even empty. What is not given is left alone where the folder exists.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: The folder.
        type: str
        required: true
      mode:
        description: Like a value of O(modes). New folders get C(0755) by default.
        type: str
      owner:
        description: User, or C(user:group).
        type: str
      group:
        description: Group.
        type: str
  absent:
    description: Files, links or folders (with everything below) to remove.
    type: list
    elements: str
    default: []
  validate:
    description:
      - Command that must succeed, or list of such commands; they run without a shell. They run after the files are in place, when anything changed; if
        one fails, the previous files are put back and the task fails.
      - A command that has C({root}) in it runs before anything is touched, and in check mode, on a copy of this task's
        files below a temporary folder that only root can read.
      - In check mode a command that is not on the host yet is skipped.
    type: raw
    default: []
  before:
    description:
      - Command, or list of commands, to run just before the first file is put in place, and only then. Not in check mode.
    type: raw
    default: []
  plan:
    description: What the action plugin sends to the host. Not for use in a task.
    type: str
attributes:
  check_mode:
    support: full
    description: Predicts exactly what a run would change.
  diff_mode:
    support: full
    description: One diff a file. Contents of secret and binary files are not shown.
"""

EXAMPLES = r"""
- name: Configure nginx
  redoubt.django.tree:
    modes:
      etc/nginx/tls/: "0700"
      etc/nginx/tls/key.pem: "0600"
    secret: [etc/nginx/tls/key.pem]
    when:
      etc/nginx/modules-enabled/60-http3.conf: "{{ nginx_http3 }}"
    purge: [etc/nginx/conf.d, etc/nginx/sites-enabled]
    validate: nginx -t
  register: __nginx_files
  notify: Reload nginx

- name: Install one unit a worker
  redoubt.django.tree:
    extra: "{{ __app_units }}"
    validate: systemd-analyze verify --root={root} /etc/systemd/system/notes-worker.service
"""

RETURN = r"""
files:
  description: What changed and how, by path. The path of a folder ends in a slash.
  returned: success
  type: dict
  sample: {"/etc/nginx/nginx.conf": "changed", "/etc/nginx/tls/": "mode", "/etc/nginx/conf.d/old.conf": "removed"}
changed_paths:
  description: The paths alone.
  returned: success
  type: list
  elements: str
  sample: ["/etc/nginx/nginx.conf"]
validated:
  description: False in check mode when a validator could not be run, so that a real run may still fail there.
  returned: success
  type: bool
"""

import base64
import json
import zlib

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.redoubt.django.plugins.module_utils.tree_transaction import Entry, Plan, Tree, TreeError

PATHS = {"type": "list", "elements": "str", "default": []}
MAP = {"type": "dict", "default": {}}
# Not a list: Ansible would split a command at its commas.
COMMANDS = {"type": "raw", "default": []}
OWNERSHIP = {"mode": {"type": "str"}, "owner": {"type": "str"}, "group": {"type": "str"}}

# The task's options; the action plugin checks them too, on the controller, which is where most of them are used.
ARGUMENTS = {
    "src": {"type": "path"},
    "root": {"type": "path", "default": "/"},
    "modes": MAP,
    "owners": MAP,
    "secret": {**PATHS, "no_log": False},
    "when": MAP,
    "purge": PATHS,
    "extra": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "dest": {"type": "str", "required": True},
            "template": {"type": "str"},
            "content": {"type": "str"},
            "vars": MAP,
            "secret": {"type": "raw", "default": False, "no_log": False},
            **OWNERSHIP,
        },
        "mutually_exclusive": [("template", "content")],
        "required_one_of": [("template", "content")],
    },
    "links": MAP,
    "folders": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"path": {"type": "str", "required": True}, **OWNERSHIP},
    },
    "absent": PATHS,
    "validate": COMMANDS,
    "before": COMMANDS,
}


def pack(plan: Plan) -> str:
    """The plan as one opaque string, so that no log, and no scrubbing of logs, ever meets a file's contents."""
    data = dict(vars(plan), entries=[vars(entry) for entry in plan.entries])
    text = json.dumps(data, default=lambda content: content.decode("utf-8", "surrogateescape"))
    return base64.b64encode(zlib.compress(text.encode())).decode()


def unpack(packed: str) -> Plan:
    data = json.loads(zlib.decompress(base64.b64decode(packed)))
    for entry in data["entries"]:
        entry["content"] = entry["content"].encode("utf-8", "surrogateescape")
    data["entries"] = [Entry(**entry) for entry in data["entries"]]
    return Plan(**data)


def main() -> None:
    module = AnsibleModule(
        argument_spec={**ARGUMENTS, "plan": {"type": "str", "no_log": True}},
        supports_check_mode=True,
    )
    if not module.params["plan"]:
        module.fail_json(msg="redoubt.django.tree works through its action plugin only.")
    tree = Tree(
        unpack(module.params["plan"]),
        root=module.params["root"],
        check=module.check_mode,
        diff=module._diff,
    )
    try:
        result = tree.apply()
    except (TreeError, OSError) as error:
        module.fail_json(msg=str(error))
    for warning in result.pop("warnings"):
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
