#!/usr/bin/python
# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)

DOCUMENTATION = """
module: once
short_description: Run a command whose result is not there yet
description:
  - Does what M(ansible.builtin.command) does with O(ansible.builtin.command#module:creates). Where the file exists, it costs the tenth of
    a module, which is what matters in a run that changes nothing.
options:
  argv:
    description: The command and its arguments. No shell sees them.
    type: list
    elements: str
    required: true
  creates:
    description: The file that the command leaves. Where it exists, the command is not run.
    type: path
    required: true
attributes:
  check_mode:
    support: full
    description: Says whether the command would be run.
author:
  - Redoubt maintainers
"""

EXAMPLES = """
- name: Make an RSA host key of 4096 bits
  redoubt.django.once:
    argv: [ssh-keygen, -q, -t, rsa, -b, "4096", -N, "", -f, /etc/ssh/ssh_host_rsa4096_key]
    creates: /etc/ssh/ssh_host_rsa4096_key
"""

RETURN = """
stdout:
  description: What the command said.
  returned: when it was run
  type: str
"""
