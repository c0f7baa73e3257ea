"""What site.yml ends on a host that no group asks for it any more: everything of the role that did it, and nothing else."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROOT = Path(__file__).parents[2]
ROLES = ("logs", "log_server", "backup", "backup_server")
UNITS = {role: {path.name for path in (ROOT / f"roles/{role}/templates/etc/systemd/system").iterdir() if path.is_file()}
         for role in (path.name for path in (ROOT / "roles").iterdir() if (path / "templates/etc/systemd/system").is_dir())}
TASK = next(play for play in yaml.safe_load((ROOT / "playbooks/site.yml").read_text()) if play["name"] == "Former tasks of hosts")["tasks"][0]
GROUPS = {"all": ["app1", "db1", "store1", "store2"], "web": ["app1"], "db": ["db1"], "logs": ["store1"], "backups": ["store1"]}


def ended(role: str) -> list[dict]:
    return [task["redoubt.django.units"] for task in yaml.safe_load((ROOT / f"roles/{role}/tasks/absent.yml").read_text())]


@pytest.mark.parametrize("role", ROLES)
def test_what_goes_is_all_of_the_role_and_of_no_other(role) -> None:
    patterns = [pattern for task in ended(role) for pattern in task.get("former", {}).get("files", [])]
    gone = {other: {name for name in names if any(fnmatch(name, pattern) for pattern in patterns)} for other, names in UNITS.items()}
    # Of a unit for each host, the file does nothing, and the units are ended by name.
    assert gone.pop(role) == {name for name in UNITS[role] if "@" not in name}
    assert not any(gone.values()), gone
    for name in UNITS[role]:
        assert any(line.startswith("Description=") for line in (ROOT / f"roles/{role}/templates/etc/systemd/system" / name).read_text().splitlines())


def asked(name: str, without: dict[str, list[str]]) -> list[str]:
    """The roles that are ended on a host which did everything until now."""
    loader, values = DataLoader(), {"groups": {**GROUPS, **without}, "inventory_hostname": name}
    values["site_host_state"] = {"enabled": sorted(name for role in ROLES for name in UNITS[role]) + ["rsyslog.service"]}
    values["__runs"] = Templar(loader=loader, variables=values).template(trust_as_template(TASK["vars"]["__runs"]))
    return Templar(loader=loader, variables=values).template(trust_as_template(TASK["loop"]))


@pytest.mark.parametrize(("name", "without", "roles"), [
    ("app1", {}, ["log_server", "backup_server"]),
    ("db1", {}, ["log_server", "backup_server"]),
    ("store1", {}, ["backup"]),
    ("app1", {"logs": []}, ["logs", "log_server", "backup_server"]),
    ("app1", {"backups": []}, ["log_server", "backup", "backup_server"]),
    ("store1", {"logs": ["store2"]}, ["log_server", "backup"]),
    ("store1", {"backups": ["store2"]}, ["backup", "backup_server"]),
    ("db1", {"db": ["app1"]}, ["log_server", "backup", "backup_server"]),
])
def test_what_no_group_asks_for_is_ended(name, without, roles) -> None:
    assert asked(name, without) == roles


def test_a_host_that_did_none_of_it_is_asked_for_nothing() -> None:
    values = {"groups": {"all": ["app1"], "web": ["app1"], "db": ["app1"]}, "inventory_hostname": "app1",
              "site_host_state": {"enabled": ["redoubt-firewall.service", "rsyslog.service", "nginx.service"]}}
    values["__runs"] = " ".join(values["site_host_state"]["enabled"])
    assert Templar(loader=DataLoader(), variables=values).template(trust_as_template(TASK["loop"])) == []
