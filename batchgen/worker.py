"""
How does one attempt go, end to end?

A worker sends one request, reads the answer, checks the picture, makes it durable and says what came of it.
It knows nothing of other tasks, of pacing, of budgets or of the ledger, and only the outcome travels back:
the bytes stay here.
"""

from __future__ import annotations

from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING

import anyio
import msgspec

from batchgen import imaging, pricing
from batchgen.dialects import quotas
from batchgen.errors import CorruptImageError, InputError, StorageError
from batchgen.records import ErrorClass, Expect, Failure, Generation, Image, Outcome, Request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
    from decimal import Decimal
    from typing import Protocol, TypedDict, TypeVar

    from batchgen.client import Answer, Client
    from batchgen.dialects import Dialect
    from batchgen.disk import Disk
    from batchgen.imaging import Check, Picture
    from batchgen.provenance import Labels
    from batchgen.records import EncodedImage, ImageOptions, Model, Quota, ReportedUsage, Task, Usage
    from batchgen.references import References
    from batchgen.store import Pictures

    T = TypeVar("T")

    class Blocking(Protocol):
        """Runs a blocking call off the event loop."""

        async def __call__(self, call: Callable[[], T], /) -> T:
            """Run `call` and return what it returns."""

    class Attempting(Protocol):
        """Makes attempts: a worker, or what stands in for one where nothing is sent."""

        async def attempt(
            self,
            task: Task,
            stem: Callable[[], Awaitable[str | None]],
            *,
            sending: Callable[[], Awaitable[None]],
        ) -> Outcome:
            """See `Worker.attempt`."""

    class _Accounted(TypedDict):
        usage: Usage
        cost_usd: Decimal | None
        billed_usd: Decimal | None


UNKNOWN_COST = frozenset({ErrorClass.UNCERTAIN, ErrorClass.BAD_ANSWER})
"""Failures that may have been billed without saying how much."""


