"""How tests reach a lab: the hosts over the lab's own SSH, its sites over HTTPS with its own CA, and its inventory's values.

REDOUBT_LAB names the lab (default: demo), REDOUBT_INVENTORY its first inventory source (default: inventories/demo).
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from requests.adapters import HTTPAdapter

ROOT = Path(__file__).resolve().parent.parent


class Variables:
    """A host's variables as a play would see them, each rendered when it is asked for. The contract's defaults count."""

    def __init__(self, values, templar):
        self._templar = templar
        self._values = values

    def __getitem__(self, name):
        return self._templar.template(self._values[name])

    def __contains__(self, name):
        return name in self._values

    def get(self, name, default=None):
        return self[name] if name in self else default

    def names(self):
        """What there is, without rendering it."""
        return sorted(self._values)


class Lab:
    def __init__(self, name: str, inventory: str):
        self.name = name
        self.dir = ROOT / ".lab" / name
        self.ca = self.dir / "ca.pem"
        self.inventory = inventory
        self.arguments = ["-i", inventory, "-i", str(self.dir / "hosts.yml")]
        self.arguments += ["--vault-id", f"{name}@{ROOT}/molecule/lab/vault-client"]

    @functools.cached_property
    def _ansible(self):
        from ansible.inventory.manager import InventoryManager
        from ansible.parsing.dataloader import DataLoader
        from ansible.parsing.vault import FileVaultSecret
        from ansible.vars.hostvars import HostVars
        from ansible.vars.manager import VariableManager

        load_collections()
        loader = DataLoader()
        secret = FileVaultSecret(filename=str(self.dir / "vault-password"), loader=loader)
        secret.load()
        loader.set_vault_secrets([(self.name, secret)])
        inventory = InventoryManager(loader=loader, sources=self.arguments[1:4:2])
        manager = VariableManager(loader=loader, inventory=inventory)
        # What a play's hosts know of each other.
        HostVars(inventory=inventory, variable_manager=manager, loader=loader)
        return loader, inventory, manager

    @functools.cached_property
    def _sockets(self) -> str:
        return tempfile.mkdtemp(prefix="redoubt-ssh-")

    @functools.cached_property
    def groups(self) -> dict[str, list[str]]:
        """Host names by group."""
        return {name: sorted(hosts) for name, hosts in self._ansible[1].get_groups_dict().items()}

    @functools.cached_property
    def web(self) -> str:
        """The host that the lab's domains point to."""
        return self.vars(self.groups["all"][0])["lab_web"]

    @functools.cached_property
    def stranger(self) -> str:
        """A host of the lab that the site's firewall owes nothing but what it owes the world."""
        return next(name for name in self.groups["all"] if name not in self.groups.get("web", []) + self.groups.get("db", []))

    @functools.cache  # noqa: B019 one lab a session
    def vars(self, host: str) -> Variables:
        from ansible.template import Templar

        loader, inventory, manager = self._ansible
        values = loader.load_from_file(str(ROOT / "roles/site/defaults/main.yml"), trusted_as_template=True) or {}
        values = {**values, **manager.get_vars(host=inventory.get_host(host))}
        return Variables(values, Templar(loader=loader, variables=values))

    @functools.cache  # noqa: B019 one lab a session
    def host(self, name: str, sudo: bool = True):
        """A testinfra host: commands run as root, or as the administrator who logged in."""
        import testinfra

        values = self.vars(name)
        return testinfra.get_host(
            f"ssh://{values['ansible_user']}@{values['ansible_host']}:{values['ansible_port']}",
            ssh_identity_file=values["ansible_ssh_private_key_file"],
            ssh_extra_args=values["ansible_ssh_common_args"],
            # Without a path there is no sharing, and the hosts limit new connections.
            controlpath=f"{self._sockets}/{name}-{sudo:d}",
            controlpersist=120,
            sudo=sudo,
        )

    def hang_up(self) -> None:
        """End the connections to hosts that may no longer be at the other end."""
        for path in Path(self._sockets).iterdir():
            subprocess.run(["ssh", "-o", f"ControlPath={path}", "-O", "exit", "lab"], capture_output=True, check=False)

    def forget(self) -> None:
        """Read the inventory again: a host that has booted anew may have another address."""
        self.__dict__.pop("_ansible", None)
        Lab.vars.cache_clear()
        Lab.host.cache_clear()

    def published(self, host: str, port: int) -> tuple[str, int]:
        """Where this machine reaches a port of a lab host."""
        values = self.vars(host)
        return values["ansible_host"], values[{22: "ansible_port", 80: "lab_http_port", 443: "lab_https_port"}[port]]

    def dns(self, name: str, a: list[str] | None = None, aaaa: list[str] | None = None) -> None:
        """Make a name of the lab point to these addresses; to none, when none are given."""
        url = f"http://{self.vars(self.web)['lab_acme_address']}:8055"
        for kind, addresses in (("a", a), ("aaaa", aaaa)):
            requests.post(f"{url}/clear-{kind}", json={"host": name}, timeout=5).raise_for_status()
            if addresses:
                answer = requests.post(f"{url}/add-{kind}", json={"host": name, "addresses": addresses}, timeout=5)
                answer.raise_for_status()

    def playbook(self, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess:
        """Run ansible-playbook in the lab as `make demo` does."""
        process = self.start(*arguments, **environment)
        output, error = process.communicate()
        done = subprocess.CompletedProcess(process.args, process.returncode, output, error)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen:
        """The same without waiting, in a process group of its own."""
        command = [str(Path(sys.executable).with_name("ansible-playbook")), *self.arguments, *arguments]
        # What a test changes is not among the changes that a scenario compares.
        inherited = {name: value for name, value in os.environ.items() if name != "ANSIBLE_CALLBACKS_ENABLED"}
        environment = {**inherited, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0", **environment}
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, start_new_session=True)


class LabAdapter(HTTPAdapter):
    """Sends requests for any name to a lab host, with the name in SNI, in Host and in the certificate's verification."""

    def __init__(self, lab: Lab, host: str):
        self.lab, self.host = lab, host
        super().__init__()

    def build_connection_pool_key_attributes(self, request, verify, cert=None):
        host, pool = super().build_connection_pool_key_attributes(request, verify, cert)
        address, port = self.lab.published(self.host, host["port"] or {"https": 443, "http": 80}[host["scheme"]])
        if host["scheme"] == "https":
            pool |= {"server_hostname": host["host"], "assert_hostname": host["host"]}
        return {**host, "host": address, "port": port}, pool

    def send(self, request, **arguments):
        given = "Host" in request.headers
        request.headers.setdefault("Host", urlsplit(request.url).netloc)
        try:
            return super().send(request, **arguments)
        finally:
            # A redirect copies the headers, and may lead to another name.
            if not given:
                del request.headers["Host"]


@functools.cache
def load_collections() -> None:
    """Let Ansible find the kit's own collection; it wants to be told once a process."""
    from ansible.plugins.loader import init_plugin_loader

    init_plugin_loader([str(ROOT / "collections")])


@functools.cache
def the_lab() -> Lab:
    found = Lab(os.environ.get("REDOUBT_LAB", "demo"), os.environ.get("REDOUBT_INVENTORY", str(ROOT / "inventories/demo")))
    if not found.dir.is_dir():
        pytest.exit(f"There is no lab {found.name}: boot one with `make lab LAB={found.name}`.", returncode=2)
    return found


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes half a minute or more; `make drill` runs it, `make test` does not")
    config.addinivalue_line("markers", "once: the same on every release of Debian; `make test` runs it on the newest only, `make drill` on any")
    config.addinivalue_line("markers", "hosts(*groups): run once for every host of these inventory groups (default: all)")


def pytest_generate_tests(metafunc):
    if "host" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("hosts")
        names = {name for group in (marker.args if marker else ["all"]) for name in the_lab().groups.get(group, [])}
        metafunc.parametrize("host", sorted(names), indirect=True, scope="session")


@pytest.fixture(scope="session")
def lab() -> Lab:
    """The lab under test."""
    return the_lab()


@pytest.fixture(scope="session")
def host(request, lab):
    """Each host of the groups that `pytest.mark.hosts` names, as root; `host.lab` are its variables."""
    found = lab.host(request.param)
    found.lab = lab.vars(request.param)
    return found


@pytest.fixture(scope="session")
def web(lab):
    """The host that serves the lab's domains, as root."""
    return lab.host(lab.web)


@pytest.fixture(scope="session")
def stranger(lab):
    """Another host of the lab, as root: what it cannot reach, nobody outside can."""
    return lab.host(lab.stranger)


@contextlib.contextmanager
def a_browser(lab: Lab, host: str):
    """A session in which any name leads to one lab host; certificates are checked against the lab's CA."""
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(lab.ca)
        for scheme in ("https://", "http://"):
            session.mount(scheme, LabAdapter(lab, host))
        yield session


@pytest.fixture
def https(lab):
    """A fresh browser: any name leads to the lab's web host, certificates are checked against the lab's CA."""
    with a_browser(lab, lab.web) as session:
        yield session


@pytest.fixture
def browse(lab):
    """Fresh browsers by host, for a lab with several sites: `browse("app2").get("https://…")`."""
    with contextlib.ExitStack() as stack:
        yield lambda host: stack.enter_context(a_browser(lab, host))
