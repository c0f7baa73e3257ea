from django.core.management.base import BaseCommand, CommandError
from django.db import connection

from pantry.models import Note, Shelf


class Command(BaseCommand):
    def add_arguments(self, parser):
        parser.add_argument("--check", action="store_true")
        parser.add_argument("--note")

    def handle(self, *args, **options):
        if options["check"] and not Shelf.objects.exists():
            raise CommandError("there are no shelves")
        if options["note"]:
            Note.objects.create(text=f"{options['note']} by {connection.settings_dict['USER']}")
