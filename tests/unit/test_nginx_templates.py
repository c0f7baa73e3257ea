"""The nginx role's templates, rendered with Ansible's own templar for several contracts, and read as nginx reads them."""

from __future__ import annotations

import functools
import ipaddress
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "roles/nginx"
TEMPLATES = ROLE / "templates"

PLAIN = {"app_name": "notes", "app_domains": ["notes.example"]}
FULL = {
    "app_name": "notes",
    "app_domains": ["notes.example", "www.notes.example", "old.example"],
    "app_admin_path": "/back office/",
    "app_admin_allow": ["192.0.2.0/24", "2001:db8::/32"],
    "app_admin_client_ca": "-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n",
    "app_media_private": True,
    "app_static": [
        {"url": "/static/", "path": "/srv/notes/static"},
        {"url": "/assets/", "path": "front end/dist/"},
        {"url": "/docs/", "path": "."},
        {"url": "/shared/", "path": "/srv/shared/docs/"},
    ],
    "app_media": [{"url": "/media/", "path": "/srv/notes/media"}, {"url": "/avatars/", "path": "/srv/notes/data/avatars"}],
    "app_routes": {"/ws/": {"process": "asgi", "websocket": True}, "/events/": {"process": "asgi"}, "/graph/": {"process": "graph"}},
    "app_max_body_size": "25m",
    "nginx_hsts_subdomains": True,
    "nginx_csp_report_only": True,
    "nginx_referrer_policy": "",
    "app_login_paths": ["/de/login/", "/back office/login/"],
    "nginx_trusted_proxies": ["203.0.113.0/24", "2001:db8:ffff::/48"],
    "nginx_body_limits": {"/upload/": "1g", "/back office/import/": "2g", "/ws/": "1k", "/graph/files/": "3g"},
    "nginx_error_contact": "Don't <panic>; write to \"ops\" \\o/",
    "nginx_error_texts": {"404": {"title": "Weg {'}"}},
}


@dataclass
class Directive:
    """One directive, with what is in its block."""

    words: list[str]
    block: list[Directive] = field(default_factory=list)

    def walk(self) -> Iterator[Directive]:
        yield self
        for child in self.block:
            yield from child.walk()

    def all(self, name: str) -> list[Directive]:
        return [child for child in self.block if child.words[0] == name]

    def one(self, name: str) -> list[str]:
        (found,) = self.all(name)
        return found.words[1:]

    def location(self, *words: str) -> Directive:
        (found,) = [child for child in self.all("location") if child.words[1:] == list(words)]
        return found


def parse(text: str) -> Directive:
    """Read a configuration as nginx's own lexer does: words, quotes with backslashes, comments, semicolons and blocks."""
    stack, words = [Directive(["main"])], []
    pattern = re.compile(r"""\s+|\#[^\n]*|"((?:\\.|[^"\\])*)"|'((?:\\.|[^'\\])*)'|([;{}])|((?:\\.|\$\{[^}]*\}|[^\s;{}"'\\#])[^\s;{}]*)""", re.DOTALL)
    position = 0
    while position < len(text):
        match = pattern.match(text, position)
        assert match, f"not nginx: {text[position : position + 60]!r}"
        position = match.end()
        double, single, mark, bare = match.groups()
        if mark == ";":
            assert words, "an empty directive"
            stack[-1].block.append(Directive(words))
            words = []
        elif mark == "{":
            block = Directive(words)
            stack[-1].block.append(block)
            stack.append(block)
            words = []
        elif mark == "}":
            assert not words, f"no semicolon after {words}"
            stack.pop()
        elif match.group().strip() and not match.group().startswith("#"):
            quoted = double if double is not None else single
            words.append(bare if quoted is None else re.sub(r'\\(["\\])', r"\1", quoted))
    assert len(stack) == 1 and not words, "a block that is not closed"
    return stack[0]


