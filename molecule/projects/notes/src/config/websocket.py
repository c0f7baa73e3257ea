from urllib.parse import urlsplit

from django.conf import settings
from django.http.request import split_domain_port, validate_host

LONGEST_MESSAGE = 4096


def same_site(scope):
    """Whether the handshake comes from one of our own pages; browsers always say."""
    for name, value in scope["headers"]:
        if name == b"origin":
            domain, _port = split_domain_port(urlsplit(value.decode("latin1")).netloc)
            return bool(domain) and validate_host(domain, settings.ALLOWED_HOSTS)
    return True


async def websocket(scope, receive, send):
    event = await receive()
    if event["type"] != "websocket.connect":
        return
    if scope["path"] != "/ws/echo/" or not same_site(scope):
        # Before the handshake is accepted this is answered with 403.
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        text = event.get("text")
        if text is None or len(text) > LONGEST_MESSAGE:
            await send({"type": "websocket.close", "code": 1003})
            return
        await send({"type": "websocket.send", "text": text})
