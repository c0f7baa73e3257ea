# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""Read in one command, without a module, what decides whether later tasks have anything to do."""

from __future__ import annotations

import re
import typing as t

from ansible.plugins.action import ActionBase
from ansible_collections.redoubt.django.plugins.modules.units import PROPERTIES, parse_show
from ansible_collections.redoubt.django.plugins.plugin_utils.ahead import settled
from ansible_collections.redoubt.django.plugins.plugin_utils.asked import FOLDER, LOOK, is_ours

BETWEEN = "--redoubt--"
# Some answers have the other one themselves. What it ended with follows.
AFTER_ANSWER = "--redoubt-answer--"
SCRIPT = f"""\
set -e
export SYSTEMD_COLORS=0
dpkg-query --show --showformat '${{db:Status-Abbrev}}${{Package}}\\n'
echo {BETWEEN}
cd /etc/systemd/system
enabled=$(find . -mindepth 2 -maxdepth 2 -path '*.wants/*' ! -name '*.target' -printf '%f\\n' | sort -u)
masked=$(find . -mindepth 1 -maxdepth 1 -lname /dev/null -printf '%f\\n')
generated=$(find /run/systemd/generator -mindepth 2 -maxdepth 2 -path '*.wants/*.service' -printf '%f\\n' || :)
# Of the others that are loaded only this is asked: all properties of all units take systemd longer than the rest of it together.
systemctl show --property={",".join(PROPERTIES)} -- $enabled $generated $masked
echo {BETWEEN}
systemctl list-units --all --plain --no-legend --full -- '*.service' '*.timer' '*.socket'
echo {BETWEEN}
echo "$enabled"
echo {BETWEEN}
# Names of units that are others' too.
find . /usr/lib/systemd/system -mindepth 1 -maxdepth 1 -type l ! -lname /dev/null -printf '%f\\n'
echo {BETWEEN}
. /etc/os-release
echo "$ID" "${{VERSION_ID:-0}}" "${{VERSION_CODENAME:--}}"
grep '^MemTotal:' /proc/meminfo
nproc --all
if systemd-detect-virt --container; then
    echo container
else
    systemd-detect-virt --vm || :
fi
echo {BETWEEN}
# Their hashes stay here.
getent group sudo | cut -d: -f4 | tr , '\\n' | while read -r name; do
    getent passwd "$name" | while IFS=: read -r _ _ _ _ _ home shell; do
        ! test -d "$home" || echo "$name:$(getent shadow "$name" | cut -d: -f8):$shell"
    done
done
echo {BETWEEN}
# What its tasks have asked before. That it was these questions is seen before and after they are answered.
test "$(stat -c '%u %a' {FOLDER} 2>/dev/null)" = '0 700' || exit 0
cd {FOLDER}
kept() {{
    sha256sum -- *.look *.sh 2>/dev/null || :
}}
kept
echo {AFTER_ANSWER} 0
(
set -- *.look
{LOOK}
)
echo {AFTER_ANSWER} 0
for question in *.sh; do
    test -e "$question" || continue
    ended=0
    /bin/sh "./$question" </dev/null 2>/dev/null || ended=$?
    echo {AFTER_ANSWER} $ended
done
kept"""


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec({"roles": {"type": "list", "elements": "str", "default": []}})
        piped = self._connection.is_pipelining_enabled()
        answer = self._low_level_execute_command(**command(piped), sudoable=True)
        said, *answers = re.split(f"{AFTER_ANSWER} (\\d+)\n", answer["stdout"].replace("\r\n", "\n"))
        parts = said.split(f"{BETWEEN}\n")
        if answer["rc"] or len(parts) != 8:
            lines = (answer["stderr"] or answer["stdout"]).strip().splitlines()
            return {**result, "failed": True, "msg": "The host does not say which packages and units it has: "
                    f"{lines[-1] if lines else 'it answered nothing'}. It must be Debian, with systemd, and let us become root."}
        packages, shown, listed, enabled, aliases, machine, accounts, kept = parts
        state = {
            **result,
            "changed": False,
            "packages": [line[3:] for line in packages.splitlines() if line[1:3] == "i "],
            "units": shown + "".join(others(listed, shown)),
            "enabled": enabled.split(),
            "aliases": aliases.split(),
            "administrators": [name for name, ends, shell in (line.split(":") for line in accounts.splitlines()) if (ends, shell) == ("", "/bin/bash")],
            "answers": answered(kept, answers) if is_ours(self) else [],
            "ansible_facts": facts(machine.splitlines()),
        }
        known = {self._task.register: state} if self._task.register else {}
        # Without pipelining a connection may have ways to the host of its own (Mitogen).
        roles = arguments["roles"] if is_ours(self) and piped else []
        return {**state, "settled": settled(state["answers"], roles, known, state["ansible_facts"])}


def command(piped: bool) -> dict[str, t.Any]:
    """The script as a shell's input: sudo then has one line to log, and not all of it. What it starts must not read on there."""
    return {"cmd": "exec /bin/sh", "in_data": f"ask() {{\n{SCRIPT}\n}}\nask </dev/null\n".encode()} if piped else {"cmd": SCRIPT}


def others(listed: str, shown: str) -> t.Iterator[str]:
    """What is known of the units that nothing enables, in the form of those that were shown."""
    known = {name for state in parse_show(shown) for name in state.get("Names", "").split()}
    for unit, load, active, *_ in map(str.split, listed.splitlines()):
        if unit not in known:
            yield f"\nId={unit}\nNames={unit}\nLoadState={load}\nActiveState={active}\nUnitFileState=\n"


def answered(kept: str, answers: list[str]) -> list[dict[str, t.Any]]:
    """Each answer with the questions' hashes; none where they cannot be told apart, which takes one that has itself the line behind them."""
    looks, inputs = ([line[:64] for line in kept.split("\n") if line.endswith(suffix)] for suffix in (".look", ".sh"))
    *texts, after = answers[1::2] or [""]
    if after != kept or len(texts) != 1 + len(inputs):
        return []
    return [{"questions": questions, "answer": text} for questions, text, end in zip([looks, *([each] for each in inputs)], texts, answers[2::2], strict=True) if end == "0"]


def facts(lines: list[str]) -> dict:
    """Those of Ansible's own facts that the roles go by, under its names: its module takes ten times as long to find them."""
    (name, version, release), (_, kilobytes, _), (cores,), *virtual = map(str.split, lines)
    return {
        "distribution": name.capitalize(),
        "distribution_major_version": version.partition(".")[0],
        "distribution_release": release,
        "memtotal_mb": int(kilobytes) // 1024,
        "processor_vcpus": int(cores),
        "virtualization_tech_guest": [word for words in virtual for word in words if word != "none"],
    }
