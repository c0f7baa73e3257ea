from django.contrib import admin
from django.contrib.auth.views import LogoutView
from django.urls import path

from books import views

urlpatterns = [
    path("", views.index),
    path("add/", views.add),
    path("search/", views.search),
    path("visits/", views.visits),
    path("build/", views.build),
    path("login/", views.Login.as_view()),
    path("logout/", LogoutView.as_view()),
    path("backstage/", admin.site.urls),
]
