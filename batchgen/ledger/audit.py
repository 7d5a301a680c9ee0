"""
Does the ledger agree with itself, and with the files that were found?

What is found is kept in temporary tables beside the ledger, on disk where it is much: a million damaged
pictures take no more memory than one. The ledger itself is only read here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from batchgen.ledger import sums
from batchgen.ledger.reader import Reader, pictures, told
from batchgen.ledger.writer import fold
from batchgen.records import Image, Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

_PAGE = 256
_LOG_HEADER, _FRAME_HEADER = 32, 24
EXAMPLES = 20
_SCRATCH = """
CREATE TEMP TABLE lost (
  file TEXT PRIMARY KEY, key TEXT, id TEXT, sha256 TEXT, kind TEXT, detail TEXT, draft INT,
  cost INT, source BLOB
);
CREATE INDEX temp.lost_sha256 ON lost (sha256);
CREATE INDEX temp.lost_source ON lost (source);
CREATE TEMP TABLE strays (
  file BLOB PRIMARY KEY, id TEXT, sha256 TEXT, kind TEXT, detail TEXT, recorded INT, parked BLOB
);
CREATE INDEX temp.strays_sha256 ON strays (sha256)
"""
# Each content is given back once: the n-th file that has it goes to the n-th task that lacks it.
_MATCH = """
UPDATE lost SET source = pairs.source FROM (
  SELECT wanted.file, found.file AS source FROM
    (SELECT file, sha256, row_number() OVER (PARTITION BY sha256 ORDER BY file) AS nth FROM lost) AS wanted
  JOIN
    (SELECT file, sha256, row_number() OVER (PARTITION BY sha256 ORDER BY file) AS nth FROM strays
     WHERE sha256 IS NOT NULL) AS found
  USING (sha256, nth)
) AS pairs WHERE lost.file = pairs.file
"""
_WRONG_SUMS = """
SELECT id, stem FROM tasks LEFT JOIN (
  SELECT key AS of, sum(prompt_tokens) AS prompt, sum(text_tokens) AS text_out, sum(image_tokens) AS image,
    sum(total_tokens) AS total, sum(cost) AS cost_of, sum(billed) AS billed_of,
    sum(CASE WHEN error_class IS NOT NULL THEN cost END) AS wasted_of
  FROM attempts GROUP BY key
) ON of = key
WHERE (prompt_tokens, text_tokens, image_tokens, total_tokens)
    IS NOT (ifnull(prompt, 0), ifnull(text_out, 0), ifnull(image, 0), ifnull(total, 0))
  OR cost IS NOT cost_of OR billed IS NOT billed_of OR ifnull(wasted, 0) IS NOT ifnull(wasted_of, 0)
"""
_WITHOUT_ANSWER = """
SELECT id, stem FROM tasks WHERE status = 'succeeded' AND (images IS NULL OR NOT EXISTS (
  SELECT 1 FROM attempts WHERE attempts.key = tasks.key AND settled_at IS NOT NULL
  AND attempts.error_class IS NULL))
"""
_UNSETTLED = """
SELECT id, stem FROM tasks WHERE key IN
  (SELECT key FROM attempts WHERE settled_at IS NULL AND submitted_at IS NOT NULL)
"""


class Record(Value, frozen=True, kw_only=True):
    """A task and the files it claims."""

    key: str
    id: str
    stem: str
    status: str
    cost: int
    """Nano-USD, of all its attempts; 0 where it is not known."""
    images: tuple[Image, ...]


class Lost(Value, frozen=True, kw_only=True):
    """A file that is not what the ledger has recorded of it."""

    file: str
    key: str
    id: str
    sha256: str
    """As recorded."""
    kind: str
    detail: str = ""
    draft: bool = False
    cost: int = 0
    """Nano-USD its task has cost."""
    source: bytes | None = None
    """The stray that has its content (`os.fsencode`), after `match`."""


class Stray(Value, frozen=True, kw_only=True):
    """A file that is not where, or not what, the ledger says."""

    file: bytes
    """`os.fsencode` of its name: it may be no text."""
    id: str = ""
    """The row whose name it bears."""
    sha256: str | None = None
    """None where nobody asks for its content."""
    kind: str = ""
    """Empty where it is told of as a `Lost` already, or is nobody's business."""
    detail: str = ""
    recorded: bool = False
    """Whether it stands where a recorded picture ought to."""


_LOST, _STRAY = Lost.__struct_fields__, Stray.__struct_fields__


class Tasks(Value, frozen=True, kw_only=True):
    """Tasks that something is wrong with."""

    count: int
    first: tuple[tuple[str, str], ...]
    """Id and file name (without extension) of at most `EXAMPLES`."""


def _frames(path: Path) -> int:
    """Frames of the write-ahead log's current round, whole or not (https://sqlite.org/fileformat2.html#walformat)."""
    try:
        log = path.with_name(f"{path.name}-wal").open("rb")
    except FileNotFoundError:
        return 0
    with log:
        header = log.read(_LOG_HEADER)
        if len(header) < _LOG_HEADER:
            return 0
        page, salts, count = int.from_bytes(header[8:12], "big"), header[16:24], 0
        while log.read(_FRAME_HEADER)[8:16] == salts:
            count += 1
            log.seek(page, os.SEEK_CUR)
        return count


