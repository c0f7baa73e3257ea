#!/usr/bin/python
# Copyright: Redoubt maintainers
# MIT License (see LICENSE)
"""Have a key that never leaves the host, and a certificate of the environment's CA for it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_certificate
short_description: Have a certificate of the environment's own CA
description:
  - The host makes its key (ECDSA, P-256) and shows its public half. The controller signs a certificate for it in memory, with a key
    that neither host nor disk sees, for both ends of a connection.
  - Does nothing while the certificate is the CA's, for this key and these names, and far from its end.
  - Leaves C(ca.pem), C(host.pem) and C(host.key) in O(folder). Whenever one of them changes, the programs in C(changed.d) beside them
    are run; where one fails, what was there before is put back.
version_added: "0.2.0"
author: Redoubt maintainers (@redoubt)
options:
  ca_certificate:
    description: Certificates of the CAs that hosts trust, as PEM text. The one signs that the key belongs to.
    type: str
    required: true
  ca_key:
    description: Private key of one of them, as PEM text.
    type: str
    required: true
  names:
    description: Names that the certificate is for, the first of which is also its subject.
    type: list
    elements: str
    required: true
  addresses:
    description: Addresses that it is for.
    type: list
    elements: str
    default: []
  days:
    description: How long a new certificate is good for.
    type: int
    default: 730
  renew_days:
    description: A certificate with fewer days left is replaced.
    type: int
    default: 365
  folder:
    description: Where key and certificates are kept.
    type: path
    default: /etc/redoubt/pki
  group:
    description: Group that may read the key.
    type: str
    default: root
attributes:
  check_mode:
    support: full
    description: Says whether the certificate would be replaced. No key is made.
  diff_mode:
    support: full
    description: Names, issuer and end of the certificate.
"""

EXAMPLES = r"""
- name: Have a certificate
  redoubt.django.host_certificate:
    ca_certificate: "{{ pki_ca_certificate }}"
    ca_key: "{{ vault_pki_ca_key }}"
    names: [db1]
    addresses: [192.0.2.7]
    group: redoubt-pki
"""

RETURN = r"""
reasons:
  description: Why something was changed.
  returned: always
  type: list
  elements: str
  sample: ["certificate: it ends on 2027-03-01"]
"""

import grp
import os
import subprocess
import tempfile

from ansible.module_utils.basic import AnsibleModule

# What the task says. The two calls to the host carry no CA key.
ARGUMENTS = {
    "ca_certificate": {"type": "str", "required": True},
    "ca_key": {"type": "str", "required": True, "no_log": True},
    "names": {"type": "list", "elements": "str", "required": True},
    "addresses": {"type": "list", "elements": "str", "default": []},
    "days": {"type": "int", "default": 730},
    "renew_days": {"type": "int", "default": 365},
    "folder": {"type": "path", "default": "/etc/redoubt/pki"},
    "group": {"type": "str", "default": "root"},
}
MODES = {"ca.pem": 0o644, "host.pem": 0o644, "host.key": 0o640}


class Folder:
    """The host's key and certificates."""

    def __init__(self, path, group):
        self.path = path
        try:
            self.group = grp.getgrnam(group).gr_gid
        except KeyError:
            self.group = 0

    def file(self, name):
        return os.path.join(self.path, name)

    def read(self, name):
        try:
            with open(self.file(name), encoding="utf-8") as source:
                return source.read()
        except FileNotFoundError:
            return ""

    def write(self, name, text):
        """Put a file in place by one rename, never readable by more than it will be."""
        handle, pending = tempfile.mkstemp(dir=self.path, prefix=f".{name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as sink:
            sink.write(text)
            sink.flush()
            os.fsync(sink.fileno())
        os.chown(pending, 0, self.owner(name))
        os.chmod(pending, MODES[name])
        os.rename(pending, self.file(name))

    def owner(self, name):
        return self.group if name == "host.key" else 0

    def astray(self):
        """What exists and is not the owner's, or open to others than it should be."""
        found = []
        for name, mode in MODES.items():
            if os.path.exists(self.file(name)):
                status = os.stat(self.file(name))
                if (status.st_uid, status.st_gid, status.st_mode & 0o7777) != (0, self.owner(name), mode):
                    found.append(f"{name} has another owner or mode")
        if os.path.exists(self.file(".pending")):
            found.append("an earlier change was cut off")
        return found

    def make_key(self):
        os.makedirs(self.path, mode=0o755, exist_ok=True)
        made = subprocess.run(["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
                              capture_output=True, text=True, check=True)
        self.write("host.key", made.stdout)

    def public_key(self):
        """Empty where there is no key, or none that can be read."""
        shown = subprocess.run(["openssl", "pkey", "-in", self.file("host.key"), "-pubout"], capture_output=True, text=True, check=False)
        return shown.stdout if shown.returncode == 0 else ""

    def tell(self):
        """Run what wants to know of a change; why one failed."""
        hooks = self.file("changed.d")
        for name in sorted(os.listdir(hooks)) if os.path.isdir(hooks) else []:
            program = os.path.join(hooks, name)
            if os.access(program, os.X_OK):
                done = subprocess.run([program], capture_output=True, text=True, check=False, cwd="/", stdin=subprocess.DEVNULL)
                if done.returncode:
                    return f"{program} ended with {done.returncode}: {(done.stderr or done.stdout).strip()}"
        return ""

    def install(self, texts):
        before = {name: self.read(name) for name in texts}
        with open(self.file(".pending"), "w", encoding="utf-8"):
            pass
        for name, mode in MODES.items():
            if name in texts:
                self.write(name, texts[name])
            else:
                os.chown(self.file(name), 0, self.owner(name))
                os.chmod(self.file(name), mode)
        reason = self.tell()
        if reason:
            for name, text in before.items():
                if text:
                    self.write(name, text)
            self.tell()
        os.unlink(self.file(".pending"))
        return reason


def main():
    module = AnsibleModule(supports_check_mode=True, argument_spec={
        "do": {"type": "str", "choices": ["read", "install"], "required": True},
        "folder": {"type": "path", "required": True},
        "group": {"type": "str", "required": True},
        "certificate": {"type": "str", "default": ""},
        "ca": {"type": "str", "default": ""},
    })
    params = module.params
    folder = Folder(params["folder"], params["group"])
    if params["do"] == "install":
        reason = folder.install({"ca.pem": params["ca"], "host.pem": params["certificate"]})
        if reason:
            module.fail_json(msg=f"The new certificate was taken back, because {reason}")
        module.exit_json(changed=True)
    key = folder.public_key()
    made = not key and not module.check_mode
    if made:
        folder.make_key()
        key = folder.public_key()
    module.exit_json(changed=made, made=made, public_key=key, certificate=folder.read("host.pem"), ca=folder.read("ca.pem"), astray=folder.astray())


if __name__ == "__main__":
    main()
