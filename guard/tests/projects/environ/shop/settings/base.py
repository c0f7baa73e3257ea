import environ

env = environ.Env()
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes"]
DEBUG = env.bool("DEBUG", default=True)
SECRET_KEY = env("SECRET_KEY")
