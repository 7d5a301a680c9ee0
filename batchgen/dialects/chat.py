"""
How does OpenAI's chat completions format carry a picture request and its answer?

The request holds what a row asks for and nothing else. The answer is read in every shape in which
gateways are known to send pictures: Markdown in the content, `message.images`, content parts, bare data URLs
and base64, links, the body of the Images API, and Gemini's own format leaked through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from batchgen.dialects import bodies, failures
from batchgen.dialects.lenient import decode, mapping, sequence, string
from batchgen.dialects.messages import conversation
from batchgen.dialects.pictures import Pictures, lift
from batchgen.dialects.usage import reported
from batchgen.records import ErrorClass, Expect, Failure, Generation, ImageOptions, Request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchgen.records import Attached, Params, Task

PATH = "/chat/completions"
"""Behind the base URL."""

_TEXT_PARTS = {"text", "output_text", "refusal"}
_THOUGHT_PARTS = {"thinking", "reasoning", "reasoning_text"}
_LONGEST_TEXT = 65_536
# https://ai.google.dev/api/generate-content#FinishReason
_BLOCKED = {
    "safety",
    "blocklist",
    "prohibited_content",
    "spii",
    "recitation",
    "image_safety",
    "image_prohibited_content",
    "image_recitation",
}
_CUT = {"length", "max_tokens"}


def request(task: Task, attached: Sequence[Attached], *, options: ImageOptions, stream: bool) -> Request:
    """Write a request: the model, the messages, and only those parameters that are set."""
    params = task.params
    given = {
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "seed": params.seed,
        "stop": list(params.stop) or None,
        "response_format": bodies.decoded(params.response_format),
        "tools": bodies.decoded(params.tools),
        "tool_choice": bodies.decoded(params.tool_choice),
        "stream": stream or None,
        "stream_options": {"include_usage": True} if stream else None,
        **_shape(params, options, pictures=task.expect is Expect.IMAGE),
    }
    body = {
        "model": _model(task, options),
        "messages": conversation(task, attached),
        **{name: value for name, value in given.items() if value is not None},
    }
    return Request(
        path=PATH, body=bodies.encoded(bodies.laid_over(body, bodies.decoded(params.extra)), attached)
    )


def cannot(options: ImageOptions) -> Mapping[str, str]:
    """Which of a manifest's columns an endpoint has no place for, and why."""
    no_place = "is not known to be understood by this endpoint; --image-options says how it wants to be told"
    if options in {ImageOptions.NONE, ImageOptions.MODALITIES}:
        return {"aspect_ratio": no_place, "image_size": no_place}
    return {"aspect_ratio": no_place} if options is ImageOptions.SUFFIX else {}


def _model(task: Task, options: ImageOptions) -> str:
    size = task.params.image_size
    return f"{task.model}-{size.lower()}" if options is ImageOptions.SUFFIX and size else task.model


def _shape(params: Params, options: ImageOptions, *, pictures: bool) -> dict[str, Any]:
    """What is said of the picture's shape, the way the endpoint wants it."""
    asked = {"aspect_ratio": params.aspect_ratio, "image_size": params.image_size}
    config = {name: value for name, value in asked.items() if value is not None}
    match options:
        case ImageOptions.GOOGLE if config:
            return {"extra_body": {"google": {"image_config": config}}}
        case ImageOptions.OPENROUTER if pictures:
            return {"modalities": ["image", "text"], "image_config": config or None}
        case ImageOptions.MODALITIES if pictures:
            return {"modalities": ["text", "image"]}
        case ImageOptions.FLAT:
            return config
        case _:
            return {}


def read(
    status: int,
    headers: Mapping[str, str],
    body: bytes | bytearray,
    *,
    now: float,
    expect: Expect = Expect.IMAGE,
) -> Generation | Failure:
    """
    Read an answer. Nothing an endpoint sends makes this raise.

    :param status: HTTP status. An error inside a 2xx is an error all the same.
    :param headers: Names in lower case.
    :param body: The whole body, as received.
    :param now: Seconds since 1970, for waits given as a time of day.
    :param expect: What completes the task.
    """
    body, lifted = lift(body)
    try:
        decoded = decode(body)
    except ValueError:
        decoded = None
    if not 200 <= status < 300:
        failure = failures.classify(
            status, headers, body[:_LONGEST_TEXT] if decoded is None else decoded, now=now
        )
        return msgspec.structs.replace(failure, usage=reported(mapping(decoded)))
    answer = _answer(decoded)
    if answer is None:
        return _unreadable(status, headers, body)
    error = _error(answer)
    if error is not None:
        failure = failures.classify(status, headers, {**_scalars(answer), "error": error}, now=now)
        return msgspec.structs.replace(failure, usage=reported(answer))
    if not answer.keys() & {"choices", "data", "candidates", "promptFeedback", "usageMetadata"}:
        return _unreadable(status, headers, body)
    return _read(status, headers, answer, lifted, expect)


