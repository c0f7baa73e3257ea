"""Security updates under load: what runs old code is replaced and no visitor notices; and what stands in the way stops the run with a sentence."""

from __future__ import annotations

import re
import subprocess
import time

import pytest
from load import Load
from updates import CVES, Patch

pytestmark = pytest.mark.once


@pytest.fixture
def patch(lab):
    found = Patch(lab, lab.web)
    found.set_up()
    yield found
    found.clean_up()


def test_an_update_under_load(lab, patch, browse, table) -> None:
    values = lab.vars(lab.web)
    done, told = patch.run("--check", "-e", CVES)
    assert done.returncode == 0, told
    assert "Security updates: redoubt-drill 1.0 to 1.1." in told and patch.version() == "1.0"
    assert not re.search(r"changed=0 ", done.stdout), "it says that nothing would be done"
    old = {unit: patch.main_pid(unit) for unit in ("drill-loaded.service", "nginx.service")}
    patch.begin("drill-ends.service")
    ends = patch.main_pid("drill-ends.service")
    live = patch.host.check_output(f"readlink /srv/{patch.name}/live")
    patch.host.check_output("touch /run/reboot-required; echo linux-image-drill >/run/reboot-required.pkgs")
    with Load(lambda: browse(lab.web), f"https://{values['app_domains'][0]}", values["vault_app_admin_password"]) as under:
        time.sleep(1)
        done, told = patch.run("-e", CVES)
        time.sleep(1)
    table("patch", under.row("1 update: service, nginx, web processes"))
    assert done.returncode == 0, told
    assert patch.version() == "1.1" and "Installed: redoubt-drill 1.0 to 1.1." in told, told
    assert not under.failed, under.failed[:10]
    assert len(under.answers) / (under.ended - under.started) >= 40 and under.written, "too little load to show anything"
    # Each was replaced in its own way, and nothing has the old library any more but what was not cut off.
    assert patch.host.check_output(f"readlink /srv/{patch.name}/live") != live
    assert {unit: patch.main_pid(unit) for unit in old}.items().isdisjoint(old.items())
    assert patch.main_pid("drill-ends.service") == ends and "begin them again: drill-ends.service." in told, told
    patch.host.check_output("systemctl stop drill-ends.service; systemctl reset-failed drill-ends.service")
    assert patch.old_code() == ""
    assert "Known vulnerabilities: before 2, of which an update mends 1; now 1, of which an update mends 0." in told, told
    assert "Waits for a boot: linux-image-drill asked for it. Run this with" in told, told
    done, told = patch.run("-e", '{"patch_reboot": true}')
    assert done.returncode == 0 and "changed=0 " in done.stdout, told
    assert "No security update is pending." in told and "It is a container: whoever runs it boots it." in told, told
    # What cannot be asked is not none.
    assert re.search(r"Known vulnerabilities: (not known: \S+ gave nothing|\d+, of which)", told), told


@pytest.mark.slow
def test_a_host_that_is_not_well_stops_the_run(lab, patch) -> None:
    """Half a minute with what makes and removes the package."""
    first = lab.host(lab.groups["backups"][0])
    first.run("systemd-run --quiet --unit=drill-sick false")
    try:
        done = lab.playbook("playbooks/patch.yml", check=False)
    finally:
        first.check_output("systemctl reset-failed drill-sick.service")
    told = re.sub(r"\s+", " ", done.stdout + done.stderr)
    assert done.returncode != 0
    assert f"{lab.groups['backups'][0]} was not touched: drill-sick.service has failed. The run ends here, before {lab.web}; mend that" in told, told
    assert patch.version() == "1.0" and f"[{lab.web}]" not in done.stdout


@pytest.mark.slow
def test_an_update_that_leaves_a_host_ill_stops_the_run(lab, patch) -> None:
    """Half a minute with what makes and removes the package."""
    with patch.illness():
        done, told = patch.run("-e", '{"patch_health_timeout": 5}')
    assert done.returncode != 0 and f"{lab.web} is not done: drill-ill.service has failed. The run ends here; mend that" in told, told


@pytest.mark.slow
def test_what_stands_in_the_way_is_one_sentence(patch) -> None:
    """Each is a run of the playbook."""
    holding = "exec python3 -c 'import fcntl, time; f = open(\"/var/lib/dpkg/lock-frontend\", \"r+\"); fcntl.lockf(f, fcntl.LOCK_EX); time.sleep({seconds})'"
    patch.host.check_output(f"systemd-run --quiet --unit=drill-holds sh -c {subprocess.list2cmdline([holding.format(seconds=120)])}")
    done, told = patch.run("-e", '{"patch_lock_timeout": 2}')
    patch.host.check_output("systemctl stop drill-holds.service")
    assert done.returncode != 0 and re.search(r"was not touched: python3 \(process \d+\) has had the lock /var/lib/dpkg/lock-frontend for 2 seconds \(patch_lock_timeout\)", told), told

    patch.host.check_output("mount -t tmpfs -o size=64k none /var/cache/apt/archives; dd if=/dev/zero of=/var/cache/apt/archives/full bs=1k count=60 2>/dev/null")
    done, told = patch.run()
    patch.host.check_output("umount /var/cache/apt/archives")
    assert done.returncode != 0 and "/var/cache/apt/archives has 0 MB left, and the updates take" in told, told

    patch.host.check_output("apt-mark hold redoubt-drill")
    done, told = patch.run()
    patch.host.check_output("apt-mark unhold redoubt-drill")
    assert done.returncode == 0 and patch.version() == "1.0", told
    assert "redoubt-drill is held at 1.0, which 1.1 mends: it stays (`apt-mark unhold redoubt-drill` lets it come)." in told, told

    patch.host.check_output("dpkg --unpack /srv/drill/redoubt-drill_1.0.deb >/dev/null")
    done, told = patch.run()
    patch.host.check_output("dpkg --configure redoubt-drill")
    assert done.returncode != 0 and "dpkg was interrupted and has not finished with redoubt-drill: run `dpkg --configure -a` on the host" in told, told
    assert patch.version() == "1.0"
