"""
What did an endpoint show of itself, and what follows for a night there?

`Findings` are the facts of one request, all that an endpoint said in them without the key. `advice` judges
them: the settings to change and what to expect, and what to do where no picture came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping  # noqa: TC003  msgspec reads the annotations at run time
from decimal import Decimal

from batchgen.records import ErrorClass, Expect, ImageOptions, UsageQuality, Value
from batchgen.retry import RULES

SLOW = 90.0
"""Seconds; many proxies cut a connection that is silent for a hundred, as Cloudflare does (HTTP 524)."""
_GATEWAY_TIMEOUTS = (504, 522, 524)
_LONGEST = 86_400.0
"""Seconds a request may be given."""
_APART = Decimal("0.1")
"""The share by which a bill may differ from the price list before it is told."""
_OTHER_WAYS = (ImageOptions.GOOGLE, ImageOptions.OPENROUTER, ImageOptions.FLAT)
_LIMIT = "x-ratelimit-limit-requests"
_COMPATIBLE = "/openai"
"""Ends base URLs one level above which Gemini's own API is: https://ai.google.dev/gemini-api/docs/openai"""


class Findings(Value, frozen=True, kw_only=True):
    """One request and what came of it; words of the endpoint's are without the key."""

    provider: str
    title: str
    url: str
    """Where the request went."""
    base_url: str
    given_url: bool
    """Whether the job names the base URL."""
    dialect: str
    ways: tuple[str, ...] = ()
    """Other dialects the provider is known to speak."""
    image_options: ImageOptions
    stream: bool = False
    simulated: bool = False
    timeout: float
    concurrency: int = 1

    model: str
    """As it was sent."""
    priced: bool = False
    expect: Expect = Expect.IMAGE
    aspect_ratio: str | None = None
    image_size: str | None = None
    own_size: bool = False
    """Whether the size was the probe's choice."""
    estimate_usd: Decimal | None = None

    listing: str
    """What `GET /models` came to."""
    listed: bool | None = None
    """Whether the model is in the endpoint's list; None when that is not known."""

    status: int | None = None
    """Of HTTP; None when no head of an answer came."""
    kind: ErrorClass | None = None
    """Why there is no sound picture; None when there is (or words, where they were expected)."""
    message: str | None = None
    retry_after: float | None = None
    request_id: str | None = None
    headers: Mapping[str, str] = {}
    """Those that tell of limits, and of the request's name."""
    headed: float | None = None
    """Seconds to the head of the answer."""
    latency: float = 0.0
    """Seconds to its last byte."""
    streamed: bool = False

    shapes: tuple[str, ...] = ()
    """Where the pictures stood in the answer."""
    drafts: int = 0
    link: str | None = None
    """Where the picture was fetched, if it came as a link; without what follows its path."""
    declared: str | None = None
    """The type that the picture was said to be."""
    mime: str | None = None
    """The type it is."""
    width: int | None = None
    height: int | None = None
    bytes: int | None = None
    size_ok: bool | None = None
    """Whether the pixels are as asked; None where nothing was asked or no picture came."""

    text: str = ""
    reasoning: str = ""
    tool_calls: str | None = None
    finish_reason: str | None = None
    echoed: str | None = None
    """The model as the answer names it."""
    reported: tuple[str, ...] = ()
    """Names of the figures in its usage."""
    prompt_tokens: int = 0
    text_tokens: int = 0
    image_tokens: int = 0
    total_tokens: int = 0
    quality: UsageQuality = UsageQuality.NONE
    cost_usd: Decimal | None = None
    """By tokens and price; None when the model has no price, or nobody knows whether it was billed."""
    billed_usd: Decimal | None = None
    """As the endpoint named it."""
    credits: Decimal | None = None
    """`billed_usd` or else `cost_usd` in the provider's own money."""


class Advice(Value, frozen=True, kw_only=True):
    """One thing that follows."""

    text: str
    settings: Mapping[str, str | float | bool] = {}
    """Fields of a job, to be set so."""


def advice(found: Findings) -> tuple[Advice, ...]:
    """What follows from what was found; what keeps pictures from coming first."""
    return (*_of_failure(found), *_of_picture(found), *_of_account(found), *_of_endpoint(found))


