"""What does the ledger say?"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping  # noqa: TC003  msgspec reads the annotations at run time
from contextlib import closing
from decimal import Decimal  # noqa: TC003
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import msgspec

from batchgen.errors import InputError
from batchgen.ledger.schema import QUALITIES, connect, damaged, unreadable, usd
from batchgen.ledger.sums import UNKNOWN
from batchgen.records import Expect, Image, Limit, Look, Status, Usage, UsageQuality, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

_IMAGE = msgspec.json.Decoder(Image)
_IMAGES = msgspec.json.Decoder(tuple[Image, ...])
_QUALITIES = (*QUALITIES, UsageQuality.NONE)
"""By the place that is stored; -1 is the last."""
_UNSEEN = (
    "FROM tasks WHERE images <> '[]'"
    " AND NOT EXISTS (SELECT 1 FROM looks WHERE sha256 = images ->> '$[#-1].sha256')"
)
_UNSENT = "(status = 'failed' AND ifnull(error_class, '') IN ('parent_failed', 'reference'))"
"""Of a task that ended because nothing could be sent."""

_STATUSES: Mapping[str, Status] = {status.value: status for status in Status}
_EXPECTS: Mapping[str, Expect] = {expect.value: expect for expect in Expect}
"""Called by value an enum takes ten times as long."""

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R", bound="Reader")


def told(method: Callable[Concatenate[R, P], T]) -> Callable[Concatenate[R, P], T]:
    """Say what SQLite says in words for the person at the terminal."""

    @wraps(method)
    def asked(reader: R, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(reader, *args, **kwargs)
        except sqlite3.Error as cause:
            raise unreadable(reader.path, cause) from cause

    return asked


class State(Value, frozen=True, kw_only=True):
    """What the ledger knows of a task before it is taken up."""

    status: Status
    uncertain: int = 0
    """Attempts so far that may have been billed without an answer."""
    unsent: bool = False
    """Whether it ended because nothing could be sent."""
    parent_sha: str | None = None
    """Of the picture it continues, as it was when it was last asked for."""


class Standing(Value, frozen=True, kw_only=True):
    """What the ledger knows of a task that others continue."""

    id: str = ""
    status: Status = Status.PENDING
    picture: str | None = None
    """The sha256 of its picture, if it has succeeded with one."""


class Said(Value, frozen=True, kw_only=True):
    """What a task was answered."""

    text: str
    images: tuple[Image, ...]


class Unanswered(Value, frozen=True, kw_only=True):
    """An unfinished task whose last answer a crash may have swallowed after its picture was on disk."""

    key: str
    id: str
    stem: str
    attempt: int
    """The last of its requests that may have been answered."""
    images: tuple[Image, ...]
    """What the task had before."""
    bought_before: bool
    """Whether an earlier request brought a picture, recorded in `images` or not."""


class Result(Value, frozen=True, kw_only=True):
    """A task as the table shows it: sums over all its attempts, the rest from its last one."""

    status: str
    model: str
    provider: str
    attempts: int
    prompt_tokens: int
    text_tokens: int
    image_tokens: int
    total_tokens: int
    quality: str
    """A `UsageQuality`, the worst of all attempts."""
    cost: int | None
    """Nano-USD, as are `wasted` and `billed`; None where the model has no price."""
    wasted: int | None
    billed: int | None
    credits: int | None
    """Millionths of the provider's credit."""
    images: tuple[Image, ...]
    text: str | None
    reasoning: str | None
    tool_calls: str | None
    finish_reason: str | None
    error_class: str | None
    error_message: str | None
    request_id: str | None
    started_at: int | None
    finished_at: int | None
    latency: float | None


class Journey(Value, frozen=True, kw_only=True):
    """What a task has taken on its way so far, by the latest requests of a ledger."""

    status: Status
    model: str
    expect: Expect
    pixels: tuple[int, int] | None
    """Width and height of its picture."""
    answers: int
    """Requests that brought what was expected."""
    paid: Decimal
    """USD for those, as a budget counts them; 0 without a price."""
    wasted: Decimal
    """USD for the others, as far as it is known."""
    unknown: int
    """Requests that may have been billed without saying how much."""
    requests: int
    prompt_tokens: int
    """Of the answers."""
    total_tokens: int
    busy_s: float
    """The latencies of all its requests."""


