"""Secrets are replaced while visitors are there: nobody is logged out, nothing fails, and the old value is dead afterwards."""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from load import Load
from logged import at

pytestmark = pytest.mark.once

ROTATE = ("playbooks/rotate.yml", "--extra-vars", "secret=app_secret_key")
MEMBERS, PACE = 3, 4.0
# Who of the application's processes has which of these in what it can write to, or was started with it.
MEMORY = """
import collections, os, pathlib, pwd

found, uid = collections.Counter(), pwd.getpwnam(user).pw_uid
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        if folder.stat().st_uid != uid:
            continue
        seen = [(folder / "environ").read_bytes()]
        with open(folder / "mem", "rb", 0) as memory:
            for line in (folder / "maps").read_text().splitlines():
                span, rights = line.split()[:2]
                if rights.startswith("rw"):
                    start, end = (int(part, 16) for part in span.split("-"))
                    memory.seek(start)
                    try:
                        seen.append(memory.read(end - start))
                    except OSError:
                        pass
    except (FileNotFoundError, ProcessLookupError):
        continue
    found["processes"] += 1
    for name, key in keys.items():
        found[name] += any(key.encode() in part for part in seen)
print(json.dumps({**dict.fromkeys(keys, 0), **found}))
"""


class Keys:
    """The lab's vault as a person with its password sees and edits it."""

    def __init__(self, lab):
        assert lab.groups  # which loads the collection
        from ansible.parsing.vault import VaultSecret
        from ansible_collections.redoubt.django.plugins.plugin_utils import rotation, secret_store

        self.lab, self.rotation, self.store = lab, rotation, secret_store
        self.path = lab.dir / "group_vars/all/vault.yml"
        self.secrets = [(lab.name, VaultSecret((lab.dir / "vault-password").read_bytes().strip()))]

    @property
    def vault(self):
        return self.store.Vault(self.path, self.lab.name, self.secrets)

    @property
    def values(self) -> dict:
        return self.vault.document.values

    @property
    def key(self) -> str:
        return self.values[self.rotation.KEY]

    @property
    def others(self) -> list[dict]:
        return self.values.get(self.rotation.FALLBACKS, [])

    @contextlib.contextmanager
    def edited(self):
        vault = self.vault
        yield vault.document
        vault.write()


class Members:
    """Visitors who are logged in, and what each of their requests came to; some come back only when they are asked to."""

    def __init__(self, browse, site: str, password: str, idle: tuple[str, ...]):
        self.site, self.password = site, password
        self.answers: list[int] = []
        self.stop = threading.Event()
        self.active = [self.login(browse()) for _ in range(MEMBERS)]
        self.idle = {name: self.login(browse()) for name in idle}

    def login(self, session):
        url = f"{self.site}/accounts/login/"
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', session.get(url, timeout=30).text)[1]
        form = {"username": "admin", "password": self.password, "csrfmiddlewaretoken": token}
        for _ in range(60):
            status = session.post(url, data=form, headers={"Referer": url}, timeout=30, allow_redirects=False).status_code
            if status != 429:
                break
            time.sleep(1)
        assert status == 302 and self.asks(session) == 200
        return session

    def asks(self, session) -> int:
        """200 for who is logged in; 302 leads others to the login."""
        return session.get(f"{self.site}/notes/new/", timeout=30, allow_redirects=False).status_code

    def comes_back(self, name: str) -> int:
        return self.asks(self.idle[name])

    def walk(self, session) -> None:
        while not self.stop.wait(1 / PACE):
            try:
                self.answers.append(self.asks(session))
            except OSError:
                self.answers.append(0)

    def __enter__(self):
        self.threads = [threading.Thread(target=self.walk, args=(session,)) for session in self.active]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join(60)


@pytest.fixture
def keys(lab, releases):
    """The vault; at its end nothing counts beside the key."""
    found = Keys(lab)
    yield found
    with found.edited() as document:
        document.remove(found.rotation.FALLBACKS)


@pytest.fixture
def site(lab):
    return f"https://{lab.vars(lab.web)['app_domains'][0]}", lab.vars(lab.web)["vault_app_admin_password"]


def in_memory(lab, keys: dict[str, str]) -> dict:
    """Of the application's processes, how many have each key."""
    return json.loads(at(lab, lab.web, f"import json\nuser, keys = {lab.vars(lab.web)['app_name']!r}, json.loads({json.dumps(keys)!r})\n{MEMORY}"))


