#!/usr/bin/python
# Copyright: Redoubt maintainers
# MIT License (see LICENSE)
"""Documentation of the action plugin of the same name, which does all of it on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: parity
short_description: Say what differs between two environments
description:
  - Runs on the controller alone, and connects to no host.
  - Compares the values that the variables of two inventories come to, host by host, the defaults of the hosts' roles among them, with a list of
    what may differ and why.
  - Nothing that it returns holds a secret. In its place stands a fingerprint that means something within one run alone.
version_added: "0.2.0"
author: Redoubt maintainers (@redoubt)
options:
  left:
    description: An environment, by its name in O(inventories) or by its folder.
    type: str
    default: ""
  right:
    description: The other one.
    type: str
    default: ""
  inventories:
    description: Folder of the environments.
    type: path
    required: true
  allowed:
    description: The list of what may differ. Without it, C(parity.yml) in O(inventories).
    type: path
attributes:
  check_mode:
    support: full
    description: It only reads.
"""

EXAMPLES = r"""
- name: Compare
  redoubt.django.parity:
    left: staging
    right: production
    inventories: "{{ playbook_dir }}/../inventories"
  register: parity
"""

RETURN = r"""
differences:
  description: C(name), C(left), C(right), C(verdict) (C(allowed), C(follows), C(secret) or C(not allowed)), C(why), C(hosts).
  returned: success
  type: list
  elements: dict
mistakes:
  description: One sentence each.
  returned: success
  type: list
  elements: str
lines:
  description: All of that for people, mistakes aside.
  returned: success
  type: list
  elements: str
"""