class Attempted(Value, frozen=True, kw_only=True):
    """How one request went."""

    model: str
    expect: Expect
    error_class: str | None
    """None where it brought what it was to bring."""
    http_status: int | None
    started_at: int
    latency: float
    """Seconds until its end, whatever that was."""
    text_tokens: int
    image_tokens: int


class Totals(Value, frozen=True, kw_only=True):
    """Everything a run directory ever asked for and paid, rows deleted since included."""

    tasks: Mapping[str, int]
    """Known tasks by status."""
    in_words: int
    """Succeeded ones that have no picture: they were done in words."""
    requests: int
    """Requests whose body left or may have left."""
    usage: Usage
    cost_usd: Decimal
    wasted_usd: Decimal
    uncertain: int
    """Requests that may have been billed, without an answer that says so."""
    uncertain_usd: Decimal
    """What those may have cost, by the dearest pictures before them."""
    counted_usd: Decimal
    """What a budget counts: costs, or what the endpoint named where that is more, and `uncertain_usd`."""
    unpriced: int
    """Requests with tokens and without a price."""


class Run(Value, frozen=True, kw_only=True):
    """One stretch of work on a run directory."""

    id: int
    started_at: int
    ended_at: int | None
    ended: str | None
    pid: int
    host: str
    provider: str
    simulated: bool
    tasks: int
    """Of the manifest."""
    command: str | None
    """What goes on with it, where it was begun on a command line."""


class Failed(Value, frozen=True, kw_only=True):
    """Unsuccessful tasks of one error class."""

    kind: str
    count: int
    id: str
    """One of them, as an example."""
    message: str
    """What was said of that one."""


