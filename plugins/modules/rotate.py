#!/usr/bin/python
# Copyright: Redoubt maintainers
# MIT License (see LICENSE)
"""Documentation of the action plugin of the same name, which does all of it on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rotate
short_description: Put another value in the place of a secret, step by step
description:
  - Writes the vault that has the secret, on the controller alone, and connects to no host. Of the internal CA the certificate is written too, into
    the file that has it. Between the steps the hosts are brought to what the files have.
  - Each step knows from the vault what has been done, so that a rotation that was cut off goes on.
  - Nothing that it returns holds a private value, but for what O(step=read) is asked for.
version_added: "0.2.0"
author: Redoubt maintainers (@redoubt)
options:
  secret:
    description: The secret, C(app_secret_key) for one. Another one than docs/rotate-a-secret.md has is refused with a sentence.
    type: str
    required: true
  step:
    description: C(look) refuses what cannot be rotated. C(begin) makes the new value beside the old one, C(replace) lets the new one be the one,
      C(end) lets an old password or CA go, C(finish) notes that every host has it. C(read) returns what of the vault hosts are to be told.
    type: str
    choices: [look, begin, replace, end, finish, read]
    required: true
  session_age:
    description: Seconds that an old C(app_secret_key) counts after the new one has taken its place.
    type: int
    default: 0
  guard:
    description: What the guard does, without which no old key is accepted.
    type: str
    default: enforce
  guard_skip:
    description: Parts of it that are left out.
    type: list
    elements: str
    default: []
  patience:
    description: Seconds that a run waits for what began with the old one, as C(-e patience) has them. O(step=look) refuses what is no number.
    type: str
    default: "0"
  after:
    description: Of O(step=read), the step that it comes after. In check mode, in which none has been taken, it is told as if it had.
    type: str
    choices: [begin, replace, end, finish]
    default: begin
attributes:
  check_mode:
    support: full
    description: Says what would be done.
"""

EXAMPLES = r"""
- name: Make another key
  redoubt.django.rotate:
    secret: app_secret_key
    step: begin
    session_age: 1209600
  run_once: true
  register: rotation
"""

RETURN = r"""
said:
  description: What was done, in a sentence; of a deploy key with its public half.
  returned: unless O(step) is C(look) or C(read)
  type: str
done:
  description: Whether nothing is left to do in this run.
  returned: unless O(step) is C(look) or C(read)
  type: bool
vault:
  description: What hosts are told, by the names that the inventory has for it.
  returned: O(step=read)
  type: dict
path:
  description: The vault.
  returned: unless O(step) is C(look) or C(read)
  type: str
"""
