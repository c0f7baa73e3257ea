"""The demo project as its users have it: they log in, write, upload and read. Writes into the application."""

from __future__ import annotations

import re
import secrets

import pytest

PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
                    "0000000d49444154789c6360f8cf500f0003860180da3d80350000000049454e44ae426082")


@pytest.fixture
def site(lab):
    variables = lab.vars(lab.web)
    if variables["app_repo"].rsplit("/", 1)[-1] != "notes.git":
        pytest.skip("these pages are the demo project's")
    return f"https://{variables['app_domains'][0]}"


@pytest.fixture
def password(lab):
    return lab.vars(lab.web)["vault_app_admin_password"]


def post(browser, url: str, **options):
    """Send a form as a browser does: with the token of the page and its address."""
    page = browser.get(url, timeout=20)
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)[1]
    data = {**options.pop("data", {}), "csrfmiddlewaretoken": token}
    return browser.post(url, data=data, headers={"Referer": url}, timeout=30, allow_redirects=False, **options)


@pytest.fixture
def member(https, site, password):
    """A browser with an open session."""
    answer = post(https, f"{site}/accounts/login/", data={"username": "admin", "password": password})
    assert answer.status_code == 302, answer.text
    return https


def test_login_wants_the_password_and_the_token(https, site, password) -> None:
    wrong = post(https, f"{site}/accounts/login/", data={"username": "admin", "password": f"{password}x"})
    assert wrong.status_code == 200 and "sessionid" not in https.cookies
    forged = https.post(f"{site}/accounts/login/", data={"username": "admin", "password": password}, timeout=20)
    assert forged.status_code == 403
    right = post(https, f"{site}/accounts/login/", data={"username": "admin", "password": password})
    assert right.status_code == 302
    session = next(cookie for cookie in https.cookies if cookie.name == "sessionid")
    assert session.secure and session.has_nonstandard_attr("HttpOnly")


def test_row_is_stored_by_the_runtime_role(member, site, lab, web) -> None:
    name = lab.vars(lab.web)["app_name"]
    title = f"drill {secrets.token_hex(8)}"
    answer = post(member, f"{site}/notes/new/", data={"title": title, "body": "three little words"})
    assert answer.status_code == 302, answer.text
    query = f"select count(*) from notes_note where title = '{title}'"
    assert web.check_output(f"runuser -u postgres -- psql -XAtq -d {name} -c \"{query}\"") == "1"
    owner = "select tableowner from pg_tables where tablename = 'notes_note'"
    assert web.check_output(f"runuser -u postgres -- psql -XAtq -d {name} -c \"{owner}\"") == f"{name}_owner"
    connected = f"select distinct usename from pg_stat_activity where datname = '{name}' and usename <> 'postgres'"
    assert web.check_output(f"runuser -u postgres -- psql -XAtq -d {name} -c \"{connected}\"") == name


def test_upload_is_kept_outside_the_code_and_never_run(member, site, lab, web) -> None:
    title = f"drill {secrets.token_hex(8)}"
    answer = post(member, f"{site}/notes/new/", data={"title": title, "body": "x"}, files={"attachment": ("dot.png", PNG, "image/png")})
    assert answer.status_code == 302, answer.text
    name = lab.vars(lab.web)["app_name"]
    query = f"select attachment from notes_note where title = '{title}'"
    stored = web.check_output(f"runuser -u postgres -- psql -XAtq -d {name} -c \"{query}\"")
    found = web.file(f"/srv/{name}/media/{stored}")
    assert found.is_file and found.user == name and found.group == "www-data" and not found.mode & 0o111
    served = member.get(f"{site}/media/{stored}", timeout=20)
    assert served.status_code == 200 and served.content == PNG
    assert served.headers["X-Content-Type-Options"] == "nosniff"
    script = post(member, f"{site}/notes/new/", data={"title": title, "body": "x"}, files={"attachment": ("dot.png", b"<script>", "image/png")})
    assert script.status_code == 200, "a file that is not what it says must be refused"


def test_processes_do_their_part(https, site) -> None:
    about = https.get(f"{site}/about", timeout=20).json()
    assert about["secure"] is True and about["host"] == site.removeprefix("https://")
    assert about["worker_seen_seconds_ago"] < 10


def test_scheduled_command_runs(web, lab, site) -> None:
    name = lab.vars(lab.web)["app_name"]
    for timer in lab.vars(lab.web)["app_timers"]:
        result = web.run(f"systemctl start {name}-{timer}.service")
        assert result.rc == 0, web.check_output(f"journalctl --no-pager --lines=30 --unit={name}-{timer}.service")


@pytest.mark.once
def test_what_was_stopped_runs_again(lab, web) -> None:
    stopped = ["fail2ban.service", "certbot-renew.timer", "apt-daily.timer"]
    web.check_output(f"systemctl stop {' '.join(stopped)} && systemctl --quiet disable nginx.service")
    told = lab.playbook("playbooks/site.yml").stdout
    assert web.check_output(f"systemctl is-active {' '.join(stopped)}").split() == ["active"] * 3, told
    assert web.check_output("systemctl is-enabled nginx.service") == "enabled", told
