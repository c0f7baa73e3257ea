from django.contrib.auth import authenticate, login
from django.http import HttpResponse
from django.urls import path

from .models import Person


def enter(request):
    person = authenticate(request, handle=request.POST["handle"], password=request.POST["password"])
    if person is None:
        return HttpResponse("no", status=401)
    login(request, person)
    return HttpResponse("in")


def sign_up(request):
    person = Person(handle=request.POST["handle"])
    person.set_password(request.POST["password"])
    person.save()
    login(request, person)
    return HttpResponse("in")


urlpatterns = [path("enter/", enter), path("sign-up/", sign_up)]
