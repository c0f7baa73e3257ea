from django.urls import path

from . import views

urlpatterns = [
    path("", views.NoteList.as_view(), name="note-list"),
    path("new/", views.NoteCreate.as_view(), name="note-create"),
    path("<int:pk>/", views.NoteDetail.as_view(), name="note-detail"),
    path("<int:pk>/trash/", views.trash, name="note-trash"),
    path("<int:pk>/attachment/", views.attachment, name="note-attachment"),
]
