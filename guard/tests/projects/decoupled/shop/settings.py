from decouple import Csv, config

INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes"]
DEBUG = config("DEBUG", default=True, cast=bool)
SECRET_KEY = config("SECRET_KEY")
ALLOWED_HOSTS = config("ALLOWED_HOSTS", cast=Csv())
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": config("DATABASE_NAME")}}
