"""
What would a night at this endpoint meet?

One request is sent, once and never again, and what comes is looked at from all sides. Nothing is booked and
no run directory is touched: what it cost is told and kept nowhere.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import anyio.to_thread

from batchgen import imaging, links, pricing, sizes
from batchgen.client import TLS, Answer
from batchgen.dialects import anatomy
from batchgen.dialects.lenient import decode, mapping, sequence, string
from batchgen.errors import CorruptImageError
from batchgen.findings import Findings
from batchgen.records import ErrorClass, Failure, UsageQuality
from batchgen.redaction import Redactor
from batchgen.worker import UNKNOWN_COST

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchgen.inquiry import Inquiry
    from batchgen.records import EncodedImage, Generation, Model, ReportedUsage, Usage
    from batchgen.worker import Blocking

ACCOUNT = frozenset(
    {
        ErrorClass.AUTH,
        ErrorClass.ACCOUNT,
        ErrorClass.CREDITS,
        ErrorClass.RATE,
        ErrorClass.DAILY_QUOTA,
    }
)
"""Failures that are about the key, the account or its quota."""

_LISTING = 30.0
"""Seconds for the list of models."""
_TELLING = re.compile(r"(x-)?ratelimit-.*|x-ratelimit.*|retry-after|x-request-id|request-id|cf-ray")


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What came of it."""

    findings: Findings
    picture: bytes | bytearray | None = field(default=None, repr=False)
    """As it came, sound or not."""

    @property
    def exit_status(self) -> int:
        """0 when it is what was expected, 3 when key, account or quota are in the way, else 1."""
        kind = self.findings.kind
        return 0 if kind is None else 3 if kind in ACCOUNT else 1


async def ask(
    inquiry: Inquiry,
    *,
    wall: Callable[[], float] = time.time,
    blocking: Blocking = anyio.to_thread.run_sync,
) -> Answered:
    """
    Look up the model, which is free, then send the request, once.

    :param wall: seconds since 1970, for what the endpoint says about dates.
    :param blocking: runs a blocking call off the event loop.
    """
    tls = TLS()
    async with inquiry.client(timeout=min(_LISTING, inquiry.job.timeout), tls=tls) as client:
        listed, listing = _listed(await client.get("/models"), inquiry.model)
    began = anyio.current_time()
    async with (
        inquiry.client(timeout=inquiry.job.timeout, tls=tls) as client,
        client.post(inquiry.request, sending=anyio.lowlevel.checkpoint) as answer,
    ):
        seen = _Seen(inquiry, listed=listed, listing=listing, latency=anyio.current_time() - began)
        if isinstance(answer, Failure):
            return seen.failed(answer)
        reading = await blocking(partial(seen.read, answer, wall()))
        if isinstance(reading, Failure):
            return seen.failed(reading)
        picture = _picture(reading)
        if picture is None:
            return seen.said(reading)
        if picture.data is not None:
            return await blocking(partial(seen.examined, reading, picture.data))
        fetched = await client.fetch(picture.url or "")
        if isinstance(fetched, Failure):
            return seen.lost(reading, fetched)
        return await blocking(partial(seen.examined, reading, fetched))


def _listed(answer: Answer | Failure, model: Model) -> tuple[bool | None, str]:
    """Whether a model is in the list of them that an endpoint gave, and what that came to."""
    if isinstance(answer, Failure):
        return None, answer.message
    if answer.status != 200:
        return None, f"HTTP {answer.status}, no list"
    try:
        table = mapping(decode(answer.body))
    except ValueError:
        table = {}
    entries = [mapping(entry) for entry in (*sequence(table.get("data")), *sequence(table.get("models")))]
    named = {string(entry.get(key)).removeprefix("models/") for entry in entries for key in ("id", "name")}
    if not named - {""}:
        return None, "HTTP 200, no list"
    if model.id.removeprefix("models/") in named:
        return True, f"HTTP 200, {model.id} is listed"
    if table.get("nextPageToken") or table.get("has_more"):
        return None, f"HTTP 200, {model.id} is not on the first page"
    return False, f"HTTP 200, {model.id} is not among {len(entries):,} models"


