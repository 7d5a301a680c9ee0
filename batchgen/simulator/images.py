"""
What does the Images API ask for, and what does it answer?

https://platform.openai.com/docs/api-reference/images ; edits come as a form (RFC 7578).
"""

from __future__ import annotations

from email.message import Message
from email.parser import BytesParser
from email.policy import compat32
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from batchgen.simulator.asked import Asked, Turn, looked_at, said
from batchgen.simulator.bodies import images_usage

if TYPE_CHECKING:
    from batchgen.simulator.asked import Picture
    from batchgen.simulator.bodies import Answer


class _Body(msgspec.Struct):
    model: str
    prompt: str
    n: Literal[1] | None = None
    size: str | None = None
    aspect_ratio: str | None = None
    image_size: str | None = None
    response_format: Literal["b64_json", "url"] | None = None
    stream: bool | None = None


def read(body: bytes, *, content_type: str) -> Asked:
    """
    Decode a request: JSON, or a form with pictures.

    :raises ValueError: says what is wrong with it.
    """
    if content_type.lower().startswith("multipart/form-data"):
        fields, pictures = _form(content_type, body)
        asked = msgspec.convert(fields, _Body, strict=False)
        if not pictures:
            raise ValueError("an edit needs an image")
    else:
        asked, pictures = _decoded(body), ()
    told = said([Turn(role="user", text=asked.prompt, pictures=pictures)])
    return Asked(
        model=asked.model,
        prompt=told.prompt,
        last=told.last,
        tokens=told.tokens,
        pictures=told.pictures,
        aspect_ratio=asked.aspect_ratio,
        image_size=asked.image_size,
        pixels=asked.size,
        link=asked.response_format == "url",
        stream=bool(asked.stream),
    )


def whole(_: str, answer: Answer) -> dict[str, Any]:
    """An answer as one body; drafts are no part of it."""
    name = "url" if answer.linked else "b64_json"
    data = [{name: picture, "revised_prompt": answer.text} for picture in answer.pictures[-1:]]
    return {"created": answer.created, "data": data, "output_format": "jpeg", "usage": usage(answer)}


def chunks(_: str, answer: Answer) -> list[dict[str, Any]]:
    """An answer as a stream: drafts are its partial images."""
    drafts = [
        {"type": "image_generation.partial_image", "partial_image_index": index, "b64_json": draft}
        for index, draft in enumerate(answer.pictures[:-1])
    ]
    made = [
        {"type": "image_generation.completed", "b64_json": picture, "usage": usage(answer)}
        for picture in answer.pictures[-1:]
    ]
    return [{**event, "created_at": answer.created, "output_format": "jpeg"} for event in drafts + made]


def broken(_: str) -> dict[str, Any]:
    """What a stream says that ends in an error."""
    return {"type": "error", **error(500, "server_error", "The server had an error.")}


def usage(answer: Answer) -> dict[str, Any]:
    """The tokens as this API tells them."""
    tokens, told = answer.tokens, images_usage(answer)
    if answer.details:
        words = tokens.prompt - tokens.pictures
        told["input_tokens_details"] = {"image_tokens": tokens.pictures, "text_tokens": words}
    return told


def error(
    status: int, name: str, message: str, details: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """OpenAI's error object, with Google's reasons where there are any: gateways hand them on."""
    told: dict[str, Any] = {"message": message, "type": name.lower(), "param": None, "code": str(status)}
    return {"error": {**told, "details": details} if details else told}


def _decoded(body: bytes) -> _Body:
    try:
        return msgspec.json.decode(body, type=_Body)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None


def _form(content_type: str, body: bytes) -> tuple[dict[str, str], tuple[Picture, ...]]:
    """The fields of a form, and the pictures among them."""
    head = f"content-type: {content_type}\r\n\r\n".encode("latin-1", "replace")
    # The newer policies raise IndexError at headers that make no sense.
    form = BytesParser(policy=compat32).parsebytes(head + body)
    parts = form.get_payload() if form.is_multipart() else ()
    fields: dict[str, str] = {}
    pictures: list[Picture] = []
    for part in (part for part in parts if isinstance(part, Message)):
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if not isinstance(name, str) or not isinstance(content, bytes):
            raise ValueError("a part of the form has no name or no content")  # noqa: TRY004  a client's
        if name in {"image", "image[]"}:
            pictures.append(looked_at(part.get_content_type(), content))
        else:
            fields[name] = content.decode("utf-8", "replace")
    return fields, tuple(pictures)
