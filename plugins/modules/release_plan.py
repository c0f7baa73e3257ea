#!/usr/bin/python
# Copyright: Redoubt maintainers
# MIT License (see LICENSE)
"""Say which release the inventory asks for, and what it takes to have it serve."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_plan
short_description: Find the release that an application's description asks for, and what is left to do for it
description:
  - Resolves the version to a commit, names the release after the commit and everything else that goes into it, and compares
    it with what is on the host. Changes nothing.
  - The same description and the same commit always have the same name, so a second run finds its work done.
  - On a host that has nothing of the application yet, check mode answers that all is to be done.
version_added: "0.1.0"
options:
  app:
    description: The application's C(release.json) on the host.
    type: path
    required: true
  config:
    description: Files that the running processes are started with. A change in one asks for a start of the idle colour.
    type: list
    elements: path
    default: []
  held:
    description: What to do with a release that was rolled back from. C(hold) leaves the one that serves alone and says so, C(deploy) puts
      it in service again.
    type: str
    choices: [hold, deploy]
    default: hold
  description:
    description: What O(app) is about to be, for check mode, in which it is not written.
    type: str
    default: ""
  config_changed:
    description: Whether an earlier task has changed such a file; in check mode the host does not show it.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: It only reads.
  diff_mode:
    support: none
    description: It only reads.
author: Redoubt maintainers
"""

EXAMPLES = r"""
- name: Find the release that the inventory asks for
  redoubt.django.release_plan:
    app: /etc/notes/release.json
    config: [/etc/notes/env, /etc/systemd/system/notes@.service]
  register: plan
"""

RETURN = r"""
release:
  description: Name of the release.
  returned: always
  type: str
  sample: 4f1c2d9e8a7b-0d1e2f3a
commit:
  description: Commit of the source, or the version of the package.
  returned: always
  type: str
build:
  description: Whether the release has to be built.
  returned: always
  type: bool
migrate:
  description: Whether its code has to be checked and its migrations run.
  returned: always
  type: bool
held:
  description: Since when, and by whom, the release is held back by a rollback; empty when it is not.
  returned: always
  type: str
outdated:
  description: Whether the release is held back and what serves has begun with another environment than the one that is configured now.
  returned: always
  type: bool
setup:
  description: Whether a first release has been set up on this host, or on another one that it shares a database with.
  returned: always
  type: bool
activate:
  description: Whether a colour has to be started with it and made the live one.
  returned: always
  type: bool
live:
  description: Colour that is live now; empty before the first release.
  returned: always
  type: str
idle:
  description: Colour that is not.
  returned: always
  type: str
fingerprint:
  description: What the live colour is started with, as a hash.
  returned: always
  type: str
"""

import hashlib
import json
import os
import re

from ansible.module_utils.basic import AnsibleModule

STATE = "/var/lib/redoubt"

NOT_CONTENT = {"version", "run", "config", "probe", "certificate", "migrate", "setup", "hooks", "processes", "listening", "kept", "audit", "check_fail_level",
               "allow_destructive", "several"}


def resolve(module: AnsibleModule, app: dict) -> str:
    """Return the commit that the version names, or fail with what the repository said."""
    version, repo = app["version"], app["repo"]
    if app["source"] == "pypi":
        return version
    config = app["config"]
    ssh = f"ssh -o BatchMode=yes -o StrictHostKeyChecking=yes -o ConnectTimeout=20 -o UserKnownHostsFile={config}/known_hosts"
    if os.path.exists(f"{config}/deploy_key"):
        ssh += f" -o IdentitiesOnly=yes -o IdentityFile={config}/deploy_key"
    code, out, err = module.run_command(
        ["runuser", "-u", app["build_user"], "--", "env", "GIT_TERMINAL_PROMPT=0", f"GIT_CONFIG_GLOBAL={config}/gitconfig",
         f"GIT_SSH_COMMAND={ssh}", "GIT_SSL_CAINFO=/etc/ssl/certs/ca-certificates.crt", "git", "ls-remote", "--", repo], cwd="/")
    if code:
        # What ssh says stands before git's own line, which is the same for every cause.
        lines = [line.removeprefix("fatal: ").strip(" .") for line in err.partition("Please make sure you have")[0].splitlines() if line.strip()]
        known = [line for line in lines if line != "Could not read from remote repository" and not re.match(r"[@#*]|Warning: ", line)]
        reason = (known or lines or [f"git exited with {code}"])[-1]
        module.fail_json(msg=f"app_repo: git cannot read {repo!r} from this host: {reason}. "
                             "Check the address, and that the host may read it (app_deploy_key, app_repo_known_hosts). "
                             "Nothing was changed; the release that was live still is.")
    refs = {ref: commit for commit, _, ref in (line.partition("\t") for line in out.splitlines())}
    for ref in (f"refs/tags/{version}^{{}}", f"refs/tags/{version}", f"refs/heads/{version}", version):
        if ref in refs:
            return refs[ref]
    if re.fullmatch(r"[0-9a-f]{40}", version):
        return version
    known = sorted({ref.split("/", 2)[2] for ref in refs if ref.startswith(("refs/heads/", "refs/tags/")) and not ref.endswith("^{}")})
    module.fail_json(msg=f"app_version: {version!r} is no branch or tag of {repo!r}, and no full commit (40 hexadecimal digits). "
                         f"It has: {', '.join(known[-20:]) or 'nothing at all'}. Nothing was changed; the release that was live still is.")


