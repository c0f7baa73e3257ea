from django.contrib import admin
from django.contrib.auth.views import LoginView
from django.urls import path

from . import views

urlpatterns = [
    path("", views.index),
    path("up/", views.up),
    path("process/", views.second),
    path("second/process/", views.second),
    path("shelves/", views.shelves),
    path("writable/", views.writable),
    path("keep/<str:name>", views.keep),
    path("login/", LoginView.as_view(template_name="admin/login.html")),
    path("admin/", admin.site.urls),
]
