"""What becomes an event, and what it says."""

import json
import re
import uuid
from types import SimpleNamespace

import pytest
from conftest import browser
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.db import transaction

from redoubt_guard import signals

PASSWORD = "correct horse battery"
MARK = "[0-9a-f]{12}"


def told(journal):
    return [(event["event"], event["user"], event["target"], event["detail"]) for event in journal.events()]


def test_login_and_logout(client, alice, journal):
    me = f"auth.user:{alice.pk}"
    assert client.post("/login/", {"username": "alice", "password": PASSWORD}).status_code == 302
    assert told(journal) == [("login_ok", "alice", me, None)]
    client.post("/logout/")
    assert told(journal) == [("logout", "alice", me, None)]
    client.post("/logout/")
    assert told(journal) == []


def test_failed_login(client, alice, journal):
    client.post("/login/", {"username": "alice", "password": "wrong hunter2"})
    (entry,) = journal.entries()
    assert "hunter2" not in str(entry)
    assert json.loads(entry["MESSAGE"]) == {
        "v": 1, "ip": "203.0.113.9", "event": "login_failed", "user": "alice", "target": None, "detail": None,
        "method": "POST", "path": "/login/", "request": None,
    }  # fmt: skip
    client.post("/login/", {"username": "ALICE@example.test", "password": "x"})
    assert told(journal) == [("login_failed", "alice", None, None)]


def test_a_password_typed_as_the_name_is_not_told(client, alice, journal):
    for name in ("hunter2", "HUNTER2 ", "other"):
        client.post("/login/", {"username": name, "password": "x"})
    entries = journal.entries()
    assert "hunter2" not in str(entries).lower()
    targets = [json.loads(entry["MESSAGE"])["target"] for entry in entries]
    assert re.fullmatch(f"unknown:{MARK}", targets[0])
    assert targets[0] == targets[1] != targets[2]
    assert all(json.loads(entry["MESSAGE"])["user"] is None for entry in entries)


def test_failed_api_login_is_not_also_a_refusal(client, alice, journal):
    assert client.post("/strict/", {"username": "alice", "password": "x"}).status_code == 403
    assert [name for name, *_ in told(journal)] == ["login_failed"]


def test_login_without_a_name(client, journal):
    from django.contrib.auth import authenticate

    assert authenticate(None, token="hunter2") is None
    assert told(journal) == [("login_failed", None, None, None)]


def test_sign_up_logs_in_without_naming_a_backend(client, journal):
    assert client.post("/sign-up/", {"username": "bob", "password": PASSWORD}).status_code == 200
    bob = get_user_model().objects.get(username="bob")
    assert told(journal) == [("user_created", None, f"auth.user:{bob.pk}", None), ("login_ok", "bob", f"auth.user:{bob.pk}", None)]
    assert client.session["_auth_user_backend"] == "django.contrib.auth.backends.ModelBackend"


def test_password_change(client, alice, journal):
    client.post("/login/", {"username": "alice", "password": PASSWORD})
    journal.events()
    new = "another horse staple"
    answer = client.post("/password/", {"old_password": PASSWORD, "new_password1": new, "new_password2": new})
    assert answer.status_code == 302
    assert told(journal) == [("password_changed", "alice", f"auth.user:{alice.pk}", None)]


def test_short_passwords_are_refused(client, alice):
    client.force_login(alice)
    for short in ("eleven-char", "password12345", "123456789012345"):
        answer = client.post("/password/", {"old_password": PASSWORD, "new_password1": short, "new_password2": short})
        assert answer.status_code == 200


def test_password_reset(client, alice, journal):
    from django.core import mail

    mail.outbox = []
    assert client.post("/reset/", {"email": "alice@example.test"}).status_code == 302
    assert told(journal) == [("password_reset_requested", None, None, None)]
    link = re.search(r"https?://[^/]+(/reset/\S+)", mail.outbox[0].body)[1]
    page = client.get(link)
    client.post(page["Location"], {"new_password1": "another horse staple", "new_password2": "another horse staple"})
    (event,) = journal.events()
    assert (event["event"], event["user"], event["target"]) == ("password_reset", None, f"auth.user:{alice.pk}")
    assert link.split("/")[-2] not in str(event)
    assert event["path"].endswith("/…/")


def test_a_form_that_is_wrong_requests_nothing(client, journal):
    assert client.post("/reset/", {"email": "no address"}).status_code == 200
    assert told(journal) == []


