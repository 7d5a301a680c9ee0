"""Which tasks of a manifest does a job take up?"""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING

from batchgen import retry
from batchgen.job import OnUncertain
from batchgen.ledger import Standing
from batchgen.manifest import Finished
from batchgen.records import ErrorClass, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchgen.job import Job
    from batchgen.ledger import Reader, State
    from batchgen.manifest import Batch, Manifest

UNSEEN = Standing()
"""Of a task the ledger knows nothing of."""
_LOST = Standing(status=Status.FAILED)
"""Of a task that this run will find without a picture for good."""
_NOTHING = Finished()
_WORTH = 10
"""Where less than a tenth is finished, to find out which takes longer than it spares."""


class Fate(StrEnum):
    """What a run does with a task."""

    BUY = "buy"
    LEAVE = "leave"
    """It is final."""
    GIVE_UP = "give_up"
    """It was sent without an answer as often as the job dares."""
    WAIT = "wait"
    """The task it continues has no picture yet, and this run does not buy one."""
    ORPHAN = "orphan"
    """The task it continues is final without a picture."""


def selected(
    job: Job,
    manifest: Manifest,
    reader: Reader | None,
    only: frozenset[str] | None,
    *,
    without: Finished = _NOTHING,
    counting: bool = False,
) -> Iterator[tuple[Batch, list[tuple[int, State | None, Standing | None]]]]:
    """
    The tasks a job is about: each batch with its indices and what the ledger knows of them and their parents.

    They come in manifest order, those that continue others after all that continue fewer: level by level.

    :param without: what the job is known to leave as it is (`finished`).
    :param counting: no task is made of them.
    """
    for level in range(manifest.levels):
        left = job.limit
        # The first so many tasks are those of the whole manifest.
        batches = (
            manifest.gathered(without=without)
            if counting and manifest.levels == 1
            else manifest.batches(level if manifest.levels > 1 and left is None else None, without=without)
        )
        for batch in batches:
            chosen = [index for index, row in enumerate(batch.ids) if only is None or row in only][:left]
            mine = (
                [index for index in chosen if batch.depths[index] == level] if manifest.levels > 1 else chosen
            )
            keys = [batch.keys[index] for index in mine]
            states = reader.states(keys) if reader is not None else {}
            parents = _parents(batch, mine, reader) if level else repeat(None)
            yield batch, [*zip(mine, map(states.get, keys), parents, strict=False)]
            if left is not None:
                left -= len(chosen)
                if left <= 0:
                    break


def left_alone(job: Job, manifest: Manifest, reader: Reader | None, known: Finished | None) -> Finished:
    """
    What a job leaves as it is, as far as that is found without a look at each task.

    :param known: what is finished, if that is known already.
    """
    if reader is None or job.only is not None or job.limit is not None or job.again:
        return _NOTHING
    if job.retry_failed:
        return finished(manifest, reader, only=Status.SUCCEEDED)
    return finished(manifest, reader) if known is None else known


def finished(manifest: Manifest, reader: Reader, *, only: Status | None = None) -> Finished:
    """What is final, by the ledger, or final in one way; nothing where to find out would take longer."""
    # Whether a row that continues another is finished hangs on that one's picture, too.
    final = reader.final() if manifest.levels == 1 else {}
    kinds = [kind for kind in final if only in {None, kind[0]}]
    if sum(map(final.__getitem__, kinds)) * _WORTH < manifest.tasks:
        return _NOTHING
    return manifest.finished(partial(reader.final_keys, kinds))


def _parents(batch: Batch, indices: list[int], reader: Reader | None) -> list[Standing]:
    keys = [batch.parents[index] or "" for index in indices]
    known = reader.standings([*dict.fromkeys(keys)]) if reader is not None else {}
    return [known.get(key, UNSEEN) for key in keys]


def fates(
    job: Job,
    manifest: Manifest,
    reader: Reader | None,
    only: frozenset[str] | None,
    *,
    without: Finished = _NOTHING,
) -> Iterator[tuple[Batch, list[tuple[int, State | None, Fate]]]]:
    """
    What becomes of the tasks a job is about, foretold, in the order of `selected`; no task is made of them.

    Two bytes a task are held where rows continue others: what becomes of one hangs on what becomes of the
    other.
    """
    chained = manifest.levels > 1
    coming, lost = bytearray(manifest.tasks * chained), bytearray(manifest.tasks * chained)
    for batch, chosen in selected(job, manifest, reader, only, without=without, counting=True):
        met = []
        for index, state, standing in chosen:
            parent, comes = standing, False
            if parent is not None and (place := batch.parent_places[index]) is not None:
                comes = bool(coming[place])
                parent = _LOST if lost[place] else parent
            what = fate(job, state, parent, coming=comes)
            met.append((index, state, what))
            if chained:
                coming[batch.places[index]] = what is Fate.BUY
                lost[batch.places[index]] = what in {Fate.GIVE_UP, Fate.ORPHAN}
        yield batch, met


def fate(job: Job, state: State | None, parent: Standing | None = None, *, coming: bool = False) -> Fate:
    """
    What a run does with a task.

    :param parent: what is known of the task it continues, if it does.
    :param coming: whether the run buys that one first.
    """
    own = _own(job, state)
    if parent is None:
        return own
    if coming:
        return Fate.BUY
    if parent.picture is None:
        if own is not Fate.BUY:
            return own
        return Fate.WAIT if parent.status is Status.PENDING else Fate.ORPHAN
    # Where it is not known which picture it continued, it is not paid for again.
    changed = state is not None and state.parent_sha not in {None, parent.picture}
    return Fate.BUY if changed else own


def _own(job: Job, state: State | None) -> Fate:
    if state is None or state.unsent or wanted_again(job, state):
        return Fate.BUY
    if state.status is not Status.PENDING:
        return Fate.LEAVE
    return Fate.GIVE_UP if _gives_up(job, state) else Fate.BUY


def wanted_again(job: Job, state: State | None) -> bool:
    """Whether the job takes up a task that is final, or that this run would make final without asking."""
    if state is None:
        return False
    if state.status is Status.PENDING:
        return (job.again or job.retry_failed) and _gives_up(job, state)
    return job.again or (job.retry_failed and state.status is not Status.SUCCEEDED)


def _gives_up(job: Job, state: State) -> bool:
    """Whether a pending task was sent without an answer as often as the job dares."""
    most = 1 if job.on_uncertain is OnUncertain.SKIP else retry.RULES[ErrorClass.UNCERTAIN].most or 1
    return state.status is Status.PENDING and state.uncertain >= most
