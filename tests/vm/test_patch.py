"""A boot by playbooks/patch.yml: only when something asks for it and somebody has allowed it; and the host that comes back serves, whole."""

from __future__ import annotations

import secrets

import pytest
from updates import CVES, Patch


@pytest.fixture
def patch(lab, machine):
    found = Patch(lab, lab.web)
    found.set_up()
    machine.check_output("touch /run/reboot-required; echo linux-image-drill >/run/reboot-required.pkgs")
    yield found
    found.clean_up()


def test_a_host_that_waits_for_a_boot_is_booted_when_it_may_be_and_serves_again(lab, machine, answers, patch, https) -> None:
    def boot() -> str:
        return machine.check_output("cat /proc/sys/kernel/random/boot_id")

    def serves() -> bool:
        return https.get(f"{answers.site}/", timeout=120).status_code == 200

    first = boot()
    done, told = patch.run("-e", CVES)
    assert done.returncode == 0, told
    assert "A boot is due: linux-image-drill asked for it. It waits for one (patch_reboot)." in told, told
    assert "Waits for a boot: linux-image-drill asked for it. Run this with" in told, told
    assert patch.version() == "1.1" and boot() == first and serves()

    done, told = patch.run("-e", CVES, "-e", '{"patch_reboot": true}')
    lab.hang_up()
    assert done.returncode == 0, told
    assert "A boot is due: linux-image-drill asked for it. It is booted in this run." in told and "Waits for a boot" not in told, told
    second = boot()
    assert second != first and serves()
    # The playbook has waited for it: nothing is failed, or on its way, when it says that it is done.
    assert machine.check_output("systemctl is-system-running") == "running"
    mark = f"drill-{secrets.token_hex(6)}"
    machine.check_output(f"logger {mark}")
    answers.wait("show", "--dataset", "journal", "--host", lab.web, "--text", mark, seconds=120)

    done, told = patch.run("-e", CVES, "-e", '{"patch_reboot": true}')
    assert done.returncode == 0 and "changed=0 " in done.stdout and "A boot is due" not in told, told
    assert boot() == second
