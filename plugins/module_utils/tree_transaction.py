# Copyright: (c) 2026, Redoubt maintainers
# MIT License (see LICENSE)

"""Put a set of files in place together, or not at all.

The host's side of the C(tree) action: only the standard library, Python 3.9 or newer, no Ansible, so that it can be
tested on a temporary root. A call goes through these steps, and a crash at any point of them is undone, or finished,
by the next call:

1. compare what is wanted with what is there; stop when they are equal;
2. write the journal, which names everything that steps 3 to 5 may leave behind;
3. make folders and stage new files beside their destinations;
4. rename them into place, keeping the originals beside them under a backup name;
5. run the validators; if one fails, put everything back;
6. mark the journal as committed, delete the backups, delete the journal.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import json
import os
import pwd
import re
import secrets
import shlex
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass, field

STATE_DIR = "var/lib/redoubt/tree"
# Hidden, and ends in "~": neither a glob (*.conf) nor a daemon that reads whole folders (cron, sudo, logrotate,
# run-parts) takes such a name for configuration.
TEMP_PREFIX = ".redoubt-tree-"
TEMP_SUFFIX = "~"
# Flushing files one by one is cheaper than flushing the whole file system, up to about this many.
FSYNC_EACH = 256
DIFF_LIMIT = 100 * 1024
VALIDATE_TIMEOUT = 300
SBIN = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


class TreeError(Exception):
    """A refusal or a failure, said in one sentence that a person can act on."""


class CannotPutBack(TreeError):
    """The one bad end: the previous state could not be restored. The journal is kept."""


@dataclass
class Entry:
    """One thing that shall be there. C(path) has no leading slash."""

    path: str
    kind: str = "file"  # file, link or folder
    content: bytes = b""
    target: str | None = None
    mode: int | None = None
    owner: str | None = None
    group: str | None = None
    secret: bool = False


@dataclass
class Plan:
    """All that one call wants."""

    entries: list[Entry]
    purge: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    secret: list[str] = field(default_factory=list)  # a trailing slash means everything below
    validate: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)


@dataclass
class State:
    """What is at a path now."""

    kind: str  # file, link, folder or other
    mode: int
    uid: int
    gid: int
    size: int


@dataclass
class Change:
    """One difference between what is wanted (none: nothing) and what is there (none: nothing)."""

    path: str
    action: str  # added, changed, removed, mode or owner
    entry: Entry | None
    before: State | None
    uid: int | None = None
    gid: int | None = None
    mode: int | None = None

    @property
    def is_folder(self) -> bool:
        return (self.entry.kind if self.entry else self.before.kind) == "folder"


def is_temporary(name: str) -> bool:
    return name.startswith(TEMP_PREFIX) and name.endswith(TEMP_SUFFIX)


def parents(path: str) -> list[str]:
    """The folders above a path, topmost first: a/b/c → a, a/b."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


