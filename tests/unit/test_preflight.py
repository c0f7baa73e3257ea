"""What the preflight refuses, what it lets pass, and what it never shows."""

from __future__ import annotations

import copy
import datetime
import os
import pathlib
import re
import subprocess
import sys

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "collections"))

from ansible_collections.redoubt.django.plugins.action import preflight
from ansible_collections.redoubt.django.plugins.plugin_utils import contract, sources

SPECS = {path.parts[-3]: yaml.safe_load(path.read_text())["argument_specs"] for name in ("argument_specs", "contract") for path in ROOT.glob(f"roles/*/meta/{name}.yml")}
OPTIONS = {name: spec for role in SPECS.values() for name, spec in (role["main"].get("options") or {}).items()}
KEY = "q0Zr8-3uVnWkX2yLbT7cMfD1sHgE5aJpK9oNiR4vQwUx6BzYtCl"


def openssh(key) -> str:
    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def private(key, password: bytes | None = None) -> str:
    protection = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8 if password else serialization.PrivateFormat.OpenSSH
    return key.private_bytes(serialization.Encoding.PEM, form, protection).decode()


def certificate(ca: bool = True, days: int = 30) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(end - datetime.timedelta(days=60)).not_valid_after(end)
    built = builder.add_extension(x509.BasicConstraints(ca, None), True).sign(key, hashes.SHA256())
    return built.public_bytes(serialization.Encoding.PEM).decode()


SSH = ed25519.Ed25519PrivateKey.generate()
DEPLOY_KEY = private(SSH)
PUBLIC = openssh(SSH)
CA = certificate()

VALID = {
    "app_name": "notes",
    "app_domains": ["notes.test", "www.notes.test"],
    "app_source": "git",
    "app_repo": "https://git.test/notes.git",
    "app_version": "v1.0",
    "app_settings_module": "config.settings.production",
    "app_wsgi": "config.wsgi:application",
    "app_acme_directory": "https://acme.test:14000/dir",
    "app_secret_key": KEY,
    "app_processes": {"worker": {"command": "{manage} work"}, "asgi": {"command": "daphne", "listen": True}},
    "app_timers": {"prune": {"command": "{manage} prune", "on_calendar": "*-*-* 03:17:00"}},
    "app_routes": {"/ws/": {"process": "asgi", "websocket": True}},
    "app_static": [{"url": "/static/", "path": "/srv/notes/static"}],
    "app_media": [{"url": "/media/", "path": "/srv/notes/media"}],
    "app_shared_paths": [],
    "app_admin_path": "/admin/",
    "app_env": {"DEBUG": False},
    "app_secret_env": {"TOKEN": "k3Qx81hfT0pzLwGv"},
    "base_admins": [{"name": "ops", "keys": [PUBLIC]}],
    "site_root": "/srv/notes",
}
PYPI = {"app_source": "pypi", "app_package": "pretalx[postgres]", "app_version": "2025.2.2"}
OVER_SSH = {"app_repo": "git@git.test:notes.git", "app_repo_known_hosts": f"git.test {PUBLIC}", "app_deploy_key": DEPLOY_KEY}


def problems(**changes) -> list[str]:
    """As the action plugin does it: types first, rules for what has the right type."""
    values = {**copy.deepcopy(VALID), **changes}
    found, bad = [], set()
    for name, value in values.items():
        typed = list(contract.check_type(OPTIONS[name], name, value)) if name in OPTIONS else []
        entry = SPECS["site"].get(name)
        if entry and not typed:
            typed = [problem for key, item in value.items() for problem in contract.check_type({"type": "dict", **entry}, name, item, (key,))]
        found += typed
        bad |= {name} if typed else set()
    found += contract.check_rules(values, skip=bad)
    return [f"{problem.name} {problem.sentence}" for problem in found]


def test_the_example_is_valid():
    assert problems() == []
    assert problems(**PYPI) == []
    assert problems(**OVER_SSH) == []


ACCEPTED = [
    {"app_name": "a1"},
    {"app_name": "n" * 31},
    {"app_domains": ["xn--bcher-kva.test"]},
    {"app_domains": ["a.b.c.d.test", "1.test"]},
    {"app_repo": "file:///srv/git/notes.git"},
    {"app_secret_key_fallbacks": [{"key": "x" * 50, "until": "2026-12-31", "rotation": "replaced"}, {"key": "y" * 50}]},
    {"app_repo": "/srv/git/notes.git"},
    {"app_repo": "git://acme.test/notes.git"},
    {"app_repo": "http://acme.test:3000/notes.git"},
    {**OVER_SSH, "app_repo": "ssh://git@git.test/notes.git"},
    {**OVER_SSH, "app_repo": "ssh://git@git.test:2222/notes.git", "app_repo_known_hosts": f"# a comment\n\n[git.test]:2222 {PUBLIC}\n"},
    {**OVER_SSH, "app_repo_known_hosts": f"other.test,*.test {PUBLIC}"},
    {**OVER_SSH, "app_repo_known_hosts": f"@cert-authority * {PUBLIC}"},
    {"app_version": "feature/new-things"},
    {"app_version": "f2c9a7e"},
    {"app_version": "1.10"},
    {**PYPI, "app_version": "2.0rc1"},
    {"app_python": "/usr/bin/python3.13"},
    {"app_requirements": "requirements/production.txt"},
    {"app_requirements": "uv.lock"},
    {"app_requirements_extra": ["psycopg[binary]==3.2.3", "gunicorn", "x @ https://files.test/x.whl"]},
    {"app_pip_index": "https://pypi.org/simple"},
    {"app_apt_packages": ["libpq5", "g++", "libc6:amd64"]},
    {"app_migrate": ["migrate --noinput", "createcachetable"]},
    {"app_env": {"A": 1, "B": 1.5, "C": True, "D": "", "_e": "line\nbreak"}},
    {"app_secret_env": {"SMTP_USER": "admin", "MODE": "test", "FROM": "noreply@example.com"}},
    {"app_files": [{"dest": "/etc/notes/notes.ini", "content": "x"}, {"dest": "src/local.py", "content": "", "secret": True}]},
    {"app_static": [{"url": "/static/", "path": "static"}, {"url": "/assets/", "path": "/srv/notes/static/assets"}]},
    {"app_shared_paths": ["data"], "app_media": [{"url": "/m/", "path": "data/uploads"}]},
    {"app_writable_paths": ["src/cache", "/srv/notes/static/CACHE"], "app_static_root": "/srv/notes/static"},
    {"app_login_paths": ["/en/accounts/login/", "/api/v1/auth:login"]},
    {"app_health_path": "/healthz?full=1"},
    {"app_admin_path": ""},
    {"app_admin_allow": ["192.0.2.0/24", "2001:db8::/32", "192.0.2.7"], "app_admin_client_ca": CA + certificate()},
    {"app_max_body_size": "512K"},
    {"app_admin_path": "/b%C3%BCro/", "app_login_paths": ["/de/login/", "/b%C3%BCro/login/"]},
    {"nginx_trusted_proxies": ["192.0.2.0/24", "2001:db8::/32", "192.0.2.7"], "nginx_csp": "default-src 'self'; script-src 'self'"},
    {"nginx_login_rate": "10r/s", "nginx_login_burst": 1, "nginx_body_limits": {"/upload/": "2g", "/ws/": "1k"}},
    {"nginx_hsts_preload": True, "nginx_hsts_subdomains": True, "nginx_hsts_max_age": 63072000},
    {"nginx_error_texts": {"404": {"title": "Weg"}, "429": {"title": "Zu oft", "text": "Später noch einmal."}}, "nginx_error_language": "de"},
    {"app_acme_email": "ops@notes.test"},
    {"app_timers": {"t": {"command": "x", "on_calendar": "Mon..Fri *-*-* 07:30:00 Europe/Berlin"}}},
    {"app_guard": "off"},
    {"app_releases_kept": 1},
    {"base_admins": [{"name": "ops", "keys": [f'from="192.0.2.0/24" {PUBLIC} laptop']}]},
    {"base_trusted_cas": [CA, certificate(days=-5), certificate(ca=False)]},
    {"ansible_user": "ops"},
]


@pytest.mark.parametrize("changes", ACCEPTED, ids=lambda changes: ",".join(changes))
def test_accepted(changes):
    assert problems(**changes) == []