class Rendered:
    """Every file that the role installs for one contract."""

    def __init__(self, contract: dict, release: int = 13, tls: bool = True):
        loader = templating()
        values: dict = {}
        for source in ("roles/site/defaults/main.yml", "roles/nginx/defaults/main.yml", "roles/nginx/vars/main.yml"):
            values |= loader.load_from_file(str(ROOT / source), trusted_as_template=True)
        values |= {"inventory_hostname": "app1", "groups": {"all": ["app1"], "web": ["app1"], "db": ["app1"]}, "hostvars": {}, **contract}
        values |= {"ansible_facts": {"distribution_major_version": str(release)}, "ansible_managed": "Ansible managed", "__nginx_tls": tls}
        self.loader, self.values = loader, values

    def text(self, path: str, **more: object) -> str:
        template = trust_as_template((TEMPLATES / path).read_text())
        templar = Templar(loader=self.loader, variables={**self.values, **more})
        options = {"trim_blocks": True, "lstrip_blocks": False, "newline_sequence": "\n"}
        return str(templar.template(template, escape_backslashes=False, overrides=options))

    def conf(self, path: str, **more: object) -> Directive:
        return parse(self.text(f"etc/nginx/{path}" if not path.startswith("_") else path, **more))

    def headers(self, kind: str) -> Directive:
        return self.conf("_each/headers.conf", kind=kind)

    def every(self) -> dict[str, Directive]:
        found = {str(path.relative_to(TEMPLATES)): None for path in TEMPLATES.glob("etc/nginx/**/*.conf")}
        confs = {path: parse(self.text(path)) for path in found}
        return confs | {f"headers-{kind}": self.headers(kind) for kind in ("app", "own", "media", "error")}


@functools.cache
def templating() -> DataLoader:
    init_plugin_loader([str(ROOT / "collections")])
    return DataLoader()


def servers(conf: Directive) -> dict[str, Directive]:
    return {" ".join(server.one("server_name")): server for server in conf.all("server")}


@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize("release", [12, 13, 14])
@pytest.mark.parametrize("contract", [PLAIN, FULL], ids=["plain", "full"])
def test_everything_renders_to_something_nginx_can_read(contract, release, tls):
    for path, conf in Rendered(contract, release, tls).every().items():
        for directive in conf.walk():
            for word in directive.words:
                assert not re.search(r"\b(None|True|False)\b(?!-)|[{}]{2}", word), f"{path}: {directive.words}"


@pytest.mark.parametrize("contract", [PLAIN, FULL], ids=["plain", "full"])
def test_whoever_adds_a_header_includes_all_of_them(contract):
    for path, conf in Rendered(contract).every().items():
        if path.startswith("headers-"):
            continue
        for block in conf.walk():
            if block.all("add_header") and block.words != ["location", "@redoubt_no_such_part"]:
                assert any("snippets/headers-" in include.words[1] for include in block.all("include")), f"{path}: {block.words}"
        for server in conf.all("server"):
            if "return" in [child.words[0] for child in server.block] and server.all("return")[0].words[1] == "444":
                continue
            assert any("snippets/headers-" in include.words[1] for include in server.all("include")), f"{path}: {server.words}"


def test_no_header_is_added_twice_and_empty_ones_are_left_out():
    rendered = Rendered(FULL)
    for kind in ("app", "own", "media", "error"):
        names = [directive.words[1] for directive in rendered.headers(kind).all("add_header")]
        assert len(names) == len(set(names)), kind
        assert "Content-Security-Policy-Report-Only" in names or kind in ("media", "error")
        assert "Referrer-Policy" not in names or kind == "app"
    maps = {directive.words[2]: directive for directive in rendered.conf("conf.d/headers.conf").all("map")}
    assert maps["$redoubt_referrer_policy"].block[0].words == ["", ""]
    assert maps["$redoubt_hsts"].one("on") == ["max-age=63072000; includeSubDomains"]


def test_the_applications_headers_win():
    """What Django sets by itself must come from a map over the upstream's header, or be hidden before it is set again."""
    rendered = Rendered(PLAIN)
    maps = {directive.words[2]: directive.words[1] for directive in rendered.conf("conf.d/headers.conf").all("map")}
    hidden = {directive.words[1] for directive in rendered.conf("snippets/proxy.conf").all("proxy_hide_header")}
    for directive in rendered.headers("app").all("add_header"):
        name, value = directive.words[1:3]
        assert name in hidden or name.lower().replace("-", "_") in maps.get(value, ""), name


