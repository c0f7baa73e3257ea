"""Uploads and static files under attack, and the headers of statuses that something has to be broken for. As the inventory has it."""

from __future__ import annotations

import json
import secrets
import time

import pytest
from edge import Edge, ask_from, assert_error_page, assert_header_set

# What a browser runs, and what it only shows.
DANGEROUS = ["x.html", "x.HTM", "x.xhtml", "x.svg", "x.svgz", "x.xml", "x.js", "x.mjs", "x.xsl", "x.rss", "x.wasm"]
HARMLESS = {"x.png": "image/png", "x.txt": "text/plain", "x.pdf": "application/pdf", "x": "application/octet-stream", "x.php": "application/octet-stream",
            "x.py": "application/octet-stream", "x.html.bin": "application/octet-stream", "x.weird": "application/octet-stream"}
MARKUP = "<script>document.title = 1</script>"


@pytest.fixture(scope="module")
def edge(lab) -> Edge:
    return Edge(lab, lab.web)


@pytest.fixture(scope="module")
def media(lab, web, edge):
    """A folder among the uploads, as the application would have made it, and its address."""
    if edge.variables["app_media_private"]:
        pytest.skip("the inventory's uploads are private")
    item, owner = edge.variables["app_media"][0], edge.variables["site_user"]
    name = f"drill-{secrets.token_hex(8)}"
    folder = f"{item['path']}/{name}"
    make = [f"install -d -o {owner} -g www-data -m 2750 {folder} {folder}/sub"]
    make += [f"printf '%s' '{MARKUP}' > {folder}/{file}" for file in [*DANGEROUS, *HARMLESS, ".hidden", "sub/secret.txt"]]
    # Links that a file named in an archive, or a careless upload handler, could leave.
    make += [f"ln -s /etc/passwd {folder}/passwd.txt", f"ln -s / {folder}/root", f"ln -s {edge.variables['site_config']} {folder}/config",
             f"ln -s ../../live/release {folder}/release", f"ln -s sub {folder}/inside", f"ln -s x.txt {folder}/link.txt"]
    make += [f"chown -R -h {owner}:www-data {folder}", f"chmod 640 {folder}/x* {folder}/.hidden {folder}/sub/*", f"chmod 600 {folder}/x.weird"]
    web.check_output(" && ".join(make))
    yield item["url"] + name
    web.check_output(f"rm -rf {folder}")


@pytest.mark.parametrize("file", DANGEROUS)
def test_what_a_browser_would_run_is_downloaded(edge, media, file) -> None:
    answer = edge.ask(f"{media}/{file}")
    assert (answer.status, answer.body.decode()) == (200, MARKUP)
    assert answer.one("Content-Disposition") == "attachment"
    assert_header_set(answer)
    assert answer.one("Content-Security-Policy").endswith("; sandbox") and "default-src 'none'" in answer.one("Content-Security-Policy")


@pytest.mark.parametrize("file", [name for name in HARMLESS if name != "x.weird"])
def test_nothing_is_executed_or_guessed(edge, media, file) -> None:
    answer = edge.ask(f"{media}/{file}")
    assert (answer.status, answer.body.decode()) == (200, MARKUP)
    assert answer.one("Content-Type").split(";")[0] == HARMLESS[file]
    assert answer.one("X-Content-Type-Options") == "nosniff"
    assert_header_set(answer)
    again = edge.ask(f"{media}/{file}", headers={"If-None-Match": answer.one("ETag")})
    assert again.status == 304
    assert_header_set(again)


def test_links_among_the_uploads_lead_nowhere(edge, media, stranger) -> None:
    paths = ["passwd.txt", "root/etc/passwd", "root/etc/hostname", "config/env", "release/manifest.json", "release/src/manage.py", "inside/secret.txt", "link.txt"]
    paths += ["sub/../passwd.txt", "inside/../root/etc/passwd", ".hidden", "x.weird"]
    for path, answer in zip(paths, ask_from(stranger, edge, [{"path": f"{media}/{path}"} for path in paths]), strict=True):
        assert answer.status in (403, 404), f"{path}: {answer.status} {answer.body[:80]!r}"
        assert_header_set(answer)
        assert_error_page(answer)