REFUSED = [
    # types: nothing is coerced
    ({"app_version": 1.1}, "app_version is the number 1.1 to YAML (1.10 becomes 1.1"),
    ({"app_version": None}, "app_version is empty: give it a text"),
    ({"app_name": True}, "app_name is true, but must be a text: put it in quotes"),
    ({"app_guard": False}, "app_guard is false, because YAML reads a bare on, off, yes or no as true or false: put it in quotes"),
    ({"app_guard": "enforced"}, "app_guard is 'enforced', but must be enforce, report or off: did you mean enforce?"),
    ({"app_redis": "yes"}, "app_redis is the text 'yes' but must be true or false: remove the quotes"),
    ({"app_redis": 1}, "app_redis is a number (1), but must be true or false"),
    ({"app_releases_kept": "3"}, "app_releases_kept is the text '3' but must be a whole number"),
    ({"app_releases_kept": True}, "app_releases_kept is true or false (true), but must be a whole number"),
    ({"app_domains": "notes.test"}, "app_domains is the text 'notes.test', but must be a list: write [notes.test]"),
    ({"app_domains": ["notes.test", 5]}, "app_domains[1] is the number 5 to YAML"),
    ({"app_env": ["A=1"]}, "app_env is a list, but must be a mapping"),
    ({"app_static": [{"url": "/s/", "pth": "x"}]}, "app_static[0] has an unknown key 'pth': did you mean path?"),
    ({"app_static": [{"url": "/s/"}]}, "app_static[0] lacks path: Folder that answers it"),
    ({"app_processes": {"asgi": {"command": "x", "lisen": True}}}, "app_processes.asgi has an unknown key 'lisen': did you mean listen?"),
    ({"app_processes": {"asgi": {"listen": True}}}, "app_processes.asgi lacks command"),
    ({"app_processes": {"asgi": "daphne"}}, "app_processes.asgi is a text ('daphne'), but must be a mapping"),
    ({"app_timers": {"t": {"command": "x", "on_calendar": 180}}}, "app_timers.t.on_calendar is the number 180 to YAML"),
    # names
    ({"app_name": "My-App"}, "write 2 to 31 of a-z, 0-9 and _ with a letter first, e.g. my_app"),
    ({"app_name": "n" * 32}, "write 2 to 31"),
    ({"app_name": "nginx"}, "the operating system or PostgreSQL uses itself: choose another, e.g. nginx_site"),
    ({"app_name": "pg_notes"}, "the operating system or PostgreSQL uses itself"),
    ({"app_name": "ops"}, "also the name of an administrator"),
    ({"app_processes": {"Worker": {"command": "x"}}}, "has the name 'Worker', but a unit is called so"),
    ({"app_processes": {"blue": {"command": "x"}}}, "has the name 'blue', which the kit uses itself"),
    ({"app_timers": {"worker": {"command": "x", "on_calendar": "daily"}}}, "has the name 'worker', which is in app_processes too"),
    ({"app_processes": {"w": {"command": "a\nb"}}}, "app_processes.w.command has a line break"),
    ({"app_processes": {"w": {"command": "x", "stop_timeout": 0}}}, "app_processes.w.stop_timeout is 0: write how many seconds"),
    ({"app_processes": {"w": {"command": "x", "stop_timeout": "10min"}}}, "app_processes.w.stop_timeout is a text ('10min'), but must be a whole number"),
    # domains
    ({"app_domains": []}, "app_domains is an empty list"),
    ({"app_domains": ["https://notes.test/"]}, "app_domains[0] is 'https://notes.test/': write the host name alone, notes.test"),
    ({"app_domains": ["notes.test:443"]}, "without a port, notes.test"),
    ({"app_domains": ["Notes.test"]}, "lower case, notes.test"),
    ({"app_domains": ["bücher.test"]}, "ASCII form, xn--bcher-kva.test"),
    ({"app_domains": ["*.notes.test"]}, "wildcard"),
    ({"app_domains": ["a_b.test"]}, "underscore"),
    ({"app_domains": ["notes"]}, "without a dot"),
    ({"app_domains": ["notes.test."]}, "final dot"),
    ({"app_domains": ["192.0.2.1"]}, "not an address"),
    ({"app_domains": ["2001:db8::1"]}, "not an address"),
    ({"app_domains": ["-a.test"]}, "not a domain name"),
    ({"app_domains": ["a..test"]}, "not a domain name"),
    ({"app_domains": ["a.test", "a.test"]}, "app_domains[1] names 'a.test' a second time"),
    ({"app_acme_directory": "https://acme-v02.api.letsencrypt.org/directory"}, "no public ACME server certifies"),
    ({"app_acme_directory": "https://acme-v02.api.letsencrypt.org/directory", "app_domains": ["www.example.com"]}, "still the placeholder"),
    ({"app_acme_directory": "http://acme.org/dir"}, "begins with http://, but must be https://"),
    ({"app_acme_email": "ops"}, "no mail address"),
    ({"app_acme_ca_file": "/nowhere/ca.pem"}, "no file on this machine"),
    # the code
    ({"app_repo": ""}, "app_source is git, so app_repo is required"),
    ({"app_repo": "", "app_package": "x"}, "or set app_source: pypi (app_package is set)"),
    ({"app_source": "pypi"}, "app_source is pypi, so app_package is required"),
    ({"app_repo": "http://git.org/x.git"}, "fetched over http://"),
    ({"app_repo": "git://github.com/x/y.git"}, "fetched over git://"),
    ({"app_repo": "ftp://git.org/x.git"}, "fetched over ftp://"),
    ({"app_repo": "svn://git.org/x.git"}, "begins with svn://"),
    ({"app_repo": "github.com/x/y"}, "no address"),
    ({"app_repo": "--upload-pack=x"}, "begins with a dash"),
    ({"app_repo": "file://srv/x"}, "three slashes"),
    ({"app_repo": "https://git.org"}, "lacks the path"),
    ({"app_repo": "/srv/../x"}, "without .."),
    ({"app_repo": "git@git.test:x.git"}, "app_repo_known_hosts is empty, but app_repo is reached over ssh", {"app_repo_known_hosts": "", "app_deploy_key": DEPLOY_KEY}),
    ({**OVER_SSH, "app_repo": "ssh://git@git.test:2222/x"}, "put in what `ssh-keyscan -p 2222 git.test` prints"),
    ({**OVER_SSH, "app_repo_known_hosts": f"other.test {PUBLIC}"}, "names other.test, but app_repo is on git.test"),
    ({**OVER_SSH, "app_repo_known_hosts": PUBLIC}, "line 1 that is no known_hosts line"),
    ({**OVER_SSH, "app_deploy_key": ""}, "app_deploy_key is empty"),
    ({**OVER_SSH, "app_deploy_key": PUBLIC}, "the public half"),
    ({**OVER_SSH, "app_deploy_key": private(SSH, b"x")}, "passphrase"),
    ({**OVER_SSH, "app_deploy_key": DEPLOY_KEY[:80]}, "no private key"),
    ({"app_version": "--help"}, "cannot be a branch"),
    ({"app_version": "a b"}, "cannot be a branch"),
    ({"app_version": ""}, "name a branch, a tag or a commit"),
    ({**PYPI, "app_version": ">=2025.2"}, "one exact version: write it in full, 2025.2"),
    ({**PYPI, "app_version": "latest"}, "one exact version"),
    ({**PYPI, "app_package": "pretalx==2025.2.2"}, "the version in app_version"),
    ({**PYPI, "app_package": "pre talx"}, "no package name"),
    ({"app_settings_module": "config/settings.py"}, "write config.settings"),
    ({"app_env": {"DJANGO_SETTINGS_MODULE": "other"}}, "app_env.DJANGO_SETTINGS_MODULE says another"),
    ({"app_wsgi": "config.wsgi"}, "write module:callable, e.g. config.wsgi:application"),
    ({"app_wsgi": "config.wsgi.application"}, "e.g. config.wsgi:application"),
    ({"app_project_dir": "/src"}, "without the leading /"),
    ({"app_project_dir": "../src"}, "leaves the release"),
    ({"app_project_dir": "src/manage.py"}, "name the folder of manage.py, src"),
    ({"app_manage": "{manage}"}, "stands for itself"),
    ({"app_requirements": "setup.cfg"}, "cannot install from"),
    ({"app_requirements": "/requirements.txt"}, "without the leading /"),
    ({"app_requirements_groups": ["--all"]}, "no name of an extra or a group"),
    ({"app_requirements_extra": ["-r other.txt"]}, "no requirement"),
    ({"app_pip_index": "pypi.org/simple"}, "no address"),
    ({"app_python": "-c"}, "name an interpreter"),
    ({"app_apt_packages": ["libpq5 gcc"]}, "one package an entry"),
    ({"app_migrate": ["python manage.py migrate"]}, "write only what follows it, 'migrate'"),
    ({"app_build": [" "]}, "empty command"),
    # what the process finds
    ({"app_env": {"1A": "x"}}, "cannot name an environment variable"),
    ({"app_env": {"A": None}}, "app_env.A is empty: write ''"),
    ({"app_env": {"A": ["x"]}}, "as JSON with the filter to_json"),
    ({"app_env": {"A": "x\0"}}, "NUL"),
    ({"app_env": {"LISTEN_SOCKET": "x"}}, "set by systemd or the kit"),
    ({"app_env": {"TOKEN": "x"}}, "app_secret_env.TOKEN is in app_env too"),
    ({"app_secret_env": {"TOKEN": "changeme"}}, "app_secret_env.TOKEN is a placeholder"),
    ({"app_secret_env": {"TOKEN": "<from the provider>"}}, "app_secret_env.TOKEN is a placeholder"),
    ({"app_secret_env": {"SMTP_PASSWORD": "test"}}, "app_secret_env.SMTP_PASSWORD is a placeholder"),
    ({"app_secret_key": "short"}, "app_secret_key has 5 characters"),
    ({"app_secret_key": "ab" * 40}, "repeats a few characters"),
    ({"app_secret_key": "django-insecure-" + KEY}, "placeholder"),
    ({"app_secret_key_fallbacks": [{"key": "x" * 50, "until": "31.12.2026"}]}, "app_secret_key_fallbacks[0].until is no day: write it as 2026-12-31"),
    ({"app_secret_key_fallbacks": [{"key": " ", "until": ""}]}, "app_secret_key_fallbacks[0].key is empty"),
    ({"app_secret_key_fallbacks": [{"key": KEY}]}, "is app_secret_key itself"),
    ({"app_secret_key_fallbacks": [{"key": "x" * 50}], "app_guard": "off"}, "app_guard is off"),
    ({"app_session_age": 14}, "but counts seconds"),
    ({"app_files": [{"dest": "../x", "content": ""}]}, "app_files[0].dest is '../x'"),
    ({"app_files": [{"dest": "/etc/x/", "content": ""}]}, "a folder: name the file"),
    ({"app_files": [{"dest": "a", "content": ""}, {"dest": "./a", "content": ""}]}, "a second time"),
    ({"app_files": [{"dest": "a", "content": {"x": 1}}]}, "app_files[0].content is a mapping, but must be a text"),
    ({"app_files": [{"dest": "/etc/notes/env", "content": ""}], "site_config": "/etc/notes"}, "which the kit writes itself"),
    ({"app_shared_paths": ["data", "data/uploads"]}, "inside 'data', shared as a whole"),
    ({"app_shared_paths": ["."]}, "the whole release"),
    ({"app_shared_paths": ["/srv/notes/static/x"], "app_static_root": "/srv/notes/static"}, "without the leading /"),
    ({"app_shared_paths": ["my data"]}, "white space"),
    ({"app_writable_paths": ["/var"]}, "without the leading /"),
    ({"app_timers": {"t": {"command": "x", "on_calendar": "0 3 * * *"}}}, "cron's form"),
    ({"app_timers": {"t": {"command": "x", "on_calendar": ""}}}, "app_timers.t.on_calendar is empty"),
    ({"app_postgres_extensions": ["pg_trgm; DROP"]}, "no name of an extension"),
    # what the internet sees
    ({"app_routes": {"/ws/": {"process": "asgj"}}}, "app_routes['/ws/'].process is 'asgj', which is not in app_processes: did you mean asgi?"),
    ({"app_routes": {"/ws/": {"process": "worker"}}}, "add listen: true to app_processes.worker"),
    ({"app_routes": {"ws/": {"process": "asgi"}}}, "begin it with a slash, /ws/"),
    ({"app_routes": {"/": {"process": "asgi"}}}, "which is gunicorn's"),
    ({"app_routes": {"/static/": {"process": "asgi"}}}, "answered otherwise already"),
    ({"app_login_paths": ["accounts/login/"]}, "begin it with a slash"),
    ({"app_login_paths": ["/login/?next=/"]}, "without the query"),
    ({"app_probe_paths": ["/a b"]}, "percent-encode"),
    ({"app_health_path": "https://notes.test/h"}, "write the path alone, /h"),
    ({"app_admin_path": "/admin"}, "end it with a slash, /admin/"),
    ({"app_admin_path": "/a{b}/"}, "no path of a URL"),
    ({"app_admin_allow": ["192.0.2.7/24"]}, "write 192.0.2.0/24"),
    ({"app_admin_allow": ["office"]}, "no network"),
    ({"app_admin_path": "/a%24b/"}, "nginx cannot be told of such a path"),
    ({"app_login_paths": ["/log%0Ain/"]}, "nginx cannot be told of such a path"),
    ({"app_login_paths": ["/log%in/"]}, "write %25 for the sign itself"),
    ({"app_login_paths": ["/(?:de|en)/login/"]}, "no path of a URL"),
    ({"app_login_paths": ["^/login/$"]}, "begin it with a slash"),
    ({"nginx_trusted_proxies": ["10.0.0.1/8"]}, "write 10.0.0.0/8"),
    ({"nginx_trusted_proxies": ["cdn.test"]}, "no network"),
    ({"nginx_trusted_proxies": ["0.0.0.0/0"]}, "which is everybody"),
    ({"nginx_csp": "default-src 'self';\nscript-src 'self'"}, "more than one line"),
    ({"nginx_permissions_policy": "camera=()\r\nSet-Cookie: a=b"}, "more than one line"),
    ({"nginx_referrer_policy": "$http_cookie"}, "begins a variable"),
    ({"nginx_error_title": "a\x00b"}, "control character"),
    ({"nginx_login_rate": "30/m"}, "no rate to nginx"),
    ({"nginx_admin_rate": "0r/s"}, "no rate to nginx"),
    ({"nginx_login_burst": 0}, "must be 1 or more"),
    ({"nginx_hsts_max_age": -1}, "must be 0 or more"),
    ({"nginx_hsts_preload": True, "nginx_hsts_subdomains": False}, "nginx_hsts_subdomains: true"),
    ({"nginx_hsts_preload": True, "nginx_hsts_subdomains": True, "nginx_hsts_max_age": 300}, "of a year or more"),
    ({"nginx_body_limits": {"/upload/": "10 MB"}}, "no size to nginx"),
    ({"nginx_body_limits": {"/up[l]oad/": "10m"}}, "no path of a URL"),
    ({"nginx_body_limits": {"/media/x/": "10m"}}, "takes no bodies"),
    ({"nginx_body_limits": {"/": "10m"}}, "app_max_body_size"),
    ({"nginx_error_texts": {"418": {"title": "Teapot"}}}, "write one of them in quotes"),
    ({"nginx_error_texts": {404: {"title": "Weg"}}}, "write one of them in quotes"),
    ({"nginx_error_texts": {"404": "Weg"}}, "a mapping of title, text or both"),
    ({"nginx_error_texts": {"404": {"text": "$args"}}}, "begins a variable"),
    ({"app_admin_allow": ["192.0.2.7"], "app_admin_path": ""}, "app_admin_path is empty"),
    ({"app_admin_client_ca": "ca.pem"}, "holds no certificate"),
    ({"app_admin_client_ca": certificate(ca=False)}, "no CA"),
    ({"app_admin_certificates": [{"name": "alice", "serial": "12:AB", "until": "2030-05-17"}]}, "no serial number"),
    ({"app_admin_certificates": [{"name": "alice", "serial": "ABC", "until": "2030-05-17"}]}, "no serial number"),
    ({"app_admin_certificates": [{"name": name, "serial": "AB", "until": "2030-05-17"} for name in ("alice", "bob")]}, "a second time"),
    ({"app_admin_client_ca": certificate(days=-5)}, "ended on"),
    ({"app_static": [{"url": "/static", "path": "static"}]}, "end it with a slash"),
    ({"app_static": [{"url": "/s/", "path": "."}]}, "the whole source"),
    ({"app_static": [{"url": "/s/", "path": "/srv/notes"}]}, "more than files for everybody"),
    ({"app_static": [{"url": "/s/", "path": "/srv/x y"}]}, "white space"),
    ({"app_static": [{"url": "/", "path": "static"}]}, "belongs to the application"),
    ({"app_media": [{"url": "/static/", "path": "/srv/notes/media"}]}, "in app_static too"),
    ({"app_media": [{"url": "/m/", "path": "uploads"}]}, "add it to app_shared_paths"),
    ({"app_max_body_size": "10MB"}, "no size to nginx: write 10m"),
    ({"app_start_timeout": 0}, "seconds from 1 to 3600"),
    ({"app_releases_kept": 0}, "write 1 or more"),
    ({"app_hooks": {"after_switch": ["true", " "]}}, "app_hooks.after_switch[1] is an empty command"),
    ({"app_hooks": {"after_swich": ["true"]}}, "did you mean after_switch?"),
    ({"app_check_fail_level": "error"}, "must be CRITICAL"),
    ({"app_guard_skip": ["password_hasher"]}, "app_guard_skip[0] is 'password_hasher'"),
    ({"app_guard_skip": ["password_hasher"]}, "did you mean password_hashers?"),
    ({"app_audit": "fail"}, "must be report or refuse"),
    ({"app_audit_service": "http://osv.example.org/v1/query"}, "app_audit_service"),
    ({"app_audit_waivers": [{"id": "CVE-2026-1", "reason": "not used", "until": "31.12.2026"}]}, "which is no day: write it as 2026-12-31"),
    ({"app_audit_waivers": [{"id": "CVE-2026-1", "until": "2026-12-31"}]}, "lacks reason"),
    ({"app_audit_waivers": [{"id": "CVE-2026-1", "reason": " ", "until": "2026-12-31"}]}, "app_audit_waivers[0].reason is empty"),
    # people and CAs
    ({"base_admins": []}, "nobody could log in"),
    ({"base_admins": [{"name": "root", "keys": [PUBLIC]}]}, "is root"),
    ({"base_admins": [{"name": "ops", "keys": []}]}, "base_admins[0].keys is empty"),
    ({"base_admins": [{"name": "ops", "keys": ["AAAA"]}]}, "base_admins[0].keys[0] is no SSH public key"),
    ({"base_admins": [{"name": "ops", "keys": [PUBLIC[:-12]]}]}, "cut off"),
    ({"base_admins": [{"name": "ops", "keys": [DEPLOY_KEY]}]}, "is a private key"),
    ({"base_admins": [{"name": "ops", "keys": [openssh(rsa.generate_private_key(65537, 2048))]}]}, "RSA key of 2048 bits"),
    ({"base_admins": [{"name": "ops", "keys": ["ssh-dss AAAAB3NzaC1kc3M= x"]}]}, "DSA"),
    ({"firewall_ssh_from": ["192.0.2.7/24"]}, "write 192.0.2.0/24"),
    ({"fail2ban_ignore": ["192.0.2.7/24"]}, "write 192.0.2.0/24"),
    ({"fail2ban_ignore": ["office"]}, "fail2ban_ignore[0] is 'office', which is no network"),
    ({"fail2ban_ignore": ["::/0"]}, "which is everybody"),
    ({"fail2ban_jails": ["logins"]}, "did you mean login?"),
    ({"fail2ban_login": {"maxretry": 5}}, "fail2ban_login lacks findtime"),
    ({"fail2ban_login": {"maxretry": 0, "findtime": 600, "bantime": 600}}, "fail2ban_login.maxretry is 0: write 1 or more"),
    ({"fail2ban_scans": {"maxretry": 5, "findtime": "10m", "bantime": 600}}, "fail2ban_scans.findtime is"),
    ({"fail2ban_sshd": {"maxretry": 5, "findtime": 600, "bantime": 999999}}, "fail2ban_sshd.bantime is 999999, longer than fail2ban_bantime_max",
     {"fail2ban_bantime_max": 604800}),
    ({"fail2ban_sshd": {"maxretries": 5, "findtime": 600, "bantime": 60}}, "fail2ban_sshd has an unknown key 'maxretries': did you mean maxretry?"),
    ({"fail2ban_bantime_max": 30}, "fail2ban_bantime_max is 30"),
    ({"fail2ban_probe_paths": ["/a|b"]}, "fail2ban_probe_paths[0] is '/a|b'"),
    ({"fail2ban_probe_paths": ["/account"]}, "'/accounts/login/' of this site is too", {"app_login_paths": ["/accounts/login/"]}),
    ({"fail2ban_probe_paths": []}, "take probes out of fail2ban_jails"),
    ({"firewall_allow": [{"port": "0"}]}, "firewall_allow[0].port is '0'"),
    ({"firewall_allow": [{"port": "6010-6000"}]}, "a range like 6000-6010"),
    ({"firewall_allow": [{"port": "ssh"}]}, "firewall_allow[0].port is 'ssh'"),
    ({"firewall_allow": [{"port": 65536}]}, "firewall_allow[0].port is '65536'"),
    ({"firewall_allow": [{"port": 25, "from": ["192.0.2"]}]}, "firewall_allow[0].from[0] is '192.0.2', which is no network"),
    ({"firewall_allow_out": [{"port": 25, "to": ["192.0.2.7/24"]}]}, "firewall_allow_out[0].to[0]"),
    ({"firewall_allow_groups": {"web": {"port": 80}}}, "firewall_allow_groups.web is not a list of"),
    ({"firewall_allow_groups": {"web": [{"prot": "udp"}]}}, "firewall_allow_groups.web[0] has an unknown key 'prot': did you mean proto?"),
    ({"firewall_allow_groups": {"web": [{"proto": "udp"}]}}, "firewall_allow_groups.web[0] has no port"),
    ({"firewall_allow_groups": {"web": [{"port": 80, "proto": "icmp"}]}}, "firewall_allow_groups.web[0].proto is 'icmp': tcp or udp"),
    ({"firewall_allow_groups": {"web": [{"port": 80, "from": "::1"}]}}, "firewall_allow_groups.web[0].from is not a list"),
    ({"firewall_allow_groups": {"web": [{"port": "80-"}]}}, "firewall_allow_groups.web[0].port is '80-'"),
    ({"ansible_user": "deploy"}, "does not name 'deploy', the user of this connection"),
    ({"base_trusted_cas": ["/nowhere.crt"]}, "neither a certificate (PEM text) nor a file"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{next(iter(case[0]))}: {case[1][:40]}")
def test_refused_with_one_sentence(case):
    changes = {**case[0], **(case[2] if len(case) > 2 else {})}
    found = problems(**changes)
    matching = [sentence for sentence in found if case[1] in sentence]
    assert matching, found
    assert "\n" not in matching[0] and len(matching[0]) < 500


def test_one_mistake_is_one_sentence():
    """A mistake is complained of once, not by each rule that stumbles over it."""
    for name in ("app_name", "app_wsgi", "app_repo", "app_version", "app_python", "app_max_body_size", "app_admin_path", "app_acme_directory"):
        for value in ("", "a b", "-x", "/..", "{x}"):
            assert len([sentence for sentence in problems(**{name: value}) if sentence.startswith(name)]) <= 1, (name, value)


def test_secrets_are_not_in_sentences():
    secret = "k3Qx81hf-T0pzLwGv"
    for name in ("app_secret_key", "app_deploy_key", "app_secret_env"):
        for value in (secret, [secret], 5, {"A B": secret, "C": [secret]}, {"A": secret + "\0"}):
            spec = list(contract.check_type(OPTIONS[name], name, value))
            assert not any(secret in problem.sentence for problem in spec)
            if not spec:
                assert not any(secret in sentence for sentence in problems(**{name: value}))


def test_hashed_known_hosts(tmp_path):
    (tmp_path / "known").write_text(f"git.test {PUBLIC}\n[git.test]:2222 {PUBLIC}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", tmp_path / "known"], check=True, capture_output=True)
    hashed = (tmp_path / "known").read_text()
    assert "git.test" not in hashed
    assert problems(**{**OVER_SSH, "app_repo_known_hosts": hashed}) == []
    assert problems(**{**OVER_SSH, "app_repo": "ssh://git@git.test:2222/x", "app_repo_known_hosts": hashed}) == []
    assert "a hashed name" in problems(**{**OVER_SSH, "app_repo": "git@other.test:x", "app_repo_known_hosts": hashed})[0]
    assert not contract.known_hosts_match("|1|broken", "git.test")


def test_passphrase_of_openssh(tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", tmp_path / "key"], check=True)
    assert "passphrase" in problems(**{**OVER_SSH, "app_deploy_key": (tmp_path / "key").read_text()})[0]


GROUPS = {"all": ["app1", "store1"], "ungrouped": [], "web": ["app1"], "db": ["app1"], "logs": ["store1"], "backups": ["store1"]}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, None),
        ({"logs": []}, "The group logs has no hosts"),
        ({"logs": ["app1", "store1"]}, "The group logs has app1 and store1, but one host receives the logs of an environment: leave one."),
        ({"logs": ["store 1"]}, "store 1 sends its logs, which are kept in a folder called after it: give it a name of letters"),
        ({"web": None, "webs": ["app1"]}, "The inventory has no group web: did you mean webs?"),
        ({"db": None}, "The inventory has no group db"),
        ({"db": ["store1"]}, None),
        ({"db": ["app1", "store1"]}, "store1 is in db, but every host of web is too, and has a database of its own: take store1 out of db"),
        ({"web": ["app1", "store1"]}, None),
        ({"web": ["app1"], "db": ["store1", "db2"]}, "app1 is in web but not in db, so one host of db is the database of all web hosts, but db2 and store1 are in it: leave one."),
        ({"logs": None, "backups": ["app1"], "log": ["store1"]}, "store1 is in none of the groups web, db, logs and backups (only in log: did you mean logs?)"),
    ],
)
def test_groups(changes, sentence):
    groups = {name: hosts for name, hosts in {**GROUPS, **changes}.items() if hosts is not None}
    found = list(contract.check_groups(groups, ["app1", "store1"]))
    assert any(found_one.startswith(sentence) for found_one in found) if sentence else found == []


