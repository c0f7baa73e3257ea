from django.db import models


class Shelf(models.Model):
    name = models.CharField(max_length=100, unique=True)


class Note(models.Model):
    text = models.CharField(max_length=100)
