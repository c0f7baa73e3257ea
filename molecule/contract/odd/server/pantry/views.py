import hashlib
import os
import sys
from pathlib import Path

import shelfmark
from django.conf import settings
from django.http import HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.csrf import csrf_exempt

from .models import Note, Shelf


def index(request):
    """Compresses its style sheet at the first request, into the folder of the collected files."""
    source = Path(settings.STATIC_ROOT, "pantry.css").read_text()
    name = f"CACHE/css/{hashlib.sha256(source.encode()).hexdigest()[:12]}.css"
    target = Path(settings.STATIC_ROOT, name)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("".join(source.split()))
    return render(request, "index.html", {"style": settings.STATIC_URL + name})


def up(request):
    return HttpResponse("up")


def second(request):
    """Says which process it is, and where that listens."""
    return HttpResponse(f"{os.environ.get('PROCESS', 'web')} {os.environ.get('LISTEN_SOCKET', '')}")


def shelves(request):
    return JsonResponse(
        {
            "shelves": {shelf.name: shelfmark.mark(shelf.name) for shelf in Shelf.objects.order_by("id")},
            "notes": list(Note.objects.order_by("id").values_list("text", flat=True)),
            "sender": settings.DEFAULT_FROM_EMAIL,
            "python": sys.version.split()[0],
        }
    )


def writable(request):
    """Tries to write wherever a project might."""
    places = {
        "index": settings.BASE_DIR / "index",
        "source": settings.BASE_DIR,
        "package": settings.BASE_DIR / "pantry",
        "settings": settings.BASE_DIR / "pantry/local_settings.py",
        "static": settings.STATIC_ROOT,
        "compressed": Path(settings.STATIC_ROOT, "CACHE"),
        "media": settings.MEDIA_ROOT,
        "data": settings.DATA_ROOT,
        "temporary": "/tmp",
        "environment": sys.prefix,
        "mail": os.environ["PANTRY_MAIL"],
    }
    answers = {}
    for name, place in places.items():
        try:
            path = Path(place)
            with (path / ".probe" if path.is_dir() else path).open("a"):
                answers[name] = True
            if path.is_dir():
                (path / ".probe").unlink()
        except OSError as error:
            answers[name] = error.strerror
    return JsonResponse(answers)


@csrf_exempt
def keep(request, name):
    path = Path(settings.MEDIA_ROOT, name)
    if request.method == "POST":
        path.write_bytes(request.body)
        return HttpResponse(status=201)
    if request.headers.get("X-Ticket") != "valid":
        return HttpResponse(status=403)
    return HttpResponse(headers={"X-Accel-Redirect": f"/media/{name}"}, content_type="text/plain")
