import os
import signal
import tempfile
import threading
from datetime import timedelta
from io import StringIO
from pathlib import Path
from unittest import mock

from django.contrib.auth import get_user_model
from django.core.files.base import ContentFile
from django.core.management import call_command
from django.db import OperationalError
from django.test import TestCase, override_settings
from django.utils import timezone

from notes.models import Heartbeat, Job, Note


class Worker(TestCase):
    def setUp(self):
        owner = get_user_model().objects.create_user("ada")
        self.note = Note.objects.create(owner=owner, title="Milk", body="two bottles")
        Job.objects.create(note=self.note)
        for number in (signal.SIGTERM, signal.SIGINT):
            self.addCleanup(signal.signal, number, signal.getsignal(number))

    def terminate_soon(self):
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        self.addCleanup(timer.join)

    def test_counts(self):
        call_command("runworker", once=True)
        self.note.refresh_from_db()
        self.assertEqual(self.note.word_count, 2)
        self.assertIsNotNone(Job.objects.get().finished)

    def test_stops_when_told(self):
        self.terminate_soon()
        with self.assertLogs("notes", "INFO") as logs:
            call_command("runworker", interval=0.01)
        self.assertIn("stopped", logs.output[-1])
        self.assertAlmostEqual(
            Heartbeat.objects.get().seen, timezone.now(), delta=timedelta(seconds=5)
        )

    def test_outlives_the_database(self):
        self.terminate_soon()
        with (
            mock.patch(
                "notes.management.commands.runworker.Command.empty_queue",
                side_effect=[OperationalError("gone"), None, *[None] * 1000],
            ) as empty_queue,
            mock.patch("notes.management.commands.runworker.connection.close"),
            self.assertLogs("notes", "WARNING"),
        ):
            call_command("runworker", interval=0.01)
        self.assertGreater(empty_queue.call_count, 1)


class Prune(TestCase):
    def test_prunes_what_is_old(self):
        owner = get_user_model().objects.create_user("ada")
        media = tempfile.TemporaryDirectory()
        self.addCleanup(media.cleanup)
        with override_settings(MEDIA_ROOT=media.name):
            for title, days in {"kept": None, "new": 1, "old": 40}.items():
                note = Note(owner=owner, title=title)
                if days is not None:
                    note.trashed = timezone.now() - timedelta(days=days)
                note.attachment.save("a.txt", ContentFile(b"text"))
            out = StringIO()
            with self.captureOnCommitCallbacks(execute=True):
                call_command("prune_notes", stdout=out)
            titles = set(Note.objects.values_list("title", flat=True))
            files = {path.name for path in Path(media.name).glob("attachments/*")}
            kept = {Path(note.attachment.name).name for note in Note.objects.all()}
        self.assertEqual(out.getvalue(), "Pruned 1 notes.\n")
        self.assertEqual(titles, {"kept", "new"})
        self.assertEqual(files, kept)
