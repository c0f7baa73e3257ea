"""Somebody at the site, with an address of his own choice: runs on a lab host, with what every Debian has.

Reads one JSON object from standard input: `domain`, `server` (address), `source` (address), `ca` (PEM), `do` (a list of steps), `path`
(of the login form), `for` (the address that a proxy speaks for; empty: there is none), and prints a list of what came of each step: `[step, outcome, begin, end]`, times as time.time() says them. Steps:

    ["login", user, password]     a new visit: outcome is the status of the answer, 302 for a good one
    ["get", path, {headers}]      outcome is the status
    ["many", path, count]         the same over one connection, without a pause; outcome is the statuses that were seen
    ["walk", count]               asks in turn for what is not there and sends what is forbidden, until no connection is made any more; outcome is the statuses
    ["hold"]                      opens a connection, asks for a page over it, and keeps it
    ["held"]                      outcome is `open` or how the kept connection ended
    ["until", outcome, seconds]   tries to get in until that works (`in`) or does not (`out`), or the time is up (`late`)
    ["attack", user, count]       wrong passwords until no connection is made any more; outcome is how many were answered

A connection that is not made has the outcome `out`.
"""

import http.client
import json
import re
import socket
import ssl
import sys
import time
import urllib.parse

JOB = json.load(sys.stdin)
CONTEXT = ssl.create_default_context(cadata=JOB["ca"])
GONE = (OSError, http.client.HTTPException)
HELD = []


def connection(seconds):
    raw = socket.create_connection((JOB["server"], 443), seconds, (JOB["source"], 0))
    made = http.client.HTTPSConnection(JOB["domain"], timeout=20)
    raw.settimeout(20)
    made.sock = CONTEXT.wrap_socket(raw, server_hostname=JOB["domain"])
    return made


def reachable():
    if JOB["for"]:
        return get("/static/notes/favicon.png", {}) != "out"
    try:
        socket.create_connection((JOB["server"], 443), 0.5, (JOB["source"], 0)).close()
        return True
    except OSError:
        return False


def ask(made, method, path, body=None, headers=None):
    made.request(method, path, body, {**(headers or {}), **({"X-Forwarded-For": JOB["for"]} if JOB["for"] else {})})
    answer = made.getresponse()
    return answer, answer.read().decode("utf-8", "replace")


def login(user, password):
    try:
        visit = connection(3)
        path = JOB["path"]
        answer, page = ask(visit, "GET", path)
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)[1]
        cookies = "; ".join(line.split(";")[0] for line in answer.headers.get_all("Set-Cookie"))
        form = urllib.parse.urlencode({"csrfmiddlewaretoken": token, "username": user, "password": password})
        headers = {"Cookie": cookies, "Referer": f"https://{JOB['domain']}{path}", "Content-Type": "application/x-www-form-urlencoded"}
        return ask(visit, "POST", path, form, headers)[0].status
    except GONE:
        return "out"


def patient_login(user, password):
    """As a person who is told to wait does."""
    deadline = time.monotonic() + 60
    while (status := login(user, password)) == 429 and time.monotonic() < deadline:
        time.sleep(1)
    return status


def get(path, headers):
    try:
        return ask(connection(3), "GET", path, None, headers)[0].status
    except GONE:
        return "out"


def many(path, count):
    seen = []
    try:
        made = connection(3)
        for _ in range(count):
            status = ask(made, "GET", path)[0].status
            seen += [] if status in seen else [status]
    except GONE:
        seen.append("out")
    return seen


def walk(count):
    seen = []
    while len(seen) < count:
        try:
            made = connection(3)
            seen.append((ask(made, "POST", "/about", "a=b") if len(seen) % 2 else ask(made, "GET", f"/nothing/{len(seen)}"))[0].status)
        except GONE:
            break
    return seen


def hold():
    HELD.append(connection(3))
    return ask(HELD[-1], "GET", "/")[0].status


def held():
    made = HELD[-1]
    try:
        made.sock.settimeout(5)
        if made.sock.recv(1) == b"":
            return "closed"
    except TimeoutError:
        try:
            return "open" if ask(made, "GET", "/")[0].status else ""
        except GONE:
            return "silent"
    except OSError:
        return "reset"
    return "open"


def until(outcome, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if reachable() == (outcome == "in"):
            return outcome
        time.sleep(0.05)
    return "late"


def attack(user, count):
    for number in range(count):
        if login(user, f"wrong {number}") == "out":
            return number
    return count


STEPS = {"login": patient_login, "get": get, "many": many, "walk": walk, "hold": hold, "held": held, "until": until, "attack": attack}
RESULTS = []
for step in JOB["do"]:
    begin = time.time()
    RESULTS.append([step, STEPS[step[0]](*step[1:]), begin, time.time()])
print(json.dumps(RESULTS))
