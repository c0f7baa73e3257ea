from django.test import TestCase


class Index(TestCase):
    def test_index(self):
        answer = self.client.get("/").json()
        self.assertTrue(answer["packages"]["django"].startswith("5.2."))
        self.assertGreater(answer["models"], 0)
