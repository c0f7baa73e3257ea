from django.contrib.auth.backends import BaseBackend

from .models import Person


class Backend(BaseBackend):
    def authenticate(self, request, handle=None, password=None):
        person = Person.objects.filter(handle=handle).first()
        return person if person and person.check_password(password) else None

    def get_user(self, user_id):
        return Person.objects.filter(pk=user_id).first()
