"""
Which wire format is spoken at a path, and what does each one consist of?

    …/chat/completions                                    OpenAI's chat completions
    …/models/{model}:generateContent, :streamGenerateContent    Google's own
    …/images/generations, …/images/edits                  OpenAI's Images API
"""

from __future__ import annotations

from collections.abc import Callable, Mapping  # noqa: TC003  msgspec reads the annotations at run time
from typing import Any

from batchgen.records import Value
from batchgen.simulator import bodies, events, images, native, requests
from batchgen.simulator.asked import Asked  # noqa: TC001  as above
from batchgen.simulator.bodies import Answer  # noqa: TC001
from batchgen.simulator.events import Stream

_GENERATE, _STREAM = ":generateContent", ":streamGenerateContent"


class Call(Value, frozen=True, kw_only=True):
    """A request as it came."""

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    links: bool
    """Whether pictures may be named by https URLs."""


class Format(Value, frozen=True, kw_only=True):
    """How a request is read and an answer is written. All is pure."""

    name: str
    read: Callable[[Call], Asked]
    whole: Callable[[str, Answer], Any]
    """The body of an answer, in one of the shapes."""
    chunks: Callable[[str, Answer], list[dict[str, Any]]]
    """The same as a stream's events."""
    opening: Callable[[str, Answer], Stream]
    usage: Callable[[str, Answer], Any] | None = None
    """The event that tells the tokens, where it is one of its own."""
    broken: Callable[[str], Any]
    """The event of an error in the middle."""
    error: Callable[..., Any]
    """The body of an error: status, name, message, details."""
    done: bytes = b""
    """What ends a stream."""


def _native(call: Call) -> Asked:
    model, _, verb = call.path.rpartition(":")
    return native.read(
        call.body,
        model=model.partition("/models/")[2],
        stream=f":{verb}" == _STREAM,
        events=call.query.get("alt") == "sse",
        links=call.links,
    )


CHAT = Format(
    name="chat",
    read=lambda call: requests.read(call.body, links=call.links),
    whole=bodies.completion,
    chunks=events.chunks,
    opening=events.opening,
    usage=events.usage,
    broken=events.broken,
    error=bodies.google_error,
    done=b"data: [DONE]\n\n",
)
NATIVE = Format(
    name="native",
    read=_native,
    whole=native.whole,
    chunks=native.chunks,
    opening=lambda *_: Stream(blank=b"\r\n\r\n"),
    broken=native.broken,
    error=native.error,
)
IMAGES = Format(
    name="images",
    read=lambda call: images.read(call.body, content_type=call.headers.get("content-type", "")),
    whole=images.whole,
    chunks=images.chunks,
    opening=lambda *_: Stream(),
    broken=images.broken,
    error=images.error,
)


def at(path: str) -> Format | None:
    """The format that is spoken at a path (without query and trailing slash); None where none is."""
    if path.endswith("/chat/completions"):
        return CHAT
    if path.endswith((_GENERATE, _STREAM)) and "/models/" in path:
        return NATIVE
    return IMAGES if path.endswith(("/images/generations", "/images/edits")) else None
