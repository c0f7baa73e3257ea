"""Which names are asked for, and what is said about those that are not."""

from __future__ import annotations

import errno
import importlib.util
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "plugins/modules/certbot_certificate.py"
SPEC = importlib.util.spec_from_file_location("certbot_certificate", SOURCE)
module = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(module)

TOKEN, BODY = "token", b"body"


@pytest.mark.parametrize(
    ("names", "sound", "bad", "order"),
    [
        pytest.param([], False, [], ["a", "b"], id="none yet"),
        pytest.param([], False, ["b"], ["a"], id="none yet, the second name is not ready"),
        pytest.param([], False, ["a"], [], id="none yet, the canonical name is not ready"),
        pytest.param(["a"], True, ["b"], [], id="the second name is still not ready"),
        pytest.param(["a"], True, [], ["a", "b"], id="the second name is ready now"),
        pytest.param(["a", "b"], False, [], ["a", "b"], id="another server, or neglected"),
        pytest.param(["a", "b"], False, ["b"], [], id="another server, but a certified name would be lost"),
        pytest.param(["a", "b", "c"], True, [], ["a", "b"], id="a name was removed"),
        pytest.param(["a", "c"], True, ["b"], ["a"], id="one removed, one not ready"),
    ],
)
def test_names_to_order(names, sound, bad, order):
    assert module.names_to_order(["a", "b"], names, sound, dict.fromkeys(bad, "why")) == order


@pytest.fixture
def world(monkeypatch):
    """Addresses by name, and answers by address."""
    addresses: dict[str, list[str]] = {}
    answers: dict[str, object] = {}

    def addresses_of(name):
        if name not in addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return addresses[name]

    def fetch(address, name, path):
        assert path == f"/.well-known/acme-challenge/{TOKEN}"
        if isinstance(answers[address], Exception):
            raise answers[address]
        return answers[address]

    monkeypatch.setattr(module, "addresses_of", addresses_of)
    monkeypatch.setattr(module, "fetch", fetch)
    monkeypatch.setattr(module, "own_addresses", lambda: ["192.0.2.7"])
    return addresses, answers


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        pytest.param({}, "x.example has no address in DNS", id="no address"),
        pytest.param({"192.0.2.7": (200, BODY)}, "", id="here"),
        pytest.param({"192.0.2.9": (200, b"else")}, "leads to 192.0.2.9, which is not this host", id="another's answer"),
        pytest.param({"192.0.2.9": (404, b"")}, "HTTP 404", id="not found"),
        pytest.param({"192.0.2.9": OSError(errno.ECONNREFUSED, "refused")}, "certbot_precheck: false", id="refused"),
        pytest.param({"192.0.2.9": TimeoutError("timed out")}, "timed out", id="silence"),
        pytest.param({"192.0.2.7": (200, BODY), "2001:db8::9": (404, b"")}, "Let the AAAA record", id="stale AAAA"),
        # Not for this host to say: the ACME server decides.
        pytest.param({"127.0.1.1": (404, b"")}, "", id="a line in /etc/hosts"),
        pytest.param({"2001:db8::9": OSError(errno.ENETUNREACH, "no IPv6")}, "", id="no IPv6 here"),
        pytest.param({"192.0.2.9": (301, b"")}, "", id="a proxy that redirects"),
    ],
)
def test_why_a_name_is_not_ready(world, where, expected):
    addresses, answers = world
    if where:
        addresses["x.example"] = list(where)
    answers.update(where)
    reason = module.why_not_ready("x.example", TOKEN, BODY)
    assert expected in reason if expected else reason == ""
    if reason:
        assert "x.example" in reason
        assert "192.0.2.7" in reason, "the way out names the address that records should have"


def test_the_acme_servers_own_words_are_passed_on():
    output = """
Certbot failed to authenticate some identifiers (authenticator: webroot). The Certificate Authority reported these problems:
  Identifier: x.example
  Type:   connection
  Detail: 192.0.2.9: Fetching http://x.example/.well-known/acme-challenge/abc: Timeout

Hint: The Certificate Authority failed to download the challenge files.
"""
    (sentence,) = module.explain(output, "https://ca.example/dir")
    assert sentence == (
        "The ACME server https://ca.example/dir could not validate x.example (connection): 192.0.2.9: Fetching "
        "http://x.example/.well-known/acme-challenge/abc: Timeout"
    )


def test_the_precheck_leaves_nothing_behind(tmp_path, world, monkeypatch):
    addresses, _ = world
    seen = []

    def look(address, name, path):
        seen.extend(file.name for file in (tmp_path / module.CHALLENGES).iterdir())
        return 404, b""

    monkeypatch.setattr(module, "fetch", look)
    addresses["x.example"] = ["192.0.2.9"]
    assert list(module.precheck(["x.example"], str(tmp_path))) == ["x.example"]
    assert len(seen) == 1
    assert list((tmp_path / module.CHALLENGES).iterdir()) == []


# --- The module itself, with a certbot that only writes down how it is called ---------------------------------------------

SERVER = "https://ca.example/directory"
CERTBOT = """#!/bin/sh
echo "$*" >>{folder}/calls
if [ -e {folder}/refuses ] || [ -e {folder}/refuses-$1 ]; then echo 'The server says no.' >&2; exit 1; fi
case $1 in certonly) mkdir -p {folder}/accounts/ca.example/directory/new; echo '{{}}' >{folder}/accounts/ca.example/directory/new/regr.json ;; esac
"""


