"""
Which values pass between the parts of a run?

All are frozen. Money is `Decimal` USD, times of day are UTC microseconds since 1970, spans are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  msgspec reads the annotations at run time
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Literal

import msgspec

ZERO = Decimal(0)


class Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all values: frozen and told by keyword (each says so itself), JSON without what is default."""


class Status(StrEnum):
    """Where a task stands. All but `PENDING` are final until someone asks for more."""

    SUCCEEDED = "succeeded"
    REFUSED = "refused"
    NO_IMAGE = "no_image"
    CORRUPT = "corrupt"
    FAILED = "failed"
    UNCERTAIN = "uncertain"
    PENDING = "pending"


class ErrorClass(StrEnum):
    """Why an attempt bought no picture. What each one does to the run is the table in `retry`."""

    RATE = "rate"
    """Too many requests a minute: the gate's business, not the task's."""
    DAILY_QUOTA = "daily_quota"
    """The day's quota is used up."""
    TRANSIENT = "transient"
    """The endpoint answered that it is overloaded or broken for the moment."""
    UNREACHABLE = "unreachable"
    """No connection: the request was never sent and is free."""
    UNCERTAIN = "uncertain"
    """The request was sent and no whole answer came: maybe billed."""
    NO_CHANNEL = "no_channel"
    """A gateway has no upstream for the model at the moment."""
    AUTH = "auth"
    """The key is missing, wrong or not allowed to do this."""
    ACCOUNT = "account"
    """The account cannot use this model (billing, location, no free tier)."""
    CREDITS = "credits"
    """The account is empty."""
    MODEL = "model"
    """The endpoint does not know the model."""
    ENDPOINT_INCAPABLE = "endpoint_incapable"
    """The endpoint knows the model and cannot return its pictures."""
    BAD_REQUEST = "bad_request"
    """The endpoint does not accept this request."""
    BLOCKED = "blocked"
    """The model or its filter refused."""
    NO_IMAGE = "no_image"
    """An answer without a picture."""
    LENGTH = "length"
    """The answer was cut by max_tokens before there was a picture."""
    CORRUPT = "corrupt"
    """A picture that does not decode."""
    BAD_ANSWER = "bad_answer"
    """A whole answer that cannot be read, or one over the size cap; maybe billed."""
    DOWNLOAD = "download"
    """A picture given as a link that could not be fetched; it was bought."""
    REFERENCE = "reference"
    """A picture that was to go along is no longer what it was: nothing was sent."""
    PARENT_FAILED = "parent_failed"
    """The row this one continues has no picture: nothing was sent."""
    UNWRITTEN = "unwritten"
    """A picture that came and could not be written; it was bought."""
    LATE = "late"
    """A good answer that came after another request for the same task (a hedge) had brought one."""


class Expect(StrEnum):
    """What completes a task."""

    IMAGE = "image"
    TEXT = "text"
    """Words are enough: a description, JSON, a tool call. A picture that comes is kept all the same."""


class ImageOptions(StrEnum):
    """How an endpoint wants to be told of a picture's shape and size, beside what all of them take."""

    NONE = "none"
    """Not at all."""
    GOOGLE = "google"
    """`extra_body.google.image_config` in the body itself, snake case."""
    OPENROUTER = "openrouter"
    """`image_config` beside `modalities`, without which only words come; so does LiteLLM's proxy."""
    MODALITIES = "modalities"
    """`modalities` alone (Vercel AI Gateway)."""
    FLAT = "flat"
    """`aspect_ratio` and `image_size` at the top."""
    SUFFIX = "suffix"
    """The size in the model's name: `gemini-3-pro-image-preview-2k`."""


class UsageQuality(StrEnum):
    """How far the token counts can be trusted, best first."""

    BILLED = "billed"
    """The endpoint named the money too."""
    DETAILED = "detailed"
    """The endpoint split its count into text and image tokens."""
    SPLIT_ESTIMATED = "split_estimated"
    """The endpoint's sum, split by the model's table of tokens a picture."""
    ESTIMATED = "estimated"
    """The endpoint's sum is missing or too small for the pictures that came."""
    NONE = "none"
    """Nothing was reported and no picture came, or a crash swallowed the report."""


class Price(Value, frozen=True, kw_only=True):
    """USD per million tokens."""

    input: Decimal
    text: Decimal
    image: Decimal
    image_input: Decimal | None = None
    """Of a picture that goes along; None where it costs what words cost."""


