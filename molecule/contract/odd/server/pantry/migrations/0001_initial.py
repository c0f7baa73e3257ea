import os

from django.db import migrations, models


def fill(apps, schema_editor):
    for name in os.environ["PANTRY_SHELVES"].split(","):
        apps.get_model("pantry", "Shelf").objects.create(name=name)


class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel(
            "Shelf",
            [("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")), ("name", models.CharField(max_length=100, unique=True))],
        ),
        migrations.CreateModel(
            "Note",
            [("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")), ("text", models.CharField(max_length=100))],
        ),
        migrations.RunPython(fill),
    ]
