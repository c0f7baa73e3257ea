"""The commands of a release (app_build, app_migrate, app_setup, NAME-manage): as they are written, each with its own user's rights."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.hosts("web")


@pytest.fixture(scope="module")
def run(host):
    """Run one command of the live release in a mode's sandbox."""
    release = host.check_output("basename $(readlink -f %s)", host.lab["site_live_release"])
    program = f"{host.lab['site_tools']}/{host.lab['app_name']}-run"
    return lambda mode, command: host.run("cd / && %s %s %s %s", program, mode, release, command)


@pytest.mark.parametrize("mode", ["build", "settings", "migrate", "runtime"])
def test_the_shell_gets_a_command_as_it_is_written(run, mode):
    done = run(mode, """for word in a 'b c'; do x=$word; printf '%s|' "$x" "${x}" "${unset-none}" '$$' "50%% %i" "it's"; done""")
    assert done.stdout == "".join(f"{word}|{word}|none|$$|50%% %i|it's|" for word in ("a", "b c")), done.stderr


@pytest.mark.parametrize("mode,user", [("build", "build"), ("settings", "build"), ("migrate", "migrate")])
def test_a_build_and_a_migration_find_an_empty_place_instead_of_what_the_application_keeps(host, run, mode, user):
    for folder in (host.lab["app_data_root"], host.lab["app_media_root"]):
        done = run(mode, f"id -un; ls -A {folder}; mkdir -p {folder}/made-by-a-test/logs; echo x >{folder}/made-by-a-test/logs/x")
        assert (done.rc, done.stdout.split()) == (0, [host.lab[f"site_{user}_user"]]), done.stdout + done.stderr
        assert not host.file(f"{folder}/made-by-a-test").exists


def test_a_build_gets_no_secret(host, run):
    secrets = [*host.lab["app_secret_env"], *("SECRET_KEY",)]
    names = {line.partition("=")[0] for line in run("build", "env").stdout.splitlines()}
    assert set(host.lab["app_env"]) <= names
    assert not names & set(secrets)
    for name in ("env", "migrate.env"):
        assert run("build", f"cat {host.lab['site_config']}/{name}").rc != 0


def test_runtime_commands_write_what_the_application_keeps_and_nothing_else(host, run):
    for folder in (host.lab["app_data_root"], host.lab["app_media_root"]):
        done = run("runtime", f"touch {folder}/made-by-a-test && stat -c %U {folder}/made-by-a-test; rm {folder}/made-by-a-test")
        assert (done.rc, done.stdout.strip()) == (0, host.lab["site_user"]), done.stderr
    assert run("runtime", "touch made-by-a-test").rc != 0
    assert run("runtime", 'touch "$VIRTUAL_ENV"/made-by-a-test').rc != 0
