from pathlib import PurePath

from django.conf import settings
from django.core.exceptions import ValidationError
from django.template.defaultfilters import filesizeformat

SIGNATURES = {
    ".gif": (b"GIF87a", b"GIF89a"),
    ".jpeg": (b"\xff\xd8\xff",),
    ".jpg": (b"\xff\xd8\xff",),
    ".pdf": (b"%PDF-",),
    ".png": (b"\x89PNG\r\n\x1a\n",),
}


def is_text(file):
    for chunk in file.chunks():
        if b"\x00" in chunk:
            return False
    return True


def validate_attachment(file):
    """Refuse files that are too large, or not what their name says they are."""
    if file.size > settings.ATTACHMENT_MAX_SIZE:
        limit = filesizeformat(settings.ATTACHMENT_MAX_SIZE)
        raise ValidationError(f"The file is larger than {limit}.", code="too_large")
    suffix = PurePath(file.name).suffix.lower()
    if suffix == ".txt":
        genuine = is_text(file)
    elif suffix in SIGNATURES:
        file.seek(0)
        genuine = file.read(8).startswith(SIGNATURES[suffix])
    else:
        known = ", ".join(sorted([*SIGNATURES, ".txt"]))
        raise ValidationError(f"Only {known} files can be attached.", code="bad_type")
    file.seek(0)
    if not genuine:
        raise ValidationError(
            f"The content of the file is not {suffix}.", code="bad_content"
        )