class Reader:
    """
    The reading side, for any process at any time; sees what is committed.

    What cannot be read is `DamagedError` where the file is damaged, else `StorageError`.
    """

    def __init__(self, path: Path) -> None:
        """:raises InputError: there is no ledger, or it is not one."""
        self.path = path
        if not path.is_file():
            msg = f"{path.parent}: no ledger here; is this a run directory? `batchgen run … -o DIR` makes one"
            raise InputError(msg)
        self._connection = connect(path)
        self._connection.execute("PRAGMA query_only = ON")

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    @told
    def check(self) -> None:
        """
        Look at every page of the file; about a second for a million tasks.

        :raises DamagedError: it does not hold together.
        """
        (said,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if said != "ok":
            raise damaged(self.path, " ".join(said.split()))

    @told
    def copy(self, path: Path) -> None:
        """Write the whole ledger, as it stands at one moment, into another file."""
        with closing(sqlite3.connect(path)) as target:
            self._connection.backup(target)

    @told
    def states(self, keys: Sequence[str]) -> dict[str, State]:
        """What is known of these tasks; those the ledger has never seen are left out."""
        rows = self._connection.execute(
            f"SELECT key, status, uncertain, {_UNSENT}, parent_sha"  # noqa: S608
            " FROM tasks WHERE key IN (SELECT value FROM json_each(?))",
            (_list(keys),),
        )
        shared: dict[tuple[object, ...], State] = {}
        found = {}
        for key, status, uncertain, unsent, parent_sha in rows:
            state = shared.get((status, uncertain, unsent, parent_sha))
            if state is None:
                state = shared[status, uncertain, unsent, parent_sha] = State(
                    status=Status(status), uncertain=uncertain, unsent=bool(unsent), parent_sha=parent_sha
                )
            found[key] = state
        return found

    @told
    def final(self) -> dict[tuple[str, str | None], int]:
        """Status and error class of the tasks that no plain run takes up again, and how many there are."""
        rows = self._connection.execute(
            "SELECT status, nullif(class, '') AS error_class, sum(tasks) FROM task_sums"  # noqa: S608
            f" WHERE status <> 'pending' AND NOT {_UNSENT} AND NOT in_words"
            " GROUP BY 1, 2 HAVING sum(tasks) > 0"
        )
        return {(status, kind): count for status, kind, count in rows}

    @told
    def final_keys(
        self, kinds: Iterable[tuple[str, str | None]], low: str, high: str
    ) -> list[tuple[str, str]]:
        """The status of each kind, and its keys from `low` up to below `high` with blanks between them."""
        found = []
        for status, kind in kinds:
            # Each kind lies in the index in the order of its keys: fifty bytes a task.
            (keys,) = self._connection.execute(
                "SELECT group_concat(key, ' ') FROM tasks INDEXED BY tasks_status"
                " WHERE status = ? AND error_class IS ? AND key >= ? AND key < ?",
                (status, kind, low, high),
            ).fetchone()
            found.append((status, keys or ""))
        return found

    @told
    def standings(self, keys: Sequence[str]) -> dict[str, Standing]:
        """What is known of tasks that others continue; those the ledger has never seen are left out."""
        rows = self._connection.execute(
            "SELECT key, id, status, CASE status WHEN 'succeeded' THEN images ->> '$[#-1].sha256' END"
            " FROM tasks WHERE key IN (SELECT value FROM json_each(?))",
            (_list(keys),),
        )
        return {
            key: Standing(id=row_id, status=Status(status), picture=picture)
            for key, row_id, status, picture in rows
        }

    @told
    def said(self, keys: Sequence[str]) -> dict[str, Said]:
        """What these tasks were answered; those the ledger has never seen are left out."""
        rows = self._connection.execute(
            "SELECT key, ifnull(text, ''), images FROM tasks WHERE key IN (SELECT value FROM json_each(?))",
            (_list(keys),),
        )
        return {key: Said(text=text, images=pictures(images)) for key, text, images in rows}

    @told
    def results(self, keys: Sequence[str]) -> list[Result | None]:
        """The results of these tasks in the given order; None for those the ledger has never seen."""
        rows = self._connection.execute(
            f"SELECT key, {', '.join(Result.__struct_fields__)} FROM tasks"  # noqa: S608
            " WHERE key IN (SELECT value FROM json_each(?))",
            (_list(keys),),
        )
        found = {row[0]: _result(row[1:]) for row in rows}
        return [found.get(key) for key in keys]

    @told
    def has_looks(self) -> bool:
        """Whether any picture was ever looked at."""
        return bool(self._connection.execute("SELECT EXISTS (SELECT 1 FROM looks)").fetchone()[0])

    @told
    def looks(self, contents: Sequence[str]) -> dict[str, Look]:
        """How pictures of these contents (sha256) look; those that were not looked at are left out."""
        rows = self._connection.execute(
            "SELECT sha256, phash, blank FROM looks WHERE sha256 IN (SELECT value FROM json_each(?))",
            (_list(contents),),
        )
        return {
            content: Look(phash=phash & 0xFFFF_FFFF_FFFF_FFFF, blank=bool(blank))
            for content, phash, blank in rows
        }

    @told
    def unseen(self, *, after: str, most: int) -> list[tuple[str, Image]]:
        """
        Tasks whose picture was not looked at, with that picture, in the order of the keys; drafts are none.

        :param after: the key behind which to begin.
        """
        rows = self._connection.execute(
            f"SELECT key, images -> '$[#-1]' {_UNSEEN} AND key > ? ORDER BY key LIMIT ?",
            (after, most),
        )
        return [(key, _IMAGE.decode(image)) for key, image in rows]

    @told
    def count_unseen(self) -> int:
        """How many tasks have a picture that was not looked at."""
        return int(self._connection.execute(f"SELECT count(*) {_UNSEEN}").fetchone()[0])

    @told
    def unfinished(self) -> list[str]:
        """The file names, without extension, that a run which died may have been writing."""
        rows = self._connection.execute(
            "SELECT stem FROM tasks WHERE key IN (SELECT key FROM attempts WHERE settled_at IS NULL)"
        )
        return [stem for (stem,) in rows]

    @told
    def unanswered(self, key: str | None = None) -> list[Unanswered]:
        """
        Unfinished tasks with a request that was submitted and whose answer is not known.

        Not those that asked for words: a picture that is left of their answer does not complete them.

        :param key: of the one task that is meant; None is all.
        """
        one = "" if key is None else " AND tasks.key = :key"
        rows = self._connection.execute(
            "SELECT tasks.key, tasks.id, stem, max(attempts.id), images, EXISTS (SELECT 1 FROM attempts AS"  # noqa: S608
            " good WHERE good.key = tasks.key AND good.settled_at IS NOT NULL AND good.error_class IS NULL)"
            " FROM tasks JOIN attempts USING (key) WHERE status IN ('pending', 'uncertain')"
            " AND expect = 'image' AND submitted_at IS NOT NULL"
            f" AND (settled_at IS NULL OR attempts.error_class = 'uncertain'){one}"
            " GROUP BY tasks.key",
            {"key": key},
        )
        return [
            Unanswered(
                key=key,
                id=row_id,
                stem=stem,
                attempt=attempt,
                images=pictures(images),
                bought_before=bool(good),
            )
            for key, row_id, stem, attempt, images, good in rows
        ]

    @told
    def costs(self, model: str, expect: Expect, *, most: int) -> list[Decimal]:
        """USD that a model's answers of a kind count for, among so many latest attempts, the oldest first."""
        rows = self._connection.execute(
            "SELECT latest.cost FROM"
            " (SELECT id, key, error_class, max(cost, ifnull(billed, 0)) AS cost"
            " FROM attempts ORDER BY id DESC LIMIT ?)"
            " AS latest JOIN tasks USING (key)"
            " WHERE model = ? AND expect = ? AND latest.error_class IS NULL AND latest.cost IS NOT NULL"
            " ORDER BY latest.id",
            (most, model, expect),
        )
        return [usd(cost) for (cost,) in rows]

    @told
    def journeys(self, *, most: int) -> dict[str, Journey]:
        """What tasks took on their way, by so many of the latest requests; by key."""
        rows = self._connection.execute(
            f"""
            SELECT latest.key, status, model, expect, images ->> '$[#-1].width', images ->> '$[#-1].height',
              sum(good), sum(CASE WHEN good THEN charged ELSE 0 END),
              sum(CASE WHEN good OR unknown THEN 0 ELSE charged END), sum(unknown), count(*),
              sum(CASE WHEN good THEN latest.prompt_tokens ELSE 0 END), sum(latest.total_tokens),
              sum(ifnull(latest.latency, 0))
            FROM (SELECT *, settled_at IS NOT NULL AND {UNKNOWN.format("")} AS unknown,
                error_class IS NULL AND settled_at IS NOT NULL AND NOT {UNKNOWN.format("")} AS good,
                max(ifnull(cost, 0), ifnull(billed, 0)) AS charged
              FROM attempts ORDER BY id DESC LIMIT ?) AS latest JOIN tasks USING (key)
            WHERE submitted_at IS NOT NULL GROUP BY latest.key
            """,  # noqa: S608
            (most,),
        )
        return {
            key: Journey(
                status=_STATUSES[status],
                model=model,
                expect=_EXPECTS[expect],
                pixels=None if width is None else (width, height),
                answers=answers,
                paid=usd(paid),
                wasted=usd(wasted),
                unknown=unknown,
                requests=requests,
                prompt_tokens=prompt,
                total_tokens=total,
                busy_s=busy,
            )
            for key, status, model, expect, width, height, answers, paid, wasted, unknown, requests, prompt,
            total, busy in rows
        }  # fmt: skip

    @told
    def named(self, after: str, *, most: int) -> list[tuple[str, str]]:
        """Key and row id of so many known tasks, in the order of their keys from behind one on."""
        return self._connection.execute(
            "SELECT key, id FROM tasks WHERE key > ? ORDER BY key LIMIT ?", (after, most)
        ).fetchall()

    @told
    def attempted(self, provider: str, *, most: int) -> list[Attempted]:
        """So many latest requests to a provider of which the end is known, the oldest first."""
        rows = self._connection.execute(
            "SELECT model, expect, latest.error_class, latest.http_status, latest.started_at, latest.latency,"
            " latest.text_tokens, latest.image_tokens FROM"
            " (SELECT * FROM attempts WHERE latency IS NOT NULL"
            " AND (submitted_at IS NOT NULL OR error_class = 'unreachable') ORDER BY id DESC LIMIT ?)"
            " AS latest JOIN tasks USING (key) WHERE provider = ? ORDER BY latest.id",
            (most, provider),
        )
        names = Attempted.__struct_fields__
        return [Attempted(**{**dict(zip(names, row, strict=True)), "expect": Expect(row[1])}) for row in rows]

    @told
    def limit(self, endpoint: str, model: str) -> Limit:
        """How many requests a minute an endpoint took of a model, as the latest run there found out."""
        row = self._connection.execute(
            "SELECT felt, stated FROM limits WHERE endpoint = ? AND model = ?", (endpoint, model)
        ).fetchone()
        return Limit() if row is None else Limit(felt=row[0], stated=row[1])

    @told
    def picture_bytes(self, *, most: int) -> float | None:
        """Mean bytes of so many latest pictures, each with its drafts; None without any."""
        (mean,) = self._connection.execute(
            "SELECT avg((SELECT sum(value ->> 'bytes') FROM json_each(images))) FROM tasks WHERE key IN"
            " (SELECT key FROM attempts WHERE settled_at IS NOT NULL AND error_class IS NULL"
            " ORDER BY id DESC LIMIT ?) AND images IS NOT NULL",
            (most,),
        ).fetchone()
        return None if mean is None else float(mean)

    @told
    def totals(self) -> Totals:
        """Everything ever asked for in this run directory."""
        tasks = self._connection.execute(
            "SELECT status, sum(iif(in_words, 0, tasks)), sum(iif(in_words, tasks, 0)) FROM task_sums"
            " GROUP BY 1 HAVING sum(tasks) > 0"
        ).fetchall()
        prompt, text, image, total, requests, cost, wasted, unknown, exposed, charged, unpriced = (
            self._connection.execute(
                "SELECT ifnull(sum(prompt_tokens), 0), ifnull(sum(text_tokens), 0),"
                " ifnull(sum(image_tokens), 0), ifnull(sum(total_tokens), 0), ifnull(sum(submitted), 0)"
                " + (SELECT count(submitted_at) FROM attempts WHERE settled_at IS NULL), sum(cost),"
                " sum(iif(class <> '', cost, 0)), ifnull(sum(unknown), 0), sum(exposed), sum(charged),"
                " ifnull(sum(unpriced), 0) FROM attempt_sums"
            ).fetchone()
        )
        return Totals(
            tasks={status: count for status, count, _ in tasks},
            in_words=sum(words for _, _, words in tasks),
            requests=requests,
            usage=Usage(prompt_tokens=prompt, text_tokens=text, image_tokens=image, total_tokens=total),
            cost_usd=usd(cost),
            wasted_usd=usd(wasted),
            uncertain=unknown,
            uncertain_usd=usd(exposed),
            counted_usd=usd(charged),
            unpriced=unpriced,
        )

    @told
    def failures(self) -> list[Failed]:
        """Unsuccessful tasks by error class, the most frequent first."""
        found: dict[str, Failed] = {}
        for status, kind, count in self._connection.execute(
            "SELECT status, class, sum(tasks) FROM task_sums WHERE status NOT IN ('succeeded', 'pending')"
            " GROUP BY 1, 2 HAVING sum(tasks) > 0"
        ).fetchall():
            known = found.get(kind)
            if known is not None:
                found[kind] = msgspec.structs.replace(known, count=known.count + count)
                continue
            row, message = self._connection.execute(
                "SELECT id, ifnull(error_message, '') FROM tasks WHERE status = ? AND error_class IS ?"
                " ORDER BY key LIMIT 1",
                (status, kind or None),
            ).fetchone() or ("", "")
            found[kind] = Failed(kind=kind, count=count, id=row, message=message)
        return sorted(found.values(), key=lambda failed: -failed.count)

    @told
    def last_run(self) -> Run | None:
        """The newest run, ended or not."""
        names = Run.__struct_fields__
        row = self._connection.execute(
            f"SELECT {', '.join(names)} FROM runs ORDER BY id DESC LIMIT 1"  # noqa: S608
        ).fetchone()
        return None if row is None else msgspec.convert(dict(zip(names, row, strict=True)), Run, strict=False)


def _list(keys: Sequence[str]) -> str:
    return msgspec.json.encode(keys).decode()


def pictures(images: object) -> tuple[Image, ...]:
    """What a cell of `tasks.images` holds."""
    return _IMAGES.decode(str(images)) if images else ()


def _result(row: Sequence[Any]) -> Result:
    values = dict(zip(Result.__struct_fields__, row, strict=True))
    values["quality"] = _QUALITIES[values["quality"]]
    values["images"] = pictures(values["images"])
    return Result(**values)
