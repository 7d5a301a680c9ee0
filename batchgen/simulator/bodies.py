"""
What do the endpoint's answers look like on the wire, and what is an answer before it has a shape?

Gateways disagree on where the picture goes. The shapes, by their names here:

    S1  markdown with a data URL in `content` (new-api and its relatives)
    S2  `message.images[]`                     (OpenRouter, LiteLLM, Vercel AI Gateway)
    S3  `content` as a list of parts
    S4  `content` is one data URL
    S5  `content` is base64 and nothing else
    S6  markdown with a link to fetch
    S7  the body of the images API: `data[].b64_json`
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  msgspec reads the annotations at run time
from typing import TYPE_CHECKING, Any

import msgspec

from batchgen.records import Value

if TYPE_CHECKING:
    from collections.abc import Iterable
    from decimal import Decimal

    from batchgen.simulator.account import Tokens

SHAPES = ("S1", "S2", "S3", "S4", "S5", "S6", "S7")
SINGLE = frozenset({"S4", "S5"})
"""Shapes with no room for a draft beside the picture."""


class Call(Value, frozen=True, kw_only=True):
    """A function that the model wants called."""

    id: str
    name: str
    arguments: Mapping[str, Any]


class Answer(Value, frozen=True, kw_only=True):
    """One 200, before it is given its shape."""

    id: str
    model: str
    created: int
    text: str
    thought: str = ""
    """Where a format or a stream has room for it."""
    calls: tuple[Call, ...] = ()
    pictures: tuple[str, ...] = ()
    """Base64, or links; the picture last, drafts before it."""
    linked: bool = False
    """Whether the pictures are links."""
    finish: str = "stop"
    native_finish: str = "STOP"
    tokens: Tokens
    usd: Decimal
    details: bool
    """Whether the usage tells text from image tokens, and in S2 names the money."""


def encode(content: Any) -> bytes:  # noqa: ANN401  any JSON value
    """JSON bytes."""
    return msgspec.json.encode(content)


def google_error(
    status: int, name: str, message: str, details: list[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """An error as Google's OpenAI-compatible path wraps it: the object inside a list."""
    error: dict[str, Any] = {"code": status, "message": message, "status": name}
    if details:
        error["details"] = details
    return [{"error": error}]


def gateway_error(message: str, code: str, request_id: str) -> dict[str, Any]:
    """An error as OpenAI and most gateways write it."""
    told = f"{message} (request id: {request_id})"
    return {"error": {"message": told, "type": "new_api_error", "param": "", "code": code}}


def quota_details(model: str, delay: float, quota_id: str, value: str) -> list[dict[str, Any]]:
    """
    Google's structured reason of a 429: which quota, and `RetryInfo`.

    https://ai.google.dev/gemini-api/docs/rate-limits ; a daily quota comes with a short `retryDelay` all
    the same.
    """
    return [
        {
            "@type": "type.googleapis.com/google.rpc.QuotaFailure",
            "violations": [
                {
                    "quotaMetric": "generativelanguage.googleapis.com/generate_content_requests",
                    "quotaId": quota_id,
                    "quotaDimensions": {"location": "global", "model": model},
                    "quotaValue": value,
                }
            ],
        },
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{delay:.3f}s"},
    ]


def completion(shape: str, answer: Answer) -> dict[str, Any]:
    """A 200 in one of the shapes; without a picture, a plain chat completion."""
    if shape == "S7" and answer.pictures:
        pictures = [{"b64_json": picture, "revised_prompt": answer.text} for picture in answer.pictures]
        return {"created": answer.created, "data": pictures, "usage": images_usage(answer)}
    choice: dict[str, Any] = {"index": 0, "finish_reason": answer.finish, "message": message(shape, answer)}
    if shape == "S2":
        choice["native_finish_reason"] = answer.native_finish
    return {
        "id": answer.id,
        "object": "chat.completion",
        "created": answer.created,
        "model": answer.model,
        "choices": [choice],
        "usage": chat_usage(shape, answer),
    }


def message(shape: str, answer: Answer) -> dict[str, Any]:
    """What the assistant says, in one of the shapes."""
    said: dict[str, Any] = {"role": "assistant", "content": answer.text}
    if answer.calls:
        return {**said, "content": answer.text or None, "tool_calls": [*map(_called, answer.calls)]}
    if not answer.pictures:
        return said
    urls = _urls(answer)
    if shape == "S2":
        said["images"] = [
            {"type": "image_url", "index": index, "image_url": {"url": url}} for index, url in enumerate(urls)
        ]
    elif shape == "S3":
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        said["content"] = [{"type": "text", "text": answer.text}, *parts]
    elif shape == "S4":
        said["content"] = urls[-1]
    elif shape == "S5":
        said["content"] = answer.pictures[-1]
    else:
        said["content"] = f"{answer.text}\n{markdown(answer)}"
    return said


def markdown(answer: Answer) -> str:
    """The pictures as Markdown."""
    return "\n".join(f"![image]({url})" for url in _urls(answer))


def with_pictures(answer: Answer, pictures: Iterable[str], *, linked: bool) -> Answer:
    """The answer with its pictures, as base64 or as links."""
    return msgspec.structs.replace(answer, pictures=tuple(pictures), linked=linked)


def _urls(answer: Answer) -> list[str]:
    prefix = "" if answer.linked else "data:image/jpeg;base64,"
    return [prefix + picture for picture in answer.pictures]


def _called(call: Call) -> dict[str, Any]:
    arguments = encode(call.arguments).decode()
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def chat_usage(shape: str, answer: Answer) -> dict[str, Any]:
    """The tokens as chat completions tell them, in S2 with the money."""
    tokens = answer.tokens
    usage: dict[str, Any] = {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.completion,
        "total_tokens": tokens.total,
    }
    if answer.details:
        usage["completion_tokens_details"] = {
            "image_tokens": tokens.image,
            "reasoning_tokens": tokens.thinking,
            "text_tokens": tokens.text - tokens.thinking,
        }
        if shape == "S2":
            usage["cost"] = float(answer.usd)
    return usage


def images_usage(answer: Answer) -> dict[str, Any]:
    """The tokens as the Images API tells them, but for those of pictures that went along."""
    tokens = answer.tokens
    usage: dict[str, Any] = {
        "input_tokens": tokens.prompt,
        "output_tokens": tokens.completion,
        "total_tokens": tokens.total,
    }
    if answer.details:
        usage["output_tokens_details"] = {"image_tokens": tokens.image, "text_tokens": tokens.text}
    return usage
