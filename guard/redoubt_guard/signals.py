"""What Django tells of by itself, turned into events: logins, changes of accounts and rights, admin actions, refusals.

Changes that send no signals are not seen: `QuerySet.update`, `bulk_create`, `bulk_update`, raw SQL.
"""

from __future__ import annotations

import logging
import uuid
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.db import transaction
from django.db.models.signals import class_prepared, m2m_changed, post_delete, post_save, pre_save

from . import client, events, throttle
from .middleware import on_view

# Fields of an account whose changes are events. `password` has its own rules.
_FLAGS = {"is_active": "active_changed", "is_staff": "staff_changed", "is_superuser": "superuser_changed"}

_RESET_VIEWS = ("PasswordResetConfirmView", "PasswordResetFromKeyView")


def connect() -> None:
    """Listen. For projects with Django's authentication; without it only refusals are heard of."""
    listen_to_refusals()
    if not apps.is_installed("django.contrib.auth"):
        return
    from django.contrib.auth.models import Group, Permission

    model = get_user_model()
    user_logged_in.connect(logged_in, dispatch_uid="redoubt_guard")
    user_logged_out.connect(logged_out, dispatch_uid="redoubt_guard")
    user_login_failed.connect(login_failed, dispatch_uid="redoubt_guard")
    for one in apps.get_models():
        _listen_to_accounts(one)
    class_prepared.connect(_listen_to_accounts, dispatch_uid="redoubt_guard")
    for holder in (model, Group):
        for field in holder._meta.many_to_many:
            if field.related_model in (Group, Permission):
                m2m_changed.connect(rights_changed, sender=field.remote_field.through, dispatch_uid="redoubt_guard")
    if apps.is_installed("django.contrib.admin"):
        from django.contrib.admin.models import LogEntry

        post_save.connect(admin_action, sender=LogEntry, dispatch_uid="redoubt_guard")
        _listen_to_bulk(type(LogEntry.objects))


def _listen_to_accounts(sender: Any, **kwargs: Any) -> None:
    """A save is told of under the class that was saved: a proxy or a child of the user model too. One by one, since Django
    fetches whatever is deleted while somebody listens to every class.
    """
    model = get_user_model()._meta.concrete_model
    if not issubclass(sender, model):
        return
    pre_save.connect(before_user, sender=sender, dispatch_uid="redoubt_guard")
    post_save.connect(after_user, sender=sender, dispatch_uid="redoubt_guard")
    if sender._meta.concrete_model is model:
        # With a child its account is deleted, under its own class.
        post_delete.connect(deleted_user, sender=sender, dispatch_uid="redoubt_guard")


def _listen_to_bulk(manager: Any) -> None:
    """The admin's "delete selected" (Django 5.1 and newer) writes its entries with bulk_create, which sends no signals."""
    original = manager.bulk_create
    if getattr(original, "redoubt_guard", False):
        return

    def bulk_create(self: Any, objs: Any, *args: Any, **kwargs: Any) -> Any:
        entries = list(objs)
        result = original(self, entries, *args, **kwargs)
        for entry in entries:
            admin_action(sender=type(entry), instance=entry, created=True, using=self.db)
        return result

    bulk_create.redoubt_guard = True
    manager.bulk_create = bulk_create


def _emit_committed(using: str, event: str, **values: Any) -> None:
    """File an event of the current request once its transaction is committed: what is rolled back has not happened."""
    if events.enabled:
        line, severity = events.prepare(event, **values)
        transaction.on_commit(lambda: events.journal.send(line, severity), using=using, robust=True)


def _name(user: Any) -> str | None:
    return None if user is None else str(user.get_username())


def _shown(instance: Any, key: Any = None) -> str:
    """An object as `app.model:key`. Keys that are neither numbers nor UUIDs may be secrets (sessions, tokens): they get a mark."""
    meta = instance._meta
    key = instance.pk if key is None else key
    plain = isinstance(key, (int, uuid.UUID))
    if isinstance(key, str):
        plain = key.isdecimal() and len(key) < 20
        if not plain:
            try:
                plain = str(uuid.UUID(key)) == key and meta.pk.get_internal_type() == "UUIDField"
            except ValueError:
                plain = False
    return f"{meta.label_lower}:{key if plain else '~' + events.pseudonym(str(key))}"


def _account(user: Any) -> str:
    """An account under the one name of the user model, whichever proxy or child of it this is."""
    model = get_user_model()
    return _shown(model, getattr(user, model._meta.pk.attname)) if isinstance(user, model._meta.concrete_model) else _shown(user)


@events.harmless
def logged_in(sender: Any, user: Any = None, **kwargs: Any) -> None:
    """A login was good."""
    if user is not None:
        events.emit("login_ok", user=_name(user), target=_account(user))
        throttle.trust(user)


@events.harmless
def logged_out(sender: Any, user: Any = None, **kwargs: Any) -> None:
    """Somebody logged out."""
    if user is not None:
        events.emit("logout", user=_name(user), target=_account(user))


@events.harmless
def login_failed(sender: Any, credentials: Any = None, **kwargs: Any) -> None:
    """A login was not good, or was refused."""
    throttle.failed(dict(credentials or {}))


def _actor() -> Any:
    """Who is logged in to the current request, or None."""
    visit = client.current()
    user = getattr(visit.request, "user", None) if visit else None
    return user if getattr(user, "is_authenticated", False) else None


