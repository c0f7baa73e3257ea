import os

INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes"]
DEBUG = True
SECRET_KEY = os.environ["SECRET_KEY"]
ALLOWED_HOSTS = os.environ["ALLOWED_HOSTS"].split(",")