def test_paths_do_not_lead_out_of_the_uploads(edge, media, stranger) -> None:
    deep = media + "/sub"
    outs = ["/../../../../../etc/passwd", "/..%2f..%2f..%2f..%2f..%2fetc/passwd", "/%2e%2e/%2e%2e/%2e%2e/live/release/manifest.json",
            "/..;/..;/..;/live/release/manifest.json", "/....//....//....//etc/passwd", "/%252e%252e/%252e%252e/etc/passwd", "/..%5c..%5c..%5cetc%5cpasswd",
            "/%c0%ae%c0%ae/%c0%ae%c0%ae/etc/passwd", "/.%00./etc/passwd", "/../../../live/release/src/manage.py", "/../../media../data/"]
    answers = ask_from(stranger, edge, [{"path": deep + out} for out in outs])
    assert {answer.status for answer in answers} <= {400, 403, 404}, list(zip(outs, [answer.status for answer in answers], strict=True))
    assert not any(b"root:" in answer.body or b"commit" in answer.body for answer in answers)


def test_folders_are_not_listed(edge, media) -> None:
    answer = edge.ask(f"{media}/sub/")
    assert answer.status == 403
    assert_error_page(answer)
    assert_header_set(answer)


def test_a_file_that_was_put_in_the_place_of_another_is_seen_at_once(web, edge) -> None:
    """As every switch does with a whole folder of them. What has a hash in its name is the same in every release."""
    folder, name = edge.variables["site_live_release"] + "/static", secrets.token_hex(8)
    put = f"echo {{0}} > {folder}/{name}.new && mv {folder}/{name}.new {folder}/{name}.css && cp {folder}/{name}.css {folder}/.{name}.0123456789ab.css"
    try:
        for number in range(5):
            web.check_output(put.format(number))
            answer = edge.ask(f"/static/{name}.css")
            assert (answer.status, answer.body.decode().strip(), answer.one("Cache-Control")) == (200, str(number), "no-cache")
        assert edge.ask(f"/static/.{name}.0123456789ab.css").status == 404
    finally:
        web.check_output(f"rm -f {folder}/{name}.* {folder}/.{name}.*")


def test_no_line_of_the_log_is_lost_or_doubled(web, edge) -> None:
    """They are written together, up to a second later; nothing that nginx is told loses one. What a jail may count is there at once."""
    said = []
    for told in ("true", "systemctl reload nginx", "systemctl kill --kill-whom=main --signal=USR1 nginx", "systemctl restart nginx"):
        said += [(edge.ask(path).one("X-Request-ID"), status) for path, status in (("/about", "200"), (f"/static/{secrets.token_hex(8)}.css", "404"))]
        assert web.run(f"grep -c {said[-1][0]} /var/log/nginx/refused.log").stdout.strip() == "1", told
        web.check_output(told)
    for request, status in said:
        deadline = time.monotonic() + 10
        while not (lines := web.run(f"grep -h {request} /var/log/nginx/access.log").stdout.splitlines()) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert [json.loads(line)["status"] for line in lines] == [status]


def test_the_edge_says_itself_when_the_application_is_gone(lab, web, edge, stranger) -> None:
    """502 in the moment between a crash and the restart; static files go on."""
    socket = f"{edge.variables['site_run']}/live.sock"
    to = web.check_output(f"readlink {socket}")
    static = edge.ask("/static/").status
    web.check_output(f"ln -sfn {edge.variables['site_run']}/nobody.sock {socket}")
    try:
        answers = ask_from(stranger, edge, [{"path": "/"}, {"path": edge.variables["app_login_paths"][0], "method": "POST", "body": "a=b"}])
        as_json = edge.ask("/", headers={"Accept": "application/json"})
        assert edge.ask("/static/").status == static
    finally:
        web.check_output(f"ln -sfn {to} {socket}")
    for answer in answers:
        assert answer.status == 502 and answer.one("Retry-After") == "30"
        assert_header_set(answer)
        assert_error_page(answer)
    assert json.loads(as_json.body) == {"status": 502, "request_id": as_json.one("X-Request-ID")}
    # The next request finds it again: there is no time in which nginx gives the socket up.
    assert edge.ask("/").status == 200


def test_the_applications_own_refusals_stay_its_own_and_carry_the_headers(edge) -> None:
    answer = edge.ask("/about", method="POST", body=b"a=b")
    assert answer.status == 403 and b"CSRF" in answer.body
    assert_header_set(answer)
    missing = edge.ask(f"/{secrets.token_hex(8)}")
    assert missing.status == 404 and b"<style nonce=" not in missing.body
    assert_header_set(missing)
    redirect = edge.ask("/accounts/login")
    assert redirect.status in (301, 302, 404)
    assert_header_set(redirect)


