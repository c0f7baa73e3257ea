"""The nginx role's templates, rendered with Ansible's own templar for several contracts, and read as nginx reads them."""

from __future__ import annotations

import functools
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
        return confs | {f"headers-{kind}": self.headers(kind) for kind in ("app", "own", "media")}


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
            if block.all("add_header"):
                assert any("snippets/headers-" in include.words[1] for include in block.all("include")), f"{path}: {block.words}"
        for server in conf.all("server"):
            if "return" in [child.words[0] for child in server.block] and server.all("return")[0].words[1] == "444":
                continue
            assert any("snippets/headers-" in include.words[1] for include in server.all("include")), f"{path}: {server.words}"


def test_no_header_is_added_twice_and_empty_ones_are_left_out():
    rendered = Rendered(FULL)
    for kind in ("app", "own", "media"):
        names = [directive.words[1] for directive in rendered.headers(kind).all("add_header")]
        assert len(names) == len(set(names)), kind
        assert "Content-Security-Policy-Report-Only" in names or kind == "media"
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
    assert sites["www.notes.example old.example"].one("return") == ["301", "https://notes.example$request_uri"]
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
    assert site.one("ssl_verify_client") == ["optional"]
    open_to_all = servers(Rendered(PLAIN).conf("sites-enabled/https.conf"))["notes.example"]
    assert not open_to_all.all("ssl_verify_client")


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
    (task,) = yaml.safe_load((ROLE / "tasks/configure.yml").read_text())
    provided |= {item["dest"].removeprefix("/etc/nginx/") for item in task["redoubt.django.tree"]["extra"]}
    for path, conf in Rendered(FULL).every().items():
        for directive in conf.walk():
            if directive.words[0] == "include" and directive.words[1].startswith("snippets/"):
                assert directive.words[1] in provided, path
