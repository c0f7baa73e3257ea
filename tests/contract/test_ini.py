"""A catalogue with an INI file, uv.lock, three static roots, a file cache and a counter (molecule/projects/ini)."""

from __future__ import annotations

import re

import pytest

URL = "https://catalogue.test"
RELEASE = "/srv/catalogue/live/release"


@pytest.fixture(scope="module")
def ini(lab):
    return lab.host("ini1")


@pytest.fixture
def https(browse):
    return browse("ini1")


def log_in(https, lab, password: str | None = None):
    form = https.get(f"{URL}/login/")
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form.text)[1]
    values = {"username": "admin", "password": password or lab.vars("ini1")["vault_app_admin_password"], "csrfmiddlewaretoken": token}
    return https.post(f"{URL}/login/", data=values, headers={"Referer": f"{URL}/login/"}, allow_redirects=False)


def test_the_settings_are_the_inventorys_file(ini, https) -> None:
    """app_files: relative, secret. The project has no other place to take its settings from."""
    assert https.get(URL).status_code == 200
    path = f"{RELEASE}/src/catalogue.ini"
    assert ini.check_output(f"stat -c '%U:%G %a' $(readlink -f {path})") == "root:catalogue 640"
    assert "user = catalogue\n" in ini.file(path).content_string
    assert ini.run(f"runuser -u nobody -- cat {path}").rc != 0
    assert ini.run(f"runuser -u catalogue_build -- cat {path}").rc != 0


def test_a_migration_reads_it_as_the_migrator(ini) -> None:
    """The edition for migrations names the migrator's role, and what they made is its owner's."""
    path = "/etc/catalogue/files/migrate/catalogue.ini"
    assert "user = catalogue_migrate\n" in ini.file(path).content_string
    assert ini.check_output(f"stat -c '%U:%G %a' {path}") == "root:catalogue_migrate 640"
    owner = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
    assert ini.check_output(f'runuser -u postgres -- psql -XAtc "{owner}" catalogue') == "catalogue_owner"


def test_groups_and_extras_of_the_lock_are_installed_and_no_others(ini, https, lab) -> None:
    """app_requirements auto (uv.lock), app_requirements_groups, app_requirements_extras."""
    packages = ini.check_output(f"ls {RELEASE}/venv/lib/python3*/site-packages")
    assert {"psycopg", "stdnum"} <= set(packages.split())
    assert "debug_toolbar" not in packages
    assert log_in(https, lab).status_code == 302
    token = https.cookies["csrftoken"]
    values = {"title": "A wrong number", "isbn": "123", "csrfmiddlewaretoken": token}
    assert https.post(f"{URL}/add/", data=values, headers={"Referer": URL}, allow_redirects=False).status_code == 200


def test_a_book_is_stored_by_the_runtime_role(ini, https, lab) -> None:
    assert log_in(https, lab).status_code == 302
    values = {"title": "The Mill on the Floss", "isbn": "", "csrfmiddlewaretoken": https.cookies["csrftoken"]}
    assert https.post(f"{URL}/add/", data=values, headers={"Referer": URL}, allow_redirects=False).status_code == 302
    # Deletion by hand fires no trigger, and leaves the next run what this one found.
    deleted = "DELETE FROM books_book WHERE title = 'The Mill on the Floss' RETURNING 1"
    assert ini.check_output(f'runuser -u catalogue -- psql -XAtqc "{deleted}" catalogue').split()[0] == "1"


def test_a_wrong_password_is_the_projects_401(https, lab) -> None:
    """app_login_paths: a probe path that answers 401 or 200 is alive."""
    assert log_in(https, lab, "wrong").status_code == 401


def test_setup_made_the_administrator_once(ini) -> None:
    """app_setup."""
    count = "SELECT count(*) FROM auth_user WHERE is_superuser AND username = 'admin'"
    assert ini.check_output(f'runuser -u catalogue -- psql -XAtc "{count}" catalogue') == "1"


