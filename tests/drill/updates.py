"""An update to install: what the drills of security updates share.

It is a package of the drill's own, a library that a service, nginx and the web processes have loaded, in a repository that calls
itself Debian's security archive. What Debian itself has pending is hidden meanwhile, so that it is the same drill tomorrow.
"""

from __future__ import annotations

import contextlib
import re

REPOSITORY = r"""
set -e
mkdir -p /srv/drill/cve
cd /srv/drill
lib=$(ls /usr/lib/*-linux-gnu/libanl.so.1 | head -n 1)
for version in 1.0 1.1; do
    mkdir -p $version/DEBIAN $version/usr/lib
    cp -L "$lib" $version/usr/lib/libredoubt-drill.so.1
    printf 'Package: redoubt-drill\nVersion: %s\nArchitecture: all\nMaintainer: drill <drill@notes.test>\nDescription: a library that a drill replaces\n' $version >$version/DEBIAN/control
    if [ $version = 1.1 ]; then
        printf '#!/bin/sh\nset -e\n%s\n' "$POSTINST" >$version/DEBIAN/postinst
        chmod 755 $version/DEBIAN/postinst
    fi
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
# Starts once and not again.
ILL = """
[Service]
Environment=LD_PRELOAD=/usr/lib/libredoubt-drill.so.1
ExecStart=/bin/sh -ec "test ! -e /run/drill-ill; touch /run/drill-ill; exec sleep infinity"
"""


class Patch:
    """A host, with an update to install."""

    def __init__(self, lab, at: str):
        self.lab, self.at, self.host = lab, at, lab.host(at)
        self.name = lab.vars(lab.web)["app_name"]
        self.serves = at in lab.groups["web"]
        self.units = [unit.format(name=self.name) for unit in (USERS if self.serves else USERS[:1])]

    def run(self, *arguments: str):
        done = self.lab.playbook("playbooks/patch.yml", "--limit", self.at, *arguments, check=False)
        return done, re.sub(r"\s+", " ", done.stdout + done.stderr)

    def again(self) -> None:
        """New web processes, by the switch."""
        if self.serves:
            self.host.check_output(f"systemctl restart nginx.service; /usr/local/lib/redoubt/release --action=restart /etc/{self.name}/release.json restart")

    def set_up(self, postinst: str = "") -> None:
        """`postinst` is what the update does when it is installed: lines of a shell, without a single quote."""
        self.host.check_output(f"sh <<'SETUP'\nPOSTINST='{postinst}'\n{REPOSITORY}\nSETUP")
        for unit in self.units:
            self.host.check_output(f"mkdir -p /run/systemd/system/{unit}.d && printf '{LOADED}' >/run/systemd/system/{unit}.d/drill.conf".replace("\n", "\\n"))
        self.host.check_output(f"printf '{LOADED}ExecStart=/bin/sleep infinity\n' >/run/systemd/system/drill-loaded.service; ".replace("\n", "\\n")
                               + "systemctl daemon-reload; systemctl start drill-loaded.service")
        self.again()

    def begin(self, unit: str) -> None:
        """What runs to its end, as a backup does, and takes long for it."""
        self.host.check_output(f"systemd-run --quiet --unit={unit} --service-type=oneshot --no-block --property=Environment=LD_PRELOAD=/usr/lib/libredoubt-drill.so.1 sleep infinity")

    def clean_up(self) -> None:
        self.host.check_output(f"umount -q /var/cache/apt/archives; rm -rf {' '.join(f'/run/systemd/system/{unit}.d/drill.conf' for unit in self.units)} "
                               "/run/reboot-required /var/lib/redoubt/patch-drained; systemctl stop drill-loaded.service drill-ends.service; systemctl reset-failed drill-ends.service; "
                               "rm -f /run/systemd/system/drill-loaded.service; systemctl daemon-reload")
        self.again()
        self.host.check_output("rm -rf /etc/apt/sources.list.d/drill.list /etc/apt/preferences.d/drill /srv/drill; dpkg --force-all --purge redoubt-drill; apt-get -q update")

    @contextlib.contextmanager
    def illness(self):
        """A service that runs until the update has it restarted."""
        self.host.check_output(f"printf '%s' '{ILL}' >/run/systemd/system/drill-ill.service; systemctl daemon-reload; rm -f /run/drill-ill; systemctl start drill-ill.service")
        try:
            yield
        finally:
            self.host.run("systemctl stop drill-ill.service; systemctl reset-failed drill-ill.service; rm -f /run/systemd/system/drill-ill.service /run/drill-ill; systemctl daemon-reload")

    def version(self) -> str:
        return self.host.check_output("dpkg-query --show --showformat='${Version}' redoubt-drill")

    def main_pid(self, unit: str) -> str:
        return self.host.check_output(f"systemctl show --property=MainPID --value {unit}")

    def old_code(self) -> str:
        """The processes that have the library of the old package in memory."""
        return self.host.run("grep -l 'libredoubt-drill.*(deleted)' /proc/[0-9]*/maps 2>/dev/null").stdout
