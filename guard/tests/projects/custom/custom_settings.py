import os

SECRET_KEY = "custom-0123456789abcdefghijklmnopqrstuvwxyz-0123456789-ABCDEFGH"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "people"]
MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware", "django.contrib.auth.middleware.AuthenticationMiddleware"]
AUTH_USER_MODEL = "people.Person"
ROOT_URLCONF = "people.urls"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["FULL_DATABASE"]}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = False
AUTHENTICATION_BACKENDS = ["people.backends.Backend"]
