"""The websocket side: `/ws/echo/` is what the pages check their connection with.

Ordinary requests are answered too: in development one process can serve everything.
"""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.production")

http = get_asgi_application()

from config.websocket import websocket  # noqa: E402  needs the settings


async def application(scope, receive, send):
    if scope["type"] == "websocket":
        await websocket(scope, receive, send)
    elif scope["type"] == "http":
        await http(scope, receive, send)
