"""A certificate of the environment's CA opens the admin from the run that makes it to the run that revokes it, and no other does."""

from __future__ import annotations

import datetime
import json
import secrets
import ssl
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12
from edge import Edge

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "collections"))

PLAY = """
- name: Configure the edge alone
  hosts: web
  gather_facts: true
  gather_subset: ["!all", "!min", distribution]
  roles:
    - redoubt.django.nginx
"""


@pytest.fixture(scope="module")
def edge(lab) -> Edge:
    return Edge(lab, lab.web)


@pytest.fixture(scope="module")
def admin_cert(lab, tmp_path_factory):
    """Runs the playbook with a register of the drill's own; at the end the edge is as the inventory says."""
    folder = tmp_path_factory.mktemp("admin")
    play = folder / "edge.yml"
    play.write_text(PLAY)
    values = {"app_admin_client_ca": "environment", "admin_register": str(folder / "register.yml")}
    yield lambda **words: lab.playbook("playbooks/admin-cert.yml", "--extra-vars", json.dumps(values | words))
    lab.playbook(str(play))


def usable(bundle: Path, passphrase: str) -> str:
    """The bundle as Python's ssl takes it."""
    key, certificate, _ = pkcs12.load_key_and_certificates(bundle.read_bytes(), passphrase.encode())
    path = bundle.with_suffix(".pem")
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
                     + certificate.public_bytes(serialization.Encoding.PEM))
    return str(path)


def status(edge: Edge, certificate: str | None) -> int:
    context: ssl.SSLContext = edge.context()
    if certificate:
        context.load_cert_chain(certificate)
    return edge.ask(edge.variables["app_admin_path"], context=context).status


def test_issued_then_revoked(lab, edge, admin_cert, tmp_path) -> None:
    from ansible_collections.redoubt.django.plugins.plugin_utils.authority import Authority

    alice, bob = tmp_path / "alice.p12", tmp_path / "bob.p12"
    done = admin_cert(issue="alice", to=str(alice))
    admin_cert(issue="bob", to=str(bob))
    words = Path(f"{alice}.passphrase").read_text().strip()
    assert words not in done.stdout + done.stderr
    alices, bobs = usable(alice, words), usable(bob, Path(f"{bob}.passphrase").read_text().strip())
    assert [status(edge, each) for each in (None, alices, bobs)] == [404, 302, 302]

    # As every host of the environment has one: of the same CA, and not made for this.
    values = lab.vars(lab.web)
    other = tmp_path / "other.p12"
    other.write_bytes(Authority(values["pki_ca_certificate"], values["vault_pki_ca_key"]).client(
        "alice", 30, passphrase := secrets.token_hex(8), datetime.datetime.now(datetime.UTC))[0])
    assert status(edge, usable(other, passphrase)) == 404

    admin_cert(revoke="alice")
    assert [status(edge, each) for each in (alices, bobs)] == [404, 302]
    listed = admin_cert().stdout
    assert "revoked 20" in listed and "until 20" in listed and "changed=0" in listed


def test_a_reload_ends_when_no_worker_goes_by_the_old_configuration(web) -> None:
    worker = web.check_output("pgrep --parent $(systemctl show --property MainPID --value nginx) | head -n 1")
    web.check_output(f"kill -STOP {worker}")
    try:
        assert web.run("timeout 2 systemctl reload nginx").rc == 124, "the reload was over while a worker had not heard of it"
    finally:
        web.check_output(f"kill -CONT {worker}")
    web.check_output("systemctl reload nginx")


@pytest.mark.slow
def test_a_reload_that_the_master_refuses_is_said(web) -> None:
    """`nginx -t` binds no port that something has, so it does not see this."""
    web.check_output("echo 'server { listen 127.0.0.1:22; }' >/etc/nginx/conf.d/drill.conf")
    try:
        assert web.run("systemctl reload nginx").rc != 0
        assert "nginx kept its old configuration" in web.check_output("journalctl --unit nginx --since '-1 min' --output cat")
    finally:
        web.check_output("rm /etc/nginx/conf.d/drill.conf")
    web.check_output("systemctl reload nginx")
