"""The single steps of a release on its host: which file lists the requirements, what is left of one, what is kept, and who is asked."""

from __future__ import annotations

import datetime
import http.server
import importlib
import os
import socket
import socketserver
import ssl
import sys
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

sys.path.insert(0, str(Path(__file__).parent))
release_host = importlib.import_module("release_host")


@pytest.fixture(scope="module")
def program():
    return release_host.load("release_steps", release_host.FILES / "release_steps.py")


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(program, monkeypatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(program, "time", found)
    return found


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
    # Built in one order, and last served in another, as after a rollback.
    for built, (name, served) in enumerate({"a": 1, "b": 2, "c": 9, "broken": 0, "d": 4, "e": 3, "broken-too": 0, "unsealed": 8}.items()):
        release = tmp_path / "notes/releases" / name
        release.mkdir(parents=True)
        if name != "unsealed":
            (release / "manifest.json").touch()
        os.utime(release, (built, built))
        mark = program.state(app, name) / "served"
        mark.parent.mkdir(parents=True)
        if served:
            mark.touch()
            os.utime(mark, (served, served))
    for colour, name in {"blue": "a", "green": "broken-too"}.items():
        (tmp_path / "notes/colours" / colour).mkdir(parents=True)
        program.relink(tmp_path / "notes/colours" / colour / "release", f"../../releases/{name}")
    assert [path.name for path in program.served(app)] == ["c", "d", "e", "b", "a"]
    program.prune(app, 2)
    assert sorted(path.name for path in (tmp_path / "notes/releases").iterdir()) == ["a", "broken-too", "c", "d"]
    assert sorted(path.name for path in program.state(app, "c").parent.iterdir()) == ["a", "broken-too", "c", "d"]


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
def colour(tmp_path, program, monkeypatch, clock):
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


def test_a_page_that_is_an_error_is_refused_long_before_the_time_is_over(program, tmp_path, colour, clock) -> None:
    colour.answers = {"/login/": [500]}
    began = clock.now
    with pytest.raises(program.Refused, match="^https://notes.test/login/ answered 500$"):
        probe(program, tmp_path, timeout=60)
    assert 4 < clock.now - began < 15


def test_a_health_page_may_wait_and_must_be_200_in_the_end(program, tmp_path, colour) -> None:
    colour.answers = {"/up": [503, 503, 503, 503, 503, 503, 200]}
    probe(program, tmp_path, health="/up")
    colour.answers = {"/up": [301]}
    with pytest.raises(program.Refused, match=r"/up answered 301 instead of 200 within 2 seconds \(app_start_timeout\)$"):
        probe(program, tmp_path, health="/up", timeout=2)


@pytest.mark.parametrize(
    ("starts", "said"), [(0, "answered nothing within 2 seconds"), (2, "because the processes end as soon as they start")]
)
def test_a_colour_that_does_not_answer_is_refused(program, tmp_path, monkeypatch, clock, starts, said) -> None:
    monkeypatch.setattr(program, "restarts", lambda unit: starts)
    with pytest.raises(program.Refused, match=said):
        probe(program, tmp_path, timeout=2)


class Site:
    """nginx: HTTPS on a free port of the loopback address, where port 443 is thought to be."""

    def __init__(self, folder: Path, monkeypatch):
        self.folder, self.status, self.asked = folder, 200, []
        self.root_key, self.root = self.certificate("root")
        self.key, self.issuer = self.certificate("issuer", self.root, self.root_key)
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                site.asked.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
                self.send_response(site.status)
                if site.status == 302:
                    self.send_header("Location", "/login/")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

            def get_request(self):
                plain, address = super().get_request()
                plain.settimeout(5)
                return site.context.wrap_socket(plain, server_side=True), address

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=[0.05], daemon=True).start()
        real, self.connected = socket.create_connection, []

        def create_connection(address, *rest, **named):
            self.connected.append(address)
            return real(self.server.server_address, *rest, **named)

        monkeypatch.setattr(socket, "create_connection", create_connection)
        self.serve("notes.test")

    def certificate(self, name: str, issuer=None, issuer_key=None, authority: bool = True, days: int = 1):
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer.subject if issuer else subject, public_key=key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=9))
        builder = builder.not_valid_after(now + datetime.timedelta(days=days)).add_extension(x509.BasicConstraints(authority, None), critical=True)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        return key, builder.sign(issuer_key or key, hashes.SHA256())

    def serve(self, name: str, days: int = 1) -> None:
        """Show a certificate from now on."""
        key, leaf = self.certificate(name, self.issuer, self.key, authority=False, days=days)
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (self.folder / "served.pem").write_bytes(pem + leaf.public_bytes(serialization.Encoding.PEM))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.folder / "served.pem")

    def trust(self, certificate) -> None:
        (self.folder / "chain.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def app(self, **wanted) -> dict:
        probe = {"domain": "notes.test", "health": "/up", "paths": ["/", "/login/"], "timeout": 10, "guarded": False} | wanted
        return {"root": "/srv/notes", "run": str(self.folder), "certificate": str(self.folder), "probe": probe}


@pytest.fixture
def site(tmp_path, monkeypatch, clock):
    found = Site(tmp_path, monkeypatch)
    found.trust(found.issuer)
    yield found
    found.server.shutdown()
    found.server.server_close()


def test_the_public_site_is_asked_as_a_visitor_would(program, site) -> None:
    program.probe(site.app(), "")
    # The health page is for the gunicorn socket only.
    assert [path for path, _ in site.asked] == ["/", "/login/"]
    assert set(site.connected) == {("127.0.0.1", 443)}
    for _, headers in site.asked:
        assert headers["host"] == "notes.test"
        assert not [name for name in headers if name.startswith("x-")], "what nginx sets is for nginx to set"


def test_a_redirection_is_told_with_where_it_leads(program, site) -> None:
    site.status = 302
    assert program.ask(site.app(), "", "/", 5) == (302, "302 to /login/")


def test_a_public_site_that_is_an_error_is_refused_soon(program, site, clock) -> None:
    site.status = 502
    began = clock.now
    with pytest.raises(program.Refused, match="^https://notes.test/ answered 502$"):
        program.probe(site.app(timeout=60), "")
    assert 4 < clock.now - began < 15


def test_a_public_site_that_is_gone_is_refused_soon(program, site, clock) -> None:
    site.server.shutdown()
    site.server.server_close()
    began = clock.now
    with pytest.raises(program.Refused, match="^https://notes.test/ answered nothing$"):
        program.probe(site.app(timeout=60), "")
    assert 4 < clock.now - began < 15


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda site: None, (200, "200"), id="the issuer's intermediate"),
        pytest.param(lambda site: site.trust(site.certificate("issuer")[1]), (0, "no proper certificate"), id="another issuer of that name"),
        pytest.param(lambda site: site.serve("else.test"), (0, "no proper certificate"), id="another name"),
        pytest.param(lambda site: site.serve("notes.test", days=-1), (0, "no proper certificate"), id="expired"),
        pytest.param(lambda site: (site.folder / "chain.pem").unlink(), (0, "nothing, there is no certificate"), id="none yet"),
        pytest.param(lambda site: (site.folder / "chain.pem").write_text("no chain\n"), (0, "no proper certificate"), id="an unreadable one"),
    ],
)
def test_nothing_is_trusted_but_the_chain_that_the_host_keeps(program, site, change, said) -> None:
    change(site)
    status, text = program.ask(site.app(), "", "/", 5)
    assert (status, text.partition(" (")[0]) == said
    assert bool(site.asked) is (status == 200)


def test_restarts_are_what_systemd_counts(program, tmp_path, monkeypatch) -> None:
    fake = tmp_path / "systemctl"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for out, wanted in (("3", 3), ("", 0)):
        fake.write_text(f'#!/bin/sh\n[ "$*" = "show --property=NRestarts --value notes@green.service" ] && echo {out}\n')
        fake.chmod(0o755)
        assert program.restarts("notes@green.service") == wanted
