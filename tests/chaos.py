"""One night drawn from a seed: faults, kills, signals, budgets and edits, and the audit of what they left."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar, TypeVarTuple, Unpack, cast

import anyio.lowlevel
import httpx
import trio
import trio.testing

from batchgen.clock import VirtualTimeLoop
from batchgen.job import LEDGER, MANIFEST
from batchgen.ledger import Reader
from batchgen.manifest import Manifest
from batchgen.records import ZERO, ErrorClass
from batchgen.retry import RULES, Action
from batchgen.simulator import Endpoint, Faults, Reply, Settings, requests
from batchgen.simulator.paint import prompt_key, prompt_mark
from batchgen.simulator.transport import SimulatorTransport
from tests.nights import Nights

if TYPE_CHECKING:
    from asyncio import Handle
    from collections.abc import Callable, Mapping, Sequence
    from contextvars import Context

    from batchgen import runner
    from batchgen.runner import Summary
    from batchgen.simulator.answers import Draw

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

trio._core._run._hypothesis_plugin_setup()  # trio runs tasks in an order of chance unless told otherwise

FLASH, PRO = "gemini-3.1-flash-image-preview", "gemini-3-pro-image-preview"
SHAPES = ("S1", "S1", "S2", "S3", "S5", "S6", "S7", "mixed")
APART = {"reset_before", "draft", "stream_error", "slow"}
FAULTS = tuple(name for name in Faults.__struct_fields__ if name not in APART)
TOKENS = ("prompt_tokens", "text_tokens", "image_tokens", "total_tokens")
UNTOUCHED = {"status": "pending", "attempts": 0, "cost": None, **dict.fromkeys(TOKENS, 0)}
"""A task the ledger has never heard of."""
ABANDONED = "the run ended before the answer was recorded"
"""How the ledger words what a run did not live to settle."""
CUT = "this one was not waited for"
"""How it words what lost to another request and was cut off at the end."""


class Killed(BaseException):
    """The process is dead: nothing it does any more leaves a trace."""


def _copied(source: str, target: str) -> None:
    """Copy a file as a crash leaves it; ballast is nothing but a length."""
    if source.endswith("-ballast"):
        Path(target).touch()
        os.truncate(target, Path(source).stat().st_size)
    else:
        shutil.copyfile(source, target)


def unheard(*_: object) -> None:
    """Take a signal that trio hands on because the run ended before it came to it."""


class Life:
    """
    One process, which may be killed or signalled at any step.

    A step is whatever the event loop is told to do next, a call that would block, and a request's arrival.
    A kill copies the run directory as it is at that step, which is what SIGKILL leaves on a disk; whatever
    the process does next raises `Killed`, and the copy takes the directory's place.
    """

    def __init__(
        self, directory: Path, *, kill: int | None = None, signals: Mapping[int, signal.Signals] | None = None
    ) -> None:
        self.steps = 0
        self.over = False
        self._directory = directory
        self._left = directory.with_name("left")
        self._kill = kill
        self._signals = signals or {}
        self.delivered = 0

    @property
    def eventful(self) -> bool:
        """Whether anything is to happen to it."""
        return self._kill is not None or bool(self._signals)

    def step(self) -> None:
        """Count; on the step where it is to happen, die or be signalled."""
        self.steps += 1
        if self.over:
            return
        if self.steps == self._kill:
            self.over = True
            shutil.copytree(self._directory, self._left, copy_function=_copied)
        number = self._signals.get(self.steps)
        # Where a run does not listen, a signal would end the tests.
        if number is not None and signal.getsignal(number) not in {signal.SIG_DFL, unheard}:
            self.delivered += 1
            os.kill(os.getpid(), number)

    def live(self, *_: object) -> None:
        """A step that a dead process does not make."""
        self.step()
        if self.over:
            raise Killed

    async def blocking(self, call: Callable[[], T], /) -> T:
        """Run a blocking call without a thread, giving way before and after it as a thread would."""
        await anyio.lowlevel.checkpoint()
        self.live()
        result = call()
        self.live()
        await anyio.lowlevel.cancel_shielded_checkpoint()
        return result

    def bury(self) -> None:
        """Leave what the kill left."""
        shutil.rmtree(self._directory)
        self._left.rename(self._directory)


class _Loop(VirtualTimeLoop):
    def __init__(self, life: Life) -> None:
        self._life = life
        super().__init__()

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> Handle:
        self._life.step()
        return super().call_soon(callback, *args, context=context)


class _Instrument(trio.abc.Instrument):
    def __init__(self, life: Life) -> None:
        self._life = life

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._life.step()


class Bill(NamedTuple):
    """What one request was billed."""

    prompt_tokens: int
    text_tokens: int
    image_tokens: int
    total_tokens: int
    usd: Decimal


@dataclass(frozen=True, slots=True)
class Seen:
    """One request, as the endpoint saw it."""

    content: tuple[str, str]
    """Prompt and model."""
    at: float
    reply: str | None
    """The id of its answer; None where there was none to bill."""
    bill: Bill


class Watched(Endpoint):
    """An endpoint that writes down what it saw and played, and hears nothing from the dead."""

    life: Life

    def __init__(self, settings: Settings, *, clock: Callable[[], float]) -> None:
        super().__init__(settings, clock=clock)
        self.log: list[Seen] = []
        self.arrived: dict[str, Life] = {}
        """The processes to which answers came whole, by the answer's id."""
        self.played: Counter[str] = Counter()

    def refuses(self) -> bool:
        self.life.live()
        refused = super().refuses()
        self.played["reset_before"] += refused
        return refused

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        self.life.live()
        if method != "POST":
            return super().answer(method, path, headers, body)
        asked = requests.read(body)
        before = self._sums()
        reply = super().answer(method, path, headers, body)
        bill = Bill(*(now - then for now, then in zip(self._sums(), before, strict=True)))
        self.log.append(
            Seen((asked.prompt, asked.model), self._clock(), reply.headers.get("x-request-id"), bill)
        )
        self.life.live()
        return reply

    def _draw(self, *args: Any) -> Draw:
        draw = super()._draw(*args)
        self.played[draw.fault or "none"] += 1
        return draw

    def _sums(self) -> tuple[Any, ...]:
        spent = self.account.models.values()
        return (*(sum(getattr(one, name) for one in spent) for name in TOKENS), self.account.usd)


