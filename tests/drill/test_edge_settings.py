"""What the edge does when it is told more than the demo tells it: a proxy in front, client certificates, reports, limits of bodies.

One converge for all of it, and one back. Attacks come from the stranger, who is the trusted proxy here and speaks for addresses
that nobody has: whatever else on the host bans, bans those.
"""

from __future__ import annotations

import datetime
import json
import re
import secrets
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from edge import Answer, Edge, ask_from, assert_error_page, assert_header_set

BANS = "/var/lib/redoubt/nginx-bans/drill.conf"
POLICY = "Content-Security-Policy-Report-Only"
PLAY = """
- name: Configure the edge alone
  hosts: web
  gather_facts: true
  gather_subset: ["!all", "!min", distribution, virtual, hardware]
  roles:
    - redoubt.django.nginx
"""


class Authority:
    """A CA, and certificates of it as a client has them."""

    def __init__(self, name: str, folder: Path):
        self.key, self.folder, self.name = ec.generate_private_key(ec.SECP256R1()), folder, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self.sign(self.name, self.key.public_key(), 3650, True)
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def sign(self, subject, key, days: int, authority: bool):
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=60)).not_valid_after(now + datetime.timedelta(days=days))
        return builder.add_extension(x509.BasicConstraints(authority, None), True).sign(self.key, hashes.SHA256())

    def client(self, days: int = 30) -> str:
        """A file with a key and its certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.sign(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alice")]), key.public_key(), days, False)
        path = self.folder / f"{secrets.token_hex(8)}.pem"
        path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
                         + certificate.public_bytes(serialization.Encoding.PEM))
        return str(path)


@pytest.fixture(scope="module")
def edge(lab) -> Edge:
    return Edge(lab, lab.web)


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority("Drill CA", tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module", autouse=True)
def told(lab, web, authority, tmp_path_factory):
    """The edge as this drill wants it."""
    play = tmp_path_factory.mktemp("play") / "edge.yml"
    play.write_text(PLAY)
    proxy = lab.vars(lab.stranger)
    values = {
        "nginx_trusted_proxies": [proxy["lab_ipv4"], proxy["lab_ipv6"]],
        "nginx_csp_report_only": True,
        "nginx_body_limits": {"/small/": "20k"},
        "nginx_proxy_timeout": 2,
        "nginx_error_title": "Notes & Co.",
        "nginx_error_contact": "Write to <ops@notes.test>.",
        "nginx_error_texts": {"413": {"title": "Zu groß"}},
        "app_admin_client_ca": authority.pem,
    }
    arguments = [str(play), "--extra-vars", json.dumps(values)]
    foretold = lab.playbook(*arguments, "--check").stdout
    done = lab.playbook(*arguments).stdout
    changed = [re.findall(r"changed=(\d+)", text) for text in (foretold, done)]
    assert changed[0] == changed[1] and changed[0] != ["0"], changed
    assert re.findall(r"changed=(\d+)", lab.playbook(*arguments).stdout) == ["0"]
    try:
        yield
    finally:
        web.run(f"rm -f {BANS}")
        lab.playbook(str(play))
    assert re.findall(r"changed=(\d+)", lab.playbook(str(play)).stdout) == ["0"]
    assert web.run("nginx -t -q").rc == 0


def log(web, mark: str) -> list[dict]:
    """The lines of the access log with a mark in them; nginx writes them up to a second after the answer."""
    deadline = time.monotonic() + 10
    while not (found := web.run(f"tail -n 400 /var/log/nginx/access.log | grep -aF {mark}").stdout) and time.monotonic() < deadline:
        time.sleep(0.1)
    return [json.loads(line) for line in found.splitlines()]


def speak_for(address: str, path: str = "/", **more) -> dict:
    return {"path": path, "headers": {"X-Forwarded-For": address, **more.pop("headers", {})}, **more}


# --- Behind a proxy ---------------------------------------------------------------------------------------------------


def test_the_trusted_are_believed_and_of_a_chain_the_last_stranger_counts(web, stranger, edge) -> None:
    marks = [secrets.token_hex(8) for _ in range(3)]
    chains = ["198.51.100.9", "192.0.2.1, 198.51.100.9", f"192.0.2.1, 198.51.100.9, {edge.lab.vars(edge.lab.stranger)['lab_ipv4']}"]
    ask_from(stranger, edge, [speak_for(chain, f"/{mark}") for chain, mark in zip(chains, marks, strict=True)])
    for mark in marks:
        (line,) = log(web, mark)
        assert (line["client"], line["proxy"]) == ("198.51.100.9", edge.lab.vars(edge.lab.stranger)["lab_ipv4"])


def test_the_trusted_are_believed_over_ipv6_too(web, stranger, edge) -> None:
    mark = secrets.token_hex(8)
    ask_from(stranger, edge, [speak_for("2001:db8:1::9", f"/{mark}")], address=edge.variables["lab_ipv6"])
    assert [line["client"] for line in log(web, mark)] == ["2001:db8:1::9"]


def test_a_strangers_word_on_addresses_counts_nothing(web, edge) -> None:
    mark = secrets.token_hex(8)
    headers = dict.fromkeys(("X-Forwarded-For", "X-Real-IP", "True-Client-IP", "CF-Connecting-IP"), "198.51.100.9")
    edge.ask(f"/{mark}", headers={**headers, "Forwarded": "for=198.51.100.9"})
    (line,) = log(web, mark)
    assert line["client"] == line["proxy"] != "198.51.100.9"


@pytest.mark.parametrize("believed", [True, False])
def test_the_application_is_told_the_same_address(web, stranger, edge, believed) -> None:
    name = edge.variables["app_name"]
    if edge.variables.get("app_guard", "enforce") == "off":
        pytest.skip("the inventory has no guard that would tell")
    since = web.check_output("date +@%s.%6N")
    # Without a token: the guard tells of it, and nobody's password is tried.
    question = speak_for("192.0.2.1, 198.51.100.77", edge.variables["app_login_paths"][0], method="POST", body="username=x")
    answer = ask_from(stranger, edge, [question])[0] if believed else edge.ask(**{**question, "body": b"username=x"})
    assert answer.status == 403
    read = f"journalctl --no-pager -o cat --since={since} _TRANSPORT=journal SYSLOG_IDENTIFIER={name}-security"
    (event,) = [json.loads(line) for line in web.check_output(read).splitlines() if answer.one("X-Request-ID") in line]
    assert (event["ip"] == "198.51.100.77") == believed and event["event"] == "csrf_failed" and event["ip"] != "192.0.2.1"


def test_the_banned_get_no_answer_and_the_proxy_goes_on(web, stranger, edge) -> None:
    web.check_output(f"printf '198.51.100.66/32 1;\\n2001:db8:bad::/64 1;\\nnonsense {{\\n198.51.100.66/32 1;\\n' > {BANS} && systemctl reload nginx")
    mark = secrets.token_hex(8)
    deadline = time.monotonic() + 10
    while ask_from(stranger, edge, [speak_for("198.51.100.66")])[0].status and time.monotonic() < deadline:
        time.sleep(0.2)
    banned = [speak_for(address, f"/static/{mark}") for address in ("198.51.100.66", "2001:db8:bad::1", "2001:db8:bad:0:ffff::2")]
    others = [speak_for(address, "/healthz") for address in ("198.51.100.67", "2001:db8:bad:1::1")]
    answers = ask_from(stranger, edge, banned + others)
    assert [answer.status for answer in answers] == [0, 0, 0, 200, 200]
    assert {line["status"] for line in log(web, mark)} == {"444"}
    assert edge.ask("/healthz").status == 200
    # Certificates are renewed whoever asks for a challenge.
    far = f"import http.client as h; c = h.HTTPConnection(\"{edge.variables['lab_ipv4']}\", 80, timeout=15); "
    far += f"c.request(\"GET\", \"/.well-known/acme-challenge/none\", headers={{\"Host\": \"{edge.canonical}\", \"X-Forwarded-For\": \"198.51.100.66\"}}); print(c.getresponse().status)"
    assert stranger.check_output(f"python3 -c '{far}'") == "404"
    web.check_output(f"rm {BANS} && systemctl reload nginx")
    deadline = time.monotonic() + 10
    while not ask_from(stranger, edge, [speak_for("198.51.100.66")])[0].status and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ask_from(stranger, edge, [speak_for("198.51.100.66", "/healthz")])[0].status == 200


# --- Limits -----------------------------------------------------------------------------------------------------------


def attempts(address: str, number: int, method: str = "POST", path: str = "") -> list[dict]:
    return [speak_for(address.format(count + 1), path, method=method, body="username=x" if method == "POST" else None) for count in range(number)]


def test_logins_are_limited_by_network_and_nothing_else_is(web, stranger, edge, table) -> None:
    login = edge.variables["app_login_paths"][0]
    attack = ask_from(stranger, edge, attempts("2001:db8:2:2::{:x}", 70, path=login))
    statuses = [answer.status for answer in attack]
    refused = [answer for answer in attack if answer.status == 429]
    # The burst and the first one pass; then one a second.
    assert len(statuses) - len(refused) in range(41, 66) and set(statuses) == {403, 429}
    for answer in refused[:2]:
        assert_header_set(answer)
        assert_error_page(answer)
        assert answer.one("Retry-After") == "30" and "Notes &amp; Co." in answer.body.decode() and "&lt;ops@notes.test&gt;" in answer.body.decode()
    (line,) = log(web, refused[0].one("X-Request-ID"))
    assert (line["status"], line["limit"], line["method"], line["client"][:12]) == ("429", "REJECTED", "POST", "2001:db8:2:2")
    bystanders = ask_from(stranger, edge, [
        # The same network may look at the page, and post elsewhere; the next network, and everybody else, may log in.
        *attempts("2001:db8:2:2::1", 30, "GET", login), *attempts("2001:db8:2:2::1", 5, path="/about"),
        *attempts("2001:db8:2:3::1", 5, path=login), *attempts("198.51.100.{}", 30, path=login),
    ])
    assert 429 not in [answer.status for answer in bystanders]
    assert edge.ask(login, method="POST", body=b"username=x").status != 429
    table("edge_limits", {"attack": "login", "from": "one /64", "requests": len(attack), "refused": len(refused), "bystanders": len(bystanders) + 1, "bystanders_refused": 0})


def test_the_other_ways_to_write_a_login_path_are_not_ways_around(stranger, edge) -> None:
    login = edge.variables["app_login_paths"][0]
    ways = [login + "?next=/", login.replace("login", "%6cogin"), "/" + login, "/./" + login.lstrip("/"), login.upper()]
    questions = [question for _ in range(14) for way in ways for question in attempts("198.51.100.200", 1, path=way)]
    assert [answer.status for answer in ask_from(stranger, edge, questions)].count(429) >= 5


# --- An application that is silent ------------------------------------------------------------------------------------

# Takes connections, for the kernel does, and never says a word.
SILENT = "import os, socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); os.chmod(sys.argv[1], 0o666); s.listen(64); time.sleep(120)"


def test_who_waits_too_long_is_told_so(web, edge) -> None:
    run = edge.variables["site_run"]
    live = web.check_output(f"readlink {run}/live.sock")
    web.check_output(f"systemd-run --quiet --collect --unit=silent python3 -c '{SILENT}' {run}/silent.sock && timeout 10 sh -c 'until test -S {run}/silent.sock; do sleep 0.1; done'")
    try:
        web.check_output(f"ln -sfn {run}/silent.sock {run}/live.sock")
        answers = [edge.ask("/"), edge.ask(edge.variables["app_login_paths"][0], method="POST", body=b"a=b")]
        as_json = edge.ask("/", headers={"Accept": "application/json"})
    finally:
        web.check_output(f"ln -sfn {live} {run}/live.sock; systemctl stop silent; rm -f {run}/silent.sock")
    for answer in answers:
        assert (answer.status, answer.one("Retry-After")) == (504, "30")
        assert_header_set(answer)
        assert_error_page(answer)
    assert (as_json.status, json.loads(as_json.body)) == (504, {"status": 504, "request_id": as_json.one("X-Request-ID")})
    (line,) = log(web, as_json.one("X-Request-ID"))
    assert line["status"] == "504" and float(line["seconds"]) >= 2
    assert edge.ask("/").status == 200


# --- Client certificates ----------------------------------------------------------------------------------------------


def ask_with(edge: Edge, certificate: str | None, path: str, method: str = "GET") -> Answer:
    context = edge.context()
    if certificate:
        context.load_cert_chain(certificate)
    # What the server thinks of a certificate comes after the handshake in TLS 1.3.
    return edge.ask(path, method=method, context=context)


def test_the_admin_wants_a_certificate_of_the_ca_and_the_rest_of_the_site_none(edge, authority, tmp_path) -> None:
    admin = edge.variables["app_admin_path"]
    foreign = Authority("Somebody else's CA", tmp_path)
    assert ask_with(edge, authority.client(), admin).status in (200, 302)
    for certificate in (None, foreign.client()):
        for path in (admin, admin.rstrip("/"), admin + "login/"):
            answer = ask_with(edge, certificate, path)
            assert answer.status == 404, (certificate, path)
            assert_error_page(answer)
        assert ask_with(edge, certificate, "/healthz").status == 200
        assert ask_with(edge, certificate, edge.variables["app_login_paths"][0]).status == 200


def test_a_certificate_of_a_ca_that_took_the_same_name_opens_nothing(edge, tmp_path) -> None:
    assert ask_with(edge, Authority("Drill CA", tmp_path).client(), edge.variables["app_admin_path"]).status == 400


def test_a_certificate_that_has_ended_is_refused_with_a_page_that_says_so(edge, authority) -> None:
    answer = ask_with(edge, authority.client(days=-1), edge.variables["app_admin_path"])
    assert answer.status == 400 and b"certificate" in answer.body
    assert_error_page(answer)


# --- Reports on the policy --------------------------------------------------------------------------------------------


def report(secret: str, mark: str, **more) -> bytes:
    return json.dumps({"csp-report": {
        "document-uri": f"https://notes.test/reset/{mark}?token={secret}", "referrer": f"https://elsewhere.test/{secret}",
        "effective-directive": "script-src-elem", "blocked-uri": f"https://evil.test/x.js?{secret}", "source-file": f"https://notes.test/s.js#{secret}",
        "line-number": 17, "script-sample": secret, **more,
    }}).encode()


def test_the_policy_is_tried_and_its_reports_are_one_harmless_line_each(web, edge) -> None:
    page = edge.ask("/about")
    assert page.one(POLICY).endswith("; report-uri /-/csp-report") and not page.all("Content-Security-Policy")
    secret, mark = secrets.token_hex(12), secrets.token_hex(12)
    headers = {"Content-Type": "application/csp-report", "Cookie": f"sessionid={secret}", "Referer": f"https://notes.test/?{secret}"}
    answer = edge.ask("/-/csp-report", method="POST", headers=headers, body=report(secret, mark))
    assert (answer.status, answer.body) == (204, b"")
    assert_header_set(answer, POLICY)
    (line,) = log(web, mark)
    assert {key: value for key, value in line.items() if key.startswith("csp_")} == {
        "csp_document": f"https://notes.test/reset/{mark}", "csp_directive": "script-src-elem", "csp_blocked": "https://evil.test/x.js",
        "csp_source": "https://notes.test/s.js", "csp_line": "17",
    }
    assert list(line)[:5] == ["client", "status", "limit", "method", "time"] and line["status"] == "204"
    assert secret not in web.check_output("tail -n 50 /var/log/nginx/access.log; tail -n 50 /var/log/nginx/refused.log; tail -n 50 /var/log/nginx/error.log")


def test_a_report_cannot_forge_a_line(web, edge) -> None:
    mark = secrets.token_hex(12)
    body = b'{"csp-report":{"document-uri":"' + mark.encode() + b'\n{\x1b[2J\\u0022","effective-directive":"a\x00\xff\x7f","line-number":"; rm"}}'
    assert edge.ask("/-/csp-report", method="POST", body=body).status == 204
    (line,) = log(web, mark)
    assert (line["csp_document"], line["csp_directive"], line["csp_line"]) == (mark, "a", "")


def test_reports_are_limited_in_size_and_number_and_by_method(web, stranger, edge) -> None:
    assert edge.ask("/-/csp-report").status == 405
    large = edge.ask("/-/csp-report", method="POST", body=b"x" * 20000)
    assert large.status == 413
    assert_error_page(large)
    mark = secrets.token_hex(12)
    flood = [speak_for("198.51.100.120", "/-/csp-report", method="POST", body=report("s", mark).decode()) for _ in range(80)]
    assert {answer.status for answer in ask_from(stranger, edge, flood)} == {204}
    # The burst, and what the time of the flood allows; the browser is not told, and nothing that looks like an attack is logged.
    # Each of nginx' processes writes its lines together.
    time.sleep(2)
    lines = log(web, mark)
    assert 30 <= len(lines) < 60 and {line["status"] for line in lines} == {"204"}
    assert "429" not in web.run("tail -n 80 /var/log/nginx/access.log /var/log/nginx/refused.log | grep -F 198.51.100.120 | grep -Fo '\"status\":\"429\"'").stdout


# --- Bodies and pages -------------------------------------------------------------------------------------------------


def test_bodies_have_their_own_limit_below_a_path(edge) -> None:
    body = b"x" * 30000
    refused = edge.ask("/small/upload", method="POST", body=body)
    assert refused.status == 413 and "<h1>Zu groß</h1>" in refused.body.decode() and b"larger than this page takes" in refused.body
    assert_error_page(refused)
    assert_header_set(refused)
    assert edge.ask("/small/upload", method="POST", body=b"x" * 15000).status in (403, 404)
    assert edge.ask("/about", method="POST", body=body).status != 413


# --- Networks that the admin is for -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow(lab, tmp_path_factory, told):
    """The admin is for the stranger's addresses alone, and nothing else is asked. Put back by what `told` ends with: last."""
    play = tmp_path_factory.mktemp("play") / "edge.yml"
    play.write_text(PLAY)
    there = lab.vars(lab.stranger)
    lab.playbook(str(play), "--extra-vars", json.dumps({"app_admin_allow": [there["lab_ipv4"] + "/32", there["lab_ipv6"] + "/128"]}))