def _of_failure(found: Findings) -> Iterator[Advice]:
    if found.kind is None:
        return
    remedy = RULES[found.kind].remedy
    match found.kind:
        case ErrorClass.ENDPOINT_INCAPABLE if found.dialect == "chat":
            yield from _other_dialect(found)
        case ErrorClass.RATE if found.retry_after:
            yield Advice(text=f"{remedy} The endpoint asks to wait {found.retry_after:.0f} s.")
        case ErrorClass.UNCERTAIN | ErrorClass.TRANSIENT:
            yield Advice(text=remedy)
            yield from _patience(found)
        case ErrorClass.NO_IMAGE if _needs_modalities(found):
            yield Advice(
                text="Only words came. Behind some gateways these models draw only when told to answer with"
                " pictures too.",
                settings={"image_options": _with_modalities(found).value},
            )
        case ErrorClass.BAD_REQUEST if _may_be_about_size(found):
            yield Advice(text=remedy)
            yield _asked_otherwise(found)
        case _:
            yield Advice(text=remedy)


def _other_dialect(found: Findings) -> Iterator[Advice]:
    native = found.base_url.removesuffix(_COMPATIBLE)
    settings: dict[str, str | float | bool] = {"dialect": "gemini"}
    text = (
        "This endpoint draws but cannot send pictures on chat completions; Gemini's own format can. Whether"
        " it bills what it drew, its account tells."
    )
    if found.given_url and native != found.base_url:
        settings["base_url"] = native
    elif found.given_url or "gemini" not in found.ways:
        text += " Its base URL is most likely another one, and ends before /models/MODEL:generateContent."
    yield Advice(text=text, settings=settings)


def _patience(found: Findings) -> Iterator[Advice]:
    if found.status in _GATEWAY_TIMEOUTS and not found.stream:
        yield Advice(
            text="A proxy on the way gave up on a silent connection; a stream is not silent.",
            settings={"stream": True},
        )
    elif found.kind is ErrorClass.UNCERTAIN and found.latency >= found.timeout:
        yield Advice(
            text=f"No whole answer within {found.timeout:g} s: give it longer.",
            settings={"timeout": min(_LONGEST, max(300.0, found.timeout * 2))},
        )


def _needs_modalities(found: Findings) -> bool:
    return found.dialect == "chat" and found.image_options in {
        ImageOptions.NONE,
        ImageOptions.GOOGLE,
        ImageOptions.FLAT,
    }


def _with_modalities(found: Findings) -> ImageOptions:
    asked = found.aspect_ratio or (found.image_size and not found.own_size)
    return ImageOptions.OPENROUTER if asked else ImageOptions.MODALITIES


def _may_be_about_size(found: Findings) -> bool:
    redirected = found.status is not None and 300 <= found.status < 400  # whoever did has read nothing
    return not redirected and found.dialect == "chat" and bool(found.aspect_ratio or found.image_size)


def _asked_otherwise(found: Findings) -> Advice:
    if found.own_size and not found.aspect_ratio:
        return Advice(
            text="If it is about the size, the probe's own choice: rows that ask for none may do.",
            settings={"image_options": ImageOptions.NONE.value},
        )
    return Advice(
        text="If it is about how shape or size were asked for: another way of asking may be understood.",
        settings={"image_options": _others(found)[0].value},
    )


def _others(found: Findings) -> list[ImageOptions]:
    return [way for way in _OTHER_WAYS if way is not found.image_options]


def _of_picture(found: Findings) -> Iterator[Advice]:
    if found.mime is None:
        return
    if found.size_ok is False:
        yield _other_options(found)
    if found.declared is not None and found.declared.replace("jpg", "jpeg") != found.mime:
        yield Advice(
            text=f"The picture is said to be {found.declared} and is {found.mime}: batchgen goes by what it"
            " is, so file names and the table are right."
        )
    if found.link is not None:
        yield Advice(
            text="Pictures come as links: they are fetched at once, so the machine must reach their host all"
            " night; a link that fails is a picture paid for and lost."
        )
    if found.drafts:
        yield Advice(
            text="Other pictures come along: the last one is the row's, the others are kept in drafts/."
            " Gemini bills no drafts; where they were counted all the same, the cost has them."
        )


