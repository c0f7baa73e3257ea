"""A load of paced requests over TLS, as visitors and one author make them, and a record of every answer."""

from __future__ import annotations

import dataclasses
import re
import secrets
import threading
import time
from typing import Self

PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
                    "0000000d49444154789c6360f8cf500f0003860180da3d80350000000049454e44ae426082")
READERS, PACE, WRITE_PACE = 8, 14.0, 2.0


@dataclasses.dataclass
class Answer:
    """One request: when it was sent (seconds of the monotonic clock), what it was, the status (0: none), and how long it took (seconds)."""

    at: float
    what: str
    status: int
    seconds: float
    said: str = ""


class Load:
    """READERS readers at PACE requests a second each, and one author who logs in, writes and uploads WRITE_PACE times a second.

    With `browser` as a maker of sessions that trust the lab's CA. Used as a context: the load lasts as long as the block.
    """

    def __init__(self, browser, site: str, password: str) -> None:
        self.browser, self.site, self.password = browser, site, password
        self.answers: list[Answer] = []
        self.written: list[str] = []
        self.stop = threading.Event()

    def __enter__(self) -> Self:
        page = self.browser().get(f"{self.site}/", timeout=20).text
        static = re.findall(r'"(/static/[^"]+)"', page)
        assert static, "the front page names no static file"
        paths = ["/", "/about", "/accounts/login/", static[0]]
        self.threads = [threading.Thread(target=self.read, args=(paths, number)) for number in range(READERS)]
        self.threads.append(threading.Thread(target=self.write))
        self.started = time.monotonic()
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(60)
        self.ended = time.monotonic()

    def send(self, session, method: str, path: str, **options) -> str:
        at = time.monotonic()
        try:
            answer = session.request(method, self.site + path, timeout=30, allow_redirects=False, **options)
            status, text, said = answer.status_code, answer.text if method == "GET" and "html" in answer.headers.get("Content-Type", "") else "", ""
        except OSError as error:
            status, text, said = 0, "", repr(error)[:120]
        self.answers.append(Answer(at, f"{method} {path}", status, time.monotonic() - at, said))
        self.status = status
        return text

    def read(self, paths: list[str], number: int) -> None:
        session = self.browser()
        due = time.monotonic() + number / READERS / PACE
        while not self.stop.wait(max(0.0, due - time.monotonic())):
            self.send(session, "GET", paths[int(due * PACE) % len(paths)])
            # Who waited long does not catch up: visitors do not either.
            due = max(due + 1 / PACE, time.monotonic() - 1)

    def write(self) -> None:
        while not self.stop.is_set():
            session = self.browser()
            self.post(session, "/accounts/login/", {"username": "admin", "password": self.password})
            for _ in range(10):
                if self.stop.wait(1 / WRITE_PACE):
                    return
                title = f"load {secrets.token_hex(8)}"
                if self.post(session, "/notes/new/", {"title": title, "body": "under load"}, {"attachment": ("dot.png", PNG, "image/png")}) == 302:
                    self.written.append(title)

    def post(self, session, path: str, data: dict, files: dict | None = None) -> int:
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', self.send(session, "GET", path))
        if not token:
            return 0
        before = len(self.answers)
        self.send(session, "POST", path, data={**data, "csrfmiddlewaretoken": token[1]}, files=files, headers={"Referer": self.site + path})
        return next(answer.status for answer in self.answers[before:] if answer.what == f"POST {path}")

    # --- What came of it ---------------------------------------------------------------------------------------------

    @property
    def failed(self) -> list[Answer]:
        return [answer for answer in self.answers if not 200 <= answer.status < 400]

    def row(self, case: str) -> dict:
        """A line of a drill's table."""
        seconds = self.ended - self.started
        return {"case": case, "requests": len(self.answers), "failed": len(self.failed), "worst_s": round(max(answer.seconds for answer in self.answers), 2),
                "requests_per_s": round(len(self.answers) / seconds, 1), "seconds": round(seconds, 1), "written": len(self.written)}