class Model(Value, frozen=True, kw_only=True):
    """What is known of a model at one provider. Ids are data: vendors rename them."""

    id: str
    """As it is sent."""
    title: str = ""
    aliases: tuple[str, ...] = ()
    price: Price | None = None
    image_tokens: Mapping[str, int] = {}
    """Output tokens a picture by size: '512', '1K', '2K', '4K'."""
    max_output_tokens: int | None = None
    context_tokens: int | None = None
    max_references: int | None = None
    """Pictures a request may bring along."""
    reference_tokens: int | None = None
    """Prompt tokens of one of them, at most; as many as Gemini counts where None."""
    aspect_ratios: tuple[str, ...] = ()
    """Those it takes; empty where none are known, and any is sent."""
    image_sizes: tuple[str, ...] | None = None
    """Those that may be asked for; none at all where empty, any where None."""
    features: tuple[str, ...] = ()
    seconds: Annotated[float, msgspec.Meta(gt=0)] = 20.0
    """A usual answer takes about so long; what is observed goes before it."""


class Way(Value, frozen=True, kw_only=True):
    """Another wire format that a provider speaks, and where."""

    base_url: str
    key_header: str = "authorization"
    image_options: ImageOptions = ImageOptions.NONE


class Provider(Value, frozen=True, kw_only=True):
    """Where pictures come from: base URL, dialect, key variables, models."""

    name: str
    title: str
    base_url: str
    """Ends before the dialect's own path (`/chat/completions`), without a trailing slash."""
    dialect: str = "chat"
    key_header: str = "authorization"
    """The header that carries the key: as a bearer token in `authorization`, else alone."""
    image_options: ImageOptions = ImageOptions.NONE
    max_reference_bytes: int | None = None
    """Of one picture that goes along with a request."""
    max_request_bytes: int | None = None
    """Of a whole request, pictures in base64 included."""
    reference_urls: bool = False
    """Whether it fetches pictures that are named by an https URL."""
    ways: Mapping[str, Way] = {}
    """Its other dialects by name."""
    key_variables: tuple[str, ...] = ("BATCHGEN_API_KEY",)
    """Environment variables that may hold the key, the first one set wins."""
    usd_per_credit: Decimal | None = None
    prices_as_of: str = ""
    """ISO date on which the prices were read at `source`."""
    source: str = ""
    simulated: bool = False
    """True when no money changes hands."""
    models: tuple[Model, ...] = ()


class Params(Value, frozen=True, kw_only=True):
    """Parameters of a request; None is not sent, so that the endpoint's own default holds."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    aspect_ratio: str | None = None
    image_size: str | None = None
    response_format: str | None = None
    """JSON text, OpenAI's format: `{"type": "json_object"}`. So are the next three."""
    tools: str | None = None
    tool_choice: str | None = None
    extra: str | None = None
    """A JSON object that is laid over the body of the request, table by table."""


class Reference(Value, frozen=True, kw_only=True):
    """A picture that goes along with a prompt: a file of known content, or a URL the endpoint fetches."""

    source: str
    """A path as it can be opened, or an https URL."""
    sha256: str
    """Of the file, in hex; of a URL's text."""
    mime: str = ""
    """By content; empty for a URL."""
    bytes: int = 0


class Attached(Value, frozen=True, kw_only=True):
    """A reference as it travels: base64, or the URL itself."""

    mime: str = ""
    base64: bytes = b""
    url: str | None = None


class Turn(Value, frozen=True, kw_only=True):
    """Something that was said before, in words."""

    role: Literal["user", "assistant"]
    text: str


class Task(Value, frozen=True, kw_only=True):
    """One picture to be bought: a manifest row × variant, resolved."""

    key: str
    """Content hash of what is sent, the occurrence of that content, the variant."""
    id: str
    """The row's id."""
    variant: int
    """Counted from 1."""
    name: str
    """The file name its row asks for, without extension, not yet made safe."""
    model: str
    """As it is sent."""
    prompt: str
    """What the user says, or the last of it where there are `messages`."""
    system: str | None = None
    messages: str | None = None
    """A conversation instead of a prompt: JSON text, OpenAI's format, its last message the user's."""
    history: tuple[Turn, ...] = ()
    """What was said on the way to the task this one continues."""
    references: tuple[Reference, ...] = ()
    expect: Expect = Expect.IMAGE
    params: Params = Params()


class Request(Value, frozen=True, kw_only=True):
    """What is posted for a task."""

    path: str
    """Behind the base URL."""
    body: tuple[bytes, ...]
    """One after the other: pictures are not copied into it."""
    content_type: str = "application/json"