def test_the_policy_takes_its_frame_ancestors_from_x_frame_options_unless_it_has_its_own():
    def policy(**knobs):
        maps = {directive.words[2]: directive for directive in Rendered(PLAIN | knobs).conf("conf.d/headers.conf").all("map")}
        return maps["$redoubt_csp"].block[0].words[1], maps["$redoubt_frame_ancestors"].block[0].words[1]

    assert policy()[0].endswith("; frame-ancestors $redoubt_frame_ancestors")
    assert policy()[1] == "'none'"
    assert policy(nginx_frame_options="SAMEORIGIN")[1] == "'self'"
    assert policy(nginx_csp="default-src 'self'; frame-ancestors https://a.example;")[0].endswith("frame-ancestors https://a.example")
    assert policy(nginx_csp="")[0] == ""


@pytest.mark.parametrize(("release", "http2", "flags"), [(12, False, ["443", "ssl", "http2"]), (13, True, ["443", "ssl"])])
def test_each_release_gets_what_its_nginx_and_openssl_know(release, http2, flags):
    rendered = Rendered(PLAIN, release)
    tls = rendered.conf("conf.d/tls.conf")
    assert bool(tls.all("http2")) == http2
    assert tls.one("ssl_ecdh_curve")[0].startswith("X25519MLKEM768:") == http2
    assert tls.one("ssl_protocols") == ["TLSv1.2", "TLSv1.3"]
    assert not any(word.startswith("DHE-") for word in tls.one("ssl_ciphers")[0].split(":"))
    site = servers(rendered.conf("sites-enabled/https.conf"))["notes.example"]
    assert site.all("listen")[0].words[1:] == flags
    default = servers(rendered.conf("sites-enabled/default.conf"))["_"]
    assert [listen.words[1:] for listen in default.all("listen")][1] == [*flags, "default_server"]


def test_the_log_begins_with_what_filters_read():
    """The ban filters are anchored to this beginning: a change here is a change there."""
    for form in Rendered(FULL).conf("conf.d/log.conf").all("log_format"):
        line = "".join(form.words[3:])
        assert line.startswith('{"client":"$remote_addr","status":"$status","limit":"$limit_req_status","method":"$request_method","time":')
        assert not re.search(r"\$(request|request_uri|args|query_string|http_referer|http_cookie|arg_\w+)\b", line)


def test_a_line_of_the_log_is_never_longer_than_what_is_read_of_one():
    conf = Rendered(FULL).conf("conf.d/log.conf")
    # What nginx takes of a header and of the request line (large_client_header_buffers): control characters in headers alone.
    header, request = "\x01" * 8000, "/" + '"' * 8000
    longest = {"$http_referer": header, "$http_user_agent": header, "$request_uri": request, "$host": request, "$request_method": "A" * 8000}
    for directive in conf.all("map"):
        source, name = directive.words[1:]
        if source in longest:
            longest[name] = re.match(directive.block[0].words[0][1:].replace("?<", "?P<"), longest[source])[1]
    for form in conf.all("log_format"):
        line = re.sub(r"\$\w+", lambda word: json.dumps(longest.get(word[0], "x" * 200))[1:-1], "".join(form.words[3:]))
        assert len(json.loads(line)["agent"]) == 1000 and len(line) < 60_000


def test_only_posts_to_login_paths_are_counted_by_the_clients_network():
    conf = Rendered(FULL).conf("conf.d/limits.conf")
    maps = {directive.words[2]: directive for directive in conf.all("map")}
    login = maps["$redoubt_login_key"]
    assert login.words[1] == "$request_method:$uri"
    keys = {entry.words[0]: entry.words[1] for entry in login.block}
    assert keys == {"default": "", "POST:/de/login/": "$redoubt_client", "POST:/back office/login/": "$redoubt_client"}
    assert maps["$redoubt_admin_key"].block[1].words == ["~^/back\\ office/", "$redoubt_client"]
    zones = {zone.words[2].split(":")[0]: zone.words[1] for zone in conf.all("limit_req_zone")}
    assert zones["zone=redoubt_login"] == "$redoubt_login_key" and zones["zone=redoubt_admin"] == "$redoubt_admin_key"
    # Wherever the application is asked, and nowhere else.
    snippet = Rendered(FULL).conf("snippets/proxy.conf")
    assert {limit.words[1] for limit in snippet.all("limit_req")} == {"zone=redoubt_login", "zone=redoubt_admin"} and not conf.all("limit_req")
    for place in Rendered(FULL).conf("sites-enabled/https.conf").walk():
        includes = [child.words[1] for child in place.all("include")]
        assert bool(place.all("proxy_pass")) == ("snippets/proxy.conf" in includes), place.words
    assert conf.one("limit_req_status") == conf.one("limit_conn_status") == ["429"]


