"""Changes that lock the administrators out are taken back by the host itself, and nobody else gets in.

Changes the hosts it runs on, one after the other, and leaves them as they were.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from pathlib import Path

import pytest
from login import another, ssh

# One host stands for all: they have the same roles.
pytestmark = pytest.mark.hosts("web")

PLAY = """
- name: Change how one gets in
  hosts: {host}
  gather_facts: true
  gather_subset: ["!all", "!min", distribution, virtual]
  roles:
    - redoubt.django.base
    - redoubt.django.ssh
    - redoubt.django.firewall
"""
SECONDS = 25
WATCHED = "/etc/ssh/sshd_config /etc/ssh/authorized_keys.d /etc/sudoers /etc/sudoers.d /etc/nftables.conf /etc/pam.d /etc/security"


@pytest.fixture
def play(tmp_path: Path, host) -> str:
    file = tmp_path / "play.yml"
    file.write_text(PLAY.format(host=host.lab["inventory_hostname"]))
    return str(file)


def state(host) -> dict[str, str]:
    """All that decides who gets in: the files, what sshd has read, and what the kernel filters."""
    return {
        "files": host.check_output(f"find {WATCHED} -type f -exec stat --format='%n %a %u %g' {{}} + -exec sha256sum {{}} + | sort"),
        "sshd": host.check_output("sshd -T"),
        "rules": host.check_output("nft --stateless --terse list table inet redoubt"),
    }


def gets_in(host) -> bool:
    return ssh(host.lab, command="sudo -n id -u").stdout.strip() == "0"


def wait_until(condition, seconds: int, message: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(2)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"ssh_allow_groups": ["nogroup"]}, id="sshd bars the administrators"),
        pytest.param({"firewall_ssh_from": ["192.0.2.1"]}, id="the firewall drops port 22", marks=pytest.mark.slow),
        pytest.param({"base_sudo_rules": ["ALL ALL=(ALL:ALL) !ALL"]}, id="sudo knows no administrators", marks=pytest.mark.slow),
    ],
)
def test_a_change_that_locks_out_is_taken_back(lab, host, play: str, change: dict) -> None:
    before = state(host)
    done = lab.playbook(play, "-e", json.dumps({**change, "base_lockout_seconds": SECONDS}), check=False)
    assert done.returncode != 0
    said = " ".join((done.stdout + done.stderr).split())
    assert "could not log in anew and become root" in said, said
    assert "has put back /etc/" in said
    assert gets_in(host)
    assert state(host) == before
    assert not host.file("/var/lib/redoubt/lockout/armed.json").exists


@pytest.mark.slow
def test_a_controller_that_dies_leaves_a_host_that_helps_itself(host) -> None:
    before = state(host)
    guard = "/usr/local/lib/redoubt/lockout-guard"
    host.check_output(f"{guard} arm 15")
    host.check_output("sed -i 's/^AllowGroups.*/AllowGroups nogroup/' /etc/ssh/sshd_config && systemctl reload ssh")
    assert not gets_in(host)
    wait_until(lambda: gets_in(host), 60, "the host did not put its sshd_config back")
    assert state(host) == before
    assert "/etc/ssh/sshd_config" in host.file("/var/lib/redoubt/lockout/last.json").content_string


@pytest.mark.slow
def test_a_restart_while_armed_reverts_before_the_daemons_start(host) -> None:
    before = state(host)
    host.check_output("/usr/local/lib/redoubt/lockout-guard arm 3600")
    host.check_output("sed -i 's/^AllowGroups.*/AllowGroups nogroup/' /etc/ssh/sshd_config")
    # What the restart would run; the unit's place in the boot is systemd's to keep.
    host.check_output("systemctl stop redoubt-lockout.timer && systemctl start redoubt-lockout-boot.service")
    assert state(host) == before
    assert gets_in(host)


def test_keys_do_not_help_who_is_not_an_administrator(host) -> None:
    """Not even with a key in the right place: root, and an account outside of the groups."""
    key = host.lab["base_admins"][0]["keys"][0]
    try:
        host.check_output("useradd --create-home drill-visitor")
        for user in ("root", "drill-visitor"):
            host.check_output(f"echo {shlex.quote(key)} >/etc/ssh/authorized_keys.d/{user}")
            refused = ssh(host.lab, user=user)
            assert refused.returncode == 255
            assert "Permission denied" in refused.stderr
    finally:
        host.run("rm -f /etc/ssh/authorized_keys.d/root /etc/ssh/authorized_keys.d/drill-visitor; userdel --remove drill-visitor")


@pytest.mark.slow
def test_an_administrator_who_is_taken_off_the_list_is_out(lab, host, play: str, tmp_path: Path) -> None:
    admins = host.lab["base_admins"]
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    values = {name: host.lab[name] for name in ("ansible_host", "ansible_port", "ansible_ssh_common_args")}
    values |= {"ansible_user": "drill-admin", "ansible_ssh_private_key_file": str(key)}
    try:
        added = [*admins, {"name": "drill-admin", "keys": [key.with_suffix(".pub").read_text().strip()]}]
        lab.playbook(play, "-e", json.dumps({"base_admins": added}))
        assert ssh(values, command="sudo -n id -u").stdout.strip() == "0"
        # Another key in the line: the new one opens what the old one does not any more.
        other = tmp_path / "other"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
        lab.playbook(play, "-e", json.dumps({"base_admins": [*admins, {"name": "drill-admin", "keys": [other.with_suffix(".pub").read_text().strip()]}]}))
        assert ssh({**values, "ansible_ssh_private_key_file": str(other)}, command="sudo -n id -u").stdout.strip() == "0"
        assert ssh(values).returncode == 255
        lab.playbook(play, "-e", json.dumps({"base_admins": added}))
        session = subprocess.Popen(
            ["ssh", "-i", str(key), "-o", "ControlPath=none", "-o", "BatchMode=yes", "-p", str(values["ansible_port"]),
             *shlex.split(values["ansible_ssh_common_args"]), f"drill-admin@{values['ansible_host']}", "sleep 600"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(lambda: host.run("pgrep -u drill-admin sleep").rc == 0, 20, "no session")
        lab.playbook(play)
        assert session.wait(timeout=30) != 0, "the open session goes on"
        assert ssh(values).returncode == 255
        assert "drill-admin" not in host.check_output("getent group sudo")
        assert not host.file("/etc/ssh/authorized_keys.d/drill-admin").exists
        assert "not allowed" in host.run("sudo --list --other-user=drill-admin").stdout
        # And back again: what was taken is given back.
        lab.playbook(play, "-e", json.dumps({"base_admins": added}))
        assert ssh(values, command="sudo -n id -u").stdout.strip() == "0"
        lab.playbook(play)
    finally:
        host.run("userdel --remove drill-admin")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["lab_ipv4", "lab_ipv6"])
def test_a_hail_of_connections_is_slowed_down(lab, host, family: str) -> None:
    address = host.lab.get(family)
    stranger = another(lab, host.lab["inventory_hostname"])
    if not address or not stranger:
        pytest.skip(f"rate limit over {family[4:]}: needs another host and such an address")
    knock = "import socket,sys\nn=0\nfor _ in range(60):\n try:\n  socket.create_connection((sys.argv[1],22),0.2).close(); n+=1\n except OSError: pass\nprint(n)"
    assert 1 <= int(stranger.check_output(f"python3 -c {shlex.quote(knock)} {address}")) < 45
    assert gets_in(host), "somebody else's hail must not lock the administrators out"
