#!/usr/bin/env python
"""Make what a release has beside its source: the admin's files, and build.json."""

import datetime
import json
import os
import platform
import shutil
from pathlib import Path

import django
from django.contrib import admin

root = Path(__file__).resolve().parent.parent
shutil.copytree(
    Path(admin.__file__).parent / "static/admin",
    root / "static/admin",
    dirs_exist_ok=True,
)
stamp = {
    "built": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "django": django.__version__,
    "label": os.environ.get("BUILD_LABEL", ""),
    "python": platform.python_version(),
}
(root / "build.json").write_text(json.dumps(stamp) + "\n")
