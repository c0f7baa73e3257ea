#!/usr/bin/python
# Copyright: Redoubt maintainers
# MIT License (see LICENSE)
"""Have one certificate for a list of names, by certbot and the HTTP-01 challenge."""

from __future__ import annotations

DOCUMENTATION = r"""
module: certbot_certificate
short_description: Have one certificate for a list of names, by certbot
description:
  - Does nothing while the certificate that certbot keeps is for these names, from this server, and not about to expire.
    Renewal is certbot's own business.
  - Before the ACME server is asked, every name is fetched over HTTP from the host itself, as the ACME server will do.
    Names that do not lead here are left out and said in RV(problems), so that no rate limit is spent on them.
  - Does not fail because of the network, DNS or the ACME server. What is wrong is in RV(problems), one sentence each; the
    certificate that exists stays in use.
  - Never takes a name away from a certificate because it does not lead here today.
  - Keeps the account's contact as O(email) says. What was registered is written down beside the account, so that the ACME
    server is told once and not asked again.
version_added: "0.1.0"
author: Redoubt maintainers (@redoubt)
options:
  name:
    description: Name of the certificate in certbot, and of its folder.
    type: str
    required: true
  domains:
    description: Names that the certificate is for. Without the first one there is no certificate.
    type: list
    elements: str
    required: true
  directory:
    description: Address of the ACME server's directory.
    type: str
    required: true
  email:
    description:
      - Contact of the account. Empty for none.
      - The contact of an account that was not registered here is unknown. It is set to an address, and never taken away.
    type: str
    default: ""
  profile:
    description: Certificate profile to ask for. Empty for the server's default.
    type: str
    default: ""
  webroot:
    description: Folder that answers C(/.well-known/acme-challenge/) on port 80.
    type: path
    required: true
  certbot:
    description: The program.
    type: path
    default: /usr/local/sbin/certbot
  config:
    description: Folder of certbot's configuration.
    type: path
    default: /etc/letsencrypt
  deploy_hook:
    description: Command that certbot runs after every new certificate.
    type: str
    required: true
  precheck:
    description: Whether to fetch every name first.
    type: bool
    default: true
attributes:
  check_mode:
    support: full
    description: Looks at DNS only, since fetching needs a file in the webroot.
  diff_mode:
    support: none
    description: A certificate is not a text.
"""

EXAMPLES = r"""
- name: Have a certificate
  redoubt.django.certbot_certificate:
    name: notes
    domains: [notes.example.org, www.notes.example.org]
    directory: https://acme-v02.api.letsencrypt.org/directory
    webroot: /var/lib/acme/webroot
    deploy_hook: systemctl reload nginx.service
"""

RETURN = r"""
contact_updated:
  description: Whether the contact of an account that was there before was changed.
  returned: always
  type: bool
created:
  description: Whether there was none before.
  returned: always
  type: bool
names:
  description: Names that the certificate is for now.
  returned: always
  type: list
  elements: str
problems:
  description: What stands in the way of the rest, one sentence each, with the way out.
  returned: always
  type: list
  elements: str
"""

import errno
import http.client
import os
import re
import secrets
import socket
import ssl
import time
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule

CHALLENGES = ".well-known/acme-challenge"
# Part of its lifetime that a certificate keeps when nothing has renewed it, although the timer ran for a while.
NEGLECTED = 0.1
TIMEOUT = 10
# Beside the files of certbot's account, and gone with them: the contact that the ACME server was told last.
CONTACT = "redoubt-contact"
# Somebody else's certbot (the timer's) is done within this time, or hangs.
LOCK_WAIT = 120


def read_certificate(module: AnsibleModule, config: str, name: str) -> dict | None:
    """What certbot keeps under this name, or None."""
    chain = f"{config}/live/{name}/fullchain.pem"
    if not os.path.exists(chain):
        return None
    code, out, err = module.run_command(["openssl", "x509", "-in", chain, "-noout", "-dates", "-ext", "subjectAltName"])
    if code:
        module.fail_json(msg=f"{chain} is not a certificate that openssl can read: {err.strip()}")
    dates = dict(re.findall(r"^(notBefore|notAfter)=(.+)$", out, re.MULTILINE))
    begin, end = (ssl.cert_time_to_seconds(dates[key]) for key in ("notBefore", "notAfter"))
    found = {"names": re.findall(r"DNS:([^\s,]+)", out), "left": (end - time.time()) / (end - begin)}
    renewal = f"{config}/renewal/{name}.conf"
    text = ""
    if os.path.exists(renewal):
        with open(renewal, encoding="utf-8") as file:
            text = file.read()
    settings = dict(re.findall(r"^(\w+) = (.*)$", text, re.MULTILINE))
    found["server"] = settings.get("server", "")
    found["account"] = settings.get("account", "")
    found["profile"] = settings.get("required_profile", "").replace("None", "")
    return found


