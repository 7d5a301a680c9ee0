"""
How does an attempt go where nothing is sent?

A stand-in for the workers of a rehearsal: it asks the simulated endpoint what it decides, waits as long as
that takes, and returns the outcome that a worker would have read out of the bytes. What never comes to be,
because it decides nothing, is the connection, the answer's JSON and the picture.
"""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import msgspec

from batchgen import worker
from batchgen.dialects import DIALECTS, quotas
from batchgen.records import (
    Attached,
    ErrorClass,
    Expect,
    Failure,
    Image,
    ImageOptions,
    Outcome,
    ReportedUsage,
)
from batchgen.simulator import Decided, Ending
from batchgen.simulator.requests import read
from batchgen.simulator.sold import Offer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from batchgen.records import Model, Provider, Task
    from batchgen.simulator import Endpoint, Reply
    from batchgen.simulator.asked import Asked
    from batchgen.worker import Attempting

_CHAT = DIALECTS["chat"]
_SPOILT = {
    "bad_json": ErrorClass.BAD_ANSWER,
    "bad_base64": ErrorClass.CORRUPT,
    "corrupt": ErrorClass.CORRUPT,
    "lost_link": ErrorClass.DOWNLOAD,
}
"""What a worker makes of an answer whose picture the simulator has spoilt so."""
_LOST = frozenset({Ending.RESET_AFTER, Ending.TRUNCATED, Ending.HANG})
_SQUARE = (1024, 1024)


class StandIn:
    """Makes the attempts of all workers of one rehearsed run."""

    def __init__(
        self,
        endpoint: Endpoint,
        models: Callable[[str], Model],
        *,
        provider: Provider,
        tokens: Mapping[tuple[str, Expect], tuple[tuple[int, int], ...]],
        timeout: float,
        picture: int,
        wall: Callable[[], float],
        seed: int,
        ended: Callable[[Task, Outcome], None],
    ) -> None:
        """
        Begin.

        :param models: what is known of a model, by the id that is sent.
        :param tokens: text and image tokens of real answers, from which those of pictures are drawn.
        :param timeout: seconds a request may take.
        :param picture: bytes of a picture.
        :param wall: seconds since 1970.
        :param ended: told every outcome, and of which task.
        """
        self._endpoint = endpoint
        self._models = models
        self._provider = provider
        self._tokens = tokens
        self._timeout = timeout
        self._picture = picture
        self._wall = wall
        self._dice = random.Random(f"{seed} tokens")
        self._ended = ended

    @asynccontextmanager
    async def hired(self, hands: int) -> AsyncIterator[Sequence[Attempting]]:
        """See `Crew.hired`."""
        yield [self] * hands

    async def attempt(
        self,
        task: Task,
        stem: Callable[[], Awaitable[str | None]],
        *,
        sending: Callable[[], Awaitable[None]],
    ) -> Outcome:
        """See `Worker.attempt`; nothing is sent."""
        began, started_at = anyio.current_time(), int(self._wall() * 1e6)
        outcome = await self._attempt(task, sending)
        outcome = msgspec.structs.replace(
            outcome, started_at=started_at, latency=anyio.current_time() - began
        )
        self._ended(task, outcome)
        return outcome

    async def _attempt(self, task: Task, sending: Callable[[], Awaitable[None]]) -> Outcome:
        model = self._models(task.model)
        if self._endpoint.refuses():
            await anyio.lowlevel.checkpoint()
            return worker.failed(Failure(kind=ErrorClass.UNREACHABLE, message="refused"), model)
        await sending()
        try:
            asked = _asked(task)
        except ValueError as cause:
            return worker.failed(Failure(kind=ErrorClass.BAD_REQUEST, message=str(cause)), model)
        decided = self._endpoint.ask(asked, Offer(model=model, provider=self._provider))
        said = quotas.read(decided.headers, now=self._wall())
        lost = isinstance(decided, Decided) and decided.ending in _LOST
        hangs = isinstance(decided, Decided) and decided.ending is Ending.HANG
        if hangs or decided.delay >= self._timeout:
            await anyio.sleep(self._timeout)
            lost = True
        else:
            await anyio.sleep(decided.delay)
        if lost:
            return worker.failed(Failure(kind=ErrorClass.UNCERTAIN, message="no whole answer"), model)
        if isinstance(decided, Decided) and decided.answer.tokens.image:
            outcome = self._drawn(task, model, decided)
        else:
            reply = self._endpoint.written(decided) if isinstance(decided, Decided) else decided
            outcome = self._worded(task, model, reply)
        return msgspec.structs.replace(outcome, quotas=said)

    def _worded(self, task: Task, model: Model, reply: Reply) -> Outcome:
        """An answer of words alone, or an error: few bytes, and read as they are."""
        body = reply.body if isinstance(reply.body, bytes) else reply.body()
        reading = _CHAT.read(reply.status, reply.headers, body, now=self._wall(), expect=task.expect)
        if isinstance(reading, Failure):
            return worker.failed(reading, model)
        return Outcome(
            text=reading.text,
            tool_calls=reading.tool_calls,
            finish_reason=reading.finish_reason,
            http_status=200,
            **worker.accounted(reading.usage, [], model),
        )

    def _drawn(self, task: Task, model: Model, decided: Decided) -> Outcome:
        """An answer with a picture that nobody paints."""
        kind = _SPOILT.get(decided.draw.fault or "")
        if kind is ErrorClass.BAD_ANSWER:
            return worker.failed(Failure(kind=kind, message="spoilt", http_status=200), model)
        usage = self._usage(task, decided)
        told = Outcome(
            kind=None if task.expect is Expect.TEXT else kind,
            http_status=200,
            **worker.accounted(usage, [decided.draw.size.pixels if kind is None else _SQUARE], model),
        )
        if kind is not None:
            return told
        picture = Image(
            file_name=f"images/{task.key}.jpg",
            sha256=sha256(decided.answer.id.encode()).hexdigest(),
            mime="image/jpeg",
            width=decided.draw.size.pixels[0],
            height=decided.draw.size.pixels[1],
            bytes=self._picture,
        )
        return msgspec.structs.replace(told, images=(picture,))

    def _usage(self, task: Task, decided: Decided) -> ReportedUsage:
        """The tokens as earlier answers had them, of pictures that took as many; else as it was decided."""
        tokens = decided.answer.tokens
        text, image = tokens.text, tokens.image
        seen = self._tokens.get((task.model, task.expect), ())
        if seen:
            at = self._dice.randrange(len(seen))
            drawn_text, drawn_image = seen[at]
            text = drawn_text
            # Who asked for no size has had none asked for before, most likely.
            image = drawn_image if drawn_image and task.params.image_size is None else image
        detailed = decided.answer.details
        return ReportedUsage(
            prompt_tokens=tokens.prompt,
            completion_tokens=text + image,
            total_tokens=tokens.prompt + text + image,
            image_tokens=image if detailed else None,
        )


def _asked(task: Task) -> Asked:
    """
    The request as the simulator reads it, with its references as links.

    Without `extra`, of which only the endpoint knows what it means.
    """
    plain = msgspec.structs.replace(task, params=msgspec.structs.replace(task.params, extra=None))
    attached = [Attached(url=f"https://rehearsal.invalid/{one.sha256}") for one in task.references]
    request = _CHAT.request(plain, attached, options=ImageOptions.GOOGLE, stream=False)
    return read(b"".join(request.body), links=True)
