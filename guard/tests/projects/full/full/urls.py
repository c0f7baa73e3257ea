"""One page for everything the guard looks at."""

from asgiref.sync import sync_to_async
from django.contrib import admin
from django.contrib.auth import authenticate, get_user_model, login, views
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.core.files.storage import FileSystemStorage
from django.http import HttpResponse, JsonResponse
from django.urls import path, re_path
from django.views.decorators.csrf import csrf_exempt


def address(request):
    return HttpResponse(request.META.get("REMOTE_ADDR", ""))


async def address_async(request):
    return HttpResponse(request.META.get("REMOTE_ADDR", ""))


def host(request):
    return HttpResponse(request.get_host())


def forbidden(request, token=""):
    raise PermissionDenied("no")


def forbidden_to(request):
    return HttpResponse(request.user.get_username(), status=403)


def suspicious(request):
    raise SuspiciousOperation("you sent\n" + request.GET.get("what", ""))


def broken(request):
    raise RuntimeError("broken")


@csrf_exempt
def api(request):
    """What HTTP Basic does: a login with every request, and none that lasts."""
    user = authenticate(request, username=request.POST.get("username"), password=request.POST.get("password"))
    return JsonResponse({"user": user and user.get_username()}, status=200 if user else 401)


async def api_async(request):
    user = await sync_to_async(authenticate)(request, username=request.POST.get("username"), password=request.POST.get("password"))
    return JsonResponse({"user": user and user.get_username()}, status=200 if user else 401)


# Django 4.2's decorator knows no asynchronous views.
api_async.csrf_exempt = True


@csrf_exempt
def strict(request):
    """A login that answers with an exception: with ATOMIC_REQUESTS all it has written is rolled back."""
    if authenticate(request, username=request.POST.get("username"), password=request.POST.get("password")) is None:
        raise PermissionDenied("wrong")
    return HttpResponse("in")


@csrf_exempt
def sign_up(request):
    user = get_user_model().objects.create_user(request.POST["username"], password=request.POST["password"])
    login(request, user)
    return HttpResponse("in")


@csrf_exempt
def upload(request):
    return HttpResponse(FileSystemStorage().save("folder/" + request.FILES["file"].name, request.FILES["file"]))


urlpatterns = [
    path("", address),
    path("async/", address_async),
    path("host/", host),
    path("forbidden/", forbidden),
    path("invitation/<str:token>/", forbidden),
    re_path(r"^old/(.+)/$", forbidden),
    path("forbidden-to/", forbidden_to),
    path("suspicious/", suspicious),
    path("broken/", broken),
    path("api/", api),
    path("api-async/", api_async),
    path("strict/", strict),
    path("sign-up/", sign_up),
    path("upload/", upload),
    path("login/", views.LoginView.as_view(template_name="admin/login.html"), name="login"),
    path("logout/", views.LogoutView.as_view(), name="logout"),
    path("password/", views.PasswordChangeView.as_view(success_url="/"), name="password_change"),
    path("reset/", views.PasswordResetView.as_view(success_url="/"), name="password_reset"),
    path("reset/<uidb64>/<token>/", views.PasswordResetConfirmView.as_view(success_url="/"), name="password_reset_confirm"),
    path("admin/", admin.site.urls),
]
