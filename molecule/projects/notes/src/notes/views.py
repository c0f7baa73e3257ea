import logging
import mimetypes
import socket

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.mixins import LoginRequiredMixin
from django.db import Error, connection, transaction
from django.http import Http404, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse_lazy
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe
from django.views.generic import CreateView, DetailView, ListView

from .forms import NoteForm
from .models import Heartbeat, Job, Note

logger = logging.getLogger(__name__)


@require_safe
def front(request):
    return render(request, "notes/front.html")


@require_safe
@never_cache
def healthz(request):
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Error:
        logger.exception("The database does not answer")
        return JsonResponse({"database": "down"}, status=503)
    return JsonResponse({"database": "up"})


@require_safe
@never_cache
def about(request):
    """What support asks for first: which version, and how the visitor got here."""
    seen = Heartbeat.objects.order_by("-seen").values_list("seen", flat=True).first()
    age = None if seen is None else round((timezone.now() - seen).total_seconds(), 1)
    return JsonResponse(
        {
            "version": settings.NOTES_VERSION,
            "server": socket.gethostname(),
            "host": request.get_host(),
            "secure": request.is_secure(),
            "address": request.META.get("REMOTE_ADDR", ""),
            "worker_seen_seconds_ago": age,
        }
    )


class OwnNotes(LoginRequiredMixin):
    def get_queryset(self):
        return Note.objects.filter(owner=self.request.user, trashed=None)


class NoteList(OwnNotes, ListView):
    paginate_by = 50


class NoteDetail(OwnNotes, DetailView):
    pass


class NoteCreate(LoginRequiredMixin, CreateView):
    model = Note
    form_class = NoteForm
    success_url = reverse_lazy("note-list")

    @transaction.atomic
    def form_valid(self, form):
        form.instance.owner = self.request.user
        if upload := form.cleaned_data["attachment"]:
            form.instance.attachment_name = upload.name
        response = super().form_valid(form)
        Job.objects.create(note=self.object)
        logger.info("%s wrote note %d", self.request.user, self.object.pk)
        return response


@login_required
@require_POST
def trash(request, pk):
    note = get_object_or_404(Note, pk=pk, owner=request.user, trashed=None)
    note.trashed = timezone.now()
    note.save(update_fields=["trashed"])
    messages.success(request, f"“{note}” is in the bin.")
    return redirect("note-list")


@login_required
@require_safe
def attachment(request, pk):
    note = get_object_or_404(Note, pk=pk, owner=request.user, trashed=None)
    if not note.attachment:
        raise Http404("No attachment")
    if not settings.X_ACCEL_REDIRECT:
        return redirect(note.attachment.url)
    kind, _encoding = mimetypes.guess_type(note.attachment.name)
    response = HttpResponse(content_type=kind or "application/octet-stream")
    response["X-Accel-Redirect"] = note.attachment.url
    return response
