"""
How do the pictures of a run become a dataset, or a table for a shop?

Rows are chosen once and cut into shards; each shard is written whole, with every picture held against its
recorded hash. The same command goes on with an export that was interrupted, and brings one up to date whose
run has gone on.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  msgspec reads the annotations at run time
from contextlib import closing
from decimal import Decimal  # noqa: TC003  msgspec reads the annotations at run time
from enum import StrEnum
from hashlib import sha256
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec

from batchgen import depot, disk, recovery, results
from batchgen.errors import InputError, StorageError
from batchgen.export.hf import HuggingFace
from batchgen.export.imagefolder import ImageFolder, Link
from batchgen.export.pictures import Missing, Pictures
from batchgen.export.rows import WHY, Columns, Filter, Wanted, gather
from batchgen.export.shards import Target
from batchgen.export.tables import Csv, Jsonl
from batchgen.export.webdataset import WebDataset
from batchgen.job import LEDGER, MANIFEST
from batchgen.layout import COUNTED
from batchgen.ledger import Reader
from batchgen.manifest import Manifest
from batchgen.records import Value
from batchgen.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

    import pyarrow as pa

    from batchgen.depot import Seen
    from batchgen.export.format import Format
    from batchgen.export.rows import Part, Spool
    from batchgen.export.shards import Shard

__all__ = ["WHY", "Kind", "Link", "Summary", "Wanted", "export"]

SHARD_BYTES = 500_000_000
_SPARE = 32_000_000
"""Bytes to leave free."""


class Kind(StrEnum):
    """What an export can be."""

    HF = "hf"
    WEBDATASET = "webdataset"
    IMAGEFOLDER = "imagefolder"
    CSV = "csv"
    JSONL = "jsonl"


class Summary(Value, frozen=True, kw_only=True):
    """What an export came to."""

    directory: str
    out: str
    format: str
    rows: int
    pictures: int
    bytes: int
    """Of all files; of an image folder without its pictures, which may be links."""
    files: int
    kept: int
    """Files that were there already, whole and up to date."""
    linked: int
    copied: int
    """Pictures of an image folder."""
    cost_usd: Decimal
    """Of the rows that went out."""
    simulated: bool
    """True when no money changed hands."""
    left_out: Mapping[str, int]
    """Rows that were not asked for, by why."""
    missing: int
    """Rows whose picture is lost or altered: they were left out."""
    first_missing: tuple[Missing, ...]
    set_aside: str | None
    """The card that somebody had edited; a new one is in its place."""
    opening: tuple[str, ...]
    """Lines of Python that open it."""
    exit_status: int
    """0, or 1 where something is missing."""


def export(
    place: Path | str,
    out: Path,
    kind: Kind,
    *,
    wanted: Wanted = Wanted(),  # noqa: B008  it is frozen
    shard_bytes: int = SHARD_BYTES,
    link: Link = Link.AUTO,
    absolute: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """
    Export a run, also while it is at work.

    :param place: its directory, or the URL of its place in a bucket.
    :param shard_bytes: about what a shard of `hf` or `webdataset` may have.
    :param link: how pictures get into an `imagefolder`.
    :param absolute: whether `csv` and `jsonl` name pictures by absolute paths.
    :param on_progress: called with how many of how many rows are done.
    :raises InputError: this is no run directory, there is no such status or column, or `out` holds something
        else.
    :raises LockedError: another export is at work there.
    :raises StorageError: the disk refuses, or has too little room.
    """
    with depot.seen(str(place)) as seen:
        recovery.check_not_lost(seen.directory / LEDGER)
        if not (seen.directory / LEDGER).is_file():
            raise InputError(
                f"{seen.name}: no run has begun here; name the run directory that `batchgen run` made"
            )
        if any(out.resolve().is_relative_to((seen.local / name).resolve()) for name in COUNTED):
            raise InputError(
                f"{out}: this folder of the run has pictures of rows and nothing else; choose another with -o"
            )
        way = _way(kind, seen.name, out, shard_bytes=shard_bytes, link=link, absolute=absolute)
        return _exported(seen, out, way, wanted, on_progress)


def _exported(
    seen: Seen, out: Path, way: Format, wanted: Wanted, on_progress: Callable[[int, int], None] | None
) -> Summary:
    directory = seen.directory
    seed = msgspec.json.encode([__version__, way.traits.name, way.traits.settings])
    manifest = Manifest(directory / MANIFEST)
    with closing(Reader(directory / LEDGER)) as reader:
        pieces = (piece for _, _, piece in results.lines(manifest, reader))
        first = next(pieces)  # no manifest is without a row
        columns = Columns(first.schema, way.traits.reserved)
        chosen = Filter(wanted, columns.schema, pictures=way.traits.pictures)
        last = reader.last_run()
        with (
            Target(out, way.traits.name, folder=way.traits.folder) as target,
            gather(
                chain([first], pieces), columns, chosen, path=target.spool, limit=way.traits.limit, seed=seed
            ) as spool,
        ):
            spool.told.simulated = last is not None and last.simulated
            return _Export(seen, way, target, spool, on_progress).done(wanted)


def _way(kind: Kind, place: str, out: Path, *, shard_bytes: int, link: Link, absolute: bool) -> Format:
    match kind:
        case Kind.HF:
            return HuggingFace(limit=shard_bytes)
        case Kind.WEBDATASET:
            return WebDataset(limit=shard_bytes)
        case Kind.IMAGEFOLDER:
            return ImageFolder(place, out, link=link)
        case Kind.CSV:
            return Csv(place, out, absolute=absolute)
        case Kind.JSONL:
            return Jsonl(place, out, absolute=absolute)


def _whole(content: bytes) -> Callable[[BinaryIO], tuple[int, str]]:
    def write(sink: BinaryIO) -> tuple[int, str]:
        sink.write(content)
        return 0, ""

    return write


class _Export:
    """One export on its way."""

    def __init__(
        self,
        seen: Seen,
        way: Format,
        target: Target,
        spool: Spool,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self._seen = seen
        self._way = way
        self._target = target
        self._spool = spool
        self._pictures = Pictures(seen.pictures)
        self._on_progress = on_progress
        self._rows = 0

    def done(self, wanted: Wanted) -> Summary:
        """Write what is missing; what it came to."""
        way, target, parts = self._way, self._target, self._spool.parts
        self._check_any()
        names = [way.file(index, len(parts)) for index in range(len(parts))]
        prints = {name: part.fingerprint for name, part in zip(names, parts, strict=True)}
        kept = target.whole(prints) if way.traits.folder is None else frozenset[str]()
        if target.is_done(prints, kept):
            shards = [target.noted(name) for name in names]
            return self._summary(shards, kept, None)
        self._check_room([part for name, part in zip(names, parts, strict=True) if name not in kept], kept)
        set_aside = target.begin([*names, *way.traits.others], kept)
        shards = []
        for name, part in zip(names, parts, strict=True):
            shards.append(target.noted(name) if name in kept else self._shard(name, part))
            self._told(part)
        self._spool.told.less(self._pictures.lost)
        beside = way.beside(self._spool.told, self._spool.schema, shards, self._title)
        others = [
            target.write(name, _whole(content))
            for name, content in zip(way.traits.others, beside, strict=True)
        ]
        target.finish(self._record(wanted, shards, others))
        return self._summary(shards, kept, set_aside)

    @property
    def _title(self) -> str:
        return self._seen.local.resolve().name

    def _shard(self, name: str, part: Part) -> Shard:
        before = self._pictures.missing

        def write(sink: BinaryIO) -> tuple[int, str]:
            rows = self._way.write(self._counted(part), self._spool.schema, self._pictures, sink)
            whole = self._way.traits.folder is None and self._pictures.missing == before
            return rows, part.fingerprint if whole else ""

        return self._target.write(name, write)

    def _counted(self, part: Part) -> Iterator[pa.RecordBatch]:
        """The rows of a shard, and how far they are."""
        done = self._rows
        for batch in self._spool.rows(part):
            yield batch
            done += batch.num_rows
            if self._on_progress is not None:
                self._on_progress(done, self._spool.told.rows)

    def _told(self, part: Part) -> None:
        self._rows += part.rows
        if self._on_progress is not None:
            self._on_progress(self._rows, self._spool.told.rows)

    def _check_any(self) -> None:
        """Refuse an export of nothing: no reader opens one, and what is there already would go for it."""
        told = self._spool.told
        if self._way.traits.pictures and not told.rows:
            why = ", ".join(f"{count:,} {WHY[reason]}" for reason, count in told.left_out.items())
            raise InputError(
                f"{self._seen.name}: no row to export ({why}); ask for others with --status or --where"
            )

    def _check_room(self, parts: list[Part], kept: frozenset[str]) -> None:
        """
        Look whether what is to be written fits, before anything is removed.

        :raises StorageError: it does not.
        """
        out = self._target.out
        needed = sum(part.bytes for part in parts) if self._way.traits.pictures else 0
        if isinstance(self._way, ImageFolder) and not self._way.copies():
            needed = 0
        found = disk.free(out).bytes
        if found is not None and found + self._target.freed(kept) < needed + _SPARE:
            raise StorageError(
                f"{out}: about {disk.size(needed + _SPARE)} are needed and {disk.size(found)} are free;"
                " make room, or choose another folder with -o"
            )

    def _record(self, wanted: Wanted, shards: Sequence[Shard], others: Sequence[Shard]) -> bytes:
        told = self._spool.told
        prints = "".join(part.fingerprint for part in self._spool.parts)
        about: dict[str, Any] = {
            "format": self._way.traits.name,
            "batchgen": __version__,
            "source": {"name": self._title, "fingerprint": sha256(prints.encode()).hexdigest()},
            "status": wanted.statuses or ["succeeded"],
            "where": [f"{name}={value}" for name, value in wanted.where],
            "only": None if wanted.only is None else len(wanted.only),
            "rows": sum(shard.rows for shard in shards),
            "missing": self._pictures.missing,
            "cost_usd": f"{told.cost_usd:f}",
            "files": [*shards, *others],
        }
        return msgspec.json.format(msgspec.json.encode(about), indent=2) + b"\n"

    def _summary(self, shards: Sequence[Shard], kept: frozenset[str], set_aside: str | None) -> Summary:
        told, way, missing = self._spool.told, self._way, self._pictures.missing
        return Summary(
            directory=self._seen.name,
            out=str(self._target.out),
            format=way.traits.name,
            rows=sum(shard.rows for shard in shards),
            pictures=told.pictures if way.traits.pictures else 0,
            bytes=sum(shard.bytes for shard in shards),
            files=len(shards),
            kept=len(kept),
            linked=way.linked if isinstance(way, ImageFolder) else 0,
            copied=way.copied if isinstance(way, ImageFolder) else 0,
            cost_usd=told.cost_usd,
            simulated=told.simulated,
            left_out=told.left_out,
            missing=missing,
            first_missing=tuple(self._pictures.first),
            set_aside=set_aside,
            opening=way.opening(self._target.out, len(shards)),
            exit_status=1 if missing else 0,
        )
