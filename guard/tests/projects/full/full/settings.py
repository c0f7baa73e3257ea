"""A project that has made every mistake the guard knows of."""

import os

DEBUG = True
SECRET_KEY = os.environ.get("FULL_SECRET_KEY", "0123456789abcdefghijklmnopqrstuvwxyz-0123456789-ABCDEFGH")
SECRET_KEY_FALLBACKS = ["django-insecure-" + "x" * 50]
ALLOWED_HOSTS = ["*"]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
ROOT_URLCONF = "full.urls"
WSGI_APPLICATION = "full.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "debug": True,
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ["FULL_DATABASE"],
        "OPTIONS": {"timeout": 30},
        "ATOMIC_REQUESTS": "FULL_ATOMIC" in os.environ,
        "PASSWORD": "a-secret-database-password",
    }
}
# Argon2, so the guard leaves it first; cheap, so that many logins can be tried.
PASSWORD_HASHERS = ["full.hashers.CheapArgon2PasswordHasher", "django.contrib.auth.hashers.PBKDF2PasswordHasher"]
MEDIA_ROOT = os.environ.get("FULL_MEDIA", "")
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
LOGIN_REDIRECT_URL = "/"
EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
SESSION_COOKIE_SAMESITE = "None"
SESSION_COOKIE_HTTPONLY = False
SECURE_REFERRER_POLICY = None
DATA_UPLOAD_MAX_NUMBER_FIELDS = None
LOGGING = {
    "version": 1,
    "disable_existing_loggers": True,
    "handlers": {"file": {"class": "logging.FileHandler", "filename": os.environ.get("FULL_LOG", "/nowhere/at/all/django.log")}},
    "root": {"handlers": ["file"], "level": "INFO"},
    "loggers": {"django.security.csrf": {"level": "CRITICAL", "handlers": [], "propagate": False}},
}