@events.harmless
def before_user(sender: Any, instance: Any, raw: bool = False, using: str = "default", update_fields: Any = None, **kwargs: Any) -> None:
    """Remember what an account was before it is saved: one query, and none for saves that do not touch what counts."""
    model = get_user_model()
    names = {field.name for field in model._meta.concrete_fields}
    watched = [name for name in ("password", *_FLAGS) if name in names and (update_fields is None or name in update_fields)]
    instance._redoubt_guard = None
    key = getattr(instance, model._meta.pk.attname)
    if watched and key is not None and not raw:
        instance._redoubt_guard = model._base_manager.using(using).filter(pk=key).values(*watched).first()


@events.harmless
def after_user(sender: Any, instance: Any, created: bool, raw: bool = False, using: str = "default", **kwargs: Any) -> None:
    """Tell what has changed of an account."""
    if raw:
        return
    actor, account = _actor(), _account(instance)
    who = {"user": _name(actor), "target": account}
    before = getattr(instance, "_redoubt_guard", None)
    # A child can be made of an account that is there.
    created = created and before is None
    if created:
        _emit_committed(using, "user_created", **who)
        before = {name: False for name in ("is_staff", "is_superuser") if hasattr(instance, name)}
    for name, value in (before or {}).items():
        after = getattr(instance, name)
        if name in _FLAGS and bool(value) != bool(after):
            _emit_committed(using, _FLAGS[name], detail="granted" if after else "revoked", **who)
        elif name == "password" and value != after:
            _password_changed(instance, actor, using, who, len(before or {}) == 1)
    if created and actor is None and getattr(instance, "_password", None) is not None:
        # Somebody has just signed up here.
        throttle.trust(instance)


def _password_changed(instance: Any, actor: Any, using: str, who: dict[str, Any], alone: bool) -> None:
    """A password was changed or reset, or stored anew with a better hash at a login."""
    if alone and getattr(instance, "_password", None) is None:
        # Django's own upgrade saves this field alone, and clears the marker of a new password first.
        _emit_committed(using, "password_rehashed", **who)
        return
    visit = client.current()
    reset = visit is not None and on_view(visit.request, *_RESET_VIEWS)
    _emit_committed(using, "password_reset" if reset else "password_changed", **who)
    if actor is None or actor.pk == instance.pk:
        # Whoever sets the password has the account; it is also the way out of a delay that an attack keeps up.
        throttle.trust(instance)


@events.harmless
def deleted_user(sender: Any, instance: Any, using: str = "default", **kwargs: Any) -> None:
    """An account is gone."""
    _emit_committed(using, "user_deleted", user=_name(_actor()), target=_account(instance))


@events.harmless
def rights_changed(
    sender: Any, instance: Any, action: str, reverse: bool, pk_set: Any, model: Any, using: str = "default", **kwargs: Any
) -> None:
    """Groups of an account, or permissions of an account or a group, were given or taken away."""
    verb = {"post_add": "added", "post_remove": "removed", "pre_clear": "cleared"}.get(action)
    if verb is None or (pk_set is not None and not pk_set):
        return
    # Which of the two sides is the group or permission depends on the end that the project has called.
    right = type(instance)._meta.model_name if reverse else model._meta.model_name
    event = "permissions_changed" if right == "permission" else "groups_changed"
    detail = f"{verb} {model._meta.model_name} {','.join(str(key) for key in sorted(pk_set, key=str))}" if pk_set else verb
    _emit_committed(using, event, user=_name(_actor()), target=_account(instance), detail=detail)


@events.harmless
def admin_action(sender: Any, instance: Any, created: bool = False, using: str = "default", **kwargs: Any) -> None:
    """Somebody has added, changed or deleted something in the admin. What it is called is not told: it may be a secret."""
    event = {1: "admin_added", 2: "admin_changed", 3: "admin_deleted"}.get(instance.action_flag)
    if not created or event is None:
        return
    model = instance.content_type.model_class() if instance.content_type_id else None
    target = _shown(model, instance.object_id or "") if model else f"?:{events.pseudonym(str(instance.object_id))}"
    _emit_committed(using, event, user=_name(instance.user), target=target)


class RefusalHandler(logging.Handler):
    """Django's own security log (`django.security.*`) as events."""

    def emit(self, record: logging.LogRecord) -> None:
        """Turn a record into an event. Its message is not used: it contains what the client sent."""
        if getattr(record, "redoubt_guard", False):
            return
        record.redoubt_guard = True
        self._event(record)

    @staticmethod
    @events.harmless
    def _event(record: logging.LogRecord) -> None:
        kind = record.name.rpartition(".")[2]
        request = getattr(record, "request", None)
        if kind == "csrf":
            events.emit("csrf_failed", user=None, detail=str(record.args[0]) if record.args else None)
        elif kind == "DisallowedHost":
            events.emit("disallowed_host", detail=None if request is None else request.META.get("HTTP_HOST"))
        else:
            events.emit("suspicious_operation", detail=kind)


def listen_to_refusals() -> None:
    """Put the handler where no setting of the project's loggers keeps records from it."""
    handler = RefusalHandler(logging.WARNING)
    names = {"django.security", "django.security.csrf", "django.security.DisallowedHost"}
    names |= {name for name in logging.root.manager.loggerDict if name.startswith("django.security.")}
    for name in names:
        logger = logging.getLogger(name)
        logger.disabled = False
        if not logger.isEnabledFor(logging.WARNING):
            logger.setLevel(logging.WARNING)
        if not any(isinstance(other, RefusalHandler) for other in logger.handlers):
            logger.addHandler(handler)