@pytest.mark.parametrize(("address", "key"), [
    ("192.0.2.7", bytes([192, 0, 2, 7])),
    ("192.10.2.10", bytes([192, 10, 2, 10])),
    ("2001:db8:a:b::1", bytes.fromhex("20010db8000a000b")),
    ("2001:db8:a:b:ffff:ffff:ffff:ffff", bytes.fromhex("20010db8000a000b")),
    ("2001:db8:a:c::1", bytes.fromhex("20010db8000a000c")),
    ("::ffff:192.0.2.7", bytes([192, 0, 2, 7])),
])
def test_who_a_visitor_is_to_the_limits(address, key):
    """The map's expressions over the address as nginx has it, in bytes."""
    maps = {directive.words[2]: directive for directive in Rendered(PLAIN).conf("conf.d/limits.conf").all("map")}
    packed = ipaddress.ip_address(address).packed
    found = packed
    for entry in maps["$redoubt_client"].block:
        match = entry.words[0].startswith("~") and re.match(entry.words[0][1:].replace("(?<", "(?P<").encode(), packed)
        if match:
            found = match[entry.words[1].removeprefix("$")]
            break
    assert found == key


def test_nobody_is_believed_about_addresses_but_the_trusted():
    trusting = Rendered(FULL).conf("conf.d/limits.conf")
    assert [trust.words[1] for trust in trusting.all("set_real_ip_from")] == FULL["nginx_trusted_proxies"]
    assert trusting.one("real_ip_header") == ["X-Forwarded-For"] and trusting.one("real_ip_recursive") == ["on"]
    assert trusting.all("geo")[0].one("include") == ["/var/lib/nginx/banned.conf"]
    for server in Rendered(FULL).conf("sites-enabled/https.conf").all("server"):
        assert server.all("if")[0].words[1:] == ["($redoubt_banned)"] and server.all("if")[0].one("return") == ["444"]
    (http,) = Rendered(FULL).conf("sites-enabled/http.conf").all("server")
    assert not http.all("if") and http.location("/").all("if") and not http.location("^~", "/.well-known/acme-challenge/").all("if")
    for path, conf in Rendered(PLAIN).every().items():
        assert not [word for directive in conf.walk() for word in directive.words if "real_ip" in word or "banned" in word], path
    # What the application is told is what came of it.
    passed = [header.words[1:] for header in Rendered(FULL).conf("snippets/proxy.conf").all("proxy_set_header")]
    assert ["X-Forwarded-For", "$remote_addr"] in passed


def test_bodies_have_a_limit_a_path_and_the_admin_stays_guarded():
    site = servers(Rendered(FULL).conf("sites-enabled/https.conf"))["notes.example"]
    sizes = {path: site.location("^~", path).one("client_max_body_size") for path in FULL["nginx_body_limits"]}
    assert sizes == {path: [size] for path, size in FULL["nginx_body_limits"].items()}
    assert len(site.location("^~", "/back office/import/").all("if")) == 2
    assert site.location("^~", "/upload/").one("proxy_pass") == ["http://redoubt_app"]
    assert site.location("^~", "/graph/files/").one("proxy_pass") == ["http://redoubt_process_graph"]