class Tree:
    """Compares a plan with the files below a root, and applies it."""

    def __init__(self, plan: Plan, root: str = "/", check: bool = False, diff: bool = False, tmp: str | None = None):
        self.plan = plan
        self.root = root
        self.check = check
        self.diff = diff
        self.tmp = tmp or ("/run" if os.access("/run", os.W_OK) else None)
        self.wanted = {entry.path: entry for entry in plan.entries}
        self.warnings: list[str] = []
        self._ids: dict[tuple[str, str], int | None] = {}

    def apply(self) -> dict:
        """Do it, or with C(check) say what would be done. Returns the module's result."""
        if self.check:
            return self.predict()
        if pending_journals(self.root):
            with locked_state(self.root):
                self.warnings += recover(self.root)
        changes = self.compare()
        result = self.report(changes)
        if changes:
            self.find_commands()
            with locked_state(self.root):
                # Another call may have come between; what is reported is still what this one was asked for.
                self.warnings += recover(self.root)
                changes = self.compare()
                if changes:
                    self.validate_staged()
                    self.commit(changes)
        return {**result, "validated": True, "warnings": self.warnings}

    def predict(self) -> dict:
        """The result that a real run would have, without writing anything."""
        changes = self.compare()
        validated = not changes or self.validate_staged()
        if pending_journals(self.root):
            self.warnings.append("An interrupted call left a journal; a real run settles that first.")
        return {**self.report(changes), "validated": validated, "warnings": self.warnings}

    # --- compare ---------------------------------------------------------------------------------------------------

    def compare(self) -> list[Change]:
        """Every difference, in the order in which it is put in place: folders, files and links, removals."""
        folders = self.compare_folders()
        rest = []
        for entry in self.plan.entries:
            if entry.kind != "folder":
                change = self.compare_one(entry)
                if change:
                    rest.append(change)
        return folders + rest + self.compare_removals()

    def compare_folders(self) -> list[Change]:
        """Folders to make or to adjust: those wanted by name, and every parent of something wanted."""
        needed: dict[str, Entry | None] = {}
        for path in sorted(self.wanted):
            for folder in parents(path):
                needed.setdefault(folder, None)
            if self.wanted[path].kind == "folder":
                needed[path] = self.wanted[path]
        changes = []
        missing: set[str] = set()
        for path in sorted(needed):
            entry = needed[path]
            up = path.rpartition("/")[0]
            state = None if up in missing else self.folder_state(path)
            if state is None:
                missing.add(path)
                entry = entry or Entry(path, "folder")
                change = self.change_for(path, "added", entry, None)
                changes.append(change)
            elif entry:
                change = self.attributes_change(entry, state)
                if change:
                    changes.append(change)
        return changes

    def compare_one(self, entry: Entry) -> Change | None:
        """What it takes to have this file or link, or nothing."""
        state = self.state(entry.path)
        if state is None:
            return self.change_for(entry.path, "added", entry, None)
        if state.kind in ("folder", "other"):
            what = "folder" if state.kind == "folder" else "special file"
            raise TreeError(f"/{entry.path} is to be a {entry.kind}, but a {what} is in the way; remove it first.")
        if state.kind != entry.kind or not self.same_content(entry, state):
            return self.change_for(entry.path, "changed", entry, state)
        return None if entry.kind == "link" else self.attributes_change(entry, state)

    def compare_removals(self) -> list[Change]:
        """What nothing wants in the purged folders, and the paths that shall be absent."""
        found: dict[str, Change] = {}
        kept = set(self.wanted)
        for path in self.wanted:
            kept.update(parents(path))

        def walk(folder: str, everything: bool) -> None:
            for name in self.names(folder):
                path = f"{folder}/{name}"
                if is_temporary(name) or (path in kept and not everything):
                    if path in kept and self.state(path).kind == "folder":
                        walk(path, False)
                    continue
                remove(path)

        def remove(path: str) -> None:
            state = self.state(path)
            if state and path not in found:
                found[path] = Change(path, "removed", None, state)
                if state.kind == "folder":
                    walk(path, True)

        for path in self.plan.absent:
            for folder in parents(path):
                self.refuse_foreign_link(folder)
            remove(path)
        for path in self.plan.purge:
            for folder in [*parents(path), path]:
                self.refuse_foreign_link(folder)
            if path not in found and self.is_folder(path):
                walk(path, False)
        return [found[path] for path in sorted(found)]

    def attributes_change(self, entry: Entry, state: State) -> Change | None:
        """A change of mode or owner only. A folder's unset attribute is left as it is found."""
        change = self.change_for(entry.path, "mode", entry, state)
        if entry.kind == "folder":
            change.mode = state.mode if entry.mode is None else change.mode
            change.uid = state.uid if entry.owner is None else change.uid
            change.gid = state.gid if entry.group is None else change.gid
        if change.mode != state.mode:
            return change
        change.action = "owner"
        return change if (change.uid, change.gid) != (state.uid, state.gid) else None

    def change_for(self, path: str, action: str, entry: Entry, before: State | None) -> Change:
        default = 0o755 if entry.kind == "folder" else 0o644
        mode = default if entry.mode is None else entry.mode
        uid = self.lookup_id("user", entry.owner, path)
        gid = self.lookup_id("group", entry.group, path)
        return Change(path, action, entry, before, uid, gid, mode)

    def lookup_id(self, kind: str, name: str | None, path: str) -> int | None:
        """The number of a user or group; none in check mode when it does not exist yet."""
        if name is None:
            return self.own_id(kind)
        if name.isdigit():
            return int(name)
        if (kind, name) not in self._ids:
            self._ids[kind, name] = self.id_of(kind, name)
        number = self._ids[kind, name]
        if number is None and not self.check:
            raise TreeError(f"/{path} is to belong to the {kind} {name!r}, which does not exist on this host.")
        return number

    # What follows is all that a comparison asks of the host.

    def at(self, path: str) -> str:
        return os.path.join(self.root, path)

    def own_id(self, kind: str) -> int:
        """The number of the user or group that this runs as."""
        return os.geteuid() if kind == "user" else os.getegid()

    def id_of(self, kind: str, name: str) -> int | None:
        """The number of a user or group; none when it does not exist."""
        try:
            return pwd.getpwnam(name).pw_uid if kind == "user" else grp.getgrnam(name).gr_gid
        except KeyError:
            return None

    def names(self, folder: str) -> list[str]:
        """What is in a folder, sorted."""
        with os.scandir(self.at(folder)) as listing:
            return sorted(item.name for item in listing)

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder, be it at the end of a symbolic link."""
        return os.path.isdir(self.at(path))

    def same_content(self, entry: Entry, state: State) -> bool:
        if entry.kind == "link":
            return os.readlink(self.at(entry.path)) == entry.target
        return state.size == len(entry.content) and read_file(self.at(entry.path)) == entry.content

    def state(self, path: str, follow: bool = False) -> State | None:
        try:
            info = os.stat(self.at(path), follow_symlinks=follow)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISREG(info.st_mode):
            kind = "file"
        elif stat.S_ISDIR(info.st_mode):
            kind = "folder"
        else:
            kind = "link" if stat.S_ISLNK(info.st_mode) else "other"
        return State(kind, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_size)

    def folder_state(self, path: str) -> State | None:
        """The state of a folder that may be reached through a symbolic link, if the link can be trusted."""
        state = self.state(path)
        if state and state.kind == "link":
            self.refuse_foreign_link(path)
            state = self.state(path, follow=True)
        elif state is None:
            return None
        if state is None or state.kind != "folder":
            raise TreeError(f"/{path} is to be a folder, but something else is in the way; remove it first.")
        return state

    def refuse_foreign_link(self, path: str) -> None:
        """Whoever may write a folder could leave a link there, to have root write, or delete, where it points."""
        state = self.state(path)
        if state and state.kind == "link" and state.uid not in (0, os.geteuid()):
            owner = name_of(pwd.getpwuid, state.uid)
            raise TreeError(f"/{path} is a symbolic link that belongs to {owner}, not to root; it is not followed.")

    # --- report ----------------------------------------------------------------------------------------------------

    def report(self, changes: list[Change]) -> dict:
        files = {f"/{shown(change.path)}" + ("/" if change.is_folder else ""): change.action for change in changes}
        result = {"changed": bool(changes), "files": files, "changed_paths": list(files)}
        if self.diff:
            result["diff"] = [self.diff_of(change) for change in changes]
        return result

    def diff_of(self, change: Change) -> dict:
        """A diff as Ansible's callbacks print it; both headers tell owner and mode, whatever the contents."""
        before, after, note = "", "", ""
        if change.action in ("added", "changed", "removed") and not change.is_folder:
            before, after, note = self.contents_of(change)
        old = f"/{shown(change.path)} ({describe(change.before) if change.before else 'absent'}{note})"
        new = f"/{shown(change.path)} ({self.describe_new(change) if change.entry else 'absent'}{note})"
        if before == after:
            return {"prepared": f"--- before: {old}\n+++ after: {new}\n"}
        return {"before_header": old, "after_header": new, "before": before, "after": after}

    def contents_of(self, change: Change) -> tuple[str, str, str]:
        """The contents before and after as text, or none of both and why."""
        if self.is_secret(change):
            return "", "", ", contents hidden"
        before = after = b""
        if change.before and change.before.kind == "link":
            before = f"symbolic link to {shown(os.readlink(self.at(change.path)))}\n".encode()
        elif change.before and change.before.kind == "file":
            if change.before.size > DIFF_LIMIT:
                return "", "", ", contents too long to show"
            before = read_file(self.at(change.path))
        if change.entry and change.entry.kind == "link":
            after = f"symbolic link to {change.entry.target}\n".encode()
        elif change.entry:
            after = change.entry.content
        if len(after) > DIFF_LIMIT:
            return "", "", ", contents too long to show"
        try:
            texts = before.decode(), after.decode()
        except UnicodeDecodeError:
            return "", "", ", binary"
        return ("", "", ", binary") if "\0" in texts[0] + texts[1] else (*texts, "")

    def is_secret(self, change: Change) -> bool:
        if change.entry and change.entry.secret:
            return True
        for item in self.plan.secret:
            if change.path == item or (item.endswith("/") and change.path.startswith(item)):
                return True
        # Nobody has said what a file is that no template names; one that not everybody may read is not shown.
        return change.entry is None and change.before.kind == "file" and not change.before.mode & stat.S_IROTH

    def describe_new(self, change: Change) -> str:
        owner = change.entry.owner or name_of(pwd.getpwuid, change.uid)
        group = change.entry.group or name_of(grp.getgrgid, change.gid)
        return f"{owner}:{group} {change.mode:04o}" if change.entry.kind != "link" else f"{owner}:{group} link"

    # --- validate --------------------------------------------------------------------------------------------------

    def find_commands(self) -> None:
        """Refuse before anything is touched when a command cannot be run."""
        for command in self.plan.validate + self.plan.before:
            if not executable(command):
                raise TreeError(f"The command {shlex.split(command)[0]!r} is not on this host; nothing was changed.")

    def validate_staged(self) -> bool:
        """Run the validators that take a root on a copy of this call's files; false when one could not be run.

        The copy is in memory where it can be (/run), since it may hold secrets.
        """
        runnable = [c for c in self.plan.validate if "{root}" in c and executable(c)]
        if runnable:
            with tempfile.TemporaryDirectory(prefix="redoubt-tree-", dir=self.tmp) as staged:
                self.write_staged_root(staged)
                for command in runnable:
                    self.run_command(command, "validator", "nothing was changed", staged)
        return len(runnable) == len(self.plan.validate)

    def write_staged_root(self, staged: str) -> None:
        for path in sorted(self.wanted):
            entry = self.wanted[path]
            change = self.change_for(path, "added", entry, None)
            full = os.path.join(staged, path)
            os.makedirs(os.path.dirname(full), 0o755, exist_ok=True)
            if entry.kind == "link":
                os.symlink(entry.target, full)
                continue
            # In check mode the owner may not exist yet; -1 leaves the file to whoever runs this.
            owner = {"uid": -1 if change.uid is None else change.uid, "gid": -1 if change.gid is None else change.gid}
            attributes = {**owner, "mode": change.mode}
            if entry.kind == "folder":
                os.makedirs(full, exist_ok=True)
                set_attributes(full, attributes)
            else:
                write_new_file(full, entry.content, attributes)

    def run_command(self, command: str, what: str, outcome: str, staged: str = "") -> None:
        """Run a validator, or another command that must succeed; the error tells what it said, secrets left out."""
        code, output = run(command.replace("{root}", shlex.quote(staged)) if staged else command)
        if code == 0:
            return
        # With the names as they are on the host, not below the temporary folder.
        lines = self.masked(output.replace(staged, "") if staged else output).strip().splitlines()[-10:]
        said = " It said:\n" + "\n".join(lines) if lines else ""
        raise TreeError(f"The {what} `{command}` failed (exit code {code}); {outcome}.{said}")

    def masked(self, output: str) -> str:
        """The output of a validator, which may quote a line of a file, without any word of a secret one."""
        words = set()
        for entry in self.plan.entries:
            if entry.secret:
                words.update(re.findall(r"[^\s\"'=;,]{6,}", entry.content.decode(errors="replace")))
        for word in sorted(words, key=len, reverse=True):
            output = output.replace(word, "********")
        return output

    # --- put in place ----------------------------------------------------------------------------------------------

    def commit(self, changes: list[Change]) -> None:
        """Steps 2 to 6 of the module's description."""
        journal = Journal.begin(self.root, self.operations(changes))
        try:
            self.stage(journal)
            for command in self.plan.before:
                self.run_command(command, "command", "nothing was changed")
            journal.mark("swapping")
            self.swap(journal)
            for command in self.plan.validate:
                if "{root}" not in command:
                    self.run_command(command, "validator", "the previous files are back")
            journal.flush_folders()
            journal.mark("committed")
        except BaseException as error:
            journal.roll_back()
            if isinstance(error, OSError):
                raise TreeError(f"{error}; the previous files are back.") from error
            raise
        try:
            journal.clean_up()
        except OSError as error:
            # Not a failure: the files count, and their handlers must run.
            self.warnings.append(f"The files are in place, but not all originals are deleted ({error}); the next call does it.")

    def operations(self, changes: list[Change]) -> list[dict]:
        """The changes as the journal keeps them: enough to undo each, and never any contents."""
        operations = []
        removed: set[str] = set()
        transaction = secrets.token_hex(6)
        for number, change in enumerate(changes):
            folder = change.path.rpartition("/")[0]
            temporary = f"{folder}/{TEMP_PREFIX}{transaction}-{number}".lstrip("/")
            operation = {"path": change.path, "mode": change.mode, "uid": change.uid, "gid": change.gid}
            if change.action == "removed":
                if removed.intersection(parents(change.path)):
                    continue  # goes with its folder
                removed.add(change.path)
                operation.update(do="remove", backup=f"{temporary}-old{TEMP_SUFFIX}")
            elif change.action in ("mode", "owner"):
                old = {"mode": change.before.mode, "uid": change.before.uid, "gid": change.before.gid}
                operation.update(do="attributes", old=old, follow=change.is_folder)
            elif change.is_folder:
                operation.update(do="folder")
            else:
                operation.update(do="put", staged=f"{temporary}-new{TEMP_SUFFIX}")
                if change.before:
                    operation["backup"] = f"{temporary}-old{TEMP_SUFFIX}"
            operations.append(operation)
        return operations

    def stage(self, journal: Journal) -> None:
        """Make the folders and write the new files, still under their temporary names."""
        written = []
        for operation in journal.operations:
            full = self.at(operation["path"])
            if operation["do"] == "folder":
                os.mkdir(full, 0o700)
                set_attributes(full, operation)
            elif operation["do"] == "put":
                staged = self.at(operation["staged"])
                entry = self.wanted[operation["path"]]
                if entry.kind == "link":
                    os.symlink(entry.target, staged)
                    os.lchown(staged, operation["uid"], operation["gid"])
                else:
                    write_new_file(staged, entry.content, operation)
                    written.append(staged)
                operation["inode"] = os.lstat(staged).st_ino
        flush(written)

    def swap(self, journal: Journal) -> None:
        for operation in journal.operations:
            full = self.at(operation["path"])
            if operation["do"] == "put":
                if "backup" in operation:
                    keep_beside(full, self.at(operation["backup"]))
                os.rename(self.at(operation["staged"]), full)
            elif operation["do"] == "attributes":
                set_attributes(full, operation, operation["follow"])
            elif operation["do"] == "remove":
                os.rename(full, self.at(operation["backup"]))


