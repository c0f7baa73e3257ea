from datetime import timedelta

from django.core.management.base import BaseCommand
from django.db import transaction
from django.utils import timezone

from notes.models import Heartbeat, Job, Note


class Command(BaseCommand):
    help = "Delete what has been in the bin long enough, with its attachments."

    def add_arguments(self, parser):
        parser.add_argument("--days", type=int, default=30)

    def handle(self, days, **options):
        before = timezone.now() - timedelta(days=days)
        pruned = 0
        for note in Note.objects.filter(trashed__lt=before).iterator():
            with transaction.atomic():
                if note.attachment:
                    file = note.attachment
                    transaction.on_commit(
                        lambda file=file: file.storage.delete(file.name)
                    )
                note.delete()
            pruned += 1
        Job.objects.filter(finished__lt=before).delete()
        Heartbeat.objects.filter(seen__lt=before).delete()
        self.stdout.write(f"Pruned {pruned} notes.")