FLEET = {"site_fleet": True, "site_web_hosts": ["app1", "app2"], "app_media": [], "app_media_shared": False}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, None),
        ({"app_redis": True}, "app_redis is true, but such a server is each host's own"),
        ({"app_media": VALID["app_media"]}, "app_media is kept on the disk of each web host"),
        ({"app_media": VALID["app_media"], "app_media_shared": True}, None),
        ({"app_shared_paths": ["data"]}, "app_shared_paths is kept on the disk of each web host"),
        ({"app_shared_paths": ["data"], "site_web_hosts": ["app1"]}, None),
        ({"app_redis": True, "site_web_hosts": ["app1"]}, None),
        ({"app_batch": 0}, "app_batch is 0: write how many web hosts"),
        ({"app_database_password": "short"}, "app_database_password must be 20 random ASCII characters or more"),
        ({"app_migrate_password": "ü3Qx81hfT0pzLwGvk3Qxm"}, "app_migrate_password must be 20 random ASCII characters or more"),
        ({"app_migrate_password": "", "site_fleet": False}, None),
        ({"app_migrate_password": "k3Qx81hfT0pzLwGvk3Qxm"}, None),
        ({"base_addresses": ["10.0.0.0/8"]}, "base_addresses[0] is '10.0.0.0/8', which is no address"),
        ({"base_addresses": ["192.0.2.1", "2001:db8::1"]}, None),
        ({"app_files": [{"dest": "/etc/notes/pgpass-notes", "content": ""}], "site_config": "/etc/notes"}, "app_files[0].dest is '/etc/notes/pgpass-notes', which the kit"),
    ],
)
def test_several_hosts(changes, sentence):
    found = problems(**{**FLEET, **changes})
    assert found[0].startswith(sentence) and len(found) == 1 if sentence else found == []


