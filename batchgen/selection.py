"""Which tasks of a manifest does a job take up?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchgen import retry
from batchgen.job import OnUncertain
from batchgen.records import ErrorClass, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchgen.job import Job
    from batchgen.ledger import Reader, State
    from batchgen.manifest import Batch, Manifest


def selected(
    job: Job, manifest: Manifest, reader: Reader | None, only: frozenset[str] | None
) -> Iterator[tuple[Batch, list[tuple[int, State | None]]]]:
    """The tasks a job is about, in manifest order: each batch with its indices and what the ledger knows."""
    left = job.limit
    for batch in manifest.batches():
        chosen = [index for index, row in enumerate(batch.ids) if only is None or row in only][:left]
        states = reader.states([batch.keys[index] for index in chosen]) if reader is not None else {}
        yield batch, [(index, states.get(batch.keys[index])) for index in chosen]
        if left is not None:
            left -= len(chosen)
            if left <= 0:
                return


def wanted_again(job: Job, state: State | None) -> bool:
    """Whether the job takes up a task that is final, or that this run would make final without asking."""
    if state is None:
        return False
    if state.status is Status.PENDING:
        return (job.again or job.retry_failed) and gives_up(job, state)
    return job.again or (job.retry_failed and state.status is not Status.SUCCEEDED)


def gives_up(job: Job, state: State) -> bool:
    """Whether a pending task was sent without an answer as often as the job dares."""
    most = 1 if job.on_uncertain is OnUncertain.SKIP else retry.RULES[ErrorClass.UNCERTAIN].most or 1
    return state.status is Status.PENDING and state.uncertain >= most