class _Reading:
    """An answer while it is read: pictures and words in its order, and how it ended."""

    def __init__(self, lifted: Mapping[str, bytes]) -> None:
        self.pictures = Pictures(lifted)
        self.texts: list[str] = []
        self.thoughts: list[str] = []
        self.calls: list[Any] = []
        self.reasons: list[str] = []

    def choice(self, choice: object) -> None:
        table = mapping(choice)
        self.reason(table.get("native_finish_reason"))
        self.reason(table.get("finish_reason"))
        message = table.get("message")
        if isinstance(message, str):
            self.content(message)
        fields = mapping(message)
        for name in ("reasoning_content", "reasoning"):
            self.thoughts.append(self.pictures.text(string(fields.get(name)), draft=True))
        self.calls += sequence(fields.get("tool_calls"))
        self.pictures.entry(fields.get("images"))
        self.pictures.entry(fields.get("image"))
        self.content(fields.get("content"))
        self.content(fields.get("refusal"))

    def candidate(self, candidate: object) -> None:
        table = mapping(candidate)
        self.reason(table.get("finishReason"))
        self.content(mapping(table.get("content")).get("parts"))

    def item(self, item: object) -> None:
        """Take a picture of the Images API, with the prompt it was made of."""
        self.pictures.entry(item)
        self.texts.append(string(mapping(item).get("revised_prompt")))

    def content(self, content: object) -> None:
        """Take a string, a part, or parts."""
        if isinstance(content, str):
            self.texts.append(self.pictures.text(content))
        for part in sequence(content):
            if isinstance(part, str):
                self.texts.append(self.pictures.text(part))
            else:
                self._part(mapping(part))

    def reason(self, reason: object) -> None:
        if isinstance(reason, str) and reason.strip():
            self.reasons.append(failures.plain(reason, 100))

    def _part(self, part: Mapping[str, Any]) -> None:
        kind = string(part.get("type"))
        thought = part.get("thought") is True or kind in _THOUGHT_PARTS
        left = self.pictures.text(string(part.get("text")), draft=thought)
        (self.thoughts if thought else self.texts).append(left)
        if kind == "refusal":
            self.texts.append(string(part.get("refusal")))
        if kind not in _TEXT_PARTS:
            self.pictures.entry(part, draft=thought)


def _read(
    status: int,
    headers: Mapping[str, str],
    answer: Mapping[str, Any],
    lifted: Mapping[str, bytes],
    expect: Expect,
) -> Generation | Failure:
    reading = _Reading(lifted)
    for choice in sequence(answer.get("choices")):
        reading.choice(choice)
    for item in sequence(answer.get("data")):
        reading.item(item)
    for candidate in sequence(answer.get("candidates")):
        reading.candidate(candidate)
    block = mapping(answer.get("promptFeedback")).get("blockReason")
    reading.reason(block)
    ends = {reason.lower() for reason in reading.reasons}
    blocked = bool(ends & _BLOCKED) or bool(block)
    images = reading.pictures.found(promote=not blocked)
    text = _whole("\n".join(filter(None, reading.texts)))
    finish_reason = next(iter(reading.reasons), None)
    usage = reported(answer, pictures_only=bool(images) and "choices" not in answer and "data" in answer)
    request_id = failures.request_id(headers, answer)
    words = expect is Expect.TEXT and (text or reading.calls) and not (blocked or ends & _CUT)
    if images or words:
        return Generation(
            images=images,
            text=text,
            reasoning=_whole("\n".join(filter(None, reading.thoughts))),
            tool_calls=_calls(reading.calls),
            finish_reason=finish_reason,
            usage=usage,
            request_id=request_id,
        )
    kind, said = _without_picture(blocked=blocked, cut=bool(ends & _CUT), broken=reading.pictures.broken)
    reason = f" (finish reason {finish_reason})" if finish_reason else ""
    return Failure(
        kind=kind,
        message=failures.plain(f"{said}{reason}" + (f": {text[:400]}" if text else "")),
        http_status=status,
        text=text,
        finish_reason=finish_reason,
        usage=usage,
        request_id=request_id,
    )


def _calls(calls: list[Any]) -> str | None:
    """The calls as text; those that were dropped for their length were never whole."""
    if not calls:
        return None
    text = msgspec.json.encode(calls).decode()
    return text if len(text) <= _LONGEST_TEXT else None


def _without_picture(*, blocked: bool, cut: bool, broken: bool) -> tuple[ErrorClass, str]:
    if blocked:
        return ErrorClass.BLOCKED, "the model or its filter refused"
    if broken:
        return ErrorClass.CORRUPT, "what came as a picture is none"
    if cut:
        return ErrorClass.LENGTH, "cut by max_tokens before there was a picture"
    return ErrorClass.NO_IMAGE, "an answer without a picture"


def _answer(decoded: object) -> dict[str, Any] | None:
    """The answer itself; Google wraps its errors in an array."""
    if isinstance(decoded, list):
        tables = [item for item in decoded if isinstance(item, dict)]
        return next((table for table in tables if table.get("error")), next(iter(tables), None))
    return decoded if isinstance(decoded, dict) else None


def _error(answer: Mapping[str, Any]) -> object:
    """What an answer gives as an error, at its top or in a choice; None when it gives none."""
    places = [answer, *(mapping(choice) for choice in sequence(answer.get("choices")))]
    error = next((place["error"] for place in places if place.get("error")), None)
    if (
        error is None
        and not any(answer.get(name) for name in ("choices", "data", "candidates"))
        and _says(answer)
    ):
        return _scalars(answer)
    return error


def _says(answer: Mapping[str, Any]) -> bool:
    """Tell whether a body is a bare error: `{"code":…,"msg":…}`, `{"message":…}`, `{"detail":…}`."""
    return any(isinstance(answer.get(name), str) and answer[name] for name in ("message", "msg", "detail"))


def _scalars(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if isinstance(value, str | int | float)}


def _unreadable(status: int, headers: Mapping[str, str], body: bytes | bytearray) -> Failure:
    start = failures.plain(body[:300].decode("utf-8", "replace"), 120)
    return Failure(
        kind=ErrorClass.BAD_ANSWER,
        message=f"HTTP {status} with no answer in it that can be read"
        + (f": {start}" if start else ": the body is empty"),
        http_status=status,
        request_id=failures.request_id(headers, None),
    )


def _whole(text: str) -> str:
    """Text that any file can hold: no half of a character, no megabytes of undecodable picture."""
    text = text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"
    return text.encode("utf-8", "replace").decode("utf-8")