def test_hosts_of_one_site_have_in_common_what_they_must():
    groups = {"web": ["app1", "app2"], "db": ["db1"]}
    host = {"app_name": "notes", "app_domains": ["notes.test"], "app_secret_key": KEY, "site_addresses": {"app1": ["192.0.2.1"], "app2": ["192.0.2.2"], "db1": ["192.0.2.3"]}}
    assert list(contract.check_fleet(groups, {"app1": host, "app2": host, "db1": host})) == []
    found = list(contract.check_fleet(groups, {"app1": host, "app2": {**host, "app_secret_key": KEY[::-1]}}))
    assert found == ["app_secret_key differs between app1 and app2, but signs the sessions that all must read: give all web hosts the same."]
    assert "app_domains differs" in next(contract.check_fleet(groups, {"app1": host, "app2": {**host, "app_domains": ["other.test"]}}))
    found = list(contract.check_fleet(groups, {"app1": {**host, "site_addresses": {**host["site_addresses"], "db1": []}}}))
    assert found == ["base_addresses of db1 is empty and its ansible_host no address, but other hosts must reach it: list the addresses they know it by."]


# --- Backups ---------------------------------------------------------------------------------------------------------

PASS, OTHER_PASS = "k3Qx81hfT0pzLwGvk3Qxm", "Zw7r-2mVnWkX4yLbT9cMq"
BACKED_UP = {"site_backup_host": "store1", "app_backup_database_pass": PASS, "app_backup_files_pass": OTHER_PASS}


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        ({}, []),
        ({"app_backup_database_pass": "short"}, ["app_backup_database_pass must be 20 random ASCII characters or more"]),
        ({"app_backup_files_pass": ""}, ["app_backup_files_pass must be 20 random ASCII characters or more"]),
        ({"app_backup_files_pass": "ü3Qx81hfT0pzLwGvk3Qxm"}, ["app_backup_files_pass must be 20 random ASCII characters or more"]),
        ({"app_backup_files_pass": "k3Qx81hfT0pz\nwGvk3Qxm"}, ["app_backup_files_pass must be 20 random ASCII characters or more"]),
        ({"app_backup_files_pass": "abababababababababababab"}, ["app_backup_files_pass must be 20 random ASCII characters or more"]),
        ({"app_backup_files_pass": PASS}, ["app_backup_files_pass is the same as app_backup_database_pass"]),
        ({"site_backup_host": "", "app_backup_database_pass": "", "app_backup_files_pass": ""}, []),
    ],
)
def test_passphrases_of_the_backups(changes, sentences):
    found = problems(**{**BACKED_UP, **changes})
    assert [sentence for sentence in found if not any(sentence.startswith(wanted) for wanted in sentences)] == [], found
    assert len(found) == len(sentences)
    assert not [sentence for sentence in found if changes.get("app_backup_files_pass") and changes["app_backup_files_pass"] in sentence]


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        ({"backups": ["store1", "store2"], "logs": None}, "The group backups has store1 and store2, but one host keeps the backups of an environment"),
        ({"web": ["App1"], "db": ["App1"]}, "App1 has backups, which are kept by a unix user called after it"),
        ({"web": ["app1.test"], "db": ["app1.test"]}, "app1.test has backups"),
        ({"web": ["a" * 25], "db": ["a" * 25]}, f"{'a' * 25} has backups"),
        ({"web": ["1app"], "db": ["1app"]}, "1app has backups"),
        ({"web": ["app_1"], "db": ["app_1"]}, "app_1 has backups"),
        ({"web": ["a" * 24], "db": ["a" * 24]}, None),
        # Without backups any name will do, and so will any of the host that keeps them.
        ({"web": ["app1.test"], "db": ["app1.test"], "backups": None}, None),
        ({"backups": ["Store.1"], "logs": ["Store.1"]}, None),
    ],
)
def test_groups_with_backups(groups, sentence):
    groups = {name: hosts for name, hosts in {**GROUPS, **groups}.items() if hosts is not None}
    found = list(contract.check_groups(groups, {host for name in contract.GROUPS for host in groups.get(name, [])}))
    assert len(found) == 1 and found[0].startswith(sentence) if sentence else found == [], found


