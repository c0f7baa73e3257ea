"""The edge, as a stranger meets it, and the sandbox that nginx runs in. Reads only."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import secrets
import ssl
import warnings

import pytest
from edge import Answer, Edge

pytestmark = pytest.mark.hosts("web")

HEADERS = {
    "Strict-Transport-Security",
    "Content-Security-Policy",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "Referrer-Policy",
    "Permissions-Policy",
    "Cross-Origin-Opener-Policy",
    "Cross-Origin-Resource-Policy",
    "X-Request-ID",
}
# NET_BIND_SERVICE, SETUID, SETGID, CHOWN, DAC_OVERRIDE
CAPABILITIES = 1 << 10 | 1 << 7 | 1 << 6 | 1 << 0 | 1 << 1


@pytest.fixture(scope="module")
def edge(lab, host) -> Edge:
    return Edge(lab, host.lab["inventory_hostname"])


@pytest.fixture(scope="module")
def newer(host) -> bool:
    """Debian 13's nginx 1.26 and OpenSSL 3.5, or later ones."""
    return int(host.check_output(". /etc/os-release; echo $VERSION_ID")) >= 13


@pytest.fixture(scope="module")
def master(host) -> int:
    return int(host.check_output("systemctl show --property=MainPID --value nginx.service"))


