import asyncio

from asgiref.testing import ApplicationCommunicator
from django.http import HttpResponse
from django.test import RequestFactory, SimpleTestCase, override_settings

from config.middleware import client_address
from config.websocket import LONGEST_MESSAGE, websocket


class ClientAddress(SimpleTestCase):
    def seen(self, **headers):
        request = RequestFactory().get("/", headers=headers)
        client_address(lambda request: HttpResponse())(request)
        return request.META["REMOTE_ADDR"]

    def test_the_proxy_has_the_last_word(self):
        self.assertEqual(
            self.seen(x_forwarded_for="1.1.1.1, 2001:db8::5"), "2001:db8::5"
        )

    def test_without_proxy(self):
        self.assertEqual(self.seen(), "127.0.0.1")


@override_settings(ALLOWED_HOSTS=["notes.example.org"])
class WebSocket(SimpleTestCase):
    def talk(self, *events, path="/ws/echo/", origin="https://notes.example.org"):
        headers = [(b"origin", origin.encode())] if origin else []
        scope = {"type": "websocket", "path": path, "headers": headers}

        async def run():
            communicator = ApplicationCommunicator(websocket, scope)
            answers = []
            for event in ({"type": "websocket.connect"}, *events):
                await communicator.send_input(event)
                if event["type"] == "websocket.disconnect":
                    await communicator.wait()
                else:
                    answers.append(await communicator.receive_output())
            return answers

        return asyncio.run(run())

    def test_echo(self):
        answers = self.talk(
            {"type": "websocket.receive", "text": "ping"},
            {"type": "websocket.disconnect"},
        )
        self.assertEqual(
            answers,
            [
                {"type": "websocket.accept"},
                {"type": "websocket.send", "text": "ping"},
            ],
        )

    def test_programs_need_no_origin(self):
        self.assertEqual(self.talk(origin=None), [{"type": "websocket.accept"}])

    def test_refused(self):
        self.assertEqual(self.talk(path="/ws/"), [{"type": "websocket.close"}])
        for origin in ("https://evil.example", "null"):
            self.assertEqual(self.talk(origin=origin), [{"type": "websocket.close"}])

    def test_odd_messages_end_it(self):
        for message in ({"bytes": b"x"}, {"text": "x" * (LONGEST_MESSAGE + 1)}):
            answers = self.talk({"type": "websocket.receive", **message})
            self.assertEqual(answers[-1], {"type": "websocket.close", "code": 1003})