class Journal:
    """What a transaction may leave behind, on disk before it does; enough to undo it or to finish it."""

    def __init__(self, root: str, path: str, operations: list[dict], phase: str):
        self.root = root
        self.path = path
        self.operations = operations
        self.phase = phase

    @classmethod
    def begin(cls, root: str, operations: list[dict]) -> Journal:
        path = os.path.join(root, STATE_DIR, f"{secrets.token_hex(6)}.json")
        journal = cls(root, path, operations, "staging")
        journal.mark("staging")
        return journal

    @classmethod
    def load(cls, root: str, path: str) -> Journal:
        try:
            data = json.loads(read_file(path))
            return cls(root, path, data["operations"], data["phase"])
        except (ValueError, KeyError) as error:
            raise TreeError(f"The journal {path} cannot be read ({error}); look at it, then delete it.") from error

    def at(self, path: str) -> str:
        return os.path.join(self.root, path)

    def mark(self, phase: str) -> None:
        """Write the journal with this phase, for good, before anything that the phase allows is done."""
        new = self.path + ".new"
        data = json.dumps({"phase": phase, "operations": self.operations}).encode()
        write_new_file(new, data)
        flush([new])
        os.rename(new, self.path)
        flush([os.path.dirname(self.path)])
        self.phase = phase

    def roll_back(self) -> None:
        """Back to what was. Can itself be interrupted anywhere and run again."""
        failures = []
        if self.phase == "swapping":
            for operation in reversed(self.operations):
                try:
                    self.undo(operation)
                except OSError as error:
                    failures.append(f"/{operation['path']} ({error.strerror})")
        if failures:
            raise CannotPutBack(
                f"Could not put back {', '.join(failures)}; the originals are beside them, named in {self.path}, "
                "and the next run tries again."
            )
        for operation in self.operations:
            if operation["do"] == "put":
                remove_if_there(self.at(operation["staged"]))
        for operation in reversed(self.operations):
            if operation["do"] == "folder":
                # One that somebody else has put something into since stays.
                with contextlib.suppress(OSError):
                    os.rmdir(self.at(operation["path"]))
        self.close()

    def undo(self, operation: dict) -> None:
        full = self.at(operation["path"])
        if operation["do"] == "attributes":
            with contextlib.suppress(FileNotFoundError):
                set_attributes(full, operation["old"], operation["follow"])
        elif "backup" in operation:
            put_back(self.at(operation["backup"]), full)
        elif operation["do"] == "put":
            # Only what this transaction has put there, not what somebody else has since.
            with contextlib.suppress(FileNotFoundError):
                if os.lstat(full).st_ino == operation["inode"]:
                    os.unlink(full)

    def clean_up(self) -> None:
        """What was put in place stays; forget what was there before."""
        for operation in self.operations:
            if "backup" in operation:
                remove_if_there(self.at(operation["backup"]))
        self.close()

    def flush_folders(self) -> None:
        folders = {os.path.dirname(self.at(operation["path"])) for operation in self.operations}
        flush([folder for folder in sorted(folders) if os.path.isdir(folder)])

    def close(self) -> None:
        self.flush_folders()
        os.unlink(self.path)
        flush([os.path.dirname(self.path)])


