import tempfile
from pathlib import Path

from django.contrib.auth import get_user_model
from django.db import connection
from django.test import TestCase, override_settings

from .models import Book, isbn


@override_settings(SECURE_SSL_REDIRECT=False)
class Catalogue(TestCase):
    def setUp(self):
        root = tempfile.TemporaryDirectory()
        self.addCleanup(root.cleanup)
        (Path(root.name) / "var").mkdir()
        settings = override_settings(
            BASE_DIR=Path(root.name),
            CACHES={
                "default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}
            },
        )
        settings.enable()
        self.addCleanup(settings.disable)

    def test_login_and_add(self):
        user = get_user_model().objects.create_user("ada", password="secret")
        data = {"username": "ada", "password": "wrong"}
        self.assertEqual(self.client.post("/login/", data).status_code, 401)
        data["password"] = "secret"
        self.assertRedirects(self.client.post("/login/?next=/add/", data), "/add/")
        self.client.force_login(user)
        self.assertRedirects(self.client.post("/add/", {"title": "Middlemarch"}), "/")
        self.assertContains(self.client.get("/"), "Middlemarch")

    def test_isbn(self):
        self.client.force_login(get_user_model().objects.create_user("ada"))
        answer = self.client.post("/add/", {"title": "Emma", "isbn": "123"})
        self.assertEqual(answer.status_code, 200 if isbn else 302)

    def test_search(self):
        Book.objects.create(title="Middlemarch")
        answer = self.client.get("/search/", {"q": "midlemarch"})
        self.assertEqual(answer.json(), {"titles": ["Middlemarch"]})

    def test_updated(self):
        book = Book.objects.create(title="Emma")
        with connection.cursor() as cursor:
            cursor.execute("UPDATE books_book SET updated = '2001-01-01'")
        book.refresh_from_db()
        self.assertGreater(book.updated.year, 2001)

    def test_visits(self):
        self.assertEqual(self.client.get("/visits/").content, b"1")
        self.assertEqual(self.client.get("/visits/").content, b"2")
