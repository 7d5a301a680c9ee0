"""
How are the missing pictures of a run bought?

One `Purchase` is the async part of a run: it feeds tasks to the pool, leads every attempt through budget,
gate, ledger and worker, and decides by the one table in `retry` what comes next.
"""

from __future__ import annotations

import logging
import signal
from contextlib import aclosing
from datetime import datetime
from decimal import Decimal  # noqa: TC003  msgspec reads the annotations at run time
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import anyio
import anyio.lowlevel
import msgspec

from batchgen import events, limits, pricing, providers, retry
from batchgen.errors import BatchgenError
from batchgen.feed import Feed
from batchgen.job import OnDailyQuota
from batchgen.limits import Gate
from batchgen.pool import Pool
from batchgen.progress import SIGNALS, Counts, Progress, Stop
from batchgen.purse import Purse
from batchgen.race import Flight, Item, late
from batchgen.records import ZERO, ErrorClass, Limit, Status
from batchgen.retry import Action
from batchgen.store import safe_stem
from batchgen.stragglers import RECENT, Stragglers

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence

    from batchgen.budget import Reservation
    from batchgen.crew import Crew
    from batchgen.disk import Disk
    from batchgen.job import Endpoint, Job
    from batchgen.ledger import Ledger, Reader
    from batchgen.limits import Pass
    from batchgen.manifest import Finished, Manifest
    from batchgen.records import Outcome, Task
    from batchgen.store import Pictures
    from batchgen.worker import Attempting, Blocking

logger = logging.getLogger("batchgen")

