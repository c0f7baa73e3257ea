from django.db import migrations, models

import notes.models
import notes.validators


class Migration(migrations.Migration):
    dependencies = [("notes", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="note",
            name="attachment",
            field=models.FileField(
                blank=True,
                upload_to=notes.models.attachment_path,
                validators=[notes.validators.validate_attachment],
            ),
        ),
        migrations.AddField(
            model_name="note",
            name="attachment_name",
            field=models.CharField(blank=True, editable=False, max_length=255),
        ),
        migrations.AddField(
            model_name="note",
            name="trashed",
            field=models.DateTimeField(blank=True, db_index=True, null=True),
        ),
    ]
