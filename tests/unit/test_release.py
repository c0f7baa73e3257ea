"""What the host's release program decides by itself: which file lists the requirements, and what is left of one."""

from __future__ import annotations

import http.server
import importlib.machinery
import importlib.util
import os
import socketserver
import threading
import time
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "roles/app/files/usr/local/lib/redoubt/release"


@pytest.fixture(scope="module")
def program():
    loader = importlib.machinery.SourceFileLoader("release", str(PROGRAM))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("release", loader))
    loader.exec_module(module)
    return module


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "src"
    path.mkdir()
    return path


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def reread(program, source: Path, name: str = "requirements.txt") -> str:
    """The requirements without their indexes, the files they name in their place."""
    out = source.parent / "out"
    out.mkdir()

    def follow(path: Path) -> list[str]:
        lines = []
        for line in path.read_text().splitlines():
            lines += follow(Path(line[3:])) if line.startswith("-r /") else [line]
        return lines

    return "\n".join(line for line in follow(program.without_indexes(source / name, {}, out, source)) if line)


@pytest.mark.parametrize(
    "line",
    [
        "-i https://x.invalid/simple",
        "-ihttps://x.invalid/simple",
        "--index-url https://x.invalid/simple",
        "--index-url=https://x.invalid/simple",
        "  --extra-index-url=https://x.invalid/simple  # ours",
        "-f wheels",
        "--find-links=wheels",
        "--no-index",
    ],
)
def test_no_index_is_left(program, source, line) -> None:
    write(source, {"requirements.txt": f"{line}\ndjango==5.2\n"})
    assert reread(program, source) == "django==5.2"


def test_indexes_of_files_it_names_go_too(program, source) -> None:
    write(
        source,
        {
            "requirements.txt": "-r requirements/base.txt  # all\n--requirement=more.txt\n",
            "requirements/base.txt": "-i https://x.invalid\n-rdeep/er.txt\na==1\n",
            "requirements/deep/er.txt": "--no-index\nb==2\n-r ../base.txt\n",
            "more.txt": "c==3\n",
        },
    )
    out = source.parent / "copies"
    out.mkdir()
    program.without_indexes(source / "requirements.txt", {}, out, source)
    text = "\n".join(path.read_text() for path in sorted(out.iterdir()))
    assert "invalid" not in text
    assert "no-index" not in text
    assert all(wanted in text for wanted in ("a==1", "b==2", "c==3"))


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("-e .", "-e {src}"),
        ("-e .[prod]", "-e {src}[prod]"),
        ("./vendor/x", "{src}/vendor/x"),
        ("./vendor/x[a] ; python_version > '3'", "{src}/vendor/x[a] ; python_version > '3'"),
        ("../x", "{parent}/x"),
        (".", "{src}"),
        ("django==5.2 --hash=sha256:00", "django==5.2 --hash=sha256:00"),
        ("x @ https://x.test/x.whl", "x @ https://x.test/x.whl"),
        ("-r https://x.test/requirements.txt", "-r https://x.test/requirements.txt"),
        ("# -i https://x.invalid", "# -i https://x.invalid"),
    ],
)
def test_everything_else_is_left_as_it_means(program, source, line, wanted) -> None:
    write(source, {"requirements.txt": line + "\n"})
    assert reread(program, source) == wanted.format(src=source, parent=source.parent)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["uv.lock", "poetry.lock", "requirements.txt", "pyproject.toml"], "uv.lock"),
        (["poetry.lock", "Pipfile.lock", "requirements.txt"], "poetry.lock"),
        (["Pipfile.lock", "requirements.txt", "pyproject.toml"], "Pipfile.lock"),
        (["requirements.txt", "requirements/production.txt", "pyproject.toml"], "requirements.txt"),
        (["requirements/production.txt", "requirements/dev.txt", "pyproject.toml"], "requirements/production.txt"),
        (["pyproject.toml"], "pyproject.toml"),
        (["app/requirements.txt", "requirements.txt"], "app/requirements.txt"),
        (["uv.lock", "app/requirements.txt"], "uv.lock"),
    ],
)
def test_auto_takes_what_pins_most(program, source, files, found) -> None:
    write(source, dict.fromkeys(files, ""))
    assert program.find_requirements({"requirements": "auto", "project_dir": "app"}, source) == source / found


def test_a_file_is_found_from_the_root_and_from_the_project(program, source) -> None:
    write(source, {"app/deploy.txt": "", "requirements/live.txt": ""})
    for name, found in (("deploy.txt", "app/deploy.txt"), ("app/deploy.txt", "app/deploy.txt"), ("requirements/live.txt",) * 2):
        assert program.find_requirements({"requirements": name, "project_dir": "app"}, source) == source / found


