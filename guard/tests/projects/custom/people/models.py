import uuid

from django.contrib.auth.models import AbstractBaseUser
from django.db import models


class People(models.Manager):
    """A manager that knows nothing of natural keys."""


class Person(AbstractBaseUser):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    handle = models.CharField(max_length=100, unique=True)

    USERNAME_FIELD = "handle"
    objects = People()


class Member(Person):
    class Meta:
        proxy = True


class Customer(Person):
    number = models.IntegerField(default=0)