class _Line(SimulatorTransport):
    """The way to a watched endpoint, which notes whose answer arrived to its last byte."""

    def __init__(self, endpoint: Watched, life: Life) -> None:
        super().__init__(endpoint, offload=life.blocking)
        self._arrived, self._life = endpoint.arrived, life

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        response.stream = _Arriving(response.stream, partial(self._note, response))
        return response

    def _note(self, response: httpx.Response) -> None:
        name = response.headers.get("x-request-id")
        if name is not None and not self._life.over:
            self._arrived[name] = self._life


class _Arriving(httpx.AsyncByteStream):
    def __init__(self, inner: object, arrived: Callable[[], None]) -> None:
        self._inner = aiter(cast("httpx.AsyncByteStream", inner))
        self._arrived = arrived

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._inner)
        except StopAsyncIteration:
            self._arrived()
            raise


@dataclass(frozen=True)
class Row:
    """A line of the manifest."""

    id: str
    prompt: str
    model: str
    variants: int


@dataclass
class Manuscript:
    """A manifest under somebody's hands."""

    rows: list[Row]
    added: int = 0

    def text(self) -> str:
        lines = [f"{row.id},{row.prompt},{row.model},{row.variants}\n" for row in self.rows]
        return "id,prompt,model,variants\n" + "".join(lines)

    def edit(self, rng: random.Random) -> str:
        """Change it as people do between two runs; what was done."""
        what = rng.choice(("shuffled", "added", "removed", "changed"))
        if what == "shuffled":
            rng.shuffle(self.rows)
        elif what == "added":
            self.add(rng)
        elif what == "removed" and len(self.rows) > 1:
            self.rows.pop(rng.randrange(len(self.rows)))
        else:
            at = rng.randrange(len(self.rows))
            self.rows[at] = replace(self.rows[at], prompt=f"{self.rows[at].prompt}!")
        return what

    def add(self, rng: random.Random) -> None:
        """One more row, now and then with a prompt that is there already."""
        self.added += 1
        twin = rng.random() < 0.2 and self.rows
        prompt = rng.choice(self.rows).prompt if twin else f"picture {self.added}"
        model = PRO if rng.random() < 0.15 else FLASH
        variants = 2 if rng.random() < 0.15 else 1
        self.rows.insert(rng.randint(0, len(self.rows)), Row(f"row-{self.added}", prompt, model, variants))

    @property
    def tasks(self) -> list[tuple[str, int, str, str]]:
        """Id, variant, prompt and model of what the table must hold, in its order."""
        return [
            (row.id, variant, row.prompt, row.model)
            for row in self.rows
            for variant in range(1, row.variants + 1)
        ]


