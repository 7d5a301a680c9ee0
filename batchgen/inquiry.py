"""
Which one request stands for a night, and what will it cost?

It is prepared as a run prepares its own: the same job, the same checks, the first row of the manifest. What
is shown of it and what is sent are the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from batchgen import job as jobs
from batchgen import plan, pricing, providers
from batchgen.buffers import Buffers
from batchgen.client import Client
from batchgen.dialects import DIALECTS
from batchgen.job import MANIFEST
from batchgen.records import Expect, ImageOptions
from batchgen.references import References

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal
    from pathlib import Path

    from batchgen.client import TLS
    from batchgen.dialects import Dialect
    from batchgen.job import Endpoint, Job
    from batchgen.records import Model, Request, Task
    from batchgen.simulator.transport import SimulatorTransport

PROMPT = "a plain red circle on white"
"""Where there is no manifest."""

_HIDDEN = "[key]"
_CODE = re.compile(r"[A-Za-z0-9+/_-]{120,}={0,2}")
"""base64: no word is that long."""
_SHOWN = 24
_TEXT = 2000


@dataclass(frozen=True, kw_only=True)
class Inquiry:
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

    def client(self, *, timeout: float, tls: TLS | None = None) -> Client:
        """A connection to the endpoint, for requests of at most so many seconds."""
        return _client(self, self.endpoint.key, timeout=timeout, tls=tls)


def write_manifest(folder: Path) -> Path:
    """Put a manifest with the built-in prompt into a folder."""
    path = folder / "probe.csv"
    path.write_text(f"prompt\n{PROMPT}\n", encoding="utf-8")
    return path


def prepare(job: Job, environment: Mapping[str, str] | None, *, scratch: Path) -> Inquiry:
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
    usual = pricing.usual(model, task.expect, size=task.params.image_size or "1K")
    asked = pricing.asking(task, model)
    attached = [references.attach(reference) for reference in task.references]
    return Inquiry(
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


def shown(inquiry: Inquiry) -> dict[str, Any]:
    """Tell what would be sent: method, URL, headers without the key, body without pictures."""
    client = _client(inquiry, _HIDDEN, timeout=inquiry.job.timeout)
    request = inquiry.request
    return {
        "method": "POST",
        "url": f"{inquiry.endpoint.provider.base_url}{request.path}",
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


def _client(inquiry: Inquiry, key: str | None, *, timeout: float, tls: TLS | None = None) -> Client:
    provider = inquiry.endpoint.provider
    return Client(
        base_url=provider.base_url,
        key=key,
        key_header=provider.key_header,
        timeout=timeout,
        buffers=Buffers(),
        tls=tls,
        transport=inquiry.transport,
    )
