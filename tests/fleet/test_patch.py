"""Security updates of several hosts: one after the other, each web host out of the load balancer's list meanwhile, and the first that becomes ill is the last.

The load balancer is two commands on this machine, and visitors who go to the hosts that are in its list.
"""

from __future__ import annotations

import itertools
import json
import re
import time

import pytest
from load import Load
from updates import CVES, Patch

# What a host that serves nobody may do: without the drain each of these seconds would refuse a visitor.
AWAY = "systemctl stop nginx.service; sleep 5; systemctl start nginx.service"


class Balancer:
    """Who is out of the list, what it was told, and a browser that goes to the others in turn."""

    def __init__(self, names: list[str], browse, folder):
        self.names, self.browse, self.folder, self.turns = names, browse, folder, itertools.count()
        (folder / "out").mkdir()
        (folder / "log").touch()
        (folder / "balancer").write_text(f'#!/bin/sh\nset -e\ncd {folder}\necho "$1 $2" >>log\n[ "$1" = on ] || touch "out/$2"\n[ "$1" = off ] || rm "out/$2"\n')
        (folder / "balancer").chmod(0o755)
        told = {f"patch_{verb}_command": f"{folder}/balancer {word} {{host}}" for verb, word in (("drain", "off"), ("resume", "on"))}
        self.arguments = ("--extra-vars", json.dumps({**told, "patch_drain_seconds": 2}))

    @property
    def out(self) -> set[str]:
        return {path.name for path in (self.folder / "out").iterdir()}

    @property
    def log(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()

    def browser(self):
        session = self.browse(self.names[0])
        adapter = session.get_adapter("https://")
        send = adapter.send

        def to_one_of_the_list(request, **options):
            listed = sorted(set(self.names) - self.out) or self.names
            adapter.host = listed[next(self.turns) % len(listed)]
            return send(request, **options)

        adapter.send = to_one_of_the_list
        return session


@pytest.fixture
def balancer(lab, browse, tmp_path) -> Balancer:
    return Balancer(lab.groups["web"], browse, tmp_path)


@pytest.fixture
def patches(lab):
    """Every host has an update to install; a web host's takes nginx away for a while."""
    found = {name: Patch(lab, name) for name in lab.groups["all"]}
    for patch in found.values():
        patch.set_up(AWAY if patch.serves else "")
    yield found
    for patch in found.values():
        patch.clean_up()


def versions(patches) -> dict[str, str]:
    return {name: patch.version() for name, patch in patches.items()}


def run(lab, balancer, *arguments: str):
    done = lab.playbook("playbooks/patch.yml", *balancer.arguments, "--extra-vars", CVES, *arguments, check=False)
    return done, re.sub(r"\s+", " ", done.stdout + done.stderr)


def turns(done) -> list[str]:
    """The hosts in the order in which the playbook came to them."""
    return list(dict.fromkeys(re.findall(r"^(?:ok|changed): \[(\w+)", done.stdout.partition("PLAY [Patch]")[2], re.MULTILINE)))


def test_each_web_host_leaves_the_list_for_its_update_and_no_visitor_notices(lab, patches, balancer, site, table) -> None:
    first, second = lab.groups["web"]
    (database,), others = lab.groups["db"], [name for name in lab.groups["all"] if name not in lab.groups["web"] + lab.groups["db"]]
    done, told = run(lab, balancer, "--check")
    assert done.returncode == 0 and balancer.log == [] and set(versions(patches).values()) == {"1.0"}, told
    with Load(balancer.browser, site, lab.vars(lab.web)["vault_app_admin_password"]) as load:
        time.sleep(1)
        done, told = run(lab, balancer)
        time.sleep(1)
    table("patch", load.row("1 update a host, which takes nginx away on web hosts"))
    assert done.returncode == 0, told
    assert not load.failed, load.failed[:10]
    assert load.written and len(load.answers) > 500
    assert balancer.log == [f"off {first}", f"on {first}", f"off {second}", f"on {second}"]
    assert turns(done) == [*others, first, second, database]
    assert set(versions(patches).values()) == {"1.1"}
    assert [patch.old_code() for patch in patches.values()] == [""] * len(patches)
    # Nothing is to be done, and nobody leaves the list for it.
    done, told = run(lab, balancer)
    assert done.returncode == 0 and done.stdout.count("changed=0 ") == len(patches) and len(balancer.log) == 4, told


def test_a_first_host_that_becomes_ill_stays_out_of_the_list_until_a_run_finds_it_well(lab, patches, balancer, site) -> None:
    first, second = lab.groups["web"]
    (database,) = lab.groups["db"]
    with Load(balancer.browser, site, lab.vars(lab.web)["vault_app_admin_password"]) as load:
        with patches[first].illness():
            done, told = run(lab, balancer, "--extra-vars", '{"patch_health_timeout": 5}')
            assert done.returncode != 0
            assert (f"{first} is not done: drill-ill.service has failed. It stays out of the load balancer's list. The run ends here, before {second} and {database}; "
                    "mend that, and run playbooks/patch.yml again") in told, told
            assert balancer.out == {first} and balancer.log == [f"off {first}"]
            now = versions(patches)
            assert (now[first], now[second], now[database]) == ("1.1", "1.0", "1.0")
            # The other does not leave as well, whoever asks for it alone.
            done, told = run(lab, balancer, "--limit", second)
            assert done.returncode != 0 and f"{second} was not touched: no other web host takes its visitors meanwhile ({first}: drill-ill.service has failed)." in told, told
            assert balancer.out == {first}
        done, told = run(lab, balancer)
    assert done.returncode == 0, told
    assert "An earlier run has left it out of the load balancer's list. It is well, and comes back." in told, told
    assert balancer.log == [f"off {first}", f"on {first}", f"off {second}", f"on {second}"] and balancer.out == set()
    assert set(versions(patches).values()) == {"1.1"}
    assert not load.failed, load.failed[:10]


def test_a_host_stays_in_the_list_while_the_other_does_not_serve(lab, patches, balancer, fleet) -> None:
    first, second = lab.groups["web"]
    fleet.hosts[second].run("systemd-run --quiet --unit=drill-sick false")
    try:
        done, told = run(lab, balancer, "--limit", "web")
    finally:
        fleet.hosts[second].check_output("systemctl reset-failed drill-sick.service")
    assert done.returncode != 0
    assert (f"{first} was not touched: no other web host takes its visitors meanwhile ({second}: drill-sick.service has failed). "
            f"The run ends here, before {second}; mend that") in told, told
    assert balancer.log == [] and set(versions(patches).values()) == {"1.0"}
