"""
How does an answer arrive piece by piece, as server-sent events?

As new-api and OpenRouter stream: a first chunk with the role at once, comments while the model works, then
words, the whole picture in one line, the reason of the end, the tokens, `[DONE]`.
QuantumNous/new-api, relay/channel/gemini/relay-gemini.go ; https://openrouter.ai/docs/api/reference/streaming
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchgen.records import Value
from batchgen.simulator import bodies

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from batchgen.simulator.bodies import Answer

ALIVE_EVERY = 10.0
"""Seconds between two comments."""

_WHOLE_ONLY = frozenset({"S3", "S7"})
"""Shapes that cannot be streamed: they are sent as S1."""


class Stream(Value, frozen=True, kw_only=True):
    """What is sent before there is an answer, and what ends each event."""

    first: bytes = b""
    """With the status line."""
    alive: bytes = b""
    """Again and again, while the model works."""
    blank: bytes = b"\n\n"


def opening(shape: str, answer: Answer) -> Stream:
    """The beginning of a streamed chat completion."""
    alive = b": OPENROUTER PROCESSING\n\n" if shape == "S2" else b": PING\n\n"
    return Stream(first=alive + framed(_chunk(shape, answer, role="assistant", content="")), alive=alive)


def chunks(shape: str, answer: Answer) -> list[dict[str, Any]]:
    """A chat completion as a stream, behind its opening; drafts go where the thoughts are."""
    shape = "S1" if shape in _WHOLE_ONLY else shape
    final = bodies.with_pictures(answer, answer.pictures[-1:], linked=answer.linked)
    drafts = bodies.with_pictures(answer, answer.pictures[:-1], linked=answer.linked)
    deltas: list[dict[str, Any]] = [{"reasoning_content": answer.thought}]
    if drafts.pictures:
        deltas.append({"reasoning_content": bodies.markdown(drafts)})
    message = bodies.message(shape, final)
    deltas += [{"content": piece} for piece in _pieces(final, message["content"])]
    if "images" in message:
        deltas.append({"content": None, "images": message["images"]})
    deltas += _calls(message.get("tool_calls", ()))
    told = [_chunk(shape, answer, **delta) for delta in deltas]
    return [*told, _chunk(shape, answer, finish=answer.finish)]


def usage(shape: str, answer: Answer) -> dict[str, Any]:
    """The chunk that tells the tokens, and nothing else."""
    return {**_origin(answer), "choices": [], "usage": bodies.chat_usage(shape, answer)}


def broken(shape: str) -> dict[str, Any]:
    """
    What a stream says that ends in an error: at its top, or in S2 inside a choice.

    https://openrouter.ai/docs/api/reference/errors-and-debugging
    """
    told = {"code": 504, "message": "Upstream idle timeout exceeded"}
    if shape == "S2":
        return {"choices": [{"index": 0, "delta": {}, "finish_reason": "error", "error": told}]}
    return {"error": {**told, "type": "upstream_error", "param": ""}}


def framed(value: object, blank: bytes = b"\n\n") -> bytes:
    """One event."""
    return b"".join((b"data: ", bodies.encode(value), blank))


def apart(stream: bytes, blank: bytes) -> Iterator[bytes]:
    """The events of a stream, one by one."""
    start = 0
    while start < len(stream):
        found = stream.find(blank, start)
        end = len(stream) if found < 0 else found + len(blank)
        yield stream[start:end]
        start = end


def _pieces(answer: Answer, content: str | None) -> Iterator[str]:
    """Words in two halves, whatever is behind them whole: a picture stays in one line."""
    words = len(answer.text) if content and content.startswith(answer.text) else 0
    for piece in (content or "")[: words // 2], (content or "")[words // 2 : words], (content or "")[words:]:
        if piece:
            yield piece


def _calls(calls: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each call's name first, then its arguments in two halves."""
    for index, call in enumerate(calls):
        arguments = call["function"]["arguments"]
        half = len(arguments) // 2
        named = {**call, "index": index, "function": {**call["function"], "arguments": ""}}
        yield {"tool_calls": [named]}
        for piece in (arguments[:half], arguments[half:]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _chunk(shape: str, answer: Answer, *, finish: str | None = None, **delta: object) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": finish}
    if shape == "S2":
        choice["native_finish_reason"] = answer.native_finish if finish else None
    return {**_origin(answer), "choices": [choice]}


def _origin(answer: Answer) -> dict[str, Any]:
    return {
        "id": answer.id,
        "object": "chat.completion.chunk",
        "created": answer.created,
        "model": answer.model,
    }
