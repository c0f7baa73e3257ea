import uuid

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    operations = (
        migrations.CreateModel(
            name="Person",
            fields=[
                ("password", models.CharField(max_length=128, verbose_name="password")),
                ("last_login", models.DateTimeField(blank=True, null=True, verbose_name="last login")),
                ("id", models.UUIDField(default=uuid.uuid4, primary_key=True, serialize=False)),
                ("handle", models.CharField(max_length=100, unique=True)),
            ],
            options={"abstract": False},
        ),
        migrations.CreateModel(
            name="Customer",
            fields=[
                (
                    "person_ptr",
                    models.OneToOneField(on_delete=models.CASCADE, parent_link=True, primary_key=True, serialize=False, to="people.person"),
                ),
                ("number", models.IntegerField(default=0)),
            ],
            bases=("people.person",),
        ),
    )