def test_no_admins_certificate_is_called_like_a_host_that_is_backed_up():
    listed = [{"name": "app1", "serial": "0A", "until": "2027-01-01", "revoked": ""}, {"name": "alice", "serial": "0B", "until": "2027-01-01", "revoked": ""}]
    found = problems(app_admin_certificates=listed, site_backup_clients=["app1"])
    assert len(found) == 1 and found[0].startswith("app_admin_certificates[0].name is 'app1', which is a host's name and opens that host's backups: revoke it")
    assert problems(app_admin_certificates=listed, site_backup_clients=[]) == []
    found = problems(app_admin_certificates=listed, site_backup_clients=[], site_log_clients=["app1"])
    assert len(found) == 1 and found[0].startswith("app_admin_certificates[0].name is 'app1', which is a host's name and writes that host's logs: revoke it")
    assert problems(app_admin_certificates=[{**listed[0], "revoked": "2026-11-26"}], site_backup_clients=["app1"]) == []


def test_who_keeps_backups_knows_whom_to_reach():
    groups = {"web": ["app1"], "db": ["app1"], "backups": ["store1"]}
    values = {"site_addresses": {"app1": ["192.0.2.1"], "store1": []}}
    found = list(contract.check_addresses(groups, {"app1": values}))
    assert len(found) == 1 and found[0].startswith("base_addresses of store1 is empty and its ansible_host no address")
    assert list(contract.check_addresses(groups, {"app1": {"site_addresses": {"app1": ["192.0.2.1"], "store1": ["192.0.2.2"]}}})) == []
    # A line that was copied.
    found = list(contract.check_addresses(groups, {"app1": {"site_addresses": {"app1": ["192.0.2.1", "2001:db8::1"], "store1": ["2001:db8::1"]}}}))
    assert found == ["2001:db8::1 is an address of app1 and store1 (base_addresses, or else ansible_host), so that others would take one for the other: give each its own."]


def test_a_database_and_its_backups_are_on_one_release():
    groups = {"web": ["app1"], "db": ["db1"], "backups": ["store1"]}
    same = {"app1": "12", "db1": "13", "store1": "13"}
    assert list(contract.check_backup_platforms(groups, same)) == []
    (found,) = contract.check_backup_platforms(groups, {**same, "store1": "12"})
    assert found.startswith("db1 runs Debian 13 and store1, which keeps its backups, Debian 12") and found.endswith("bring both to the same release")
    assert list(contract.check_backup_platforms({"db": ["db1"]}, same)) == []
    # Of a host that is not in the play nothing is known.
    assert list(contract.check_backup_platforms(groups, {"db1": "13"})) == []


def test_one_major_of_postgresql():
    groups = {"web": ["app1", "app2"], "db": ["app1", "app2"]}
    new = {"app1": ["postgresql-17", "postgresql-common", "postgresql-17-pgaudit", "postgresql-client-15"], "app2": []}
    assert list(contract.check_postgres(groups, {"app1": "13", "app2": "13"}, new)) == []
    (found,) = contract.check_postgres(groups, {"app1": "12", "app2": "13"}, {})
    assert found.startswith("The hosts of db have different majors of PostgreSQL, app1 PostgreSQL 15 (Debian 12) and app2 PostgreSQL 17 (Debian 13): bring them to the same")
    # A host that became Debian 13 with its old database beside: the new cluster would be empty.
    (found,) = contract.check_postgres(groups, {"app1": "13", "app2": "13"}, {**new, "app1": ["postgresql-15", "postgresql-17"]})
    assert found.startswith("app1 has PostgreSQL 15 from before it was Debian 13, which brings 17 with an empty database: move the data")
    # Of other hosts, and of those that are not in the play, nothing is asked.
    assert list(contract.check_postgres({"db": ["db1"]}, {"app1": "12", "app2": "13"}, {"app2": ["postgresql-15"]})) == []


def test_who_gets_the_roles_of_the_backups():
    assert {"pki", "backup"} <= contract.roles_of(["db"], backups=True) and "backup_server" not in contract.roles_of(["db"], backups=True)
    assert {"pki", "backup"} <= contract.roles_of(["web"], backups=True)
    assert {"pki", "backup_server"} <= contract.roles_of(["backups"], backups=True) and "backup" not in contract.roles_of(["backups"], backups=True)
    assert not {"pki", "backup", "backup_server"} & contract.roles_of(["web", "db", "logs", "backups"])
    assert not {"pki", "backup", "backup_server"} & contract.roles_of(["logs"], backups=True)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"logs_spool_max": 64 << 20, "logs_longest": "64k", "logs_files": [{"path": "/srv/x/*.log", "dataset": "a.b"}], "log_server_path": "/var/log/redoubt",
          "log_server_retention_days": 2, "log_server_forward": {"host": "siem.example.org"}, "log_server_on_calendar": "daily"}, None),
        ({"logs_spool_max": 1000}, "logs_spool_max is 1000 bytes, which a busy minute fills"),
        ({"logs_longest": "1m"}, "logs_longest is '1m': write 8k to 64k"),
        ({"logs_longest": "65k"}, "logs_longest is '65k'"),
        ({"logs_files": [{"path": "x.log", "dataset": "a"}]}, "logs_files[0].path is 'x.log': write an absolute path"),
        ({"logs_files": [{"path": '/x/"y', "dataset": "a"}]}, "logs_files[0].path is '/x/\"y'"),
        ({"logs_files": [{"path": "/a*/x", "dataset": "a"}]}, "logs_files[0].path is '/a*/x'"),
        ({"logs_files": [{"path": "/tmp/x", "dataset": "a"}]}, "logs_files[0].path is '/tmp/x', which rsyslog does not see"),
        ({"logs_files": [{"path": "/srv/x", "dataset": "A b"}]}, "logs_files[0].dataset is 'A b'"),
        ({"log_server_path": "logs"}, "log_server_path is 'logs'"),
        ({"log_server_path": "/var"}, "log_server_path is '/var'"),
        ({"log_server_retention_days": 0}, "log_server_retention_days is 0: keep two days or more"),
        ({"log_server_on_calendar": "0 1 * * *"}, "log_server_on_calendar is '0 1 * * *', which is cron's form"),
        ({"postgres_settings": {"work_mem": "8MB"}, "postgres_preload_libraries": ["pg_stat_statements"]}, None),
        ({"postgres_settings": {"Shared_Preload_Libraries": "pg_stat_statements"}}, "postgres_settings.Shared_Preload_Libraries would take pgAudit away"),
        ({"log_server_forward": {}}, None),
        ({"log_server_forward": {"port": 6514}}, "log_server_forward.host is ''"),
        ({"log_server_forward": {"host": "192.0.2.1"}}, "log_server_forward.host is '192.0.2.1': write the collector's name"),
        ({"log_server_forward": {"host": "siem.test", "ca": "x"}}, "log_server_forward.ca "),
    ],
)
def test_values_of_the_logs(changes, sentence):
    found = problems(**changes)
    assert len(found) == 1 and found[0].startswith(sentence) if sentence else found == [], found


def test_who_gets_the_roles_of_the_logs():
    for group in ("web", "db", "backups"):
        assert {"pki", "logs"} <= contract.roles_of([group], logs=True) and "log_server" not in contract.roles_of([group], logs=True)
    assert {"pki", "logs", "log_server"} <= contract.roles_of(["logs"], logs=True)
    assert not {"pki", "logs", "log_server"} & contract.roles_of(["web", "db", "logs", "backups"])


def test_every_role_belongs_to_a_group():
    """A role that the table forgets would never be validated."""
    assigned = contract.EVERY_HOST.union(*contract.GROUP_ROLES.values(), *contract.FLEET_ROLES.values(), *contract.BACKUP_ROLES.values(),
                                         *contract.LOG_ROLES.values())
    assert {path.name for path in (ROOT / "roles").iterdir() if path.is_dir()} <= assigned


def test_platform():
    assert contract.check_platform("Debian", "13") is None
    assert contract.check_platform("Debian", "12") is None
    assert "runs Ubuntu 24, but Redoubt supports Debian 12 and 13" in contract.check_platform("Ubuntu", "24")
    assert "runs Debian 11" in contract.check_platform("Debian", "11")
    assert "an unknown system" in contract.check_platform(None, None)


def test_reused_secrets():
    found = list(contract.check_vault({"vault_a_password": "k3Qx81hfT0pz", "vault_b": {"password": "k3Qx81hfT0pz"}, "vault_c": "changeme", "vault_d": "k3Qx81hfT0pz\n"}))
    assert [problem.name for problem in found] == ["vault_b.password", "vault_c", "vault_d"]
    assert "same value as vault_a_password" in found[0].sentence and "k3Qx81" not in found[0].sentence
    assert list(contract.check_vault({"vault_a_password": "k3Qx81hfT0pz"}, said={"k3Qx81hfT0pz"})) == []