def pending_journals(root: str) -> list[str]:
    """The journals of calls that were interrupted, and those that were never written to their end (.new)."""
    folder = os.path.join(root, STATE_DIR)
    try:
        return sorted(os.path.join(folder, name) for name in os.listdir(folder))
    except FileNotFoundError:
        return []


def recover(root: str) -> list[str]:
    """Undo what an interrupted call has left, or finish it if it was past its validators; says which, in sentences."""
    found = pending_journals(root)
    done = []
    for path in found:
        if path.endswith(".new"):
            os.unlink(path)
    for path in found:
        if path.endswith(".json"):
            journal = Journal.load(root, path)
            if journal.phase == "committed":
                journal.clean_up()
                done.append("An interrupted call was finished first; the handlers it would have notified have not run.")
            else:
                journal.roll_back()
                done.append("An interrupted call was undone first.")
    return done


@contextlib.contextmanager
def locked_state(root: str):
    """One call at a time on a host: a journal that belongs to a living call must not be taken for a crashed one's."""
    folder = os.path.join(root, STATE_DIR)
    os.makedirs(os.path.dirname(os.path.dirname(folder)), exist_ok=True)
    for path, mode in ((os.path.dirname(folder), 0o755), (folder, 0o700)):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
            os.chmod(path, mode)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


