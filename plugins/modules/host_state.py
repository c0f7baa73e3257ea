#!/usr/bin/python
# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)

DOCUMENTATION = """
module: host_state
short_description: Read what decides whether later tasks have anything to do
description:
  - Reads which packages are installed in which state systemd's units are and how large the host is, in one command and without a
    module's cost of a third of a second. What finds its state here already needs no task of its own.
  - It is what there was at that moment. A task that follows a change of its own must not go by it.
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
"""

RETURN = """
packages:
  description: Names of the Debian packages that are installed.
  returned: success
  type: list
  elements: str
units:
  description: What C(systemctl show) says of the loaded services, timers and sockets. The option O(redoubt.django.units#module:seen) takes it.
  returned: success
  type: str
enabled:
  description: Units that are linked to be started with another one.
  returned: success
  type: list
  elements: str
memory_mb:
  description: Memory of the host in MB, as its kernel counts it.
  returned: success
  type: int
cores:
  description: Processor cores of the host.
  returned: success
  type: int
"""