WEAK = ["short", "Summer2026!", "passwordpassword", "abcdefghijklmnopqrstuvwxyz", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "12345678901234567890", "changeme-please", "Admin-Production-2026", "xyzxyzxyzxyzxyzxyzxyz", "django-secret-key", "abababababababababababab", "20260101", "K3q!",
        "qwertyuiopasdfghjkl", "zxcvbnmqwertyuiop", "1q2w3e4r5t6z", "1qaz2wsx3edc4rfv", "abababababxyxyxyxyxy", "admin", "test", ""]


@pytest.mark.parametrize("value", [*WEAK, 4711])
@pytest.mark.parametrize("name", ["vault_app_admin_password", "vault_app_secret_key", "vault_backup_files_pass"])
def test_weak_secrets(name, value):
    found = list(contract.check_vault({name: value}))
    assert [problem.variable for problem in found] == [name], value
    assert not value or str(value) not in found[0].sentence


def test_what_our_roles_call_secret_is_one_whatever_the_vault_calls_it():
    assert [problem.name for problem in contract.check_vault({"vault_of_the_site": "Abc12345", "vault_other": "Abc12346"}, ours={"Abc12345"})] == ["vault_of_the_site"]


@pytest.mark.parametrize(
    "secrets",
    [
        {"vault_smtp_user": "mailer", "vault_smtp": {"host": "mail", "user": "mailer", "password": "aqwk zbrt mxle oprd"}},
        {"vault_alert_url": "https://hooks.test/a", "vault_ping_url": "https://hooks.test/a"},
        {"vault_smtp_password": "xK2-9fTq"},
        {"vault_flag": True, "vault_none": None, "vault_words_password": "correct horse battery staple"},
        {"vault_key": "-----BEGIN PRIVATE KEY-----\naaaa\n-----END PRIVATE KEY-----\n"},
        # What others gave out is as weak as they like, empty too, and one account may have two names.
        {"vault_smtp_password": "Abc12345", "vault_sms_pin": 4821, "vault_ldap_password": "", "vault_stripe_key": "test"},
        {"vault_smtp_password": "k3Qx81hfT0pzLwGv", "vault_imap": {"mail": {"password": "k3Qx81hfT0pzLwGv"}}},
        # Settings that somebody keeps in a vault.
        {"vault_redis_db": 0, "vault_smtp_tls": "starttls", "vault_imap_tls": "starttls", "vault_stripe_mode": "live", "vault_oauth_scope": "openid", "vault_currency": "EUR",
         "vault_phone": "12345678", "vault_office_ips": ["192.0.2.1", "192.0.2.2"], "vault_app_language": "de", "vault_mode": "replace", "vault_tls": "insecure",
         "vault_environment": "production", "vault_deploy_environment": "production", "vault_title": "Your shop", "vault_from": "<shop@our-site.net>", "vault_pass_through": "yes",
         "vault_token_lifetime": 300, "vault_password_min_length": 12, "vault_secret_name": "x", "vault_public_key": "test", "vault_empty": "", "vault_login": "admin"},
        {"vault_app_secret_env": {"EMAIL_USE_TLS": "1", "LOG_LEVEL": "INFO", "SENTRY_ENVIRONMENT": "staging", "EMAIL_HOST_USER": "admin", "DB_USER": "test", "EMAIL_HOST_PASSWORD": "Abc12345",
                                  "PASSWORD_RESET_TIMEOUT": "3600", "SOMETHING": "", "CSRF_USE_SESSIONS": "test"}},
    ],
)
def test_what_is_no_proof_of_anything_may_be_short_and_the_same(secrets):
    assert list(contract.check_vault(secrets)) == []


@pytest.mark.parametrize("value", ["changeme", "change_me", "TODO", "<password>", "xxxx", "replace-me", "FIXME!", "your-api-key", "placeholder"])
@pytest.mark.parametrize("name", ["vault_thing", "vault_smtp_password", "vault_smtp_host"])
def test_a_placeholder_is_none_of_anybodys(name, value):
    found = list(contract.check_vault({name: value}))
    assert [problem.variable for problem in found] == [name] and "is a placeholder" in found[0].sentence


def test_a_secret_that_somebody_answers_for_is_accepted():
    weak = {"vault_printer_password": "4711", "vault_door_password": "4711"}
    reason = "the device takes four digits"
    assert len(list(contract.check_vault(weak))) == 2
    assert "accepted_secrets" in next(contract.check_vault(weak)).sentence
    assert [problem.variable for problem in contract.check_vault(weak, accepted={"vault_printer_password": reason})] == ["vault_door_password"]
    inner = {"vault_house": {"door_password": "4711", "gate_password": "4712"}}
    assert [problem.name for problem in contract.check_vault(inner, accepted={"vault_house.door_password": reason})] == ["vault_house.gate_password"]
    assert list(contract.check_vault(inner, accepted={"vault_house": reason})) == []
    for nothing in ({"vault_printer_password": ""}, {"vault_printer_password": None}, ["vault_printer_password"], None, "vault_printer_password"):
        assert len(list(contract.check_vault(weak, accepted=nothing))) == 2


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=1, max_size=60))
def test_strength_does_not_count_what_is_repeated(value):
    assert contract.strength(value * 3) <= contract.strength(value) + 7
    assert contract.strength(value) <= len(value) * 6


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["", "/", "..", "a b", "-", "git@", "ssh://[", "|1|", "/%", "1.2.3.4/", "@"])
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["url", "path", "process", "name", "keys", "dest", "content", "command", "A", "", "x"]), inner, max_size=4), max_leaves=8)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(OPTIONS)), ANYTHING)
def test_no_value_breaks_the_preflight(name, value):
    for sentence in problems(**{name: value}):
        assert sentence.startswith(tuple(OPTIONS)), sentence


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["app_repo", "app_domains", "app_routes", "app_static", "base_admins", "app_repo_known_hosts", "app_pip_index"]), st.text(max_size=30), st.text(max_size=30))
def test_no_text_breaks_the_preflight(name, one, two):
    shapes = {"app_domains": [one, two], "app_routes": {one: {"process": two}}, "app_static": [{"url": one, "path": two}], "base_admins": [{"name": one, "keys": [two]}]}
    problems(**{"app_repo": "ssh://git@git.test/x", name: shapes.get(name, one + two)})


# --- The action plugin, by real runs of ansible-playbook -------------------------------------------------------------

PLAYBOOK = """
- hosts: all:localhost
  become: false
  gather_facts: false
  tasks:
    - name: Validate the inventory
      redoubt.django.preflight:
      run_once: true

- hosts: logs:web
  become: false
  gather_facts: false
  tasks:
    - name: Touch the host
      ansible.builtin.debug:
        msg: first-change
"""
INVENTORY = {
    "app_name": "notes",
    "app_domains": ["notes.test"],
    "app_repo": "https://git.test/notes.git",
    "app_version": "v1.0",
    "app_settings_module": "config.settings",
    "app_wsgi": "config.wsgi:application",
    "app_acme_directory": "https://acme.test:14000/dir",
    "app_env": {"DATABASE_URL": "{{ app_database_url }}", "STATIC": "{{ app_static_root }}"},
    "app_secret_env": {"SECRET_KEY": "{{ app_secret_key }}"},
    "vault_app_secret_key": KEY,
    "base_admins": [{"name": "ops", "keys": [PUBLIC]}],
    "ansible_user": "ops",
}
HOSTS = {"web": {"hosts": {"app1": None}}, "db": {"hosts": {"app1": None}}}


class Run:
    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.variables = copy.deepcopy(INVENTORY)
        self.hosts = copy.deepcopy(HOSTS)
        self.playbook = PLAYBOOK

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess:
        inventory = self.folder / "inventories" / "lab"
        (inventory / "group_vars" / "all").mkdir(parents=True, exist_ok=True)
        (inventory / "hosts.yml").write_text(yaml.safe_dump(self.hosts))
        (inventory / "group_vars" / "all" / "main.yml").write_text(yaml.safe_dump(self.variables, sort_keys=False))
        (self.folder / "play.yml").write_text(self.playbook)
        environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_HOME": str(self.folder / "home")}
        command = [pathlib.Path(sys.executable).parent / "ansible-playbook", "-i", "inventories/lab", "play.yml", *arguments]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def test_a_good_inventory_passes_in_check_mode_and_with_a_limit(run):
    answer = run("--check", "--limit", "app1")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "first-change" in answer.stdout


def test_all_mistakes_in_one_run_and_nothing_touched(run):
    run.variables["app_domain"] = run.variables.pop("app_domains")
    run.variables["app_version"] = 1.1
    run.variables["app_processes"] = {"asgi": {"command": "daphne", "lisen": True}}
    run.variables["app_env"].update({"DEBUG": "{{ debug_mode }}", "HOSTS": "{{ app_domains | join }}", "NAME": "{{ app_package }}"})
    del run.variables["vault_app_secret_key"]
    del run.variables["app_wsgi"]
    answer = run()
    assert answer.returncode != 0 and "first-change" not in answer.stdout
    lines = [line.strip()[2:] for line in answer.stdout.splitlines() if line.strip().startswith("- ")]
    place = "inventories/lab/group_vars/all/main.yml"
    assert "app_domain is no variable of this kit: did you mean app_domains?" in lines[0] and place + ":" in lines[0]
    assert [line for line in lines if line.startswith("debug_mode is not defined, but app_env uses it")]
    assert [line for line in lines if line.startswith("vault_app_secret_key is not defined, but app_secret_env and app_secret_key take it from the vault: playbooks/secrets.yml makes it, or add it with `ansible-vault edit inventories/lab/group_vars/all/vault.yml`")]
    # app_domains itself is not complained of as missing: one mistake, one sentence.
    assert not [line for line in lines if line.startswith("app_domains")]
    assert [line for line in lines if line.startswith("app_package is not defined, but app_env uses it")]
    assert [line for line in lines if line.startswith("app_wsgi is required, a text")]
    assert [line for line in lines if re.search(rf"app_version is the number 1.1 to YAML.*\({place}:\d+, app1\)", line)]
    assert [line for line in lines if line.startswith("app_processes.asgi has an unknown key 'lisen'")]
    assert len(lines) == 7, lines


