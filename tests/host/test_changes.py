"""What the runs of the playbook in this lab recorded: `--check` told the truth, and a second run had nothing to do."""

import json
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def runs(lab) -> list[dict]:
    record = lab.dir / "changes.jsonl"
    if not record.exists():
        pytest.skip("the lab's runs were not recorded: it was not converged by Molecule")
    runs = [json.loads(line) for line in record.read_text().splitlines()]
    return [run for run in runs if Path(run["playbook"]).name == "site.yml"]


def test_check_on_the_blank_host_predicts_what_the_first_run_changes(runs):
    check = next((run for run in runs if run["check"]), None)
    if check is None:
        pytest.skip("no --check was run before the first converge")
    first = next(run for run in runs[runs.index(check) :] if not run["check"])
    assert not check["failed"] and not first["failed"]
    predicted, changed = ({tuple(change) for change in run["changes"]} for run in (check, first))
    lines = [f"{'only predicted' if row in predicted else 'only changed':16}{row[0]:10}{row[1]}" for row in sorted(predicted ^ changed)]
    assert not lines, "--check and the run differ:\n" + "\n".join(lines)


def test_a_second_run_changes_nothing(runs):
    converged = [run for run in runs if not run["check"]]
    if len(converged) < 2:
        pytest.skip("the playbook ran only once")
    assert converged[-1]["changes"] == []
