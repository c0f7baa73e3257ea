"""Which names are asked for, and what is said about those that are not."""

from __future__ import annotations

import errno
import importlib.util
import socket
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
