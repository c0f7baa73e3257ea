"""What answers from another host, over both families, and what the kernel was told."""

from __future__ import annotations

import ipaddress
import json
import shlex

import pytest
from login import another, another_name, wanted

SCAN = """
import asyncio, errno, json, resource, sys
host, ports = sys.argv[1], json.loads(sys.argv[2])
# All at once: each that gets no answer takes three seconds.
resource.setrlimit(resource.RLIMIT_NOFILE, (len(ports) + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
async def knock(port):
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 3)
        writer.close()
    except (TimeoutError, asyncio.TimeoutError):
        return None
    except OSError as error:
        return port if error.errno == errno.ECONNREFUSED else None
    return port
async def main():
    print(json.dumps([port for port in await asyncio.gather(*map(knock, ports)) if port]))
asyncio.run(main())
"""
PORTS = [*range(1, 1025), 2019, 3000, 3306, 5000, 5432, 6379, 8000, 8001, 8080, *range(8428, 8440), 8443, 9000, 9100, 9187, 11211, 20514]


@pytest.fixture(scope="module")
def stranger(lab, host):
    found = another(lab, host.lab["inventory_hostname"])
    if not found:
        pytest.skip("what answers from another host: the lab has only one")
    return found


def expected(host, asking: str = "") -> set[int]:
    """The TCP ports that anybody may reach, and those that the host `asking` may."""
    groups = {"web": [{"port": 80}, {"port": 443}], **wanted(host.lab, "firewall", "firewall_allow_groups")}
    entries = [entry for name in host.lab["group_names"] for entry in groups.get(name, [])]
    entries += wanted(host.lab, "firewall", "firewall_allow")
    ports = {int(entry["port"]) for entry in entries if entry.get("proto", "tcp") == "tcp" and not entry.get("from")}
    return ports | ({22} if not wanted(host.lab, "firewall", "firewall_ssh_from") else set()) | between(host, asking)


def between(host, asking: str) -> set[int]:
    """What hosts of one environment have for each other."""
    here, store = host.lab["inventory_hostname"], host.lab["site_backup_host"]
    databases = host.lab["groups"]["db"]
    found = set()
    if store and asking == store and here in databases:
        found.add(host.lab["site_backup_database_port"])
    if store and here == store and asking in host.lab["site_backup_clients"]:
        found.add(host.lab["site_backup_files_port"])
        found |= {host.lab["site_backup_repository_ports"][asking]} if asking in databases else set()
    if host.lab["site_fleet"] and here in databases and asking in host.lab["site_web_hosts"]:
        found.add(5432)
    return found


@pytest.mark.parametrize("family", ["lab_ipv4", "lab_ipv6"])
def test_only_what_the_groups_need_answers_another_host(lab, stranger, host, family: str) -> None:
    address = host.lab.get(family)
    if not address:
        pytest.skip(f"scan over {family[4:]}: the host has no such address here")
    answering = expected(host, another_name(lab, host.lab["inventory_hostname"]))
    ports = sorted({*PORTS, *answering})
    found = stranger.check_output(f"python3 -c {shlex.quote(SCAN)} {address} {shlex.quote(json.dumps(ports))}")
    # A refusal is an answer too: it tells a scanner that the host is there, and that nothing guards the port.
    assert set(json.loads(found)) == answering


@pytest.mark.parametrize("family", ["lab_ipv4", "lab_ipv6"])
def test_ping_answers(stranger, host, family: str) -> None:
    address = host.lab.get(family)
    if not address:
        pytest.skip(f"ping over {family[4:]}: the host has no such address here")
    assert ipaddress.ip_address(address)
    assert stranger.run(f"ping -c 2 -W 2 {address}").rc == 0


def test_default_is_drop(host) -> None:
    rules = json.loads(host.check_output("nft --json list table inet redoubt"))["nftables"]
    policies = {item["chain"]["hook"]: item["chain"]["policy"] for item in rules if "hook" in item.get("chain", {})}
    assert policies == {
        "input": "drop",
        "forward": wanted(host.lab, "firewall", "firewall_forward"),
        "output": wanted(host.lab, "firewall", "firewall_output"),
    }


def test_what_is_refused_is_noted_in_samples_and_then_dropped(host) -> None:
    """Of both families: the table is of both, and each refusal ends in this chain."""
    rules = json.loads(host.check_output("nft --json list chain inet redoubt refuse"))["nftables"]
    first, last = [item["rule"]["expr"] for item in rules if "rule" in item]
    assert last == [{"drop": None}]
    limit, log = first
    rate, _, per = wanted(host.lab, "firewall", "firewall_log_rate").partition("/")
    assert (limit["limit"]["rate"], limit["limit"]["per"], limit["limit"]["burst"]) == (int(rate), per, 5)
    assert log == {"log": {"prefix": "redoubt-drop: "}}
    refused = host.check_output("nft list chain inet redoubt input")
    assert refused.rstrip().splitlines()[-3].strip() == "jump refuse"


def test_the_kernel_has_what_the_file_says(host) -> None:
    # The same file, loaded where it meets nothing else.
    listing = "nft --stateless --terse list table inet redoubt"
    fresh = host.check_output(f"unshare --net sh -c 'nft --file /etc/nftables.conf && {listing}'")
    assert host.check_output(listing) == fresh


def test_the_rules_are_there_before_the_network(host) -> None:
    service = host.service("nftables")
    assert service.is_enabled
    assert service.is_running, host.run("journalctl --unit=nftables --lines=20").stdout
    before = host.check_output("systemctl show nftables --property=Before --value")
    assert "network-pre.target" in before.split()


def test_stopping_takes_only_the_own_table(host) -> None:
    stop = host.check_output("systemctl show nftables --property=ExecStop --value")
    assert "add table inet redoubt; delete table inet redoubt" in stop
    assert "flush ruleset" not in stop


def test_the_rules_are_closed(host) -> None:
    file = host.file("/etc/nftables.conf")
    assert (file.user, file.group, file.mode) == ("root", "root", 0o600)
