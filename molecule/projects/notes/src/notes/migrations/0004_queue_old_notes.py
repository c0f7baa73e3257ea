from django.db import migrations


def queue_old_notes(apps, schema_editor):
    Note = apps.get_model("notes", "Note")
    Job = apps.get_model("notes", "Job")
    Job.objects.bulk_create(
        Job(note_id=pk) for pk in Note.objects.values_list("pk", flat=True)
    )


class Migration(migrations.Migration):
    dependencies = [("notes", "0003_word_counts")]

    operations = [
        migrations.RunPython(queue_old_notes, migrations.RunPython.noop),
    ]
