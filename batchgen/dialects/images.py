"""
How does OpenAI's Images API carry a picture request and its answer?

Without references a request is JSON; with them it is a form whose parts are the pictures' own bytes. The
answer is one of the shapes that `chat` reads.

https://platform.openai.com/docs/api-reference/images
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec
import pybase64

from batchgen.dialects import bodies, chat
from batchgen.errors import InputError
from batchgen.records import Expect, Failure, Generation, ImageOptions, Request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchgen.records import Attached, Params, Task

GENERATIONS, EDITS = "/images/generations", "/images/edits"
"""Behind the base URL: a picture from words alone, and from words and pictures."""

_NO_PLACE = "the Images API has no place for it: it takes a prompt, and pictures to go along"
_CANNOT = {
    **dict.fromkeys(("system", "messages", "parent", "temperature", "top_p", "max_tokens"), _NO_PLACE),
    **dict.fromkeys(("seed", "stop", "response_format", "tools", "tool_choice"), _NO_PLACE),
    "expect": "the Images API answers with pictures alone, never with words",
    "stream": "what the Images API streams are previews; its picture comes whole",
}
_BY_SIZE = "the Images API is told by its own `size`, or with --image-options flat; no other way is known"
_RATIO = re.compile(r"([1-9]\d{0,3}):([1-9]\d{0,3})")
_SHORT_EDGE = {"512": 512, "1K": 1024, "2K": 2048, "4K": 4096}
_STEP = 16
# These send base64 always, and answer HTTP 400 to whoever asks for it.
_OPENAIS_OWN = ("gpt-image", "chatgpt-image")
# As browsers write names: https://html.spec.whatwg.org/multipage/form-control-infrastructure.html#multipart-form-data
_ESCAPED = {"\n": "%0A", "\r": "%0D", '"': "%22"}


def request(task: Task, attached: Sequence[Attached], *, options: ImageOptions, stream: bool) -> Request:
    """
    Write a request: the model, the prompt, one picture, and what is said of its shape.

    :param stream: of no effect; what is streamed are previews.
    :raises InputError: a reference is a link; only a file can go along.
    """
    params = task.params
    own = task.model.rpartition("/")[2].casefold().startswith(_OPENAIS_OWN)
    asked = {
        "model": task.model,
        "prompt": task.prompt,
        "n": 1,
        **_shape(params, options),
        "response_format": None if own else "b64_json",
    }
    given = {name: value for name, value in asked.items() if value is not None}
    fields = bodies.laid_over(given, bodies.decoded(params.extra))
    if attached:
        return _form(fields, attached)
    return Request(path=GENERATIONS, body=bodies.encoded(fields, attached))


def read(
    status: int,
    headers: Mapping[str, str],
    body: bytes | bytearray,
    *,
    now: float,
    expect: Expect = Expect.IMAGE,
) -> Generation | Failure:
    """Read an answer as `chat` does, to which this format is one of many. Nothing makes this raise."""
    return chat.read(status, headers, body, now=now, expect=expect)


def cannot(options: ImageOptions) -> Mapping[str, str]:
    """Which of a manifest's columns this format has no place for, and why."""
    if options in {ImageOptions.NONE, ImageOptions.FLAT}:
        return _CANNOT
    return _CANNOT | {"aspect_ratio": _BY_SIZE, "image_size": _BY_SIZE}


def _shape(params: Params, options: ImageOptions) -> dict[str, str | None]:
    if options is ImageOptions.FLAT:
        return {"aspect_ratio": params.aspect_ratio, "image_size": params.image_size}
    return {"size": _size(params)}


def _size(params: Params) -> str | None:
    """
    Width and height in pixels, such as 1536x1024 for 3:2; None where neither ratio nor size is asked for.

    The shorter edge has 512, 1024, 2048 or 4096 pixels, the longer the nearest multiple of 16: so ratios give
    the sizes that all GPT Image models take, and such as the newer ones take beside them. A size without a
    ratio is a square. What is no ratio (`auto`) or no such size (`1792x1024`) is sent as it is written.

    https://platform.openai.com/docs/guides/image-generation#size-and-quality-options
    """
    if params.aspect_ratio is None and params.image_size is None:
        return None
    short = _SHORT_EDGE.get(params.image_size or "1K")
    if short is None:
        return params.image_size
    ratio = _RATIO.fullmatch(params.aspect_ratio or "1:1")
    if ratio is None:
        return params.aspect_ratio
    wide, high = int(ratio[1]), int(ratio[2])
    long = round(short * max(wide, high) / min(wide, high) / _STEP) * _STEP
    return f"{long}x{short}" if wide > high else f"{short}x{long}"


def _form(fields: Mapping[str, Any], attached: Sequence[Attached]) -> Request:
    """
    Write a form, RFC 7578, in pieces.

    Its boundary is a hash of all that it parts: nothing can hold its own hash, so no picture and no prompt
    can hold the boundary, and the same task always makes the same body.
    """
    said = [(_named(name), _text(value)) for name, value in fields.items() if value is not None]
    shown = [_file(number, one) for number, one in enumerate(attached, 1)]
    digest = sha256()
    for head, content in (*said, *shown):
        digest.update(head)
        digest.update(content)
    boundary = f"batchgen-{digest.hexdigest()[:32]}".encode()
    before = b"".join(b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary, head, text) for head, text in said)
    body: list[bytes] = []
    for head, data in shown:
        body += [b"%b--%b\r\n%b\r\n\r\n" % (before, boundary, head), data]
        before = b"\r\n"
    return Request(
        path=EDITS,
        body=(*body, b"\r\n--%b--\r\n" % boundary),
        content_type=f"multipart/form-data; boundary={boundary.decode()}",
    )


def _named(name: str) -> bytes:
    for sign, code in _ESCAPED.items():
        name = name.replace(sign, code)
    return f'Content-Disposition: form-data; name="{name}"'.encode()


def _file(number: int, attached: Attached) -> tuple[bytes, bytes]:
    if attached.url is not None:
        raise InputError(
            f"{attached.url}: the Images API takes a picture as a file; download it and name the file"
        )
    kind = attached.mime.partition("/")[2]
    head = f'; filename="{number}.{kind}"\r\nContent-Type: {attached.mime}'
    return _named("image[]") + head.encode(), pybase64.b64decode(attached.base64)


def _text(value: object) -> bytes:
    return value.encode() if isinstance(value, str) else msgspec.json.encode(value)