class Night(Nights):
    """One seed's night, from an empty directory to the last row."""

    endpoint: Watched

    def __init__(self, folder: Path, seed: int, *, slow: float = 0.0) -> None:
        """
        Draw a night.

        :param slow: the share of answers that take long; where there is one, rows and hands are many, and
            late requests are asked for once more.
        """
        self.rng = rng = random.Random(seed)
        self.seed = seed
        self.happened: Counter[str] = Counter()
        self.life = Life(folder)
        self.rpm = rng.choice((None, 60.0) if slow else (None, None, 3.0, 12.0, 60.0))
        super().__init__(
            folder,
            _settings(seed, rng, self.rpm, slow),
            backend=("asyncio", "trio")[seed % 2],
            endpoint=Watched,
        )
        self.manuscript = Manuscript([])
        for _ in range(rng.randint(1, 4) + (6 if slow else 0)):
            self.manuscript.add(rng)
        most = 0.2 + 0.05 * len(self.manuscript.tasks)
        self.budget = round(rng.uniform(0.15, most), 3) if rng.random() < 0.4 else None
        """Of the rough runs."""
        self.contents: dict[str, tuple[str, str]] = {}
        """Prompt and model of every task key there ever was."""
        self._known: set[str] = set()
        self.lives: list[float] = []
        """When each process began."""
        self.skipping: set[int] = set()
        """The runs, as the ledger numbers them, that were told to leave unanswered requests alone."""
        self.killed: set[int] = set()
        """The runs that were killed after they had begun."""
        self.second_chances = 0
        self.attempts = rng.randint(2 if slow else 1, 5)
        self.hedging = slow > 0 or seed % 5 == 0
        self.values: dict[str, object] = {
            "concurrency": rng.choice((8, 16) if slow else (1, 2, 3, 4, 8)),
            "attempts": self.attempts,
            "timeout": rng.choice((15.0, 60.0, 300.0)),
            "rpm": self.rpm,
            "hedge": self.hedging,
        }

    def surroundings(self, seed: int) -> runner.Surroundings:
        life = self.life
        options: dict[str, Any] = (
            {"loop_factory": lambda: _Loop(life)}
            if self.backend == "asyncio"
            else {
                "clock": trio.testing.MockClock(autojump_threshold=0),
                "instruments": [_Instrument(life)],
            }
        )
        trio._core._run._r.seed(seed)
        return replace(
            super().surroundings(seed),
            backend_options=options,
            blocking=life.blocking,
            wall=self._wall,
            transport=_Line(self.endpoint, life),
        )

    def _wall(self) -> float:
        self.life.live()
        return 1_800_000_000.0 + self.clock()

    def play(self) -> None:
        """Rough runs and edits, then quiet ones until every row is final, then the audit."""
        for _ in range(self.rng.choice((0, 1, 1, 2))):
            if self._rough() is not None:
                Audit(self).check(final=False)
            if self.rng.random() < 0.4:
                self.happened[f"rows {self.manuscript.edit(self.rng)}"] += 1
        if self._finish() and self.rng.random() < 0.3:
            self.happened["failed rows retried"] += 1
            self.second_chances += 1
            self._finish(retry_failed=True)
        Audit(self).check(final=True)

    def _rough(self) -> Summary | None:
        """A run to which something happens; None when it was killed."""
        rng, tasks = self.rng, len(self.manuscript.tasks)
        span = 25 + 40 * tasks  # a run takes about so many steps
        values: dict[str, object] = {}
        kill, signals = None, {}
        event = rng.choice(("kill", "kill", "kill", "kill", "signal", "signals", "nothing"))
        if event == "kill":
            kill = rng.randint(5, span)
        elif event != "nothing":
            first = rng.randint(25, span)
            signals[first] = rng.choice((signal.SIGTERM, signal.SIGHUP))
            if event == "signals":
                signals[first + rng.randint(1, 60)] = signal.SIGTERM
        if self.budget is not None:
            values["budget"] = self.budget
        if rng.random() < 0.15:
            values["on_uncertain"] = "skip"
        before = self._last_run()
        summary = self._run(Life(self.directory, kill=kill, signals=signals), **values)
        begun = {self._last_run()} - {before}
        if "on_uncertain" in values:
            self.skipping |= begun
        if summary is None:
            self.killed |= begun
        return summary

    def _last_run(self) -> int:
        if not (self.directory / LEDGER).exists():
            return 0
        with closing(sqlite3.connect(self.directory / LEDGER)) as ledger:
            ((last,),) = ledger.execute("SELECT ifnull(max(id), 0) FROM runs")
        return int(last)

    def _finish(self, **first: object) -> bool:
        """Resume until every row is final; whether any of them failed. The first run is told more."""
        for number in range(40):
            summary = self._run(Life(self.directory), **({} if number else first))
            if summary is not None and summary.exit_status in {0, 1}:
                return summary.exit_status == 1
        raise AssertionError("forty runs, and rows are left")

    def _run(self, life: Life, **values: Any) -> Summary | None:
        """One process; None when it was killed."""
        self.life = self.endpoint.life = life
        self.lives.append(self._now)
        text = self.manuscript.text()
        self.write(text)
        before = self.endpoint.account.usd
        summary: Summary | None = None
        handlers = {number: signal.signal(number, unheard) for number in (signal.SIGTERM, signal.SIGHUP)}
        try:
            summary = self.run(
                seed=self.seed * 100 + len(self.lives),
                on_progress=life.live if life.eventful else None,
                signals=True,
                **{**self.values, **values},
            )
        except* Killed:
            assert life.over
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if life.over:  # be it in the last steps of all, when nothing more is done that could tell
            life.bury()
            summary = None
        self._learn_keys(text)
        spent, budget = self.endpoint.account.usd, values.get("budget")
        assert budget is None or spent <= max(before, Decimal(str(budget))), f"${spent} of ${budget}"
        self._note(life, summary)
        return summary

    def _learn_keys(self, text: str) -> None:
        if text in self._known:
            return
        self._known.add(text)
        for batch in Manifest(self.directory / MANIFEST).batches():
            columns = batch.columns()
            contents = zip(columns["prompt"].to_pylist(), columns["model"].to_pylist(), strict=True)
            self.contents |= zip(batch.keys, contents, strict=True)

    def _note(self, life: Life, summary: Summary | None) -> None:
        self.happened["signals delivered"] += life.delivered
        if summary is None:
            self.happened["kills"] += 1
        elif summary.stopped is not None:
            self.happened[f"stopped: {summary.stopped.reason}"] += 1