def test_one_mistake_is_the_message_itself(run):
    run.variables["app_wsgi"] = "config.wsgi"
    answer = run("--check")
    assert "app_wsgi is 'config.wsgi': write module:callable, e.g. config.wsgi:application. (inventories/lab/group_vars/all/main.yml:" in answer.stdout


def test_secret_values_are_never_shown(run):
    secret = "k3Qx81hf T0pzLwGv?"
    run.variables["vault_path"] = secret
    run.variables["vault_twin_password"] = secret
    run.variables["app_health_path"] = "{{ vault_path }}"
    run.variables["app_domains"] = [secret]
    run.variables["app_secret_key"] = secret
    run.variables["app_files"] = [{"dest": "../notes.ini", "content": "{{ vault_path }}"}]
    answer = run("-vvv")
    assert answer.returncode != 0
    assert secret not in answer.stdout + answer.stderr and "k3Qx81hf" not in answer.stdout + answer.stderr
    assert "app_files[0].dest is '../notes.ini'" in answer.stdout
    for name in ("vault_twin", "app_health_path", "app_domains", "app_secret_key"):
        assert name in answer.stdout


def test_weak_secrets_are_refused_before_anything_is_touched(run):
    weak = "Winter2025!"
    run.variables["vault_app_admin_password"] = weak
    run.variables["app_secret_env"]["DJANGO_SUPERUSER_PASSWORD"] = "{{ vault_app_admin_password }}"
    answer = run("-vvv")
    assert answer.returncode != 0 and "first-change" not in answer.stdout
    assert "vault_app_admin_password is too weak (11 characters that can be guessed)" in answer.stdout and weak not in answer.stdout + answer.stderr
    run.variables["accepted_secrets"] = {"vault_app_admin_password": "a demonstration that is open to everybody"}
    run.variables["vault_alias_password"] = "{{ vault_app_admin_password }}"
    answer = run()
    assert answer.returncode == 0, answer.stdout
    # What one of our roles calls secret is one under any name.
    run.variables["base_alert_url"] = "{{ vault_call }}"
    run.variables["vault_call"] = "https://hooks.our-site.net/a"
    run.variables["app_database_password"] = "{{ vault_of_a_role }}"
    run.variables["vault_of_a_role"] = "Abc12345"
    assert "vault_of_a_role is too weak" in run().stdout and "vault_call" not in run().stdout
    run.variables["app_database_password"] = ["{{ vault_of_a_role }}"]
    assert "app_database_password is a list, but must be a text" in run().stdout
    del run.variables["app_database_password"], run.variables["vault_of_a_role"]
    # What a rule of its own has refused is not refused a second time under its other name.
    run.variables["vault_app_admin_password"] = "k3Qx81hfT0pzLwGv"
    run.variables["vault_app_secret_key"] = "k3Qx81hf"
    answer = run()
    assert "app_secret_key has 8 characters" in answer.stdout and "vault_app_secret_key" not in answer.stdout


def test_places_of_single_hosts(run):
    run.hosts["web"]["hosts"]["app1"] = {"app_max_body_size": "10MB"}
    run.hosts["logs"] = {"hosts": {"store1": {"app_nme": "x"}}}
    run.hosts["db"]["hosts"]["app2"] = {"ansible_host": "192.0.2.1"}
    run.hosts["web"]["hosts"]["app2"] = {}
    run.hosts["logs"]["hosts"]["app3"] = {"ansible_host": "192.0.2.1"}
    answer = run()
    assert "app_max_body_size is '10MB', which is no size to nginx: write 10m. (inventories/lab/hosts.yml:" in answer.stdout
    assert re.search(r"app_nme is no variable of this kit: did you mean app_name\? \(inventories/lab/hosts.yml:\d+, store1\)", answer.stdout)
    assert "notes.test is in app_domains of app1 and app2" in answer.stdout
    assert "app2 and app3 are the same machine" in answer.stdout


def test_a_value_is_judged_on_the_host_whose_it_is_however_it_comes_there(run):
    names = [f"app{number}" for number in range(1, 9)]
    run.hosts["web"]["hosts"] = run.hosts["db"]["hosts"] = {name: {"ansible_host": f"192.0.2.{number}", "own": "10m"} for number, name in enumerate(names)}
    own = run.hosts["web"]["hosts"]
    run.variables |= {"app_releases_kept": 1, "app_max_body_size": "{{ through }}", "through": "{% set local = own %}{{ local }}", "nginx_login_rate": "{{ lookup('vars', 'ra' ~ 'te') }}",
                      "rate": "5r/s", "app_project_dir": "{{ hostvars[inventory_hostname].own }}", "app_env": {"OWN": "{{ mine }}"}, "mine": "x"}
    own["app2"]["own"] = "10MB"
    own["app3"]["app_releases_kept"] = True
    own["app4"]["rate"] = "fast"
    own["app5"]["own"] = "../up"
    own["app6"]["mine"] = "{{ nowhere }}"
    own["app7"] = {**own["app7"], "app_domains": ["notes"]}
    answer = run()
    for sentence, host in (("app_max_body_size is '10MB'", "app2"), ("app_releases_kept is true or false", "app3"),
                           ("nginx_login_rate is 'fast'", "app4"), ("app_project_dir is '../up'", "app5"), ("nowhere is not defined", "app6"),
                           (r"app_domains\[0\] is 'notes'", "app7")):
        assert re.search(rf"(?m)^ *- ({sentence}).*[( ]{host}\)$", answer.stdout), (sentence, answer.stdout)


@pytest.mark.parametrize(
    ("one", "two", "rendered"),
    [
        ({"a": "{{ b }}", "b": "x"}, {}, 1),
        ({"a": ["{{ b.c }}"], "b": {"c": "{{ d }}"}, "d": 1}, {"d": 2}, 2),
        ({"a": ["{{ b.c }}"], "b": {"c": "{{ d }}"}, "d": 1}, {"e": 2}, 1),
        ({"a": "{{ b }}", "b": 1}, {"b": True}, 2),
        ({"a": "{{ b | default('x') }}"}, {"b": "x"}, 2),
        ({"a": "{% for b in c %}{{ b }}{% endfor %}", "c": [1]}, {"c": [1]}, 1),
        ({"a": "{{ b['c'] }} c don't {{ d }}", "b": {"c": 1}, "c": 1, "d": 1}, {"c": 2}, 1),
        ({"a": "{{ b['c'] }} c don't {{ d }}", "b": {"c": 1}, "c": 1, "d": 1}, {"d": 2}, 2),
        ({"a": "{{ lookup('vars', 'b') }}"}, {}, 2),
        ({"a": "{{ b }}", "b": "{{ vars['c'] }}"}, {}, 2),
        ({"a": "{% include 'b' %}"}, {}, 2),
        ({"a": "#jinja2: variable_start_string: '[['\n[[ b ]]", "b": 1}, {"b": 2}, 2),
        ({"a": "{{ b"}, {}, 2),
        ({"a": "{{ a }}"}, {}, 1),
        ({"a": "{{ b }}"}, {"a": '{{ b }}'[:3] + 'b }}'}, 2),
    ],
)
def test_what_is_the_same_on_another_host_is_rendered_once(one, two, rendered):
    shared, asked = preflight.Shared(), []
    for variables in (one, {**one, **two}):
        shared.once("a", variables, asked.append)
    assert len(asked) == rendered


def test_extra_variables_of_the_command_line(run):
    answer = run("-e", "app_releases_kept=3")
    assert "app_releases_kept is the text '3' but must be a whole number" in answer.stdout
    assert run("-e", '{"app_releases_kept": 3}').returncode == 0


def test_logs_that_are_received_need_the_ca_and_addresses(run):
    run.hosts["logs"] = {"hosts": {"store1": {}}}
    answer = run()
    for sentence in ("pki_ca_certificate is required", "vault_pki_ca_key is not defined, but pki_ca_key", "base_addresses of app1 is empty", "base_addresses of store1 is empty"):
        assert sentence in answer.stdout


def test_the_environments_own_ca_is_asked_for_where_it_signs(run):
    run.variables["app_admin_client_ca"] = "environment"
    answer = run()
    assert "pki_ca_certificate is required" in answer.stdout and "vault_pki_ca_key is not defined" in answer.stdout


BACKED_UP_HOSTS = {
    "web": {"hosts": {"app1": {"base_addresses": ["192.0.2.1"]}}}, "db": {"hosts": {"app1": None}}, "backups": {"hosts": {"store1": {"base_addresses": ["192.0.2.2"]}}},
}


def test_what_backups_take_from_the_vault_is_asked_for_by_its_name(run):
    run.hosts = copy.deepcopy(BACKED_UP_HOSTS)
    answer = run()
    assert answer.returncode != 0 and "first-change" not in answer.stdout
    for sentence in ("pki_ca_certificate is required", "vault_pki_ca_key is not defined, but pki_ca_key", "vault_backup_database_pass is not defined, but app_backup_database_pass",
                     "vault_backup_files_pass is not defined, but app_backup_files_pass"):
        assert sentence in answer.stdout, answer.stdout
    assert answer.stdout.count("vault_backup_files_pass is not defined") == 1


def test_backups_with_all_they_need_pass(run):
    run.hosts = copy.deepcopy(BACKED_UP_HOSTS)
    authority = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(authority.public_key()).serial_number(1)
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=3650)).add_extension(x509.BasicConstraints(True, 0), True)
    run.variables |= {"vault_backup_database_pass": PASS, "vault_backup_files_pass": OTHER_PASS,
                      "pki_ca_certificate": builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode(),
                      "vault_pki_ca_key": authority.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()}
    answer = run()
    assert answer.returncode == 0 and "first-change" in answer.stdout, answer.stdout
    del run.hosts["backups"]["hosts"]["store1"]["base_addresses"]
    assert "base_addresses of store1 is empty and its ansible_host no address" in run().stdout


