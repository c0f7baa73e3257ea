from django.contrib.auth import views
from django.urls import path

# The admin has templates of its own under the default names of the password pages.
urlpatterns = [
    path(
        "login/",
        views.LoginView.as_view(template_name="accounts/login.html"),
        name="login",
    ),
    path("logout/", views.LogoutView.as_view(), name="logout"),
    path(
        "password/",
        views.PasswordChangeView.as_view(template_name="accounts/password_change.html"),
        name="password_change",
    ),
    path(
        "password/done/",
        views.PasswordChangeDoneView.as_view(
            template_name="accounts/password_change_done.html"
        ),
        name="password_change_done",
    ),
]
