"""The audit as a build makes it: the locked pip-audit, a release's own packages, and a server of the OSV interface."""

from __future__ import annotations

import datetime
import http.server
import importlib
import json
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
release_host = importlib.import_module("release_host")
UV = release_host.find_uv()
pytestmark = pytest.mark.skipif(not UV, reason="there is no uv to install pip-audit with")

TOOLS = Path(__file__).resolve().parents[2] / "roles/app/files/usr/local/lib/redoubt"
FOUND = {"vulns": [{
    "id": "PYSEC-2030-7", "aliases": ["CVE-2030-0007"], "summary": "Pears explode.", "modified": "2030-05-17T10:00:00Z",
    "affected": [{"package": {"name": "pear", "ecosystem": "PyPI"}, "versions": ["1.0"],
                  "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}]}],
}]}


@pytest.fixture
def service():
    """What answers for pear, and for nothing else; `asked` are the packages it was asked for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.server.asked.append(f"{question['package']['name']} {question['version']}")
            body = json.dumps(FOUND if question["package"]["name"] == "pear" else {}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Where the build user's tools are kept from one release to the next."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def audit(home, tmp_path, monkeypatch, capfd):
    """Audit a release that has two packages; return what was printed and said on the side."""
    program = release_host.load("redoubt_release_audit", TOOLS / "release")
    steps = program.steps
    monkeypatch.setattr(steps, "TOOLS", TOOLS)
    monkeypatch.setattr(steps, "UV", UV)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("UV_SYSTEM_CERTS", "1")
    release = tmp_path / "release"
    packages = release / "venv/lib/python3.11/site-packages"
    for name in ("pear", "apple"):
        info = packages / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")

    def run(url: str) -> tuple[str, str]:
        try:
            steps.audit({"audit": {"service": url}}, release)
            said = ""
        except steps.Refused as error:
            said = str(error)
        out, err = capfd.readouterr()
        return out, f"{err}\n{said}"

    run.judge = program.judge_audit
    return run


def test_what_is_known_is_found_and_may_be_waived(audit, service) -> None:
    out, err = audit(f"http://127.0.0.1:{service.server_port}/v1/query")
    assert sorted(service.asked) == ["apple 1.0", "pear 1.0"]
    today = datetime.date(2030, 5, 17)
    assert audit.judge(out, err, [], today) == (["pear 1.0 PYSEC-2030-7, mended in 1.1"], "")
    assert audit.judge(out, err, [{"id": "CVE-2030-0007", "reason": "no pears", "until": "2030-05-17"}], today) == ([], "")


def test_a_service_that_is_away_is_named_and_nothing_more(audit, service) -> None:
    service.shutdown()
    service.server_close()
    found, reason = audit.judge(*audit(f"http://127.0.0.1:{service.server_port}/v1/query"), [], datetime.date(2030, 5, 17))
    assert found == [] and "Connection" in reason
