#!/usr/bin/python
# Copyright: Redoubt maintainers
# MIT License (see LICENSE)
"""Documentation of the action plugin of the same name, which does all of it on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: admin_certificate
short_description: Make, revoke and list the client certificates that open the admin
description:
  - Runs on the controller alone. A new key and its certificate are written as a PKCS#12 file for browsers, with its passphrase in a file
    beside it; neither is shown.
  - What was made is listed in O(register), a file of variables with C(app_admin_certificates) in it.
version_added: "0.2.0"
author: Redoubt maintainers (@redoubt)
options:
  ca_certificate:
    description: Certificates of the environment's CAs, as PEM text. The one signs that the key belongs to.
    type: str
    required: true
  ca_key:
    description: Private key of one of them, as PEM text.
    type: str
    required: true
  register:
    description: File of variables that lists the certificates. Made when there is none.
    type: path
    required: true
  issue:
    description: Name of whom to make a certificate for.
    type: str
    default: ""
  to:
    description: Where to write it. Empty, C(NAME.p12) in the working directory.
    type: path
    default: ""
  days:
    description: How long it is good for.
    type: int
    default: 365
  revoke:
    description: Name, or serial number, of the certificate that opens nothing any more.
    type: str
    default: ""
attributes:
  check_mode:
    support: full
    description: Says what would be made or revoked.
"""

EXAMPLES = r"""
- name: Make a certificate
  redoubt.django.admin_certificate:
    ca_certificate: "{{ pki_ca_certificate }}"
    ca_key: "{{ pki_ca_key }}"
    register: inventories/production/group_vars/all/admin_certificates.yml
    issue: alice
"""

RETURN = r"""
certificates:
  description: What the register says now.
  returned: always
  type: list
  elements: dict
msg:
  description: What was done and is to be done.
  returned: always
  type: str
"""