class _Seen:
    """What is known of one request, until it is told."""

    def __init__(self, inquiry: Inquiry, *, listed: bool | None, listing: str, latency: float) -> None:
        self._inquiry = inquiry
        self._answer: Answer | None = None
        self._anatomy = anatomy.Anatomy()
        provider, params = inquiry.endpoint.provider, inquiry.task.params
        self._redact = Redactor([] if provider.simulated else [inquiry.endpoint.key or ""])
        self._known: dict[str, Any] = {
            "provider": provider.name,
            "title": provider.title,
            "url": f"{provider.base_url}{inquiry.request.path}",
            "base_url": provider.base_url,
            "given_url": inquiry.job.base_url is not None,
            "dialect": provider.dialect,
            "ways": tuple(provider.ways),
            "image_options": provider.image_options,
            "stream": inquiry.job.stream,
            "simulated": provider.simulated,
            "timeout": inquiry.job.timeout,
            "concurrency": inquiry.job.concurrency,
            "model": inquiry.task.model,
            "priced": inquiry.model.price is not None,
            "expect": inquiry.task.expect,
            "aspect_ratio": params.aspect_ratio,
            "image_size": params.image_size,
            "own_size": inquiry.own_size,
            "estimate_usd": inquiry.estimate_usd,
            "listed": listed,
            "listing": self._redact(listing),
            "latency": latency,
        }

    def read(self, answer: Answer, now: float) -> Generation | Failure:
        """Take an answer apart. Blocks."""
        self._answer, self._anatomy = answer, anatomy.look(answer.body)
        inquiry = self._inquiry
        return inquiry.dialect.read(
            answer.status, answer.headers, answer.body, now=now, expect=inquiry.task.expect
        )

    def failed(self, failure: Failure) -> Answered:
        """No good answer."""
        usage = pricing.split(failure.usage, [], self._inquiry.model.image_tokens)
        unknown = failure.kind in UNKNOWN_COST
        return self._told(
            None,
            **self._accounted(usage, failure.usage, unknown=unknown),
            kind=failure.kind,
            message=failure.message,
            status=failure.http_status,
            retry_after=failure.retry_after,
            request_id=failure.request_id,
            text=failure.text,
            finish_reason=failure.finish_reason,
        )

    def said(self, generation: Generation) -> Answered:
        """Words, where they were expected."""
        return self._told(None, **self._of(generation, []))

    def lost(self, generation: Generation, failure: Failure) -> Answered:
        """A picture that was bought and could not be fetched."""
        accounted = self._of(generation, [(1024, 1024)])
        return self._told(None, **accounted, kind=failure.kind, message=failure.message)

    def examined(self, generation: Generation, data: bytes | bytearray) -> Answered:
        """A good answer, and the bytes of its picture. Blocks."""
        size = {"bytes": len(data), "declared": next(reversed(self._anatomy.mimes), None)}
        try:
            found = imaging.examine(data, self._inquiry.job.check)
        except CorruptImageError as cause:
            accounted = self._of(generation, [(1024, 1024)])
            return self._told(data, **accounted, **size, kind=ErrorClass.CORRUPT, message=str(cause))
        params = self._inquiry.task.params
        return self._told(
            data,
            **self._of(generation, [(found.width, found.height)]),
            **size,
            mime=found.mime,
            width=found.width,
            height=found.height,
            size_ok=sizes.as_asked(
                found.width, found.height, aspect_ratio=params.aspect_ratio, image_size=params.image_size
            ),
        )

    def _of(self, generation: Generation, pixels: list[tuple[int, int]]) -> dict[str, Any]:
        """What a good answer says beside its picture."""
        picture = _picture(generation)
        usage = pricing.split(generation.usage, pixels, self._inquiry.model.image_tokens)
        return {
            **self._accounted(usage, generation.usage, unknown=False),
            "drafts": max(0, len(generation.images) - 1),
            "link": links.shown(picture.url) if picture is not None and picture.url else None,
            "text": generation.text,
            "reasoning": generation.reasoning,
            "tool_calls": generation.tool_calls,
            "finish_reason": generation.finish_reason,
            "request_id": generation.request_id,
        }

    def _accounted(self, usage: Usage, reported: ReportedUsage | None, *, unknown: bool) -> dict[str, Any]:
        cost = None if unknown else pricing.cost(usage, self._inquiry.model.price)
        billed = reported.cost_usd if reported is not None else None
        rate = self._inquiry.endpoint.provider.usd_per_credit
        paid = cost if billed is None else billed
        return {
            "prompt_tokens": usage.prompt_tokens,
            "text_tokens": usage.text_tokens,
            "image_tokens": usage.image_tokens,
            "total_tokens": usage.total_tokens,
            "quality": usage.quality,
            "cost_usd": cost,
            "billed_usd": billed,
            "credits": None if paid is None or not rate else paid / rate,
        }

    def _told(self, picture: bytes | bytearray | None, **found: object) -> Answered:
        """All of it, without the key in anything that the endpoint wrote."""
        seen: dict[str, Any] = {
            "shapes": self._anatomy.shapes,
            "streamed": self._anatomy.streamed,
            "echoed": self._anatomy.model,
            "reported": self._anatomy.usage,
        }
        if self._answer is not None:
            seen["status"], seen["headed"] = self._answer.status, self._answer.headed
            seen["headers"] = {
                name: value for name, value in self._answer.headers.items() if _TELLING.fullmatch(name)
            }
        told = {**seen, **{key: value for key, value in found.items() if value is not None}}
        findings = Findings(**self._known, **{key: self._clean(value) for key, value in told.items()})
        return Answered(findings=findings, picture=picture)

    def _clean(self, value: object) -> Any:  # noqa: ANN401  as it came
        if isinstance(value, str) and not isinstance(value, ErrorClass | UsageQuality):
            return self._redact(value)
        if isinstance(value, tuple):
            return tuple(map(self._clean, value))
        if isinstance(value, dict):
            return {self._clean(key): self._clean(item) for key, item in value.items()}
        return value


def _picture(generation: Generation) -> EncodedImage | None:
    """The last final picture is the row's picture."""
    return next((image for image in reversed(generation.images) if not image.draft), None)
