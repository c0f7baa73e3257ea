"""What public projects do and tutorials do not (molecule/contract/odd)."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time

import pytest

URL = "https://pantry.test"
RELEASE = "/srv/pantry/live/release"


@pytest.fixture(scope="module")
def odd(lab):
    return lab.host("odd1")


@pytest.fixture
def https(browse):
    return browse("odd1")


def test_settings_that_nobody_committed(odd, https) -> None:
    """app_files: a Python module inside the source, and an absolute file that it reads."""
    assert https.get(f"{URL}/shelves/").json()["sender"] == "pantry@pantry.test"
    assert odd.check_output("stat -c '%U:%G %a' /etc/pantry/mail.ini") == "root:pantry 640"
    assert odd.check_output(f"stat -c '%U:%G %a' $(readlink -f {RELEASE})/src/server/pantry/local_settings.py") == "root:pantry 640"


def test_the_annotated_tag_is_the_commit_it_points_at(odd, lab) -> None:
    """app_repo over ssh with app_deploy_key; app_version: an annotated tag."""
    argv = ["git", "--git-dir", str(lab.dir / "git/odd.git"), "rev-parse", "v2.0.0^{commit}"]
    commit = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    manifest = json.loads(odd.file(f"{RELEASE}/manifest.json").content_string)
    assert (manifest["commit"], manifest["version"], manifest["from"]) == (commit, "v2.0.0", "ssh://git@acme.test/srv/git/odd.git")


def test_the_deploy_key_is_for_fetching_alone(odd) -> None:
    path = "/etc/pantry/deploy_key"
    assert odd.check_output(f"stat -c '%U:%G %a' {path}") == "root:pantry_build 640"
    release = odd.check_output(f"basename $(readlink -f {RELEASE})")
    assert odd.run(f"runuser -u pantry -- cat {path}").rc != 0
    for mode in ("build", "settings"):
        tried = odd.run(f"/usr/local/lib/redoubt/pantry-run {mode} {release} 'cat {path}'")
        assert tried.rc != 0, mode
        assert "PRIVATE KEY" not in tried.stdout


def test_a_server_that_is_not_the_one_known_is_refused(odd) -> None:
    """app_repo_known_hosts."""
    other = odd.check_output("cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub")
    argument = f"UserKnownHostsFile=/tmp/known_hosts.{odd.check_output('cat /proc/sys/kernel/random/uuid')}"
    file = argument.partition("=")[2]
    ssh = f"ssh -o BatchMode=yes -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes -o IdentityFile=/etc/pantry/deploy_key -o {argument}"
    odd.check_output(f"echo acme.test {other} >{file}; chmod 644 {file}")
    tried = odd.run(f"runuser -u pantry_build -- env GIT_SSH_COMMAND='{ssh}' git ls-remote ssh://git@acme.test/srv/git/odd.git")
    odd.check_output(f"rm {file}")
    assert tried.rc != 0
    assert "Host key verification failed" in tried.stderr


def test_the_submodule_is_there(https) -> None:
    """A submodule named relative to the repository: its files are collected with the rest."""
    answer = https.get(f"{URL}/static/shelf.svg")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/svg+xml")


def test_the_index_that_is_gone_was_not_asked(odd) -> None:
    """app_pip_index over `-i` and `--extra-index-url` of a chain of requirements files."""
    assert "pypi.invalid" in odd.file(f"{RELEASE}/src/requirements.txt").content_string
    assert odd.run(f"ls {RELEASE}/venv/lib/python3*/site-packages/django/__init__.py").rc == 0


def test_the_extension_was_compiled_and_runs(odd, https) -> None:
    """app_build_apt_packages: a C extension without a wheel; app_python: its headers are that interpreter's."""
    answer = https.get(f"{URL}/shelves/").json()
    assert all(re.fullmatch("[0-9a-f]{8}", mark) for mark in answer["shelves"].values())
    assert answer["python"].startswith("3.13.")
    assert odd.run(f"ls {RELEASE}/venv/lib/python3.13/site-packages/shelfmark*.so").rc == 0
    assert odd.package("gcc").is_installed


def test_the_driver_runs_on_debians_library(odd) -> None:
    """app_requirements_extra, app_apt_packages: psycopg without its binary wheel."""
    packages = odd.check_output(f"ls {RELEASE}/venv/lib/python3.13/site-packages")
    assert "psycopg-3.3.9.dist-info" in packages
    assert "psycopg_binary" not in packages
    assert odd.package("libpq5").is_installed


def test_programs_that_the_project_runs_are_there(odd) -> None:
    """app_apt_packages: one that nothing else of the host asks for, found by the process."""
    release = odd.check_output(f"basename $(readlink -f {RELEASE})")
    assert odd.run(f"/usr/local/lib/redoubt/pantry-run runtime {release} 'jpegoptim --version'").stdout.startswith("jpegoptim")


