# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""What the values of an inventory must be: the typed part from the roles' argument_specs, and the rules no type can say.

Nothing in here knows Ansible's run time: every function takes plain values and yields Problem objects, so that the
action plugin `preflight` and the unit tests use the same code.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import difflib
import functools
import hashlib
import hmac
import ipaddress
import itertools
import math
import os
import re
import shutil
import struct
import subprocess
import typing as t
import urllib.parse

from ansible_collections.redoubt.django.plugins.plugin_utils.authority import Authority, Unusable
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version


@dataclasses.dataclass(frozen=True)
class Problem:
    """One sentence about one value. `path` leads from the variable to the value: keys and indexes."""

    variable: str
    sentence: str
    path: tuple = ()

    @property
    def name(self) -> str:
        return dotted(self.variable, self.path)


def dotted(variable: str, path: t.Iterable) -> str:
    text = variable
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if re.fullmatch(r"\w+", str(step)) else f"[{str(step)!r}]"
    return text


def nearest(name: str, names: t.Iterable[str], cutoff: float = 0.6) -> str | None:
    found = difflib.get_close_matches(name, list(names), n=1, cutoff=cutoff)
    return found[0] if found else None


def closest(name: str, names: t.Iterable[str], cutoff: float = 0.6) -> str:
    """`: did you mean x?`, or nothing."""
    found = nearest(name, names, cutoff)
    return f": did you mean {found}?" if found else ""


# --- Types -----------------------------------------------------------------------------------------------------------

KIND = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list", dict: "a mapping", type(None): "empty"}
WANTED = {
    "str": "a text",
    "path": "a path",
    "raw": "anything",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "dict": "a mapping",
}


def kind(value: t.Any) -> str:
    for known, text in KIND.items():
        if isinstance(value, known):
            return text
    return type(value).__name__


def type_problem(wanted: str, value: t.Any, choices: t.Sequence | None, secret: bool) -> str | None:
    """Why `value` is not of type `wanted`. Nothing is coerced: what a template would see is what counts."""
    shown = "" if secret or isinstance(value, (list, dict)) else f" ({value!r})" if isinstance(value, str) else f" ({str(value).lower()})"
    if value is None:
        return f"is empty: give it {WANTED.get(wanted, wanted)}, or remove the line to keep the default"
    if wanted in ("str", "path"):
        if isinstance(value, str):
            return None
        if isinstance(value, bool) and choices:
            return f"is {str(value).lower()}, because YAML reads a bare on, off, yes or no as true or false: put it in quotes"
        if isinstance(value, bool):
            return f"is {str(value).lower()}, but must be a text: put it in quotes if it is meant as one"
        if isinstance(value, (int, float)):
            return f"is the number {'' if secret else str(value) + ' '}to YAML (1.10 becomes 1.1, 010 becomes 8, 03:00 becomes 180): put it in quotes"
        return f"is {kind(value)}, but must be a text"
    if wanted == "int":
        if isinstance(value, int) and not isinstance(value, bool):
            return None
        if isinstance(value, str) and re.fullmatch(r"-?\d+", value):
            return f"""is the text {'' if secret else repr(value) + ' '}but must be a whole number: remove the quotes (on the command line: -e '{{"name": 5}}')"""
    elif wanted == "float":
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return None
    elif wanted == "bool":
        if isinstance(value, bool):
            return None
        if isinstance(value, str) and value.lower() in ("true", "false", "yes", "no", "on", "off", "1", "0"):
            return f"""is the text {'' if secret else repr(value) + ' '}but must be true or false: remove the quotes (on the command line: -e '{{"name": true}}')"""
    elif wanted == "list":
        if isinstance(value, list):
            return None
        if isinstance(value, str) and not secret:
            return f"is the text {value!r}, but must be a list: write [{value}]"
    elif wanted == "dict":
        if isinstance(value, dict):
            return None
    elif wanted == "raw":
        return None
    return f"is {kind(value)}{shown}, but must be {WANTED.get(wanted, wanted)}"


def check_type(spec: dict, variable: str, value: t.Any, path: tuple = (), secret: bool = False) -> t.Iterator[Problem]:
    """Type, choices, elements and nested options of one value."""
    secret = secret or bool(spec.get("no_log"))
    wanted = spec.get("type", "str")
    choices = spec.get("choices")
    sentence = type_problem(wanted, value, choices, secret)
    if sentence:
        yield Problem(variable, sentence, path)
        return
    if choices and wanted != "list" and value not in choices:
        shown = "" if secret else f" {value!r},"
        hint = closest(str(value), map(str, choices))
        # A long list helps less than the one name that was meant.
        wanted_is = "which is none of its values" if hint and len(choices) > 8 else f"but must be {alternatives(choices)}"
        yield Problem(variable, f"is{shown or ' something'} {wanted_is}{hint}", path)
    if wanted == "list":
        for index, element in enumerate(value):
            inner = {"type": spec.get("elements", "raw"), **{key: spec[key] for key in ("options", "choices") if key in spec}}
            yield from check_type(inner, variable, element, (*path, index), secret)
    elif wanted == "dict" and "options" in spec:
        yield from check_options(spec["options"], variable, value, path, secret)


def check_options(options: dict, variable: str, value: dict, path: tuple = (), secret: bool = False) -> t.Iterator[Problem]:
    """The keys of a mapping against the options that describe it."""
    for key in value:
        if key not in options:
            hint = closest(str(key), options) or f": it takes {listed(options)}"
            yield Problem(variable, f"has an unknown key {str(key)!r}{hint}", path)
    for key, spec in options.items():
        if key in value:
            yield from check_type(spec, variable, value[key], (*path, key), secret)
        elif spec.get("required"):
            yield Problem(variable, f"lacks {key}: {first_sentence(spec)}", path)


def first_sentence(spec: dict) -> str:
    text = spec.get("description") or WANTED.get(spec.get("type", "str"), "")
    text = " ".join(text) if isinstance(text, list) else text
    return re.split(r"(?<=[.])\s", text.strip())[0].rstrip(".")


def split_url(url: str) -> urllib.parse.SplitResult:
    """As urlsplit; what cannot be split has no parts."""
    try:
        parts = urllib.parse.urlsplit(url)
        return parts if parts.port != 0 else urllib.parse.SplitResult("", "", "", "", "")
    except ValueError:
        return urllib.parse.SplitResult("", "", "", "", "")


def listed(names: t.Iterable, last: str = "and") -> str:
    names = [str(name) for name in names]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}" if names else "nothing"


def alternatives(names: t.Iterable) -> str:
    return listed(names, "or")


# --- Rules -----------------------------------------------------------------------------------------------------------
# A rule is a generator over one variable's value (only called when its type is right); it yields a sentence, or a
# sentence and the path of the part it is about. `values` holds all variables of the host that could be rendered.

RULES: dict[str, list[t.Callable]] = {}


def rule(*variables: str) -> t.Callable:
    def register(function: t.Callable) -> t.Callable:
        for variable in variables:
            RULES.setdefault(variable, []).append(function)
        return function

    return register


class Values(dict):
    """The values of the right type; `bad` names the others, which a rule must not call missing, `replaces` the secret that is about to be another."""

    bad: frozenset[str] = frozenset()
    replaces: str = ""


def check_rules(variables: dict, skip: t.Collection[str] = (), replaces: str = "") -> t.Iterator[Problem]:
    values = Values({name: value for name, value in variables.items() if name not in skip})
    values.bad, values.replaces = frozenset(skip), replaces
    for variable, functions in RULES.items():
        if variable not in values:
            continue
        for function in functions:
            for found in function(values[variable], values):
                sentence, path = found if isinstance(found, tuple) else (found, ())
                yield Problem(variable, sentence, tuple(path))


def text(values: dict, variable: str) -> str:
    """Another variable that a rule needs, when it is there and a text."""
    value = values.get(variable, "")
    return value if isinstance(value, str) else ""


RESERVED_TLDS = ("test", "localhost", "invalid", "example", "local", "internal")
# Unix users, groups, folders of /etc and /run, and PostgreSQL's own words: the application would share them.
RESERVED_NAMES = frozenset(
    """
    root daemon bin sys sync games man lp mail news uucp proxy backup list irc nobody adm tty disk cdrom sudo admin wheel
    users staff operator shadow utmp video audio plugdev crontab messagebus systemd sshd ssh nginx postgres postgresql
    redis certbot acme letsencrypt fail2ban rsyslog syslog chrony ntp ntpsec polkitd polkit dbus udev cron apt dpkg
    default init security ssl pam skel profile passwd group hosts hostname fstab environment motd issue opt alternatives
    nftables firewall logrotate sysctl modules network networks services protocols shells localtime timezone python3 perl
    kernel grub ldap lock log user users_d initctl credentials mount screen rpcbind apache2 gunicorn redoubt
    git restic pgbackrest template0 template1 public all replication sameuser samerole none
    current_user session_user information_schema live blue green
    """.split()  # noqa: SIM905 - a list of words reads better so
)


@rule("app_name")
def app_name(value, values):
    if not re.fullmatch(r"[a-z][a-z0-9_]{1,30}", value):
        better = re.sub(r"[^a-z0-9_]+", "_", value.lower()).strip("_0123456789")[:31]
        hint = f", e.g. {better}" if re.fullmatch(r"[a-z][a-z0-9_]{1,30}", better) else ""
        yield f"is {value!r}: a unix user and a database are called so, write 2 to 31 of a-z, 0-9 and _ with a letter first{hint}"
    elif value in RESERVED_NAMES or value.startswith(("pg_", "systemd_")):
        yield f"is {value!r}, which the operating system or PostgreSQL uses itself: choose another, e.g. {value[:24]}_site"
    names = [admin.get("name") for admin in values.get("base_admins") or [] if isinstance(admin, dict)]
    if value in names:
        yield f"is {value!r}, which is also the name of an administrator in base_admins: the application needs a user of its own"


