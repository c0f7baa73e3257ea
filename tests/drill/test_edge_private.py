"""Private uploads: the application decides, nginx hands out, and nobody gets one by its address alone."""

from __future__ import annotations

import json
import secrets

import pytest
from edge import Edge, assert_error_page, assert_header_set

URLS = """from config.urls import *  # noqa: F403
from config.urls import urlpatterns as project
from django.http import HttpResponse, HttpResponseForbidden
from django.urls import path


def media(request, name):
    if request.GET.get("key") != "KEY":
        return HttpResponseForbidden("not yours")
    answer = HttpResponse()
    answer["X-Accel-Redirect"] = request.GET.get("prefix", "/media/") + name
    if "typed" not in request.GET:
        del answer["Content-Type"]
    return answer


urlpatterns = [path("media/<path:name>", media), *project]
"""


@pytest.fixture(scope="module")
def edge(lab) -> Edge:
    return Edge(lab, lab.web)


@pytest.fixture(scope="module")
def key() -> str:
    return secrets.token_hex(8)


@pytest.fixture(scope="module")
def media(lab, web, edge, source, releases, key):
    """Uploads that are private, a project that hands them out to who has a key, and a folder among them."""
    commit = source.commit({"src/drill_urls.py": URLS.replace("KEY", key)}, settings='ROOT_URLCONF = "drill_urls"')
    folder = f"{edge.variables['app_media_root']}/drill-{secrets.token_hex(8)}"
    lab.playbook("playbooks/site.yml", "--extra-vars", json.dumps({"app_version": commit, "app_media_private": True}))
    files = " && ".join(f"echo 'mine' > {folder}/{name}" for name in ("a.txt", "a.html", "a.png", ".hidden"))
    owner = edge.variables["site_user"]
    web.check_output(f"install -d -o {owner} -g www-data -m 2750 {folder} && {files} && ln -s /etc/passwd {folder}/link.txt && chown -hR {owner}:www-data {folder}")
    try:
        yield "/media/" + folder.rpartition("/")[2]
    finally:
        web.check_output(f"rm -rf {folder}")
        lab.playbook("playbooks/site.yml")


pytestmark = pytest.mark.slow


def test_nobody_gets_an_upload_by_its_address(edge, media) -> None:
    for path in (f"{media}/a.txt", f"{media}/a.txt?key=wrong"):
        answer = edge.ask(path)
        assert (answer.status, answer.body) == (403, b"not yours")
        assert_header_set(answer)
    for path in (f"/-{media}/a.txt", f"/-{media}/", f"/%2d{media}/a.txt", f"//-{media}/a.txt", f"/x/../-{media}/a.txt"):
        answer = edge.ask(path)
        assert answer.status == 404 and b"mine" not in answer.body, path


@pytest.mark.parametrize("prefix", ["/media/", "/-/media/"])
def test_who_may_have_it_gets_it_as_an_upload(edge, media, key, prefix) -> None:
    name = media.removeprefix("/media/")
    answer = edge.ask(f"/media/{name}/a.txt?key={key}&prefix={prefix}")
    assert (answer.status, answer.body, answer.one("Content-Type")) == (200, b"mine\n", "text/plain")
    assert_header_set(answer)
    assert answer.one("Content-Security-Policy").endswith("; sandbox") and not answer.all("X-Accel-Redirect")
    markup = edge.ask(f"/media/{name}/a.html?key={key}&prefix={prefix}")
    assert (markup.status, markup.one("Content-Disposition")) == (200, "attachment")


def test_what_the_application_calls_html_is_downloaded(edge, media, key) -> None:
    answer = edge.ask(f"{media}/a.png?key={key}&typed=1")
    assert answer.status == 200 and answer.one("Content-Type").startswith("text/html") and answer.one("Content-Disposition") == "attachment"
    picture = edge.ask(f"{media}/a.png?key={key}")
    assert picture.one("Content-Type") == "image/png" and not picture.all("Content-Disposition")


@pytest.mark.parametrize("name", ["link.txt", ".hidden", "none.txt"])
def test_the_application_cannot_hand_out_what_is_no_upload(edge, media, key, name) -> None:
    answer = edge.ask(f"{media}/{name}?key={key}")
    assert answer.status in (403, 404)
    assert_error_page(answer)


@pytest.mark.parametrize("prefix", ["/etc/passwd?", "/-/media/../../../../etc/passwd?", "/static/../manifest.json?", "/-/media/../data/"])
def test_nor_lead_out_of_the_uploads(edge, media, key, prefix) -> None:
    """An application that lets a visitor write a part of the path."""
    answer = edge.ask(f"{media}/a.txt?key={key}&prefix={prefix}")
    assert answer.status in (400, 403, 404, 500) and b"root:" not in answer.body and b"commit" not in answer.body
