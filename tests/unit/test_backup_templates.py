"""What an inventory with a host for backups changes on the others, and what one without leaves as it was: rendered with Ansible's own templar."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROOT = Path(__file__).parents[2]
ADDRESSES = {"app1": ["192.0.2.1", "2001:db8::1"], "app2": ["192.0.2.2"], "db1": ["192.0.2.3"], "store1": ["192.0.2.9", "2001:db8::9"]}
# One host that serves and one that keeps its backups; and a fleet.
PAIR = {"web": ["app1"], "db": ["app1"], "backups": ["store1"]}
FLEET = {"web": ["app1", "app2"], "db": ["db1"], "backups": ["store1"]}


class Host:
    """The variables that the templates of a host see."""

    def __init__(self, name: str, groups: dict[str, list[str]], release: int = 13, **inventory: object) -> None:
        self.loader = DataLoader()
        values: dict = {}
        for role in ("site", "base", "firewall", "postgres", "pki", "backup", "backup_server", "logs", "log_server"):
            for kind in ("defaults", "vars"):
                path = ROOT / f"roles/{role}/{kind}/main.yml"
                if path.exists():
                    values |= self.loader.load_from_file(str(path), trusted_as_template=True) or {}
        groups = {"all": sorted({host for hosts in groups.values() for host in hosts}), **groups}
        self.values = {**values, "inventory_hostname": name, "groups": groups, "group_names": [group for group in groups if name in groups[group] and group != "all"],
                       "ansible_managed": "managed", "app_name": "notes", "app_domains": ["notes.test"],
                       "vault_backup_database_pass": "database's", "vault_backup_files_pass": "files'",
                       "hostvars": {host: {"app_name": "notes", "base_addresses": ADDRESSES[host]} for host in groups["all"]},
                       "ansible_facts": {"distribution_release": {12: "bookworm", 13: "trixie"}[release], "distribution_major_version": str(release),
                                         "memtotal_mb": 4096, "processor_vcpus": 2, "virtualization_tech_guest": []},
                       **inventory}

    def __getitem__(self, name: str) -> object:
        return self.templar().template(self.values[name])

    def templar(self, folder: Path = ROOT, **more: object) -> Templar:
        self.loader.set_basedir(str(folder))
        return Templar(loader=self.loader, variables={**self.values, **more})

    def text(self, role: str, path: str, **more: object) -> str:
        if (verbatim := ROOT / f"roles/{role}/files/{path}").exists():
            return verbatim.read_text()
        folder = ROOT / f"roles/{role}/templates"
        templar = self.templar(folder, **more)
        templar.environment.loader.searchpath = [str(folder)]
        options = {"trim_blocks": True, "lstrip_blocks": False, "newline_sequence": "\n"}
        return str(templar.template(trust_as_template((folder / path).read_text()), escape_backslashes=False, overrides=options))

    def allowed(self) -> dict[str, set[str]]:
        """From the rules that the firewall loads: who reaches a port. Nobody named: everybody."""
        chain = self.text("firewall", "etc/nftables.conf").split("chain input {")[1].split("chain ")[0]
        found: dict[str, set[str]] = {}
        for line in chain.splitlines():
            match = re.fullmatch(r"\s*(?:ip6? saddr \{ (.*) \} )?tcp dport (\d+) accept", line)
            if match:
                found.setdefault(match[2], set()).update((match[1] or "everybody").split(", "))
        return found


# --- The firewall ----------------------------------------------------------------------------------------------------


def test_an_inventory_gives_a_group_other_entries_and_only_the_hosts_own_groups_count() -> None:
    inventory = {"firewall_allow_groups": {"web": [{"port": 8443}], "db": [{"port": 1}], "mail": [{"port": 25, "from": ["192.0.2.7"]}]}, "firewall_allow": [{"port": 9000}]}
    host = Host("app1", {"web": ["app1"], "mail": ["app1"], "db": ["db1"]}, **inventory)
    assert host.allowed() == {"8443": {"everybody"}, "25": {"192.0.2.7"}, "9000": {"everybody"}}
    # The same each time, in this order: another order would be a change.
    assert [str(entry["port"]) for entry in host["__firewall_allow"]] == ["8443", "25", "9000"]


def test_the_keeper_of_backups_is_reached_by_its_clients_and_each_database_by_its_own_port() -> None:
    groups = {"web": ["app1", "app2"], "db": ["app1", "app2"], "backups": ["store1"]}
    assert Host("store1", PAIR).allowed() == {"8430": set(ADDRESSES["app1"]), "8432": set(ADDRESSES["app1"])}
    assert Host("store1", FLEET).allowed() == {"8430": {*ADDRESSES["app1"], *ADDRESSES["app2"], *ADDRESSES["db1"]}, "8432": set(ADDRESSES["db1"])}
    assert Host("store1", groups).allowed() == {"8430": {*ADDRESSES["app1"], *ADDRESSES["app2"]}, "8432": set(ADDRESSES["app1"]), "8433": set(ADDRESSES["app2"])}


def test_a_database_host_is_reached_by_the_keeper_alone() -> None:
    web = {"80": {"everybody"}, "443": {"everybody"}}
    assert Host("app1", PAIR).allowed() == {**web, "8431": set(ADDRESSES["store1"])}
    assert Host("db1", FLEET).allowed() == {"5432": {*ADDRESSES["app1"], *ADDRESSES["app2"]}, "8431": set(ADDRESSES["store1"])}
    # A web host sends its files; nobody has to reach it for them.
    assert Host("app2", FLEET).allowed() == web


def test_without_backups_nothing_is_opened_for_them() -> None:
    web = {"80": {"everybody"}, "443": {"everybody"}}
    assert Host("app1", {"web": ["app1"], "db": ["app1"]}).allowed() == web
    assert Host("db1", {"web": ["app1", "app2"], "db": ["db1"]}).allowed() == {"5432": {*ADDRESSES["app1"], *ADDRESSES["app2"]}}


# --- PostgreSQL ------------------------------------------------------------------------------------------------------

DROP_IN = "etc/systemd/system/postgresql@.service.d/50-redoubt.conf"


def settings(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+) = (.*)$", text, re.MULTILINE))


def lines(host: Host) -> set[str]:
    return {line for line in host.text("postgres", DROP_IN).splitlines() if re.match(r"PrivateNetwork|IPAddress|RestrictAddressFamilies", line)}


def test_a_server_without_backups_archives_nothing_and_has_no_network() -> None:
    host = Host("app1", {"web": ["app1"], "db": ["app1"]})
    found = settings(host.text("postgres", "_cluster/redoubt.conf"))
    assert found["archive_mode"] == "off" and not {"archive_command", "archive_timeout"} & set(found)
    assert lines(host) == {"RestrictAddressFamilies=AF_UNIX", "PrivateNetwork=yes", "IPAddressDeny=any"}
    assert host["__postgres_tls_files"] == []


def test_a_server_with_backups_lays_its_log_down_within_a_minute_and_still_has_no_network() -> None:
    host = Host("app1", PAIR)
    found = settings(host.text("postgres", "_cluster/redoubt.conf"))
    assert (found["archive_mode"], found["archive_command"], found["archive_timeout"]) == (
        "on", "'/usr/local/lib/redoubt/pgbackrest-spool %p %f'", "'50s'")
    assert found["listen_addresses"] == "''" and found["ssl"] == "off"
    assert lines(host) == {"RestrictAddressFamilies=AF_UNIX", "PrivateNetwork=yes", "IPAddressDeny=any"}
    assert host["__postgres_tls_files"] == []


def test_who_sends_the_log_reaches_the_keeper_alone() -> None:
    unit = Host("app1", PAIR).text("backup", "etc/systemd/system/redoubt-backup-send.service").splitlines()
    assert {line for line in unit if line.startswith("IPAddress")} == {"IPAddressDeny=any", "IPAddressAllow=192.0.2.9 2001:db8::9"}
    assert {"User=postgres", "ExecStart=/usr/local/lib/redoubt/pgbackrest-send notes", "Restart=always"} <= set(unit)
    # Of what is PostgreSQL's it writes the folder of what waits, and no more.
    assert {line for line in unit if line.startswith("Read")} == {
        "ReadOnlyPaths=/var/lib/postgresql", "ReadWritePaths=/var/lib/postgresql/pgbackrest-spool /run/postgresql"}


@pytest.mark.parametrize("groups", [FLEET, {"web": ["app1", "app2"], "db": ["db1"]}])
def test_a_server_of_a_fleet_reaches_its_clients_and_nobody_else(groups) -> None:
    host = Host("db1", groups, site_database_clients=[*ADDRESSES["app1"], *ADDRESSES["app2"]], postgres_listen_addresses="*")
    (allow,) = [line for line in lines(host) if line.startswith("IPAddressAllow=")]
    assert set(allow.split("=")[1].split()) == {*ADDRESSES["app1"], *ADDRESSES["app2"]}
    assert "IPAddressDeny=any" in lines(host)
    assert settings(host.text("postgres", "_cluster/redoubt.conf"))["archive_mode"] == ("on" if "backups" in groups else "off")
    assert len(host["__postgres_tls_files"]) == 2


def test_rules_of_ones_own_for_who_may_enter_are_not_shut_out_again() -> None:
    host = Host("app1", PAIR, postgres_listen_addresses="*", postgres_hba_extra=["hostssl all all 198.51.100.0/24 scram-sha-256"])
    assert lines(host) == {"RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6"}


# --- Certificates and the door ---------------------------------------------------------------------------------------


def test_addresses_are_names_of_a_certificate_where_pgbackrest_looks_for_them_there() -> None:
    given = {"pki_names": ["app1"], "pki_addresses": ["192.0.2.1"]}
    assert Host("app1", PAIR, 12, **given)["__pki_names"] == ["app1", "192.0.2.1"]
    assert Host("app1", PAIR, 13, **given)["__pki_names"] == ["app1"]
    assert Host("app1", {"web": ["app1"], "db": ["app1"]}, 12, **given)["__pki_names"] == ["app1"]


def test_the_door_lets_in_who_is_backed_up_each_as_itself() -> None:
    text = Host("store1", FLEET).text("backup_server", "etc/redoubt/backup-server/nginx.conf")
    subjects, users = (dict(re.findall(r'^\s+"?([^"\s]+)"? "?([^";]*)"?;$', text.split(start)[1].split("}")[0], re.MULTILINE))
                       for start in ("map $ssl_client_s_dn $backup_host {", "map $backup_host $backup_authorization {"))
    assert subjects == {"default": "", "CN=app1": "app1", "CN=app2": "app2", "CN=db1": "db1"}
    assert set(users) == {"default", "app1", "app2", "db1"} and len(set(users.values())) == 4
    assert "ssl_verify_client on;" in text and "ssl_protocols TLSv1.3;" in text


@pytest.mark.parametrize("path", ["/var/lib/redoubt-backups", "/srv/backups"])
def test_a_repositorys_server_sees_its_own_and_no_other_hosts(path) -> None:
    """It opens whatever path its client names, and its client may be somebody else by now."""
    unit = Host("store1", FLEET, backup_server_path=path).text("backup_server", "etc/systemd/system/redoubt-backup-repository@.service")
    lines = dict(line.split("=", 1) for line in unit.splitlines() if re.match("(TemporaryFileSystem|Bind|Inaccessible|StandardInput)", line))
    assert {entry.split(":")[0] for entry in lines.pop("TemporaryFileSystem").split()} == {
        "/boot", "/media", "/mnt", "/opt", "/srv", "/var", "/etc/redoubt/backup-server", "/etc/redoubt/pki", path}
    assert lines == {"BindPaths": f"{path}/database/%i", "InaccessiblePaths": "/proc", "StandardInput": "file:/etc/redoubt/pki/host.key",
                     "BindReadOnlyPaths": "/etc/redoubt/backup-server/%i.conf /etc/redoubt/backup-server/%i.d /etc/redoubt/pki/ca.pem /etc/redoubt/pki/host.pem"}
    assert "ProtectHome=yes" in unit.splitlines()


def test_a_host_that_hangs_the_watch_is_ended() -> None:
    unit = Host("store1", FLEET).text("backup_server", "etc/systemd/system/redoubt-backup-watch.service").splitlines()
    assert "TimeoutStartSec=10min" in unit
    # Who reads a repository is another user than who ends him.
    assert any("CAP_KILL" in line for line in unit if line.startswith("CapabilityBoundingSet="))


def test_what_serves_a_host_that_was_taken_out_is_ended() -> None:
    task = yaml.safe_load((ROOT / "roles/backup_server/tasks/configure.yml").read_text())[-1]["redoubt.django.units"]
    enabled = [f"redoubt-backup-{unit}" for host in ("db1", "old1") for unit in (f"repository@{host}.service", f"database@{host}.timer")]
    host = Host("store1", FLEET, __backup_server_tree={"changed": False}, site_host_state={"enabled": [*enabled, "redoubt-backup-keep.timer"]})
    found = {kind: host.templar().template(trust_as_template(task[kind])) for kind in ("enabled", "disabled")}
    assert {"redoubt-backup-repository@db1.service", "redoubt-backup-database@db1.timer"} <= set(found["enabled"])
    assert sorted(found["disabled"]) == ["nginx.service", "pgbackrest.service", "redoubt-backup-database@old1.timer", "redoubt-backup-repository@old1.service",
                                         "restic-rest-server.service"]


def test_passphrases_are_in_files_of_their_own_that_others_cannot_read() -> None:
    for host, variable in ((Host("store1", FLEET), "__backup_server_files"), (Host("db1", FLEET), "__backup_files")):
        for entry in host[variable]:
            has = any(secret in entry.get("content", "") for secret in ("database's", "files'"))
            assert has == entry.get("secret", False), entry
            if has:
                assert entry["mode"] in ("0600", "0640")
                assert entry["mode"] == "0600" or entry["group"] in ("restic-rest-server", "backup-db1")