def _settings(seed: int, rng: random.Random, rpm: float | None, slow: float) -> Settings:
    faults = {name: rng.uniform(0.05, 0.15) for name in rng.sample(FAULTS, rng.randint(0, 1 if slow else 3))}
    faults[FAULTS[seed % len(FAULTS)]] = rng.uniform(0.15, 0.4)
    if rng.random() < 0.3:
        faults["reset_before"] = rng.uniform(0.05, 0.3)
    if slow:
        faults["slow"] = slow
    if rng.random() < 0.3:
        faults["draft"] = rng.uniform(0.1, 0.5)
    return Settings(
        seed=rng.getrandbits(32),
        paint=False,
        faults=Faults(**faults),
        shape=rng.choice(SHAPES),  # type: ignore[arg-type]
        latency=rng.choice((0.1, 1.0) if slow else (0.0, 0.1, 1.0)),
        rpm=rng.choice((None, rpm, 10.0)),
        burst=3,
    )


@dataclass(frozen=True, slots=True)
class Attempt:
    """A line of the ledger's attempts."""

    key: str
    run: int
    started_at: int
    submitted_at: int | None
    settled_at: int | None
    error_class: str | None
    error_message: str | None
    request_id: str | None
    prompt_tokens: int
    text_tokens: int
    image_tokens: int
    total_tokens: int
    cost: int | None
    reserved: int | None

    @property
    def abandoned(self) -> bool:
        """Whether its run ended before it did."""
        return self.error_message == ABANDONED or self.adopted

    @property
    def adopted(self) -> bool:
        """Whether nothing is known of it but its picture, which a later run found."""
        return self.settled_at is not None and self.error_class is None and self.cost is None

    @property
    def cut(self) -> bool:
        """Whether it lost to another request for its row, and was not waited for."""
        return self.error_class == "uncertain" and (self.error_message or "").endswith(CUT)

    @property
    def unknown(self) -> bool:
        """Whether it may have been billed without saying how much."""
        return self.adopted or self.error_class in {"uncertain", "bad_answer"}