class ReportedUsage(Value, frozen=True, kw_only=True):
    """Tokens as an answer states them; None where it is silent. A claim, not a bill."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    image_tokens: int | None = None
    """The image part of the completion."""
    input_image_tokens: int | None = None
    """The image part of the prompt."""
    cost_usd: Decimal | None = None
    """Money the endpoint itself names (`usage.cost`)."""


class Usage(Value, frozen=True, kw_only=True):
    """Tokens of one or more attempts, split by what they cost."""

    prompt_tokens: int = 0
    input_image_tokens: int = 0
    """The part of the prompt that is pictures."""
    text_tokens: int = 0
    """All output that is no picture, reasoning included."""
    image_tokens: int = 0
    total_tokens: int = 0
    quality: UsageQuality = UsageQuality.NONE


class EncodedImage(Value, frozen=True, kw_only=True):
    """A picture in an answer, not yet looked at: its bytes, or a link to them."""

    data: bytes | None = None
    url: str | None = None
    draft: bool = False
    """Marked by the endpoint as an interim picture."""


class Generation(Value, frozen=True, kw_only=True):
    """What a good answer gave."""

    images: tuple[EncodedImage, ...]
    """
    Distinct; in the order of the answer. The last that is no draft is the picture. At least one, unless
    words were expected.
    """
    text: str = ""
    reasoning: str = ""
    tool_calls: str | None = None
    """JSON text: OpenAI's list of tool calls."""
    finish_reason: str | None = None
    usage: ReportedUsage | None = None
    request_id: str | None = None


class Failure(Value, frozen=True, kw_only=True):
    """What an answer without a picture said."""

    kind: ErrorClass
    message: str
    """For people; no key, at most 500 characters."""
    http_status: int | None = None
    retry_after: float | None = None
    """Seconds the endpoint asks to wait."""
    text: str = ""
    finish_reason: str | None = None
    usage: ReportedUsage | None = None
    request_id: str | None = None


class Image(Value, frozen=True, kw_only=True):
    """A picture in the run directory."""

    file_name: str
    """Relative to the run directory, with forward slashes."""
    sha256: str
    mime: str
    width: int
    height: int
    bytes: int
    draft: bool = False


class Look(Value, frozen=True, kw_only=True):
    """How a picture looks."""

    phash: int
    """64 bits; those of pictures that look the same differ in few."""
    blank: bool
    """Whether it is of one colour."""


class Quota(Value, frozen=True, kw_only=True):
    """What an answer says of one of the endpoint's limits; None where it does not."""

    limit: float | None = None
    """1 or more."""
    window: float | None = None
    """Seconds for which the limit holds, 1 or more."""
    remaining: float | None = None
    reset: float | None = None
    """Seconds from when the request started, for that is when it was counted, until it is as before."""
    of_requests: bool = True
    """Whether requests are counted, or pictures, of which each asks for one; else tokens and the like."""


class Limit(Value, frozen=True, kw_only=True, omit_defaults=False):
    """How many requests a minute an endpoint takes, as far as a run has found out."""

    felt: float | None = None
    """As answers 429 taught."""
    stated: float | None = None
    """As the endpoint says itself."""

    @property
    def per_minute(self) -> float | None:
        """What is to be reckoned with: a gateway may state more than the endpoint behind it takes."""
        return min((each for each in (self.felt, self.stated) if each is not None), default=None)

    def is_news(self, before: Limit) -> bool:
        """Whether either of them is another one than before, by a tenth or more."""
        pairs = ((self.felt, before.felt), (self.stated, before.stated))
        return any(now is not None and (then is None or abs(now - then) >= then / 10) for now, then in pairs)


class Outcome(Value, frozen=True, kw_only=True):
    """What one attempt came to, without the bytes: the only thing that travels back from a worker."""

    kind: ErrorClass | None = None
    """None when the task has its picture."""
    message: str | None = None
    images: tuple[Image, ...] = ()
    """The picture last; drafts before it."""
    text: str = ""
    reasoning: str = ""
    tool_calls: str | None = None
    finish_reason: str | None = None
    request_id: str | None = None
    http_status: int | None = None
    retry_after: float | None = None
    quotas: tuple[Quota, ...] = ()
    usage: Usage = Usage()
    cost_usd: Decimal | None = None
    """By tokens and price; None when the model has no price."""
    billed_usd: Decimal | None = None
    """As the endpoint named it; None when it did not."""
    started_at: int = 0
    latency: float = 0.0
    """From the start of the request to the stored picture."""
