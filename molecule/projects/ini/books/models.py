from django.contrib import admin
from django.contrib.postgres.indexes import GinIndex
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models.functions import Now

try:
    from stdnum import isbn
except ImportError:  # the extra "isbn" is not installed
    isbn = None


def validate_isbn(value):
    if isbn and not isbn.is_valid(value):
        raise ValidationError("This is not an ISBN.")


class Book(models.Model):
    title = models.CharField(max_length=200)
    isbn = models.CharField(max_length=20, blank=True, validators=[validate_isbn])
    # Kept by a trigger, for the sake of those who write to the table without Django.
    updated = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        ordering = ["title"]
        indexes = [
            GinIndex(
                fields=["title"], name="title_trigrams", opclasses=["gin_trgm_ops"]
            )
        ]

    def __str__(self):
        return self.title


admin.site.register(Book)
