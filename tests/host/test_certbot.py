"""The certificate that is served, the one on disk, and what renews it. Reads only."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from edge import Edge

pytestmark = pytest.mark.hosts("web")

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "roles/certbot/files/usr/local/lib/redoubt/certbot-requirements.txt"


@pytest.fixture(scope="module")
def edge(lab, host) -> Edge:
    return Edge(lab, host.lab["inventory_hostname"])


@pytest.fixture(scope="module")
def served(edge: Edge) -> x509.Certificate:
    return x509.load_der_x509_certificate(edge.certificate())


@pytest.fixture(scope="module")
def folder(host) -> str:
    return host.lab["site_certificate"]


def test_every_domain_is_served_with_a_chain_that_verifies(edge: Edge) -> None:
    for name in edge.domains:
        with edge.tls(name) as connection:
            assert connection.getpeercert()


def test_the_certificate_is_for_the_domains_and_nothing_else(edge: Edge, served: x509.Certificate) -> None:
    names = served.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    assert sorted(names) == sorted(edge.domains)


def test_a_renewal_that_fails_would_be_told(host) -> None:
    assert "/usr/local/lib/redoubt/certbot-alert" in host.check_output("systemctl show --property=ExecStopPost certbot-renew.service")
    assert host.run("SERVICE_RESULT=success /usr/local/lib/redoubt/certbot-alert").rc == 0


def test_the_key_is_elliptic(served: x509.Certificate) -> None:
    key = served.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"


def test_the_certificate_is_not_due(served: x509.Certificate) -> None:
    life = served.not_valid_after_utc - served.not_valid_before_utc
    assert served.not_valid_after_utc - datetime.now(UTC) > life / 10, "the timer should have renewed it long ago"


def test_what_is_served_is_what_is_on_disk(host, served: x509.Certificate, folder: str) -> None:
    chain = x509.load_pem_x509_certificates(host.file(f"{folder}/fullchain.pem").content)
    assert chain[0] == served
    assert len(chain) > 1, "the intermediate certificate is missing"


def test_the_key_is_for_root_alone(host, folder: str) -> None:
    key = host.check_output(f"stat --dereference --format='%U %G %a' {folder}/privkey.pem")
    assert key == "root root 600"
    for path in ("live", "archive"):
        above = host.file(f"/etc/letsencrypt/{path}")
        assert (above.user, oct(above.mode)) == ("root", "0o700")
    reads = host.run(f"runuser -u www-data -- cat {folder}/privkey.pem")
    assert reads.rc != 0


def test_certbot_is_the_locked_one(host) -> None:
    wanted = dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)(?![^\n]*sys_platform == 'win32')", REQUIREMENTS.read_text(), re.MULTILINE))
    packages = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()), sep='\\n')"
    pip = host.check_output(f'/usr/local/lib/redoubt/certbot/bin/python -c "{packages}"')
    found = dict(line.lower().replace("_", "-").split("==") for line in pip.splitlines())
    found.pop("pip", None)
    found.pop("setuptools", None)
    assert found.items() <= wanted.items()
    assert "certbot" in found
    major, minor = (int(part) for part in found["certbot"].split(".")[:2])
    assert (major, minor) >= (5, 4)


def test_debians_certbot_does_not_renew_beside_it(host) -> None:
    assert not host.package("certbot").is_installed


def test_renewal_is_scheduled_twice_a_day(host) -> None:
    timer = host.service("certbot-renew.timer")
    assert timer.is_running
    assert timer.is_enabled
    names = ("NextElapseUSecRealtime", "RandomizedDelayUSec", "Persistent")
    shown = host.check_output("systemctl show certbot-renew.timer " + " ".join(f"--property={name}" for name in names))
    properties = dict(line.split("=", 1) for line in shown.splitlines())
    assert properties["RandomizedDelayUSec"] == "12h"
    assert properties["Persistent"] == "yes"
    waits = int(host.check_output("echo $(( $(date -d %s +%%s) - $(date +%%s) ))", properties["NextElapseUSecRealtime"]))
    assert 0 <= waits <= 24 * 3600


def test_renewal_reloads_nginx_and_knows_its_server(host) -> None:
    name = host.lab["app_name"]
    settings = dict(re.findall(r"^(\w+) = (.*)$", host.file(f"/etc/letsencrypt/renewal/{name}.conf").content_string, re.MULTILINE))
    assert settings["authenticator"] == "webroot"
    assert settings["key_type"] == "ecdsa"
    assert settings["renew_hook"] == "systemctl reload nginx.service"
    assert settings["server"] == host.lab["app_acme_directory"]


def test_renewal_runs_in_a_sandbox(host) -> None:
    expected = {
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "NoNewPrivileges": "yes",
        "PrivateDevices": "yes",
        "MemoryDenyWriteExecute": "yes",
        "CapabilityBoundingSet": "",
        "RestrictNamespaces": "yes",
    }
    shown = host.check_output("systemctl show certbot-renew.service " + " ".join(f"--property={name}" for name in expected))
    assert dict(line.split("=", 1) for line in shown.splitlines()) == expected
    said = host.check_output("systemd-analyze security --no-pager certbot-renew.service").splitlines()[-1]
    assert float(said.split(":")[1].split()[0]) <= 1.8, said


def test_the_last_renewal_did_not_fail(host) -> None:
    assert host.check_output("systemctl show --property=Result --value certbot-renew.service") == "success"
