"""
How are the missing pictures of a run bought?

One `Purchase` is the async part of a run: it feeds tasks to the pool, leads every attempt through budget,
gate, ledger and worker, and decides by the one table in `retry` what comes next.
"""

from __future__ import annotations

import logging
import signal
from collections import Counter
from contextlib import aclosing
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import anyio
import anyio.to_thread
import msgspec

from batchgen import events, limits, pricing, providers, retry
from batchgen.budget import Budget, Estimate
from batchgen.errors import BatchgenError
from batchgen.feed import Feed
from batchgen.job import OnDailyQuota
from batchgen.limits import Gate
from batchgen.pool import Pool
from batchgen.records import ZERO, ErrorClass, Expect, Status, Value
from batchgen.retry import Action
from batchgen.store import safe_stem
from batchgen.worker import UNKNOWN_COST

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

    from batchgen.budget import Reservation
    from batchgen.crew import Crew
    from batchgen.disk import Disk
    from batchgen.feed import Offer
    from batchgen.job import Endpoint, Job
    from batchgen.ledger import Attempt, Ledger, Reader
    from batchgen.limits import Pass
    from batchgen.manifest import Manifest
    from batchgen.records import Outcome, Task
    from batchgen.store import Store
    from batchgen.worker import Attempting, Blocking

logger = logging.getLogger("batchgen")

_HEARTBEAT = 1.0
_PATIENCE = 3600.0
"""Seconds without any answer but "slow down" or "nobody there", after which a run is stopped."""
_FIRST_PATIENCE = 60.0
"""The same for an endpoint that has never answered in this run: its address is wrong, most likely."""
_NEARLY = Decimal("0.8")
"""The share of the budget at which it is told, once."""
_RECHECK = 600.0
"""Seconds until a daily quota is asked for again that was to be reset and was not."""
_RECHECKS = 6
_OVERLOADED = frozenset({503, 529})
_SKEW = 5.0
"""Seconds by which our clock may be ahead of the one that resets a quota."""
_ASIDE = 4
"""Tasks a worker that may wait for what they continue, while others are bought."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What a person or a machine ends a run with."""


class Progress(Value, frozen=True, kw_only=True):
    """How far a run is, for whoever watches it."""

    total: int
    """Tasks of the manifest."""
    skipped: int
    """Tasks this run came by and left as they were."""
    succeeded: int
    failed: int
    in_flight: int
    waiting: int
    """Tasks between two attempts."""
    spent_usd: Decimal
    """Ever, in this run directory."""
    cooling: float
    """Seconds until the endpoint takes requests again."""
    stopping: str | None
    """Why nothing new is started, while what is in flight ends."""


class Stop(Value, frozen=True, kw_only=True):
    """Why a run ended before its tasks did, and what to do about it."""

    reason: str
    message: str
    remedy: str
    exit_status: int = 3

    @property
    def by_signal(self) -> bool:
        """Whether somebody wanted it to end."""
        return self.exit_status > 128

    @classmethod
    def of_signal(cls, number: int, what: str) -> Stop:
        """What a signal stops, and that the same command goes on with it."""
        name = signal.Signals(number).name
        return cls(
            reason=name,
            message=f"{name}: {what}",
            remedy="run the same command to go on",
            exit_status=128 + (signal.SIGTERM if number == signal.SIGHUP else number),
        )


class _Item:
    """A task on its way, with what happened to it in this run."""

    __slots__ = ("attempts", "by_kind", "parent_sha", "requests", "task")

    def __init__(self, offer: Offer) -> None:
        self.task = offer.task
        self.parent_sha = offer.parent_sha
        self.attempts = 0
        """Those that count."""
        self.requests = 0
        self.by_kind: Counter[ErrorClass] = Counter()
        state = offer.state
        if state is not None and (state.status, state.parent_sha) == (Status.PENDING, offer.parent_sha):
            self.by_kind[ErrorClass.UNCERTAIN] = state.uncertain


class Counts:
    """What a run has done so far."""

    def __init__(self) -> None:
        self.succeeded = 0
        self.failed = 0
        self.requests = 0
        self.run_usd = ZERO


