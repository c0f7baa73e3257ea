"""A project nobody here wrote: what its visitor and its organiser do in a browser, and what of it is on the host."""

from __future__ import annotations

import re
import secrets
from urllib.parse import urljoin

import pytest

pytestmark = pytest.mark.hosts("web")

TOKEN = re.compile(r'name="?csrfmiddlewaretoken"?[^>]*? value="?(\w+)')


@pytest.fixture(scope="module")
def site(host) -> str:
    return f"https://{host.lab['app_domains'][0]}"


@pytest.fixture(scope="module")
def release(host) -> str:
    """Folder of the live release."""
    return host.check_output("readlink -f %s", host.lab["site_live_release"])


@pytest.fixture
def sql(host):
    """Ask the database as its superuser."""
    return lambda query: host.check_output("cd / && runuser -u postgres -- psql -XAt -d %s -c %s", host.lab["app_name"], query).splitlines()


def post(browser, url: str, **fields: str):
    """Send the form of a page, with the token that the page holds."""
    page = browser.get(url, timeout=30)
    assert page.status_code == 200, page.text[:500]
    token = TOKEN.search(page.text)
    assert token, "the page has no CSRF token"
    return browser.post(url, data={"csrfmiddlewaretoken": token[1], **fields}, headers={"Referer": url}, allow_redirects=False, timeout=30)


def log_in(browser, host, site: str, password: str | None = None):
    password = password or host.lab["vault_app_admin_password"]
    return post(browser, f"{site}/orga/login/", login_email=host.lab["app_env"]["DJANGO_SUPERUSER_EMAIL"], login_password=password)


def test_the_front_page_answers_over_https(https, site):
    page = https.get(site, timeout=30)
    assert page.status_code == 200
    assert "pretalx" in page.text
    assert page.url.startswith(site)


def test_there_is_no_django_admin(https, site):
    assert https.get(f"{site}/admin/login/", timeout=30).status_code == 404


def test_the_login_page_finds_its_styles_and_scripts(host, https, site, release):
    page = https.get(f"{site}/orga/login/", timeout=30).text
    found = sorted({path for path in re.findall(r'(?:href|src)="?(/static/[^\s">]+)', page) if path.endswith((".css", ".js"))})
    assert [path for path in found if path.endswith(".css")] and [path for path in found if path.endswith(".js")]
    for path in found:
        answer = https.get(urljoin(site, path), timeout=30)
        assert answer.status_code == 200, path
        assert re.match(r"text/(css|javascript)|application/javascript", answer.headers["Content-Type"]), path
        assert answer.content == host.file(f"{release}{path}").content, path
    assert https.get(f"{site}/static/orga/css/auth.000000000000.css", timeout=30).status_code == 404


def test_the_schedule_editor_that_npm_built_is_served(host, https, site, release):
    manifest = https.get(f"{site}/static/pretalx-manifest.json", timeout=30).json()
    entry = next(item for item in manifest.values() if item.get("isEntry"))
    answer = https.get(f"{site}/static/{entry['file']}", timeout=30)
    assert answer.status_code == 200
    assert len(answer.content) > 10000
    assert host.run("find %s -name node_modules | grep .", release).rc == 1


def test_the_release_is_what_its_authors_published(host, release):
    script = """
import base64, hashlib
from importlib.metadata import distribution
found = distribution("pretalx")
print(found.version)
for path in found.files:
    if path.hash:
        digest = base64.urlsafe_b64encode(hashlib.new(path.hash.mode, path.read_binary()).digest()).decode().rstrip("=")
        print("same" if digest == path.hash.value else f"changed {path}")
"""
    version, *files = host.check_output("%s -c %s", f"{release}/venv/bin/python", script).splitlines()
    assert version == host.lab["app_version"]
    assert len(files) > 1000
    # uv writes the shebang of scripts anew, and nothing else.
    assert [line for line in files if line != "same"] == []


def test_a_post_without_a_token_is_refused(https, site):
    answer = https.post(f"{site}/orga/login/", data={"login_email": "a@b.test"}, headers={"Referer": f"{site}/orga/login/"}, timeout=30)
    assert answer.status_code == 403


def test_a_wrong_password_does_not_log_in(host, https, site):
    answer = log_in(https, host, site, password=secrets.token_hex(8))
    assert answer.status_code == 200
    assert "pretalx_session" not in https.cookies
    assert "/orga/login" in https.get(f"{site}/orga/organiser/new", timeout=30).url


def test_the_administrator_logs_in_and_the_session_is_in_redis(host, https, site, sql):
    answer = log_in(https, host, site)
    assert answer.status_code == 302, answer.text[:2000]
    cookies = {cookie.name: cookie for cookie in https.cookies}
    assert cookies["pretalx_session"].secure and cookies["pretalx_session"].has_nonstandard_attr("HttpOnly")
    assert cookies["pretalx_csrftoken"].secure
    key = f":1:django.contrib.sessions.cache{cookies['pretalx_session'].value}"
    socket = host.lab["site_redis_socket"]
    assert host.check_output("cd / && runuser -u %s -- redis-cli -s %s -n 1 exists %s", host.lab["site_user"], socket, key) == "1"
    assert sql("SELECT count(*) FROM django_session") == ["0"]