# --- small tools ---------------------------------------------------------------------------------------------------


def shown(path: str) -> str:
    """A name as it can be printed: what others have left in a folder need not be UTF-8."""
    return os.fsencode(path).decode(errors="replace")


def read_file(path: str) -> bytes:
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        return file.read()


def write_new_file(path: str, content: bytes, attributes: dict | None = None) -> None:
    """Write a file that must not exist; nobody else can read it before it has its owner and mode."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        if attributes:
            set_open_attributes(descriptor, attributes)


def set_attributes(path: str, attributes: dict, follow: bool = False) -> None:
    """Set owner and mode through a descriptor, so that a link slipped in meanwhile cannot redirect them."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
    try:
        set_open_attributes(descriptor, attributes)
    finally:
        os.close(descriptor)


def set_open_attributes(descriptor: int, attributes: dict) -> None:
    # The owner first: changing it clears the set-uid and set-gid bits.
    os.fchown(descriptor, attributes["uid"], attributes["gid"])
    os.fchmod(descriptor, attributes["mode"])


def keep_beside(path: str, backup: str) -> None:
    """Keep the original by a second name, so that the path never misses; where there are no hard links, move it."""
    try:
        os.link(path, backup, follow_symlinks=False)
    except OSError:
        os.rename(path, backup)


