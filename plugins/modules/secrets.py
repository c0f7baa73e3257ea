#!/usr/bin/python
# Copyright: Redoubt maintainers
# MIT License (see LICENSE)
"""Documentation of the action plugin of the same name, which does all of it on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: secrets
short_description: Make, list and check the secrets of an environment
description:
  - Runs on the controller alone, for the inventory of this run, and connects to no host.
  - Puts what the inventory's hosts need and nobody has made into C(group_vars/all/vault.yml), as random values, the key of the internal CA among
    them, whose certificate goes into C(group_vars/all/pki.yml). What is there stays. The file is encrypted before it is written.
  - Says which values are placeholders, weak, used again here or in another environment beside this one, or in plain text.
  - Nothing that it returns holds a value.
version_added: "0.2.0"
author: Redoubt maintainers (@redoubt)
options: {}
attributes:
  check_mode:
    support: full
    description: Says what would be made.
"""

EXAMPLES = r"""
- name: Make what is missing
  redoubt.django.secrets:
  register: secrets
"""

RETURN = r"""
vault:
  description: The file.
  returned: success
  type: str
made:
  description: Names that were made, or would be.
  returned: success
  type: list
  elements: str
secrets:
  description: What there is. C(name), C(file), C(made) (a day, or empty), C(used_by), C(again) (where else the same value is).
  returned: success
  type: list
  elements: dict
mistakes:
  description: One sentence each.
  returned: success
  type: list
  elements: str
compared:
  description: Environments that values were compared with.
  returned: success
  type: list
  elements: str
unopened:
  description: Those whose vault does not open here, and why.
  returned: success
  type: list
  elements: str
lines:
  description: All of that for people, mistakes aside.
  returned: success
  type: list
  elements: str
"""