@rule("app_domains")
def app_domains(value, values):
    if not value:
        yield "is an empty list: name at least one domain that leads to the host"
    for index, domain in enumerate(value):
        sentence = domain_problem(domain)
        if sentence:
            yield f"is {domain!r}: {sentence}", (index,)
        elif domain in value[:index]:
            yield f"names {domain!r} a second time: remove one", (index,)
        elif public_acme(values) and domain.endswith(tuple("." + tld for tld in RESERVED_TLDS)):
            yield f"is {domain!r}, a reserved name that no public ACME server certifies: use a domain of your own, or set app_acme_directory to a private server", (index,)
        elif public_acme(values) and re.search(r"(^|\.)example\.(com|net|org)$", domain):
            yield f"is still the placeholder {domain!r}: write the domain that leads to the host", (index,)
    if len(value) > 100:
        yield f"has {len(value)} names, but a certificate of Let's Encrypt holds 100: split the site"


def domain_problem(domain: str) -> str | None:
    if "://" in domain or "/" in domain:
        return f"write the host name alone, {split_url(domain if '://' in domain else '//' + domain).hostname or 'without scheme and path'}"
    if "*" in domain:
        return "a wildcard cannot be certified over HTTP-01: list each name"
    try:
        ipaddress.ip_address(domain.strip("[]"))
        return "a certificate and the Host header need a name, not an address"
    except ValueError:
        pass
    if re.search(r":\d*$", domain):
        return f"write the name without a port, {domain.split(':')[0]}"
    if not domain.isascii():
        try:
            return f"write it in its ASCII form, {domain.lower().encode('idna').decode()}"
        except UnicodeError:
            return "not a domain name"
    if domain != domain.lower():
        return f"write it in lower case, {domain.lower()}"
    if domain.endswith("."):
        return f"write it without the final dot, {domain.rstrip('.')}"
    if "_" in domain:
        return "a host name has no underscore"
    if "." not in domain:
        return "a name without a dot cannot be certified: write the full domain name"
    if len(domain) > 253 or not all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", label) for label in domain.split(".")):
        return "not a domain name: labels of a-z, 0-9 and -, up to 63 characters each, separated by single dots"
    if domain.rsplit(".", 1)[1].isdigit():
        return "not a domain name: the last label is a number"
    return None


def public_acme(values: dict) -> bool:
    """Whether certificates are asked of a server in the public internet: those refuse reserved names."""
    host = split_url(text(values, "app_acme_directory")).hostname or ""
    return host.endswith(("letsencrypt.org", "zerossl.com", "buypass.com", "pki.goog", "sectigo.com"))


def lab_host(host: str | None) -> bool:
    """RFC 2606's .test and loopback: nobody on a network in between."""
    host = (host or "").lower()
    return host == "localhost" or host.endswith((".test", ".localhost")) or host == "test" or host.startswith("127.") or host == "::1"


@rule("app_source")
def app_source(value, values):
    if value == "git" and not values.get("app_repo") and "app_repo" not in values.bad:
        other = ", or set app_source: pypi (app_package is set)" if values.get("app_package") else ""
        yield f"is git, so app_repo is required: the address that git clone takes{other}", ()
    if value == "pypi" and not values.get("app_package") and "app_package" not in values.bad:
        other = ", or set app_source: git (app_repo is set)" if values.get("app_repo") else ""
        yield f"is pypi, so app_package is required: the package's name on the index, with extras{other}", ()


SCP = re.compile(r"(?P<user>[\w.+-]+)@(?P<host>\[[^\]]+\]|[\w.-]+):(?P<path>[^\s]+)")


def ssh_server(repo: str) -> str | None:
    """The server of an ssh address as known_hosts writes it, `host` or `[host]:port`; None when it is no ssh address."""
    if "://" not in repo:
        match = SCP.fullmatch(repo)
        return match["host"].strip("[]").lower() if match else None
    parts = split_url(repo)
    if parts.scheme not in ("ssh", "git+ssh", "ssh+git"):
        return None
    return f"[{parts.hostname}]:{parts.port}" if parts.port not in (None, 22) else parts.hostname or ""


@rule("app_repo")
def app_repo(value, values):
    if not value or values.get("app_source", "git") != "git":
        return
    if re.search(r"\s|[\x00-\x1f]", value) or value.startswith("-"):
        yield "has white space or begins with a dash: write one address, as git clone takes it"
        return
    if value.startswith("/"):
        if ".." in value.split("/"):
            yield f"is {value!r}: write the folder without .."
        return
    if "://" not in value:
        if not SCP.fullmatch(value):
            yield f"is {value!r}, which is no address: write https://host/path, ssh://git@host/path, git@host:path, file:///folder or an absolute folder"
        return
    parts = split_url(value)
    host = parts.hostname
    if parts.password or (parts.username and parts.scheme in ("http", "https")):
        yield "holds a user name or password, which would stand in process lists and logs: use an ssh address with app_deploy_key"
    elif parts.scheme in ("http", "git", "ftp") and not lab_host(host):
        yield f"is fetched over {parts.scheme}://, where anybody on the way can change the code: use https:// or ssh://"
    elif not parts.scheme:
        yield "is no address: its host or port cannot be read"
    elif parts.scheme not in ("https", "ssh", "git+ssh", "ssh+git", "file", "http", "git"):
        yield f"begins with {parts.scheme}://: use https, ssh or file"
    elif parts.scheme == "file" and (host or not parts.path.startswith("/")):
        yield "is a file address with a host in it: write three slashes, file:///folder"
    elif parts.scheme != "file" and (not host or len(parts.path) < 2):
        yield f"is {value!r}, which lacks the {'path of the repository' if host else 'host'}"


