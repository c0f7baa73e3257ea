"""Mistakes in the inventory: each ends in one clear sentence, and what was serving goes on serving."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

PLAY = """
- name: Deploy the application alone
  hosts: web
  gather_facts: true
  gather_subset: ["!all", "!min", distribution, virtual, hardware]
  roles:
    - redoubt.django.app
    - redoubt.django.nginx
    - redoubt.django.certbot
  post_tasks:
    - name: Say which domains have no certificate
      ansible.builtin.import_role:
        name: redoubt.django.certbot
        tasks_from: report
"""
SITE = "playbooks/site.yml"


@pytest.fixture
def deploy(lab, tmp_path: Path):
    """Run the play with values that are not the inventory's."""
    play = tmp_path / "play.yml"
    play.write_text(PLAY)

    def run(values: dict, play: str = str(play), **options):
        return lab.playbook(play, "--extra-vars", json.dumps(values), check=False, **options)

    return run


@pytest.fixture
def still_serves(lab, web, https):
    """The site answers before and after, from the same release."""
    name = lab.vars(lab.web)["app_name"]
    url = f"https://{lab.vars(lab.web)['app_domains'][0]}/"
    before = web.check_output(f"readlink -f /srv/{name}/live/release")
    assert https.get(url, timeout=20).status_code == 200
    yield
    assert https.get(url, timeout=20).status_code == 200
    assert web.check_output(f"readlink -f /srv/{name}/live/release") == before


@pytest.mark.parametrize(("values", "sentences"), [
    pytest.param({"app_repo": "git://acme.test/nowhere.git"}, ["app_repo: git cannot read 'git://acme.test/nowhere.git'"], id="repository"),
    pytest.param({"app_version": "v9.9.9"}, ["app_version: 'v9.9.9' is no branch or tag", "It has: main, v1.0.0"], id="version"),
    pytest.param({"app_requirements_extra": ["redoubt-no-such-package==1.0"]}, ["Step 'install'", "redoubt-no-such-package"], id="requirements"),
    pytest.param({"app_probe_paths": ["/"], "app_health_path": "/nowhere", "app_start_timeout": 10}, ["Step 'probe'", "404 instead of 200", "within 10 seconds (app_start_timeout)"], id="health"),
])
def test_release_that_cannot_be_is_refused(deploy, still_serves, values: dict, sentences: list[str]) -> None:
    done = deploy(values)
    assert done.returncode == 2, done.stdout
    told = " ".join(done.stdout.split())
    for sentence in sentences:
        assert sentence in told, done.stdout
    assert "still" in told


@pytest.mark.parametrize("values", [{"app_wsgi": "config.nowhere:application"}, {"app_project_dir": "nowhere"}], ids=["wsgi", "directory"])
def test_boot_after_a_refused_deploy_starts_what_served(deploy, still_serves, lab, web, https, values: dict) -> None:
    name = lab.vars(lab.web)["app_name"]
    done = deploy(values)
    assert done.returncode == 2 and "The release that was live still is." in " ".join(done.stdout.split()), done.stdout
    try:
        # As after a boot: with the unit as it is on the disk by now.
        web.check_output(f"systemctl daemon-reload && systemctl restart {name}@$(basename $(readlink /srv/{name}/live)).service")
        assert https.get(f"https://{lab.vars(lab.web)['app_domains'][0]}/", timeout=20).status_code == 200
    finally:
        assert deploy({}).returncode == 0


def test_misspelt_variable_is_refused_before_the_first_change(deploy, still_serves) -> None:
    done = deploy({"app_domain": ["app1.test"]}, play=SITE)
    assert done.returncode == 2, done.stdout
    assert "app_domain is no variable of this kit: did you mean app_domains?" in " ".join(done.stdout.split())
    assert "Read which packages and units" not in done.stdout


def test_vault_that_does_not_open_is_named(lab, still_serves, tmp_path: Path) -> None:
    wrong = tmp_path / "password"
    wrong.write_text("not the password\n")
    sources = lab.arguments[:4]
    arguments, lab.arguments = lab.arguments, [*sources, "--vault-id", f"{lab.name}@{wrong}"]
    try:
        done = lab.playbook(SITE, check=False)
    finally:
        lab.arguments = arguments
    assert done.returncode != 0
    assert "vault.yml does not open with the vault password given" in " ".join((done.stdout + done.stderr).split())


def test_domain_that_does_not_lead_here_is_named_and_repaired(lab, web, deploy, still_serves, https) -> None:
    values = lab.vars(lab.web)
    name = f"late.{values['app_domains'][0]}"
    wanted = {"app_domains": [*values["app_domains"], name]}
    try:
        lab.dns(name)
        done = deploy(wanted)
        told = " ".join(done.stdout.split())
        assert done.returncode == 2 and f"{name} has no address" in told or name in told and "Everything is in place except for certificates" in told, done.stdout
        lab.dns(name, [values["lab_ipv4"]])
        done = deploy(wanted)
        assert done.returncode == 0, done.stdout
        answer = https.get(f"https://{name}/", timeout=20, allow_redirects=False)
        assert answer.status_code == 301 and answer.headers["Location"] == f"https://{values['app_domains'][0]}/"
    finally:
        lab.dns(name)
        assert deploy({}).returncode == 0
