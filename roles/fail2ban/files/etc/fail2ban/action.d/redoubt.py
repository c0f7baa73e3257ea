# Copyright: Redoubt maintainers
# MIT License (see LICENSE)
"""Bans of whole IPv6 networks (/64), by the kernel or behind a proxy by nginx, that outlive fail2ban's own restarts.

fail2ban counts and bans single addresses, but an IPv6 customer has 2^64 of them: a guess from each would never be counted
twice. Here the /64 is what is counted, banned, kept in the database and lifted (`fail2ban-client unban 2001:db8:1:2::/64`).

In the kernel a jail is two sets and a chain of the table `inet redoubt_bans`, before the firewall's own table lets the packets
of established connections pass. Every address in a set has the time left of its ban: a ban neither ends because fail2ban
stops or restarts, nor stays when it never comes back. Only connections that the banned side has opened are concerned.
"""

from __future__ import annotations

import pathlib
import subprocess
import threading
import time

from fail2ban.server.action import ActionBase
from fail2ban.server.ipdns import IPAddr

TABLE = "inet redoubt_bans"
# Seconds that the kernel waits longer than fail2ban, which says that it lifts a ban, and lengthens it up to ten seconds later.
SLACK = 15
# Seconds before nginx is told of a ban, so that several are one. So many times a minute; beyond that there are PAUSE seconds between
# one and the next, for each leaves old workers behind while a visitor holds a websocket.
SOON, AT_ONCE, PAUSE = 0.2, 12, 5


def network(address):
    """The /64 of an IPv6 address; anything else as it is."""
    return IPAddr(str(address), 64) if address.isIPv6 and address.isSingle else address


def count_networks(found):
    """Make a jail's filter report the network for the address. Addresses that are ignored are left out by themselves."""
    plain = found.processLine
    if hasattr(plain, "counts_networks"):
        return

    def process_line(line, date=None):
        return [[index, network(address), when, details] for index, address, when, details in plain(line, date)
                if not (address.isIPv6 and address.isSingle and found.inIgnoreIPList(address))]

    process_line.counts_networks = True
    found.processLine = process_line


