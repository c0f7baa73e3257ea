import tempfile
from pathlib import Path

from django.contrib.auth import get_user_model
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import TestCase, override_settings

from notes.models import Job, Note

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


class Notes(TestCase):
    @classmethod
    def setUpTestData(cls):
        users = get_user_model().objects
        cls.ada = users.create_user("ada")
        cls.bob = users.create_user("bob")

    def setUp(self):
        media = tempfile.TemporaryDirectory()
        self.addCleanup(media.cleanup)
        self.media = Path(media.name)
        settings = override_settings(MEDIA_ROOT=media.name)
        settings.enable()
        self.addCleanup(settings.disable)
        self.client.force_login(self.ada)

    def write(self, **data):
        return self.client.post("/notes/new/", {"title": "Milk", **data})

    def attach(self, name, content):
        return self.write(attachment=SimpleUploadedFile(name, content))

    def test_write_and_read(self):
        self.assertRedirects(self.write(body="two bottles"), "/notes/")
        note = Note.objects.get()
        self.assertEqual(note.owner, self.ada)
        self.assertEqual(Job.objects.get().note, note)
        self.assertContains(self.client.get("/notes/"), "Milk")
        self.assertContains(self.client.get(f"/notes/{note.pk}/"), "two bottles")

    def test_markup_is_escaped(self):
        self.write(title="<script>", body="<img>")
        page = self.client.get(f"/notes/{Note.objects.get().pk}/")
        self.assertContains(page, "&lt;script&gt;")
        self.assertContains(page, "&lt;img&gt;")

    def test_others_do_not_see_it(self):
        self.attach("photo.png", PNG)
        pk = Note.objects.get().pk
        self.client.force_login(self.bob)
        self.assertNotContains(self.client.get("/notes/"), "Milk")
        for path in (f"/notes/{pk}/", f"/notes/{pk}/attachment/"):
            self.assertEqual(self.client.get(path).status_code, 404)
        self.assertEqual(self.client.post(f"/notes/{pk}/trash/").status_code, 404)

    def test_bin(self):
        self.write()
        note = Note.objects.get()
        self.assertEqual(self.client.get(f"/notes/{note.pk}/trash/").status_code, 405)
        self.assertRedirects(self.client.post(f"/notes/{note.pk}/trash/"), "/notes/")
        note.refresh_from_db()
        self.assertIsNotNone(note.trashed)
        self.assertEqual(self.client.get(f"/notes/{note.pk}/").status_code, 404)

    def test_attachment(self):
        self.attach("Holiday photo.PNG", PNG)
        note = Note.objects.get()
        self.assertRegex(note.attachment.name, r"^attachments/[0-9a-f]{32}\.png$")
        self.assertEqual(note.attachment_name, "Holiday photo.PNG")
        self.assertEqual((self.media / note.attachment.name).read_bytes(), PNG)
        response = self.client.get(f"/notes/{note.pk}/attachment/")
        self.assertRedirects(
            response, f"/media/{note.attachment.name}", fetch_redirect_response=False
        )

    @override_settings(X_ACCEL_REDIRECT=True)
    def test_attachment_by_the_web_server(self):
        self.attach("photo.png", PNG)
        note = Note.objects.get()
        response = self.client.get(f"/notes/{note.pk}/attachment/")
        self.assertEqual(response["X-Accel-Redirect"], f"/media/{note.attachment.name}")
        self.assertEqual(response["Content-Type"], "image/png")

    def test_text_attachment(self):
        self.assertRedirects(self.attach("a.txt", "héllo".encode()), "/notes/")

    def test_refused_attachments(self):
        for name, content in {
            "page.html": b"<script>alert(1)</script>",
            "noextension": b"text",
            "fake.png": b"<script>alert(1)</script>",
            "fake.pdf": PNG,
            "binary.txt": b"a\x00b",
        }.items():
            with self.subTest(name):
                response = self.attach(name, content)
                self.assertEqual(response.status_code, 200)
                self.assertTrue(response.context["form"].errors["attachment"])
        self.assertFalse(Note.objects.exists())

    @override_settings(ATTACHMENT_MAX_SIZE=1024)
    def test_large_attachment(self):
        self.assertContains(self.attach("a.txt", b"a" * 1025), "larger than")
        self.assertRedirects(self.attach("a.txt", b"a" * 1024), "/notes/")
