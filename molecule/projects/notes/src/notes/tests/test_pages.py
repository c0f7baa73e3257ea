from unittest import mock

from django.contrib.auth import get_user_model
from django.db import DatabaseError
from django.test import TestCase, override_settings
from django.urls import reverse


class PublicPages(TestCase):
    def test_front(self):
        self.assertContains(self.client.get("/"), "Log in")

    def test_health(self):
        self.assertEqual(self.client.get("/healthz").json(), {"database": "up"})

    def test_health_without_database(self):
        with (
            mock.patch("notes.views.connection.cursor", side_effect=DatabaseError),
            self.assertLogs("notes.views", "ERROR"),
        ):
            self.assertEqual(self.client.get("/healthz").status_code, 503)

    @override_settings(NOTES_VERSION="2.3.0")
    def test_about(self):
        said = self.client.get("/about").json()
        self.assertEqual(said["version"], "2.3.0")
        self.assertFalse(said["secure"])
        self.assertIsNone(said["worker_seen_seconds_ago"])

    def test_unknown_page(self):
        self.assertContains(self.client.get("/nowhere"), "Not here", status_code=404)


class Accounts(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.user = get_user_model().objects.create_user("ada", password="correct horse")

    def test_notes_need_a_login(self):
        for name in ("note-list", "note-create", "password_change"):
            with self.subTest(name):
                url = reverse(name)
                self.assertRedirects(
                    self.client.get(url), f"/accounts/login/?next={url}"
                )

    def test_login_and_logout(self):
        data = {"username": "ada", "password": "correct horse"}
        response = self.client.post("/accounts/login/", data)
        self.assertRedirects(response, "/notes/")
        self.assertRedirects(self.client.post("/accounts/logout/"), "/")
        self.assertEqual(self.client.get("/notes/").status_code, 302)

    def test_wrong_password(self):
        data = {"username": "ada", "password": "wrong"}
        response = self.client.post("/accounts/login/", data)
        self.assertContains(response, "correct username and password")

    def test_password_change(self):
        self.client.force_login(self.user)
        response = self.client.post(
            "/accounts/password/",
            {
                "old_password": "correct horse",
                "new_password1": "battery staple",
                "new_password2": "battery staple",
            },
        )
        self.assertRedirects(response, "/accounts/password/done/")
        self.user.refresh_from_db()
        self.assertTrue(self.user.check_password("battery staple"))

    def test_password_page_is_ours(self):
        self.client.force_login(self.user)
        self.assertTemplateUsed(
            self.client.get("/accounts/password/"), "accounts/password_change.html"
        )

    def test_admin_is_for_staff(self):
        self.client.force_login(self.user)
        self.assertEqual(self.client.get("/admin/").status_code, 302)
        self.user.is_staff = self.user.is_superuser = True
        self.user.save()
        for path in ("", "notes/note/", "notes/job/", "notes/heartbeat/"):
            self.assertEqual(self.client.get(f"/admin/{path}").status_code, 200)
