"""
What does Google's own format, generateContent, ask for, and what does it answer?

https://ai.google.dev/api/generate-content ; names are taken in camel and in snake case, as there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from batchgen.simulator.asked import Asked, Picture, Tool, Turn, inline, linked, said
from batchgen.simulator.requests import (  # noqa: TC001  msgspec reads the annotations at run time
    Fraction,
    Positive,
    Seed,
    Temperature,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchgen.simulator.bodies import Answer

_FREE_FORM = frozenset(
    {"parameters", "parametersJsonSchema", "responseSchema", "responseJsonSchema", "args", "response"}
)
"""Tables whose names are the user's own."""
_DEPTH = 64
_SIGNATURE = "c2ltdWxhdGVk"


class _Blob(msgspec.Struct, rename="camel"):
    mime_type: str
    data: str


class _File(msgspec.Struct, rename="camel"):
    file_uri: str


class _Part(msgspec.Struct, rename="camel"):
    text: str | None = None
    inline_data: _Blob | None = None
    file_data: _File | None = None
    function_call: dict[str, Any] | None = None
    function_response: dict[str, Any] | None = None
    thought: bool = False


class _Content(msgspec.Struct):
    parts: list[_Part] = []
    role: Literal["user", "model", "function"] | None = None


class _ImageConfig(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    aspect_ratio: str | None = None
    image_size: str | None = None


class _Config(msgspec.Struct, rename="camel"):
    image_config: _ImageConfig | None = None
    response_modalities: list[str] | None = None
    max_output_tokens: Positive | None = None
    temperature: Temperature | None = None
    top_p: Fraction | None = None
    candidate_count: Literal[1] | None = None
    seed: Seed | None = None
    stop_sequences: list[str] = []
    response_mime_type: Literal["text/plain", "application/json"] | None = None
    response_schema: dict[str, Any] | None = None
    response_json_schema: dict[str, Any] | None = None


class _Function(msgspec.Struct, rename="camel"):
    name: str
    parameters: dict[str, Any] | None = None
    parameters_json_schema: dict[str, Any] | None = None


class _Tools(msgspec.Struct, rename="camel"):
    function_declarations: list[_Function] = []


class _Calling(msgspec.Struct, rename="camel"):
    mode: Literal["MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED"] = "AUTO"
    allowed_function_names: list[str] = []


class _ToolConfig(msgspec.Struct, rename="camel"):
    function_calling_config: _Calling = msgspec.field(default_factory=_Calling)


class _Body(msgspec.Struct, rename="camel"):
    contents: Annotated[list[_Content], msgspec.Meta(min_length=1)]
    system_instruction: _Content | None = None
    generation_config: _Config = msgspec.field(default_factory=_Config)
    tools: list[_Tools] = []
    tool_config: _ToolConfig = msgspec.field(default_factory=_ToolConfig)


def read(body: bytes, *, model: str, stream: bool, events: bool, links: bool) -> Asked:
    """
    Decode a request; model and stream stand in its path.

    :param events: whether a stream is to be one of server-sent events (`alt=sse`).
    :param links: whether pictures may be named by https URLs.
    :raises ValueError: says what is wrong with it.
    """
    try:
        content = msgspec.convert(_camel(msgspec.json.decode(body), _DEPTH), _Body)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
    config = content.generation_config
    turns = [_turn(one, links=links) for one in content.contents]
    if content.system_instruction is not None:
        turns.insert(0, Turn(role="system", text=_turn(content.system_instruction, links=links).text))
    told = said(turns)
    modalities = _modalities(config.response_modalities)
    schema = _schema(config)
    shape = config.image_config or _ImageConfig()
    return Asked(
        model=model.removeprefix("models/"),
        prompt=told.prompt,
        last=told.last,
        tokens=told.tokens,
        pictures=told.pictures,
        drawing=schema is None and "IMAGE" in modalities,
        speaking="TEXT" in modalities,
        aspect_ratio=shape.aspect_ratio,
        image_size=shape.image_size,
        max_tokens=config.max_output_tokens,
        seed=config.seed,
        stop=tuple(filter(None, config.stop_sequences)),
        schema=schema,
        tool=None if turns[-1].role == "tool" else _tool(content.tools, content.tool_config),
        stream=stream,
        events=events,
    )


def whole(_: str, answer: Answer) -> dict[str, Any]:
    """An answer as one body; a request that was refused has no candidates."""
    if answer.finish == "content_filter":
        return {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, **_end(answer)}
    return {"candidates": [_candidate(_parts(answer), answer.native_finish)], **_end(answer)}


def chunks(shape: str, answer: Answer) -> list[dict[str, Any]]:
    """An answer as a stream: a chunk for each part; the last says how it ended and what it took."""
    if answer.finish == "content_filter":
        return [whole(shape, answer)]
    began = [{"candidates": [_candidate([part], None)], **_origin(answer)} for part in _parts(answer)]
    return [*began, {"candidates": [_candidate([{"text": ""}], answer.native_finish)], **_end(answer)}]


def broken(_: str) -> dict[str, Any]:
    """What a stream says that ends in an error."""
    return error(503, "UNAVAILABLE", "The service is currently unavailable.")


def error(
    status: int, name: str, message: str, details: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Google's error object."""
    told: dict[str, Any] = {"code": status, "message": message, "status": name}
    return {"error": {**told, "details": details} if details else told}


def _camel(value: Any, depth: int) -> Any:  # noqa: ANN401  any JSON value
    """
    The same with its names in camel case, as far as they are Google's, and without nulls.

    A null is a field's default: https://protobuf.dev/programming-guides/json/#null-values
    """
    if depth == 0:
        raise ValueError("JSON is nested too deeply")
    if isinstance(value, list):
        return [_camel(item, depth - 1) for item in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for name, item in value.items():
        first, *rest = name.split("_")
        camel = first + "".join(part[:1].upper() + part[1:] for part in rest)
        if item is not None:
            found[camel] = item if camel in _FREE_FORM else _camel(item, depth - 1)
    return found


def _turn(content: _Content, *, links: bool) -> Turn:
    pictures: list[Picture] = []
    for part in content.parts:
        if part.inline_data is not None:
            pictures.append(inline(part.inline_data.mime_type, part.inline_data.data))
        if part.file_data is not None:
            pictures.append(linked(part.file_data.file_uri, accepted=links))
    texts = [part.text for part in content.parts if part.text is not None and not part.thought]
    answered = any(part.function_response is not None for part in content.parts)
    role: Literal["user", "model", "tool"] = "tool" if answered else "user"
    return Turn(
        role="model" if content.role == "model" else role,
        text="\n".join(texts),
        pictures=tuple(pictures),
    )


def _modalities(asked: list[str] | None) -> set[str]:
    found = {name.upper() for name in asked or ("TEXT", "IMAGE")}
    if unknown := found - {"TEXT", "IMAGE"}:
        raise ValueError(f"response_modalities: {', '.join(sorted(unknown))} is not supported by this model.")
    return found


def _schema(config: _Config) -> dict[str, Any] | None:
    if config.response_mime_type != "application/json":
        return None
    return config.response_json_schema or config.response_schema or {}


def _tool(tools: list[_Tools], config: _ToolConfig) -> Tool | None:
    """The function that is called: the first that is allowed."""
    calling = config.function_calling_config
    if calling.mode == "NONE":
        return None
    for function in (function for one in tools for function in one.function_declarations):
        if not calling.allowed_function_names or function.name in calling.allowed_function_names:
            schema = function.parameters_json_schema or function.parameters or {}
            return Tool(name=function.name, parameters=schema)
    if calling.allowed_function_names:
        raise ValueError("allowed_function_names names no function of this request.")
    return None


def _parts(answer: Answer) -> list[dict[str, Any]]:
    """Thoughts and drafts, marked as such, then words, calls and the picture."""
    parts: list[dict[str, Any]] = [{"text": answer.thought, "thought": True}]
    blobs = [_blob(picture, linked=answer.linked) for picture in answer.pictures]
    parts += [{**blob, "thought": True} for blob in blobs[:-1]]
    parts += [{"text": answer.text}] if answer.text else []
    parts += [{"functionCall": {"name": call.name, "args": call.arguments}} for call in answer.calls]
    return parts + [{**blob, "thoughtSignature": _SIGNATURE} for blob in blobs[-1:]]


def _blob(picture: str, *, linked: bool) -> dict[str, Any]:
    if linked:
        return {"fileData": {"mimeType": "image/jpeg", "fileUri": picture}}
    return {"inlineData": {"mimeType": "image/jpeg", "data": picture}}


def _candidate(parts: list[dict[str, Any]], finish: str | None) -> dict[str, Any]:
    told: dict[str, Any] = {"index": 0, "content": {"role": "model", "parts": parts}}
    return told if finish is None else {**told, "finishReason": finish}


def _origin(answer: Answer) -> dict[str, Any]:
    return {"modelVersion": answer.model, "responseId": answer.id}


def _end(answer: Answer) -> dict[str, Any]:
    """Thinking is counted apart: https://ai.google.dev/api/generate-content#UsageMetadata."""
    tokens = answer.tokens
    usage: dict[str, Any] = {
        "promptTokenCount": tokens.prompt,
        "candidatesTokenCount": tokens.completion - tokens.thinking,
        "thoughtsTokenCount": tokens.thinking,
        "totalTokenCount": tokens.total,
    }
    if answer.details:
        usage["promptTokensDetails"] = _modal(TEXT=tokens.prompt - tokens.pictures, IMAGE=tokens.pictures)
        usage["candidatesTokensDetails"] = _modal(IMAGE=tokens.image)
    return {"usageMetadata": usage, **_origin(answer)}


def _modal(**tokens: int) -> list[Mapping[str, Any]]:
    return [{"modality": name, "tokenCount": count} for name, count in tokens.items() if count]
