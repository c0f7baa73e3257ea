"""Scan the tree and its whole history for secrets, with Kingfisher's rules and those of .config/leaks/rules.yml (`make lint`).

What somebody has looked at and found to be none is in .config/leaks/reviewed.yml, with the reason. No value is ever printed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
CONFIG = Path(".config") / "leaks"
FINDINGS = (200, 205)


def scan(root: Path, *arguments: str | Path) -> dict:
    """What Kingfisher finds. It asks nobody whether a value is good, and looks for no newer version of itself."""
    command = [Path(sys.executable).with_name("kingfisher"), "scan", *arguments, "--rules-path", ROOT / CONFIG / "rules.yml", "--rule-cache-dir", ROOT / ".cache" / "kingfisher",
               "--no-dedup", "--no-validate", "--no-update-check", "--quiet", "--format", "json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode not in (0, *FINDINGS):
        sys.exit(f"The scan for secrets did not run ({done.returncode}): {done.stderr.strip()[-500:]}")
    report = json.loads(done.stdout)
    if bool(report["findings"]) != (done.returncode in FINDINGS):
        sys.exit(f"The scan for secrets ended with {done.returncode} and {len(report['findings'])} findings, which cannot be.")
    return report


def git(root: Path, *arguments: str) -> str:
    """What git says; nothing where this is no repository, or has no commit."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def tree(root: Path) -> dict:
    """The files that are here, whether they are committed or not; not those that git is told to ignore."""
    listed = git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    files = [name for name in listed if name and (root / name).is_file() and not (root / name).is_symlink()]
    ignored = [word for name in (".venv", ".cache", ".lab") for word in ("--exclude", f"**/{name}/**")]
    report = scan(root, "--git-history", "none", *(files or [".", *ignored]))
    if report["metadata"]["summary"]["blobs_scanned"] < len([name for name in files if (root / name).stat().st_size]) * 0.9:
        sys.exit(f"The scan for secrets saw {report['metadata']['summary']['blobs_scanned']} of {len(files)} files.")
    return report


def history(root: Path, commit: str) -> dict:
    """Every version of every file that led to this commit."""
    folder = git(root, "rev-parse", "--path-format=absolute", "--git-common-dir").strip()
    report = scan(root, folder, "--git-history", "full", "--branch", commit)
    seen, there = report["audit"]["repositories"][0]["git"]["fetched_commit_count"], int(git(root, "rev-list", "--count", commit))
    if report["audit"]["summary"]["scan_succeeded"] != 1 or seen < there:
        sys.exit(f"The scan for secrets saw {seen} of {there} commits.")
    return report


def found(findings: list[dict]) -> dict[tuple[str, str], list[str]]:
    """Where each value is: by its file and its mark, which is no way back to the value where that is random."""
    places: dict[tuple[str, str], list[str]] = {}
    for each in findings:
        finding = each["finding"]
        path = finding["path"].removeprefix("./")
        mark = hashlib.sha256(f"{path}\n{finding['snippet']}".encode()).hexdigest()[:16]
        commit = ((finding.get("git_metadata") or {}).get("commit") or {}).get("id", "")[:12]
        place = f"{path}:{finding['line']}: {(each['rule']['description'] or each['rule']['name']).rstrip('.')}" + (f" (in the history, commit {commit})" if commit else "")
        if place not in places.setdefault((path, mark), []):
            places[path, mark].append(place)
    return places


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default=ROOT, type=Path)
    root = parser.parse_args().folder.resolve()
    commit = git(root, "rev-parse", "--verify", "HEAD").strip()
    reports = [tree(root)] + ([history(root, commit)] if commit else [])
    reviewed = {(each["path"], each["mark"]): each.get("why") for each in yaml.safe_load((root / CONFIG / "reviewed.yml").read_text()) or []}
    places = found([finding for report in reports for finding in report["findings"]])
    wrong = []
    for (path, mark), where in places.items():
        if not reviewed.get((path, mark)):
            wrong.append(f"{where[0]}. Make that value worthless (a new one in its place), and take it out; in the history it stays. If it is no secret: "
                         f'`- {{path: {path}, mark: "{mark}", why: …}}` in {CONFIG}/reviewed.yml.')
    if not commit:
        print("Secrets: there is no git history here; only the files that are here were looked at.")
    elif git(root, "rev-parse", "--is-shallow-repository").strip() == "true":
        print(f"Secrets: this clone is shallow, and only {git(root, 'rev-list', '--count', 'HEAD').strip()} of its commits could be looked at. "
              "`git fetch --unshallow` brings the others (in CI: fetch-depth 0).")
    else:
        wrong += [f"{CONFIG}/reviewed.yml: {path} has nothing with the mark {mark}, here or in its history: remove the entry."
                  for path, mark in sorted(reviewed.keys() - places.keys())]
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    looked = sum(report["metadata"]["summary"]["blobs_scanned"] for report in reports)
    print(f"Secrets: {looked} files and versions of files, {len(places)} values that look like secrets, {len(places.keys() - reviewed.keys())} of them not reviewed.")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
