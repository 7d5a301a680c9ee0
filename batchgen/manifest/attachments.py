"""Which pictures does a row bring along, and may they go?"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from batchgen.errors import InputError
from batchgen.manifest.problems import quoted
from batchgen.records import Reference

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchgen.manifest.reading import Reading


class Attachments:
    """The pictures beside one manifest."""

    def __init__(self, reading: Reading, look: Callable[[str], Reference]) -> None:
        """:param look: what is in a file; an `InputError` says why it cannot go along."""
        self._folder = Path(os.path.realpath(reading.folder))
        self._outside = reading.allow_outside
        self._provider = reading.provider
        self._look = look

    def brought(self, value: object) -> tuple[Reference, ...] | None:
        """
        The pictures that a cell names, in its order; None where there are none.

        :param value: a list of paths and URLs, or a text in which semicolons separate them.
        :raises InputError: one of them cannot go along; says which, why, and what to do.
        """
        names = value.split(";") if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"expected a list of paths, got {quoted(value)}")
        return tuple(self._one(name.strip()) for name in names if name.strip()) or None

    def _one(self, name: str) -> Reference:
        try:
            if "://" in name or name.startswith("data:"):
                return self._linked(name)
            return self._beside(name)
        except InputError as error:
            raise InputError(f"{quoted(name)}: {error}") from None

    def _linked(self, url: str) -> Reference:
        if not _is_https(url):
            raise InputError("expected a path or an https URL")
        if not self._provider.reference_urls:
            raise InputError("this endpoint is not known to fetch pictures; name a file instead")
        return Reference(source=url, sha256=sha256(url.encode()).hexdigest())

    def _beside(self, name: str) -> Reference:
        if "\0" in name:
            raise InputError("a nul character; remove it")
        # What a link leads to is what is checked, so it is also what is opened.
        path = Path(os.path.realpath(self._folder / name))
        if not self._outside and not path.is_relative_to(self._folder):
            raise InputError("it lies outside the manifest's folder; --allow-outside lets it go along")
        found = self._look(str(path))
        most = self._provider.max_reference_bytes
        if most is not None and found.bytes > most:
            raise InputError(
                f"{found.bytes:,} bytes, and {self._provider.title} takes {most:,} a picture; make it smaller"
            )
        return found


def _is_https(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme == "https" and bool(parts.hostname) and "@" not in parts.netloc and url.isprintable()
