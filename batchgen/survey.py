"""
What is there to be bought, and what did the like take so far?

Two passes: over the latest requests of the ledger, and over the manifest. What is held of a task is sixteen
bytes at most.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from batchgen import pricing, providers
from batchgen.forecast import Need, Range, Seen, answer, asking
from batchgen.records import ZERO, Expect, ImageOptions, Price, Status, Usage
from batchgen.selection import Fate, fates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchgen.job import Job
    from batchgen.ledger import Journey, Reader, State
    from batchgen.manifest import Batch, Finished, Manifest
    from batchgen.records import Model, Provider

LATEST = 2_000
"""Requests that are learned from."""
_USUAL_SIZE = "1K"
"""As of 2026-11 models make it unless asked for another."""
_TEXT_TOKENS = 250
_MODAL = {ImageOptions.OPENROUTER, ImageOptions.MODALITIES}
"""They name what is to come; nothing else is drawn."""
_MANY = 1_000_000
_BY_TOKEN = Price(input=Decimal(_MANY), text=Decimal(_MANY), image=Decimal(_MANY))
_PAGE = 8192


class Standing(StrEnum):
    """How a task is told of before a run."""

    DONE = "done"
    NEW = "new"
    CHANGED = "changed"
    AGAIN = "again"
    RETRIED = "retried"
    UNCERTAIN_AGAIN = "uncertain_again"
    UNCERTAIN_LEFT = "uncertain_left"
    FAILED = "failed"
    WAITING = "waiting"


class Kind(NamedTuple):
    """What a task costs goes by these."""

    model: str
    expect: Expect
    size: str
    """Empty where no picture can come."""


@dataclass(slots=True)
class Lot:
    """Tasks of one kind that are to be bought, and what they say and show."""

    tasks: int = 0
    said: int = 0
    shown: int = 0


@dataclass(slots=True)
class Tempo:
    """What rows that have ended took of a model's time."""

    rows: int = 0
    requests: int = 0
    tokens: int = 0
    busy_s: float = 0.0
    squares: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What is there to be bought, and what did the like take so far?"""

    counts: Counter[Standing]
    lots: dict[Kind, Lot]
    answers: dict[Kind, list[Decimal]] = field(default_factory=lambda: defaultdict(list))
    """USD an answer, what was asked not included."""
    lengths: dict[Kind, list[Decimal]] = field(default_factory=lambda: defaultdict(list))
    """The same in tokens."""
    ways: dict[Expect, list[Decimal]] = field(default_factory=lambda: defaultdict(list))
    """How many answers each row paid for."""
    tempi: dict[str, Tempo] = field(default_factory=lambda: defaultdict(Tempo))
    """By model."""
    levels: int = 1
    """Tasks to be bought that continue one another, at most."""

    @property
    def wanted(self) -> int:
        """Tasks that are to be bought."""
        return sum(lot.tasks for lot in self.lots.values())

    @property
    def pictures(self) -> int:
        """Those of them that are to bring a picture."""
        return sum(lot.tasks for kind, lot in self.lots.items() if kind.expect is Expect.IMAGE)


class _Places(NamedTuple):
    """Where a task of the ledger is in the manifest: its kind, what it says and shows."""

    kind: Kind
    said: int
    shown: int


def survey(
    job: Job,
    provider: Provider,
    manifest: Manifest,
    reader: Reader | None,
    only: frozenset[str] | None,
    *,
    finished: Finished,
) -> Survey:
    """
    Go through manifest and ledger; blocks.

    :param finished: what the job leaves as it is without a look.
    """
    counts = Counter[Standing]()
    for status, count in finished.statuses.items():
        counts[_left(Status(status))] += count
    lots: dict[Kind, Lot] = defaultdict(Lot)
    quiet = _keeps_to_words(provider)
    unseen, depths, known = array("q"), set(), finished.tasks
    for batch, met in fates(job, manifest, reader, only, without=finished):
        kinds = _kinds(batch, quiet=quiet)
        for index, state, what in met:
            counts[_standing(job, what, state)] += 1
            known += state is not None
            if what is Fate.BUY:
                lot = lots[kinds[index]]
                lot.tasks += 1
                lot.said += batch.said[index]
                lot.shown += batch.shown[index]
                if manifest.levels > 1:
                    depths.add(batch.depths[index])
            if state is None and reader is not None and what is Fate.BUY:
                unseen.append(_named(batch.ids[index], batch.keys[index]))
    if reader is not None and unseen and known < sum(reader.totals().tasks.values()):
        changed = _changed(manifest, reader, unseen)
        counts[Standing.NEW] -= changed
        counts[Standing.CHANGED] += changed
    found = Survey(counts=counts, lots=dict(lots), levels=max(1, len(depths)))
    journeys = {} if reader is None else reader.journeys(most=LATEST)
    _learn(found, provider, journeys, _places(manifest, journeys, quiet=quiet))
    return found


def _places(manifest: Manifest, journeys: Mapping[str, Journey], *, quiet: bool) -> dict[str, _Places]:
    """What is known of tasks by the manifest, where they are in it still."""
    return {
        key: _Places(kind, said, shown)
        for batch in manifest.having(journeys)
        for key, kind, said, shown in zip(
            batch.keys, _kinds(batch, quiet=quiet), batch.said, batch.shown, strict=True
        )
    }


def _keeps_to_words(provider: Provider) -> bool:
    """Whether the endpoint is told that words are enough."""
    return provider.dialect == "gemini" or provider.image_options in _MODAL


def _kinds(batch: Batch, *, quiet: bool) -> list[Kind]:
    shared: dict[tuple[str, Expect, str | None, bool], Kind] = {}
    kinds = []
    for asked in zip(batch.models, batch.expects, batch.image_sizes, batch.in_words, strict=True):
        kind = shared.get(asked)
        if kind is None:
            model, expect, size, in_words = asked
            drawn = expect is Expect.IMAGE or not (quiet or in_words)
            kind = shared[asked] = Kind(model, expect, (size or _USUAL_SIZE).upper() if drawn else "")
        kinds.append(kind)
    return kinds


def _standing(job: Job, what: Fate, state: State | None) -> Standing:
    if what is Fate.WAIT:
        return Standing.WAITING
    if what is Fate.GIVE_UP:
        return Standing.UNCERTAIN_LEFT
    if what is Fate.ORPHAN:
        return Standing.FAILED
    if what is Fate.LEAVE:
        return _left(None if state is None else state.status)
    return _bought(job, state)


def _left(status: Status | None) -> Standing:
    """How a task is told of that is final."""
    left = {Status.SUCCEEDED: Standing.DONE, Status.UNCERTAIN: Standing.UNCERTAIN_LEFT}
    return Standing.FAILED if status is None else left.get(status, Standing.FAILED)


def _bought(job: Job, state: State | None) -> Standing:
    if state is None or state.unsent:
        return Standing.NEW
    if state.status is Status.PENDING:
        return Standing.UNCERTAIN_AGAIN if state.uncertain else Standing.NEW
    if state.status is Status.SUCCEEDED:
        # Else it is what it continues that is bought anew.
        return Standing.AGAIN if job.again else Standing.CHANGED
    return Standing.UNCERTAIN_AGAIN if state.status is Status.UNCERTAIN else Standing.RETRIED


def _named(row_id: str, key: str) -> int:
    """A row and its variant, in eight bytes."""
    return hash((row_id, key.rpartition("-")[2]))


def _changed(manifest: Manifest, reader: Reader, unseen: array[int]) -> int:
    """How many of these rows and variants were asked for under a key that is no longer in the manifest."""
    wanted = array("q", sorted(unseen))
    there = array("q")
    for batch in manifest.batches():
        there.extend(map(hash, batch.keys))
    there = array("q", sorted(there))
    met, last = bytearray(len(wanted)), ""
    while page := reader.named(last, most=_PAGE):
        last = page[-1][0]
        for key, row_id in page:
            place = _find(wanted, _named(row_id, key))
            if place is not None and not met[place] and _find(there, hash(key)) is None:
                met[place] = 1
    return sum(met)


def _find(ordered: array[int], number: int) -> int | None:
    place = bisect_left(ordered, number)
    return place if place < len(ordered) and ordered[place] == number else None


# What did the like take?


def _learn(
    found: Survey, provider: Provider, journeys: dict[str, Journey], places: dict[str, _Places]
) -> None:
    models: dict[str, _Rates] = {}
    kept: list[tuple[Journey, Kind]] = []
    paid: dict[Kind, list[Decimal]] = defaultdict(list)
    for key, journey in journeys.items():
        place = places.get(key)
        kind = place.kind if place is not None else _kind(journey)
        rates = models.get(kind.model)
        if rates is None:
            rates = models[kind.model] = _rates(providers.model_of(provider, kind.model))
        if journey.answers and journey.paid:
            each = journey.paid / journey.answers
            told = rates.token * journey.prompt_tokens / journey.answers
            if place is not None:
                told = rates.byte * place.said + rates.picture * place.shown
            found.answers[kind].append(each - told)
            paid[kind].append(each)
        if journey.answers and journey.answers == journey.requests:
            said = journey.total_tokens - journey.prompt_tokens
            found.lengths[kind].append(Decimal(said) / journey.answers)
        if journey.status is not Status.PENDING:
            kept.append((journey, kind))
            _time(found.tempi[kind.model], journey)
    usual = {kind: sum(costs, ZERO) / len(costs) for kind, costs in paid.items()}
    for journey, kind in kept:
        # Without any answer of its kind nobody knows what one would have cost.
        if each := usual.get(kind, ZERO):
            ends = journey.answers + (journey.status is not Status.SUCCEEDED)
            billed = journey.paid + journey.wasted + journey.unknown * each
            found.ways[kind.expect].append(billed / each / max(1, ends))


def _kind(journey: Journey) -> Kind:
    """The kind of a task that is no longer in the manifest."""
    if journey.pixels is not None:
        return Kind(journey.model, journey.expect, pricing.bucket(*journey.pixels))
    return Kind(journey.model, journey.expect, _USUAL_SIZE if journey.expect is Expect.IMAGE else "")


def _time(tempo: Tempo, journey: Journey) -> None:
    tempo.rows += 1
    tempo.requests += journey.requests
    tempo.tokens += journey.total_tokens
    tempo.busy_s += journey.busy_s
    tempo.squares += journey.busy_s**2


class _Rates(NamedTuple):
    """USD for what is asked."""

    byte: Decimal
    picture: Decimal
    token: Decimal


def _rates(model: Model) -> _Rates:
    token = pricing.cost(Usage(prompt_tokens=_MANY), model.price) or ZERO
    return _Rates(
        byte=asking(model, said=_MANY, shown=0).middle / _MANY,
        picture=asking(model, said=0, shown=_MANY).middle / _MANY,
        token=token / _MANY,
    )


def needs(found: Survey, provider: Provider) -> tuple[list[Need], list[str]]:
    """What is to be bought as a forecast wants it, in USD, and the models of it that have no price."""
    models = {kind: providers.model_of(provider, kind.model) for kind in found.lots}
    unpriced = [model.id for model in models.values() if model.price is None]
    by_quality = provider.dialect == "images"
    wanted = [
        _need(kind, lot, models[kind], found.answers, by_quality=by_quality)
        for kind, lot in found.lots.items()
    ]
    return wanted, [*dict.fromkeys(unpriced)]


def lengths(found: Survey, provider: Provider) -> list[Need]:
    """The same in tokens: as if each of them cost one dollar."""
    by_quality = provider.dialect == "images"
    return [
        _need(
            kind,
            lot,
            msgspec.structs.replace(providers.model_of(provider, kind.model), price=_BY_TOKEN),
            found.lengths,
            by_quality=by_quality,
        )
        for kind, lot in found.lots.items()
    ]


def _need(
    kind: Kind, lot: Lot, model: Model, seen: Mapping[Kind, list[Decimal]], *, by_quality: bool
) -> Need:
    return Need(
        expect=kind.expect,
        count=lot.tasks,
        answer=answer(model, kind.expect, kind.size, by_quality=by_quality) or Range(),
        asking=asking(model, said=lot.said, shown=lot.shown),
        seen=Seen.of(seen.get(kind, ())),
    )


def tokens(kind: Kind, lot: Lot, model: Model) -> float:
    """Tokens of a lot, about, where nothing was observed."""
    image = pricing.picture_tokens(model, kind.size) if kind.expect is Expect.IMAGE else 0
    shown = lot.shown * (model.reference_tokens or pricing.REFERENCE_TOKENS)
    return lot.tasks * (image + _TEXT_TOKENS) + lot.said / 4 + shown