def find_account(config: str, directory: str, chosen: str) -> str:
    """Folder of the account at this server: the one that the certificate names, or the only one; nothing when there is none."""
    server = urlsplit(directory)
    accounts = f"{config}/accounts/{server.netloc}{server.path}"
    found = [name for name in sorted(os.listdir(accounts)) if os.path.exists(f"{accounts}/{name}/regr.json")] if os.path.isdir(accounts) else []
    if chosen in found or len(found) == 1:
        return f"{accounts}/{chosen if chosen in found else found[0]}"
    return ""


def read_contact(account: str) -> str | None:
    """The contact that the ACME server was told last for this account, or None where nobody wrote it down."""
    try:
        with open(f"{account}/{CONTACT}", encoding="utf-8") as file:
            return file.read().strip()
    except FileNotFoundError:
        return None


def write_contact(account: str, email: str) -> None:
    """Write down what the ACME server was told."""
    pending = f"{account}/.{CONTACT}.new"
    with open(pending, "w", encoding="utf-8") as file:
        file.write(f"{email}\n")
    os.rename(pending, f"{account}/{CONTACT}")


def contact_is_due(account: str, email: str) -> bool:
    """Say whether the account's contact is another than it should be."""
    if not account:
        return False
    known = read_contact(account)
    # An account that somebody else registered has a contact that only he knows: none is wished for, none is taken away.
    return bool(email) if known is None else known != email


def addresses_of(name: str) -> list[str]:
    """Every address of a name. Raises OSError when it has none."""
    found = socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(info[4][0] for info in found))


def own_addresses() -> list[str]:
    """The addresses that this host talks to the world from; nothing is sent."""
    found = []
    for family, somewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((somewhere, 9))
                found.append(probe.getsockname()[0])
        except OSError:
            continue
    return found


def fetch(address: str, name: str, path: str) -> tuple[int, bytes]:
    """Status and beginning of the body that an address answers for a name."""
    connection = http.client.HTTPConnection(address, 80, timeout=TIMEOUT)
    try:
        connection.request("GET", path, headers={"Host": name, "User-Agent": "redoubt-precheck"})
        answer = connection.getresponse()
        return answer.status, answer.read(200)
    finally:
        connection.close()