_HEARTBEAT = 1.0
_PATIENCE = 3600.0
"""Seconds without any answer but "slow down" or "nobody there", after which a run is stopped."""
_FIRST_PATIENCE = 60.0
"""The same for an endpoint that has never answered in this run: its address is wrong, most likely."""
_RECHECK = 600.0
"""Seconds until a daily quota is asked for again that was to be reset and was not."""
_RECHECKS = 6
_OVERLOADED = frozenset({503, 529})
_SKEW = 5.0
"""Seconds by which our clock may be ahead of the one that resets a quota."""
_PROMPTLY = 1.0
"""Seconds within which a hedge must get through the gate; else it is looked for again."""
_ASIDE = 4
"""Tasks a worker that may wait for what they continue, while others are bought."""


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
        store: Pictures,
        disk: Disk,
        crew: Crew,
        check: Callable[[], None],
        spent: Decimal,
        only: frozenset[str] | None,
        finished: Finished,
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
        :param check: raises `StorageError` where nothing more may be bought; it does not block.
        :param spent: USD that count against a budget already.
        :param only: the row ids this run is about; None is all.
        :param finished: what is left as it is without a look.
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
        self._check = check
        self._on_progress = on_progress
        self._tell = on_event
        self._signals = signals
        self._rng = rng
        self._wall = wall
        self._refused: BatchgenError | None = None
        """What the ledger or the snapshot said when it could not be written or read."""
        # A hedge needs a hand of its own, also where there are fewer tasks than hands.
        self._hands = min(job.concurrency, max(1, manifest.tasks) * (1 + job.hedge))
        self._pool: Pool[Item] = Pool(concurrency=self._hands, spare=self._late if job.hedge else None)
        self._stragglers = Stragglers(
            ((one.model, one.expect), one.latency)
            for one in (reader.attempted(endpoint.provider.name, most=RECENT) if job.hedge else ())
            if one.error_class is None
        )
        self._flying: dict[Flight, None] = {}
        """What is in flight, the earliest first."""
        self.feed = Feed(
            job,
            manifest,
            reader,
            only,
            finished=finished,
            ledger=ledger,
            provider=endpoint.provider.name,
            address=store.address,
            room=_ASIDE * self._hands,
            blocking=blocking,
            now=self._now,
            tell=on_event,
        )
        self.limit = Limit()
        if job.rpm is None and job.ipm is None:
            # What an endpoint states it states again; what was felt is where this run begins.
            self.limit = Limit(felt=reader.limit(endpoint.provider.base_url, endpoint.model.id).felt)
        self._gate = Gate(rpm=job.rpm, ipm=job.ipm, tpm=job.tpm, rng=rng, known=self.limit)
        self._purse = Purse(job.budget, spent, endpoint=endpoint, reader=reader)
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
            hedges=self.counts.hedges,
            spent_usd=self._purse.spent,
            cooling=self._gate.cooling,
            rate_limit=self.limit,
            stopping=self.stop.reason if self.stop else None,
        )

    async def carry_out(self) -> None:
        """
        Buy what is missing until all is done, something stops the run, or a signal drains it.

        :raises BatchgenError: ledger or snapshot could not be written or read; what was in flight has landed.
        """
        source = self._items()
        self._heard = anyio.current_time()
        if self.limit != Limit():
            self._note_limit()  # it is this run's as well
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

    async def _items(self) -> AsyncGenerator[Item, None]:
        """The tasks that are to be bought, read no further ahead than they are needed."""
        offers = self.feed.offers()
        try:
            async with aclosing(offers):
                async for offer in offers:
                    yield Item(offer)
        except BatchgenError as cause:
            self._refuse(cause)

    async def _turn(self, item: Item, number: int) -> float | None:
        """An attempt, once the disk has room for its picture; see `_attempt` for what comes back."""
        hold, item.hedge = item.hedge, None
        if not await self._has_room():
            if hold is None:
                return 0.0
            self._forgo(item, hold)
            return None
        try:
            if hold is not None:
                return await self._hedge(item, number, hold)
            return await self._attempt(item, number)
        except BatchgenError as cause:
            self._refuse(cause)
            return None

    async def _has_room(self) -> bool:
        """Whether the disk has room for one picture more; else the run ends."""
        missing = None
        with self._pool.waiting() as drained:
            missing = await self._disk.room(self._pool.inflight)
        if missing is not None:
            self._halt(
                Stop(reason="disk", message=missing, remedy="run the same command again when there is room")
            )
        return missing is None and not drained.cancelled_caught

    def _refuse(self, cause: BatchgenError) -> None:
        """End the run for good, but not before what is in flight has landed: it is paid for."""
        self._refused = self._refused or cause
        self._halt(Stop(reason="storage", message=str(cause), remedy=""))

    async def _attempt(self, item: Item, number: int) -> float | None:
        """
        One request for one task.

        Returns the seconds until its next one; None when the task is final, goes on with another request, or
        the run ends.
        """
        hold = await self._reserve(item.task)
        if hold is None:
            return 0.0
        with self._pool.waiting() as drained:
            leave = await self._gate.enter(pricing.CAREFUL_TOKENS)
        if drained.cancelled_caught:
            self._purse.release(hold)
            return 0.0
        return await self._fly(item, number, leave, hold, hedge=False)

    def _late(self) -> Item | None:
        """A task whose request is late, with money for another one; none while anything holds others up."""
        calm = self._gate.is_free(pricing.CAREFUL_TOKENS)
        if not calm or not self._stragglers.allows(self.counts.hedges, self.counts.requests):
            return None
        now = anyio.current_time()
        for flight in self._flying:
            item = flight.item
            patience = self._stragglers.patience((item.task.model, item.task.expect))
            if now - flight.began > patience and item.could_be_hedged(self._job.attempts):
                others = self._pool.inflight + self._pool.retrying
                item.hedge = self._purse.spare(item.task, others=others)
                if item.hedge is None:
                    return None
                item.hedged = True
                self.counts.hedges += 1
                return item
        return None

    async def _hedge(self, item: Item, number: int, hold: Reservation) -> float | None:
        """Another request for a task whose own is late; see `_attempt` for what comes back."""
        leave = None
        with self._pool.waiting(), anyio.move_on_after(_PROMPTLY):
            leave = await self._gate.enter(pricing.CAREFUL_TOKENS)
        if leave is None or item.is_settled:
            if leave is not None:
                self._gate.settle(leave, None, ok=False)
            self._forgo(item, hold)
            return None
        return await self._fly(item, number, leave, hold, hedge=True)

    def _forgo(self, item: Item, hold: Reservation) -> None:
        """Do not hedge after all; it may be tried again."""
        self._purse.release(hold)
        item.hedged = False
        self.counts.hedges -= 1

    async def _fly(
        self, item: Item, number: int, leave: Pass, hold: Reservation, *, hedge: bool
    ) -> float | None:
        """Send what has money and leave, and settle what it comes to."""
        task = item.task
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
        flight = Flight(item, attempt, hedge=hedge)
        self._flying[flight] = None
        outcome = None
        try:
            with self._pool.holding(flight.scope):
                outcome = await self._workers[number].attempt(
                    task, flight.stem, sending=lambda: self._submit(flight)
                )
        finally:
            del self._flying[flight]
            item.landed(flight)
        return await self._settle(flight, outcome, leave, hold)

    async def _submit(self, flight: Flight) -> None:
        await anyio.lowlevel.checkpoint_if_cancelled()  # it may have lost by now, and is free
        self._check()
        flight.sent = True
        await self._ledger.submitted(flight.attempt, now=self._now())
        self.counts.requests += 1

    async def _reserve(self, task: Task) -> Reservation | None:
        """Money for one request; None when there is none left, or the run is ending."""
        while (hold := self._purse.reserve(task)) is None:
            shortage = self._purse.shortage(task)
            if shortage is not None:
                remedy = "raise --budget and run the same command again"
                self._halt(Stop(reason="budget", message=shortage, remedy=remedy))
                return None
            with self._pool.waiting() as drained:
                await self._purse.settled.wait()
            if drained.cancelled_caught:
                return None
        return hold

    async def _settle(
        self, flight: Flight, landed: Outcome | None, leave: Pass, hold: Reservation
    ) -> float | None:
        """
        Account for an attempt, and do what follows from it; see `_attempt` for what comes back.

        :param landed: None where it was cut off because it had lost.
        """
        item, outcome = flight.item, landed or flight.cut()
        if outcome.kind is None:
            self._stragglers.answered((item.task.model, item.task.expect), outcome.latency)
            outcome = late(outcome) if flight.lost else outcome
        kind = outcome.kind
        counts = kind is None or retry.RULES[kind].counts
        if counts and landed is not None:
            # Not back from where a park has put it: while nothing is asked, nothing is heard.
            self._heard, self._answered = max(self._heard, anyio.current_time()), True
            self._parks = self._parks if leave.at <= self._parked_at else 0
        item.note(kind, counts=counts)
        decision = self._decide(flight, outcome)
        status = self._status(outcome, decision)
        if status is not Status.PENDING:
            self._end(flight, status)
        goes_on = flight.lost or bool(item.flights)
        await self._persist(flight, outcome, status, counts=counts)
        self._book(flight, outcome, hold)
        self._gate.settle(leave, outcome.usage.total_tokens or None, ok=kind in {None, ErrorClass.LATE})
        self._log(flight, outcome, decision, goes_on=goes_on)
        self._tell(events.attempted(item.task, outcome, number=flight.number, hedge=flight.hedge))
        if status is not Status.PENDING:
            self._tell(events.ended(item.task, status, outcome))
            self.feed.ended(item.task.key)
        delay = None if landed is None else self._follow(item, outcome, decision, leave)
        self._learn(outcome, leave)
        self._report()
        return None if goes_on else delay

    def _decide(self, flight: Flight, outcome: Outcome) -> retry.Decision | None:
        if outcome.kind is None:
            return None
        item = flight.item
        decision = retry.decide(
            outcome.kind,
            attempts=item.attempts,
            same=item.by_kind[outcome.kind],
            policy=self._policy,
            retry_after=outcome.retry_after,
            rng=self._rng,
        )
        is_decided = flight.lost or any(other.sent for other in item.flights)
        if decision.action is Action.FAIL and is_decided:
            # By the other request: it is the retry.
            return retry.Decision(action=Action.RETRY)
        return decision

    @staticmethod
    def _status(outcome: Outcome, decision: retry.Decision | None) -> Status:
        if outcome.kind is None or decision is None:
            return Status.SUCCEEDED
        return retry.RULES[outcome.kind].status if decision.action is Action.FAIL else Status.PENDING

    def _end(self, flight: Flight, status: Status) -> None:
        """Let one request be the one that counts; what is still in flight for its task has lost."""
        flight.item.decided = flight
        self.counts.hedges_won += flight.hedge and status is Status.SUCCEEDED
        for other in flight.item.flights:
            other.lost = True
            if other.sent:  # it is paid for: while there is other work it may land
                self._pool.let_go(other.scope)
            else:
                other.scope.cancel()

    async def _persist(self, flight: Flight, outcome: Outcome, status: Status, *, counts: bool) -> None:
        """Note the end of a request, for as long as the disk refuses to."""
        item = flight.item

        def write() -> Awaitable[None]:
            # Anew with each try: another request may have ended the task while the disk refused this one.
            is_decided = item.decided not in {None, flight}
            return self._ledger.settle(
                flight.attempt,
                outcome,
                status=None if is_decided else status,
                counts=counts,
                in_credits=self._credits(outcome.cost_usd),
                now=self._now(),
            )

        with anyio.CancelScope(shield=True):  # it is paid for, and on disk
            await self._disk.persist(write)

    def _follow(
        self, item: Item, outcome: Outcome, decision: retry.Decision | None, leave: Pass
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

    def _learn(self, outcome: Outcome, leave: Pass) -> None:
        """Go by what an answer says of limits, and note what was found out of them."""
        held = self._gate.heed(leave, outcome.quotas)
        if held:
            self._tell(events.Cooled(seconds=held))
        found = self._gate.limit
        if found.is_news(self.limit):
            self.limit = found
            self._note_limit()
            self._tell(events.found(found))

    def _note_limit(self) -> None:
        endpoint = self.endpoint
        self._ledger.note_limit(endpoint.provider.base_url, endpoint.model.id, self.limit, now=self._now())

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

    def _book(self, flight: Flight, outcome: Outcome, hold: Reservation) -> None:
        counted = self._purse.book(flight.item.task, outcome, hold)
        self.counts.run_usd += outcome.cost_usd or ZERO
        self.counts.hedges -= flight.hedge and not flight.sent
        self.counts.hedges_usd += counted if flight.lost else ZERO
        if outcome.images:
            self._disk.observe(sum(image.bytes for image in outcome.images))

    def _halt(self, stop: Stop) -> None:
        """Begin nothing more; the first reason is the one that is told."""
        if self.stop is None:
            self.stop = stop
            self._tell(events.Stopped(reason=stop.reason, message=stop.message))
        self._pool.drain()

    def _log(
        self, flight: Flight, outcome: Outcome, decision: retry.Decision | None, *, goes_on: bool
    ) -> None:
        task = flight.item.task
        row = task.id if task.variant == 1 else f"{task.id} ({task.variant})"
        said = (outcome.message or "").rstrip(".")
        if decision is None:
            logger.debug("row %s: done in %.1f s", row, outcome.latency)
        elif flight.lost:
            logger.debug("row %s: %s: %s", row, outcome.kind, said)
        elif decision.action in {Action.RETRY, Action.COOL}:
            wait = max(decision.delay, outcome.retry_after or 0.0)
            again = "asked for again already" if goes_on else f"again in {wait:.1f} s"
            logger.info("row %s: %s: %s; %s", row, outcome.kind, said, again)
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

    def _credits(self, cost: Decimal | None) -> Decimal | None:
        each = self.endpoint.provider.usd_per_credit
        return None if cost is None or each is None else cost / each

    def _now(self) -> int:
        return int(self._wall() * 1_000_000)
