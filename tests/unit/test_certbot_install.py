"""The program that installs certbot, begun in the background and waited for: one makes the environment, whoever comes, in whatever order."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "roles/certbot/files/usr/local/lib/redoubt/certbot-install"
# Makes what a venv has, and takes a while for what pip does.
PYTHON = """#!/bin/sh
case "$*" in
*"-m venv"*) for venv; do :; done; echo made >>ROOT/made; rm -rf "$venv"/* "$venv"/.[!.]*; mkdir -p "$venv/bin" ;;
*"-m pip"*) test ! -e ROOT/away || { echo 'no such host' >&2; exit 1; }; sleep 0.5; printf '#!/bin/sh\\n' >ROOT/venv/bin/certbot; chmod +x ROOT/venv/bin/certbot ;;
esac
"""


class Install:
    def __init__(self, root: Path) -> None:
        self.root, self.stamp = root, root / "venv/.complete"
        (root / "python3").write_text(PYTHON.replace("ROOT", str(root)))
        (root / "python3").chmod(0o755)
        (root / "certbot-install").write_text(PROGRAM.read_text().replace("/usr/bin/python3", str(root / "python3")))

    def start(self, *words: str) -> subprocess.Popen:
        return subprocess.Popen(["sh", self.root / "certbot-install", self.stamp, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)

    @property
    def made(self) -> int:
        return (self.root / "made").read_text().count("made") if (self.root / "made").exists() else 0


@pytest.fixture
def install(tmp_path) -> Install:
    return Install(tmp_path)


def test_what_was_begun_is_waited_for_and_made_once(install) -> None:
    begun = install.start("begin")
    while not install.made:
        time.sleep(0.01)
    assert install.start().wait(20) == 0
    assert begun.wait(20) == 0 and install.made == 1 and install.stamp.exists()


def test_it_is_complete_only_when_it_was_waited_for(install) -> None:
    assert install.start("begin").wait(20) == 0
    assert not install.stamp.exists()
    assert install.start().wait(20) == 0
    assert install.made == 1 and install.stamp.exists()


def test_a_second_beginning_leaves_what_is_complete_as_it_is(install) -> None:
    """Of a run that came after one that was cut off."""
    running = [install.start("begin"), install.start("begin"), install.start(), install.start("begin")]
    assert [each.wait(20) for each in running] == [0, 0, 0, 0]
    assert install.start("begin").wait(20) == 0
    assert install.made == 1 and install.stamp.exists()


def test_what_could_not_be_downloaded_is_tried_again_and_said(install) -> None:
    (install.root / "away").touch()
    assert install.start("begin").wait(20) != 0
    again = install.start()
    assert again.wait(20) != 0 and "no such host" in again.stderr.read() and not install.stamp.exists()
    (install.root / "away").unlink()
    assert install.start().wait(20) == 0 and install.stamp.exists()


def test_what_was_killed_is_made_again(install) -> None:
    begun = install.start("begin")
    while not install.made:
        time.sleep(0.01)
    os.killpg(begun.pid, signal.SIGKILL)
    begun.wait()
    assert install.start().wait(20) == 0
    assert install.made == 2 and install.stamp.exists()