def test_error_pages_are_nginx_own_alone():
    rendered = Rendered(FULL)
    for path, conf in rendered.every().items():
        assert not [directive for directive in conf.walk() if directive.words[0] == "proxy_intercept_errors"], path
        for server in conf.all("server"):
            assert path.endswith("default.conf") or ["snippets/errors.conf"] in [include.words[1:] for include in server.all("include")], path
    snippet = rendered.conf("snippets/errors.conf")
    page = snippet.location("@redoubt_error").one("return")[1]
    assert "Don&#39;t &lt;panic&gt;; write to &#34;ops&#34; \\o/" in page and "$request_id" in page and "$status" in page
    texts = {entry.words[0]: entry.words[1] for entry in rendered.conf("conf.d/errors.conf").all("map")[0].block}
    assert texts["404"] == "Weg {&#39;}" and texts["413"] == "Too large"
    # Every page that can be shown has a text.
    shown = {word.lstrip("=") for directive in snippet.all("error_page") for word in directive.words[1:-1]} - {"416", "494", "495", "496", "497"}
    assert shown == set(texts) - {"default"}
    assert snippet.location("=", "/-/error").all("internal")


def test_reports_are_collected_where_the_policy_says_so():
    collecting = Rendered(FULL)
    maps = {directive.words[2]: directive for directive in collecting.conf("conf.d/headers.conf").all("map")}
    assert maps["$redoubt_csp"].block[0].words[1].endswith("; report-uri /-/csp-report")
    site = servers(collecting.conf("sites-enabled/https.conf"))["notes.example"]
    place = site.location("=", "/-/csp-report")
    assert place.one("client_max_body_size") == place.one("client_body_buffer_size")
    assert len(place.all("limit_req")) == 2
    line = "".join(next(form for form in collecting.conf("conf.d/log.conf").all("log_format") if form.words[1] == "redoubt_csp").words[3:])
    assert "$request_body" not in line
    for path, conf in Rendered(PLAIN).every().items():
        assert not [word for directive in conf.walk() for word in directive.words if "csp-report" in word or "csp_" in word.replace("redoubt_media_csp", "")], path


@pytest.mark.parametrize(("field", "kept"), [
    ("document", "https://notes.example/reset/"),
    ("directive", "script-src-elem"),
    ("blocked", "https://evil.example/x.js"),
    ("source", ""),
    ("line", "17"),
])
@pytest.mark.parametrize("form", ["old", "new"])
def test_a_report_is_reduced_to_what_holds_no_secrets(field, kept, form):
    values = {"document": "https://notes.example/reset/?token=secret", "directive": "script-src-elem", "blocked": "https://evil.example/x.js#secret", "line": 17}
    if form == "old":
        keys = {"document": "document-uri", "directive": "effective-directive", "blocked": "blocked-uri", "line": "line-number"}
        body = json.dumps({"csp-report": {**{keys[key]: value for key, value in values.items()}, "script-sample": "secret", "referrer": "https://secret/"}})
    else:
        keys = {"document": "documentURL", "directive": "effectiveDirective", "blocked": "blockedURL", "line": "lineNumber"}
        body = json.dumps([{"type": "csp-violation", "body": {keys[key]: value for key, value in values.items()} | {"sample": "secret"}}])
    maps = {directive.words[2]: directive for directive in Rendered(FULL).conf("conf.d/log.conf").all("map")}
    pattern, variable = maps[f"$redoubt_csp_{field}"].block[0].words
    match = re.search(pattern[1:].replace("(?<", "(?P<"), body)
    assert (match[variable.removeprefix("$")] if match else "") == kept


def test_unknown_names_are_rejected_on_every_socket():
    default = servers(Rendered(PLAIN).conf("sites-enabled/default.conf"))["_"]
    assert sorted(listen.words[1] for listen in default.all("listen")) == ["443", "80", "[::]:443", "[::]:80"]
    assert default.one("ssl_reject_handshake") == ["on"]
    assert default.one("return") == ["444"]
    without = servers(Rendered(PLAIN | {"nginx_ipv6": False}).conf("sites-enabled/default.conf"))["_"]
    assert sorted(listen.words[1] for listen in without.all("listen")) == ["443", "80"]


