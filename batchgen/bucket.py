"""
How are objects in a bucket read and written?

A `put` is whole and durable when it returns, or it is not there: there are no temporary files. What fails is
tried again for some seconds by the client itself; beyond that whoever calls decides. Credentials are found
where the clouds' own tools look for them: environment, instance, workload identity.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from batchgen.errors import InputError, StorageError
from batchgen.records import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from obstore.store import ObjectStore

    from batchgen.address import Address

_RETRY = {
    "max_retries": 6,
    "retry_timeout": timedelta(seconds=15),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=3),
        "base": 2,
    },
}
"""Short: what holds a picture or a copy tries again itself, and tells of it."""
_CLIENT = {"timeout": timedelta(seconds=60), "connect_timeout": timedelta(seconds=5)}
"""For one request; what is large goes in parts of 5 MB."""
_AT_ONCE = 1000
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
_MEANS = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        ("|".join(_NO_BUCKET), "there is no such bucket{said}; make it"),
        (
            r"169\.254\.169\.254|metadata\.google|Missing(Account|Credential|AccessKeyId|SecretAccessKey)",
            "no credentials were found; set {settings}",
        ),
        (
            "BadScheme|URL scheme is not allowed",
            "its endpoint is not encrypted; use https://, or AWS_ALLOW_HTTP=true in a network of your own",
        ),
        (
            "status code: 403",
            "access is denied{said}; see that the key is right and may read, write, list and delete there",
        ),
        ("status code: 401", "the credentials were not taken{said}; check {settings}"),
        ("status code: 404", "the object is not there{said}; see who deletes what is in the bucket"),
        ("status code: ", "the bucket did not take it{said}; see what its provider says of that"),
        ("", "there is no answer; check the network, and which endpoint the environment names"),
    )
)
"""What an error of the client's means, the first that fits; its text begins with the client's own words."""
_SETTINGS = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION (not Amazon's: AWS_ENDPOINT_URL)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}

_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT")
_SIGNED_WITH = {
    "s3": (
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
        *("AWS_REGION", "AWS_DEFAULT_REGION"),
    ),
    "gs": (),
    "az": ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"),
}
"""Settings with whose odd characters the client panics, which nobody can catch, or asks in vain."""
_PLAIN = re.compile(r"[!-~]*")


class Version(Value, frozen=True, kw_only=True):
    """Which of the contents that an object had in its time is meant."""

    e_tag: str | None = None
    version: str | None = None

    def as_told(self) -> dict[str, str]:
        """The form in which obstore takes it: without what the bucket has not said."""
        told = {"e_tag": self.e_tag, "version": self.version}
        return {name: value for name, value in told.items() if value is not None}


class Found(Value, frozen=True, kw_only=True):
    """What a bucket says of an object."""

    name: str
    bytes: int
    at: float
    """When it was written, by the bucket's own clock, in seconds since 1970."""
    version: Version


