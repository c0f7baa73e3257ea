"""What every host has in common: who may become root, what updates itself, what the kernel and a login are told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from login import ROOT, ssh, wanted

VARS = yaml.safe_load((ROOT / "roles/base/vars/main.yml").read_text())


@pytest.fixture(scope="module")
def in_container(host) -> bool:
    return host.run("systemd-detect-virt --container").rc == 0


def login(host, command: str) -> str:
    done = ssh(host.lab, command=command)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- administrators ----------------------------------------------------------------------------------------------------


def test_administrators_are_those_of_the_inventory(host) -> None:
    names = {admin["name"] for admin in host.lab["base_admins"]}
    assert set(host.file("/etc/ssh/authorized_keys.d").listdir()) == names
    for name in names:
        assert "sudo" in host.user(name).groups


def test_keys_are_those_of_the_inventory_and_root_keeps_them(host) -> None:
    for admin in host.lab["base_admins"]:
        file = host.file(f"/etc/ssh/authorized_keys.d/{admin['name']}")
        assert file.content_string.splitlines() == [key.strip() for key in admin["keys"]]
        assert (file.user, file.group, file.mode) == ("root", "root", 0o644)


def test_administrators_become_root_without_a_password_and_others_do_not(host) -> None:
    assert login(host, "sudo -n id -u") == "0"
    assert host.file("/etc/sudoers.d").listdir() == ["redoubt"]
    for user in ("nobody", "daemon"):
        assert "not allowed" in host.run(f"sudo --list --other-user={user}").stdout
    assert host.run("visudo --check").rc == 0


def test_root_is_the_only_root_and_no_password_is_empty(host) -> None:
    accounts = [line.split(":") for line in host.file("/etc/passwd").content_string.splitlines()]
    assert [account[0] for account in accounts if account[2] == "0"] == ["root"]
    shadows = [line.split(":") for line in host.file("/etc/shadow").content_string.splitlines()]
    assert [shadow[0] for shadow in shadows if not shadow[1]] == []


def test_no_revert_is_pending(host) -> None:
    assert not host.file("/var/lib/redoubt/lockout/armed.json").exists
    assert host.run("ls -A /var/lib/redoubt/unfinished").stdout == ""
    assert host.run("systemctl is-enabled redoubt-lockout-boot.service").stdout.strip() == "enabled"
    assert host.run("systemd-analyze verify redoubt-lockout-boot.service").rc == 0


# --- packages ----------------------------------------------------------------------------------------------------------


def test_packages_come_from_debian_main_updates_and_security(host) -> None:
    policy = host.check_output("apt-cache policy")
    release = host.system_info.codename
    assert {f"n={release}", f"n={release}-updates", f"n={release}-security"} <= set(re.findall(r"n=[a-z-]+", policy))
    if wanted(host.lab, "base", "base_apt_purge"):
        assert host.file("/etc/apt/sources.list.d").listdir() == ["debian.sources"]


def test_unattended_upgrades_takes_security_updates_only(host) -> None:
    said = host.run("unattended-upgrade --dry-run --debug")
    assert said.rc == 0, said.stderr
    allowed = re.search(r"Allowed origins are: (.*)", said.stdout + said.stderr).group(1)
    extra = wanted(host.lab, "base", "base_upgrade_origins")
    assert allowed.split(", ") == [f"origin=Debian,codename={host.system_info.codename}-security,label=Debian-Security", *extra]


def test_upgrades_run_by_themselves(host) -> None:
    for timer in ("apt-daily.timer", "apt-daily-upgrade.timer"):
        assert host.service(timer).is_enabled
        assert host.service(timer).is_running, host.run(f"journalctl --unit={timer} --lines=20").stdout
    settings = host.check_output("apt-config dump APT::Periodic")
    assert 'APT::Periodic::Unattended-Upgrade "1";' in settings
    assert 'APT::Periodic::Update-Package-Lists "1";' in settings
    # Without it, an upgrade of a package with a managed file is held back for ever.
    assert "--force-confold" in host.check_output("apt-config dump Dpkg::Options")


def test_unwanted_packages_are_out_and_stay_out(host) -> None:
    for name in wanted(host.lab, "base", "base_packages_unwanted"):
        assert not host.package(name).is_installed
        # Nothing is said of a name that Debian does not have.
        policy = host.check_output(f"apt-cache policy {name}")
        assert not policy or "Candidate: (none)" in policy


def test_extra_certificates_are_trusted(host) -> None:
    bundle = re.sub(r"\s", "", host.file("/etc/ssl/certs/ca-certificates.crt").content_string)
    for item in wanted(host.lab, "base", "base_trusted_cas"):
        text = item if "-----BEGIN" in item else Path(item).read_text()
        for certificate in re.findall(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", text, re.DOTALL):
            assert re.sub(r"\s", "", certificate) in bundle


# --- the system --------------------------------------------------------------------------------------------------------


def test_the_clock_is_kept(host, in_container) -> None:
    assert host.service("systemd-timesyncd").is_enabled
    if in_container:
        pytest.skip("time synchronisation running: a container has the machine's clock: only a virtual machine can show it")
    assert host.service("systemd-timesyncd").is_running, host.run("journalctl --unit=systemd-timesyncd --lines=20").stdout
    assert host.check_output("timedatectl show --property=NTP --value") == "yes"


def effective(host, defaults: dict) -> tuple[dict, dict]:
    own = wanted(host.lab, "base", "base_sysctl")
    expected = {key: str(own.get(key, value)) for key, value in defaults.items()}
    return expected, {key: host.check_output(f"sysctl -n {key}").replace("\t", " ") for key in expected}


def test_network_parameters_are_in_effect(host) -> None:
    expected, found = effective(host, VARS["__base_sysctl_network"])
    assert found == expected


def test_kernel_parameters_are_in_effect(host, in_container) -> None:
    if in_container:
        assert not host.file("/etc/sysctl.d/61-redoubt-kernel.conf").exists, "it would be applied to the machine's kernel"
        pytest.skip("kernel parameters in effect: a container has the machine's kernel: only a virtual machine can show it")
    known = {key: value for key, value in VARS["__base_sysctl_kernel"].items() if host.file(f"/proc/sys/{key.replace('.', '/')}").exists}
    expected, found = effective(host, known)
    assert found == expected


def test_modules_cannot_be_loaded(host, in_container) -> None:
    if in_container:
        pytest.skip("kernel modules refused: a container cannot load any: only a virtual machine can show it")
    for name in wanted(host.lab, "base", "base_modules_disabled"):
        assert "insmod" not in host.run(f"modprobe --dry-run --verbose {name}").stdout


def test_the_journal_is_on_disk_and_bounded(host) -> None:
    journal = "/var/log/journal/" + host.file("/etc/machine-id").content_string.strip()
    log = host.run("journalctl --unit=systemd-journald --lines=20").stdout
    assert f"{journal}/system.journal" in host.check_output("ls -l /proc/$(pidof systemd-journald)/fd"), log
    settings = host.check_output("systemd-analyze cat-config systemd/journald.conf")
    assert f"SystemMaxUse={wanted(host.lab, 'base', 'base_journal_size')}" in settings
    assert host.file("/var/log/journal").mode == 0o2755


def test_log_files_are_looked_at_every_hour_and_bounded(host) -> None:
    assert "*-*-* *:00:00" in host.check_output("systemctl show --value --property=TimersCalendar logrotate.timer")
    assert host.service("logrotate.timer").is_running
    said = host.run("logrotate --debug /etc/logrotate.conf").stderr
    size = wanted(host.lab, "base", "base_log_file_size")
    if host.file("/etc/logrotate.d/nginx").exists:
        # Debian 12's says it on the next line.
        assert re.search(rf"rotating pattern: /var/log/nginx/\*\.log.*\n?.*log files >= {size} are rotated earlier", said), said


def test_a_login_creates_files_that_others_cannot_read(host) -> None:
    assert login(host, "umask").lstrip("0") == wanted(host.lab, "base", "base_umask").lstrip("0")
    # For what sudo installs, others are the services.
    assert login(host, "sudo -n sh -c umask") == "0022"


def test_nothing_dumps_core(host) -> None:
    assert login(host, "ulimit -H -c") == "0"
    assert host.check_output("systemctl show --property=DefaultLimitCORE --value") == "0"
    assert "Storage=none" in host.check_output("systemd-analyze cat-config systemd/coredump.conf")


def test_the_banner_warns_and_tells_nothing(host) -> None:
    banner = ssh(host.lab).stderr
    assert wanted(host.lab, "base", "base_banner").strip() in banner
    for name in ("/etc/issue", "/etc/issue.net", "/etc/motd"):
        assert not re.search(r"debian|linux|\\[a-z]", host.file(name).content_string, re.IGNORECASE)


def test_time_zone_and_locale(host) -> None:
    zone = wanted(host.lab, "base", "base_timezone")
    assert host.file("/etc/localtime").linked_to == f"/usr/share/zoneinfo/{zone}"
    if zone == "Etc/UTC":
        assert login(host, "date +%Z") == "UTC"
    assert login(host, "echo $LANG") == wanted(host.lab, "base", "base_locale")


def test_needless_services_do_not_run(host) -> None:
    for name in wanted(host.lab, "base", "base_services_disabled"):
        assert not host.service(name).is_running


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("/etc/shadow", 0o640),
        ("/etc/gshadow", 0o640),
        ("/etc/passwd", 0o644),
        ("/etc/sudoers", 0o440),
        ("/etc/sudoers.d/redoubt", 0o440),
        ("/etc/ssh/authorized_keys.d", 0o755),
        ("/usr/local/lib/redoubt/lockout-guard", 0o755),
        ("/var/lib/redoubt/lockout", 0o700),
    ],
)
def test_files_are_roots_and_closed(host, path: str, mode: int) -> None:
    file = host.file(path)
    assert file.user == "root"
    assert file.mode == mode