def test_a_release_is_made_and_probed_as_the_inventory_says(odd, lab) -> None:
    """app_python, app_probe_paths, app_health_path, app_start_timeout: what the host's program does with them, its own tests say."""
    told, said = json.loads(odd.file("/etc/pantry/release.json").content_string), lab.vars("odd1")
    assert told["python"] == said["app_python"] == "/usr/bin/python3.13"
    assert told["probe"] == {"domain": "pantry.test", "health": "/up/", "paths": ["/", "/login/", "/shelves/"], "timeout": 90, "guarded": True}


def test_migrations_had_the_environment(https) -> None:
    """app_env reaches app_migrate as it is written: commas, quotes, ampersand and dollar."""
    assert list(https.get(f"{URL}/shelves/").json()["shelves"]) == ["flour", '"rye & oats"', "$HOME"]


def test_setup_ran_once_as_the_runtime_role(https) -> None:
    """app_setup, without `{manage}`."""
    assert https.get(f"{URL}/shelves/").json()["notes"] == ["opened by pantry"]


def test_translations_are_compiled(odd, https) -> None:
    """app_build with `{manage}`, and gettext from app_build_apt_packages."""
    assert "Vorratskammer" in https.get(URL, headers={"Accept-Language": "de"}).text
    assert "Pantry" in https.get(URL, headers={"Accept-Language": "en"}).text
    assert odd.package("gettext").is_installed


def test_what_is_compressed_at_the_first_request_is_served(odd, https) -> None:
    """app_writable_paths below app_static_root, read by nginx from the live release."""
    style = re.search(r'href="(/static/CACHE/css/\w+\.css)"', https.get(URL).text)[1]
    answer = https.get(URL + style)
    assert (answer.status_code, answer.text) == (200, "h1{color:green;}")
    assert odd.check_output(f"stat -c %U {RELEASE}{style}") == "pantry"


def test_the_process_writes_where_it_may_and_nowhere_else(https) -> None:
    answers = https.get(f"{URL}/writable/").json()
    assert {name for name, answer in answers.items() if answer is True} == {"index", "compressed", "media", "data", "temporary"}, answers


def test_a_management_command_by_hand_may_do_the_same(odd) -> None:
    code = "import pathlib; [(pathlib.Path(p) / '.byhand').touch() for p in ('index', '/srv/pantry/static/CACHE', '/srv/pantry/media')]; print('done')"
    done = odd.run(f"/usr/local/sbin/pantry-manage shell --no-imports -c {shlex.quote(code)}")
    assert (done.rc, done.stdout.split()[-1:]) == (0, ["done"]), done.stderr
    odd.check_output(f"rm {RELEASE}/src/server/index/.byhand {RELEASE}/static/CACHE/.byhand /srv/pantry/media/.byhand")


def test_uploads_are_handed_out_by_the_application_alone(https) -> None:
    """app_media_private: X-Accel-Redirect."""
    assert https.post(f"{URL}/keep/list.txt", data=b"salt").status_code == 201
    assert https.get(f"{URL}/keep/list.txt").status_code == 403
    answer = https.get(f"{URL}/keep/list.txt", headers={"X-Ticket": "valid"})
    assert (answer.status_code, answer.text) == (200, "salt")
    assert "X-Accel-Redirect" not in answer.headers
    for path in ("/media/list.txt", "/-/media/list.txt", "//media/list.txt", "/-//media/list.txt", "/media/../media/list.txt"):
        assert https.get(URL + path).status_code == 404, path


def test_a_size_in_kilobytes(https) -> None:
    """app_max_body_size."""
    assert https.post(f"{URL}/keep/big", data=b"x" * 66_000).status_code == 413
    assert https.post(f"{URL}/keep/big", data=b"x" * 60_000).status_code == 201


def test_health_for_everybody(https) -> None:
    """app_health_public."""
    answer = https.get(f"{URL}/-/health")
    assert (answer.status_code, answer.json()["status"], answer.json()["guard"]) == (200, "ok", "enforce")


def test_a_part_of_the_guard_that_is_left_out(https) -> None:
    """app_guard_skip: with the guard's SecurityMiddleware it would be `same-origin-allow-popups`; this one is nginx' own."""
    assert https.get(f"{URL}/login/").headers["Cross-Origin-Opener-Policy"] == "same-origin"


