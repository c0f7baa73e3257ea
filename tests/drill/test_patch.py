"""Security updates under load: what runs old code is replaced and no visitor notices; and what stands in the way stops the run with a sentence.

The update is a package of the drill's own, a library that a service, nginx and the web processes have loaded, in a repository that calls
itself Debian's security archive. What Debian itself has pending is hidden meanwhile, so that it is the same drill tomorrow.
"""

from __future__ import annotations

import re
import subprocess
import time

import pytest
from load import Load

pytestmark = pytest.mark.once

REPOSITORY = r"""
set -e
mkdir -p /srv/drill/cve
cd /srv/drill
lib=$(ls /usr/lib/*-linux-gnu/libanl.so.1 | head -n 1)
for version in 1.0 1.1; do
    mkdir -p $version/DEBIAN $version/usr/lib
    cp -L "$lib" $version/usr/lib/libredoubt-drill.so.1
    printf 'Package: redoubt-drill\nVersion: %s\nArchitecture: all\nMaintainer: drill <drill@notes.test>\nDescription: a library that a drill replaces\n' $version >$version/DEBIAN/control
    dpkg-deb --build --root-owner-group $version redoubt-drill_$version.deb >/dev/null
done
dpkg --install redoubt-drill_1.0.deb >/dev/null
. /etc/os-release
{ dpkg-deb --field redoubt-drill_1.1.deb; printf 'Filename: ./redoubt-drill_1.1.deb\nSize: %s\nSHA256: %s\n\n' $(stat -c %s redoubt-drill_1.1.deb) $(sha256sum redoubt-drill_1.1.deb | cut -d' ' -f1); } >Packages
printf 'Origin: Debian\nLabel: Debian-Security\nSuite: stable-security\nCodename: %s-security\nDate: %s\nSHA256:\n %s %s Packages\n' \
    $VERSION_CODENAME "$(date -Ru)" $(sha256sum Packages | cut -d' ' -f1) $(stat -c %s Packages) >Release
echo 'deb [trusted=yes] file:/srv/drill ./' >/etc/apt/sources.list.d/drill.list
printf 'Package: *\nPin: release l=Debian-Security\nPin-Priority: -10\n\nPackage: redoubt-drill\nPin: version 1.1\nPin-Priority: 990\n' >/etc/apt/preferences.d/drill
python3 - $VERSION_CODENAME <<'END'
import sys, zlib
text = "VERSION 1\nCVE-2026-1,,a hole that 1.1 mends\nCVE-2026-2,,one that nothing mends\n\nredoubt-drill,0,B RF,1.1,\nbash,1,B   ,,\n\n\n"
open(f"/srv/drill/cve/{sys.argv[1]}", "wb").write(zlib.compress(text.encode()))
END
"""
LOADED = "[Service]\nEnvironment=LD_PRELOAD=/usr/lib/libredoubt-drill.so.1\n"
USERS = ("drill-loaded.service", "nginx.service", "{name}@.service")
CVES = "patch_cve_source=file:///srv/drill/cve/"


class Patch:
    """The web host, with an update to install."""

    def __init__(self, lab, web):
        self.lab, self.web = lab, web
        self.name = lab.vars(lab.web)["app_name"]
        self.units = [unit.format(name=self.name) for unit in USERS]

    def run(self, *arguments: str):
        done = self.lab.playbook("playbooks/patch.yml", "--limit", self.lab.web, *arguments, check=False)
        return done, re.sub(r"\s+", " ", done.stdout + done.stderr)

    def again(self) -> None:
        """New web processes, by the switch."""
        self.web.check_output(f"/usr/local/lib/redoubt/release --action=restart /etc/{self.name}/release.json restart")

    def set_up(self) -> None:
        self.web.check_output(f"sh <<'SETUP'\n{REPOSITORY}\nSETUP")
        for unit in self.units:
            self.web.check_output(f"mkdir -p /run/systemd/system/{unit}.d && printf '{LOADED}' >/run/systemd/system/{unit}.d/drill.conf".replace("\n", "\\n"))
        self.web.check_output("systemd-run --quiet --unit=drill-loaded --property=Environment=LD_PRELOAD=/usr/lib/libredoubt-drill.so.1 sleep infinity; "
                              "systemctl daemon-reload; systemctl restart nginx.service")
        self.again()

    def clean_up(self) -> None:
        self.web.check_output(f"umount -q /var/cache/apt/archives; rm -rf {' '.join(f'/run/systemd/system/{unit}.d/drill.conf' for unit in self.units)} /run/reboot-required; "
                              "systemctl stop drill-loaded.service; systemctl daemon-reload; systemctl restart nginx.service")
        self.again()
        self.web.check_output("rm -rf /etc/apt/sources.list.d/drill.list /etc/apt/preferences.d/drill /srv/drill; dpkg --force-all --purge redoubt-drill; apt-get -q update")

    def version(self) -> str:
        return self.web.check_output("dpkg-query --show --showformat='${Version}' redoubt-drill")

    def main_pid(self, unit: str) -> str:
        return self.web.check_output(f"systemctl show --property=MainPID --value {unit}")

    def old_code(self) -> str:
        """The processes that have the library of the old package in memory."""
        return self.web.run("grep -l 'libredoubt-drill.*(deleted)' /proc/[0-9]*/maps 2>/dev/null").stdout