def test_the_operating_system_from_facts(run):
    run.playbook = PLAYBOOK.replace("preflight:\n", "preflight:\n        facts: true\n")
    run.hosts["web"]["hosts"]["app1"] = {"ansible_facts": {}}
    answer = run()
    assert "app1 runs an unknown system, but Redoubt supports Debian 12 and 13" in answer.stdout


@pytest.mark.parametrize(("package", "refused"), [("postgresql-15", True), ("postgresql-17", False)])
def test_mixed_majors_of_postgresql_from_what_the_hosts_have(run, package, refused):
    facts = "{distribution: Debian, distribution_major_version: '13', cacheable: true}"
    reads = f"  tasks:\n    - ansible.builtin.set_fact: {facts}\n    - ansible.builtin.set_fact: {{site_host_state: {{packages: [{package}]}}}}\n"
    run.playbook = PLAYBOOK.replace("all:localhost", "all").replace("  tasks:\n", reads, 1).replace("preflight:\n", "preflight:\n        facts: true\n")
    answer = run()
    assert ("app1 has PostgreSQL 15 from before it was Debian 13" in answer.stdout) is refused, answer.stdout
    assert (answer.returncode != 0) is refused


# --- What only the inventory's files show ----------------------------------------------------------------------------


def test_a_group_and_an_inventory_without_hosts(run):
    run.hosts["logs"] = {"hosts": {}}
    assert "The group logs has no hosts: put one into it, or remove the group." in run().stdout
    for playbook in ("site", "deploy"):
        run.hosts = {"web": {"hosts": {}}, "db": {"hosts": {}}}
        run.playbook = (ROOT / f"playbooks/{playbook}.yml").read_text()
        answer = run()
        assert answer.returncode != 0 and "The group web has no hosts" in answer.stdout, answer.stdout


@pytest.mark.parametrize(
    ("name", "text", "sentences"),
    [
        ("hosts.yml", "web:\n  hosts:\n    app1:\ndb:\n  hosts:\n    app1:\n    app1: {ansible_host: 192.0.2.1}\n", ["app1 stands twice in db (inventories/lab/hosts.yml, lines 6 and 7)"]),
        ("hosts.yml", "all:\n  hosts: {app1: {ansible_host: 192.0.2.1}}\n  children:\n    web: {hosts: {app1: }}\n    db:\n      hosts: {app1: }\n    db:\n      hosts: {app1: }\n",
         ["the group db stands twice in the children of all (inventories/lab/hosts.yml, lines 5 and 7)", "app1 stands twice in db"]),
        ("hosts.yml", "web: {hosts: {app1: , app2: }}\ndb:\n  hosts:\n    app[1:2]:\n    app2:\n", ["app2 stands twice in db"]),
        ("hosts.ini", "# all of it\n[web]\napp1\n[db]\napp1 ansible_port=22\n; app1\napp1 ansible_port=23\n[db:vars]\napp1=1\n", ["app1 stands twice in db (inventories/lab/hosts.ini, lines 5 and 7)"]),
        ("hosts.ini", "app1 ansible_port=22\n[web]\napp1\n[db]\napp1\n[db:vars]\nx=1\nx=2\n", []),
        ("hosts.yml", "all:\n  hosts: {app1: }\nweb: {hosts: {app1: }}\ndb: {hosts: {app1: }, vars: {x: !vault a}}\n", []),
        ("hosts.yml", "", []),
        ("hosts.yml", "[", []),
    ],
)
def test_a_host_twice_in_a_group(tmp_path, monkeypatch, name, text, sentences):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "inventories/lab" / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    found = list(sources.check_twice(["inventories/lab"]))
    assert len(found) == len(sentences) and all(one.startswith(wanted) for one, wanted in zip(found, sentences, strict=True)), found
    assert all(one.endswith(", and only the last would count: leave one.") for one in found)
    # A program that prints one is not read.
    path.chmod(0o755)
    assert list(sources.check_twice(["inventories/lab", "app1,app2"])) == []


def test_a_host_twice_in_db_is_refused(run):
    run.hosts = {"web": {"hosts": {"app1": None}}, "db": {"hosts": {"app[1:1]": None, "app1": None}}}
    answer = run()
    assert answer.returncode != 0 and "app1 stands twice in db (inventories/lab/hosts.yml, lines 3 and 4)" in answer.stdout, answer.stdout


@pytest.fixture
def staging(run):
    """An environment beside the one that is run."""
    folder = run.folder / "inventories/staging"
    (folder / "group_vars/all").mkdir(parents=True)
    (folder / "hosts.yml").write_text(yaml.safe_dump(HOSTS))
    (folder / "group_vars/all/main.yml").write_text("app_batch: 1\napp_releases_kept: 4\n")
    return folder


def test_variables_of_another_environment(run, staging):
    assert run().returncode == 0
    answer = run("-e", "@inventories/staging/group_vars/all/main.yml")
    assert answer.returncode != 0 and "first-change" not in answer.stdout
    assert re.sub(r"\s+", " ", answer.stdout).count("inventories/staging/group_vars/all/main.yml is of the environment staging, and app_batch and app_releases_kept would come from "
                                                    "it into lab: leave it out, or run for staging (-i inventories/staging).") == 2, answer.stdout
    answer = run("-i", "inventories/staging")
    assert "inventories/lab and inventories/staging are two environments, whose variables would mix: run for one of them (-i)." in answer.stdout
    # A folder that several environments share is none.
    (staging / "hosts.yml").unlink()
    assert run("-e", "@inventories/staging/group_vars/all/main.yml").returncode == 0


def test_a_vault_of_another_environment(run, staging, vault):
    command = [pathlib.Path(sys.executable).parent / "ansible-vault", "rekey", "--vault-id", "lab@right", "--new-vault-id", "staging@right", vault]
    subprocess.run(command, cwd=run.folder, check=True, capture_output=True, env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")})
    answer = run("--vault-id", "staging@right")
    assert answer.returncode != 0 and "inventories/lab/group_vars/all/vault.yml has a vault of the environment staging, but is in lab" in answer.stdout
    # An id that no environment has is anybody's choice.
    (staging / "hosts.yml").unlink()
    assert run("--vault-id", "staging@right").returncode == 0


ROLE = """
- hosts: web
  become: false
  gather_facts: false
  tasks:
    - ansible.builtin.set_fact: {ansible_connection: local}
    - PREFLIGHT
    - ansible.builtin.import_role: {name: redoubt.django.app, tasks_from: releases, rolespec_validate: false}
"""


@pytest.mark.parametrize(("preflight", "validated"), [("ansible.builtin.debug:", True), ("{ansible.builtin.debug: , register: site_preflight}", False)])
def test_the_contract_is_validated_by_its_role_where_there_was_no_preflight(run, preflight, validated):
    """And only there: it takes longer than most tasks, once a role and play."""
    run.playbook = ROLE.replace("PREFLIGHT", preflight)
    run.variables["app_source"] = "gti"
    answer = run()
    assert ("value of app_source must be one of" in answer.stdout) is validated, answer.stdout
    assert ("Read the releases" in answer.stdout) is not validated, answer.stdout
    # A failing validation prints the whole interface, with its templates rendered.
    assert KEY not in answer.stdout + answer.stderr


def test_every_playbook_has_a_preflight_or_says_that_it_has_none():
    for path in sorted(ROOT.glob("playbooks/*.yml")):
        first, *others = (play for play in yaml.safe_load(path.read_text()) if "hosts" in play)
        preflight = first["tasks"][0].get("redoubt.django.preflight", {"only": ""})
        if "only" not in (preflight or {}):
            assert first["tasks"][0]["register"] == "site_preflight", path
        else:
            assert all(play["vars"]["site_preflight"] == "skipped" for play in ([first] if not preflight["only"] else []) + others if play["hosts"] != "localhost"), path
    for path in sorted(ROOT.glob("roles/*/meta/main.yml")):
        for role in yaml.safe_load(path.read_text())["dependencies"]:
            assert role == {"role": "redoubt.django.site"}, path


@pytest.fixture
def vault(run):
    """An inventory with an encrypted file, and the passwords beside it."""
    (run.folder / "right").write_text("right\n")
    (run.folder / "wrong").write_text("wrong\n")
    run.variables.pop("vault_app_secret_key")
    path = run.folder / "inventories" / "lab" / "group_vars" / "all" / "vault.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"vault_app_secret_key: {KEY}\n")
    command = [pathlib.Path(sys.executable).parent / "ansible-vault", "encrypt", "--vault-id", "lab@right", path]
    subprocess.run(command, cwd=run.folder, check=True, capture_output=True, env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")})
    return path


def flip_the_last_digit(text: str) -> str:
    """Of the ciphertext, which the file holds as hexadecimal digits written in hexadecimal."""
    text = text.rstrip()
    return text[:-2] + ("35" if text[-2:] != "35" else "36") + "\n"


@pytest.mark.parametrize(
    ("damage", "arguments", "sentence"),
    [
        (None, ["--vault-id", "lab@right"], None),
        (None, [], "vault.yml is encrypted and no vault password was given: add --vault-id lab@"),
        (None, ["--vault-id", "lab@wrong"], "vault.yml does not open with the vault password given: give the one of the vault id 'lab'"),
        (lambda text: text.splitlines()[0] + "\n", ["--vault-id", "lab@right"], "vault.yml is a damaged vault"),
        (flip_the_last_digit, ["--vault-id", "lab@right"], "vault.yml does not open with the vault password given"),
    ],
)
def test_a_vault_that_does_not_open(run, vault, damage, arguments, sentence):
    if damage:
        vault.write_text(damage(vault.read_text()))
    answer = run(*arguments)
    if sentence is None:
        assert answer.returncode == 0, answer.stdout + answer.stderr
    else:
        assert answer.returncode != 0
        assert f"inventories/lab/group_vars/all/{sentence}" in answer.stderr + answer.stdout
        assert "TASK" not in answer.stdout
