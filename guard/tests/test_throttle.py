"""Guessing gets slow, for guessers and for nobody else."""

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from conftest import PROJECTS, browser, environment
from django.contrib.auth import authenticate, get_user_model
from django.core.cache import caches
from django.db import connection, transaction

from redoubt_guard import client as visits
from redoubt_guard import throttle
from redoubt_guard.throttle import CAP, FREE, SLOTS, WINDOW, Counter, delay

PASSWORD = "correct horse battery"


@pytest.fixture
def clock(monkeypatch):
    """The throttle's own time, in the middle of a window; the cache has the real one."""
    middle = (time.time() // WINDOW + 0.5) * WINDOW
    now = SimpleNamespace(value=middle, time=lambda: now.value, monotonic=lambda: now.value, sleep=lambda seconds: None)
    monkeypatch.setattr(throttle, "time", now)
    monkeypatch.setattr(throttle, "_complained", 0.0)
    return now


def attempt(ip, name="alice", password="wrong", path="/api/"):
    return browser(ip).post(path, {"username": name, "password": password}).status_code


def test_delays():
    assert [delay(failures) for failures in range(18)] == [0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert delay(10**6) == CAP == 300
    assert FREE == 5


def test_the_window_holds_what_it_must():
    """Failures as fast as the delays let them through, for a window: each has its own slot, and half as many keep the delay up."""
    count, elapsed = 0, 0
    while elapsed < WINDOW:
        count += 1
        elapsed += delay(count)
    assert count + 10 < SLOTS
    assert delay(WINDOW // CAP) >= 64


def test_a_botnet_is_slowed_and_no_guess_is_tried_meanwhile(alice, journal, clock):
    for number in range(6):
        assert attempt(f"203.0.113.{number}") == 401
    assert journal.names() == ["login_failed"] * 6
    # From now on it waits, even with the right password, and refusals do not make it longer.
    for number in range(20):
        assert attempt(f"203.0.113.{100 + number}", password=PASSWORD) == 401
    (first, *rest) = journal.events()
    assert len(rest) == 19
    assert (first["event"], first["user"], first["ip"]) == ("login_throttled", "alice", "203.0.113.100")
    assert first["detail"] == "2 s"
    clock.value += 1.01
    assert attempt("203.0.113.50") == 401
    assert journal.names() == ["login_failed"]
    assert attempt("203.0.113.51") == 401
    (event,) = journal.events()
    assert (event["event"], event["detail"]) == ("login_throttled", "3 s")


def test_it_clears_itself(alice, journal, clock):
    for number in range(6):
        attempt(f"203.0.113.{number}")
    clock.value += 1.01
    assert attempt("192.0.2.1", password=PASSWORD) == 200
    clock.value += 2 * WINDOW
    journal.events()
    for number in range(6):
        assert attempt(f"203.0.113.{number}") == 401
    assert journal.names() == ["login_failed"] * 6


def test_the_cap_is_the_longest(alice, journal, clock):
    waits = []
    for number in range(20):
        attempt(f"203.0.113.{number}")
        _, looked = throttle._look(caches["redoubt_guard"], throttle.account_of(alice), "", clock.value)
        failures, _ = looked.counter.read(caches["redoubt_guard"].get_many(looked.counter.names(clock.value)), clock.value)
        assert failures == number + 1
        waits.append(delay(failures))
        clock.value += waits[-1] + 0.01
    assert waits == [0] * 5 + [1, 2, 4, 8, 16, 32, 64, 128, 256] + [300] * 6


def test_other_accounts_are_not_touched(alice, journal, clock):
    get_user_model().objects.create_user("bob", password=PASSWORD)
    for _ in range(10):
        attempt("203.0.113.9")
    assert attempt("203.0.113.9", "bob", PASSWORD) == 200


def test_names_without_an_account_are_slowed_just_the_same(alice, journal, clock):
    for _ in range(10):
        attempt("203.0.113.9", "nobody")
    assert journal.names() == ["login_failed"] * 6 + ["login_throttled"] * 4
    for name in (" NOBODY", "nobody"):
        attempt("203.0.113.9", name)
    events = journal.events()
    assert [event["event"] for event in events] == ["login_throttled"] * 2
    assert events[0]["user"] is None
    assert events[0]["target"] == events[1]["target"]


def test_name_and_address_are_one_account(alice, journal, clock):
    for number in range(6):
        attempt("203.0.113.9", ("alice", "alice@example.test", "ALICE@EXAMPLE.TEST")[number % 3])
    attempt("203.0.113.9", "alice@example.test")
    assert journal.names() == ["login_failed"] * 6 + ["login_throttled"]


def test_two_accounts_with_one_address_are_nobodys(alice):
    get_user_model().objects.create_user("twin", "alice@example.test")
    assert throttle.find("alice@example.test").name is None
    assert throttle.find("alice").name == "alice"
    assert throttle.find("nobody@example.test").name is None
    assert throttle.find("a\0b").name is None


@pytest.mark.parametrize(("home", "neighbour"), [("192.0.2.7", "192.0.2.7"), ("2001:db8:1:2::7", "2001:db8:1:2:ffff::1")])
def test_the_owner_is_not_locked_out(alice, journal, clock, home, neighbour):
    """Somebody keeps the account in its delay; an address that has logged in before does not feel it."""
    assert attempt(home, password=PASSWORD, path="/login/") == 302
    for number in range(60):
        attempt(f"203.0.113.{number}")
        clock.value += 20
    journal.events()
    assert attempt("198.18.0.1", password=PASSWORD) == 401
    assert journal.names() == ["login_throttled"]
    assert attempt(neighbour, password=PASSWORD, path="/login/") == 302
    assert journal.names() == ["login_ok"]
    # It has a counter of its own, which is as strict, and which a good login empties.
    for _ in range(8):
        attempt(home)
    assert journal.names() == ["login_failed"] * 6 + ["login_throttled"] * 2
    clock.value += 1.01
    assert attempt(home, password=PASSWORD, path="/login/") == 302
    journal.events()
    for _ in range(5):
        attempt(home)
    assert attempt(home, password=PASSWORD) == 200
    assert journal.names() == ["login_failed"] * 5


def test_a_neighbouring_network_is_a_stranger(alice, journal, clock):
    attempt("2001:db8:1:2::7", password=PASSWORD, path="/login/")
    for number in range(6):
        attempt(f"203.0.113.{number}")
    journal.events()
    attempt("2001:db8:1:3::7", password=PASSWORD)
    assert journal.names() == ["login_throttled"]


def test_knowing_an_address_ends(alice, clock, journal):
    attempt("192.0.2.7", password=PASSWORD, path="/login/")
    key = throttle.account_of(alice).trust_key("192.0.2.7")
    with connection.cursor() as cursor:
        cursor.execute("SELECT expires FROM redoubt_guard_cache WHERE cache_key LIKE %s", [f"%{key}"])
        (expires,) = cursor.fetchone()
    assert 29.9 < (time.mktime(time.strptime(str(expires)[:19], "%Y-%m-%d %H:%M:%S")) - time.mktime(time.gmtime())) / 86400 < 30.1


def test_who_sets_the_password_is_known(alice, journal, clock):
    """The way out for an owner from a new address while an attack goes on: a reset by mail."""
    from django.contrib.auth.tokens import default_token_generator
    from django.utils.http import urlsafe_base64_encode

    for number in range(6):
        attempt(f"203.0.113.{number}")
    owner = browser("192.0.2.8")
    link = f"/reset/{urlsafe_base64_encode(str(alice.pk).encode())}/{default_token_generator.make_token(alice)}/"
    form = owner.get(link)["Location"]
    new = "another horse staple"
    assert owner.post(form, {"new_password1": new, "new_password2": new}).status_code == 302
    journal.events()
    assert attempt("192.0.2.8", password=new) == 200
    assert attempt("192.0.2.9", password=new) == 401
    assert journal.names() == ["login_throttled"]


def test_an_administrator_who_sets_a_password_is_not_the_owner(alice, journal, clock):
    root = get_user_model().objects.create_superuser("root", password=PASSWORD)
    for number in range(6):
        attempt(f"203.0.113.{number}")
    admin = browser("192.0.2.10")
    admin.force_login(root)
    new = "another horse staple"
    form = {"password1": new, "password2": new, "usable_password": "true"}
    assert admin.post(f"/admin/auth/user/{alice.pk}/password/", form).status_code == 302
    assert "password_changed" in journal.names()
    assert attempt("192.0.2.10", password=new) == 401
    assert journal.names() == ["login_throttled"]


def test_good_logins_that_nobody_keeps_count_for_nothing(alice, journal, clock):
    """An API that logs in with every request."""
    for _ in range(30):
        assert attempt("203.0.113.9", password=PASSWORD) == 200
    assert journal.names() == []
    assert caches["redoubt_guard"].get_many(throttle.account_of(alice).counter().names(clock.value)) == {}
    for number in range(6):
        attempt(f"203.0.113.{number}")
    clock.value += 1.01
    # Through the gate, and it is open again afterwards.
    assert attempt("203.0.113.9", password=PASSWORD) == 200
    assert attempt("203.0.113.9", password=PASSWORD) == 200


def test_a_gate_lets_one_in(alice, clock):
    account = throttle.account_of(alice)
    cache = caches["redoubt_guard"]
    for _ in range(6):
        account.counter().fail(cache, clock.value)
    clock.value += 1.01
    looks = [throttle._look(cache, account, "", clock.value) for _ in range(5)]
    assert [waiting for waiting, _ in looks] == [0, 1, 1, 1, 1]
    assert looks[0][1].gate == f"{account.counter().key}:gate:{clock.value - 1.01:.6f}"


def test_a_clock_that_was_set_back_does_not_lock(alice, clock):
    account = throttle.account_of(alice)
    for _ in range(6):
        account.counter().fail(caches["redoubt_guard"], clock.value)
    waiting, _ = throttle._look(caches["redoubt_guard"], account, "", clock.value - 500)
    assert waiting == 2


def test_more_failures_than_slots_keep_the_cap(database, clock):
    counter = Counter("x")
    cache = caches["redoubt_guard"]
    for _ in range(SLOTS + 5):
        counter.fail(cache, clock.value)
        clock.value += 1
    failures, last = counter.read(cache.get_many(counter.names(clock.value)), clock.value)
    assert (failures, last) == (SLOTS, clock.value - 1)
    counter.clear(cache, clock.value)
    assert counter.read(cache.get_many(counter.names(clock.value)), clock.value) == (0, 0.0)


def test_a_window_and_the_one_before_count(database, clock):
    counter = Counter("x")
    cache = caches["redoubt_guard"]
    for _ in range(3):
        counter.fail(cache, clock.value)
        clock.value += WINDOW
    assert counter.read(cache.get_many(counter.names(clock.value)), clock.value)[0] == 1
    clock.value -= WINDOW
    assert counter.read(cache.get_many(counter.names(clock.value)), clock.value)[0] == 2


def test_nothing_in_the_cache_tells_a_name(alice, clock):
    attempt("203.0.113.9", "hunter2")
    attempt("203.0.113.9")
    with connection.cursor() as cursor:
        cursor.execute("SELECT cache_key, value FROM redoubt_guard_cache")
        rows = str(cursor.fetchall())
    assert rows.count(":1:") == 2
    assert not any(word in rows for word in ("hunter2", "alice", "203.0.113"))


def test_unknown_names_go_first_when_the_cache_is_full(alice):
    """Django empties a full table in the order of its keys."""
    known, unknown = throttle.account_of(alice), throttle.find("nobody")
    keys = [unknown.counter().key, known.counter().key, known.counter_at("x").key, known.trust_key("x")]
    assert [key[0] for key in keys] == ["a", "b", "c", "d"]
    assert known.counter().key == throttle.find("alice").counter().key


def test_without_its_cache_logins_go_on(alice, journal, clock, monkeypatch):
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE redoubt_guard_cache RENAME TO gone")
    try:
        assert attempt("203.0.113.9", password=PASSWORD, path="/login/") == 302
        (first, second) = journal.events()
        assert (first["event"], first["detail"], second["event"]) == ("throttle_unavailable", "OperationalError", "login_ok")
        for _ in range(10):
            assert attempt("203.0.113.9") == 401
        assert journal.names() == ["login_failed"] * 10
        clock.value += 61
        assert attempt("203.0.113.9", password=PASSWORD) == 200
        assert journal.names() == ["throttle_unavailable"]
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE gone RENAME TO redoubt_guard_cache")


def test_a_gate_that_cannot_be_opened_costs_no_request(alice, journal, clock, monkeypatch):
    visit = visits.Visit(None, None)
    visit.attempts.append(throttle.Attempt(throttle.account_of(alice), Counter("x"), "gate", False))
    monkeypatch.setattr(throttle, "apart", lambda work: 1 / 0)
    throttle.settle(visit)
    assert visit.attempts == []
    assert journal.names() == ["throttle_unavailable"]


def test_without_a_database_a_failure_is_still_an_event(journal, clock, monkeypatch):
    monkeypatch.setattr(throttle, "find", lambda name: 1 / 0)
    throttle.failed({"username": "alice"})
    assert [(event["event"], event["user"]) for event in journal.events()] == [("login_failed", None)]


def test_outside_of_requests(alice, journal, clock):
    """Commands and workers have no address; what they fail counts, what is refused there does not."""
    for _ in range(9):
        assert authenticate(None, username="alice", password="wrong") is None
    assert journal.names() == ["login_failed"] * 6 + ["login_throttled"] * 3
    clock.value += 1.01
    assert authenticate(None, username="alice", password=PASSWORD) == alice
    throttle.trust(alice)


def test_asynchronous_logins(alice, journal, clock):
    import asyncio

    backend = throttle.ThrottleBackend()

    async def tries():
        for _ in range(3):
            await backend.aauthenticate(None, username="alice", password="x")

    asyncio.run(tries())
    assert not hasattr(backend, "get_user")
    assert not hasattr(backend, "has_perm")


def test_logins_without_a_name_are_let_through(journal, clock):
    assert throttle.ThrottleBackend().authenticate(None, token="x") is None
    assert throttle.typed_name({"username": "", "login": 5}) is None
    assert throttle.typed_name({"email": "a@b"}) == "a@b"
    assert throttle.typed_name({"login": "l", "email": "e", "username": "u"}) == "u"


def test_a_transaction_that_is_rolled_back_does_not_take_the_count_along(alice, journal, clock):
    """In a request with ATOMIC_REQUESTS whose login answers with an exception."""
    for _ in range(6):
        with pytest.raises(RuntimeError), transaction.atomic():
            assert authenticate(None, username="alice", password="wrong") is None
            raise RuntimeError
    assert authenticate(None, username="alice", password=PASSWORD) is None
    assert journal.names() == ["login_failed"] * 6 + ["login_throttled"]


def test_an_error_apart_comes_back(database):
    with transaction.atomic(), pytest.raises(ZeroDivisionError):
        throttle.apart(lambda cache: 1 / 0)


PARALLEL = """
import sys, time, django
django.setup()
from django.core.cache import caches
from redoubt_guard import throttle
start, tries = float(sys.argv[1]), int(sys.argv[2])
cache = caches["redoubt_guard"]
account = throttle.Account("parallel", "parallel")
account.counter().names(start)
while time.time() < start:
    time.sleep(0.001)
if tries:
    for _ in range(tries):
        account.counter().fail(cache, start)
else:
    print(throttle._look(cache, account, "", start)[0])
"""


def in_parallel(processes, tries, now):
    import os

    env = environment("full", FULL_DATABASE=os.environ["FULL_DATABASE"], REDOUBT_SETTINGS_MODULE="full.settings")
    command = [sys.executable, "-c", PARALLEL, str(now), str(tries)]
    running = [subprocess.Popen(command, cwd=PROJECTS / "full", env=env, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    outputs = [process.communicate(timeout=120)[0].strip() for process in running]
    assert [process.returncode for process in running] == [0] * processes
    return outputs


def test_failures_of_several_processes_at_once_all_count(database):
    """Real processes, one table: no failure is lost, and of those that wait for one gate one gets in."""
    cache, account = caches["redoubt_guard"], throttle.Account("parallel", "parallel")
    now = time.time() + 5
    # Both halves of the test in one window, wherever that begins.
    in_parallel(4, 5, now)
    failures, _ = account.counter().read(cache.get_many(account.counter().names(now)), now)
    assert failures == 20
    account.counter().clear(cache, now)
    for _ in range(6):
        account.counter().fail(cache, now)
    assert sorted(in_parallel(6, 0, now + 6)) == ["0"] + ["1"] * 5