class Host:
    """A folder of certbot's, the module on it, and what certbot was called with."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.certbot = folder / "certbot"
        self.certbot.write_text(CERTBOT.format(folder=folder))
        self.certbot.chmod(0o755)

    def account(self, name: str, contact: str | None = None) -> Path:
        account = self.folder / "accounts/ca.example/directory" / name
        account.mkdir(parents=True)
        (account / "regr.json").write_text("{}")
        if contact is not None:
            (account / module.CONTACT).write_text(f"{contact}\n")
        return account

    def certificate(self, account: str) -> None:
        live = self.folder / "live/site"
        live.mkdir(parents=True)
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x.example",
                        "-addext", "subjectAltName=DNS:x.example", "-keyout", "/dev/null", "-out", live / "fullchain.pem"],
                       check=True, capture_output=True)
        (self.folder / "renewal").mkdir()
        (self.folder / "renewal/site.conf").write_text(f"account = {account}\nserver = {SERVER}\n")

    def run(self, email: str, check: bool = False) -> dict:
        arguments = {"name": "site", "domains": ["x.example"], "directory": SERVER, "email": email, "webroot": str(self.folder / "webroot"),
                     "certbot": str(self.certbot), "config": str(self.folder), "deploy_hook": "true", "precheck": False}
        payload = {"ANSIBLE_MODULE_ARGS": {**arguments, "_ansible_check_mode": check, "_ansible_remote_tmp": str(self.folder)}}
        done = subprocess.run([sys.executable, str(SOURCE)], input=json.dumps(payload), capture_output=True, text=True, check=False)
        return json.loads(done.stdout)

    @property
    def calls(self) -> list[str]:
        record = self.folder / "calls"
        lines = record.read_text().splitlines() if record.exists() else []
        record.unlink(missing_ok=True)
        return lines


@pytest.fixture
def there(tmp_path):
    """A host with a good certificate."""
    found = Host(tmp_path)
    found.certificate("mine")
    return found


UPDATE = f"update_account --non-interactive --server {SERVER} --account mine "


@pytest.mark.parametrize(
    ("known", "wanted", "call"),
    [
        pytest.param("a@x.example", "a@x.example", None, id="the same"),
        pytest.param("a@x.example", "b@x.example", UPDATE + "--email b@x.example --no-eff-email", id="another"),
        pytest.param("a@x.example", "", UPDATE + "--register-unsafely-without-email", id="none any more"),
        pytest.param("", "b@x.example", UPDATE + "--email b@x.example --no-eff-email", id="one where there was none"),
        pytest.param("", "", None, id="still none"),
        pytest.param(None, "b@x.example", UPDATE + "--email b@x.example --no-eff-email", id="unknown"),
        pytest.param(None, "", None, id="unknown, and none wished for"),
    ],
)
def test_the_server_is_told_a_contact_once(there, known, wanted, call):
    account = there.account("mine", known)
    there.account("another", "c@x.example")
    predicted = there.run(wanted, check=True)
    assert there.calls == []
    assert (predicted["changed"], predicted["contact_updated"]) == (call is not None,) * 2
    answer = there.run(wanted)
    assert there.calls == ([call] if call else [])
    assert answer == predicted
    assert not answer["created"]
    assert module.read_contact(str(account)) == (known if call is None else wanted)
    again = there.run(wanted)
    assert (again["changed"], there.calls) == (False, [])


def test_a_refused_contact_is_said_and_tried_again(there):
    there.account("mine", "a@x.example")
    (there.folder / "refuses").touch()
    answer = there.run("b@x.example")
    assert not answer["changed"] and not answer["contact_updated"]
    assert answer["names"] == ["x.example"]
    (problem,) = answer["problems"]
    assert problem.startswith(f"app_acme_email: the contact at {SERVER} could not be changed to b@x.example: The server says no.")
    (there.folder / "refuses").unlink()
    assert there.run("b@x.example")["contact_updated"]


def test_the_contact_of_a_new_account_is_known(tmp_path):
    new = Host(tmp_path)
    answer = new.run("a@x.example")
    assert answer["created"] and not answer["contact_updated"]
    (call,) = new.calls
    assert call.startswith("certonly ") and " --email a@x.example " in call
    assert module.read_contact(str(tmp_path / "accounts/ca.example/directory/new")) == "a@x.example"


def test_an_account_that_was_there_before_the_certificate_is_told_first(tmp_path):
    new = Host(tmp_path)
    new.account("only", "a@x.example")
    assert new.run("b@x.example", check=True)["contact_updated"]
    answer = new.run("b@x.example")
    assert answer["created"] and answer["contact_updated"]
    assert [call.split()[0] for call in new.calls] == ["update_account", "certonly"]


def test_a_contact_is_no_certificate(tmp_path):
    new = Host(tmp_path)
    new.account("only", "a@x.example")
    (tmp_path / "refuses-certonly").touch()
    answer = new.run("b@x.example")
    assert answer["changed"] and answer["contact_updated"] and not answer["created"]
    (problem,) = answer["problems"]
    assert problem.startswith(f"certbot got no certificate from {SERVER}: The server says no. ")


def test_accounts_among_which_nothing_says_which_are_left_alone(tmp_path):
    several = Host(tmp_path)
    several.account("one", "a@x.example")
    several.account("two", "a@x.example")
    assert not several.run("b@x.example", check=True)["contact_updated"]
