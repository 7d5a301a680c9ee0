"""
Which place in which bucket does somebody mean?

A URL names it, as the tools of the clouds write it: `s3://bucket/prefix`, `gs://…` (Google), `az://…` (Azure,
with the container for the bucket). Keys come from the environment and are in no URL.
"""

from __future__ import annotations

import re
from pathlib import Path

from batchgen.errors import InputError
from batchgen.records import Value

SCHEMES = ("s3", "gs", "az")

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
# What all three have in common: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}[A-Za-z0-9]")
_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f\\?#*"<>|%\ud800-\udfff]')
_LONGEST = 400
"""Bytes of a prefix: a key has 1,024, and a picture's name takes its part of them."""
_COMPONENT = 200


class Address(Value, frozen=True, kw_only=True):
    """A place in a bucket, below which everything of one run lies."""

    scheme: str
    bucket: str
    prefix: str = ""
    """Without a slash at either end; empty for the whole bucket."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}{'/' if self.prefix else ''}{self.prefix}"

    @property
    def local(self) -> Path:
        """Where this machine keeps what a run needs at hand: its lock, its ledger, the manifest it read."""
        return Path("runs", self.scheme, self.bucket, *filter(None, self.prefix.split("/")))


def is_url(place: str) -> bool:
    """Whether somebody means a bucket, rightly or not (`s3:/…`), and no folder."""
    return _URL.fullmatch(place) is not None or place.lower().startswith(
        tuple(f"{each}:/" for each in SCHEMES)
    )


def parsed(url: str) -> Address:
    """
    Take a URL apart.

    :raises InputError: it names no place in a bucket.
    """
    found = _URL.fullmatch(url)
    if found is None or found["scheme"].lower() not in SCHEMES:
        raise InputError(f"{url}: no such kind of place; a bucket is s3://…, gs://… or az://…")
    scheme = found["scheme"].lower()
    bucket, _, rest = found["rest"].partition("/")
    if "@" in bucket or ":" in bucket:
        raise InputError(
            f"{scheme}://…: what stands before the first / is the bucket's name alone; keys come from the"
            " environment, and so does another endpoint (AWS_ENDPOINT_URL)"
        )
    if not _BUCKET.fullmatch(bucket):
        raise InputError(f"{url}: {bucket!r} is no name of a bucket; write {scheme}://bucket/prefix")
    prefix = rest.rstrip("/")
    parts = prefix.split("/") if prefix else []
    if any(part in {"", ".", ".."} or len(part.encode()) > _COMPONENT for part in parts):
        raise InputError(f"{url}: between two slashes is a name of 1 to {_COMPONENT} bytes, neither . nor ..")
    if (unsafe := _UNSAFE.search(prefix)) is not None or len(prefix.encode()) > _LONGEST:
        what = f"{unsafe[0]!r} in it" if unsafe else f"more than {_LONGEST} bytes"
        raise InputError(f"{url!r}: a prefix with {what}; choose a plainer one")
    return Address(scheme=scheme, bucket=bucket, prefix=prefix)