def test_a_better_hash_is_no_new_password(client, journal, database):
    from django.contrib.auth.hashers import make_password

    bob = get_user_model().objects.create(username="bob", password=make_password(PASSWORD, hasher="pbkdf2_sha256"))
    journal.events()
    assert client.post("/login/", {"username": "bob", "password": PASSWORD}).status_code == 302
    assert [name for name, *_ in told(journal)] == ["password_rehashed", "login_ok"]
    bob.refresh_from_db()
    assert bob.password.startswith("argon2")


def test_a_hash_that_is_written_with_the_rest_is_a_new_password(alice, journal):
    alice.password = "pbkdf2_sha256$1$x$y"
    alice.save()
    assert told(journal) == [("password_changed", None, f"auth.user:{alice.pk}", None)]


@pytest.mark.parametrize(
    ("field", "event"), [("is_active", "active_changed"), ("is_staff", "staff_changed"), ("is_superuser", "superuser_changed")]
)
def test_flags(field, event, alice, journal):
    me = f"auth.user:{alice.pk}"
    before = getattr(alice, field)
    verbs = ["revoked", "granted"] if before else ["granted", "revoked"]
    for value, verb in zip((not before, before), verbs):
        setattr(alice, field, value)
        alice.save()
        alice.save()
        assert told(journal) == [(event, None, me, verb)]
    setattr(alice, field, not before)
    alice.save(update_fields=[field])
    assert told(journal) == [(event, None, me, verbs[0])]


def test_saves_that_do_not_matter(alice, journal):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as queries:
        alice.save(update_fields=["last_login"])
    assert len(queries) == 1
    alice.first_name = "Alice"
    alice.save()
    assert told(journal) == []


def test_a_superuser_from_the_start(database, journal):
    root = get_user_model().objects.create_superuser("root", password=PASSWORD)
    me = f"auth.user:{root.pk}"
    assert told(journal) == [
        ("user_created", None, me, None),
        ("staff_changed", None, me, "granted"),
        ("superuser_changed", None, me, "granted"),
    ]
    root.delete()
    assert told(journal) == [("user_deleted", None, me, None)]


def test_fixtures_are_not_events(journal, database, tmp_path):
    from django.core.management import call_command

    file = tmp_path / "users.json"
    file.write_text('[{"model": "auth.user", "pk": 9, "fields": {"username": "carol", "password": "x", "is_superuser": true}}]')
    call_command("loaddata", str(file), verbosity=0)
    assert told(journal) == []


def test_what_is_rolled_back_has_not_happened(alice, journal):
    with pytest.raises(RuntimeError), transaction.atomic():
        alice.is_superuser = True
        alice.save()
        assert journal.events() == []
        raise RuntimeError
    assert journal.events() == []
    alice.refresh_from_db()
    with transaction.atomic():
        alice.is_superuser = True
        alice.save()
        assert journal.events() == []
    assert journal.names() == ["superuser_changed"]


def test_rights(alice, journal):
    group = Group.objects.create(name="editors")
    permission = Permission.objects.first()
    me, them = f"auth.user:{alice.pk}", f"auth.group:{group.pk}"
    alice.groups.add(group)
    assert told(journal) == [("groups_changed", None, me, f"added group {group.pk}")]
    alice.groups.add(group)
    assert told(journal) == []
    alice.groups.remove(group)
    assert told(journal) == [("groups_changed", None, me, f"removed group {group.pk}")]
    group.user_set.add(alice)
    assert told(journal) == [("groups_changed", None, them, f"added user {alice.pk}")]
    alice.groups.clear()
    assert told(journal) == [("groups_changed", None, me, "cleared")]
    alice.user_permissions.add(permission)
    assert told(journal) == [("permissions_changed", None, me, f"added permission {permission.pk}")]
    group.permissions.add(permission)
    assert told(journal) == [("permissions_changed", None, them, f"added permission {permission.pk}")]
    permission.user_set.clear()
    assert told(journal) == [("permissions_changed", None, f"auth.permission:{permission.pk}", "cleared")]


@pytest.fixture
def root(database, journal):
    user = get_user_model().objects.create_superuser("root", password=PASSWORD)
    client = browser("203.0.113.9")
    client.force_login(user)
    journal.events()
    return client


def test_admin_actions(root, journal):
    assert root.post("/admin/auth/group/add/", {"name": "hunter2"}).status_code == 302
    group = Group.objects.get()
    target = f"auth.group:{group.pk}"
    assert told(journal) == [("admin_added", "root", target, None)]
    root.post(f"/admin/auth/group/{group.pk}/change/", {"name": "hunter3"})
    assert told(journal) == [("admin_changed", "root", target, None)]
    root.post(f"/admin/auth/group/{group.pk}/delete/", {"post": "yes"})
    assert told(journal) == [("admin_deleted", "root", target, None)]