class Bucket:
    """
    The objects below one address, by their names from there on.

    Everything blocks, may be called from many threads, and goes to another process as its address alone. All
    failures are `StorageError`; but `InputError` where its library or a setting is not what it must be.
    """

    def __init__(self, address: Address) -> None:
        self.address = address

    def __reduce__(self) -> tuple[type[Bucket], tuple[Address]]:
        return Bucket, (self.address,)

    def put(self, name: str, data: bytes | bytearray | memoryview | Path) -> None:
        """Write an object, in the place of what has its name."""
        with self._reported(name):
            self._obstore.put(self._store, name, data)

    def create(self, name: str, data: bytes) -> Version | None:
        """Write an object that is not there yet; None where it is."""
        return self._conditionally(name, data, "create")

    def replace(self, name: str, data: bytes, version: Version) -> Version | None:
        """Write an object in the place of a known content; None where it has another one, or is gone."""
        return self._conditionally(name, data, version.as_told())

    def _conditionally(self, name: str, data: bytes, mode: str | dict[str, str]) -> Version | None:
        errors = self._obstore.exceptions
        with self._reported(name):
            try:
                done = self._obstore.put(self._store, name, data, mode=mode)
            except (errors.AlreadyExistsError, errors.PreconditionError):
                return self._written_before(name, data)
            except FileNotFoundError as cause:
                if mode == "create" or _code(cause) in _NO_BUCKET:
                    raise
                return None
        return Version(e_tag=done["e_tag"], version=done["version"])

    def _written_before(self, name: str, data: bytes) -> Version | None:
        """A try whose answer was lost may have been carried out: then the content is what was to be."""
        found = self.look(name)
        return found[0].version if found is not None and found[1] == data else None

    def get(self, name: str, *, most: int | None = None) -> bytes | None:
        """
        Read an object, None when it is not there.

        :param most: the bytes beyond which it is not what is looked for.
        """
        found = self.look(name, most=most)
        return None if found is None else found[1]

    def look(self, name: str, *, most: int | None = None) -> tuple[Found, bytes] | None:
        """Read an object, with what the bucket says of exactly this content."""
        with self._reported(name):
            try:
                found = self._obstore.get(self._store, name)
            except FileNotFoundError as cause:
                if _code(cause) in _NO_BUCKET:
                    raise
                return None
            if most is not None and found.meta["size"] > most:
                raise StorageError(f"{self._named(name)}: this is no picture; move it away")
            return _found(found.meta), bytes(found.bytes())

    def fetch(self, name: str, path: Path) -> None:
        """Add an object, of any size, to the end of a file; `StorageError` also when it is not there."""
        with self._reported(name), path.open("ab") as file:
            for piece in self._obstore.get(self._store, name).stream(min_chunk_size=1 << 20):
                file.write(piece)

    def head(self, name: str) -> Found | None:
        """Ask about an object, None when it is not there."""
        with self._reported(name):
            try:
                return _found(self._obstore.head(self._store, name))
            except FileNotFoundError:
                return None

    def list(self, folder: str) -> Iterator[Found]:
        """All objects below a folder, in no order."""
        with self._reported(folder):
            for some in self._obstore.list(self._store, folder, chunk_size=_AT_ONCE):
                yield from map(_found, some)

    def remove(self, names: Sequence[str]) -> None:
        """Delete objects; one that is not there is fine."""
        with self._reported(names[0] if names else ""):
            for start in range(0, len(names), _AT_ONCE):
                with suppress(FileNotFoundError):
                    self._obstore.delete(self._store, [*names[start : start + _AT_ONCE]])

    def copy(self, source: str, target: str) -> None:
        """Give an object a second name."""
        with self._reported(source):
            self._obstore.copy(self._store, source, target)

    @cached_property
    def _obstore(self) -> Any:  # noqa: ANN401  a module
        try:
            import obstore  # noqa: PLC0415  a run on a disk pays nothing for it
            import obstore.exceptions  # noqa: PLC0415
            import obstore.store  # noqa: PLC0415
        except ModuleNotFoundError:
            raise InputError(
                f"{self.address}: what speaks to buckets is not installed; `pip install 'batchgen[cloud]'`"
            ) from None
        return obstore

    @cached_property
    def _store(self) -> ObjectStore:
        stores, address = self._obstore.store, self.address
        _check_settings(address)
        kinds: dict[str, Callable[..., ObjectStore]] = {
            "s3": stores.S3Store,
            "gs": stores.GCSStore,
            "az": stores.AzureStore,
        }
        # All other settings are read from the environment; this one is lost beside ours.
        plain = os.environ.get("AWS_ALLOW_HTTP", "").lower() in {"1", "true", "yes", "on"}
        return kinds[address.scheme](
            address.bucket,
            prefix=address.prefix or None,
            retry_config=_RETRY,
            client_options={**_CLIENT, "allow_http": plain},
        )

    def _named(self, name: str) -> str:
        return f"{self.address}/{name}" if name else str(self.address)

    @contextmanager
    def _reported(self, name: str) -> Iterator[None]:
        errors = self._obstore.exceptions
        try:
            yield
        except (errors.BaseError, FileNotFoundError, OSError, ValueError) as cause:
            raise StorageError(
                f"{self._named(name)}: {self._explained(cause)}, then run the same command again"
            ) from cause

    def _explained(self, cause: Exception) -> str:
        """
        What went wrong, and what to do; in words of our own.

        What a bucket answers may quote the key that it was asked with.
        """
        if isinstance(cause, OSError) and cause.strerror:
            return f"{cause.strerror}; make room or make it writable"
        told = str(cause)
        status = _STATUS.search(told)
        code = _code(cause) or (f"HTTP {status[1]}" if status else "")
        words = next(words for pattern, words in _MEANS if pattern.search(told))
        return words.format(said=f" ({code})" if code else "", settings=_SETTINGS[self.address.scheme])


def _check_settings(address: Address) -> None:
    for name in _SIGNED_WITH[address.scheme]:
        if not _PLAIN.fullmatch(os.environ.get(name, "")):
            raise InputError(
                f"{address}: {name} has a character that it cannot have (a space, the end of a line?);"
                " set it anew"
            )
    for name in _ENDPOINTS if address.scheme == "s3" else ():
        if not _is_server(os.environ.get(name, "https://amazon.com")):
            raise InputError(
                f"{address}: {name} is no server; write https://host or http://host:port, or unset it"
            )


def _is_server(url: str) -> bool:
    try:
        found = urlsplit(url)
        port = found.port
    except ValueError:
        return False
    plain = _PLAIN.fullmatch(url) is not None and port != 0
    return plain and found.scheme in {"http", "https"} and bool(found.hostname)


def _code(cause: Exception) -> str:
    found = _CODE.search(str(cause))
    return found[1] if found else ""


def _found(told: Mapping[str, Any]) -> Found:
    return Found(
        name=told["path"],
        bytes=told["size"],
        at=told["last_modified"].timestamp(),
        version=Version(e_tag=told["e_tag"], version=told["version"]),
    )
