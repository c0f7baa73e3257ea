"""No secret is in any log: neither of the vault, nor a host's key, nor what people type. On the hosts and where they send it, compressed too."""

from __future__ import annotations

import re
import secrets

import logged
import pytest
from login import at_site
from test_logs_answers import Answers


@pytest.fixture(scope="module")
def answers(lab):
    if not lab.groups.get("logs"):
        pytest.skip("no host of this inventory receives logs")
    return Answers(lab)


def test_the_search_finds_what_is_logged_on_purpose(answers, lab) -> None:
    """In the journal, in a file, compressed, cut in the middle of a block, encoded; and on the log server once it has arrived."""
    planted = {form: secrets.token_urlsafe(24) + "/+ä" for form in ("journal", "file", "compressed", "encoded", "quoted", "audited")}
    folder = f"/var/log/drill-{secrets.token_hex(4)}"
    script = f"""
import base64, gzip, os, subprocess, urllib.parse
os.mkdir({folder!r}, 0o700)
subprocess.run(["systemd-cat", "--identifier=drill"], input={planted["journal"]!r}.encode(), check=True)
subprocess.run(["systemd-cat", "--identifier=drill"], input=b"{folder[9:]} " + base64.b64encode(b"user:" + {planted["encoded"]!r}.encode()), check=True)
open({folder!r} + "/file", "wb").write(b"x" * ((1 << 20) - 9) + {planted["file"]!r}.encode())
open({folder!r} + "/quoted", "w").write("GET /?token=" + urllib.parse.quote({planted["quoted"]!r}, safe=""))
open({folder!r} + "/audited", "w").write("proctitle=" + (b"login\\0--password=" + {planted["audited"]!r}.encode()).hex().upper())
gzip.open({folder!r} + "/old.gz", "wb").write(b"x" + {planted["compressed"]!r}.encode())
"""
    logged.at(lab, lab.web, script)
    try:
        found = logged.search(lab, lab.web, planted)["found"]
    finally:
        answers.web.check_output("rm -r %s", folder)
    assert {place.removeprefix(folder): names for place, names in found.items() if place == "journal" or place.startswith(folder)} == {
        "journal": ["encoded", "journal"], "/file": ["file"], "/quoted": ["quoted"], "/audited": ["audited"], "/old.gz": ["compressed"]}
    answers.wait("show", "--dataset", "journal", "--text", folder[9:], "--host", lab.web)
    arrived = logged.search(lab, lab.groups["logs"][0], planted)["found"]
    assert [sorted(names) for place, names in arrived.items() if place.startswith(f"/var/log/redoubt/{lab.web}/")] == [["encoded", "journal"]]


def test_no_log_has_a_secret(answers, lab, browse) -> None:
    typed = {f"typed {where}": f"hunter{secrets.token_hex(12)}" for where in ("as password", "as name", "in a query", "in a referrer", "while the database was away",
                                                                           "as a database password", "in a cookie", "as basic authentication")}
    admin, site = lab.vars(lab.web)["vault_app_admin_password"], answers.site
    assert at_site(browse(lab.web), site, "admin", admin).status_code in (200, 302)
    at_site(browse(lab.web), site, "admin", typed["typed as password"])
    at_site(browse(lab.web), site, typed["typed as name"], "x")
    browser = browse(lab.web)
    browser.get(f"{site}/", params={"token": typed["typed in a query"]}, headers={"Referer": f"{site}/?t={typed['typed in a referrer']}"}, timeout=20)
    browser.get(f"{site}/nothing", params={"token": typed["typed in a query"]}, cookies={"sessionid": typed["typed in a cookie"]},
                auth=("admin", typed["typed as basic authentication"]), timeout=20)
    page = browser.get(f"{site}/accounts/login/", timeout=20).text
    data = {"username": "admin", "password": typed["typed while the database was away"],
            "csrfmiddlewaretoken": re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)[1]}
    db_name = lab.groups["db"][0]
    db = lab.host(db_name)
    unit = db.check_output("systemctl list-units --plain --no-legend 'postgresql@*' | cut -d' ' -f1")
    db.check_output("systemctl stop %s", unit)
    try:
        assert browser.post(f"{site}/accounts/login/", data=data, headers={"Referer": f"{site}/accounts/login/"}, timeout=30).status_code == 500
    finally:
        db.check_output("systemctl start %s", unit)
    role = f"drill_{secrets.token_hex(4)}"
    logged.statements(lab, db_name, role, typed["typed as a database password"])
    last = browser.get(f"{site}/accounts/login/", timeout=20).headers["X-Request-ID"]
    answers.wait("show", "--dataset", "nginx.access", "--text", last)
    answers.wait("show", "--dataset", "postgresql", "--text", "ROLE,DROP ROLE")
    wanted = {**logged.vault(lab), **typed}
    assert len(wanted) > len(typed) + 5
    looked = {name: logged.search(lab, name, wanted) for name in lab.groups["all"]}
    assert all(each["bytes"] > 1 << 20 and each["secrets"] >= len(wanted) for each in looked.values()), looked
    assert {name: each["found"] for name, each in looked.items()} == {name: {} for name in looked}