def read(path: str) -> bytes:
    """Return a file's bytes, none where there is no such file."""
    try:
        with open(path, "rb") as source:
            return source.read()
    except FileNotFoundError:
        return b""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(supports_check_mode=True, argument_spec={
        "app": {"type": "path", "required": True},
        "config": {"type": "list", "elements": "path", "default": []},
        "held": {"type": "str", "choices": ["hold", "deploy"], "default": "hold"},
        "config_changed": {"type": "bool", "default": False},
        "description": {"type": "str", "default": ""},
    })
    text = read(module.params["app"])
    if not text and module.check_mode:
        module.exit_json(changed=False, release="pending", commit="pending", build=True, migrate=True, activate=True, live="",
                         idle="blue", fingerprint="", held="", outdated=False, setup=False, uv=False)
    if not text:
        module.fail_json(msg=f"There is no {module.params['app']} on this host: nothing has been deployed here yet. Run playbooks/site.yml first.")
    app = json.loads(text)
    if module.check_mode and module.params["description"]:
        wanted = json.loads(module.params["description"])
        if (wanted["source"], wanted["repo"]) != (app["source"], app["repo"]):
            # The key and the servers that go with another address are not on the host yet, so it cannot be asked.
            module.exit_json(changed=False, release="pending", commit="pending", build=True, migrate=True, activate=True, live="",
                             idle="blue", fingerprint="", held="", outdated=False, setup=False, uv=False)
        app = wanted
    commit = resolve(module, app)
    # What is in a release makes it another one; how it is named, judged, put in service and kept does not.
    content = {key: value for key, value in app.items() if key not in NOT_CONTENT}
    inputs = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    release = f"{re.sub('[^A-Za-z0-9.]', '-', commit)[:12]}-{inputs[:8]}"

    root = app["root"]
    live = os.path.basename(os.readlink(f"{root}/live")) if os.path.islink(f"{root}/live") else ""
    digest = hashlib.sha256(release.encode())
    for path in module.params["config"]:
        digest.update(hashlib.sha256(read(path)).digest())
    serving = read(f"{root}/colours/{live}/fingerprint").decode().strip() if live else ""
    home = f"{STATE}/{os.path.basename(root)}"
    rolled_back = json.loads(read(f"{home}/held.json") or "{}")
    held = module.params["held"] == "hold" and release in rolled_back.get("releases", [])
    done = f"{home}/releases/{release}"
    activate = serving != digest.hexdigest() or os.path.exists(f"{home}/activating.json") or (module.check_mode and module.params["config_changed"])
    module.exit_json(
        changed=False, release=release, commit=commit, live=live, idle="green" if live == "blue" else "blue",
        fingerprint=digest.hexdigest(), held=f"{rolled_back['since']} by {rolled_back['who']}" if held else "",
        outdated=held and bool(live) and (read(f"{app['config']}/env") != read(f"{root}/live/env") or (module.check_mode and module.params["config_changed"])),
        build=not held and not os.path.exists(f"{root}/releases/{release}/manifest.json"),
        setup=os.path.exists(f"{home}/setup"),
        # Where a release was pruned, what was done for it counts no more.
        migrate=not held and not (os.path.exists(f"{root}/releases/{release}/manifest.json") and os.path.exists(f"{done}/migrate")
                                  and os.path.exists(f"{home}/setup")),
        activate=not held and activate,
    )


if __name__ == "__main__":
    main()
