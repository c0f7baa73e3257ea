import fcntl

from django import forms
from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import LoginView
from django.contrib.postgres.search import TrigramSimilarity
from django.core.cache import cache
from django.http import FileResponse, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_safe

from .models import Book


class BookForm(forms.ModelForm):
    class Meta:
        model = Book
        fields = ["title", "isbn"]


@require_safe
def index(request):
    titles = cache.get_or_set(
        "titles", lambda: list(Book.objects.values_list("title", flat=True)), 60
    )
    return render(request, "index.html", {"titles": titles})


@login_required
def add(request):
    form = BookForm(request.POST or None)
    if form.is_valid():
        form.save()
        cache.delete("titles")
        return redirect("/")
    return render(request, "form.html", {"form": form, "action": "Add"})


@require_safe
def search(request):
    wanted = request.GET.get("q", "")
    books = Book.objects.annotate(similarity=TrigramSimilarity("title", wanted))
    found = books.filter(similarity__gt=0.2).order_by("-similarity")
    return JsonResponse({"titles": [book.title for book in found[:20]]})


@require_safe
def visits(request):
    """Count a visit; the count is a file, as it has been since before Django."""
    with (settings.BASE_DIR / "var/visits.txt").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        count = int(file.read() or 0) + 1
        file.truncate(0)
        file.write(f"{count}\n")
    return HttpResponse(count, content_type="text/plain")


@require_safe
def build(request):
    return FileResponse((settings.BASE_DIR / "build.json").open("rb"))


class Login(LoginView):
    template_name = "form.html"
    extra_context = {"action": "Log in"}

    def form_invalid(self, form):
        return self.render_to_response(self.get_context_data(form=form), status=401)
