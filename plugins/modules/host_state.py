#!/usr/bin/python
# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)

DOCUMENTATION = """
module: host_state
short_description: Read what decides whether later tasks have anything to do
description:
  - Reads which packages are installed, in which state systemd's units are, who are administrators, and how large the host is, in one
    command and without a module's cost of a third of a second. What finds its state here already needs no task of its own.
  - It is what there was at that moment. A task that follows a change of its own must not go by it.
options:
  roles:
    description:
      - Names of roles, with their collection and in the order in which the run has them. Those that come first and whose tasks have nothing to do
        are found out from what was read, so that a play can leave the host (the test P(redoubt.django.settled#test)).
      - It takes the callback C(redoubt.django.preload). What cannot be known without the host, or is not the first, counts as something to do.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: full
    description: Changes nothing in any mode.
author:
  - Redoubt maintainers
"""

EXAMPLES = """
- name: Read what the hosts have
  redoubt.django.host_state:
  register: site_host_state

- name: Read what the hosts have, and where two roles have nothing to do
  redoubt.django.host_state:
    roles: [redoubt.django.base, redoubt.django.ssh]
  register: site_host_state
"""

RETURN = """
packages:
  description: Names of the Debian packages that are installed.
  returned: success
  type: list
  elements: str
units:
  description:
    - What C(systemctl show) says of the services, timers and sockets that are enabled, generated or masked, and in the same form what is
      known of the others that are loaded. The option O(redoubt.django.units#module:seen) takes it.
  returned: success
  type: str
enabled:
  description: Units that are linked to be started with another one.
  returned: success
  type: list
  elements: str
aliases:
  description: Names in systemd's folders that lead to units of another name.
  returned: success
  type: list
  elements: str
administrators:
  description: Accounts in the group sudo that have a home and bash for a shell, and do not end.
  returned: success
  type: list
  elements: str
answers:
  description:
    - What the host says to the questions that tasks of earlier runs have put to it, each C(answer) with the SHA-256 of its C(questions). Tasks
      that ask the same take the answer from the callback C(redoubt.django.preload), for as long as nothing has changed on the host.
  returned: success
  type: list
  elements: dict
settled:
  description: Those of the first of O(roles) that have nothing to do.
  returned: success
  type: list
  elements: str
ansible_facts:
  description:
    - Those of M(ansible.builtin.setup) that the roles go by, under the same names C(distribution), C(distribution_major_version),
      C(distribution_release), C(memtotal_mb), C(processor_vcpus) and C(virtualization_tech_guest).
  returned: success
  type: dict
"""