@pytest.fixture
def patch(lab, web):
    found = Patch(lab, web)
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
    live = patch.web.check_output(f"readlink /srv/{patch.name}/live")
    patch.web.check_output("touch /run/reboot-required; echo linux-image-drill >/run/reboot-required.pkgs")
    with Load(lambda: browse(lab.web), f"https://{values['app_domains'][0]}", values["vault_app_admin_password"]) as under:
        time.sleep(1)
        done, told = patch.run("-e", CVES)
        time.sleep(1)
    table("patch", under.row("1 update: service, nginx, web processes"))
    assert done.returncode == 0, told
    assert patch.version() == "1.1" and "Installed: redoubt-drill 1.0 to 1.1." in told, told
    assert not under.failed, under.failed[:10]
    assert len(under.answers) / (under.ended - under.started) >= 40 and under.written, "too little load to show anything"
    # Each was replaced in its own way, and nothing has the old library any more.
    assert patch.web.check_output(f"readlink /srv/{patch.name}/live") != live
    assert {unit: patch.main_pid(unit) for unit in old}.items().isdisjoint(old.items())
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


ILL = """
[Service]
Environment=LD_PRELOAD=/usr/lib/libredoubt-drill.so.1
ExecStart=/bin/sh -ec "test ! -e /run/drill-ill; touch /run/drill-ill; exec sleep infinity"
"""


@pytest.mark.slow
def test_an_update_that_leaves_a_host_ill_stops_the_run(lab, patch) -> None:
    """A service starts once and not again. Half a minute with what makes and removes the package."""
    patch.web.check_output(f"printf '%s' '{ILL}' >/run/systemd/system/drill-ill.service; systemctl daemon-reload; rm -f /run/drill-ill; systemctl start drill-ill.service")
    try:
        done, told = patch.run("-e", "patch_health_timeout=5")
    finally:
        patch.web.run("systemctl stop drill-ill.service; systemctl reset-failed drill-ill.service; rm -f /run/systemd/system/drill-ill.service /run/drill-ill; systemctl daemon-reload")
    assert done.returncode != 0 and f"{lab.web} is not done: drill-ill.service has failed. The run ends here; mend that" in told, told


@pytest.mark.slow
def test_what_stands_in_the_way_is_one_sentence(patch) -> None:
    """Each is a run of the playbook."""
    holding = "exec python3 -c 'import fcntl, time; f = open(\"/var/lib/dpkg/lock-frontend\", \"r+\"); fcntl.lockf(f, fcntl.LOCK_EX); time.sleep({seconds})'"
    patch.web.check_output(f"systemd-run --quiet --unit=drill-holds sh -c {subprocess.list2cmdline([holding.format(seconds=120)])}")
    done, told = patch.run("-e", "patch_lock_timeout=2")
    patch.web.check_output("systemctl stop drill-holds.service")
    assert done.returncode != 0 and re.search(r"was not touched: python3 \(process \d+\) has had the lock /var/lib/dpkg/lock-frontend for 2 seconds \(patch_lock_timeout\)", told), told

    patch.web.check_output("mount -t tmpfs -o size=64k none /var/cache/apt/archives; dd if=/dev/zero of=/var/cache/apt/archives/full bs=1k count=60 2>/dev/null")
    done, told = patch.run()
    patch.web.check_output("umount /var/cache/apt/archives")
    assert done.returncode != 0 and "/var/cache/apt/archives has 0 MB left, and the updates take" in told, told

    patch.web.check_output("apt-mark hold redoubt-drill")
    done, told = patch.run()
    patch.web.check_output("apt-mark unhold redoubt-drill")
    assert done.returncode == 0 and patch.version() == "1.0", told
    assert "redoubt-drill is held at 1.0, which 1.1 mends: it stays (`apt-mark unhold redoubt-drill` lets it come)." in told, told

    patch.web.check_output("dpkg --unpack /srv/drill/redoubt-drill_1.0.deb >/dev/null")
    done, told = patch.run()
    patch.web.check_output("dpkg --configure redoubt-drill")
    assert done.returncode != 0 and "dpkg was interrupted and has not finished with redoubt-drill: run `dpkg --configure -a` on the host" in told, told
    assert patch.version() == "1.0"
