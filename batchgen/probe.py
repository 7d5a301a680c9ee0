"""
What would a night at this endpoint meet?

One request is prepared as a run would (the same job, the same checks, the first row of its manifest), sent
once and never again, and looked at from all sides. Nothing is booked and no run directory is touched: what it
cost is told and kept nowhere.
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
import msgspec

from batchgen import imaging, links, plan, pricing, providers, sizes
from batchgen import job as jobs
from batchgen.buffers import Buffers
from batchgen.client import TLS, Answer, Client
from batchgen.dialects import DIALECTS, anatomy
from batchgen.dialects.lenient import decode, mapping, sequence, string
from batchgen.errors import CorruptImageError
from batchgen.findings import Findings
from batchgen.job import MANIFEST
from batchgen.records import ErrorClass, Expect, Failure, ImageOptions, Usage, UsageQuality
from batchgen.redaction import Redactor
from batchgen.references import References
from batchgen.worker import UNKNOWN_COST

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from decimal import Decimal
    from pathlib import Path

    from batchgen.dialects import Dialect
    from batchgen.job import Endpoint, Job
    from batchgen.records import EncodedImage, Generation, Model, ReportedUsage, Request, Task
    from batchgen.simulator.transport import SimulatorTransport
    from batchgen.worker import Blocking

PROMPT = "a plain red circle on white"
"""Where there is no manifest."""
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
_HIDDEN = "[key]"
_CODE = re.compile(r"[A-Za-z0-9+/_-]{120,}={0,2}")
"""base64: no word is that long."""
_SHOWN = 24
_TEXT = 2000


@dataclass(frozen=True, kw_only=True)
class Asking:
    """One request, ready to be sent."""

    job: Job
    endpoint: Endpoint
    task: Task
    model: Model
    request: Request
    own_size: bool
    """Whether the size is the probe's choice, for the money's sake."""
    estimate_usd: Decimal | None
    """What it will cost, about; None when the model has no price."""
    transport: SimulatorTransport | None

    @property
    def dialect(self) -> Dialect:
        """The wire format."""
        return DIALECTS[self.endpoint.provider.dialect]


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


def write_manifest(folder: Path) -> Path:
    """Put a manifest with the built-in prompt into a folder."""
    path = folder / "probe.csv"
    path.write_text(f"prompt\n{PROMPT}\n", encoding="utf-8")
    return path


def prepare(job: Job, environment: Mapping[str, str] | None, *, scratch: Path) -> Asking:
    """
    Check job and manifest as a run does and write the request for the first row. Blocks.

    :param environment: where the key is looked up; None when nothing will be sent.
    :param scratch: a folder for what is left when this returns, and needed no more.
    :raises InputError: the job or its manifest cannot be run.
    """
    job = jobs.checked(job)
    endpoint = plan.checked(job, environment)
    provider, references = endpoint.provider, References()
    manifest = plan.read_manifest(job, endpoint, scratch / MANIFEST, references)
    task = next(manifest.batches()).task(0)
    model = providers.model_of(provider, task.model)
    dialect = DIALECTS[provider.dialect]
    size = _smallest(task, model, dialect, provider.image_options)
    if size is not None:
        task = msgspec.structs.replace(task, params=msgspec.structs.replace(task.params, image_size=size))
    usual = pricing.usual(model, task.params.image_size or "1K")
    asked = pricing.asking(task, model)
    attached = [references.attach(reference) for reference in task.references]
    return Asking(
        job=job,
        endpoint=endpoint,
        task=task,
        model=model,
        request=dialect.request(task, attached, options=provider.image_options, stream=job.stream),
        own_size=size is not None,
        estimate_usd=None if usual is None or asked is None else usual + asked,
        transport=plan.transport(job, endpoint),
    )


def _smallest(task: Task, model: Model, dialect: Dialect, options: ImageOptions) -> str | None:
    """The cheapest size that can be asked for, where neither row nor job says anything of it."""
    params = task.params
    if params.image_size is not None or params.extra is not None or task.expect is not Expect.IMAGE:
        return None
    # In a model's name a size is another model, which may not be there.
    if options is ImageOptions.SUFFIX or "image_size" in dialect.cannot(options):
        return None
    return next((size for size in providers.SIZES if size in (model.image_sizes or ())), None)


def shown(asking: Asking) -> dict[str, Any]:
    """Tell what would be sent: method, URL, headers without the key, body without pictures."""
    client = _client(asking, _HIDDEN, timeout=asking.job.timeout)
    request = asking.request
    return {
        "method": "POST",
        "url": f"{asking.endpoint.provider.base_url}{request.path}",
        "headers": client.headers(request),
        "body": _shortened(_readable(request)),
    }


def _readable(request: Request) -> object:
    if request.content_type == "application/json":
        return msgspec.json.decode(b"".join(request.body))
    return "".join(
        piece.decode("utf-8", "backslashreplace") if len(piece) <= _TEXT else f"({len(piece):,} bytes)"
        for piece in request.body
    )


def _shortened(value: object) -> object:
    """The same without the base64 in it."""
    if isinstance(value, dict):
        return {key: _shortened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    if isinstance(value, str):
        return _CODE.sub(lambda code: f"{code[0][:_SHOWN]}… ({len(code[0]):,} characters)", value)
    return value


async def ask(
    asking: Asking,
    *,
    wall: Callable[[], float] = time.time,
    blocking: Blocking = anyio.to_thread.run_sync,
) -> Answered:
    """
    Look up the model, which is free, then send the request, once.

    :param wall: seconds since 1970, for what the endpoint says about dates.
    :param blocking: runs a blocking call off the event loop.
    """
    tls, key = TLS(), asking.endpoint.key
    async with _client(asking, key, timeout=min(_LISTING, asking.job.timeout), tls=tls) as client:
        listed, listing = _listed(await client.get("/models"), asking.model)
    began = anyio.current_time()
    async with (
        _client(asking, key, timeout=asking.job.timeout, tls=tls) as client,
        client.post(asking.request, sending=anyio.lowlevel.checkpoint) as answer,
    ):
        seen = _Seen(asking, listed=listed, listing=listing, latency=anyio.current_time() - began)
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


def _client(asking: Asking, key: str | None, *, timeout: float, tls: TLS | None = None) -> Client:
    provider = asking.endpoint.provider
    return Client(
        base_url=provider.base_url,
        key=key,
        key_header=provider.key_header,
        timeout=timeout,
        buffers=Buffers(),
        tls=tls,
        transport=asking.transport,
    )


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

    def __init__(self, asking: Asking, *, listed: bool | None, listing: str, latency: float) -> None:
        self._asking = asking
        self._answer: Answer | None = None
        self._anatomy = anatomy.Anatomy()
        provider, params = asking.endpoint.provider, asking.task.params
        self._redact = Redactor([] if provider.simulated else [asking.endpoint.key or ""])
        self._known: dict[str, Any] = {
            "provider": provider.name,
            "title": provider.title,
            "url": f"{provider.base_url}{asking.request.path}",
            "base_url": provider.base_url,
            "given_url": asking.job.base_url is not None,
            "dialect": provider.dialect,
            "ways": tuple(provider.ways),
            "image_options": provider.image_options,
            "stream": asking.job.stream,
            "simulated": provider.simulated,
            "timeout": asking.job.timeout,
            "concurrency": asking.job.concurrency,
            "model": asking.task.model,
            "priced": asking.model.price is not None,
            "expect": asking.task.expect,
            "aspect_ratio": params.aspect_ratio,
            "image_size": params.image_size,
            "own_size": asking.own_size,
            "estimate_usd": asking.estimate_usd,
            "listed": listed,
            "listing": self._redact(listing),
            "latency": latency,
        }

    def read(self, answer: Answer, now: float) -> Generation | Failure:
        """Take an answer apart. Blocks."""
        self._answer, self._anatomy = answer, anatomy.look(answer.body)
        asking = self._asking
        return asking.dialect.read(
            answer.status, answer.headers, answer.body, now=now, expect=asking.task.expect
        )

    def failed(self, failure: Failure) -> Answered:
        """No good answer."""
        usage = pricing.split(failure.usage, [], self._asking.model.image_tokens)
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
            found = imaging.examine(data, self._asking.job.check)
        except CorruptImageError as cause:
            accounted = self._of(generation, [(1024, 1024)])
            return self._told(data, **accounted, **size, kind=ErrorClass.CORRUPT, message=str(cause))
        params = self._asking.task.params
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
        usage = pricing.split(generation.usage, pixels, self._asking.model.image_tokens)
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
        cost = None if unknown else pricing.cost(usage, self._asking.model.price)
        billed = reported.cost_usd if reported is not None else None
        rate = self._asking.endpoint.provider.usd_per_credit
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
