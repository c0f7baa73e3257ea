"""Looks for secrets in everything that a host logs. Neither the search nor what is searched for is in a command line: sudo logs those."""

from __future__ import annotations

import json
import shlex
import subprocess

# Forms in which a secret may be in a log, and the search itself, on the host. What is found is said by name and place.
SEARCH = r"""
import base64, glob, gzip, lzma, os, subprocess, urllib.parse

def forms(value):
    found = {value, json.dumps(value)[1:-1], urllib.parse.quote(value), urllib.parse.quote_plus(value)}
    found |= {json.dumps(form)[1:-1] for form in list(found)}
    raw = {form.encode() for form in found}
    # As auditd writes an argument that has a blank, and every command line.
    raw.add(value.encode().hex().upper().encode())
    # Wherever in a longer text it began: base64 of each of three shifts, without the ends that its neighbours change.
    for shift in range(3):
        raw.add(base64.b64encode(b"\0" * shift + value.encode())[4 if shift else 0:-4])
    return {form for form in raw if len(form) >= 8}

for path in ["/etc/redoubt/pki/host.key", *glob.glob("/etc/ssh/ssh_host_*_key")]:
    if os.path.exists(path):
        # A key in a log would be cut into lines.
        lines = [line.strip() for line in open(path) if len(line) > 24 and "-----" not in line]
        # The first line of an SSH key is the same for all of them.
        secrets |= {f"{path} line {number}": line for number, line in enumerate(lines) if number}
names = {form: name for name, value in secrets.items() for form in forms(value)}
longest = max(map(len, names))
found, read = {}, 0

def look(place, source):
    global read
    rest = b""
    while block := source.read(1 << 20):
        read += len(block)
        block = rest + block
        # Quicker by far than one expression of all of them.
        for form, name in names.items():
            if form in block:
                found.setdefault(place, set()).add(name)
        rest = block[-longest:]

files = [os.path.join(folder, name) for root in ["/var/log", "/var/spool/redoubt-logs"] for folder, _, names_ in os.walk(root) for name in names_]
for path in sorted(files):
    # The journal is compressed in its own way, and read by its own tool below.
    if not path.startswith("/var/log/journal/") and os.path.isfile(path):
        try:
            with {".gz": gzip.open, ".xz": lzma.open}.get(os.path.splitext(path)[1], open)(path, "rb") as source:
                look(path, source)
        except FileNotFoundError:
            pass
with subprocess.Popen(["journalctl", "--quiet", "--output=export", "--all"], stdout=subprocess.PIPE) as journal:
    look("journal", journal.stdout)
print(json.dumps({"found": {place: sorted(each) for place, each in found.items()}, "files": len(files), "bytes": read, "secrets": len(secrets)}))
"""


def at(lab, name: str, script: str) -> str:
    """Run a Python script as root on a host; it goes there over standard input."""
    values = lab.vars(name)
    line = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-p", str(values["ansible_port"]), "-i", values["ansible_ssh_private_key_file"]]
    line += [*shlex.split(values["ansible_ssh_common_args"]), f"{values['ansible_user']}@{values['ansible_host']}", "sudo python3 -"]
    done = subprocess.run(line, input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def search(lab, name: str, secrets: dict[str, str]) -> dict:
    """Where on a host one of these is in a log, by name, and how much was read."""
    return json.loads(at(lab, name, f"import json\nsecrets = json.loads({json.dumps(secrets)!r})\n{SEARCH}"))


def vault(lab) -> dict[str, str]:
    """Every secret of the inventory. Of a key of several lines, each line."""
    found: dict[str, str] = {}
    for host in lab.groups["all"]:
        values = lab.vars(host)
        for name in values.names():
            if name.startswith("vault_") and isinstance(value := values[name], str) and value:
                lines = [line.strip() for line in value.splitlines() if len(line.strip()) >= 8 and "-----" not in line]
                found |= {name if len(lines) == 1 else f"{name} line {number}": line for number, line in enumerate(lines)}
    return found


def statements(lab, db: str, role: str, password: str) -> None:
    """What an administrator types at psql about a password: right and wrong, fast and slow, and in one request with another statement."""
    script = f"""
import subprocess
for statement in ("CREATE ROLE {role} PASSWORD '%s'", "ALTER ROLE {role} PASSWORD '%s'", "CREATE ROLE {role} PASSWORD '%s'", "ALTER ROLE {role} PASWORD '%s'",
                  "SELECT pg_sleep(0.7), '%s'", "DROP ROLE {role} \\\\; SELECT '%s'"):
    subprocess.run(["runuser", "-u", "postgres", "--", "psql", "-Xq", "-d", "postgres"], input=statement % {json.dumps(password)}, text=True, capture_output=True, cwd="/")
"""
    at(lab, db, script)
