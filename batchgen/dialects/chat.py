"""
How does OpenAI's chat completions format carry a picture request?

The request holds what a row asks for and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchgen.dialects import bodies
from batchgen.dialects.answers import read
from batchgen.dialects.messages import conversation
from batchgen.records import Expect, ImageOptions, Request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchgen.records import Attached, Params, Task

__all__ = ["PATH", "cannot", "read", "request"]

PATH = "/chat/completions"
"""Behind the base URL."""


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
