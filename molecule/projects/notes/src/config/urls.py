from django.conf import settings
from django.conf.urls.static import static
from django.contrib import admin
from django.urls import include, path

from notes import views

urlpatterns = [
    path("", views.front, name="front"),
    path("about", views.about, name="about"),
    path("healthz", views.healthz, name="healthz"),
    path("notes/", include("notes.urls")),
    path("accounts/", include("notes.account_urls")),
    path("admin/", admin.site.urls),
    # A no-op without DEBUG: in production the web server has them.
    *static(settings.MEDIA_URL, document_root=settings.MEDIA_ROOT),
]
