from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.operations import CreateExtension, TrigramExtension
from django.db import migrations, models
from django.db.models.functions import Now

import books.models


class Migration(migrations.Migration):
    initial = True

    operations = [
        TrigramExtension(),
        CreateExtension("moddatetime"),
        migrations.CreateModel(
            name="Book",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True,
                        primary_key=True,
                        serialize=False,
                        verbose_name="ID",
                    ),
                ),
                ("title", models.CharField(max_length=200)),
                (
                    "isbn",
                    models.CharField(
                        blank=True,
                        max_length=20,
                        validators=[books.models.validate_isbn],
                    ),
                ),
                ("updated", models.DateTimeField(db_default=Now(), editable=False)),
            ],
            options={
                "ordering": ["title"],
                "indexes": [
                    GinIndex(
                        fields=["title"],
                        name="title_trigrams",
                        opclasses=["gin_trgm_ops"],
                    )
                ],
            },
        ),
        migrations.RunSQL(
            "CREATE TRIGGER book_updated BEFORE UPDATE ON books_book"
            " FOR EACH ROW EXECUTE FUNCTION moddatetime(updated)",
            "DROP TRIGGER book_updated ON books_book",
        ),
    ]