@pytest.fixture(scope="module")
def static(host) -> str:
    """Address of a static file of the live release."""
    folder = host.lab["site_live_release"] + "/static"
    found = host.run(f"cd {folder} && find -L . -type f -name '*.css' | sort | head -n 1").stdout.strip()
    if not found:
        pytest.skip("the release has no static files below app_static_root")
    return "/static/" + found.removeprefix("./")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_modern_tls_is_spoken(edge: Edge, version: ssl.TLSVersion) -> None:
    with edge.tls(edge.canonical, edge.context(version, version)) as connection:
        assert connection.version() == version.name.replace("_", ".")


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_old_tls_is_refused_by_the_server(edge: Edge, version: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old = ssl.TLSVersion[version]
    with pytest.raises(ssl.SSLError) as caught:
        edge.tls(edge.canonical, edge.context(old, old)).close()
    assert caught.value.reason == "TLSV1_ALERT_PROTOCOL_VERSION"


@pytest.mark.parametrize("cipher", ["AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA", "DHE-RSA-AES128-GCM-SHA256"])
def test_weak_ciphers_are_refused_by_the_server(edge: Edge, cipher: str) -> None:
    context = edge.context(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2)
    context.set_ciphers(f"{cipher}:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError) as caught:
        edge.tls(edge.canonical, context).close()
    assert caught.value.reason == "SSLV3_ALERT_HANDSHAKE_FAILURE"


@pytest.mark.parametrize("name", ["stranger.invalid", None], ids=["unknown name", "bare address"])
def test_unknown_names_see_no_certificate(edge: Edge, name: str | None) -> None:
    context = edge.context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with pytest.raises(ssl.SSLError) as caught:
        edge.tls(name, context).close()
    assert caught.value.reason == "TLSV1_UNRECOGNIZED_NAME"


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_unknown_host_headers_get_no_answer(edge: Edge, scheme: str) -> None:
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        edge.ask("/", scheme=scheme, host="stranger.invalid")


def test_http_to_the_bare_address_gets_no_answer(edge: Edge) -> None:
    with edge.plain() as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(100) == b""


def test_http_2_is_offered(edge: Edge) -> None:
    context = edge.context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with edge.tls(edge.canonical, context) as connection:
        assert connection.selected_alpn_protocol() == "h2"


def test_key_exchange_is_the_best_of_the_release(host, edge: Edge, newer: bool) -> None:
    group = "X25519MLKEM768" if newer else "X25519"
    said = host.run(f"openssl s_client -connect 127.0.0.1:443 -servername {edge.canonical} -groups {group} </dev/null")
    expected = "Negotiated TLS1.3 group: X25519MLKEM768" if newer else "Server Temp Key: X25519"
    assert expected in said.stdout, said.stdout + said.stderr


def test_sessions_are_not_kept_in_tickets(edge: Edge) -> None:
    with edge.tls(edge.canonical, edge.context(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2)) as connection:
        assert connection.session is not None
        assert not connection.session.has_ticket


def assert_header_set(answer: Answer, policy: str = "Content-Security-Policy") -> None:
    for header in HEADERS - {"Content-Security-Policy"} | {policy}:
        answer.one(header)
    assert answer.one("X-Content-Type-Options") == "nosniff"
    assert "max-age=" in answer.one("Strict-Transport-Security")
    assert answer.one("Server") == "nginx", "the version is nobody's business"
    assert not answer.all("X-Powered-By")


@pytest.fixture(scope="module")
def policy(host) -> str:
    return "Content-Security-Policy" + ("-Report-Only" if host.lab.get("nginx_csp_report_only") else "")


@pytest.mark.parametrize("path", ["/", "/static/there-is-no-such-file.css", "/media/there-is-no-such-file.png", "/no/such/page"])
def test_headers_are_there_exactly_once(edge: Edge, policy: str, path: str) -> None:
    media = path.startswith("/media/") and not edge.variables.get("app_media_private")
    assert_header_set(edge.ask(path), "Content-Security-Policy" if media else policy)


def test_headers_of_a_static_file(edge: Edge, policy: str, static: str) -> None:
    answer = edge.ask(static)
    assert answer.status == 200
    assert_header_set(answer, policy)
    assert answer.one("Content-Type") == "text/css"
    again = edge.ask(static, headers={"If-None-Match": answer.one("ETag")})
    assert again.status == 304
    assert_header_set(again, policy)


def test_static_files_are_cached_as_their_names_allow(edge: Edge, static: str) -> None:
    hashed = any(len(part) in (12, 20, 32) and set(part) <= set("0123456789abcdef") for part in static.split("."))
    assert edge.ask(static).one("Cache-Control") == ("public, max-age=31536000, immutable" if hashed else "no-cache")


def test_bodies_over_the_limit_are_refused(edge: Edge, policy: str) -> None:
    answer = edge.ask("/", method="POST", headers={"Content-Length": str(1 << 40)})
    assert answer.status == 413
    assert_header_set(answer, policy)


def test_http_leads_to_https(edge: Edge) -> None:
    for name in edge.domains:
        answer = edge.ask("/some/page?with=query", name=name, scheme="http")
        assert answer.status == 301
        assert answer.one("Location") == f"https://{edge.canonical}/some/page?with=query"
        assert not answer.all("Strict-Transport-Security")
        answer.one("X-Content-Type-Options")


def test_other_domains_lead_to_the_canonical_one(edge: Edge, policy: str) -> None:
    if len(edge.domains) == 1:
        pytest.skip("there is one domain only")
    for name in edge.domains[1:]:
        answer = edge.ask("/some/page?with=query", name=name)
        assert answer.status == 301
        assert answer.one("Location") == f"https://{edge.canonical}/some/page?with=query"
        assert_header_set(answer, policy)


def test_challenges_are_answered_over_http_and_nothing_beside_them(edge: Edge) -> None:
    assert edge.ask("/.well-known/acme-challenge/there-is-none", scheme="http").status == 404
    assert edge.ask("/.well-known/acme-challenge/../../etc/passwd", scheme="http").status in (301, 400)


@pytest.mark.parametrize(
    "path",
    [
        "/static../manifest.json",
        "/static/../manifest.json",
        "/static/%2e%2e/manifest.json",
        "/static/..%2fmanifest.json",
        "/static/%2e%2e%2fmanifest.json",
        "/static//../manifest.json",
        "/static/..;/manifest.json",
        "/media../data/",
        "/media/..%2f..%2f..%2fetc%2fpasswd",
        "/media/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/static/.git/config",
        "/static/.env",
    ],
)
def test_paths_do_not_lead_out_of_static_and_media(edge: Edge, path: str) -> None:
    answer = edge.ask(path)
    assert answer.status in (400, 403, 404), f"{answer.status}: {answer.body[:200]!r}"


def test_the_internal_media_location_is_internal(edge: Edge) -> None:
    assert edge.ask("/-/media/anything.png").status == 404


def test_the_log_knows_no_query_string(host, edge: Edge) -> None:
    secret, page = secrets.token_hex(12), secrets.token_hex(12)
    edge.ask(f"/{page}?token={secret}", headers={"Referer": f"https://{edge.canonical}/reset?token={secret}"})
    log = host.check_output("tail -n 200 /var/log/nginx/access.log")
    assert page in log
    assert secret not in log


def test_a_line_of_the_log_begins_with_what_no_visitor_chooses(host, edge: Edge) -> None:
    """Whoever bans by this log reads the beginning of a line; all of it is JSON, whatever was sent."""
    mark = secrets.token_hex(12)
    forged = '","status":"429","client":"192.0.2.1'
    edge.ask(f"/{mark}{forged}\x7f%0a%22", headers={"User-Agent": forged + "\x1b[2J\\", "Referer": forged})
    lines = [line for line in host.check_output("tail -n 200 /var/log/nginx/access.log").splitlines() if mark in line]
    assert len(lines) == 1
    beginning = re.compile(r'{"client":"([0-9a-f.:]+)","status":"(\d{3})","limit":"[A-Z_]*","method":"GET","time":"[^"]+","id":"[0-9a-f]{32}","host":"')
    found = beginning.match(lines[0])
    assert found and found[1] != "192.0.2.1" and found[2] != "429", lines[0]
    line = json.loads(lines[0])
    assert (line["client"], line["status"]) == found.groups()
    assert line["tls"].startswith("TLSv1") and "upstream_header_time" not in line and line["header_seconds"]


def test_the_configuration_is_valid_and_without_warnings(host) -> None:
    said = host.run("nginx -t -q")
    assert (said.rc, said.stderr) == (0, "")


def test_the_service_runs_and_starts_at_boot(host) -> None:
    nginx = host.service("nginx")
    assert nginx.is_running
    assert nginx.is_enabled


def test_the_running_process_is_in_its_sandbox(host, master: int) -> None:
    status = dict(line.split(":\t", 1) for line in host.file(f"/proc/{master}/status").content_string.splitlines())
    assert int(status["CapBnd"], 16) == CAPABILITIES
    assert int(status["CapEff"], 16) == CAPABILITIES
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"

    def writable(path: str) -> bool:
        return host.run(f"nsenter --mount --target {master} -- test -w {path}").rc == 0

    assert writable("/var/log/nginx")
    for path in ("/etc/nginx", "/usr", "/srv", "/var/lib", "/etc/letsencrypt"):
        assert not writable(path), f"nginx could write to {path}"
    assert host.run(f"nsenter --mount --target {master} -- ls -A /root /home").stdout.split() == ["/home:", "/root:"]


def test_the_workers_are_nobody_special(host, master: int) -> None:
    workers = host.check_output(f"ps --ppid {master} -o user=,args=").splitlines()
    assert workers
    assert {line.split()[0] for line in workers} == {"www-data"}


def test_the_exposure_is_low(host) -> None:
    said = host.check_output("systemd-analyze security --no-pager nginx.service").splitlines()[-1]
    assert float(said.split(":")[1].split()[0]) <= 2.6, said


def test_logs_are_rotated_and_not_public(host) -> None:
    assert host.file("/usr/sbin/logrotate").exists
    for name in ("access.log", "error.log"):
        log = host.file(f"/var/log/nginx/{name}")
        assert (log.user, log.group, oct(log.mode)) == ("www-data", "adm", "0o640")