@pytest.fixture(scope="module")
def admin(lab):
    """Asks for the admin from the one address that is let in, with or without a certificate."""
    friend = lab.host("locks1")
    folder = friend.check_output("mktemp -d")
    for name in ("admin.crt", "admin.key"):
        friend.check_output(f"cat >{folder}/{name} <<'END'\n{(lab.dir / name).read_text()}END")
    friend.check_output(f"cat >{folder}/ca.pem <<'END'\n{lab.ca.read_text()}END")
    program = (
        "import http.client, ssl, sys; "
        "context = ssl.create_default_context(cafile='ca.pem'); "
        "len(sys.argv) > 2 and context.load_cert_chain('admin.crt', 'admin.key'); "
        "connection = http.client.HTTPSConnection('pantry.test', context=context, timeout=20); "
        "connection.connect(); connection.request('GET', sys.argv[1]); print(connection.getresponse().status)"
    )
    yield lambda path, certificate=True: int(
        friend.check_output(f"cd {folder} && python3 -c {shlex.quote(program)} {path}{' with' if certificate else ''}")
    )
    friend.check_output(f"rm -r {folder}")


@pytest.mark.parametrize("path", ["/admin/", "/admin", "/admin/login/"])
def test_the_admin_is_for_one_address_with_a_certificate(lab, https, admin, path) -> None:
    """app_admin_allow and app_admin_client_ca: neither is enough by itself, and nothing says that there is an admin."""
    with_certificate = https.get(URL + path, cert=(str(lab.dir / "admin.crt"), str(lab.dir / "admin.key")), allow_redirects=False)
    assert with_certificate.status_code == 404
    assert https.get(URL + path, allow_redirects=False).status_code == 404
    assert admin(path, certificate=False) == 404
    assert admin(path) in (200, 301, 302)


def test_everybody_else_sees_the_rest_without_a_certificate(admin) -> None:
    assert admin("/login/", certificate=False) == 200


def test_a_route_leads_to_its_own_process(odd, https) -> None:
    """app_processes with `listen`, app_routes: nginx reaches the socket, other users do not."""
    assert https.get(f"{URL}/second/process/").text == "second /run/pantry/second/socket"
    assert https.get(f"{URL}/process/").text == "web "
    assert odd.check_output("stat -c '%U:%G %a' /run/pantry/second") == "pantry:www-data 2750"
    assert odd.run("runuser -u nobody -- stat /run/pantry/second/socket").rc != 0


def test_a_process_that_died_listens_again(odd, https) -> None:
    """Not even kill -9, which leaves the socket behind, keeps it away."""
    odd.check_output("systemctl kill --signal=KILL pantry-second.service")
    odd.check_output(
        "timeout 60 sh -c 'until systemctl is-active --quiet pantry-second.service && [ -S /run/pantry/second/socket ]; do sleep 1; done'"
    )
    assert odd.check_output("stat -c '%U:%G' /run/pantry/second") == "pantry:www-data"
    for _ in range(10):
        answer = https.get(f"{URL}/second/process/")
        if answer.status_code == 200:
            break
        time.sleep(1)
    assert answer.text == "second /run/pantry/second/socket"


def test_a_timer_runs_its_command(odd) -> None:
    """app_timers: the command is the shell's, with its own quotes and percent signs; the calendar may name a zone."""
    odd.check_output("rm -f '/srv/pantry/data/taken at 100%'")
    odd.check_output("systemctl start pantry-stocktaking.service")
    assert odd.check_output("stat -c %U '/srv/pantry/data/taken at 100%'") == "pantry"
    assert "Europe/Berlin" in odd.check_output("systemctl show --property=TimersCalendar pantry-stocktaking.timer")
    assert odd.service("pantry-stocktaking.timer").is_running


def contact(odd) -> str:
    """What the ACME server has."""
    shown = odd.check_output("certbot show_account --server https://acme.test:14000/dir")
    return re.search(r"Email contacts?: (.+)", shown)[1]


def test_the_acme_server_knows_whom_to_write_to(lab, odd) -> None:
    """app_acme_email: of a new account, and of one that is there. A run that has nothing to say does not ask the server."""
    wanted = lab.vars("odd1")["app_acme_email"]
    assert contact(odd) == wanted
    deploy = ["playbooks/site.yml", "--limit", "odd1", "-e", f"lab={lab.name}"]
    other = ["-e", "app_acme_email="]
    try:
        predicted = lab.playbook(*deploy, *other, "--check")
        assert changes(predicted) == 1, predicted.stdout[-3000:]
        assert contact(odd) == wanted
        assert changes(lab.playbook(*deploy, *other)) == 1
        assert contact(odd) == "none"
        log = odd.check_output("stat -c %Y%s /var/log/letsencrypt/letsencrypt.log")
        assert changes(lab.playbook(*deploy, *other)) == 0
        assert odd.check_output("stat -c %Y%s /var/log/letsencrypt/letsencrypt.log") == log
    finally:
        lab.playbook(*deploy)
    assert contact(odd) == wanted


def changes(done) -> int:
    """How many tasks of a run changed the host."""
    return int(re.search(r"^odd1 .*changed=(\d+) ", done.stdout, re.MULTILINE)[1])


def test_the_second_name_leads_to_the_first(https) -> None:
    """app_domains."""
    answer = https.get("https://www.pantry.test/login/", allow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (301, f"{URL}/login/")