def test_what_the_administrator_saves_is_a_row_written_by_the_runtime_role(host, https, site, sql):
    assert log_in(https, host, site).status_code == 302
    slug = f"test-{secrets.token_hex(4)}"
    answer = post(https, f"{site}/orga/organiser/new", name_0="Ørganiser <b>", slug=slug)
    assert answer.status_code == 302, answer.text[:2000]
    assert sql(f"SELECT name::json->>'en' FROM event_organiser WHERE slug = '{slug}'") == ["Ørganiser <b>"]
    # The pool keeps its connections, so whoever wrote is still there to be seen.
    users = sql("SELECT DISTINCT usename FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
    assert users == [host.lab["site_user"]]
    # Shown to the organiser again, escaped.
    assert "Ørganiser &lt;b" in https.get(f"{site}/orga/organiser/{slug}/settings/", timeout=30).text


def test_the_set_up_ran_once(sql, host):
    email = host.lab["app_env"]["DJANGO_SUPERUSER_EMAIL"]
    assert sql("SELECT email FROM person_user WHERE is_administrator") == [email]
    assert sql("SELECT slug FROM event_organiser WHERE slug !~ '^test-'") == [host.lab["app_env"]["PRETALX_INIT_ORGANISER_SLUG"]]


def test_the_owner_role_owns_the_tables_and_the_runtime_role_only_uses_them(host, sql):
    role = host.lab["site_user"]
    owners = dict(line.split("|") for line in sql("SELECT tableowner, count(*) FROM pg_tables WHERE schemaname = 'public' GROUP BY 1"))
    assert set(owners) == {host.lab["site_owner_role"]}
    assert int(owners[host.lab["site_owner_role"]]) > 50
    may = "SELECT DISTINCT has_table_privilege('{}', oid, '{}') FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    assert [sql(may.format(role, right)) for right in ("SELECT", "INSERT", "UPDATE", "DELETE")] == [["t"]] * 4
    assert [sql(may.format(role, right)) for right in ("TRUNCATE", "REFERENCES", "TRIGGER")] == [["f"]] * 3


def test_the_release_is_roots_and_nobody_else_writes_it(host, release):
    assert host.check_output("find %s ! -user root -o ! -group root -o ! -type l -perm /022", release) == ""
    for user in (host.lab["site_user"], host.lab["site_build_user"], "www-data"):
        assert host.check_output("cd / && runuser -u %s -- find %s ! -type l -writable", user, release) == "", user


def test_each_user_reads_its_own_edition_of_the_configuration(host):
    config, users = host.lab["site_config"], {name: host.lab[f"site_{name}user"] for name in ("", "migrate_", "build_")}
    files = {
        f"{config}/pretalx.cfg": "",
        f"{config}/files/migrate/etc/pretalx/pretalx.cfg": "migrate_",
        f"{config}/files/build/etc/pretalx/pretalx.cfg": "build_",
    }
    readers = {**users, "nobody": "nobody", "nginx": "www-data"}
    # One line of `path user code` each, in one call.
    script = 'cd /; for path in %s; do for user in %s; do runuser -u $user -- grep -q "^secret = ." $path 2>/dev/null; echo $path $user $?; done; done'
    lines = host.check_output(script % (" ".join(files), " ".join(readers.values()))).splitlines()
    assert {tuple(line.split()[:2]) for line in lines if line.endswith(" 0")} == {(path, readers[name]) for path, name in files.items()}
    assert len(lines) == len(files) * len(readers)
    assert f"user = {users['']}\n" in host.file(f"{config}/pretalx.cfg").content_string
    assert f"user = {users['migrate_']}\n" in host.file(f"{config}/files/migrate/etc/pretalx/pretalx.cfg").content_string


def test_the_worker_answers_through_the_queue(host, release):
    unit = host.service("pretalx-worker")
    assert unit.is_running and unit.is_enabled
    run = f"{host.lab['site_tools']}/pretalx-run"
    # With a destination it is content with one answer, and waits for it alone.
    ping = "celery -A pretalx.celery_app inspect ping --timeout 20 --destination celery@$(uname -n)"
    done = host.run("%s runtime %s %s", run, release.rsplit("/", 1)[1], ping)
    assert done.rc == 0 and "pong" in done.stdout, done.stdout + done.stderr + host.run("journalctl -n 40 -u pretalx-worker").stdout


def test_the_periodic_command_runs_and_its_timer_is_set(host):
    assert host.run("systemctl start pretalx-periodic.service").rc == 0, host.run("journalctl -n 40 -u pretalx-periodic").stdout
    assert host.check_output("systemctl show --value -p NextElapseUSecRealtime pretalx-periodic.timer") != ""
    assert host.service("pretalx-periodic.timer").is_enabled