def _stop(outcome: Outcome, where: str, *, reason: str | None = None) -> Stop:
    kind = outcome.kind or ErrorClass.TRANSIENT
    return Stop(
        reason=reason or kind,
        message=f"{where}: {outcome.message}",
        remedy=retry.RULES[kind].remedy,
    )


class Purchase:
    """Everything that the workers of one run share."""

    def __init__(
        self,
        job: Job,
        endpoint: Endpoint,
        *,
        manifest: Manifest,
        ledger: Ledger,
        reader: Reader,
        store: Store,
        disk: Disk,
        crew: Crew,
        spent: Decimal,
        only: frozenset[str] | None,
        on_progress: Callable[[Progress], None] | None,
        on_event: Callable[[events.Event], None],
        signals: bool,
        rng: random.Random,
        wall: Callable[[], float],
        blocking: Blocking,
    ) -> None:
        """
        Gather what a run needs.

        :param disk: what the run directory's file system must hold.
        :param crew: makes the attempts.
        :param spent: USD that count against a budget already.
        :param only: the row ids this run is about; None is all.
        :param on_progress: called with every settled attempt and once a second, on the event loop.
        :param on_event: takes what happens, for the log file; on the event loop.
        :param signals: whether SIGINT, SIGTERM and SIGHUP drain the run; the second one ends it at once.
        :param wall: seconds since 1970.
        :param blocking: runs a blocking call off the event loop.
        """
        self.counts = Counts()
        self.stop: Stop | None = None
        self._job = job
        self.endpoint = endpoint
        self._manifest = manifest
        self._ledger = ledger
        self._disk = disk
        self._crew = crew
        self._on_progress = on_progress
        self._tell = on_event
        self._signals = signals
        self._rng = rng
        self._wall = wall
        self._refused: BatchgenError | None = None
        """What the ledger or the snapshot said when it could not be written or read."""
        self._hands = min(job.concurrency, max(1, manifest.tasks))
        self._pool: Pool[_Item] = Pool(concurrency=self._hands)
        self.feed = Feed(
            job,
            manifest,
            reader,
            only,
            ledger=ledger,
            provider=endpoint.provider.name,
            root=store.root,
            room=_ASIDE * self._hands,
            blocking=blocking,
            now=self._now,
            tell=on_event,
        )
        self._gate = Gate(rpm=job.rpm, ipm=job.ipm, tpm=job.tpm, rng=rng)
        limit = None if job.budget is None else Decimal(str(job.budget))
        self._budget = Budget(limit, spent)
        self._notice = None if limit is None or spent >= limit * _NEARLY else limit * _NEARLY
        self._overrun = False
        self._estimates: dict[tuple[str, Expect], Estimate] = {}
        # What earlier runs paid: a resumed run needs not be as careful as a first one.
        self._learned = {
            (model.id, expect): reader.costs(model.id, expect, most=Estimate.RECENT)
            for model in endpoint.provider.models
            for expect in Expect
        }
        self._settled = anyio.Event()
        self._model = providers.models_of(endpoint.provider)
        parks = job.on_daily_quota is OnDailyQuota.WAIT
        self._policy = retry.Policy(attempts=job.attempts, daily_quota=Action.PARK if parks else Action.STOP)
        self._parked_at = 0.0
        self._parks = 0
        """In a row, without an answer between them."""
        self._health = retry.Health(job.max_failure_rate)
        self._heard = 0.0
        self._answered = False
        self._workers: Sequence[Attempting] = ()

    def progress(self) -> Progress:
        """How far it is at this moment."""
        return Progress(
            total=self._manifest.tasks,
            skipped=self.feed.skipped,
            succeeded=self.counts.succeeded,
            failed=self.counts.failed + self.feed.orphaned,
            in_flight=self._pool.inflight,
            waiting=self._pool.retrying,
            spent_usd=self._budget.spent,
            cooling=self._gate.cooling,
            stopping=self.stop.reason if self.stop else None,
        )

    async def carry_out(self) -> None:
        """
        Buy what is missing until all is done, something stops the run, or a signal drains it.

        :raises BatchgenError: ledger or snapshot could not be written or read; what was in flight has landed.
        """
        source = self._items()
        self._heard = anyio.current_time()
        async with self._crew.hired(self._hands) as self._workers, anyio.create_task_group() as aside:
            if self._signals:
                aside.start_soon(self._listen, aside.cancel_scope)
            if self._on_progress is not None:
                aside.start_soon(self._beat)
            try:
                await self._pool.run(source, self._turn)
            finally:
                await source.aclose()
            aside.cancel_scope.cancel()
        self._report()
        if self._refused is not None:
            raise self._refused

    async def _items(self) -> AsyncGenerator[_Item, None]:
        """The tasks that are to be bought, read no further ahead than they are needed."""
        offers = self.feed.offers()
        try:
            async with aclosing(offers):
                async for offer in offers:
                    yield _Item(offer)
        except BatchgenError as cause:
            self._refuse(cause)

    async def _turn(self, item: _Item, number: int) -> float | None:
        """An attempt, once the disk has room for its picture; see `_attempt` for what comes back."""
        missing = None
        with self._pool.waiting() as drained:
            missing = await self._disk.room(self._pool.inflight)
        if missing is not None:
            self._halt(
                Stop(reason="disk", message=missing, remedy="run the same command again when there is room")
            )
        if missing is not None or drained.cancelled_caught:
            return 0.0
        try:
            delay = await self._attempt(item, number)
        except BatchgenError as cause:
            self._refuse(cause)
            return None
        if delay is None:
            self.feed.ended(item.task.key)
        return delay

    def _refuse(self, cause: BatchgenError) -> None:
        """End the run for good, but not before what is in flight has landed: it is paid for."""
        self._refused = self._refused or cause
        self._halt(Stop(reason="storage", message=str(cause), remedy=""))

    async def _attempt(self, item: _Item, number: int) -> float | None:
        """One request for one task; the seconds until its next one, None when it is final or the run ends."""
        task = item.task
        hold = await self._reserve(task)
        if hold is None:
            return 0.0
        with self._pool.waiting() as drained:
            leave = await self._gate.enter(pricing.CAREFUL_TOKENS)
        if drained.cancelled_caught:
            self._budget.release(hold)
            return 0.0
        attempt = self._ledger.start(
            key=task.key,
            row_id=task.id,
            stem=safe_stem(task.name),
            model=task.model,
            provider=self.endpoint.provider.name,
            reserved=hold.unanswered if self._model(task.model).price else None,
            now=self._now(),
            expect=task.expect,
            parent_sha=item.parent_sha,
        )
        outcome = await self._workers[number].attempt(
            task, lambda: attempt.stem, sending=lambda: self._submit(attempt)
        )
        return await self._settle(item, attempt, outcome, leave, hold)

    async def _submit(self, attempt: Attempt) -> None:
        await self._ledger.submitted(attempt, now=self._now())
        self.counts.requests += 1

    async def _reserve(self, task: Task) -> Reservation | None:
        """Money for one request; None when there is none left, or the run is ending."""
        estimate = self._estimate(task.model, task.expect)
        asking = pricing.asking(task, self._model(task.model)) or ZERO
        while True:
            likely = estimate.likely + asking / 2  # a token has four bytes of English, three of Chinese
            hold = self._budget.reserve(estimate.most + asking, likely)
            if hold is not None:
                return hold
            if not self._budget.could_fit_later(likely):
                self._halt(
                    Stop(
                        reason="budget",
                        message=f"the budget of ${self._job.budget:,.2f} has no room for another"
                        f" {'answer' if task.expect is Expect.TEXT else 'picture'}"
                        f" (${self._budget.spent:,.4f} spent, ${likely:,.4f} needed)",
                        remedy="raise --budget and run the same command again",
                    )
                )
                return None
            with self._pool.waiting() as drained:
                await self._settled.wait()
            if drained.cancelled_caught:
                return None

    async def _settle(
        self, item: _Item, attempt: Attempt, outcome: Outcome, leave: Pass, hold: Reservation
    ) -> float | None:
        """Account for an attempt, and do what follows from it; see `_attempt` for what comes back."""
        kind = outcome.kind
        counts = kind is None or retry.RULES[kind].counts
        item.attempts += counts
        item.requests += 1
        if counts:
            # Not back from where a park has put it: while nothing is asked, nothing is heard.
            self._heard, self._answered = max(self._heard, anyio.current_time()), True
            self._parks = self._parks if leave.at <= self._parked_at else 0
        if kind is not None:
            item.by_kind[kind] += 1
        decision = self._decide(item, outcome)
        status = self._status(outcome, decision)
        with anyio.CancelScope(shield=True):  # it is paid for, and on disk
            await self._disk.persist(
                lambda: self._ledger.settle(
                    attempt,
                    outcome,
                    status=status,
                    counts=counts,
                    in_credits=self._credits(outcome.cost_usd),
                    now=self._now(),
                )
            )
        self._book(item.task, outcome, hold)
        self._gate.settle(leave, outcome.usage.total_tokens or None, ok=kind is None)
        self._log(item, outcome, decision)
        self._tell(events.attempted(item.task, outcome, number=item.requests))
        if status is not Status.PENDING:
            self._tell(events.ended(item.task, status, outcome))
        delay = self._follow(item, outcome, decision, leave)
        self._report()
        return delay

    def _decide(self, item: _Item, outcome: Outcome) -> retry.Decision | None:
        if outcome.kind is None:
            return None
        return retry.decide(
            outcome.kind,
            attempts=item.attempts,
            same=item.by_kind[outcome.kind],
            policy=self._policy,
            retry_after=outcome.retry_after,
            rng=self._rng,
        )

    @staticmethod
    def _status(outcome: Outcome, decision: retry.Decision | None) -> Status:
        if outcome.kind is None or decision is None:
            return Status.SUCCEEDED
        return retry.RULES[outcome.kind].status if decision.action is Action.FAIL else Status.PENDING

    def _follow(
        self, item: _Item, outcome: Outcome, decision: retry.Decision | None, leave: Pass
    ) -> float | None:
        """Do what was decided; the seconds until the task's next attempt, None when it is final."""
        if decision is None or outcome.kind is None:
            self.counts.succeeded += 1
            self._health.ended(None)
            return None
        if decision.action is Action.FAIL:
            self.counts.failed += 1
            against = self._health.ended(outcome.kind)
            if against is not None:
                self._halt(_stop(outcome, f"{against}; the latest, row {item.task.id}", reason="failures"))
            return None
        if decision.action is Action.STOP:
            self._halt(_stop(outcome, f"row {item.task.id}"))
        elif decision.action is Action.PARK:
            self._park(outcome, leave)
        elif not retry.RULES[outcome.kind].counts:
            self._bear(outcome)
        if decision.action is Action.COOL:
            self._tell(events.Cooled(seconds=self._gate.cool(leave, outcome.retry_after)))
        elif outcome.http_status in _OVERLOADED:
            self._gate.overloaded()
        return decision.delay

    def _bear(self, outcome: Outcome) -> None:
        """Put up with answers that cost nothing and bring nothing, but not for ever."""
        unheard = anyio.current_time() - self._heard
        hopeful = self._answered or outcome.kind is ErrorClass.RATE
        if unheard > (_PATIENCE if hopeful else _FIRST_PATIENCE):
            self._halt(_stop(outcome, f"nothing else for {unheard / 60:.0f} minutes"))

    def _park(self, outcome: Outcome, leave: Pass) -> None:
        """Wait for the daily quota's reset; after one that brought nothing, ask a few times more."""
        now = self._wall()
        wait = outcome.retry_after or (_RECHECK if self._parks else limits.next_day(now) - now)
        if not self._gate.park(leave, wait + _SKEW):
            return
        if self._parks > _RECHECKS:
            self._halt(_stop(outcome, "the day's quota is used up, also after its reset"))
            return
        self._parks += 1
        self._parked_at = anyio.current_time()
        self._tell(events.Parked(seconds=wait))
        self._heard = self._parked_at + wait
        when = datetime.fromtimestamp(now + wait, ZoneInfo(limits.PACIFIC)).strftime("%Y-%m-%d %H:%M %Z")
        hours, minutes = divmod(round(wait / 60), 60)
        logger.warning("daily quota used up; going on at %s, in %d h %d min", when, hours, minutes)

    def _book(self, task: Task, outcome: Outcome, hold: Reservation) -> None:
        cost = max(outcome.cost_usd or ZERO, outcome.billed_usd or ZERO)
        self.counts.run_usd += outcome.cost_usd or ZERO
        # What may have been billed without saying how much counts as a dear picture: a budget must not hope.
        # So does a picture that outlived the worker who bought it.
        orphaned = outcome.kind is None and outcome.cost_usd is None and self._model(task.model).price
        self._budget.settle(hold, hold.unanswered if orphaned or outcome.kind in UNKNOWN_COST else cost)
        self._warn_of_money(task, cost, hold)
        if outcome.kind is None and outcome.cost_usd is not None:
            self._estimate(task.model, task.expect).observe(cost)
        if outcome.images:
            self._disk.observe(sum(image.bytes for image in outcome.images))
        self._settled.set()
        self._settled = anyio.Event()

    def _warn_of_money(self, task: Task, cost: Decimal, hold: Reservation) -> None:
        budget = self._job.budget
        if budget is None:
            return
        spent = self._budget.spent
        if self._notice is not None and spent >= self._notice:
            self._notice = None
            logger.warning("%.0f %% of the budget is used: $%.2f of $%.2f", 100 * _NEARLY, spent, budget)
        if cost > hold.amount and not self._overrun:
            self._overrun = True
            logger.warning(
                "row %s was billed $%.4f, more than the $%.4f held back for it: dearer than any before,"
                " so the budget may be passed by the difference",
                task.id,
                cost,
                hold.amount,
            )

    def _halt(self, stop: Stop) -> None:
        """Begin nothing more; the first reason is the one that is told."""
        if self.stop is None:
            self.stop = stop
            self._tell(events.Stopped(reason=stop.reason, message=stop.message))
        self._pool.drain()

    def _log(self, item: _Item, outcome: Outcome, decision: retry.Decision | None) -> None:
        task = item.task
        row = task.id if task.variant == 1 else f"{task.id} ({task.variant})"
        if decision is None:
            logger.debug("row %s: done in %.1f s", row, outcome.latency)
        elif decision.action in {Action.RETRY, Action.COOL}:
            wait = max(decision.delay, outcome.retry_after or 0.0)
            said = (outcome.message or "").rstrip(".")
            logger.info("row %s: %s: %s; again in %.1f s", row, outcome.kind, said, wait)
        else:
            logger.info("row %s: %s: %s", row, outcome.kind, outcome.message)

    async def _listen(self, everything: anyio.CancelScope) -> None:
        heard = [*SIGNALS]
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup: it is to outlive its terminal
            heard.remove(signal.SIGHUP)
        try:
            with anyio.open_signal_receiver(*heard) as received:
                await self._heed(await anext(received), received)
                everything.cancel()
        finally:
            # What is bought is bought, and only the table is left to do: nothing may come between.
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)

    async def _heed(self, number: int, more: AsyncIterator[signal.Signals]) -> None:
        """Drain; return when it has taken too long, or when another signal comes."""
        self._disk.give_up()
        name, begun = signal.Signals(number).name, "nothing new was started"
        patience = self._job.timeout if self._job.drain is None else self._job.drain
        self.stop = Stop.of_signal(number, f"{begun}, what was in flight was kept")
        self._tell(events.Stopped(reason=name, message=self.stop.message))
        self._pool.drain()
        self._report()
        logger.warning("%s: what is in flight may land for %g s; once more ends it at once", name, patience)
        with anyio.move_on_after(patience):
            await anext(more)
        cut = f"{name}: {begun}, what was in flight was cut off and is uncertain"
        self.stop = msgspec.structs.replace(self.stop, message=cut)

    async def _beat(self) -> None:
        while True:
            await anyio.sleep(_HEARTBEAT)
            self._report()

    def _report(self) -> None:
        if self._on_progress is not None:
            self._on_progress(self.progress())

    def _estimate(self, name: str, expect: Expect) -> Estimate:
        known = self._estimates.get((name, expect))
        if known is None:
            # Whoever is asked for words may draw all the same.
            careful = pricing.careful(self._model(name)) or ZERO
            learned = self._learned.get((name, expect), ())
            known = self._estimates[name, expect] = Estimate(careful, learned)
        return known

    def _credits(self, cost: Decimal | None) -> Decimal | None:
        each = self.endpoint.provider.usd_per_credit
        return None if cost is None or each is None else cost / each

    def _now(self) -> int:
        return int(self._wall() * 1_000_000)
