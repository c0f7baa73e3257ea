from django.contrib import admin

from .models import Heartbeat, Job, Note


@admin.register(Note)
class NoteAdmin(admin.ModelAdmin):
    list_display = ["title", "owner", "created", "word_count", "trashed"]
    list_filter = ["created"]
    search_fields = ["title", "body"]


@admin.register(Job)
class JobAdmin(admin.ModelAdmin):
    list_display = ["note", "created", "finished"]


@admin.register(Heartbeat)
class HeartbeatAdmin(admin.ModelAdmin):
    list_display = ["worker", "seen"]
