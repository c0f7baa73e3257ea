"""sshd as it runs and as it answers: what it offers, and whom it refuses."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys

import pytest
from login import another, ssh, wanted

POLICIES = {"bookworm": "Hardened Debian 12 (version 3)", "trixie": "Hardened Debian 13 (version 1)"}
POST_QUANTUM = {"mlkem768x25519-sha256", "sntrup761x25519-sha512", "sntrup761x25519-sha512@openssh.com"}


@pytest.fixture(scope="module")
def effective(host) -> dict[str, str]:
    lines = host.check_output("sshd -T").lower().splitlines()
    return dict(line.split(" ", 1) for line in lines if " " in line)


@pytest.fixture(scope="module")
def stranger(lab, host):
    """Another host to knock from: what sshd holds against it does not fall back on this machine."""
    found = another(lab, host.lab["inventory_hostname"])
    if not found:
        pytest.skip("refused logins from another host: the lab has only one")
    return found


def knock(stranger, host, user: str, *options: str):
    address = host.lab.get("lab_ipv4", host.lab["ansible_host"])
    known = "-o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=/dev/null -o BatchMode=yes -o ConnectTimeout=10"
    # Its 255 would be taken for a failure of the test's own connection.
    return stranger.run(f"ssh {known} {shlex.join(options)} {user}@{address} true || exit 1")


def test_the_service_runs_what_the_file_says(host) -> None:
    service = host.service("ssh")
    assert service.is_running, host.run("journalctl --unit=ssh --lines=30").stdout
    assert service.is_enabled
    assert host.run("sshd -t").rc == 0


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("permitrootlogin", "no"),
        ("passwordauthentication", "no"),
        ("kbdinteractiveauthentication", "no"),
        ("hostbasedauthentication", "no"),
        ("gssapiauthentication", "no"),
        ("permitemptypasswords", "no"),
        ("authenticationmethods", "publickey"),
        ("authorizedkeysfile", "/etc/ssh/authorized_keys.d/%u"),
        ("usepam", "yes"),
        ("strictmodes", "yes"),
        ("x11forwarding", "no"),
        ("allowagentforwarding", "no"),
        ("permittunnel", "no"),
        ("permituserenvironment", "no"),
        ("permituserrc", "no"),
        ("loglevel", "verbose"),
        ("banner", "/etc/issue.net"),
        ("maxstartups", "10:30:60"),
        ("persourcemaxstartups", "10"),
        ("requiredrsasize", "3072"),
        ("compression", "no"),
    ],
)
def test_effective_configuration(effective, option: str, value: str) -> None:
    assert effective[option] == value


def test_effective_configuration_follows_the_inventory(host, effective) -> None:
    groups = [line.split(" ", 1)[1] for line in host.check_output("sshd -T").splitlines() if line.startswith("allowgroups ")]
    assert groups == wanted(host.lab, "ssh", "ssh_allow_groups")
    assert effective["maxauthtries"] == str(wanted(host.lab, "ssh", "ssh_max_auth_tries"))
    assert effective["logingracetime"] == str(wanted(host.lab, "ssh", "ssh_login_grace_time"))
    assert effective["disableforwarding"] == ("no" if wanted(host.lab, "ssh", "ssh_tcp_forwarding") else "yes")


def test_no_drop_in_can_win(host) -> None:
    assert not re.search(r"^\s*include\b", host.file("/etc/ssh/sshd_config").content_string, re.IGNORECASE | re.MULTILINE)


def test_penalties_for_each_source(host, effective) -> None:
    if host.system_info.codename == "bookworm":
        pytest.skip("penalties for each source: OpenSSH 9.2 has none (Debian 12)")
    assert "authfail:" in effective["persourcepenalties"]


def test_the_handshake_offers_what_stands_up_to_quantum_computers_first(host) -> None:
    said = ssh(host.lab, "-vv").stderr
    server = said.split("peer server KEXINIT proposal", 1)[1]
    offered = re.search(r"KEX algorithms: (\S+)", server).group(1).split(",")
    real = [name for name in offered if not name.startswith(("ext-info", "kex-strict"))]
    assert real[0] in POST_QUANTUM
    if host.system_info.codename != "bookworm":
        assert set(real) <= POST_QUANTUM
    assert not any("sha1" in name or "nistp" in name or "group14" in name for name in real)
    assert "kex-strict-s-v00@openssh.com" in offered
    assert "Debian" not in re.search(r"remote software version (.*)", said).group(1)


def test_host_keys_are_ed25519_and_long_rsa(host) -> None:
    where = ["-p", str(host.lab["ansible_port"]), host.lab["ansible_host"]]
    found = subprocess.run(["ssh-keyscan", "-T", "10", "-t", "ecdsa,ed25519,rsa", *where], capture_output=True, text=True, check=False).stdout
    keys = subprocess.run(["ssh-keygen", "-l", "-f", "-"], input=found, capture_output=True, text=True, check=True).stdout
    assert sorted((int(line.split()[0]), line.split()[-1]) for line in keys.splitlines()) == [(256, "(ED25519)"), (4096, "(RSA)")]


def test_ssh_audit_passes_its_policy_for_the_release(host) -> None:
    if not importlib.util.find_spec("ssh_audit"):
        pytest.skip("ssh-audit's policy: the package is not installed beside pytest")
    # Over IPv6 where there is a choice: sshd holds the many unused connections against the address they come from.
    address = host.lab.get("lab_ipv6") or host.lab["ansible_host"]
    port = "22" if host.lab.get("lab_ipv6") else str(host.lab["ansible_port"])
    command = [sys.executable, "-m", "ssh_audit", "--no-colors", "-p", port, "-P", POLICIES[host.system_info.codename], address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout


def test_a_password_is_not_even_asked_for(stranger, host) -> None:
    said = knock(stranger, host, host.lab["ansible_user"], "-o", "PubkeyAuthentication=no")
    assert said.rc == 1
    assert "Permission denied (publickey)." in said.stderr


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_others_are_refused(stranger, host, user: str) -> None:
    said = knock(stranger, host, user)
    assert said.rc == 1
    assert "Permission denied (publickey)." in said.stderr


def test_a_session_leads_nowhere_else(host) -> None:
    if wanted(host.lab, "ssh", "ssh_tcp_forwarding"):
        pytest.skip("forwarding refused: the inventory lets administrators forward")
    done = ssh(host.lab, "-W", "127.0.0.1:22", command="")
    assert done.returncode != 0
    assert "administratively prohibited" in done.stderr or "stdio forwarding failed" in done.stderr


@pytest.mark.parametrize("path", ["/etc/ssh/sshd_config", "/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_rsa4096_key"])
def test_files_are_closed(host, path: str) -> None:
    file = host.file(path)
    assert (file.user, file.group, file.mode) == ("root", "root", 0o600)
