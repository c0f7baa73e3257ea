# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""Whether roles have nothing to do on a host, as C(redoubt.django.host_state) has found."""

from __future__ import annotations

from ansible_collections.redoubt.django.plugins.plugin_utils.ahead import SETTLED

DOCUMENTATION = """
name: settled
short_description: Whether roles have nothing to do on a host
description:
  - True where M(redoubt.django.host_state) has found so in this run, the callback C(redoubt.django.preload) is enabled, and nothing has
    changed on the host since. False where no role is named, since a play may have tasks of its own.
  - Only what Ansible evaluates itself, such as the condition of C(ansible.builtin.meta), sees it.
options:
  _input:
    description: Name of the host in the inventory.
    type: str
    required: true
  roles:
    description: Names of the roles, with their collection, as C(ansible_play_role_names) has them.
    type: list
    elements: str
    required: true
author:
  - Redoubt maintainers
"""

EXAMPLES = """
- name: Leave the hosts that are as they should be
  ansible.builtin.meta: end_host
  when: inventory_hostname is redoubt.django.settled(ansible_play_role_names)
"""

RETURN = """
_value:
  description: Whether none of them has anything to do.
  type: bool
"""


def settled(host: str, roles: list[str]) -> bool:
    return bool(roles) and set(roles) <= set(SETTLED.get(host, []))


class TestModule:
    def tests(self) -> dict:
        return {"settled": settled}
