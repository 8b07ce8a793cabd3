"""Django with its admin, as an ASGI application in one file."""

from __future__ import annotations

import os
from pathlib import Path

import django
from django.conf import settings
from django.contrib import admin
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path

HERE = Path(__file__).resolve().parent

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY=os.environ.get("SECRET_KEY", "only for tests"),
    STATIC_URL="/static/",
    STATIC_ROOT=HERE / "staticfiles",
    MEDIA_URL="/media/",
    MEDIA_ROOT=HERE / "media",
    DATABASES={
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": Path(os.environ.get("STATE_DIRECTORY", HERE)) / "db.sqlite3"},
    },
    INSTALLED_APPS=[
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.messages",
        "django.contrib.sessions",
        "django.contrib.staticfiles",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
)
django.setup()


async def ready(_request):
    return HttpResponse(f"Django {django.__version__}")


urlpatterns = [path("ready", ready), path("admin/", admin.site.urls)]
application = get_asgi_application()
