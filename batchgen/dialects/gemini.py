"""
How does Gemini's own format, `generateContent`, carry a picture request?

Conversations, tools and formats are told in OpenAI's words and translated here. Hints that only those have
are left out (`strict`, `detail`, names of speakers). Anything else without a counterpart goes along as it is,
so that the endpoint objects to it.

https://ai.google.dev/api/generate-content
"""

from __future__ import annotations

import urllib.parse
from typing import TYPE_CHECKING, Any

import pybase64

from batchgen.dialects import bodies
from batchgen.dialects.answers import read
from batchgen.dialects.lenient import decode, mapping, sequence, string
from batchgen.dialects.messages import conversation
from batchgen.records import Expect, ImageOptions, Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from batchgen.records import Attached, Task

__all__ = ["cannot", "read", "request"]

_PREFIXES = ("google/", "models/")
_INSTRUCTING = {"system", "developer"}
_MODES = {"none": "NONE", "auto": "AUTO", "required": "ANY"}


def request(task: Task, attached: Sequence[Attached], *, options: ImageOptions, stream: bool) -> Request:
    """Write a request. The format has its own words for shape and size, so `options` changes nothing."""
    params = task.params
    said = conversation(task, attached)
    told = [message for message in said if message["role"] in _INSTRUCTING]
    instruction = [part for message in told for part in _parts(message.get("content"))]
    declared = _tools(bodies.decoded(params.tools))
    chosen = _tool_config(bodies.decoded(params.tool_choice))
    body = _given(
        {
            "contents": _contents([message for message in said if message["role"] not in _INSTRUCTING]),
            "systemInstruction": {"parts": instruction} if instruction else None,
            "generationConfig": _generation_config(task),
            "tools": declared,
            "toolConfig": chosen,
        }
    )
    return Request(
        path=_path(task.model, stream=stream),
        body=bodies.encoded(bodies.laid_over(body, bodies.decoded(params.extra)), attached),
    )


def cannot(options: ImageOptions) -> Mapping[str, str]:
    """Which of a manifest's columns the format has no place for: none."""
    return {}


def _path(model: str, *, stream: bool) -> str:
    name = model
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    # As events, not as one array that is no JSON before its end: https://ai.google.dev/api#stream-content
    method = "streamGenerateContent?alt=sse" if stream else "generateContent"
    return f"/models/{urllib.parse.quote(name, safe='')}:{method}"


def _given(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if value is not None}


def _generation_config(task: Task) -> dict[str, Any]:
    params = task.params
    shape = _given({"aspectRatio": params.aspect_ratio, "imageSize": params.image_size})
    return _given(
        {
            "responseModalities": ["TEXT", "IMAGE"] if task.expect is Expect.IMAGE else ["TEXT"],
            "imageConfig": shape or None,
            "temperature": params.temperature,
            "topP": params.top_p,
            "maxOutputTokens": params.max_tokens,
            "seed": params.seed,
            "stopSequences": list(params.stop) or None,
            **_response_format(bodies.decoded(params.response_format)),
        }
    )


def _response_format(given: object) -> dict[str, Any]:
    """
    In which form words are to come.

    A `json_schema` is JSON Schema; a `response_schema` beside `json_object`, as some gateways take it, is
    Gemini's own subset of OpenAPI.
    """
    table = mapping(given)
    match table.get("type"):
        case None if given is None:
            return {}
        case "text":
            return {"responseMimeType": "text/plain"}
        case "json_object":
            return _given(
                {"responseMimeType": "application/json", "responseSchema": table.get("response_schema")}
            )
        case "json_schema":
            schema = mapping(table.get("json_schema")).get("schema")
            return _given({"responseMimeType": "application/json", "responseJsonSchema": schema})
        case _:
            return {"responseFormat": given}


