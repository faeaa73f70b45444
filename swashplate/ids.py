"""The ids that callers give to jobs and workflows: what one may look like, and its one spelling.

They stand in paths and are compared as text; so a UUID, which has several spellings, is turned into one everywhere.
"""

from __future__ import annotations

import re
import uuid

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_UUID = re.compile(r"(?:urn:uuid:)?\{?[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12}\}?", re.IGNORECASE)
_FORM = "a UUID, or letters, digits, '_' and '-', beginning with a letter or a digit, at most 128"


def canonical(text: str) -> str:
    """A UUID in lower case and with hyphens; anything else as it is."""
    return str(uuid.UUID(text)) if _UUID.fullmatch(text) else text


def checked(text: str) -> str:
    """The one spelling of an id that somebody gives to something new. Raises ``ValueError``."""
    found = canonical(text)
    if not _ID.fullmatch(found):
        raise ValueError(f"{text[:128]!r} is not an id: give {_FORM}")
    return found
