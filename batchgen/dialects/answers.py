"""
What does an answer hold, in whatever format it came?

It is read in every shape in which endpoints and gateways are known to send pictures: Markdown in the content,
`message.images`, content parts, bare data URLs and base64, links, the body of the Images API, Gemini's own
format, and each of them as a stream of events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pybase64

from batchgen.dialects import events, failures, pieces
from batchgen.dialects.lenient import decode, encode, mapping, scalars, sequence, string
from batchgen.dialects.pictures import Pictures, lift
from batchgen.dialects.usage import reported
from batchgen.records import ErrorClass, Expect, Failure, Generation

if TYPE_CHECKING:
    from collections.abc import Mapping

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
_FAILED = {"error"}
_FREE = {ErrorClass.RATE, ErrorClass.TRANSIENT, ErrorClass.NO_CHANNEL, ErrorClass.BAD_ANSWER}
"""After which a task is tried again as if nothing had been bought."""
_BROKEN_OFF = (ErrorClass.UNCERTAIN, "the stream broke off before its end")
_ANSWERS = {"choices", "data", "candidates", "promptFeedback", "usageMetadata"}


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
    found, lifted = _decoded(headers, body)
    if not 200 <= status < 300:
        failure = failures.classify(status, headers, found.answer or body[:_LONGEST_TEXT], now=now)
        return msgspec.structs.replace(failure, usage=reported(mapping(found.answer)))
    answer = _answer(found.answer)
    if answer is None:
        return _unreadable(status, headers, body)
    error = _error(answer)
    if error is not None:
        failure = failures.classify(status, headers, {**scalars(answer), "error": error}, now=now)
        return _billed(msgspec.structs.replace(failure, usage=reported(answer)), found)
    if found.whole and not answer.keys() & _ANSWERS:
        return _unreadable(status, headers, body)
    return _Reading(answer, lifted).result(status, headers, expect, found)


def _decoded(headers: Mapping[str, str], body: bytes | bytearray) -> tuple[pieces.Joined, dict[str, bytes]]:
    """What a body says, and the pictures that were taken out of it before; None where it says nothing."""
    lean, lifted = lift(body)
    found = _joined(headers, lean)
    if found.torn:
        return _joined(headers, body), {}
    return found, lifted


def _joined(headers: Mapping[str, str], body: bytes | bytearray) -> pieces.Joined:
    if events.is_stream(headers, body):
        return pieces.joined(events.values(body))
    try:
        return pieces.unfolded(decode(body))
    except ValueError:
        return pieces.Joined(answer=None)


class _Reading:
    """An answer that is read: pictures and words in its order, and how it ended."""

    def __init__(self, answer: Mapping[str, Any], lifted: dict[str, bytes]) -> None:
        self._answer = answer
        self._lifted = lifted
        self._pictures = Pictures(lifted)
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[Any] = []
        self._reasons: list[str] = []
        self._remarks: list[str] = []
        for choice in sequence(answer.get("choices")):
            self._choice(mapping(choice))
        self._pictures.entry(sequence(answer.get("data")))
        for candidate in sequence(answer.get("candidates")):
            self._candidate(mapping(candidate))
        feedback = mapping(answer.get("promptFeedback"))
        self._reason(feedback.get("blockReason"))
        self._remark(feedback.get("blockReasonMessage"))
        ends = {reason.lower() for reason in self._reasons}
        self._blocked = bool(ends & _BLOCKED) or bool(feedback.get("blockReason"))
        self._cut = bool(ends & _CUT)
        self._failed = bool(ends & _FAILED)

    def result(
        self, status: int, headers: Mapping[str, str], expect: Expect, found: pieces.Joined
    ) -> Generation | Failure:
        """What it comes to; nothing that can be relied on where it is not whole."""
        text = _whole("\n".join(filter(None, self._texts)))
        images = self._pictures.found(promote=not self._blocked) if found.whole else ()
        said = found.whole and not (self._blocked or self._cut or self._failed) and bool(text or self._calls)
        finish_reason = next(iter(self._reasons), None)
        usage = reported(self._answer)
        request_id = failures.request_id(headers, self._answer)
        if images or (said and expect is Expect.TEXT):
            return Generation(
                images=images,
                text=text,
                reasoning=_whole("\n".join(filter(None, self._thoughts))),
                tool_calls=_calls(self._calls),
                finish_reason=finish_reason,
                usage=usage,
                request_id=request_id,
            )
        kind, what = self._without_picture() if found.whole else _BROKEN_OFF
        reason = f" (finish reason {finish_reason})" if finish_reason else ""
        remarks = "".join(f": {remark}" for remark in (*self._remarks, text[:400]) if remark)
        failure = Failure(
            kind=kind,
            message=failures.plain(f"{what}{reason}{remarks}"),
            http_status=status,
            text=text,
            finish_reason=finish_reason,
            usage=usage,
            request_id=request_id,
        )
        return _billed(failure, found)

    def _choice(self, choice: Mapping[str, Any]) -> None:
        self._reason(choice.get("native_finish_reason"))
        self._reason(choice.get("finish_reason"))
        message = choice.get("message")
        if isinstance(message, str):
            self._content(message)
        fields = mapping(message)
        for name in ("reasoning_content", "reasoning"):
            self._thoughts.append(self._pictures.text(string(fields.get(name)), draft=True))
        self._calls += sequence(fields.get("tool_calls"))
        self._pictures.entry(fields.get("images"))
        self._pictures.entry(fields.get("image"))
        self._content(fields.get("content"))
        self._content(fields.get("refusal"))

    def _candidate(self, candidate: Mapping[str, Any]) -> None:
        self._reason(candidate.get("finishReason"))
        self._remark(candidate.get("finishMessage"))
        self._content(mapping(candidate.get("content")).get("parts"))

    def _content(self, content: object) -> None:
        """Take a string, a part, or parts."""
        if isinstance(content, str):
            self._texts.append(self._pictures.text(content))
        for part in sequence(content):
            if isinstance(part, str):
                self._texts.append(self._pictures.text(part))
            else:
                self._part(mapping(part))

    def _part(self, part: Mapping[str, Any]) -> None:
        kind = string(part.get("type"))
        thought = part.get("thought") is True or kind in _THOUGHT_PARTS
        left = self._pictures.text(string(part.get("text")), draft=thought)
        (self._thoughts if thought else self._texts).append(left)
        if kind == "refusal":
            self._texts.append(string(part.get("refusal")))
        if kind not in _TEXT_PARTS:
            self._pictures.entry(part, draft=thought)
        call = mapping(part.get("functionCall"))
        if call:
            self._call(call, part.get("thoughtSignature"))

    def _call(self, call: Mapping[str, Any], signature: object) -> None:
        """
        Note a function call of Gemini's own format as OpenAI's format has it.

        The signature goes where Google's own chat completions have it, without which a conversation cannot
        go on: https://ai.google.dev/gemini-api/docs/thought-signatures
        """
        arguments = encode(mapping(call.get("args")))
        for name in reversed(self._lifted):  # no picture, whatever it looked like
            arguments = arguments.replace(name, pybase64.b64encode(self._lifted[name]).decode())
        noted = {
            "id": string(call.get("id")) or f"call_{len(self._calls)}",
            "type": "function",
            "function": {"name": string(call.get("name")), "arguments": arguments},
        }
        if signature:
            noted["extra_content"] = {"google": {"thought_signature": signature}}
        self._calls.append(noted)

    def _reason(self, reason: object) -> None:
        if isinstance(reason, str) and reason.strip():
            self._reasons.append(failures.plain(reason, 100))

    def _remark(self, remark: object) -> None:
        if isinstance(remark, str) and remark.strip():
            self._remarks.append(remark.strip())

    def _without_picture(self) -> tuple[ErrorClass, str]:
        if self._blocked:
            return ErrorClass.BLOCKED, "the model or its filter refused"
        if self._failed:
            return ErrorClass.TRANSIENT, "the endpoint broke off with an error"
        if self._pictures.broken:
            return ErrorClass.CORRUPT, "what came as a picture is none"
        if self._cut:
            return ErrorClass.LENGTH, "cut by max_tokens before there was a picture"
        return ErrorClass.NO_IMAGE, "an answer without a picture"


def _billed(failure: Failure, found: pieces.Joined) -> Failure:
    """A failure as it counts: behind pieces of an answer an error may have been billed, whatever it is."""
    if not found.begun or failure.kind not in _FREE:
        return failure
    message = failures.plain(f"the stream broke off with an error: {failure.message}")
    return msgspec.structs.replace(failure, kind=ErrorClass.UNCERTAIN, message=message)


def _calls(calls: list[Any]) -> str | None:
    """The calls as text; those that were dropped for their length were never whole."""
    if not calls:
        return None
    text = encode(calls)
    return text if len(text) <= _LONGEST_TEXT else None


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
        and failures.is_bare(answer)
    ):
        return scalars(answer)
    return error


def _unreadable(status: int, headers: Mapping[str, str], body: bytes | bytearray) -> Failure:
    start = failures.plain(body[:300].decode("utf-8", "replace"), 120)
    return Failure(
        kind=ErrorClass.BAD_ANSWER,
        message=f"HTTP {status} with no answer of a model in it"
        + (f": {start}" if start else ": the body is empty"),
        http_status=status,
        request_id=failures.request_id(headers, None),
    )


def _whole(text: str) -> str:
    """Text that any file can hold: no half of a character, no megabytes of undecodable picture."""
    text = text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"
    return text.encode("utf-8", "replace").decode("utf-8")
