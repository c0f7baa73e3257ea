import platform
from importlib.metadata import distributions

from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.http import JsonResponse
from django.urls import path


def index(request):
    packages = {package.name.lower(): package.version for package in distributions()}
    return JsonResponse(
        {
            "database": connection.vendor,
            "models": ContentType.objects.count(),
            "packages": dict(sorted(packages.items())),
            "python": platform.python_version(),
        }
    )


urlpatterns = [path("", index)]