@pytest.mark.parametrize("wanted", ["auto", "missing.txt"])
def test_no_requirements_is_a_sentence(program, source, wanted) -> None:
    with pytest.raises(program.Refused, match="^app_requirements: "):
        program.find_requirements({"requirements": wanted, "project_dir": "."}, source)


def test_links_do_not_lead_out(program, source) -> None:
    (source / "out").symlink_to("/etc")
    with pytest.raises(program.Refused, match="leads out of"):
        program.inside(source, "out/passwd")
    assert program.inside(source, "in/file") == source / "in/file"


def test_prune_keeps_the_newest_that_served_and_what_a_colour_holds(program, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(program, "STATE", tmp_path / "state")
    app = {"root": str(tmp_path / "notes")}
    for age, name in enumerate(["a", "b", "c", "broken", "d", "broken-too"]):
        release = tmp_path / "notes/releases" / name
        release.mkdir(parents=True)
        colour = tmp_path / "notes/colours" / ("blue" if name == "a" else "green")
        colour.mkdir(parents=True, exist_ok=True)
        program.relink(colour / "release", f"../../releases/{name}")
        if not name.startswith("broken"):
            program.switch(app, colour.name)
        os.utime(release, (age, age))
    program.relink(tmp_path / "notes/colours/green/release", "../../releases/d")
    program.prune(app, 2)
    assert sorted(path.name for path in (tmp_path / "notes/releases").iterdir()) == ["a", "c", "d"]


class Colour:
    """Something that answers on a unix socket as a release would."""

    def __init__(self, path: Path):
        self.answers: dict[str, list[int]] = {}
        self.asked: list[tuple[str, dict]] = []
        colour = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                colour.asked.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
                answers = colour.answers.get(self.path, [200])
                self.send_response(answers.pop(0) if len(answers) > 1 else answers[0])
                self.send_header("Content-Length", "0")
                self.end_headers()

            def address_string(self):
                return "nginx"

            def log_message(self, *_):
                pass

        self.server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=[0.05], daemon=True)
        self.thread.start()


@pytest.fixture
def colour(tmp_path, program, monkeypatch):
    monkeypatch.setattr(program, "restarts", lambda unit: 0)
    found = Colour(tmp_path / "green.sock")
    yield found
    found.server.shutdown()
    found.server.server_close()


def probe(program, tmp_path: Path, health: str = "", timeout: int = 10) -> None:
    wanted = {"domain": "notes.test", "health": health, "paths": ["/", "/login/"], "timeout": timeout}
    program.probe({"root": "/srv/notes", "run": str(tmp_path), "probe": wanted}, "green")


def test_a_colour_is_asked_as_nginx_will_ask(program, tmp_path, colour) -> None:
    colour.answers = {"/": [302], "/login/": [429]}
    probe(program, tmp_path, health="/up")
    assert [path for path, _ in colour.asked] == ["/up", "/", "/login/"]
    assert all((headers["host"], headers["x-forwarded-proto"]) == ("notes.test", "https") for _, headers in colour.asked)


def test_an_error_of_the_first_moment_is_forgiven(program, tmp_path, colour) -> None:
    colour.answers = {"/": [500, 200]}
    probe(program, tmp_path)


def test_a_page_that_is_an_error_is_refused_long_before_the_time_is_over(program, tmp_path, colour) -> None:
    colour.answers = {"/login/": [500]}
    began = time.monotonic()
    with pytest.raises(program.Refused, match="^https://notes.test/login/ answered 500$"):
        probe(program, tmp_path, timeout=60)
    assert time.monotonic() - began < 15


def test_a_health_page_may_wait_and_must_be_200_in_the_end(program, tmp_path, colour) -> None:
    colour.answers = {"/up": [503, 503, 503, 503, 503, 503, 200]}
    probe(program, tmp_path, health="/up")
    colour.answers = {"/up": [301]}
    with pytest.raises(program.Refused, match=r"/up answered 301 instead of 200 within 2 seconds \(app_start_timeout\)$"):
        probe(program, tmp_path, health="/up", timeout=2)


@pytest.mark.parametrize(
    ("starts", "said"), [(0, "answered nothing within 2 seconds"), (2, "because the processes end as soon as they start")]
)
def test_a_colour_that_does_not_answer_is_refused(program, tmp_path, monkeypatch, starts, said) -> None:
    monkeypatch.setattr(program, "restarts", lambda unit: starts)
    with pytest.raises(program.Refused, match=said):
        probe(program, tmp_path, timeout=2)