# --- Slow visitors ----------------------------------------------------------------------------------------------------

# Opens connections and feeds them drop by drop: half of them headers, half bodies. Prints when each was closed by the server.
SLOW = r"""
import json, socket, ssl, sys, time
address, name, path, number, seconds = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5])
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
began, open_, closed = time.monotonic(), {}, {"header": [], "body": []}
for count in range(number):
    kind = "body" if count % 2 else "header"
    try:
        connection = context.wrap_socket(socket.create_connection((address, 443), timeout=15), server_hostname=name)
    except OSError as error:
        closed.setdefault("refused", []).append(repr(error))
        continue
    head = "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 100000\r\n" % (path, name) + ("\r\n" if kind == "body" else "")
    connection.sendall(head.encode())
    connection.setblocking(False)
    open_[connection] = (kind, time.monotonic())
print("opened", len(open_), round(time.monotonic() - began, 1), flush=True)
while open_ and time.monotonic() - began < seconds:
    for connection, (kind, since) in list(open_.items()):
        try:
            try:
                data = connection.recv(4096)
            except ssl.SSLWantReadError:
                connection.send(b"X: y\r\n" if kind == "header" else b"x")
                continue
            if data:
                closed.setdefault("answered", []).append(data[:12].decode("latin-1"))
        except OSError:
            pass
        closed[kind].append(time.monotonic() - since)
        connection.close()
        del open_[connection]
    time.sleep(1)
print(json.dumps({"open": len(open_), "header": len(closed["header"]), "longest": max(closed["header"], default=0), "body": len(closed["body"]),
                  "refused": closed.get("refused", []), "answered": sorted(set(closed.get("answered", [])))}))
"""


@pytest.mark.parametrize(("number", "seconds"), [
    pytest.param(60, 4, id="short"),
    pytest.param(500, 40, id="500", marks=pytest.mark.slow),
])
def test_slow_visitors_take_nothing_from_the_others(lab, web, edge, stranger, table, number: int, seconds: int) -> None:
    worker = f"cat > /tmp/slow.py <<'END'\n{SLOW}\nEND\n"
    line = f"python3 /tmp/slow.py {edge.variables['lab_ipv4']} {edge.canonical} /about {number} {seconds + number / 20}"
    stranger.check_output(f"{worker} systemd-run --quiet --collect --unit=slow --property=StandardOutput=file:/tmp/slow.out sh -c 'ulimit -n 4096; exec {line}'")
    try:
        deadline = time.monotonic() + 120
        while not (opened := stranger.run("grep opened /tmp/slow.out").stdout):
            assert time.monotonic() < deadline, stranger.run("journalctl -u slow --no-pager -n 20; cat /tmp/slow.out").stdout
            time.sleep(0.2)
        took, failed = [], []
        until = time.monotonic() + seconds - 1
        while time.monotonic() < until:
            for path in ("/", "/static/none.css", edge.variables["app_login_paths"][0]):
                began = time.monotonic()
                try:
                    status = edge.ask(path).status
                except OSError as error:
                    status = repr(error)
                took.append(time.monotonic() - began)
                if status not in (200, 404):
                    failed.append(status)
        while number == 500 and stranger.run("systemctl is-active slow").stdout.strip() == "active":
            time.sleep(1)
        said = json.loads(stranger.check_output("tail -n 1 /tmp/slow.out")) if number == 500 else {}
    finally:
        stranger.run("systemctl stop slow; rm -f /tmp/slow.py /tmp/slow.out")
    took.sort()
    table("edge_slowloris", {"connections": int(opened.split()[1]), "bystander_requests": len(took), "failed": len(failed),
                             "p50_ms": round(1000 * took[len(took) // 2]), "p99_ms": round(1000 * took[int(len(took) * 0.99)]), **said})
    assert int(opened.split()[1]) == number and failed == [] and len(took) >= 20
    if said:
        # Nobody keeps a connection by sending headers for ever; who sends a body is one of nginx_connections_per_address.
        assert said["header"] == number // 2 and said["refused"] == [] and said["open"] <= 256, said