@rule("app_repo_known_hosts")
def app_repo_known_hosts(value, values):
    repo = text(values, "app_repo")
    server = ssh_server(repo) if values.get("app_source", "git") == "git" else None
    host = (server or "").rsplit(":", 1)[0].strip("[]") if server else ""
    scan = f"ssh-keyscan {'-p ' + server.rsplit(':', 1)[1] + ' ' if server and server.startswith('[') else ''}{host}"
    if server and not value.strip():
        yield f"is empty, but app_repo is reached over ssh and an unknown server is refused: put in what `{scan}` prints, after comparing it with the provider's published keys"
        return
    names, matched = [], False
    for number, line in enumerate(value.splitlines(), 1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        marker = fields[0].startswith("@")
        fields = fields[1:] if marker else fields
        if len(fields) < 3 or not public_key_type(fields[1], fields[2]):
            yield f"has a line {number} that is no known_hosts line: `host type key`, as ssh-keyscan prints it"
            return
        names.append(fields[0])
        matched = matched or marker or (server is not None and known_hosts_match(fields[0], server))
    if server and names and not matched:
        yield f"names {listed(sorted({'a hashed name' if name.startswith('|') else name for name in names}))}, but app_repo is on {server}: put in what `{scan}` prints"


def known_hosts_match(names: str, server: str) -> bool:
    if names.startswith("|1|"):
        try:
            salt, digest = (base64.b64decode(part) for part in names.split("|")[2:4])
        except ValueError:
            return False
        return hmac.compare_digest(hmac.new(salt, server.encode(), hashlib.sha1).digest(), digest)
    return any(re.fullmatch(re.escape(name).replace(r"\*", ".*").replace(r"\?", "."), server) for name in names.lower().split(","))


@rule("app_deploy_key")
def app_deploy_key(value, values):
    server = ssh_server(text(values, "app_repo")) if values.get("app_source", "git") == "git" else None
    if not value.strip():
        if server:
            yield f"is empty, but app_repo is reached over ssh ({server}): put a key that may read it into the vault (ssh-keygen -t ed25519 -N '' -f deploy)"
        return
    if value.lstrip().startswith(("ssh-", "ecdsa-", "sk-")):
        yield "is the public half: put the private key (-----BEGIN … PRIVATE KEY-----) there"
        return
    data = value.strip().encode() + b"\n"
    try:
        (serialization.load_ssh_private_key if b"OPENSSH" in data else serialization.load_pem_private_key)(data, None)
    except TypeError:
        yield "is a key with a passphrase, and nobody is there to type it: make one without (ssh-keygen -p -N '')"
    except Exception:  # noqa: BLE001 - cryptography raises a wide set of errors for a broken key
        yield "is no private key: put the whole file in, with the lines -----BEGIN … and -----END …"


@rule("app_package")
def app_package(value, values):
    if not value or values.get("app_source") != "pypi":
        return
    if re.search(r"[=<>~!]", value):
        yield f"is {value!r}: write the name alone and the version in app_version"
    elif not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?(\[\s*[\w.-]+(\s*,\s*[\w.-]+)*\s*\])?", value):
        yield f"is {value!r}, which is no package name: write it as pip does, name or name[extra]"


@rule("app_version")
def app_version(value, values):
    if values.get("app_source", "git") == "pypi":
        try:
            Version(value)
        except InvalidVersion:
            shown = re.sub(r"^[=~<>!\s]+", "", value)
            yield f"is {value!r}, but a package is installed at one exact version: write it in full{', ' + shown if shown != value and shown else ', e.g. 2025.2.2'}"
        return
    if not value.strip():
        yield "is empty: name a branch, a tag or a commit"
    elif value.startswith("-") or re.search(r"[\s~^:?*\[\\\x00-\x20\x7f]|\.\.|@\{|//|\.lock$|[/.]$|^/", value):
        yield f"is {value!r}, which cannot be a branch, a tag or a commit"


MODULE = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"


@rule("app_settings_module")
def app_settings_module(value, values):
    if not re.fullmatch(MODULE, value):
        better = re.sub(r"\.py$", "", value).strip("/.").replace("/", ".").replace(":", ".")
        hint = f": write {better}" if re.fullmatch(MODULE, better) else ": write the dotted path that DJANGO_SETTINGS_MODULE takes"
        yield f"is {value!r}{hint}"
    for source in ("app_env", "app_secret_env"):
        other = (values.get(source) or {}).get("DJANGO_SETTINGS_MODULE") if isinstance(values.get(source), dict) else None
        if other is not None and other != value:
            yield f"is {value!r}, but {source}.DJANGO_SETTINGS_MODULE says another: remove the latter, the kit sets it"


@rule("app_wsgi")
def app_wsgi(value, values):
    if not re.fullmatch(MODULE + ":" + MODULE, value):
        better = re.sub(r"\.py$", "", value).strip("/").replace("/", ".")
        if ":" not in better:
            better = re.sub(r"\.application$", "", better) + ":application"
        hint = f", e.g. {better}" if re.fullmatch(MODULE + ":" + MODULE, better) else ""
        yield f"is {value!r}: write module:callable{hint}"


def relative_problem(value: str) -> str | None:
    if not value:
        return "is empty"
    if value.startswith(("/", "~")):
        return f"is {value!r}, but is meant from the repository's root: write it without the leading {value[0]}"
    if ".." in value.split("/"):
        return f"is {value!r}: a path with .. leaves the release"
    if re.search(r"[\x00-\x1f\x7f]", value):
        return "has a control character in it"
    return None


def absolute_problem(value: str) -> str | None:
    if not value.startswith("/"):
        return f"is {value!r}, but must be an absolute path"
    if ".." in value.split("/") or "//" in value:
        return f"is {value!r}: write the path without .. and //"
    if re.search(r"[\s\x00-\x1f\x7f;{}'\"$\\]", value):
        return f"is {value!r}: white space, quotes, ;, $, \\ and braces do not belong in a path here"
    return None


@rule("app_project_dir")
def app_project_dir(value, values):
    sentence = relative_problem(value)
    if sentence:
        yield sentence + ("; the root itself is ." if value in ("", "/") else "")
    elif value.endswith("manage.py"):
        yield f"is {value!r}: name the folder of manage.py, {os.path.dirname(value) or '.'}"


@rule("app_manage")
def app_manage(value, values):
    if not value.strip():
        yield "is empty: write the command that stands for `python manage.py`"
    elif "{manage}" in value:
        yield "holds {manage}, which stands for itself: write the command, e.g. python -m pretalx"
    elif "\n" in value:
        yield "has a line break in it: write one command"


@rule("app_requirements")
def app_requirements(value, values):
    if value == "auto":
        return
    sentence = relative_problem(value)
    name = value.rsplit("/", 1)[-1]
    if sentence:
        yield sentence + ("; write auto to have it found" if not value else "")
    elif not name.endswith((".txt", ".in")) and name not in ("uv.lock", "poetry.lock", "Pipfile.lock", "pyproject.toml"):
        yield f"is {value!r}, a kind of file the kit cannot install from: name a *.txt, uv.lock, poetry.lock, Pipfile.lock or pyproject.toml, or write auto"


@rule("app_requirements_extras", "app_requirements_groups")
def app_requirements_names(value, values):
    for index, name in enumerate(value):
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", name):
            yield f"is {name!r}, which is no name of an extra or a group: write the name alone", (index,)


@rule("app_requirements_extra")
def app_requirements_extra(value, values):
    for index, requirement in enumerate(value):
        try:
            Requirement(requirement)
        except InvalidRequirement:
            yield f"is {requirement!r}, which is no requirement: write name, name[extra]==1.2.3 or name @ https://…", (index,)


@rule("app_pip_index")
def app_pip_index(value, values):
    if value:
        yield from url_problems(value, ("https",))


@rule("app_acme_directory")
def app_acme_directory(value, values):
    yield from url_problems(value, ("https",))


def url_problems(value: str, schemes: tuple[str, ...]) -> t.Iterator[str]:
    parts = split_url(value)
    host = parts.hostname
    if not host or re.search(r"\s", value):
        yield f"is no address: write it in full, {schemes[0]}://host/path"
    elif parts.scheme not in schemes and not (parts.scheme == "http" and lab_host(host)):
        yield f"begins with {parts.scheme}://, but must be {alternatives(scheme + '://' for scheme in schemes)}"


@rule("app_python")
def app_python(value, values):
    if not re.fullmatch(r"[A-Za-z0-9/][\w./+-]*", value) or ".." in value.split("/"):
        yield f"is {value!r}: name an interpreter on the host, e.g. python3, python3.13 or /usr/bin/python3"


@rule("app_apt_packages", "app_build_apt_packages")
def apt_packages(value, values):
    for index, package in enumerate(value):
        if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?(=[\w.+:~-]+|/[\w.-]+)?", package):
            hint = ": one package an entry" if " " in package.strip() or "," in package else ""
            yield f"is {package!r}, which is no name of a Debian package{hint}", (index,)


@rule("app_build", "app_migrate", "app_setup")
def commands(value, values):
    for index, command in enumerate(value):
        if not command.strip():
            yield "is an empty command: remove it", (index,)
        elif "\x00" in command:
            yield "has a NUL character in it", (index,)


@rule("app_hooks")
def app_hooks(value, values):
    for moment, hooks in value.items():
        for sentence, path in commands(hooks if isinstance(hooks, list) else [], values):
            yield sentence, (moment, *path)


@rule("app_audit_waivers")
def app_audit_waivers(value, values):
    for index, waiver in enumerate(value):
        try:
            datetime.date.fromisoformat(waiver.get("until", "2000-01-01"))
        except ValueError:
            yield f"is {waiver['until']!r}, which is no day: write it as 2026-12-31", (index, "until")
        for key in ("id", "reason"):
            if not waiver.get(key, "x").strip():
                yield "is empty", (index, key)


@rule("app_audit_service")
def app_audit_service(value, values):
    yield from url_problems(value, ("https",))


@rule("app_migrate", "app_setup")
def management_commands(value, values):
    for index, command in enumerate(value):
        match = re.match(r"(python[\d.]*\s+)?(\./)?manage\.py(\s|$)", command)
        if match:
            yield f"begins with {match[0].strip()!r}: write only what follows it, {command[match.end():].strip()!r}", (index,)


@rule("app_env", "app_secret_env")
def environment(value, values):
    for key, item in value.items():
        if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            yield f"has the key {key!r}, which cannot name an environment variable: letters, digits and _, no digit first"
        elif key in ("LISTEN_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "INVOCATION_ID", "CREDENTIALS_DIRECTORY"):
            yield "is set by systemd or the kit for each process: remove it", (key,)
        elif item is None:
            yield "is empty: write '' for an empty text, or remove it", (key,)
        elif isinstance(item, (list, dict)):
            yield f"is {kind(item)}, but an environment holds texts: write it as the project parses it, e.g. as JSON with the filter to_json", (key,)
        elif not isinstance(item, (str, int, float)):
            yield f"is {kind(item)}: write a text, a number, true or false (rendered as True and False)", (key,)
        elif isinstance(item, str) and "\x00" in item:
            yield "has a NUL character in it, which no environment can hold", (key,)


@rule("app_secret_env")
def secret_environment(value, values):
    other = values.get("app_env")
    for key in value:
        if isinstance(other, dict) and key in other:
            yield "is in app_env too: keep one of them, the secret one here", (key,)
    for key, item in value.items():
        if isinstance(item, str) and placeholder(str(key), item):
            yield f"is a placeholder: put a value of its own into the vault (`{MAKE_SECRET}`)", (key,)


MAKE_SECRET = "python3 -c 'import secrets; print(secrets.token_urlsafe(50))'"
PLACEHOLDERS = re.compile(
    r"(?i)change[ _-]?(me|it|this)|replace[ _-]?(me|it|this)?([ _-].*)?|to[ _-]?do|fixme|x{3,}|your[ _-].*|<.*>|placeholder.*|"
    r"(django-)?insecure.*|secret[ _-]?key|example"
)
# Honest as a user name, not as a password.
FEEBLE = re.compile(r"(?i)password|passwort|secret|admin|root|test|demo|dummy|foo|bar|letmein|1234\d*|qwert[yz]")
SENSITIVE = re.compile(r"(?i)pass|secret|token|key|pwd|credential")


def placeholder(name: str, value: str) -> bool:
    value = value.strip().rstrip("!.")
    return bool(PLACEHOLDERS.fullmatch(value) or (SENSITIVE.search(name) and FEEBLE.fullmatch(value)))


@rule("app_secret_key")
def app_secret_key(value, values):
    if not value.strip():
        yield f"is empty: put one into the vault (`{MAKE_SECRET}`)"
    elif placeholder("app_secret_key", value) or re.search(r"(?i)change[ _-]?me|django-insecure", value):
        yield f"is a placeholder: put a random one into the vault (`{MAKE_SECRET}`)"
    elif len(value) < 50 or len(set(value)) < 10:
        reason = f"has {len(value)} characters" if len(value) < 50 else "repeats a few characters"
        yield f"{reason}, but must have 50 random ones or more: put another into the vault (`{MAKE_SECRET}`)"


@rule("app_secret_key_fallbacks")
def app_secret_key_fallbacks(value, values):
    for index, item in enumerate(value):
        if item.get("until") and not is_day(item["until"]):
            yield "is no day: write it as 2026-12-31", (index, "until")
        if not item["key"].strip():
            yield "is empty", (index, "key")
        elif item["key"] == values.get("app_secret_key"):
            yield "is app_secret_key itself: remove it", (index,)
    if value and values.get("app_guard") == "off":
        yield "reaches the project through the guard, and app_guard is off: turn it on, or remove them all, which logs everybody out"


@rule("app_session_age")
def app_session_age(value, values):
    if value < 60:
        yield f"is {value}, but counts seconds: everybody would log in again all the time"


def is_day(value: str) -> bool:
    try:
        return datetime.date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


# In the folder of the application's configuration.
OWN_FILES = ("env", "build.env", "migrate.env", "release.json", "gitconfig", "known_hosts", "deploy_key", "gunicorn.conf.py")


@rule("app_files")
def app_files(value, values):
    own = text(values, "site_config").rstrip("/")
    seen = set()
    for index, item in enumerate(value):
        dest = item["dest"]
        sentence = absolute_problem(dest) if dest.startswith("/") else relative_problem(dest)
        if sentence:
            yield sentence, (index, "dest")
        elif own and dest.startswith(own + "/") and (dest[len(own) + 1 :] in OWN_FILES or dest.startswith((own + "/files/", own + "/pgpass-"))):
            yield f"is {dest!r}, which the kit writes itself: choose another name", (index, "dest")
        elif dest.endswith("/") or dest in (".", ""):
            yield f"is {dest!r}, a folder: name the file", (index, "dest")
        elif os.path.normpath(dest) in seen:
            yield f"names {dest!r} a second time: remove one", (index, "dest")
        seen.add(os.path.normpath(dest or "."))


@rule("app_shared_paths", "app_writable_paths")
def release_paths(value, values):
    # Collected files that are compressed or indexed later: below the static root, which is the release's own.
    static = (text(values, "app_static_root") or "/srv").rstrip("/") + "/"
    clean = []
    for index, path in enumerate(value):
        if path.startswith(static) and value is values.get("app_writable_paths"):
            sentence = absolute_problem(path)
        else:
            sentence = relative_problem(path)
        if not sentence and re.search(r"[\s%'\"\\:]", path):
            sentence = f"is {path!r}: white space, quotes, colons, % and \\ do not belong in a path here"
        if sentence:
            yield sentence, (index,)
            continue
        path = os.path.normpath(path)
        if path == ".":
            yield "is the whole release: name the paths in it that the project writes", (index,)
        elif path in clean:
            yield f"names {path!r} a second time: remove one", (index,)
        clean.append(path)


@rule("app_shared_paths")
def nested_shared_paths(value, values):
    clean = {os.path.normpath(path): index for index, path in enumerate(value)}
    for path, index in clean.items():
        for other in clean:
            if path != other and path.startswith(other + "/"):
                yield f"is {path!r}, which is inside {other!r}, shared as a whole already: remove it", (index,)


UNIT_NAME = r"[a-z][a-z0-9_-]{0,40}"
# Names in the application's own folder of sockets.
TAKEN = ("blue", "green", "live")


def unit_names(value, values):
    for name, item in value.items():
        if not isinstance(name, str) or not re.fullmatch(UNIT_NAME, name):
            yield f"has the name {name!r}, but a unit is called so: a-z, 0-9, _ and -, a letter first"
        elif name in TAKEN:
            yield f"has the name {name!r}, which the kit uses itself: choose another"
        if isinstance(item, dict) and isinstance(item.get("command"), str):
            if not item["command"].strip():
                yield "is empty: write the command to run", (name, "command")
            elif "\n" in item["command"].strip():
                yield "has a line break in it: write one command", (name, "command")


@rule("app_processes")
def app_processes(value, values):
    yield from unit_names(value, values)
    for name, item in value.items():
        seconds = item.get("stop_timeout") if isinstance(item, dict) else None
        if isinstance(seconds, int) and seconds < 1:
            yield f"is {seconds}: write how many seconds the process has to end in, 1 or more", (name, "stop_timeout")


@rule("app_timers")
def app_timers(value, values):
    yield from unit_names(value, values)
    for name, item in value.items():
        if name in (values.get("app_processes") or {}):
            yield f"has the name {name!r}, which is in app_processes too: the units would be the same, rename one"
        calendar = item.get("on_calendar") if isinstance(item, dict) else None
        if isinstance(calendar, str):
            sentence = calendar_problem(calendar)
            if sentence:
                yield sentence, (name, "on_calendar")


@functools.lru_cache
def calendar_problem(calendar: str) -> str | None:
    if not calendar.strip():
        return "is empty: write when, e.g. hourly or *-*-* 03:00:00"
    if calendar.startswith("@") or len(calendar.split()) == 5 and all(re.fullmatch(r"[\d*/,A-Za-z-]+", field) for field in calendar.split()):
        return f"is {calendar!r}, which is cron's form: write systemd's, e.g. hourly or *-*-* 03:00:00"
    analyze = shutil.which("systemd-analyze")
    if analyze:
        answer = subprocess.run([analyze, "calendar", "--", calendar], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if answer.returncode and "expression" in answer.stderr:
            return f"is {calendar!r}, which systemd cannot read: write e.g. hourly, Mon..Fri 07:30 or *-*-* 03:00:00"
    return None


URL_PATH = r"/[A-Za-z0-9._~!&()*+,=:@%/-]*"
SIZE = r"\d+[kKmMgG]?"
ERROR_PAGES = ("400", "403", "404", "405", "413", "414", "429", "431", "500", "502", "503", "504")
OWN_URLS = ("/.well-known/acme-challenge/", "/-/")


def url_path_problem(value: str, closed: bool = False, query: bool = False) -> str | None:
    if "://" in value:
        return f"is {value!r}: write the path alone, {split_url(value).path or '/'}"
    if not value.startswith("/"):
        return f"is {value!r}: begin it with a slash, /{value}"
    if not re.fullmatch(URL_PATH + (r"(\?[A-Za-z0-9._~!&()*+,=:@%/?-]*)?" if query else ""), value):
        return f"is {value!r}, which is no path of a URL: percent-encode what is not a letter, digit or one of . _ ~ ! & ( ) * + , = : @ - /"
    if closed and not value.endswith("/"):
        return f"is {value!r}: end it with a slash, {value}/"
    path = value.split("?")[0]
    if re.search(r"%(?![0-9A-Fa-f]{2})", path):
        return f"is {value!r}, which has a % that encodes nothing: write %25 for the sign itself"
    # What the percent signs stand for is what nginx compares, and $ begins a variable there.
    decoded = urllib.parse.unquote(path, errors="replace")
    if re.search(r"[\x00-\x1f\x7f$\ufffd]", decoded):
        return f"is {value!r}, which stands for {decoded!r}: nginx cannot be told of such a path"
    return None


@rule("app_routes")
def app_routes(value, values):
    processes = values.get("app_processes") if "app_processes" not in values.bad else None
    taken = {item["url"] for name in ("app_static", "app_media") for item in values.get(name) or [] if isinstance(item, dict) and isinstance(item.get("url"), str)}
    for path, item in value.items():
        sentence = url_path_problem(str(path))
        if sentence:
            yield f"has a path that {sentence}"
        elif path == "/":
            yield "has the path '/', which is gunicorn's: name the paths that go elsewhere"
        elif path in taken or path.startswith(OWN_URLS):
            yield f"has the path {path!r}, which is answered otherwise already (app_static, app_media or the kit's own)"
        process = item.get("process") if isinstance(item, dict) else None
        if isinstance(process, str) and isinstance(processes, dict):
            target = processes.get(process)
            if target is None:
                yield f"is {process!r}, which is not in app_processes{closest(process, map(str, processes)) or ': add it there with listen: true'}", (path, "process")
            elif isinstance(target, dict) and target.get("listen") is not True:
                yield f"is {process!r}, which does not listen: add listen: true to app_processes.{process}", (path, "process")


@rule("app_login_paths", "app_probe_paths")
def url_paths(value, values):
    for index, path in enumerate(value):
        sentence = url_path_problem(path, query=True)
        if sentence:
            yield sentence, (index,)
        elif path in value[:index]:
            continue


@rule("app_login_paths")
def login_paths(value, values):
    for index, path in enumerate(value):
        if "?" in path:
            yield f"is {path!r}: write it without the query", (index,)


@rule("app_health_path")
def app_health_path(value, values):
    sentence = url_path_problem(value, query=True) if value else None
    if sentence:
        yield sentence


@rule("app_admin_path")
def app_admin_path(value, values):
    sentence = url_path_problem(value, closed=True) if value else None
    if sentence:
        yield sentence


@rule("app_admin_allow")
def app_admin_allow(value, values):
    if value and values.get("app_admin_path") == "":
        yield "is set, but app_admin_path is empty: name the path that it is about"


@rule("app_admin_allow", "firewall_ssh_from", "ssh_penalty_exempt", "nginx_trusted_proxies", "fail2ban_ignore")
def networks(value, values):
    for index, network in enumerate(value):
        try:
            ipaddress.ip_network(network)
        except ValueError:
            try:
                yield f"is {network!r}, an address inside a network: write {ipaddress.ip_network(network, strict=False)}, or the address alone", (index,)
            except ValueError:
                yield f"is {network!r}, which is no network: write it as 192.0.2.0/24, 2001:db8::/32 or a single address", (index,)


@rule("nginx_trusted_proxies")
def nginx_trusted_proxies(value, values):
    for index, network in enumerate(value):
        if network.endswith("/0"):
            yield f"is {network!r}, which is everybody: each visitor could claim any address, name the proxies' networks", (index,)


@rule("nginx_csp", "nginx_referrer_policy", "nginx_permissions_policy", "nginx_opener_policy", "nginx_resource_policy",
      "nginx_error_title", "nginx_error_contact", "nginx_error_language")
def nginx_values(value, values):
    yield from nginx_value_problems(value)


def nginx_value_problems(value: str) -> t.Iterator[str]:
    """What would end a header, a line, or be a variable of nginx's."""
    if "\n" in value or "\r" in value:
        yield "has more than one line: write it as one (YAML's `>-` folds lines)"
    elif "$" in value:
        yield "has a $, which begins a variable to nginx: leave it out"
    elif not value.isprintable():
        yield "has a control character: remove it"


@rule("nginx_login_rate", "nginx_admin_rate")
def nginx_rates(value, values):
    if not re.fullmatch(r"[1-9][0-9]{0,5}r/[sm]", value):
        yield f"is {value!r}, which is no rate to nginx: write requests a second or a minute, e.g. 5r/s or 30r/m"


@rule("nginx_login_burst", "nginx_admin_burst", "nginx_connections_per_address", "nginx_header_timeout", "nginx_body_timeout",
      "nginx_proxy_timeout", "nginx_websocket_timeout", "nginx_worker_connections")
def nginx_counts(value, values):
    if value < 1:
        yield f"is {value}, but must be 1 or more"


@rule("nginx_hsts_max_age")
def nginx_hsts_max_age(value, values):
    if value < 0:
        yield f"is {value}, but must be 0 or more"


@rule("nginx_hsts_preload")
def nginx_hsts_preload(value, values):
    if value and (values.get("nginx_hsts_subdomains") is False or values.get("nginx_hsts_max_age", 63072000) < 31536000):
        yield "is true, but browsers' lists take no site without nginx_hsts_subdomains: true and an nginx_hsts_max_age of a year or more"


@rule("nginx_body_limits")
def nginx_body_limits(value, values):
    files = [item["url"] for name in ("app_static", "app_media") for item in values.get(name) or [] if isinstance(item, dict) and isinstance(item.get("url"), str)]
    for path, size in value.items():
        sentence = url_path_problem(str(path))
        if sentence:
            yield f"has a path that {sentence}"
        elif path == "/":
            yield "has the path '/', whose limit is app_max_body_size"
        elif path.startswith((*OWN_URLS, *files)):
            yield f"has the path {path!r}, where nginx takes no bodies (app_static, app_media or the kit's own)"
        if not isinstance(size, str) or not re.fullmatch(SIZE, size):
            yield f"is {size!r}, which is no size to nginx: write e.g. 10m, 512k or 1g", (path,)


@rule("nginx_error_texts")
def nginx_error_texts(value, values):
    for status, page in value.items():
        if status not in ERROR_PAGES:
            yield f"has the key {status!r}, but nginx' own pages are those of {listed(ERROR_PAGES)}: write one of them in quotes"
        elif not isinstance(page, dict) or not page or set(page) - {"title", "text"} or not all(isinstance(part, str) for part in page.values()):
            yield "must be a mapping of title, text or both", (status,)
        else:
            for key, part in page.items():
                for sentence in nginx_value_problems(part):
                    yield sentence, (status, key)


@rule("firewall_allow", "firewall_allow_out")
def firewall_rules(value, values):
    """The rules in one list of `{port, proto, from|to}`; what is missing or ill-typed in it is the type's to say."""
    for index, entry in enumerate(value):
        port = str(entry.get("port", ""))
        found = re.fullmatch("([0-9]{1,5})(?:-([0-9]{1,5}))?", port)
        if port and not (found and 1 <= int(found[1]) <= int(found[2] or found[1]) <= 65535):
            yield f"is {port!r}: write a port from 1 to 65535, or a range like 6000-6010", (index, "port")
        for key in ("from", "to"):
            for sentence, path in networks(entry.get(key) or [], values):
                yield sentence, (index, key, *path)


@rule("fail2ban_ignore")
def everybody_ignored(value, values):
    for index, network in enumerate(value):
        if re.fullmatch(r"[0-9a-f.:]+/0", network):
            yield f"is {network!r}, which is everybody: nobody would be banned; take jails out of fail2ban_jails instead", (index,)


@rule("fail2ban_login", "fail2ban_limits", "fail2ban_probes", "fail2ban_scans", "fail2ban_sshd", "fail2ban_recidive")
def fail2ban_numbers(value, values):
    for key, number in value.items():
        if number < 1:
            yield f"is {number}: write 1 or more; a jail that is not wanted is taken out of fail2ban_jails", (key,)
    longest = values.get("fail2ban_bantime_max")
    if isinstance(longest, int) and value["bantime"] > longest:
        yield f"is {value['bantime']}, longer than fail2ban_bantime_max ({longest}): raise that too", ("bantime",)


@rule("fail2ban_bantime_max")
def fail2ban_bantime_max(value, values):
    if not 60 <= value <= 31536000:
        yield f"is {value}: write seconds from a minute (60) to a year (31536000)"


@rule("fail2ban_probe_paths")
def fail2ban_probe_paths(value, values):
    taken = [*(values.get("app_login_paths") or []), text(values, "app_admin_path"), text(values, "app_health_path")]
    taken += [item["url"] for name in ("app_static", "app_media") for item in values.get(name) or [] if isinstance(item, dict) and isinstance(item.get("url"), str)]
    if not value:
        yield "is an empty list: take probes out of fail2ban_jails instead"
    for index, path in enumerate(value):
        if not re.fullmatch(r"(/|\*)[A-Za-z0-9._~+/-]+", path):
            yield f"is {path!r}: write the beginning of a path (/wp-admin/) or an ending after a * (*.php), of letters, digits and . _ ~ + - /", (index,)
            continue
        other = next((url for url in taken if isinstance(url, str) and url and matches_probe(path, url)), None)
        if other:
            yield f"is {path!r}, which {other!r} of this site is too: its visitors would be banned, remove it", (index,)


def matches_probe(pattern: str, path: str) -> bool:
    pattern, path = pattern.lower(), path.lower()
    return path.endswith(pattern[1:]) if pattern.startswith("*") else path.startswith(pattern)


@rule("firewall_allow_groups")
def firewall_allow_groups(value, values):
    for group, entries in value.items():
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            yield "is not a list of `{port, proto, from}`", (group,)
            continue
        for index, entry in enumerate(entries):
            for key in entry.keys() - {"port", "proto", "from"}:
                yield f"has an unknown key {str(key)!r}{closest(str(key), ['port', 'proto', 'from'])}", (group, index)
            if "port" not in entry:
                yield "has no port", (group, index)
            if entry.get("proto", "tcp") not in ("tcp", "udp"):
                yield f"is {entry['proto']!r}: tcp or udp", (group, index, "proto")
            if not isinstance(entry.get("from", []), list):
                yield "is not a list of networks", (group, index, "from")
                return
        for sentence, path in firewall_rules(entries, values):
            yield sentence, (group, *path)


def certificates_problem(pem: str, strict: bool = False) -> str | None:
    """`strict`: each must be a CA that is still valid. What a machine trusts beside those does no harm."""
    if "PRIVATE KEY" in pem:
        return "holds a private key: put in the certificates alone, and make a new key"
    try:
        found = x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        return "holds no certificate: put in the PEM text, with the lines -----BEGIN CERTIFICATE----- and -----END CERTIFICATE-----"
    now = datetime.datetime.now(datetime.UTC)
    for certificate in found if strict else []:
        subject = certificate.subject.rfc4514_string()
        if certificate.not_valid_after_utc < now:
            return f"holds a certificate that ended on {certificate.not_valid_after_utc:%Y-%m-%d} ({subject}): replace it"
        try:
            constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        except x509.ExtensionNotFound:
            continue
        if not constraints.ca:
            return f"holds a certificate that is no CA ({subject}): put in the CA that signed it"
    return None


@rule("app_admin_client_ca")
def app_admin_client_ca(value, values):
    if not value.strip():
        return
    if values.get("app_admin_path") == "":
        yield "is set, but app_admin_path is empty: name the path that it is about"
    if value == "environment":
        # What is wrong with that is said of pki_ca_certificate.
        return
    sentence = certificates_problem(value, strict=True)
    if sentence:
        yield sentence


@rule("app_admin_certificates")
def app_admin_certificates(value, values):
    seen = set()
    for index, entry in enumerate(value):
        serial = entry["serial"]
        if not re.fullmatch(r"(?:[0-9A-F]{2}){1,20}", serial):
            yield f"is {serial!r}, which is no serial number: playbooks/admin-cert.yml writes it, as pairs of the digits 0-9 and A-F", (index, "serial")
        elif serial in seen:
            yield f"names {serial} a second time: remove one", (index, "serial")
        seen.add(serial)
        # The same CA signs both, and the door of the backups goes by the name.
        if entry["name"] in values.get("site_backup_clients", []) and not entry.get("revoked"):
            yield f"is {entry['name']!r}, which is a host's name and opens that host's backups: revoke it, and give the person another", (index, "name")
        elif entry["name"] in values.get("site_log_clients", []) and not entry.get("revoked"):
            yield f"is {entry['name']!r}, which is a host's name and writes that host's logs: revoke it, and give the person another", (index, "name")


@rule("app_static", "app_media")
def served_files(value, values):
    root = text(values, "site_root")
    closed = {"/", "/etc", "/srv", "/var", "/home", "/root", "/proc", "/sys", "/dev", "/run", "/usr", "/opt", "/tmp", "/var/lib"}
    closed |= {text(values, name) for name in ("site_root", "site_config", "site_run", "app_data_root")} | {root + "/releases", root + "/live"}
    seen = set()
    for index, item in enumerate(value):
        url, path = item["url"], item["path"]
        sentence = url_path_problem(url, closed=True)
        if sentence:
            yield sentence, (index, "url")
        elif url == "/" or url.startswith(OWN_URLS):
            yield f"is {url!r}, which belongs to the application or the kit: name a folder below it", (index, "url")
        elif url in seen:
            yield f"names {url!r} a second time: remove one", (index, "url")
        seen.add(url)
        sentence = absolute_problem(path) if path.startswith("/") else relative_problem(path)
        if sentence:
            yield sentence, (index, "path")
        elif path.startswith("/") and (path.rstrip("/") or "/") in closed:
            yield f"is {path!r}, which holds more than files for everybody: name the folder of these files", (index, "path")
        elif os.path.normpath(path) == ".":
            yield "is the whole source, which would be published: name the folder of these files", (index, "path")


@rule("app_media")
def media_files(value, values):
    urls = {item.get("url") for item in values.get("app_static") or [] if isinstance(item, dict)}
    shared = [os.path.normpath(path) for path in values.get("app_shared_paths") or [] if isinstance(path, str)]
    for index, item in enumerate(value):
        if item["url"] in urls:
            yield f"is {item['url']!r}, which is in app_static too: remove one", (index, "url")
        path = os.path.normpath(item["path"] or ".")
        if not path.startswith(("/", "..")) and not any(path == other or path.startswith(other + "/") for other in shared):
            yield f"is {path!r}, inside the release, which is read-only and replaced: add it to app_shared_paths, or use a folder below app_media_root", (index, "path")


@rule("app_max_body_size")
def app_max_body_size(value, values):
    if not re.fullmatch(SIZE, value):
        match = re.match(r"\s*(\d+)\s*([kKmMgG])", value)
        yield f"is {value!r}, which is no size to nginx: write {match[1] + match[2].lower() if match else 'e.g. 10m, 512k or 1g'}"


@rule("app_acme_email")
def app_acme_email(value, values):
    if value and not re.fullmatch(r"[^@\s,;<>\"']+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", value):
        yield f"is {value!r}, which is no mail address"
    elif value and public_acme(values) and re.search(r"@(.*\.)?example\.(com|net|org)$|\.(test|example|invalid)$", value):
        yield f"is still the placeholder {value!r}, which the ACME server refuses: write an address that is read, or ''"


@rule("app_acme_ca_file")
def app_acme_ca_file(value, values):
    if not value:
        return
    path = os.path.expanduser(value)
    if not os.path.isfile(path):
        yield f"is {value!r}, which is no file on this machine (looked for {os.path.abspath(path)})"
        return
    with open(path, encoding="utf-8", errors="replace") as handle:
        sentence = certificates_problem(handle.read())
    if sentence:
        yield f"is {value!r}, which {sentence}"


@rule("app_postgres_extensions")
def app_postgres_extensions(value, values):
    for index, name in enumerate(value):
        if not re.fullmatch(r"[a-z_][a-z0-9_-]*", name):
            yield f"is {name!r}, which is no name of an extension: write it as CREATE EXTENSION takes it, e.g. pg_trgm", (index,)


@rule("postgres_settings")
def postgres_settings(value, values):
    for name in value:
        if name.lower() == "shared_preload_libraries":
            yield "would take pgAudit away, and nothing would be audited: name the libraries in postgres_preload_libraries", (name,)


@rule("app_releases_kept")
def app_releases_kept(value, values):
    if value < 1:
        yield f"is {value}: the live release is one of them, write 1 or more"


@rule("app_batch")
def app_batch(value, values):
    if value < 1:
        yield f"is {value}: write how many web hosts are switched at the same time, 1 or more"


# --- Several hosts of one site ---------------------------------------------------------------------------------------


def several(values: dict) -> bool:
    """Whether other hosts serve the same site."""
    return bool(values.get("site_fleet")) and len(values.get("site_web_hosts") or []) > 1


@rule("app_redis")
def shared_redis(value, values):
    if value and several(values):
        yield "is true, but such a server is each host's own, and what is in it would differ between the web hosts: set it to false, or name a server that all of them reach in app_env"


@rule("app_media", "app_shared_paths")
def shared_files(value, values):
    if value and several(values) and values.get("app_media_shared") is False:
        yield "is kept on the disk of each web host, and visitors would find it on one of them: mount the same file system on all (docs/add-a-web-host.md) and set app_media_shared: true, or set it to []"


@rule("app_database_password", "app_migrate_password")
def database_password(value, values):
    if not values.get("site_fleet"):
        return
    if len(value) < 20 or len(set(value)) < 10 or not value.isascii() or not value.isprintable():
        yield f"must be 20 random ASCII characters or more: put another into the vault (`{MAKE_SECRET}`)"


@rule("app_backup_database_pass", "app_backup_files_pass")
def backup_pass(value, values):
    if not values.get("site_backup_host"):
        return
    if len(value) < 20 or len(set(value)) < 10 or not value.isascii() or not value.isprintable():
        yield f"must be 20 random ASCII characters or more: put another into the vault (`{MAKE_SECRET}`)"


@rule("app_backup_files_pass")
def backup_passes_differ(value, values):
    if value and value == values.get("app_backup_database_pass"):
        yield "is the same as app_backup_database_pass: put another into the vault, so that the loss of one is not that of both"


@rule("logs_spool_max")
def logs_spool_max(value, values):
    if value < 64 << 20:
        yield f"is {value} bytes, which a busy minute fills: give it 67108864 (64 MiB) or more"


@rule("logs_longest")
def logs_longest(value, values):
    found = re.fullmatch(r"(\d{1,6})k", value)
    if not found or not 8 <= int(found[1]) <= 64:
        yield f"is {value!r}: write 8k to 64k, so that a line with each of its bytes escaped is one record"


@rule("logs_files")
def logs_files(value, values):
    for index, item in enumerate(value):
        path = item.get("path", "")
        if not re.fullmatch(r"(/[A-Za-z0-9@._-]+)*/[A-Za-z0-9@._*-]+", path) or ".." in path.split("/"):
            yield f"is {path!r}: write an absolute path of letters, digits and @ . _ -, with * in its last part only", (index, "path")
        elif path.startswith(("/home/", "/root/", "/tmp/", "/var/tmp/", "/proc/", "/dev/")):
            yield f"is {path!r}, which rsyslog does not see: let it be written below /var/log or /srv", (index, "path")
        if not re.fullmatch("[a-z][a-z0-9._-]{0,39}", item.get("dataset", "")):
            yield f"is {item.get('dataset')!r}: write small letters, digits, dots, dashes and underscores, a letter first", (index, "dataset")


@rule("log_server_on_calendar")
def log_server_on_calendar(value, values):
    sentence = calendar_problem(value)
    if sentence:
        yield sentence


@rule("log_server_path")
def log_server_path(value, values):
    if not re.fullmatch(r"(/[A-Za-z0-9@._-]+){2,}", value) or ".." in value.split("/"):
        yield f"is {value!r}: write an absolute path of letters, digits and @ . _ -, below a folder, as /var/log/redoubt is"


@rule("log_server_retention_days")
def log_server_retention_days(value, values):
    if value < 2:
        yield f"is {value}: keep two days or more, or today's logs are removed while they are written"


@rule("log_server_forward")
def log_server_forward(value, values):
    host, ca = value.get("host", ""), value.get("ca", "")
    if value and (not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?", host) or host.replace(".", "").isdigit()):
        yield f"is {host!r}: write the collector's name as its certificate has it", ("host",)
    if ca and certificates_problem(ca):
        yield certificates_problem(ca), ("ca",)


@rule("base_addresses", "pki_addresses")
def addresses(value, values):
    for index, address in enumerate(value):
        try:
            ipaddress.ip_address(address)
        except ValueError:
            yield f"is {address!r}, which is no address: write one IPv4 or IPv6 address, without a network's length", (index,)


@rule("pki_ca_certificate")
def certificate_authority(value, values):
    days, left = values.get("pki_days"), values.get("pki_renew_days")
    if isinstance(days, int) and isinstance(left, int) and not 0 < left < days:
        yield f"signs for {days} days (pki_days) and again when fewer than {left} are left (pki_renew_days): write more days than are to be left"
        return
    if "pki_ca_key" not in values:
        return
    try:
        authority = Authority(value, text(values, "pki_ca_key"))
    except Unusable as error:
        variable, sentence = error.args
        yield sentence if variable == "pki_ca_certificate" else f"has no key that signs for it: pki_ca_key {sentence}"
        return
    end = authority.certificate.not_valid_after_utc
    if values.replaces != "pki_ca_key" and isinstance(left, int) and end < datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=left):
        yield f"ends on {end:%Y-%m-%d}, and a certificate of a host is to be good for {left} days more (pki_renew_days): replace the CA (playbooks/rotate.yml -e secret=pki_ca_key)"


@rule("app_start_timeout")
def app_start_timeout(value, values):
    if not 1 <= value <= 3600:
        yield f"is {value}: write seconds from 1 to 3600"


# --- The base role's people and CAs ----------------------------------------------------------------------------------

KEY_TYPES = {
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
}


def public_key_type(name: str, blob: str) -> str | None:
    """The type that the key's own bytes name, when it is the one written before them."""
    try:
        data = base64.b64decode(blob, validate=True)
        (length,) = struct.unpack(">I", data[:4])
        inner = data[4 : 4 + length].decode()
    except (ValueError, struct.error):
        return None
    return inner if inner == name and len(data) > 4 + length else None


def ssh_key_problem(line: str) -> str | None:
    line = line.strip()
    if "PRIVATE KEY" in line:
        return "is a private key: put in the public half (the .pub file), and make a new key, this one is spent"
    if "\n" in line:
        return "holds several lines: one key an entry"
    match = re.search(r"(?:^|\s)((?:sk-)?(?:ssh|ecdsa)-[\w@.-]+)\s+(\S+)", line)
    if not match:
        return "is no SSH public key: put in the line of the .pub file, e.g. ssh-ed25519 AAAA… name"
    name, blob = match.groups()
    if name == "ssh-dss":
        return "is a DSA key, which OpenSSH no longer takes: make an ed25519 one (ssh-keygen -t ed25519)"
    if name not in KEY_TYPES:
        return f"is a key of the unknown type {name!r}: use ssh-ed25519"
    if not public_key_type(name, blob):
        return "is cut off or changed: copy the whole line of the .pub file again"
    if name.startswith("sk-"):
        return None
    try:
        key = serialization.load_ssh_public_key(f"{name} {blob}".encode())
    except Exception:  # noqa: BLE001 - cryptography raises a wide set of errors for a broken key
        return "is cut off or changed: copy the whole line of the .pub file again"
    size = getattr(key, "key_size", None)
    if name == "ssh-rsa" and size < 3072:
        return f"is an RSA key of {size} bits, but 3072 are wanted: make an ed25519 one (ssh-keygen -t ed25519)"
    return None


@rule("base_admins")
def base_admins(value, values):
    if not value:
        yield "is an empty list: name at least one administrator with a key, or nobody could log in any more"
    names = []
    for index, admin in enumerate(value):
        name, keys = admin.get("name"), admin.get("keys")
        if isinstance(name, str):
            if name == "root":
                yield "is root, who cannot log in: name people, they get sudo", (index, "name")
            elif not re.fullmatch(r"[a-z_][a-z0-9_-]{0,30}", name):
                yield f"is {name!r}, which is no unix user name: a-z, 0-9, _ and -, up to 31", (index, "name")
            elif name in names:
                yield f"names {name!r} a second time: put all keys into one entry", (index, "name")
            names.append(name)
        if isinstance(keys, list):
            if not keys:
                yield f"is empty: {name or 'the administrator'} could not log in", (index, "keys")
            for number, key in enumerate(keys):
                sentence = ssh_key_problem(key) if isinstance(key, str) else None
                if sentence:
                    yield sentence, (index, "keys", number)
    login = values.get("ansible_user")
    if names and isinstance(login, str) and login not in names and values.get("ansible_connection", "ssh") in ("ssh", "paramiko", "smart"):
        yield f"does not name {login!r}, the user of this connection (ansible_user), who could not log in any more: add an entry with the key in use"


@rule("base_trusted_cas")
def base_trusted_cas(value, values):
    for index, pem in enumerate(value):
        path = os.path.expanduser(pem)
        if "-----" in pem:
            sentence = certificates_problem(pem)
        elif not os.path.isfile(path):
            sentence = f"is {pem[:80]!r}, which is neither a certificate (PEM text) nor a file on this machine"
        else:
            with open(path, encoding="utf-8", errors="replace") as handle:
                sentence = certificates_problem(handle.read())
        if sentence:
            yield sentence, (index,)


# --- Several values, several hosts -----------------------------------------------------------------------------------

GROUPS = ("web", "db", "logs", "backups")
# Those that hosts get which reach each other over the network.
FLEET_ROLES = {"web": {"pki"}, "db": {"pki"}}
# Those that hosts get where one keeps the backups.
BACKUP_ROLES = {"web": {"pki", "backup"}, "db": {"pki", "backup"}, "backups": {"pki", "backup_server"}}
# Those that hosts get where one receives the logs.
LOG_ROLES = {"web": {"pki", "logs"}, "db": {"pki", "logs"}, "logs": {"pki", "logs", "log_server"}, "backups": {"pki", "logs"}}
# Which roles a group's hosts get (a name beginning with one of ours is known on every host in any case).
GROUP_ROLES = {
    "web": {"site", "app", "certbot", "nginx", "redis"},
    "db": {"site", "postgres"},
    "logs": set(),
    "backups": set(),
}
EVERY_HOST = {"base", "ssh", "firewall", "fail2ban", "patch"}


def roles_of(host_groups: t.Iterable[str], fleet: bool = False, backups: bool = False, logs: bool = False) -> set[str]:
    tables = [GROUP_ROLES, *([FLEET_ROLES] if fleet else []), *([BACKUP_ROLES] if backups else []), *([LOG_ROLES] if logs else [])]
    found = [table.get(group, set()) for group in host_groups for table in tables]
    return EVERY_HOST.union(*found)


def is_fleet(groups: dict[str, list[str]]) -> bool:
    """Whether web hosts reach their database over the network. roles/site says the same as site_fleet."""
    return bool(set(groups.get("web", [])) - set(groups.get("db", [])))


def check_groups(groups: dict[str, list[str]], hosts: t.Iterable[str]) -> t.Iterator[str]:
    """The shape of the inventory: `groups` as Ansible's variable of that name, `hosts` those of the play."""
    hosts = set(hosts)
    for group in GROUPS:
        if group in groups and not groups[group]:
            yield f"The group {group} has no hosts: put one into it, or remove the group."
    for group in ("web", "db"):
        if group not in groups:
            others = [name for name in groups if name not in (*GROUPS, "all", "ungrouped")]
            yield f"The inventory has no group {group}{closest(group, others) or ': the hosts of a site belong to web and db'}"
    known = {host for group in GROUPS for host in groups.get(group, [])}
    for host in sorted(hosts - known):
        own = [group for group, members in groups.items() if host in members and group not in ("all", "ungrouped")]
        hint = next((closest(group, GROUPS, 0.5) for group in own if closest(group, GROUPS, 0.5)), "")
        where = f" (only in {listed(own)}{hint})" if own else ""
        yield f"{host} is in none of the groups {listed(GROUPS)}{where}: put it into those whose work it does."
    web, db = groups.get("web", []), groups.get("db", [])
    if web and db and is_fleet(groups) and len(db) > 1:
        apart = sorted(set(web) - set(db))
        yield (f"{listed(apart)} {'is' if len(apart) == 1 else 'are'} in web but not in db, so one host of db is the database of all web hosts, "
               f"but {listed(sorted(db))} are in it: leave one.")
    elif web and db and not is_fleet(groups):
        for host in sorted(set(db) - set(web)):
            yield f"{host} is in db, but every host of web is too, and has a database of its own: take {host} out of db, or the web hosts."
    if len(groups.get("backups", [])) > 1:
        yield f"The group backups has {listed(sorted(groups['backups']))}, but one host keeps the backups of an environment: leave one."
    if len(groups.get("logs", [])) > 1:
        yield f"The group logs has {listed(sorted(groups['logs']))}, but one host receives the logs of an environment: leave one."
    for host in sorted(known) if groups.get("logs") else []:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", host):
            yield f"{host} sends its logs, which are kept in a folder called after it: give it a name of letters, digits, dots, dashes and underscores."
    for host in sorted({*web, *db}) if groups.get("backups") else []:
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,23}", host):
            yield (f"{host} has backups, which are kept by a unix user called after it: give it a name of small letters, digits and dashes, "
                   "24 characters at most, a letter first (where it is, ansible_host says).")


def check_fleet(groups: dict[str, list[str]], rendered: dict[str, dict]) -> t.Iterator[str]:
    """What hosts of one site must have in common, and know of each other: `rendered` are the values by host of the play."""
    serving = [host for host in groups.get("web", []) if host in rendered]
    for variable, why in (("app_name", "is one application's"), ("app_domains", "is one site's"), ("app_secret_key", "signs the sessions that all must read")):
        values = [rendered[host][variable] for host in serving if variable in rendered[host]]
        if any(value != values[0] for value in values):
            yield f"{variable} differs between {listed(serving)}, but {why}: give all web hosts the same."
    yield from check_addresses(groups, rendered)


def check_addresses(groups: dict[str, list[str]], rendered: dict[str, dict]) -> t.Iterator[str]:
    """Hosts that talk to each other know each other's addresses."""
    known = next((values["site_addresses"] for values in rendered.values() if isinstance(values.get("site_addresses"), dict)), {})
    for host in sorted({*groups.get("web", []), *groups.get("db", []), *groups.get("backups", []), *groups.get("logs", [])}):
        if host in known and not known[host]:
            yield f"base_addresses of {host} is empty and its ansible_host no address, but other hosts must reach it: list the addresses they know it by."
    for address in dict.fromkeys(address for addresses in known.values() for address in addresses):
        hosts = sorted(host for host, addresses in known.items() if address in addresses)
        if len(hosts) > 1:
            yield f"{address} is an address of {listed(hosts)} (base_addresses, or else ansible_host), so that others would take one for the other: give each its own."


def leaves(value: t.Any) -> t.Iterator[str]:
    """Every text inside a value."""
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, str):
        yield str(value)


def texts(value: t.Any, path: tuple = ()) -> t.Iterator[tuple[tuple, str]]:
    """Every text and number inside a value, and where it is."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from texts(item, (*path, key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from texts(item, (*path, index))
    elif isinstance(value, (str, int)) and not isinstance(value, bool):
        yield path, str(value)


def literal(raw: t.Any, value: t.Any) -> t.Any:
    """A value without what it takes from elsewhere: that is judged where it is."""
    if isinstance(raw, str) and ("{{" in raw or "{%" in raw):
        return None
    if isinstance(raw, dict) and isinstance(value, dict):
        return {key: literal(raw.get(key), item) for key, item in value.items()}
    if isinstance(raw, list) and isinstance(value, list):
        return [literal(part, item) for part, item in zip(raw, value, strict=False)]
    return value


def accepted_names(accepted: t.Any) -> set[str]:
    """Of `accepted_secrets`, the names for which somebody gave a reason."""
    return {str(name) for name, reason in accepted.items() if str(reason or "").strip()} if isinstance(accepted, dict) else set()


def check_vault(secrets: dict[str, t.Any], said: t.Collection[str] = (), ours: t.Collection[str] = (), accepted: t.Any = None) -> t.Iterator[Problem]:
    """The variables named vault_*: placeholders, weak ones, and one value under several names.

    `said` are values complained of already, `ours` those that a role calls secret.
    """
    owner: dict[str, tuple[str, bool]] = {}
    reasons = accepted_names(accepted)
    for name in sorted(secrets):
        for path, value in texts(secrets[name]):
            if not reasons.isdisjoint((name, dotted(name, path))):
                continue
            sentence = secret_problem(name, path, value, value in ours)
            if sentence and value not in said:
                yield Problem(name, sentence, path)
            elif not sentence and len(value) >= 8:
                proof = is_proof(name, path, value, value in ours)
                first, first_proof = owner.setdefault(value.strip(), (name, proof))
                if first != name and (proof or first_proof):
                    yield Problem(name, f"has the same value as {first}: give each secret its own (`{MAKE_SECRET}`), {OR_ACCEPT}", path)


# Who and where, not a proof of anything: short ones and equal ones are honest.
ADDRESS = re.compile(r"(?i)(.*_)?(user|username|login|host|hostname|server|port|e?mail|address|sender|from|id|name|region|bucket|domain|zone|ur[li])s?")
# What somebody else gives out cannot be made here, and is as strong as they like.
FOREIGN = re.compile(r"(?i)(.*_)?(ur[li]|dsn|webhook|token|api|apikey|smtp|e?mail|aws|s3|gcp|azure|stripe|paypal|sentry|oauth2?|oidc|saml|ldap|client|"
                     r"licen[cs]e|account|recaptcha|hcaptcha|sms|twilio|github|gitlab|google|slack)s?(_.*)?|"
                     r"(.*_)?(user|username|login|host|port|id)s?")
# What a name says that has to be kept secret. Nothing is held against a value whose name leaves it open.
SECRET_NAME = re.compile(r"(?i).*(password|passwort|passwd|passphrase)s?(_?\d+)?|"
                         r"(.*[_-])?(pass|pwd|secret|(secret|private|signing|encryption|master|session|deploy|jwt|hmac|fernet|ca)_?key)s?(_?\d+)?")
# In the place of any value; `placeholder` knows more, which a setting may honestly be.
BLANK = re.compile(r"(?i)(change|replace)[ _-]?(me|it|this)|to[ _-]?do|fixme|x{3,}|<[^<>@/]+>|placeholder|your[ _-].*(password|secret|key|token).*")
OR_ACCEPT = "or say in accepted_secrets why it stays (docs/secrets.md)"
# Bits, as `strength` counts them: twelve random letters and digits have a few more.
STRONG = 60
COMMON = sorted(
    """
    password passwort passwd pass1 secret admin root test demo dummy changeme change placeholder example sample letmein welcome qwerty qwertz asdf
    iloveyou monkey dragon login django postgres postgresql redis ansible vault staging production default master token summer winter spring autumn
    january february march april june july august september october november december monday friday sunday foobar hello world user database
    qwertyuiop qwertzuiop asdfghjkl zxcvbnm yxcvbnm 1q2w3e4r5t 1q2w3e4r q1w2e3r4 1qaz 2wsx 3edc 4rfv
    backup please redoubt nginx mysql linux debian server insecure todo fixme replace your
    """.split(),  # noqa: SIM905 - a list of words reads better so
    key=len,
    reverse=True,
)


def is_address(called: str, value: str) -> bool:
    return bool(ADDRESS.fullmatch(called)) or bool(re.match(r"[a-z][a-z0-9+.-]*://[^/@]+(/|$)", value))


def strength(value: str) -> float:
    """Bits that guessing takes at most: what everybody tries first, repetitions and runs count as next to nothing."""
    text = value[:512].casefold()
    for word in COMMON:
        text = text.replace(word, "\0")
    text = re.sub(r"(19|20)\d\d", "\0", text)
    for size in range(1, len(text) // 2 + 1):
        if text == (text[:size] * (len(text) // size + 1))[: len(text)]:
            text = text[:size]
            break
    counted, last = min(len(text), 1), None
    for index, (before, after) in enumerate(itertools.pairwise(text)):
        step = ord(after) - ord(before)
        counted += not (abs(step) <= 1 and step == last) and not (index and after == text[index - 1])
        last = step
    classes = ((r"[a-z]", 26), (r"[A-Z]", 26), (r"[0-9]", 10), (r"[^a-zA-Z0-9]", 32))
    pool = sum(size for pattern, size in classes if re.search(pattern, value))
    return counted * math.log2(max(2, min(pool, 4 * len(set(text)))))


def foreign(name: str, path: tuple = ()) -> bool:
    """Whether somebody else gives it out, by any of its names."""
    return any(FOREIGN.fullmatch(str(step).removeprefix("vault_")) for step in (name, *path))


def is_proof(name: str, path: tuple, value: str, ours: bool = False) -> bool:
    """Whether a value from the vault proves something that is this environment's alone: one of `ours`, or one whose own name says so."""
    called = own_name(name, path)
    return ours or bool(SECRET_NAME.fullmatch(called)) and not foreign(name, path) and not is_address(called, value)


def own_name(name: str, path: tuple) -> str:
    return next((step for step in reversed(path) if isinstance(step, str)), name)


def secret_problem(name: str, path: tuple, value: str, ours: bool = False) -> str | None:
    """Why a value from the vault is no secret; None where it is one, or none is wanted."""
    proof = is_proof(name, path, value, ours)
    if BLANK.fullmatch(value.strip().rstrip("!.")) or (proof and placeholder(own_name(name, path), value)):
        return f"is a placeholder: put a value of its own into the vault (`{MAKE_SECRET}`)"
    if not proof or "-----BEGIN " in value:
        return None
    if not value.strip():
        return f"is empty: put a value into the vault (`{MAKE_SECRET}`), {OR_ACCEPT}"
    if strength(value) < STRONG:
        return f"is too weak ({len(value)} characters that can be guessed): put 16 random ones or more into the vault (`{MAKE_SECRET}`), {OR_ACCEPT}"
    return None


def check_backup_platforms(groups: dict[str, list[str]], majors: dict[str, str]) -> t.Iterator[str]:
    """pgBackRest speaks only with its own version, so that a database and its backups must be on one release. `majors` by host."""
    for store in groups.get("backups", []):
        for host in sorted(groups.get("db", [])):
            if host in majors and store in majors and majors[host] != majors[store]:
                yield (f"{host} runs Debian {majors[host]} and {store}, which keeps its backups, Debian {majors[store]}, whose versions of pgBackRest do not "
                       f"speak with each other: bring both to the same release")


# What Debian calls PostgreSQL on each of its releases.
POSTGRES = {"12": "15", "13": "17"}


def check_postgres(groups: dict[str, list[str]], majors: dict[str, str], packages: dict[str, list[str]]) -> t.Iterator[str]:
    """One major of PostgreSQL an environment: what one host dumps, the next has to read. `majors` of Debian and `packages` by host."""
    hosts = [host for host in sorted(groups.get("db", [])) if majors.get(host) in POSTGRES]
    if len({majors[host] for host in hosts}) > 1:
        which = listed(f"{host} PostgreSQL {POSTGRES[majors[host]]} (Debian {majors[host]})" for host in hosts)
        yield f"The hosts of db have different majors of PostgreSQL, {which}: bring them to the same release of Debian, one inventory for each until then"
    for host in hosts:
        wanted = POSTGRES[majors[host]]
        found = {match[1] for name in packages.get(host, []) if (match := re.fullmatch(r"postgresql-(\d+)", name))} - {wanted}
        for major in sorted(found):
            yield (f"{host} has PostgreSQL {major} from before it was Debian {majors[host]}, which brings {wanted} with an empty database: "
                   f"move the data (`pg_upgradecluster {major} main` on the host), remove postgresql-{major}, and run this again")


def check_platform(distribution: str | None, major: str | None) -> str | None:
    """Whether the operating system is one the kit is tested on."""
    if (distribution, str(major)) in (("Debian", "12"), ("Debian", "13")):
        return None
    return f"runs {distribution or 'an unknown system'} {major or ''}".rstrip() + ", but Redoubt supports Debian 12 and 13: install one of them on this host, or take it out of the inventory"