def changed(done) -> int:
    return sum(map(int, re.findall(r"changed=(\d+)", done.stdout)))


def assert_unchanged(done) -> None:
    found = re.findall(r"^(?:TASK|RUNNING HANDLER) \[(.*)\] \*+\n((?:(?!TASK |RUNNING |PLAY ).*\n)*)", done.stdout, re.MULTILINE)
    assert changed(done) == 0, [title for title, answers in found if "changed: [" in answers]


def assert_unharmed(load: Load, members: Members) -> None:
    assert not load.failed, load.failed[:10]
    assert len(members.answers) > 20 and set(members.answers) == {200}, "somebody was logged out"


def test_a_new_secret_key_under_load(lab, releases, keys, site, browse, table) -> None:
    def browser():
        return browse(lab.web)

    old, host, name = keys.key, releases.host, releases.name
    members = Members(browser, *site, ("witness", "late", "latest"))
    with Load(browser, *site) as load, members:
        done = lab.playbook(*ROTATE)
    new = keys.key
    today = datetime.datetime.now(datetime.UTC).date()
    age = lab.vars(lab.web)["app_session_age"]
    assert new != old and keys.others[0]["key"] == old and "rotation" not in keys.others[0]
    assert datetime.date.fromisoformat(keys.others[0]["until"]) >= today + datetime.timedelta(seconds=age)
    assert old not in done.stdout + done.stderr and new not in done.stdout + done.stderr
    assert_unharmed(load, members)
    # Who was away meanwhile comes back with what the old key has signed.
    assert members.comes_back("witness") == 200
    first = in_memory(lab, {"old": old, "new": new})
    assert first["processes"] >= 4 and first["new"] >= 4 and first["old"] >= 4, first

    # The end comes while nobody runs anything: who starts after it ignores the key, though it stands in his environment.
    unit, env = f"{name}@$(basename $(readlink /srv/{name}/live)).service", f"/srv/{name}/live/env"
    until, over = keys.others[0]["until"], str(today - datetime.timedelta(days=1))
    host.check_output(f"sed -i 's/{until}/{over}/' {env} && grep -q {over} {env} && systemctl restart {unit}")
    assert members.comes_back("late") == 302

    # And the next run gives it to no process.
    with keys.edited() as document:
        document.put(keys.rotation.FALLBACKS, [{"key": old, "until": over}], today)
    assert releases.deploy("v1.0.0").returncode == 0
    assert members.comes_back("latest") == 302
    assert [members.asks(session) for session in members.active] == [200] * MEMBERS
    last = in_memory(lab, {"old": old, "new": new})
    assert last["old"] == 0 and last["new"] >= 4, last
    assert "REDOUBT_SECRET_KEY_FALLBACKS" not in host.check_output(f"cat {env} /etc/{name}/env")
    table("rotation", {**load.row("SECRET_KEY"), "members": len(members.answers), "logged_out": len([each for each in members.answers if each != 200])})


@pytest.mark.slow
def test_what_a_check_says_is_what_a_run_changes(lab, keys) -> None:
    before = keys.path.read_bytes()
    said = lab.playbook(*ROTATE, "--check")
    assert keys.path.read_bytes() == before and "a run would say: Made a new key" in " ".join(said.stdout.split())
    done = lab.playbook(*ROTATE)
    assert changed(said) == changed(done) > 0, said.stdout + done.stdout
    # What the rotation has left is what the inventory asks for.
    assert_unchanged(lab.playbook("playbooks/site.yml"))


@pytest.mark.slow
@pytest.mark.parametrize("mark", ["next", "replaced"])
@pytest.mark.parametrize("again", [ROTATE, ("playbooks/site.yml",)], ids=["rotate", "site"])
def test_cut_off_with_the_vault_written_and_no_host_reached(lab, releases, keys, site, browse, table, mark, again) -> None:
    def browser():
        return browse(lab.web)

    old = keys.key
    members = Members(browser, *site, ("witness",))
    with Load(browser, *site) as load, members:
        run = lab.start(*ROTATE)
        deadline = time.monotonic() + 240
        while mark not in [each.get("rotation") for each in keys.others]:
            assert time.monotonic() < deadline and run.poll() is None, "the vault was not written"
            time.sleep(0.2)
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
        made = [each["key"] for each in keys.others if each.get("rotation") == "next"] or [keys.key]
        lab.playbook(*again)
    assert_unharmed(load, members)
    assert members.comes_back("witness") == 200
    table("rotation", {**load.row(f"cut off ({mark}), then {Path(again[0]).stem}"), "members": len(members.answers), "logged_out": 0})
    if again == ROTATE:
        assert [keys.key] == made and keys.others[0]["key"] == old and "rotation" not in keys.others[0]
    else:
        # The processes have what the vault has, and all that is left is to say so.
        assert_unchanged(lab.playbook("playbooks/site.yml"))
        lab.playbook(*ROTATE)
        assert [keys.key] == made and not [each for each in keys.others if "rotation" in each]
    assert members.comes_back("witness") == 200


