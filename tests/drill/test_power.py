"""After the power went, the release that was live is live, who was banned is banned, and a deploy that was under way is repaired or taken up again.

A lab host that is killed loses its processes and its memory, but not what the machine's kernel has yet to write: that every
rename follows its fsync is for the unit tests to say.
"""

from __future__ import annotations

import os
import subprocess
import time

import pytest


@pytest.fixture
def power(lab, releases):
    """Take the web host's power, and give it back as `make lab` does."""
    name = lab.vars(lab.web)["lab_container"]

    def cycle() -> None:
        subprocess.run([*(["sudo", "-n"] if os.geteuid() else []), "podman", "kill", "--signal=KILL", name], check=True, capture_output=True)
        lab.hang_up()
        lab.playbook("molecule/lab/create.yml", "--extra-vars", f"lab={lab.name}")
        lab.forget()
        releases.host = lab.host(lab.web)

    return cycle


def serves(lab, releases, https) -> None:
    """The first answer after a boot is the application's own, of the release that is live."""
    assert https.get(f"https://{lab.vars(lab.web)['app_domains'][0]}/", timeout=60).status_code == 200
    running = releases.host.check_output(f"systemctl list-units --plain --no-legend --state=active '{releases.name}@*.service' | cut -d' ' -f1")
    assert running == f"{releases.name}@{releases.host.check_output(f'basename $(readlink /srv/{releases.name}/live)')}.service"


def test_what_was_live_is_live_after_a_boot(lab, releases, https, power) -> None:
    live = releases.live
    boot = releases.host.check_output("stat -c %Y /proc/1")
    releases.host.check_output("fail2ban-client set sshd banip 198.51.100.77")
    power()
    assert releases.host.check_output("stat -c %Y /proc/1") != boot
    assert releases.live == live
    serves(lab, releases, https)
    # Who was banned still is.
    deadline = time.monotonic() + 60
    while "198.51.100.77" not in releases.host.run("nft list set inet redoubt_bans sshd4").stdout:
        assert time.monotonic() < deadline, releases.host.run("fail2ban-client status sshd").stdout
        time.sleep(0.5)
    releases.host.check_output("fail2ban-client unban 198.51.100.77")
    # What ships the logs runs again, whichever number its process had.
    units = "systemctl list-unit-files --plain --no-legend --state=enabled rsyslog.service 'redoubt-logs-*.service' | cut -d' ' -f1"
    assert set(releases.host.check_output(f"systemctl is-active $({units}) || :").split()) <= {"active"}


@pytest.mark.slow
@pytest.mark.parametrize("step", ["install", "migrate", "probe", "drain"])
def test_power_that_goes_during_a_deploy(lab, releases, source, https, power, step) -> None:
    old = releases.live
    commit = source.commit(settings=f"SESSION_COOKIE_AGE = {time.time_ns() // 10**9}")
    run = releases.start("drill")
    releases.wait_for_step(step)
    power()
    run.communicate(timeout=120)
    # The switch is one rename: before it the old one, after it the new.
    assert (releases.live == old) is (step != "drain")
    serves(lab, releases, https)
    done = releases.deploy("drill")
    assert done.returncode == 0, done.stdout
    assert releases.commit == commit
    assert any(entry["result"] == "cut off" for entry in releases.journal)
    serves(lab, releases, https)
