"""What does the gallery show of a row?"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping  # noqa: TC003  msgspec reads the annotations at run time
from pathlib import PurePath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from batchgen.records import Expect, Image, Value
from batchgen.results import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from pathlib import Path

    from batchgen.ledger import Reader
    from batchgen.records import Task
    from batchgen.report.thumbnails import Seen

_LONGEST = 20_000
"""Characters of a text that are shown."""
_SHORT = 500
"""Of those that come when the page has enough."""
_ENOUGH = 64_000_000
"""Characters of all texts of a page, after which they are cut short: a browser has to hold them."""
_SECRETIVE = re.compile(r"(?<=;base64,)[A-Za-z0-9+/=\s]{200,}")
"""Pictures inside conversations: they are no words."""


class Small(Value, frozen=True, kw_only=True):
    """A picture that is shown beside another."""

    name: str
    """For people."""
    href: str | None = None
    thumb: str | None = None


class Parent(Value, frozen=True, kw_only=True):
    """The row that this one continues."""

    key: str
    id: str = ""
    picture: Small | None = None


class Row(Value, frozen=True, kw_only=True):
    """One task, as the page has it; what is empty is left out."""

    key: str
    id: str
    variant: int = 1
    status: str
    prompt: str = ""
    system: str | None = None
    messages: str | None = None
    asked: Mapping[str, Any] = {}
    """Parameters of the request by name."""
    model: str = ""
    words: bool = False
    """Whether words are enough."""
    file: str | None = None
    href: str | None = None
    thumb: str | None = None
    problem: str | None = None
    sha256: str | None = None
    mime: str | None = None
    width: int = 0
    height: int = 0
    bytes: int = 0
    drafts: tuple[Small, ...] = ()
    references: tuple[Small, ...] = ()
    parent: Parent | None = None
    size_ok: bool | None = None
    blank: bool | None = None
    near: str | None = None
    """The file name of the first picture that looks the same."""
    text: str | None = None
    reasoning: str | None = None
    tool_calls: str | None = None
    finish: str | None = None
    error: str | None = None
    message: str | None = None
    attempts: int = 0
    tokens: tuple[int, int, int] = (0, 0, 0)
    """In, text out, image out."""
    quality: str = ""
    cost: str | None = None
    """USD, in full."""
    wasted: str | None = None
    latency: float | None = None
    started: int | None = None
    """Milliseconds since 1970, as is `finished`."""
    finished: int | None = None
    request: str | None = None
    cells: tuple[str | None, ...] = ()
    """Of the manifest's other columns, in their order."""


class Cutter:
    """Texts as long as a page can bear."""

    def __init__(self) -> None:
        self._left = _ENOUGH
        self.cut = 0
        """How many texts are not there as a whole."""

    def __call__(self, text: str | None) -> str | None:
        """The text, or its beginning and how much is missing."""
        if not text:
            return None
        most = _LONGEST if self._left > 0 else _SHORT
        self._left -= min(len(text), most)
        if len(text) <= most:
            return text
        self.cut += 1
        return f"{text[:most]} … [{len(text) - most:,} more characters are in results.parquet]"


class Maker:
    """Makes the rows of one page."""

    def __init__(self, directory: Path, folder: Path, reader: Reader, cut: Cutter) -> None:
        """
        Begin without rows.

        :param directory: of the run.
        :param folder: where the page will be; links start from there.
        """
        self._up = os.path.relpath(directory.resolve(), folder.resolve())
        self._reader = reader
        self._cut = cut

    def parents(self, keys: Iterable[str]) -> dict[str, Parent]:
        """What is known of tasks that others continue, by key, without their thumbnails."""
        wanted = [*keys]
        standings, said = self._reader.standings(wanted), self._reader.said(wanted)
        found = {}
        for key in wanted:
            images = said[key].images if key in said else ()
            picture = (
                Small(name=images[-1].file_name, href=self._href(images[-1].file_name)) if images else None
            )
            found[key] = Parent(key=key, id=standings[key].id if key in standings else "", picture=picture)
        return found

    def row(
        self,
        line: Mapping[str, Any],
        task: Task,
        parent: Parent | None,
        seen: Seen | None,
        references: Iterable[str | None],
    ) -> Row:
        """
        Make one row.

        :param line: of the results.
        :param seen: what became of its picture's thumbnail, if it has a picture.
        :param references: the names of its references' thumbnails, where there are any.
        """
        images = pictures(line)
        return Row(
            **self._told({name: line[name] for name in SCHEMA.names}),
            **self._asked(task),
            **self._picture(images[-1], seen) if images and seen else {},
            drafts=tuple(
                Small(name=image.file_name, href=self._href(image.file_name)) for image in images[:-1]
            ),
            references=tuple(
                # Where a file lies is nobody's business to whom the page is sent.
                Small(name=PurePath(each.source).name if each.mime else each.source[:_SHORT], thumb=thumb)
                for each, thumb in zip(task.references, references, strict=True)
            ),
            parent=parent,
            cells=tuple(self._cut(as_text(value)) for value in [*line.values()][len(SCHEMA) :]),
        )

    def _told(self, line: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "key": line["task_key"],
            "id": line["id"],
            "variant": line["variant"],
            "status": line["status"],
            "model": line["model"],
            "prompt": self._cut(line["prompt"]) or "",
            "size_ok": line["size_ok"],
            "blank": line["blank"],
            "near": line["near_duplicate_of"],
            **{name: self._cut(line[name]) for name in ("text", "reasoning", "tool_calls")},
            "finish": line["finish_reason"],
            "error": line["error_class"],
            "message": self._cut(line["error_message"]),
            "attempts": line["attempts"],
            "tokens": (line["prompt_tokens"], line["text_tokens"], line["image_tokens"]),
            "quality": line["usage_quality"],
            "cost": _money(line["cost_usd"]),
            "wasted": _money(line["wasted_usd"] or None),
            "latency": line["latency_s"],
            "started": _milliseconds(line["started_at"]),
            "finished": _milliseconds(line["finished_at"]),
            "request": line["request_id"],
        }

    def _asked(self, task: Task) -> dict[str, Any]:
        params = msgspec.to_builtins(task.params)
        return {
            "system": self._cut(task.system),
            "messages": self._cut(_SECRETIVE.sub("…", task.messages) if task.messages else None),
            "asked": {name: self._cut(as_text(value)) for name, value in params.items()},
            "words": task.expect is Expect.TEXT,
        }

    def _picture(self, image: Image, seen: Seen) -> dict[str, Any]:
        return {
            "file": image.file_name,
            "href": self._href(image.file_name),
            "thumb": seen.name,
            "problem": seen.problem or None,
            "sha256": image.sha256,
            "mime": image.mime,
            "width": image.width,
            "height": image.height,
            "bytes": image.bytes,
        }

    def _href(self, file_name: str) -> str:
        return percent_encoded(f"{self._up}/{file_name}" if self._up != "." else file_name)


def pictures(line: Mapping[str, Any]) -> tuple[Image, ...]:
    """The pictures of a line of the results, the last one last."""
    return msgspec.convert(line["images"] or (), tuple[Image, ...])


def percent_encoded(path: str) -> str:
    """A relative path as a link that leads nowhere else, whatever its characters."""
    return quote(os.fsencode(path), safe="/")


def as_text(value: object) -> str | None:
    """A cell of any kind for people."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, list | dict | tuple):
        return msgspec.json.encode(value, enc_hook=str).decode()
    return str(value)


def _money(amount: object) -> str | None:
    return None if amount is None else f"{amount:f}"


def _milliseconds(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp() * 1000)