class Worker:
    """One attempt after the other over one connection."""

    def __init__(
        self,
        *,
        client: Client,
        dialect: Dialect,
        options: ImageOptions,
        stream: bool,
        references: References,
        store: Pictures,
        disk: Disk,
        models: Callable[[str], Model],
        check: Check,
        labels: Labels | None,
        blocking: Blocking,
        wall: Callable[[], float],
        redact: Callable[[str], str],
    ) -> None:
        """
        Bind the parts an attempt needs.

        :param options: how the endpoint wants to be told of a picture's shape and size.
        :param stream: whether answers are to come as server-sent events.
        :param references: holds the pictures that go along with prompts.
        :param disk: holds on to pictures while the store cannot write them.
        :param models: what is known of a model, by the id that is sent.
        :param labels: puts its origin into a picture; None where pictures stay as they were sent.
        :param blocking: runs a blocking call off the event loop.
        :param wall: seconds since 1970, for what the endpoint says about dates.
        :param redact: takes the key out of a text of the endpoint's.
        """
        self._client = client
        self._dialect = dialect
        self._options = options
        self._stream = stream
        self._references = references
        self._store = store
        self._disk = disk
        self._models = models
        self._check = check
        self._labels = labels
        self._blocking = blocking
        self._wall = wall
        self._redact = redact

    async def attempt(
        self,
        task: Task,
        stem: Callable[[], Awaitable[str | None]],
        *,
        sending: Callable[[], Awaitable[None]],
    ) -> Outcome:
        """
        Buy one picture, once.

        :param stem: asked when the answer is there, which file the picture fills (without extension); None:
            nobody needs it any more, it is accounted for and not kept.
        :param sending: awaited before the first byte of the request's body leaves.
        """
        began, started_at = anyio.current_time(), int(self._wall() * 1e6)
        said: tuple[Quota, ...] = ()
        request = await self._written(task)
        if isinstance(request, Failure):
            return self._failed(task, request)
        async with self._client.post(request, sending=sending) as answer:
            if isinstance(answer, Failure):
                outcome = self._failed(task, answer)
            else:
                # From here on it is paid for: nothing may interrupt it on its way to the disk.
                said = quotas.read(answer.headers, now=started_at / 1e6)
                with anyio.CancelScope(shield=True):
                    name = await stem()
                    kept = self._drop(task, answer) if name is None else self._keep(task, name, answer)
                    outcome = await kept
        return msgspec.structs.replace(
            outcome,
            # An endpoint may quote the key it was sent, wherever it has words.
            message=outcome.message and self._redact(outcome.message),
            text=self._redact(outcome.text),
            reasoning=self._redact(outcome.reasoning),
            tool_calls=outcome.tool_calls and self._redact(outcome.tool_calls),
            finish_reason=outcome.finish_reason and self._redact(outcome.finish_reason),
            request_id=outcome.request_id and self._redact(outcome.request_id),
            quotas=said,
            started_at=started_at,
            latency=anyio.current_time() - began,
        )

    async def _written(self, task: Task) -> Request | Failure:
        """The request with the pictures that go along; a failure where one is no longer what it was."""

        def write() -> Request:
            attached = [self._references.attach(reference) for reference in task.references]
            return self._dialect.request(task, attached, options=self._options, stream=self._stream)

        try:
            if not task.references:
                return write()
            # A parent's picture may lie in a bucket that does not answer at the moment.
            return await self._disk.persist(lambda: self._blocking(write))
        except InputError as cause:
            return Failure(kind=ErrorClass.REFERENCE, message=str(cause))

    async def _keep(self, task: Task, stem: str, answer: Answer) -> Outcome:
        kept = await self._blocking(lambda: self._digest(task, stem, answer))
        if isinstance(kept, Outcome):
            return kept
        picture = _picture(kept)
        if picture is None:
            return self._said(task, kept, [])
        data, link = picture.data, picture.url or ""
        fetched = await self._client.fetch(link) if data is None else data
        if isinstance(fetched, Failure):
            lost = fetched.message if link in fetched.message else f"{fetched.message}: {link}"
            return self._unkept(task, kept, ErrorClass.DOWNLOAD, lost)
        try:
            return await self._disk.persist(
                lambda: self._blocking(lambda: self._stored(task, stem, kept, fetched))
            )
        except StorageError as cause:
            # It was bought all the same: its tokens belong into the account.
            return self._unkept(task, kept, ErrorClass.UNWRITTEN, str(cause))

    def _digest(self, task: Task, stem: str, answer: Answer) -> Outcome | Generation:
        """Read an answer and keep its picture; a generation comes back while that is a link, or unwritten."""
        reading = self._read(task, answer)
        if isinstance(reading, Failure):
            return self._failed(task, reading)
        picture = _picture(reading)
        if picture is None or picture.data is None:
            return reading
        data = picture.data
        try:
            return self._stored(task, stem, reading, data)
        except StorageError:
            return reading  # the next try, with what patience it takes, is `_keep`'s

    def _read(self, task: Task, answer: Answer) -> Generation | Failure:
        reading = self._dialect.read(
            answer.status, answer.headers, answer.body, now=self._wall(), expect=task.expect
        )
        # All of it is read; a large picture is not held twice while it is decoded.
        self._client.recycle(answer)
        return reading

    async def _drop(self, task: Task, answer: Answer) -> Outcome:
        """Account for an answer as if it were kept, and keep nothing of it."""

        def account() -> Outcome:
            reading = self._read(task, answer)
            if isinstance(reading, Failure):
                return self._failed(task, reading)
            seen = [found for image, found in self._examined(reading.images) if not image.draft]
            # One that is a link, or damaged, is of unknown size.
            sizes = [(found.width, found.height) for found in seen] or [(1024, 1024)] * bool(reading.images)
            return self._said(task, reading, sizes)

        return await self._blocking(account)

    def _stored(self, task: Task, stem: str, generation: Generation, data: bytes | bytearray) -> Outcome:
        picture = _picture(generation)
        try:
            found = imaging.examine(data, self._check)
        except CorruptImageError as cause:
            aside = self._store.set_aside(stem, data)
            return self._unkept(task, generation, ErrorClass.CORRUPT, f"{cause}; kept as {aside}")
        drafts = [*self._examined(image for image in generation.images if image is not picture)]
        images = [
            self._put(f"{stem}-{number}", draft.data or b"", seen, draft=True)
            for number, (draft, seen) in enumerate(drafts, 1)
        ]
        if self._labels is not None:
            request = generation.request_id and self._redact(generation.request_id)
            data = self._labels.on(data, found.extension, stem=stem, task=task, request_id=request)
        images.append(self._put(stem, data, found, draft=False))
        sizes = [(seen.width, seen.height) for draft, seen in drafts if not draft.draft]
        said = self._said(task, generation, [*sizes, (found.width, found.height)])
        return msgspec.structs.replace(said, images=tuple(images))

    def _said(self, task: Task, generation: Generation, sizes: Sequence[tuple[int, int]]) -> Outcome:
        """What a good answer comes to but for its pictures, which are of these sizes."""
        return Outcome(
            text=generation.text,
            reasoning=generation.reasoning,
            tool_calls=generation.tool_calls,
            finish_reason=generation.finish_reason,
            request_id=generation.request_id,
            http_status=200,
            **self._usage(task, generation.usage, sizes),
        )

    def _examined(self, images: Iterable[EncodedImage]) -> Iterator[tuple[EncodedImage, Picture]]:
        """The interim pictures that can be looked at: a damaged or linked one is no loss."""
        for image in images:
            if image.data is not None:
                with suppress(CorruptImageError):
                    yield image, imaging.examine(image.data, self._check)

    def _put(self, stem: str, data: bytes | bytearray, seen: Picture, *, draft: bool) -> Image:
        return Image(
            file_name=self._store.put(stem, seen.extension, data, folder="drafts" if draft else "images"),
            sha256=sha256(data).hexdigest(),
            mime=seen.mime,
            width=seen.width,
            height=seen.height,
            bytes=len(data),
            draft=draft,
        )

    def _unkept(self, task: Task, generation: Generation, kind: ErrorClass, message: str) -> Outcome:
        # Where words are enough, they are not bought again for a picture that nobody asked for.
        words = task.expect is Expect.TEXT and bool(generation.text or generation.tool_calls)
        # Of unknown size: where the tokens are not reported, it is counted as the usual one.
        said = self._said(task, generation, [(1024, 1024)])
        return msgspec.structs.replace(
            said, kind=None if words and kind is not ErrorClass.UNWRITTEN else kind, message=message
        )

    def _failed(self, task: Task, failure: Failure) -> Outcome:
        return failed(failure, self._models(task.model))

    def _usage(
        self, task: Task, reported: ReportedUsage | None, sizes: Sequence[tuple[int, int]]
    ) -> _Accounted:
        return accounted(reported, sizes, self._models(task.model))


def failed(failure: Failure, model: Model) -> Outcome:
    """What an attempt without a picture comes to."""
    usage = accounted(failure.usage, [], model)
    if failure.kind in UNKNOWN_COST:
        usage["cost_usd"] = None
    return Outcome(
        kind=failure.kind,
        message=failure.message,
        text=failure.text,
        finish_reason=failure.finish_reason,
        request_id=failure.request_id,
        http_status=failure.http_status,
        retry_after=failure.retry_after,
        **usage,
    )


def accounted(reported: ReportedUsage | None, sizes: Sequence[tuple[int, int]], model: Model) -> _Accounted:
    """Tokens and money of an answer with pictures of these sizes, as an outcome has them."""
    usage = pricing.split(reported, sizes, model.image_tokens)
    return {
        "usage": usage,
        "cost_usd": pricing.cost(usage, model.price),
        "billed_usd": reported.cost_usd if reported is not None else None,
    }


def _picture(generation: Generation) -> EncodedImage | None:
    """The last final picture is the row's picture."""
    return next((image for image in reversed(generation.images) if not image.draft), None)