@pytest.mark.once
@pytest.mark.parametrize("family", ["lab_ipv4", "lab_ipv6"])
def test_the_admin_is_not_there_but_for_whom_it_is_meant(narrow, web, stranger, edge, family) -> None:
    admin, login, server = edge.variables["app_admin_path"], edge.variables["app_login_paths"][0], edge.variables[family]
    ways = [admin, admin.rstrip("/"), admin + "login/", admin + "login/?next=/", "/x/.." + admin, "/" + admin, "/%61" + admin[2:], admin + "nothing/",
            admin + "../", admin + "%2e%2E/", admin + "..%2f"]
    lies = {name: edge.lab.vars(edge.lab.stranger)[family] for name in ("X-Forwarded-For", "X-Real-IP")}
    questions = [{"path": way, "headers": lies} for way in ways] + [{"path": admin + "login/", "method": "POST", "body": "a=b"}]
    for question, answer in zip(questions, ask_from(web, edge, questions, server), strict=True):
        assert answer.status == 404, question
        assert_error_page(answer)
        assert_header_set(answer)
    assert [answer.status for answer in ask_from(web, edge, [{"path": "/healthz"}, {"path": login}], server)] == [200, 200]
    inside = ask_from(stranger, edge, [{"path": admin}, {"path": admin.rstrip("/")}, {"path": admin + "login/"}, {"path": login}], server)
    assert [answer.status for answer in inside] == [302, 301, 200, 200]