def _other_options(found: Findings) -> Advice:
    asked = " ".join(filter(None, (found.aspect_ratio, found.image_size)))
    text = f"{asked} was asked for and {found.width} × {found.height} came: the endpoint ignores it."
    if found.own_size and not found.aspect_ratio:
        text += " It matters only where rows ask for a size or shape."
    if found.dialect != "chat":
        return Advice(text=f"{text} Leave it out, and put the shape into the prompt.")
    others = _others(found)
    rest = " or ".join(way.value for way in others[1:])
    return Advice(
        text=f"{text} Another way of asking may be understood (then {rest}).",
        settings={"image_options": others[0].value},
    )


def _of_account(found: Findings) -> Iterator[Advice]:
    if found.status is None or (found.kind is not None and not found.total_tokens):
        return
    if found.quality in {UsageQuality.NONE, UsageQuality.ESTIMATED}:
        yield Advice(
            text="The answer does not say (all of) what it took: costs will be estimates by the table of"
            " tokens a picture, and a budget keeps to those."
        )
    elif found.quality is UsageQuality.SPLIT_ESTIMATED and found.mime is not None:
        yield Advice(
            text="The answer gives one sum for words and picture: it is split by the table of tokens a"
            " picture."
        )
    if not found.priced:
        yield Advice(
            text=f"No price is known for {found.model}: costs stay unknown and --budget cannot be kept; state"
            f' it in a job file: [models."{found.model}"] price = {{ input = …, text = …, image = … }}'
        )
    elif found.billed_usd and found.cost_usd and _differ(found.billed_usd, found.cost_usd):
        yield Advice(
            text=f"The endpoint says it billed ${found.billed_usd:f}, by the known price it is"
            f" ${found.cost_usd:f}: correct the price in a job file,"
            f' [models."{found.model}"] price = {{ input = …, text = …, image = … }}'
        )


def _differ(one: Decimal, other: Decimal) -> bool:
    return abs(one - other) > _APART * other


def _of_endpoint(found: Findings) -> Iterator[Advice]:
    yield from _of_model(found)
    unread = found.kind in {ErrorClass.UNCERTAIN, ErrorClass.BAD_ANSWER}
    if found.stream and found.status == 200 and not found.streamed and not unread:
        yield Advice(text="A stream was asked for and ignored: the answer came whole.")
    yield from _of_pace(found)


def _of_model(found: Findings) -> Iterator[Advice]:
    if found.listed is False and found.kind is not ErrorClass.MODEL:
        yield Advice(text=f"{found.model} is not in the endpoint's list of models, {_came(found)}.")
    if found.echoed is not None and _bare(found.echoed) != _bare(found.model):
        yield Advice(text=f"The answer is from {found.echoed!r}, not by name from {found.model!r}.")


def _of_pace(found: Findings) -> Iterator[Advice]:
    limit = found.headers.get(_LIMIT, "")
    if limit.isdecimal() and int(limit):
        yield Advice(
            text=f"The endpoint names a limit of {limit} requests ({_LIMIT}): if that is a minute's,"
            f" --rpm {int(limit)} keeps a run below it."
        )
    if found.kind is not None:
        return
    if found.latency >= 1:
        rate = found.concurrency / found.latency * 60
        yield Advice(
            text=f"At {found.latency:.0f} s each, --concurrency {found.concurrency} makes about {rate:,.0f} a"
            " minute."
        )
    if found.latency > SLOW and not found.stream:
        yield Advice(
            text=f"{found.latency:.0f} s without a word: many proxies cut a connection after 100.",
            settings={"stream": True},
        )
    if found.latency > found.timeout / 2:
        yield Advice(
            text="One answer took more than half of the time it is given; others will take longer.",
            settings={"timeout": min(_LONGEST, found.timeout * 2)},
        )


def _came(found: Findings) -> str:
    return "but it answers" if found.kind is None else "so check --model"


def _bare(model: str) -> str:
    """A model's name without the vendor or path before it."""
    return model.rpartition("/")[2].casefold()
