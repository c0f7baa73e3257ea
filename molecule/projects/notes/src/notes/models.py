import uuid
from pathlib import PurePath

from django.conf import settings
from django.db import models
from django.urls import reverse

from .validators import validate_attachment


def attachment_path(note, filename):
    return f"attachments/{uuid.uuid4().hex}{PurePath(filename).suffix.lower()}"


class Note(models.Model):
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="notes"
    )
    title = models.CharField(max_length=120)
    body = models.TextField(blank=True)
    created = models.DateTimeField(auto_now_add=True)
    attachment = models.FileField(
        upload_to=attachment_path, blank=True, validators=[validate_attachment]
    )
    attachment_name = models.CharField(max_length=255, blank=True, editable=False)
    trashed = models.DateTimeField(null=True, blank=True, db_index=True)
    word_count = models.PositiveIntegerField(null=True, editable=False)

    class Meta:
        ordering = ["-created", "-pk"]

    def __str__(self):
        return self.title

    def get_absolute_url(self):
        return reverse("note-detail", args=[self.pk])


class Job(models.Model):
    """A note whose words are to be counted by the worker."""

    note = models.ForeignKey(Note, on_delete=models.CASCADE, related_name="jobs")
    created = models.DateTimeField(auto_now_add=True)
    finished = models.DateTimeField(null=True, db_index=True)

    class Meta:
        ordering = ["pk"]

    def __str__(self):
        return f"count {self.note_id}"


class Heartbeat(models.Model):
    """When a worker last said that it is alive."""

    worker = models.CharField(max_length=120, primary_key=True)
    seen = models.DateTimeField()

    def __str__(self):
        return self.worker
