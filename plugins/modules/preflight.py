#!/usr/bin/python
# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)

DOCUMENTATION = """
module: preflight
short_description: Validate the inventory before the first change
description:
  - Reads the variables of all hosts of the play and compares them with the argument specs of the collection's roles and
    with what no type can say (names, addresses, keys, certificates, references between variables, groups).
  - Runs on the controller alone and connects to no host. Collects everything that is wrong and fails once, with one
    sentence for each mistake that names the variable, the file it was written in and what to write instead.
  - Values are compared as they are. A number where a text is wanted (C(1.10)) is a mistake, not converted.
  - Values of variables marked C(no_log), or that come from a variable named C(vault_*), are never shown.
options:
  facts:
    description:
      - Check the operating system of each host from its gathered facts instead. Wants C(distribution) in C(gather_subset).
    type: bool
    default: false
  replaces:
    description:
      - The secret that this run replaces. That it ends soon is then no mistake, but the reason.
    type: str
    default: ""
  only:
    description:
      - A role. Its own variables alone are compared, with the types that it wants and for names that it does not know, whatever else the inventory says.
    type: str
    default: ""
attributes:
  check_mode:
    support: full
    description: Changes nothing in any mode.
author:
  - Redoubt maintainers
"""

EXAMPLES = """
- name: Validate the inventory
  redoubt.django.preflight:
  run_once: true

- name: Refuse an operating system that is not supported
  redoubt.django.preflight:
    facts: true
  run_once: true
"""

RETURN = """
mistakes:
  description: The sentences, one a line, when there are several. A single one is the C(msg).
  returned: failure
  type: str
"""