def _tools(given: object) -> list[Any] | None:
    """Functions in one declaration; what is no function of OpenAI's is taken to be one of Gemini's tools."""
    if given is None:
        return None
    functions: list[dict[str, Any]] = []
    others: list[Any] = []
    for tool in sequence(given):
        function = mapping(mapping(tool).get("function"))
        if function:
            functions.append(_declared(function))
        else:
            others.append(tool)
    return [*([{"functionDeclarations": functions}] if functions else []), *others]


def _declared(function: Mapping[str, Any]) -> dict[str, Any]:
    """A function whose parameters stay the JSON Schema they are: `parameters` takes a subset of OpenAPI."""
    names = {"parameters": "parametersJsonSchema"}
    return {names.get(name, name): value for name, value in function.items() if name != "strict"}


def _tool_config(given: object) -> dict[str, Any] | None:
    if given is None:
        return None
    if isinstance(given, str):
        return {"functionCallingConfig": {"mode": _MODES.get(given, given)}}
    name = mapping(mapping(given).get("function")).get("name")
    if name is None:
        return mapping(given)
    return {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": [name]}}


def _contents(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """
    What was said, turn by turn.

    Answers of tools are the user's, and those of one turn belong together:
    https://ai.google.dev/gemini-api/docs/function-calling#parallel_function_calling
    """
    contents: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for message in messages:
        role = "model" if message["role"] == "assistant" else "user"
        if message["role"] == "tool":
            pictures = [part for part in _parts(message.get("content")) if "text" not in part]
            parts = [_function_response(message, names), *pictures]
        else:
            calls = [mapping(call) for call in sequence(message.get("tool_calls"))]
            names |= {
                string(call.get("id")): string(mapping(call.get("function")).get("name")) for call in calls
            }
            parts = [*_parts(message.get("content")), *map(_function_call, calls)]
        if contents and contents[-1]["role"] == role:
            contents[-1]["parts"] += parts
        elif parts:
            contents.append({"role": role, "parts": parts})
    return contents


def _parts(content: object) -> list[Any]:
    if isinstance(content, str):
        return [{"text": content}] if content else []
    return [_part(mapping(part)) for part in sequence(content)]


def _part(part: dict[str, Any]) -> dict[str, Any]:
    match part.get("type"):
        case "text":
            return {"text": part.get("text")}
        case "image_url":
            url = part.get("image_url")
            return _picture(url if isinstance(url, str) else string(mapping(url).get("url")))
        case _:
            return part


def _picture(url: str) -> dict[str, Any]:
    """A picture by its address, or the one that a data URL holds (RFC 2397)."""
    if url[:5].lower() != "data:":
        return {"fileData": {"fileUri": url}}
    header, _, data = url[5:].partition(",")
    mime, *more = header.split(";")
    if "base64" not in more:
        data = pybase64.b64encode(urllib.parse.unquote_to_bytes(data)).decode()
    return {"inlineData": {"mimeType": mime, "data": data}}


def _function_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = mapping(call.get("function"))
    signature = mapping(mapping(call.get("extra_content")).get("google")).get("thought_signature")
    named = {"id": call.get("id"), "name": function.get("name")}
    arguments = _object(function.get("arguments") or "{}", otherwise="arguments")
    return _given({"functionCall": {**_given(named), "args": arguments}, "thoughtSignature": signature})


def _function_response(message: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """What a tool answered, for a call that is known by its id."""
    call = string(message.get("tool_call_id"))
    content = message.get("content")
    words = "".join(string(mapping(part).get("text")) for part in sequence(content))
    return {
        "functionResponse": _given(
            {
                "id": call or None,
                "name": names.get(call) or message.get("name"),
                "response": _object(content if isinstance(content, str) else words, otherwise="output"),
            }
        )
    }


def _object(text: str, *, otherwise: str) -> dict[str, Any]:
    """The JSON object that a text is, or one that holds the text."""
    try:
        value = decode(text)
    except ValueError:
        value = text
    return value if isinstance(value, dict) else {otherwise: value}