def put_back(backup: str, path: str) -> None:
    if not os.path.lexists(backup):
        return
    # rename(2) of two names of one file does nothing and leaves both.
    if os.path.lexists(path) and os.path.samestat(os.lstat(backup), os.lstat(path)):
        os.unlink(backup)
    else:
        os.rename(backup, path)


def remove_if_there(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def flush(paths: list[str]) -> None:
    """Have files and folders on disk before the next step relies on them."""
    if len(paths) > FSYNC_EACH:
        os.sync()
        return
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def executable(command: str) -> str | None:
    return shutil.which(shlex.split(command)[0], path=search_path())


def search_path() -> str:
    # What an unprivileged login finds does not hold the administrator's tools.
    return os.environ.get("PATH", "") + ":" + SBIN


def run(command: str) -> tuple[int, str]:
    """Run a command without a shell; its exit code and all it printed."""
    environment = {**os.environ, "PATH": search_path(), "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            shlex.split(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd="/",
            timeout=VALIDATE_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, f"no answer within {VALIDATE_TIMEOUT} s"
    except OSError as error:
        return 127, str(error)
    return done.returncode, done.stdout.decode(errors="replace")


def describe(state: State) -> str:
    owner = f"{name_of(pwd.getpwuid, state.uid)}:{name_of(grp.getgrgid, state.gid)}"
    return f"{owner} link" if state.kind == "link" else f"{owner} {state.mode:04o}"


def name_of(lookup, number: int | None) -> str:
    try:
        return lookup(number)[0]
    except (KeyError, TypeError):
        return str(number)
