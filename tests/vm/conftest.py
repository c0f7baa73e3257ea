"""What needs a kernel of its own: the scenario `vm` has one, a container has not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "drill"))

from test_logs_answers import Answers


@pytest.fixture(scope="session")
def machine(lab):
    """The virtual machine, as root."""
    found = lab.host(lab.web)
    if found.run("systemd-detect-virt --quiet --container").rc == 0:
        pytest.skip("its own kernel: this host is a container, `make test-vm` has a virtual machine")
    return found


@pytest.fixture(scope="session")
def answers(lab, machine):
    return Answers(lab)