class Action(ActionBase):
    """`ports`: TCP and UDP ports that are closed to the banned, all without it. `nginx`: a folder for nginx' own list instead."""

    def __init__(self, jail, name, ports="", nginx=""):
        super().__init__(jail, name)
        self.ports, self.nginx = ports, nginx
        self.lock = threading.Lock()
        self.timer, self.due = None, 0.0
        self.told = []
        count_networks(jail.filter)

    # A reload makes a new action unless the old one takes the new options; a new one would be stopped as one too many.
    def clearAllParams(self):
        """Called before `reload`."""

    def reload(self, ports="", nginx=""):
        self.ports, self.nginx = ports, nginx
        self.start()

    # --- What fail2ban calls ---------------------------------------------------------------------------------------------

    def start(self):
        if self.nginx:
            # What is restored in the next seconds is in the list that is written then. Until it is, the old one holds.
            self.publish(delay=2)
            # The proxy may be among those that were banned before it was named.
            self.kernel(self.skeleton() + self.emptied())
        else:
            self.kernel(self.skeleton() + self.elements())

    def ban(self, info):
        if self.nginx:
            # What a start restores comes before what is new, so that a new ban finds the list complete and need not wait.
            self.publish(urgent=not info.get("restored"))
            return
        address, seconds = str(info["fid"]), self.left(info["time"], info["bantime"])
        try:
            self.kernel(self.element(address, seconds))
        except RuntimeError:
            # Somebody has flushed the rules: whoever else is banned comes back with this one.
            self.kernel(self.skeleton() + self.elements() + self.element(address, seconds))
        self.cut(address)

    reban = ban
    prolong = ban
    _prolongable = True

    def unban(self, info):
        if self.nginx:
            self.publish()
        else:
            name, key = self.key(str(info["fid"]))
            # Deleting what is not there would be an error.
            self.kernel(f"add element {TABLE} {name} {{ {key} }}\ndelete element {TABLE} {name} {{ {key} }}\n")

    def flush(self):
        """Lift all bans when somebody asks for it; a jail that stops keeps them."""
        if self._jail.actions.active:
            if self.nginx:
                self.publish()
            else:
                self.kernel(self.skeleton() + self.emptied())
        return True

    def stop(self):
        with self.lock:
            if self.timer:
                self.timer.cancel()

    # --- The kernel's sets -----------------------------------------------------------------------------------------------

    @staticmethod
    def left(begin, seconds):
        return max(1, int(begin + seconds - time.time())) + SLACK

    def key(self, address):
        """The set that an address belongs into, and its key there: of a /64 the first address. A ban by hand may name any other."""
        if ":" in address:
            return f"{self._jail.name}6", str(network(IPAddr(address))).removesuffix("/64")
        return f"{self._jail.name}4", address

    def element(self, address, seconds):
        name, key = self.key(address)
        # An element that is there would keep its old time.
        return (f"add element {TABLE} {name} {{ {key} }}\ndelete element {TABLE} {name} {{ {key} }}\n"
                f"add element {TABLE} {name} {{ {key} timeout {seconds}s }}\n")

    def elements(self):
        """All bans of the jail that fail2ban knows of now."""
        manager = self._jail.actions.banManager
        return "".join(self.element(str(ticket.getID()), self.left(ticket.getTime(), ticket.getBanTime(manager.getBanTime())))
                       for ticket in manager)

    def emptied(self):
        return "".join(f"flush set {TABLE} {self._jail.name}{version}\n" for version in (4, 6))

    def skeleton(self):
        """The jail's part of the table; what is there already stays, with its elements."""
        name = self._jail.name
        ports = f"th dport {{ {self.ports} }} " if self.ports else ""
        match = f"iif != lo ct direction original meta l4proto {{ tcp, udp }} {ports}"
        return f"""
add table {TABLE}
add set {TABLE} {name}4 {{ type ipv4_addr; flags timeout; }}
add set {TABLE} {name}6 {{ type ipv6_addr; flags timeout; }}
add chain {TABLE} refuse
flush chain {TABLE} refuse
add rule {TABLE} refuse meta l4proto tcp ct state established reject with tcp reset
add rule {TABLE} refuse drop
add chain {TABLE} ban_{name} {{ type filter hook input priority -10; policy accept; }}
flush chain {TABLE} ban_{name}
add rule {TABLE} ban_{name} {match}ip saddr @{name}4 goto refuse
add rule {TABLE} ban_{name} {match}ip6 saddr & ffff:ffff:ffff:ffff:: @{name}6 goto refuse
"""

    def kernel(self, commands):
        done = self.run(["nft", "--file", "-"], commands)
        if done.returncode:
            raise RuntimeError(done.stderr.strip())

    def cut(self, address):
        """Close what is open: an idle connection would not meet the rules, and the server would wait for it."""
        ports = " or ".join(f"sport = :{port}" for port in self.ports.split(",")) if self.ports else ""
        # Not every kernel can; then the rules answer the next packet.
        self.run(["ss", "--kill", "--tcp", "--no-header", "state", "connected", f"dst {network(IPAddr(address))}" + (f" and ( {ports} )" if ports else "")])

    @staticmethod
    def run(command, text=None):
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)

    # --- nginx' list -----------------------------------------------------------------------------------------------------

    def publish(self, delay=SOON, urgent=False):
        """Write the list and have nginx read it, soon. What comes until then is part of it. `urgent`: sooner than was meant before."""
        with self.lock:
            now = time.monotonic()
            self.told = [when for when in self.told if when > now - 60]
            if len(self.told) >= AT_ONCE:
                delay = max(delay, self.told[-1] + PAUSE - now)
            if self.timer and self.timer.is_alive():
                if not urgent or self.due <= now + delay:
                    return
                self.timer.cancel()
            self.due = now + delay
            self.timer = threading.Timer(delay, self.write)
            self.timer.daemon = True
            self.timer.start()

    def write(self):
        with self.lock:
            self.timer = None
        try:
            if self.write_list():
                with self.lock:
                    self.told.append(time.monotonic())
                self.reload_nginx()
        except OSError as error:
            self._logSys.error("the bans of %s could not be written for nginx: %s", self._jail.name, error)

    def write_list(self):
        """Whether the list has changed."""
        addresses = sorted({str(network(IPAddr(str(ticket.getID())))) for ticket in self._jail.actions.banManager})
        text = "".join(f"{address if '/' in address else address + '/32'} 1;\n" for address in addresses)
        path = pathlib.Path(self.nginx, f"{self._jail.name}.conf")
        # Where there is no list nobody is banned: to say so would cost a reload.
        if (path.read_text(encoding="ascii") if path.exists() else "") == text:
            return False
        staged = path.with_suffix(".new")
        staged.write_text(text, encoding="ascii")
        staged.chmod(0o644)
        staged.replace(path)
        return True

    def reload_nginx(self):
        done = self.run(["systemctl", "reload", "nginx.service"])
        if done.returncode:
            self._logSys.error("nginx has not taken the bans of %s: %s", self._jail.name, done.stderr.strip())
