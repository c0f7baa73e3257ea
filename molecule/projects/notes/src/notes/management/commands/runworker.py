import logging
import os
import signal
import socket
import threading

from django.core.management.base import BaseCommand
from django.db import InterfaceError, OperationalError, connection, transaction
from django.utils import timezone

from notes.models import Heartbeat, Job

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    help = "Count the words of new notes until told to stop (SIGTERM or SIGINT)."

    def add_arguments(self, parser):
        parser.add_argument(
            "--interval", type=float, default=1.0, help="seconds between two looks"
        )
        parser.add_argument(
            "--once", action="store_true", help="empty the queue, then end"
        )

    def handle(self, interval, once, **options):
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.stopping = threading.Event()
        if once:
            self.empty_queue()
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stopping.set())
        logger.info("Worker %s started", self.name)
        while not self.stopping.is_set():
            try:
                Heartbeat.objects.update_or_create(
                    worker=self.name, defaults={"seen": timezone.now()}
                )
                self.empty_queue()
            except (InterfaceError, OperationalError) as error:
                logger.warning("No database, trying again: %s", error)
                connection.close()
            self.stopping.wait(interval)
        logger.info("Worker %s stopped", self.name)

    def empty_queue(self):
        while not self.stopping.is_set() and self.work_once():
            pass

    @transaction.atomic
    def work_once(self):
        """Do the oldest job that no other worker has in hand; whether there was one."""
        job = (
            Job.objects.select_for_update(
                skip_locked=connection.features.has_select_for_update_skip_locked,
                of=("self",) if connection.features.has_select_for_update_of else (),
            )
            .filter(finished=None)
            .select_related("note")
            .first()
        )
        if job is None:
            return False
        job.note.word_count = len(job.note.body.split())
        job.note.save(update_fields=["word_count"])
        job.finished = timezone.now()
        job.save(update_fields=["finished"])
        logger.info("Counted note %d: %d words", job.note_id, job.note.word_count)
        return True