def unreachable_family(error: OSError) -> bool:
    """Whether an attempt failed because this host has no IPv6 (or IPv4) at all, which says nothing about the name."""
    return error.errno in (errno.ENETUNREACH, errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def why_not_ready(name: str, token: str, body: bytes) -> str:
    """Say why the ACME server would not find the token under a name; nothing when it would, or when only it can tell."""
    here = " or ".join(own_addresses()) or "this host's address"
    try:
        addresses = addresses_of(name)
    except OSError as error:
        return (f"{name} has no address in DNS ({error.strerror or error}). Add an A record that leads to this host, "
                f"which talks to the world from {here}.")
    # A line in /etc/hosts. What the world sees is then unknown here.
    if all(address.startswith("127.") or address == "::1" for address in addresses):
        return ""
    for address in addresses:
        record = "AAAA" if ":" in address else "A"
        fix = f"Let the {record} record lead to this host (it talks to the world from {here}), or remove it."
        try:
            status, answer = fetch(address, name, f"/{CHALLENGES}/{token}")
        except OSError as error:
            if unreachable_family(error):
                continue
            return (f"{name} leads to {address}, where nothing answers our challenge on port 80 ({error.strerror or error}). {fix} "
                    "If the address is this host's, let port 80 through; if only this host cannot reach it (NAT), set "
                    "`certbot_precheck: false`.")
        except http.client.HTTPException as error:
            return f"{name} leads to {address}, which does not speak HTTP on port 80 ({error!r}). {fix}"
        # The ACME server follows redirects, to a proxy's https say: it is the judge of those.
        if status // 100 == 3:
            continue
        if status != 200 or answer != body:
            return f"{name} leads to {address}, which is not this host: it does not know our challenge (HTTP {status}). {fix}"
    return ""


def why_not_ready_in_dns(name: str) -> str:
    """The part of why_not_ready that reads only."""
    try:
        addresses_of(name)
    except OSError as error:
        return f"{name} has no address in DNS ({error.strerror or error})."
    return ""


def precheck(names: list[str], webroot: str) -> dict[str, str]:
    """Names that are not ready, and why."""
    folder = f"{webroot}/{CHALLENGES}"
    token = f"redoubt-{secrets.token_urlsafe(16)}"
    body = secrets.token_urlsafe(32).encode()
    umask = os.umask(0o022)
    try:
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/{token}", "wb") as file:
            file.write(body)
    finally:
        os.umask(umask)
    try:
        reasons = {name: why_not_ready(name, token, body) for name in names}
    finally:
        os.unlink(f"{folder}/{token}")
    return {name: reason for name, reason in reasons.items() if reason}


def names_to_order(wanted: list[str], names: list[str], sound: bool, bad: dict[str, str]) -> list[str]:
    """Names to ask a new certificate for; none when the one that is there is the best there can be."""
    ready = [name for name in wanted if name not in bad]
    # A name that was certified keeps its certificate through a bad day of its DNS.
    loses = any(name in names for name in wanted if name in bad)
    if wanted[0] in bad or loses or (sound and set(ready) == set(names)):
        return []
    return ready


def command(params: dict, names: list[str], exists: bool) -> list[str]:
    """The call of certbot that gets the certificate."""
    words = [params["certbot"], "certonly", "--non-interactive", "--agree-tos", "--webroot", "--webroot-path", params["webroot"],
             "--server", params["directory"], "--cert-name", params["name"], "--key-type", "ecdsa",
             "--deploy-hook", params["deploy_hook"], "--renew-with-new-domains"]
    words += ["--email", params["email"], "--no-eff-email"] if params["email"] else ["--register-unsafely-without-email"]
    if params["profile"]:
        words += ["--required-profile", params["profile"]]
    if exists:
        words.append("--force-renewal")
    for name in names:
        words += ["--domain", name]
    return words


def contact_command(params: dict, account: str) -> list[str]:
    """The call of certbot that tells the ACME server the contact."""
    words = [params["certbot"], "update_account", "--non-interactive", "--server", params["directory"], "--account", os.path.basename(account)]
    return words + (["--email", params["email"], "--no-eff-email"] if params["email"] else ["--register-unsafely-without-email"])


def explain(output: str, directory: str) -> list[str]:
    """Sentences from what certbot printed."""
    found = re.findall(r"^\s*(?:Domain|Identifier):\s*(\S+)\n\s*Type:\s*(\S+)\n\s*Detail:\s*(.+)$", output, re.MULTILINE)
    if found:
        return [f"The ACME server {directory} could not validate {name} ({kind}): {detail}" for name, kind, detail in found]
    return [f"certbot got no certificate from {directory}: {last_words(output)} More is in /var/log/letsencrypt/letsencrypt.log on the host."]


def explain_contact(output: str, params: dict) -> str:
    """A sentence from what certbot printed when the contact was refused."""
    return (f"app_acme_email: the contact at {params['directory']} could not be changed to {params['email'] or 'none'}: {last_words(output)} "
            "Certificates are renewed all the same. More is in /var/log/letsencrypt/letsencrypt.log on the host.")


def last_words(output: str) -> str:
    """The end of what certbot printed, without what it always prints."""
    noise = ("Saving debug log", "Ask for help", "See the logfile", "Some challenges have failed", "Requesting a certificate",
             "Account registered", "Renewing an existing")
    lines = [line.strip() for line in output.splitlines() if line.strip() and not line.startswith(noise)]
    return " ".join(lines[-4:]) or "it does not say why."


def run_certbot(module: AnsibleModule, words: list[str]) -> tuple[int, str]:
    """Run certbot, after another one that is at work."""
    until = time.monotonic() + LOCK_WAIT
    while True:
        code, out, err = module.run_command(words)
        if code and "Another instance of Certbot" in out + err and time.monotonic() < until:
            time.sleep(5)
            continue
        return code, f"{out}\n{err}"


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "domains": {"type": "list", "elements": "str", "required": True},
            "directory": {"type": "str", "required": True},
            "email": {"type": "str", "default": ""},
            "profile": {"type": "str", "default": ""},
            "webroot": {"type": "path", "required": True},
            "certbot": {"type": "path", "default": "/usr/local/sbin/certbot"},
            "config": {"type": "path", "default": "/etc/letsencrypt"},
            "deploy_hook": {"type": "str", "required": True},
            "precheck": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    wanted = list(dict.fromkeys(name.lower() for name in params["domains"]))
    old = read_certificate(module, params["config"], params["name"])
    names = old["names"] if old else []
    chosen = old["account"] if old else ""
    account = find_account(params["config"], params["directory"], chosen)
    updated, refusals = contact_is_due(account, params["email"]), []
    if updated and not module.check_mode:
        code, output = run_certbot(module, contact_command(params, account))
        if code:
            updated, refusals = False, [explain_contact(output, params)]
        else:
            write_contact(account, params["email"])

    def finish(changed: bool, names: list[str], problems: list[str]) -> None:
        problems = refusals + problems
        for problem in problems:
            module.warn(problem)
        module.exit_json(changed=changed or updated, created=changed and old is None, contact_updated=updated, names=sorted(names),
                         problems=problems)

    sound = (old is not None and old["left"] > NEGLECTED
             and (old["server"], old["profile"]) == (params["directory"], params["profile"]))
    if sound and set(names) == set(wanted):
        finish(False, names, [])

    if not params["precheck"]:
        bad = {}
    elif module.check_mode:
        bad = {name: reason for name in wanted if (reason := why_not_ready_in_dns(name))}
    else:
        bad = precheck(wanted, params["webroot"])
    problems = list(bad.values())
    order = names_to_order(wanted, names, sound, bad)
    if not order:
        finish(False, names, problems)
    if module.check_mode:
        finish(True, order, problems)
    code, output = run_certbot(module, command(params, order, exists=old is not None))
    # Also where it got no certificate: the account is there then, and the next run has to know its contact.
    if not account and (made := find_account(params["config"], params["directory"], "")):
        write_contact(made, params["email"])
    if code:
        finish(False, names, problems + explain(output, params["directory"]))
    finish(True, order, problems)


if __name__ == "__main__":
    main()