def test_extensions_that_only_a_superuser_makes_are_there(ini, https) -> None:
    """app_postgres_extensions: moddatetime is not a trusted one."""
    book = "INSERT INTO books_book (title, isbn, updated) SELECT 'Middlemarch', '', '2000-01-01' WHERE NOT EXISTS (SELECT FROM books_book WHERE title = 'Middlemarch')"
    ini.check_output(f'runuser -u catalogue -- psql -XAtqc "{book}" catalogue')
    assert https.get(f"{URL}/search/?q=midlemarch").json() == {"titles": ["Middlemarch"]}
    trigger = "UPDATE books_book SET title = title WHERE title = 'Middlemarch' RETURNING updated > now() - interval '1 minute'"
    assert ini.check_output(f'runuser -u catalogue -- psql -XAtqc "{trigger}" catalogue').split()[0] == "t"


def test_build_commands_ran_with_app_env(https) -> None:
    """app_build, app_env: a value with a space in it."""
    assert https.get(f"{URL}/build/").json()["label"] == "top shelf"


def test_build_commands_saw_no_secret(ini) -> None:
    """app_secret_env and secret app_files are not for code that is no management command of the project."""
    source = f"{RELEASE}/src"
    names = ini.file(f"{source}/build.names").content_string.split()
    assert {"BUILD_LABEL", "CATALOGUE_CONFIG", "DJANGO_SETTINGS_MODULE", "SSL_CERT_FILE", "VIRTUAL_ENV"} <= set(names)
    assert not [name for name in names if name.startswith("DJANGO_SUPERUSER")]
    assert ini.file(f"{source}/build.user").content_string == "catalogue_build\n"
    assert ini.file(f"{source}/build.secrets").content_string == "closed\n"


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/static/site.css", "text/css"), ("/static/admin/css/base.css", "text/css"), ("/assets/shelf.svg", "image/svg+xml")],
)
def test_every_static_root_is_served_by_nginx(https, path, kind) -> None:
    """app_static: several, relative to the repository; app_collectstatic: false."""
    answer = https.get(URL + path)
    assert (answer.status_code, answer.headers["Content-Type"].split(";")[0]) == (200, kind)


def test_no_static_files_were_collected(ini) -> None:
    assert ini.check_output(f"ls -A {RELEASE}/static/") == ""


def test_nothing_else_of_the_source_is_served(https) -> None:
    for path in ("/static/../settings.py", "/static/%2e%2e/catalogue.ini", "/assets../catalogue.ini", "/media/x", "/catalogue.ini"):
        assert https.get(URL + path).status_code in (400, 404), path


def test_the_counter_is_shared_and_counts(ini, https) -> None:
    """app_shared_paths: a folder of the repository, kept outside the releases."""
    first, second = (int(https.get(f"{URL}/visits/").text) for _ in range(2))
    assert second == first + 1
    assert ini.check_output(f"readlink {RELEASE}/src/var") == "/srv/catalogue/media/shared/var"
    assert int(ini.file("/srv/catalogue/media/shared/var/visits.txt").content_string) == second
    # What the repository has in it came along.
    assert ini.file("/srv/catalogue/media/shared/var/.gitkeep").exists


def test_uploads_beside_the_code_are_served_by_nginx(ini, https) -> None:
    """app_media below app_shared_paths: nginx may read it, although nobody told the project."""
    counted = https.get(f"{URL}/visits/").text
    answer = https.get(f"{URL}/counter/visits.txt")
    assert (answer.status_code, answer.text.strip()) == (200, counted)
    assert ini.check_output("stat -c '%U:%G %a' /srv/catalogue/media/shared/var") == "catalogue:www-data 2750"
    assert https.get(f"{URL}/counter/.gitkeep").status_code == 404


def test_the_cache_is_written_inside_the_release(ini, https) -> None:
    """app_writable_paths: a folder that the repository does not have."""
    https.get(URL)
    assert ini.check_output(f"stat -c %U {RELEASE}/src/cache/*.djcache").split()[0] == "catalogue"
    assert ini.check_output(f"stat -c '%U %a' {RELEASE}/src") == "root 755"


def test_bodies_are_limited(https) -> None:
    """app_max_body_size."""
    assert https.post(f"{URL}/login/", data=b"x" * 1_100_000).status_code == 413
    assert https.post(f"{URL}/login/", data=b"x" * 900_000).status_code == 403


def test_the_admin_is_where_it_is(https) -> None:
    """app_admin_path: another than Django's."""
    assert https.get(f"{URL}/backstage/login/").status_code == 200
    assert https.get(f"{URL}/admin/").status_code == 404