def test_other_hosts_of_the_site_are_asked_for_a_challenge_and_for_nothing_else() -> None:
    hosts = {"app1": ["192.0.2.1"], "app2": ["2001:db8::2", "192.0.2.2"], "app3": ["192.0.2.3"], "db1": ["192.0.2.9"]}
    groups = {"all": list(hosts), "web": ["app1", "app2", "app3"], "db": ["db1"]}
    several = Rendered({**PLAIN, "groups": groups, "hostvars": {name: {"base_addresses": addresses} for name, addresses in hosts.items()}})
    found = several.conf("sites-enabled/http.conf")
    assert [server.words for server in found.all("upstream")[0].all("server")] == [
        ["server", "[2001:db8::2]:80", "max_fails=0"], ["server", "192.0.2.3:80", "max_fails=0"]]
    (site,) = found.all("server")
    asked = [location.words[-1] for location in site.all("location") if location.all("proxy_pass")]
    assert asked == ["@acme_peers"]
    assert site.location("^~", "/.well-known/acme-challenge/").one("try_files") == ["$uri", "@acme_peers"]
    assert [location.words[-1] for location in site.all("location") if location.all("try_files")] == ["/.well-known/acme-challenge/"]
    # What a peer says of itself is said by this host as well, and must not be there twice.
    peer = site.location("@acme_peers")
    own = {words[1] for words in (each.words for each in several.headers("own").all("add_header"))}
    hidden = {each.words[1] for each in peer.all("proxy_hide_header")}
    assert own - hidden == {"Strict-Transport-Security", "Content-Security-Policy"} and peer.one("proxy_intercept_errors") == ["on"]
    # Who is asked by another host asks nobody.
    (guard,) = site.location("@acme_peers").all("if")
    assert guard.words == ["if", "($http_x_redoubt_peer)"] and guard.one("return") == ["404"]
    assert "acme_peers" not in Rendered(PLAIN).text("etc/nginx/sites-enabled/http.conf")


def test_nothing_is_served_over_plain_http_but_challenges():
    for tls, answer in ((True, "301"), (False, "503")):
        (server,) = Rendered(FULL, tls=tls).conf("sites-enabled/http.conf").all("server")
        assert server.one("server_name") == FULL["app_domains"]
        assert {" ".join(location.words[1:]) for location in server.all("location")} == {"/", "^~ /.well-known/acme-challenge/"}
        assert server.location("/").one("return")[0] == answer
        assert not [directive for directive in server.walk() if directive.words[0] == "proxy_pass"]


def test_domains_lead_to_the_canonical_one():
    sites = servers(Rendered(FULL).conf("sites-enabled/https.conf"))
    assert list(sites) == ["www.notes.example old.example", "notes.example"]
    assert sites["www.notes.example old.example"].location("/").one("return") == ["301", "https://notes.example$request_uri"]
    assert list(servers(Rendered(PLAIN).conf("sites-enabled/https.conf"))) == ["notes.example"]


def test_folders_are_where_the_contract_says():
    site = servers(Rendered(FULL).conf("sites-enabled/https.conf"))["notes.example"]
    aliases = {location.words[2]: location.one("alias")[0] for location in site.all("location") if location.all("alias")}
    assert aliases == {
        "/static/": "/srv/notes/live/release/static/",
        "/assets/": "/srv/notes/live/release/src/front end/dist/",
        "/docs/": "/srv/notes/live/release/src/",
        "/shared/": "/srv/shared/docs/",
        "/-/media/": "/srv/notes/media/",
        "/-/avatars/": "/srv/notes/data/avatars/",
    }
    for location in site.all("location"):
        # An alias whose location has no slash at its end leads one folder up (`/static../`).
        assert not location.all("alias") or location.words[2].endswith("/")
        assert not location.all("alias") or location.location("~", r"/\.").one("return") == ["404"]


def test_only_files_whose_names_carry_a_hash_are_kept_open():
    rendered = Rendered(FULL)
    assert rendered.conf("nginx.conf").all("http")[0].one("open_file_cache") == ["off"]
    site = servers(rendered.conf("sites-enabled/https.conf"))["notes.example"]
    assert len([each for each in site.walk() if each.words[0] == "open_file_cache"]) == len(FULL["app_static"])
    for item in FULL["app_static"]:
        location = site.location("^~", item["url"])
        # Locations by pattern are tried in their order: a name that begins with a dot is nobody's, hash or none.
        hidden, hashed = location.all("location")
        assert hidden.words[2] == r"/\." and hashed.all("open_file_cache")
        caching = [each.words[2] for kind in (location, hashed) for each in kind.all("add_header") if each.words[1] == "Cache-Control"]
        assert caching == ["no-cache", "public, max-age=31536000, immutable"]
        for name in ("a.0123456789ab.css", "a-0123456789abcdef0123.js", f"a.{32 * 'f'}.css", f"b/a.{64 * '0'}.svg"):
            assert re.search(hashed.words[2], item["url"] + name), name
        for name in ("a.css", "0123456789ab.css", "a.0123456789a.css", "a.0123456789abc.css", "a.0123456789AB.css", "a.0123456789ab/a.css", "a.0123456789ab"):
            assert not re.search(hashed.words[2], item["url"] + name), name