class Audit:
    """The endpoint's log, the ledger, the table and the files of a night, held against each other."""

    def __init__(self, night: Night) -> None:
        self.night = night
        self.log = night.endpoint.log
        with closing(Reader(night.directory / LEDGER)) as reader:
            self.totals = reader.totals()
            ledger = reader._connection
            names = ", ".join(Attempt.__dataclass_fields__)
            self.attempts = [
                Attempt(*row) for row in ledger.execute(f"SELECT {names} FROM attempts ORDER BY id")
            ]
            ledger.row_factory = sqlite3.Row
            self.tasks = {row["key"]: dict(row) for row in ledger.execute("SELECT * FROM tasks")}
        self.table = night.table()

    def check(self, *, final: bool) -> None:
        """
        Raise AssertionError, saying which promise was broken.

        :param final: whether every row has had its chance.
        """
        self.every_attempt_is_settled()
        self.no_task_is_bought_after_its_picture_came()
        self.unanswered_requests_are_skipped_where_told()
        self.no_answer_that_arrived_is_lost_but_to_a_kill()
        self.no_task_is_given_up_before_its_attempts_are_used()
        self.every_request_is_an_attempt()
        self.every_token_is_accounted_for()
        self.sums_agree()
        self.declared_limits_hold()
        self.the_table_is_the_ledger_and_the_files()
        if final:
            self.one_of_two_requests_counts()
            assert all(self.tasks[row["task_key"]]["status"] != "pending" for row in self.table)

    @cached_property
    def by_key(self) -> Mapping[str, Sequence[Attempt]]:
        """The attempts of each task, in their order."""
        found: defaultdict[str, list[Attempt]] = defaultdict(list)
        for attempt in self.attempts:
            found[attempt.key].append(attempt)
        return found

    @cached_property
    def answers(self) -> Mapping[str, Seen]:
        """What was answered, by the answer's id."""
        return {seen.reply: seen for seen in self.log if seen.reply is not None}

    def every_attempt_is_settled(self) -> None:
        for attempt in self.attempts:
            assert attempt.settled_at is not None, attempt
            assert (attempt.submitted_at is None) == (attempt.error_class == "unreachable"), attempt

    def no_answer_that_arrived_is_lost_but_to_a_kill(self) -> None:
        recorded = {attempt.request_id for attempt in self.attempts}
        lost = {name for name, life in self.night.endpoint.arrived.items() if not life.over} - recorded
        assert not lost, "it was paid for, it was here, and it is not in the ledger"

    def no_task_is_bought_after_its_picture_came(self) -> None:
        for key, attempts in self.by_key.items():
            good = [attempt for attempt in attempts if attempt.error_class is None]
            assert len(good) == (self.tasks[key]["status"] == "succeeded"), attempts
            for winner in good:
                after = attempts[attempts.index(winner) + 1 :]
                assert len(after) <= self.night.hedging, f"{key}: bought after its picture came"
                assert all(one.started_at <= (winner.settled_at or 0) for one in after), attempts
            uncertain = sum(attempt.error_class == "uncertain" for attempt in attempts)
            most = (2 + self.night.hedging) * (1 + self.night.second_chances)
            assert uncertain <= most, f"{key}: {uncertain} times without answer"

    def one_of_two_requests_counts(self) -> None:
        """What a hedge brings is there once, and its loser is paid for and not kept."""
        losers = [attempt for attempt in self.attempts if attempt.error_class == "late" or attempt.cut]
        assert self.night.hedging or not losers
        for loser in losers:
            task, others = self.tasks[loser.key], self.by_key[loser.key]
            assert task["status"] == "succeeded", others
            assert task["wasted"] == sum(one.cost or 0 for one in others if one.error_class), others
            won = next(one for one in others if one.error_class is None)
            self.night.happened["hedges that won"] += won.started_at > loser.started_at
            self.night.happened["losers cut off"] += loser.cut
            self.night.happened["losers that came late"] += not loser.cut

    def no_task_is_given_up_before_its_attempts_are_used(self) -> None:
        for key, attempts in self.by_key.items():
            kind = ErrorClass(self.tasks[key]["error_class"] or ErrorClass.BLOCKED)
            rule = RULES[kind]
            final = self.tasks[key]["status"] != "pending" and rule.action is Action.RETRY
            skipped = self.tasks[key]["status"] == "uncertain" and self.night.skipping
            if not final or skipped:
                continue
            same = sum(attempt.error_class == kind for attempt in attempts)
            latest = [attempt for attempt in attempts if attempt.run == attempts[-1].run]
            used = sum(RULES[ErrorClass(attempt.error_class or kind)].counts for attempt in latest)
            assert same >= (rule.most or 100) or used >= self.night.attempts, attempts

    def unanswered_requests_are_skipped_where_told(self) -> None:
        for key, attempts in self.by_key.items():
            unanswered = [attempt.run for attempt in attempts if attempt.error_class == "uncertain"]
            for attempt in attempts:
                if attempt.run in self.night.skipping and attempt.submitted_at is not None:
                    assert min(unanswered, default=attempt.run) >= attempt.run, f"{key}: not skipped"

    def every_request_is_an_attempt(self) -> None:
        seen = Counter(one.content for one in self.log)
        submitted, abandoned = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
        for attempt in self.attempts:
            content = self.night.contents[attempt.key]
            submitted[content] += attempt.submitted_at is not None
            left = attempt.abandoned or attempt.cut
            abandoned[content] += attempt.submitted_at is not None and left
        self.night.happened["answers lost with their process"] = abandoned.total()
        for content in seen | submitted:
            # A process may have died between the note and the first byte.
            assert submitted[content] - abandoned[content] <= seen[content] <= submitted[content], content
        assert self.totals.requests == submitted.total()

    def every_token_is_accounted_for(self) -> None:
        accounted, unknown, dead = set(), Counter[tuple[str, str]](), Counter[tuple[str, str]]()
        for attempt in self.attempts:
            content = self.night.contents[attempt.key]
            unknown[content] += attempt.unknown
            left = attempt.abandoned or attempt.cut
            dead[content] += left and attempt.submitted_at is not None
            answer = self.answers.get(attempt.request_id or "")
            if attempt.unknown:
                assert (attempt.total_tokens, attempt.cost) == (0, None), "unknown is not free"
                continue
            if answer is None:
                assert (attempt.total_tokens, attempt.cost or 0) == (0, 0), attempt
                continue
            assert answer.content == content, "an answer to another prompt"
            assert answer.reply not in accounted, "one answer, two attempts"
            accounted.add(answer.reply)
            assert [getattr(attempt, name) for name in TOKENS] == list(answer.bill[:4]), attempt
            assert attempt.cost == answer.bill.usd.scaleb(9), attempt
        lost = [one for one in self.log if one.bill.total_tokens and one.reply not in accounted]
        missing = Counter(one.content for one in lost)
        for content in missing | unknown:
            assert unknown[content] - dead[content] <= missing[content] <= unknown[content], content
        exposed = sum((one.bill.usd for one in lost), ZERO)
        assert self.totals.cost_usd == self.night.endpoint.account.usd - exposed
        assert self.totals.uncertain == unknown.total()
        # An estimate, by what the latest pictures cost.
        assert exposed <= self.totals.uncertain_usd * Decimal("1.05"), "told too low"

    def sums_agree(self) -> None:
        for key, attempts in self.by_key.items():
            task = self.tasks[key]
            for name in TOKENS:
                assert task[name] == sum(getattr(attempt, name) for attempt in attempts), (key, name)
            assert (task["cost"] or 0) == sum(attempt.cost or 0 for attempt in attempts), key
            wasted = sum(attempt.cost or 0 for attempt in attempts if attempt.error_class)
            assert (task["wasted"] or 0) == wasted, key
        assert self.totals.tasks == Counter(task["status"] for task in self.tasks.values())
        for name in TOKENS:
            assert getattr(self.totals.usage, name) == sum(getattr(one, name) for one in self.attempts), name
        assert self.totals.cost_usd == Decimal(sum(one.cost or 0 for one in self.attempts)).scaleb(-9)

    def declared_limits_hold(self) -> None:
        if self.night.rpm is None:
            return
        for number, first in enumerate(self.log):
            within = sum(one.at < first.at + 60 for one in self.log[number:])
            begun = sum(first.at <= began < first.at + 60 for began in self.night.lives)
            assert within <= self.night.rpm + begun, f"{within} requests within the minute from {first.at}"

    def the_table_is_the_ledger_and_the_files(self) -> None:
        directory = self.night.directory
        asked = [(row["id"], row["variant"], row["prompt"], row["model"]) for row in self.table]
        assert asked == self.night.manuscript.tasks
        for row in self.table:
            task = self.tasks.get(row["task_key"], UNTOUCHED)
            assert (row["status"], row["attempts"]) == (task["status"], task["attempts"])
            assert (row["cost_usd"] or ZERO) == Decimal(task["cost"] or 0).scaleb(-9)
            assert [row[name] for name in TOKENS] == [task[name] for name in TOKENS]
            assert (row["file_name"] is not None) == (row["status"] == "succeeded")
            for image in row["images"] or ():
                data = (directory / image["file_name"]).read_bytes()
                assert sha256(data).hexdigest() == image["sha256"]
                assert prompt_mark(data) == prompt_key(row["prompt"]), "another row's picture"
                self.night.happened["drafts kept"] += image["draft"]
        names = [image["file_name"] for row in self.table for image in row["images"]]
        assert len(set(names)) == len(names), "two rows, one file"
        assert not [*directory.rglob("*.part")], "a temporary file was left"
        self.no_picture_is_lost_but_to_a_kill()

    def no_picture_is_lost_but_to_a_kill(self) -> None:
        known = {
            Path(image["file_name"]).name
            for task in self.tasks.values()
            for image in json.loads(task["images"] or "[]")
        }
        excused = {
            f"{self.tasks[attempt.key]['stem']}.jpg"
            for attempt in self.attempts
            if attempt.abandoned and attempt.run in self.night.killed
        }
        there = {path.name for path in self.night.directory.glob("images/*")}
        assert there - known <= excused, "bought, written and forgotten"