# --- The deploy key --------------------------------------------------------------------------------------------------


def git_server(lab, script: str, **environment: str) -> str:
    words = [*(["sudo", "-n"] if os.geteuid() else []), "podman", "exec", *(f"--env={name}={value}" for name, value in environment.items()), f"redoubt-{lab.name}-acme",
             "/bin/sh", "-euc", script]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def over_ssh(lab, releases, keys):
    """The demo's repository behind a key, and what says which keys the server takes."""
    key, public = keys.store.deploy_key("drill")

    def takes(*publics: str) -> None:
        lines = "".join(f'restrict,command="git-shell -c \\"$SSH_ORIGINAL_COMMAND\\"" {each}\n' for each in publics)
        git_server(lab, "mkdir -p ~git/.ssh; echo $LINES_ | base64 -d >~git/.ssh/authorized_keys; chown -R git: ~git/.ssh; chmod 0700 ~git/.ssh",
                   LINES_=base64.b64encode(lines.encode()).decode())

    server = git_server(lab, "id git >/dev/null 2>&1 || useradd --create-home --shell /bin/sh git; git config --system --replace-all safe.directory '*'; "
                             "cat /etc/ssh/ssh_host_ed25519_key.pub")
    takes(public)
    with keys.edited() as document:
        document.put("vault_app_deploy_key", key, datetime.date(2026, 1, 1))
    values = {"app_repo": "ssh://git@acme.test/srv/git/notes.git", "app_repo_known_hosts": "acme.test " + " ".join(server.split()[:2]),
              "app_deploy_key": "{{ vault_app_deploy_key }}"}
    yield takes, public, values
    with keys.edited() as document:
        document.remove("vault_app_deploy_key")
        document.remove("vault_app_deploy_key_next")
    git_server(lab, "userdel --remove git 2>/dev/null || true")


@pytest.mark.slow
def test_a_deploy_key_takes_its_place_once_the_server_takes_it(lab, releases, keys, over_ssh) -> None:
    takes, old_public, values = over_ssh
    told = releases.told

    def rotate():
        return lab.playbook("playbooks/rotate.yml", "--extra-vars", json.dumps({**values, "secret": "app_deploy_key"}), check=False)

    assert releases.deploy("v1.0.0", **values).returncode == 0
    old = keys.values["vault_app_deploy_key"]
    path = f"/etc/{releases.name}/deploy_key"

    first = rotate()
    new = keys.values["vault_app_deploy_key_next"]
    public = keys.rotation.public_half(new)
    assert first.returncode == 0 and public in told(first) and keys.values["vault_app_deploy_key"] == old, told(first)

    # Nobody has told the server: one sentence, and all is as it was.
    before = keys.path.read_bytes()
    refused = rotate()
    assert refused.returncode == 2 and f"the git server does not take the next key from {lab.web}" in told(refused) and "Permission denied" in told(refused), told(refused)
    assert public in told(refused) and keys.path.read_bytes() == before
    assert releases.host.check_output(f"cat {path}").strip() == old.strip()

    takes(old_public, public)
    done = rotate()
    assert done.returncode == 0, told(done)
    assert keys.values["vault_app_deploy_key"] == new and "vault_app_deploy_key_next" not in keys.values
    assert keys.rotation.public_half(old) in told(done) and "Take the old one away" in told(done)
    assert releases.host.check_output(f"cat {path}").strip() == new.strip()
    for each in (first, refused, done):
        assert not [line for key in (old, new) for line in key.splitlines()[1:-1] if line in each.stdout + each.stderr]

    # With the old one gone from the server, the hosts fetch on.
    takes(public)
    again = releases.deploy("v1.0.0", **values)
    assert again.returncode == 0 and changed(again) == 0, told(again)
