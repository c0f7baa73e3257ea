"""What tree costs on the host for 5,000 files, against the floor of just writing or reading them. Prints JSON, in seconds."""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "plugins" / "module_utils"))
tree_transaction = importlib.import_module("tree_transaction")
FILES = 5000


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return round(time.perf_counter() - start, 2)


def measure(root: Path) -> dict[str, float]:
    def plan(word: str) -> tree_transaction.Plan:
        contents = {f"etc/{n % 50}/{n}.conf": f"{word} {n}\n".encode() * 40 for n in range(FILES)}
        return tree_transaction.Plan([tree_transaction.Entry(path, content=data) for path, data in contents.items()])

    def write_plainly() -> None:
        for entry in plan("floor").entries:
            path = root / "floor" / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(entry.content)

    def read_plainly() -> None:
        for path in (root / "floor").rglob("*.conf"):
            path.read_bytes()

    def apply(word: str, check: bool = False) -> None:
        tree_transaction.Tree(plan(word), str(root / "tree"), check, diff=True).apply()

    (root / "tree").mkdir()
    return {
        "write floor": timed(write_plainly),
        "install": timed(lambda: apply("one")),
        "read floor": timed(read_plainly),
        "unchanged": timed(lambda: apply("one")),
        "check, all change": timed(lambda: apply("two", check=True)),
        "all change": timed(lambda: apply("two")),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder)), indent=2))