def test_admin_deletes_several_at_once(root, journal):
    groups = [Group.objects.create(name=name) for name in "ab"]
    keys = [group.pk for group in groups]
    answer = root.post("/admin/auth/group/", {"action": "delete_selected", "_selected_action": keys, "post": "yes"})
    assert answer.status_code == 302
    assert sorted(told(journal)) == sorted(("admin_deleted", "root", f"auth.group:{key}", None) for key in keys)
    signals._listen_to_bulk(type(__import__("django.contrib.admin.models", fromlist=["x"]).LogEntry.objects))
    group = Group.objects.create(name="c")
    other = Group.objects.create(name="d")
    root.post("/admin/auth/group/", {"action": "delete_selected", "_selected_action": [group.pk, other.pk], "post": "yes"})
    assert len(told(journal)) == 2


def test_admin_changes_of_accounts(root, alice, journal):
    alice.groups.add(Group.objects.create(name="a"))
    journal.events()
    root.post(
        f"/admin/auth/user/{alice.pk}/change/",
        {"username": "alice", "is_active": "on", "is_staff": "on", "date_joined_0": "2026-01-01", "date_joined_1": "00:00:00"},
    )
    events = told(journal)
    assert ("staff_changed", "root", f"auth.user:{alice.pk}", "granted") in events
    assert ("admin_changed", "root", f"auth.user:{alice.pk}", None) in events


def test_keys_that_may_be_secret_get_a_mark(database, journal):
    from django.contrib.admin.models import CHANGE, LogEntry
    from django.contrib.auth.models import User
    from django.contrib.contenttypes.models import ContentType
    from django.contrib.sessions.models import Session

    user = User.objects.create_user("u")
    journal.events()
    session = ContentType.objects.get_for_model(Session)
    for key, model in (("hunter2hunter2hunter2", session), (str(uuid.uuid4()), session), ("7" * 30, session), ("x", None)):
        LogEntry.objects.create(user=user, content_type=model, object_id=key, object_repr=key, action_flag=CHANGE)
    entries = journal.entries()
    assert "hunter2" not in str(entries)
    targets = [json.loads(entry["MESSAGE"])["target"] for entry in entries]
    assert all(re.fullmatch(f"sessions.session:~{MARK}", target) for target in targets[:3])
    assert re.fullmatch(rf"\?:{MARK}", targets[3])
    # Saved again, it is no new action; and an action of another kind is none of the admin's.
    entry = LogEntry.objects.first()
    entry.save()
    LogEntry.objects.create(user=user, content_type=session, object_id="x", object_repr="x", action_flag=9)
    assert journal.events() == []


def test_shown():
    def thing(kind):
        pk = SimpleNamespace(get_internal_type=lambda: kind)
        return SimpleNamespace(pk=5, _meta=SimpleNamespace(label_lower="shop.thing", pk=pk))

    key = uuid.UUID(int=5)
    assert signals._shown(thing("AutoField")) == "shop.thing:5"
    assert signals._shown(thing("UUIDField"), key) == f"shop.thing:{key}"
    assert signals._shown(thing("UUIDField"), str(key)) == f"shop.thing:{key}"
    assert re.fullmatch(f"shop.thing:~{MARK}", signals._shown(thing("CharField"), str(key)))
    assert re.fullmatch(f"shop.thing:~{MARK}", signals._shown(thing("CharField"), "abc"))


def test_the_security_log_is_heard_whatever_the_project_says():
    """This project has silenced and disabled the CSRF logger."""
    import logging

    logger = logging.getLogger("django.security.csrf")
    assert not logger.disabled
    assert logger.isEnabledFor(logging.WARNING)
    assert sum(isinstance(handler, signals.RefusalHandler) for handler in logger.handlers) == 1
    # As after a dictConfig that disables the loggers there are.
    logger.disabled = True
    signals.listen_to_refusals()
    assert not logger.disabled
    assert sum(isinstance(handler, signals.RefusalHandler) for handler in logger.handlers) == 1


def test_a_record_that_reaches_two_handlers_is_one_event(journal):
    import logging

    logging.getLogger("django.security.DisallowedHost").error("x")
    assert journal.names() == ["disallowed_host"]
    logging.getLogger("django.security.TooManyFieldsSent").error("x")
    assert told(journal) == [("suspicious_operation", None, None, "TooManyFieldsSent")]
    logging.getLogger("django.security.csrf").warning("x")
    assert told(journal) == [("csrf_failed", None, None, None)]