class Audit(Reader):
    """A reader that goes through everything, with a place for what is found on the way."""

    def __init__(self, path: Path) -> None:
        """:raises InputError: there is no ledger, or it is not one."""
        frames = _frames(path)
        super().__init__(path)
        ((_, kept, _),) = self._rows("PRAGMA wal_checkpoint", ())
        self.torn = max(0, frames - max(0, kept))
        """Pages at the end of the log that a dead run, or whatever damaged it, left without a commit."""
        self._connection.execute("PRAGMA query_only = OFF")
        for statement in _SCRATCH.split(";"):
            self._connection.execute(statement)

    def bought(self) -> Iterator[list[Record]]:
        """The succeeded tasks with their pictures, some at a time; in no snapshot, as others may write."""
        after = ""
        # The plus keeps SQLite from sorting all succeeded tasks anew for every page.
        while page := self._records("key > ? AND +status = 'succeeded' ORDER BY key LIMIT ?", (after, _PAGE)):
            yield page
            after = page[-1].key

    def record(self, key: str) -> Record | None:
        """One task as it stands now."""
        return next(iter(self._records("key = ?", (key,))), None)

    def owners(self, stems: Iterable[str]) -> dict[str, Record]:
        """The tasks to which these file names (without extension) belong, by the name as given."""
        folded = {stem: fold(stem) for stem in stems}
        where = f"folded IN ({', '.join('?' * len(folded))})"
        found = {fold(record.stem): record for record in self._records(where, tuple(folded.values()))}
        return {stem: found[name] for stem, name in folded.items() if name in found}

    def holder(self, sha256: str) -> str | None:
        """The row that has a picture of this content recorded; goes through all of them."""
        rows = self._rows("SELECT id FROM tasks WHERE instr(images, ?) LIMIT 1", (f'"{sha256}"',))
        return next((str(row[0]) for row in rows), None)

    def wrong_sums(self) -> Tasks:
        """Tasks whose sums are not those of their attempts."""
        return self._tasks(_WRONG_SUMS)

    def wrong_totals(self) -> int:
        """How many sums over many rows are not those of the rows."""
        return sum(self._rows(query, ())[0][0] for query in sums.WRONG)

    def without_answer(self) -> Tasks:
        """Succeeded tasks without a picture or without a good attempt."""
        return self._tasks(_WITHOUT_ANSWER)

    def unsettled(self) -> Tasks:
        """Tasks with a request that is in flight, or was when its run died."""
        return self._tasks(_UNSETTLED)

    @told
    def note(self, lost: Iterable[Lost], strays: Iterable[Stray]) -> None:
        """Keep what was found."""
        self._connection.executemany(
            "INSERT OR REPLACE INTO lost (file, key, id, sha256, kind, detail, draft, cost)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (one.file, one.key, one.id, one.sha256, one.kind, one.detail, one.draft, one.cost)
                for one in lost
            ),
        )
        self._connection.executemany(
            "INSERT OR REPLACE INTO strays (file, id, sha256, kind, detail, recorded)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            ((one.file, one.id, one.sha256, one.kind, one.detail, one.recorded) for one in strays),
        )

    @told
    def match(self) -> None:
        """Find for each lost picture a stray that has its content."""
        self._connection.execute(_MATCH)

    def any_lost(self) -> bool:
        """Whether a stray's content could be of use."""
        return bool(self._rows("SELECT 1 FROM lost LIMIT 1", ()))

    def lost(self, *, found: bool) -> Iterator[Lost]:
        """What is lost, in the order of the files: where a stray has the content, or where none has."""
        query = f"SELECT {', '.join(_LOST)} FROM lost WHERE source IS {'NOT NULL' if found else 'NULL'}"  # noqa: S608
        for row in self._pages(query, after=""):
            values = dict(zip(_LOST, row, strict=True))
            yield Lost(**{**values, "draft": bool(values["draft"])})

    def strays(self, *, recorded: bool) -> Iterator[Stray]:
        """
        Strays in the order of the files.

        :param recorded: those that stand where recorded pictures ought to; else the others, without those
            whose content is asked for.
        """
        where = (
            "recorded" if recorded else "NOT recorded AND file NOT IN (SELECT ifnull(source, '') FROM lost)"
        )
        query = f"SELECT {', '.join(_STRAY)} FROM strays WHERE {where}"  # noqa: S608
        for row in self._pages(query, after=b""):
            values = dict(zip(_STRAY, row, strict=True))
            yield Stray(**{**values, "recorded": bool(values["recorded"])})

    @told
    def park(self, file: bytes, at: bytes) -> None:
        """Note where a stray was put for the time being."""
        self._connection.execute("UPDATE strays SET parked = ? WHERE file = ?", (at, file))

    def whereabouts(self, file: bytes) -> bytes:
        """Where a stray is by now."""
        ((now,),) = self._rows("SELECT ifnull(parked, file) FROM strays WHERE file = ?", (file,))
        return bytes(now)

    def _records(self, where: str, values: Sequence[object]) -> list[Record]:
        rows = self._rows(f"SELECT key, id, stem, status, cost, images FROM tasks WHERE {where}", values)  # noqa: S608
        return [
            Record(key=key, id=row_id, stem=stem, status=status, cost=cost or 0, images=pictures(images))
            for key, row_id, stem, status, cost, images in rows
        ]

    def _tasks(self, query: str) -> Tasks:
        rows = self._rows(f"SELECT id, stem, count(*) OVER () FROM ({query}) LIMIT {EXAMPLES}", ())  # noqa: S608
        return Tasks(count=rows[0][2] if rows else 0, first=tuple((row_id, stem) for row_id, stem, _ in rows))

    def _pages(self, query: str, *, after: str | bytes) -> Iterator[tuple[Any, ...]]:
        """Rows whose first column is `file`; none is kept open while the caller changes them."""
        while page := self._rows(f"{query} AND file > ? ORDER BY file LIMIT {_PAGE}", (after,)):
            yield from page
            after = page[-1][0]

    @told
    def _rows(self, query: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        return self._connection.execute(query, values).fetchall()