def test_what_jails_may_count_is_written_at_once():
    for contract in (PLAIN, FULL):
        confs = Rendered(contract).every()
        logs = confs["etc/nginx/conf.d/log.conf"].all("access_log")
        assert [each.words[1:] for each in logs] == [["/var/log/nginx/access.log", "redoubt", "buffer=64k", "flush=1s"],
                                                     ["/var/log/nginx/refused.log", "redoubt", "if=$redoubt_refused"]]
        # A location that has a log of its own has lost both: the reports', whose lines nobody counts.
        own = {location.words[1] for conf in confs.values() for location in conf.walk() if location.words[0] == "location" and location.all("access_log")}
        assert own <= {"@redoubt_csp_noted", "@redoubt_csp_dropped"}


def test_private_media_is_the_applications():
    private = servers(Rendered(FULL).conf("sites-enabled/https.conf"))["notes.example"]
    assert private.location("^~", "/media/").one("proxy_pass") == ["http://redoubt_app"]
    assert private.location("^~", "/-/media/").all("internal")
    public = servers(Rendered(PLAIN).conf("sites-enabled/https.conf"))["notes.example"]
    assert public.location("^~", "/media/").one("alias") == ["/srv/notes/media/"]
    assert not [directive for directive in public.walk() if directive.words[0] == "internal"]


def test_routes_have_their_own_upstreams():
    rendered = Rendered(FULL)
    site = servers(rendered.conf("sites-enabled/https.conf"))["notes.example"]
    upstreams = {upstream.words[1]: upstream.all("server")[0].words[1] for upstream in rendered.conf("conf.d/proxy.conf").all("upstream")}
    assert upstreams == {
        "redoubt_app": "unix:/run/notes/live.sock",
        "redoubt_process_asgi": "unix:/run/notes/asgi/socket",
        "redoubt_process_graph": "unix:/run/notes/graph/socket",
    }
    socket, events = site.location("^~", "/ws/"), site.location("^~", "/events/")
    assert socket.one("proxy_pass") == events.one("proxy_pass") == ["http://redoubt_process_asgi"]
    assert ["Upgrade", "$http_upgrade"] in [directive.words[1:] for directive in socket.all("proxy_set_header")]
    assert not events.all("proxy_set_header")


def test_the_admin_is_not_there_for_strangers():
    site = servers(Rendered(FULL).conf("sites-enabled/https.conf"))["notes.example"]
    for match in (("^~", "/back office/"), ("=", "/back office")):
        conditions = {" ".join(check.words[1:]): check.one("return") for check in site.location(*match).all("if")}
        assert conditions == {"($redoubt_admin_allowed = 0)": ["404"], "($ssl_client_verify != SUCCESS)": ["404"]}
    # A certificate of somebody else's is none, and ends no request.
    assert site.one("ssl_verify_client") == ["optional_no_ca"]
    open_to_all = servers(Rendered(PLAIN).conf("sites-enabled/https.conf"))["notes.example"]
    assert not open_to_all.all("ssl_verify_client")


