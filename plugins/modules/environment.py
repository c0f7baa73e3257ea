#!/usr/bin/python
# Copyright: Redoubt maintainers
# MIT License (see LICENSE)
"""Documentation of the action plugin of the same name, which does all of it on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: environment
short_description: Make the inventory of a new environment, with fresh secrets and a CA of its own
description:
  - Runs on the controller alone. Copies an example, makes the secrets that it needs into its vault, and puts the folder in place in one rename.
  - Takes the vault's password from this run (C(--vault-id)) or C(inventories/vault-client); where neither has one, it makes one and keeps it
    in C(~/.config/redoubt/vault-NAME), where C(inventories/vault-client) finds it.
  - Never writes over anything.
version_added: "0.2.0"
author: Redoubt maintainers (@redoubt)
options:
  name:
    description: Name of the environment, its folder and its vault id.
    type: str
    required: true
  example:
    description: Folder to copy. The word C(ENVIRONMENT) in its files becomes the name.
    type: path
    required: true
  inventories:
    description: Folder that the environments are in.
    type: path
    required: true
attributes:
  check_mode:
    support: full
    description: Says what would be made.
"""

EXAMPLES = r"""
- name: Make an environment
  redoubt.django.environment:
    name: staging
    example: files/environment
    inventories: inventories
"""

RETURN = r"""
made:
  description: Names of the secrets that were made, or would be.
  returned: success
  type: list
  elements: str
lines:
  description: What was made, for people.
  returned: success
  type: list
  elements: str
"""
