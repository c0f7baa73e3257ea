"""What the role base installs for the others: all that they name, on the hosts that have them, and nothing of it starts before its role."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLES = Path(__file__).parents[2] / "roles"
DEFAULTS = yaml.safe_load((ROLES / "site/defaults/main.yml").read_text())
BASE = yaml.safe_load((ROLES / "base/vars/main.yml").read_text())
GROUPS = {"all": ["app1", "db1", "store1"], "web": ["app1"], "db": ["db1"], "logs": ["store1"], "backups": ["store1"]}


def value(name: str, groups: dict, host: str, release: str = "trixie", guest: tuple[str, ...] = (), **more):
    """A variable as a host of these groups has it."""
    names = ("site_packages", "site_role_packages", "site_audit", "site_seen")
    values = {"groups": groups, "group_names": [group for group, hosts in groups.items() if group != "all" and host in hosts], "app_redis": False,
              "ansible_facts": {"distribution_release": release, "virtualization_tech_guest": list(guest)}, "base_packages": [],
              **{key: trust_as_template(text) if isinstance(text, str) else text
                 for key, text in [*((each, DEFAULTS[each]) for each in names), *((each, BASE[each]) for each in BASE if each.endswith(("packages", "unconfigured")))]},
              **more}
    return Templar(loader=DataLoader(), variables=values).template(trust_as_template("{{ " + name + " }}"))


@pytest.mark.parametrize(("name", "roles"), [
    ("app1", {"fail2ban", "logs", "app", "nginx", "backup"}),
    ("db1", {"fail2ban", "logs", "backup"}),
    ("store1", {"fail2ban", "logs", "backup_server"}),
])
def test_a_host_has_the_packages_of_its_roles(name, roles) -> None:
    assert set(value("site_role_packages", GROUPS, name)) == roles


def test_who_has_a_server_has_what_it_needs() -> None:
    assert set(value("site_role_packages", {"all": ["app1"], "web": ["app1"], "db": ["app1"]}, "app1", app_redis=True)) == {"fail2ban", "app", "nginx", "redis"}
    assert value("site_role_packages.backup", GROUPS, "app1") == ["restic"]
    assert value("site_role_packages.backup", GROUPS, "db1") == ["restic", "pgbackrest"]
    assert value("site_role_packages.logs", GROUPS, "db1") == ["rsyslog", "auditd"]
    assert value("site_role_packages.logs", GROUPS, "db1", guest=("container", "podman")) == ["rsyslog"]
    assert "restic-rest-server" in value("site_role_packages.backup_server", GROUPS, "store1")
    assert "restic-rest-server" not in value("site_role_packages.backup_server", GROUPS, "store1", release="bookworm")


def test_roles_ask_apt_for_nothing_that_base_has_installed() -> None:
    there = {"site_host_state": {"packages": ["nginx", "vim"]}}
    assert value("site_packages", GROUPS, "app1", **there) == ["nginx", "vim"]
    assert value("site_packages", GROUPS, "app1", **there, base_installed={"changed": False, "skipped": True}) == ["nginx", "vim"]
    assert value("site_role_packages.values() | flatten is subset(site_packages)", GROUPS, "app1", **there, base_installed={"changed": True})


def test_what_is_new_does_not_start_at_a_boot_and_what_was_there_goes_on() -> None:
    assert set(value("__base_unconfigured", GROUPS, "app1")) == {"auditd.service", "fail2ban.service", "nginx.service"}
    assert set(value("__base_unconfigured", GROUPS, "app1", site_host_state={"packages": ["nginx", "fail2ban"]})) == {"auditd.service"}
    assert set(value("__base_unconfigured", GROUPS, "store1")) >= {"nginx.service", "pgbackrest.service", "restic-rest-server.service"}


def test_each_role_names_its_packages_in_one_place() -> None:
    """A list of its own would be asked for once more."""
    found = {name for path in ROLES.rglob("*.yml") for name in re.findall(r"site_role_packages[.](\w+)\b(?![(])", path.read_text())}
    everywhere = {group: ["one"] for group in GROUPS}
    assert found == set(value("site_role_packages", everywhere, "one", app_redis=True))
