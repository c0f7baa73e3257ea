"""What every task would load for itself is there before the first of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parents[2]
LOADED = """
import gc, sys
sys.path.insert(0, "collections")
from ansible_collections.redoubt.django.plugins.callback.preload import CallbackModule
def loaded():
    # Ansible adds a number to the name of each.
    files = {f"{kind}.{name}" for kind in ("filter", "test") for name in ("core", "mathstuff")}
    return sorted(file for file in files if any(name.startswith(f"ansible.plugins.{file}_") for name in sys.modules))
print(loaded())
CallbackModule().v2_playbook_on_start(None)
print(loaded(), gc.get_freeze_count() > 10000)
"""


def test_filters_and_tests_are_loaded_and_kept_from_the_collector():
    done = subprocess.run([sys.executable, "-c", LOADED], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n['filter.core', 'filter.mathstuff', 'test.core', 'test.mathstuff'] True\n"


def test_it_is_on_where_a_playbook_is_run_as_the_readme_says():
    done = subprocess.run([Path(sys.executable).with_name("ansible-config"), "dump", "--only-changed"], cwd=REPO, capture_output=True, text=True, check=True)
    assert "CALLBACKS_ENABLED" in done.stdout and "redoubt.django.preload" in done.stdout
