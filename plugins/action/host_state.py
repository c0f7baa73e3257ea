# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""Read in one command, without a module, what decides whether later tasks have anything to do."""

from __future__ import annotations

from ansible.plugins.action import ActionBase
from ansible_collections.redoubt.django.plugins.modules.units import PROPERTIES

BETWEEN = "--redoubt--"
SCRIPT = f"""\
set -e
dpkg-query --show --showformat '${{db:Status-Abbrev}}${{Package}}\\n'
echo {BETWEEN}
cd /etc/systemd/system
enabled=$(find . -mindepth 2 -maxdepth 2 -path '*.wants/*' ! -name '*.target' -printf '%f\\n' | sort -u)
masked=$(find . -mindepth 1 -maxdepth 1 -lname /dev/null -printf '%f\\n')
# What its own conditions keep from running is not loaded, unless it is asked for by its name.
systemctl show --property={",".join(PROPERTIES)} -- '*.service' '*.timer' '*.socket' $enabled $masked
echo {BETWEEN}
echo "$enabled"
echo {BETWEEN}
grep '^MemTotal:' /proc/meminfo
nproc --all"""


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        self.validate_argument_spec({})
        answer = self._low_level_execute_command(SCRIPT, sudoable=True)
        parts = answer["stdout"].replace("\r\n", "\n").split(f"{BETWEEN}\n")
        if answer["rc"] or len(parts) != 4:
            said = (answer["stderr"] or answer["stdout"]).strip().splitlines()
            return {**result, "failed": True, "msg": "The host does not say which packages and units it has: "
                    f"{said[-1] if said else 'it answered nothing'}. It must be Debian, with systemd, and let us become root."}
        packages, units, enabled, machine = parts
        return {
            **result,
            "changed": False,
            "packages": [line[3:] for line in packages.splitlines() if line[1:3] == "i "],
            "units": units,
            "enabled": enabled.split(),
            "memory_mb": int(machine.split()[1]) // 1024,
            "cores": int(machine.split()[-1]),
        }