@pytest.mark.parametrize(("path", "refused"), [
    *[(path, True) for path in ("/admin/../", "/admin/..", "/admin/..?next=/", "/admin/..#/", "/x/../admin/", "/admin/%2e%2E/", "/admin/.%2e/", "/admin/%2E./x",
                                "/admin%2f..%2F", "/admin/..%2f")],
    *[(path, False) for path in ("", "/", "/admin/", "/admin/./", "/a..b/", "/..a/", "/a../", "/.../", "/admin/%252e%252e/", "/x/..;/", "/x?next=/../admin/",
                                 "/x?next=%2f..%2f", "/1..2/")],
])
def test_no_path_is_one_to_nginx_and_another_to_the_application(path, refused):
    rendered = Rendered(PLAIN)
    (climbs,) = [each for each in rendered.conf("conf.d/proxy.conf").all("map") if each.words[1:] == ["$request_uri", "$redoubt_climbs"]]
    assert climbs.one("default") == ["0"]
    pattern, value = climbs.block[0].words
    assert pattern.startswith("~*") and value == "1" and bool(re.search(pattern[2:], path, re.IGNORECASE)) == refused
    # Before any location is looked for: uploads, static files and routes too.
    (check,) = [each for each in servers(rendered.conf("sites-enabled/https.conf"))["notes.example"].all("if") if each.words[1:] == ["($redoubt_climbs)"]]
    assert check.one("return") == ["404"]


def test_of_the_environments_ca_only_what_was_made_for_it_opens_the_admin():
    entries = [{"name": "alice", "serial": "0A0B", "until": "2030-05-17", "revoked": ""}, {"name": "bob", "serial": "0C", "until": "2030-05-17"},
               {"name": "carol", "serial": "0D", "until": "2030-05-17", "revoked": "2029-05-17"}]
    rendered = Rendered(FULL | {"app_admin_client_ca": "environment", "pki_ca_certificate": "ours\n", "app_admin_certificates": entries})
    assert rendered.text("etc/nginx/tls/admin-ca.pem").strip() == "ours"
    conf = rendered.conf("sites-enabled/https.conf")
    (found,) = [each for each in conf.all("map") if each.words[2] == "$redoubt_admin_certificate"]
    assert [each.words for each in found.block] == [["default", "0"], ["0A0B", "1"], ["0C", "1"]]
    site = servers(conf)["notes.example"]
    for match in (("^~", "/back office/"), ("=", "/back office")):
        assert ["return", "404"] in [check.block[0].words for check in site.location(*match).all("if") if check.words[1] == "($redoubt_admin_certificate"]
    assert "$redoubt_admin_certificate" not in Rendered(FULL).text("etc/nginx/sites-enabled/https.conf")


@pytest.mark.parametrize("value", ['/a"; deny all; #/', "/a;b/", "/a {b}/", "/a\\/", "/a'b/"])
def test_values_stay_one_word(value):
    contract = PLAIN | {"app_static": [{"url": value, "path": value}]}
    site = servers(Rendered(contract).conf("sites-enabled/https.conf"))["notes.example"]
    location = site.location("^~", value)
    assert location.one("alias") == [value]
    assert not [directive for directive in site.walk() if directive.words[0] == "deny"]


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\tb", "$host", "${host}", "a\x00"])
def test_values_that_nginx_cannot_take_are_refused_before_it_is_touched(value):
    for path, contract in {
        "etc/nginx/conf.d/headers.conf": {"nginx_permissions_policy": value},
        "etc/nginx/sites-enabled/https.conf": {"app_media": [{"url": "/media/", "path": f"/{value}"}]},
    }.items():
        with pytest.raises(AnsibleError, match="nginx cannot take"):
            Rendered(PLAIN | contract).text(path)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="this machine has no systemd-analyze")
def test_the_units_drop_in_names_only_settings_systemd_knows(tmp_path):
    text = Rendered(PLAIN).text("etc/systemd/system/nginx.service.d/sandbox.conf")
    unit = tmp_path / "redoubt-nginx-test.service"
    unit.write_text("[Service]\nType=forking\nPIDFile=/run/nginx.pid\nExecStart=/bin/true\n" + text.replace("/usr/sbin/nginx", "/bin/true"))
    said = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr.strip()) == (0, "")


def test_tasks_name_every_snippet_that_is_included():
    provided = {str(path.relative_to(TEMPLATES / "etc/nginx")) for path in TEMPLATES.glob("etc/nginx/snippets/*")}
    provided |= {item["dest"].removeprefix("/etc/nginx/") for item in yaml.safe_load((ROLE / "vars/main.yml").read_text())["__nginx_headers"]}
    for path, conf in Rendered(FULL).every().items():
        for directive in conf.walk():
            if directive.words[0] == "include" and directive.words[1].startswith("snippets/"):
                assert directive.words[1] in provided, path
