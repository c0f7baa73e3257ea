"""The edge, as a stranger meets it, and the sandbox that nginx runs in. Reads only."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import secrets
import ssl
import subprocess
import time
import urllib.parse
import warnings

import pytest
from edge import Edge, assert_error_page, assert_header_set

pytestmark = pytest.mark.hosts("web")

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


@pytest.mark.parametrize("said", [b"GET / HTTP/1.0\r\n\r\n", b"GARBAGE\r\n\r\n", b"GET / HTTP/9.1\r\n\r\n", b"GET /% HTTP/1.1\r\nHost: x\r\n\r\n"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_names_no_site_gets_no_answer(edge: Edge, scheme: str, said: bytes) -> None:
    """Over the bare address, and on the TLS port without TLS."""
    with edge.plain(scheme) as connection:
        connection.sendall(said)
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


@pytest.fixture(scope="module")
def policy(host) -> str:
    return "Content-Security-Policy" + ("-Report-Only" if host.lab.get("nginx_csp_report_only") else "")


# Every location, and every status that a visitor can bring about without changing anything (tests/drill/test_edge_*.py
# have the others): what is asked, the statuses it may have, and whose page it is.
OWN = "own error page"
MATRIX = [
    ("application 200", {"path": "/"}, (200, 301, 302), None),
    ("application 404", {"path": "/no/such/page"}, (404,), "not ours"),
    ("application 413", {"path": "/", "method": "POST", "headers": {"Content-Length": str(1 << 40)}}, (413,), OWN),
    ("application 400", {"path": "/%"}, (400,), OWN),
    ("application 414", {"path": "/" + "a" * 20000}, (414,), OWN),
    ("application 431", {"path": "/", "headers": {"Cookie": "a" * 40000}}, (431,), OWN),
    ("admin", {"path": "{admin}"}, (200, 302, 404), None),
    ("health 404", {"path": "/-/health"}, (404,), OWN),
    ("nothing to see 404", {"path": "/-/error"}, (404,), None),
    ("static 200", {"path": "{static}"}, (200,), None),
    ("static 304", {"path": "{static}", "headers": {"If-None-Match": "{etag}"}}, (304,), None),
    ("static 403", {"path": "/static/"}, (403,), OWN),
    ("static 404", {"path": "/static/there-is-no-such-file.css"}, (404,), OWN),
    ("static 405", {"path": "{static}", "method": "POST"}, (405,), OWN),
    ("static 416", {"path": "{static}", "headers": {"Range": "bytes=999999999-"}}, (416,), "not ours"),
    ("media 404", {"path": "{media}there-is-no-such-file.png"}, (404,), "media"),
    ("media 403", {"path": "{media}"}, (403, 404), "media"),
    ("domain 301", {"path": "/x?y=z", "name": "{other}"}, (301,), None),
    ("domain 400", {"path": "/%", "name": "{other}"}, (400,), OWN),
    ("http 301", {"path": "/x?y=z", "scheme": "http"}, (301,), None),
    ("http 431", {"path": "/", "scheme": "http", "headers": {"Cookie": "a" * 40000}}, (431,), OWN),
    ("challenge 404", {"path": "/.well-known/acme-challenge/there-is-none", "scheme": "http"}, (404,), OWN),
    ("challenge 403", {"path": "/.well-known/acme-challenge/", "scheme": "http"}, (403,), OWN),
]


@pytest.mark.parametrize(("request_", "statuses", "page"), [case[1:] for case in MATRIX], ids=[case[0] for case in MATRIX])
def test_headers_are_there_exactly_once(request, host, edge: Edge, policy: str, request_: dict, statuses: tuple, page: str | None) -> None:
    given = dict(request_)
    if given.get("name") == "{other}":
        if len(edge.domains) == 1:
            pytest.skip("there is one domain only")
        given["name"] = edge.domains[1]
    if given["path"] == "{admin}":
        given["path"] = edge.variables["app_admin_path"] or pytest.skip("there is no admin")
    if given["path"] == "/.well-known/acme-challenge/" and len(edge.variables["site_web_hosts"]) > 1:
        # Each asks the others for what it does not have, and none of them has it.
        statuses = (404,)
    if given["path"].startswith("{media}"):
        served = edge.variables["app_media"] or pytest.skip("no uploads are served")
        given["path"] = given["path"].replace("{media}", served[0]["url"])
    if given["path"] == "/-/health" and (edge.variables["app_health_public"] or edge.variables["app_guard"] == "off"):
        page = None
        statuses = (200, 404)
    if given["path"] == "{static}":
        given["path"] = request.getfixturevalue("static")
        if "{etag}" in given.get("headers", {}).values():
            given["headers"] = {**given["headers"], "If-None-Match": edge.ask(given["path"]).one("ETag")}
    answer = edge.ask(**given)
    assert answer.status in statuses
    if page == "media":
        page = OWN if not edge.variables.get("app_media_private") else "not ours"
    assert_header_set(answer, "Content-Security-Policy" if page == OWN else policy, secure=given.get("scheme") != "http")
    if page == OWN:
        assert_error_page(answer)
    elif page == "not ours":
        assert b"<style nonce=" not in answer.body


def test_programs_get_errors_as_json(edge: Edge) -> None:
    answer = edge.ask("/static/there-is-no-such-file.css", headers={"Accept": "application/json"})
    assert (answer.status, answer.one("Content-Type")) == (404, "application/json")
    assert json.loads(answer.body) == {"status": 404, "request_id": answer.one("X-Request-ID")}
    assert_header_set(answer)
    # A browser names JSON nowhere, or not first.
    assert_error_page(edge.ask("/static/there-is-no-such-file.css", headers={"Accept": "text/html,application/xhtml+xml,application/json;q=0.9"}))


def test_an_error_page_repeats_nothing_of_the_request(edge: Edge) -> None:
    answer = edge.ask("/static/<script>alert(1)</script>.css?<img>", headers={"Referer": "https://<b>/", "User-Agent": "<i>"})
    assert answer.status == 404
    assert_error_page(answer)
    assert not any(word in answer.body for word in (b"alert", b"<img", b"<b>", b"<i>"))


def test_the_error_page_is_in_the_log_by_its_request(host, edge: Edge) -> None:
    answer = edge.ask("/", method="POST", headers={"Content-Length": str(1 << 40)})
    (line,) = logged(host, answer.one("X-Request-ID"))
    assert (json.loads(line)["status"], json.loads(line)["method"]) == ("413", "POST")


def test_nobody_can_ask_for_an_error_page(edge: Edge) -> None:
    for path in ("/-/error", "/@redoubt_error", "/-/csp-report/nowhere"):
        assert edge.ask(path).status == 404


def test_static_files_are_cached_as_their_names_allow(edge: Edge, static: str) -> None:
    hashed = any(len(part) in (12, 20, 32) and set(part) <= set("0123456789abcdef") for part in static.split("."))
    assert edge.ask(static).one("Cache-Control") == ("public, max-age=31536000, immutable" if hashed else "no-cache")


def test_http_leads_to_https(edge: Edge) -> None:
    for name in edge.domains:
        answer = edge.ask("/some/page?with=query", name=name, scheme="http")
        assert answer.status == 301
        assert answer.one("Location") == f"https://{edge.canonical}/some/page?with=query"


def test_other_domains_lead_to_the_canonical_one(edge: Edge) -> None:
    if len(edge.domains) == 1:
        pytest.skip("there is one domain only")
    for name in edge.domains[1:]:
        answer = edge.ask("/some/page?with=query", name=name)
        assert answer.status == 301
        assert answer.one("Location") == f"https://{edge.canonical}/some/page?with=query"


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


def logged(host, mark: str) -> list[str]:
    """The lines of the access log with a mark in them: nginx writes them up to a second later."""
    deadline = time.monotonic() + 10
    while not (found := host.run(f"tail -n 2000 /var/log/nginx/access.log | grep -aF {mark}").stdout.splitlines()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def test_what_is_refused_is_in_the_jails_log_when_it_is_answered(host, edge: Edge) -> None:
    mark = secrets.token_hex(12)
    served = edge.ask(f"/?{mark}").one("X-Request-ID")
    refused = edge.ask(f"/{mark}").one("X-Request-ID")
    log = host.check_output("tail -n 2000 /var/log/nginx/refused.log")
    assert log.count(refused) == 1 and served not in log
    assert [line for line in log.splitlines() if refused in line] == logged(host, refused)


def test_the_log_knows_no_query_string(host, edge: Edge) -> None:
    secret, page = secrets.token_hex(12), secrets.token_hex(12)
    edge.ask(f"/{page}?token={secret}", headers={"Referer": f"https://{edge.canonical}/reset?token={secret}"})
    assert logged(host, page)
    assert secret not in host.check_output("tail -n 200 /var/log/nginx/access.log /var/log/nginx/refused.log")


def test_a_line_of_the_log_begins_with_what_no_visitor_chooses(host, edge: Edge) -> None:
    """Whoever bans by this log reads the beginning of a line; all of it is JSON, whatever was sent."""
    mark = secrets.token_hex(12)
    forged = '","status":"429","client":"192.0.2.1'
    edge.ask(f"/{mark}{forged}%0a%22", headers={"User-Agent": forged + "\x1b[2J\\", "Referer": forged})
    lines = logged(host, mark)
    assert len(lines) == 1
    beginning = re.compile(r'{"client":"([0-9a-f.:]+)","status":"(\d{3})","limit":"[A-Z_]*","method":"GET","time":"[^"]+","id":"[0-9a-f]{32}","host":"')
    found = beginning.match(lines[0])
    assert found and found[1] != "192.0.2.1" and found[2] != "429", lines[0]
    line = json.loads(lines[0])
    assert (line["client"], line["status"]) == found.groups()
    assert line["tls"].startswith("TLSv1") and "upstream_header_time" not in line and line["header_seconds"]


def test_a_strangers_word_on_addresses_counts_nothing(host, edge: Edge) -> None:
    mark = secrets.token_hex(12)
    edge.ask(f"/{mark}", headers=dict.fromkeys(("X-Forwarded-For", "X-Real-IP", "True-Client-IP", "Forwarded"), "192.0.2.1"))
    line = json.loads(*logged(host, mark))
    assert line["client"] != "192.0.2.1"


def test_a_client_certificate_of_somebody_else_ends_no_request(edge: Edge, tmp_path) -> None:
    context = edge.context()
    pem = tmp_path / "client.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=stranger -keyout - -out -"
    pem.write_text(subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout)
    context.load_cert_chain(pem)
    assert edge.ask("/no/such/page", context=context).status == 404


def test_every_login_path_has_its_limit(host) -> None:
    said = host.check_output("nginx -T 2>/dev/null")
    assert "limit_req zone=redoubt_login " in said and "limit_conn redoubt_connections " in said
    for path in host.lab["app_login_paths"]:
        assert f'"POST:{urllib.parse.unquote(path)}" $redoubt_client;' in said


def test_the_admin_is_for_the_networks_that_the_inventory_names(host) -> None:
    networks = host.lab["app_admin_allow"] if host.lab["app_admin_path"] else []
    told = re.findall(r"geo \$redoubt_admin_allowed \{\s*default 0;([^}]*)\}", host.check_output("nginx -T 2>/dev/null"))
    assert [line.split() for block in told for line in block.splitlines() if line.strip()] == [[f'"{network}"', "1;"] for network in networks]


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
    for name in ("access.log", "refused.log", "error.log"):
        log = host.file(f"/var/log/nginx/{name}")
        assert (log.user, log.group, oct(log.mode)) == ("www-data", "adm", "0o640")
