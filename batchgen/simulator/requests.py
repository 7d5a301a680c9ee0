"""What does a chat request ask for, and is it one the endpoint accepts?"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from batchgen.simulator.asked import Asked, Picture, Tool, Turn, data_url, said

Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Seed = Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)]

_ROLES: dict[str, Literal["system", "user", "model", "tool"]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "model",
    "tool": "tool",
}


class _Link(msgspec.Struct):
    url: str


class _TextPart(msgspec.Struct, tag="text"):
    text: str


class _ImagePart(msgspec.Struct, tag="image_url"):
    image_url: _Link


class _Message(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_TextPart | _ImagePart] | None = None

    def turn(self, *, links: bool) -> Turn:
        if self.content is None and self.role != "assistant":
            raise ValueError(f"a message of the {self.role} needs content")
        if self.content is None or isinstance(self.content, str):
            return Turn(role=_ROLES[self.role], text=self.content or "")
        pictures: list[Picture] = []
        texts: list[str] = []
        for part in self.content:
            if isinstance(part, _TextPart):
                texts.append(part.text)
            else:
                pictures.append(data_url(part.image_url.url, links=links))
        return Turn(role=_ROLES[self.role], text="\n".join(texts), pictures=tuple(pictures))


class _Schema(msgspec.Struct):
    schema: dict[str, Any] = {}


class _Wanted(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _Schema | None = None


class _Function(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Tool(msgspec.Struct):
    type: Literal["function"]
    function: _Function


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _ImageConfig(msgspec.Struct):
    aspect_ratio: str | None = None
    image_size: str | None = None


class _ExtraBody(msgspec.Struct):
    google: dict[str, Any] = {}


class _Chat(msgspec.Struct):
    """The body of a chat completion, as far as it decides the answer; gateways ignore other keys, too."""

    model: str
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    temperature: Temperature | None = None
    top_p: Fraction | None = None
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    n: Literal[1] | None = None
    seed: Seed | None = None
    stop: str | list[str] | None = None
    modalities: list[Literal["text", "image"]] | None = None
    response_format: _Wanted | None = None
    tools: list[_Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | _Tool | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    extra_body: _ExtraBody | None = None
    image_config: _ImageConfig | None = None
    aspect_ratio: str | None = None
    image_size: str | None = None


_decoder = msgspec.json.Decoder(_Chat)


def read(body: bytes, *, links: bool = False) -> Asked:
    """
    Decode a request.

    :param links: whether pictures may be named by https URLs.
    :raises ValueError: says what is wrong with it.
    """
    try:
        chat = _decoder.decode(body)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
    turns = [message.turn(links=links) for message in chat.messages]
    told = said(turns)
    shape = _shape(chat)
    schema = _schema(chat.response_format)
    stop = [chat.stop] if isinstance(chat.stop, str) else chat.stop or ()
    drawing = schema is None and (chat.modalities is None or "image" in chat.modalities)
    return Asked(
        model=chat.model,
        prompt=told.prompt,
        last=told.last,
        tokens=told.tokens,
        pictures=told.pictures,
        drawing=drawing,
        aspect_ratio=shape.aspect_ratio,
        image_size=shape.image_size,
        max_tokens=chat.max_tokens or chat.max_completion_tokens,
        seed=chat.seed,
        stop=tuple(filter(None, stop)),
        schema=schema,
        tool=None if not chat.tools or turns[-1].role == "tool" else _tool(chat.tools, chat.tool_choice),
        stream=bool(chat.stream),
        usage=chat.stream_options is not None and chat.stream_options.include_usage,
    )


def _shape(chat: _Chat) -> _ImageConfig:
    """
    Shape and size, whichever way they are told.

    Google's own way is snake case, and camel case is refused: QuantumNous/new-api,
    service/relayconvert/internal/oai_chat/to_gemini_chat_req.go
    """
    if chat.extra_body is None and chat.image_config is None:
        return _ImageConfig(aspect_ratio=chat.aspect_ratio, image_size=chat.image_size)
    google = chat.extra_body.google if chat.extra_body is not None else {}
    config = google.get("image_config")
    _no_camel("extra_body.google", google)
    if config is not None:
        _no_camel("extra_body.google.image_config", config)
        return msgspec.convert(config, _ImageConfig)
    return chat.image_config or _ImageConfig(aspect_ratio=chat.aspect_ratio, image_size=chat.image_size)


def _no_camel(where: str, table: object) -> None:
    for name in table if isinstance(table, dict) else ():
        snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
        if snake != name:
            raise ValueError(f"{where}.{name} is not supported, use {where}.{snake} instead")


def _schema(wanted: _Wanted | None) -> dict[str, Any] | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {}
    if wanted.json_schema is None:
        raise ValueError("response_format.json_schema is missing")
    return wanted.json_schema.schema


def _tool(tools: list[_Tool], choice: str | _Tool | None) -> Tool | None:
    """The function that is called: the one that is named, else the first."""
    if choice == "none":
        return None
    wanted = choice.function.name if isinstance(choice, _Tool) else tools[0].function.name
    for tool in tools:
        if tool.function.name == wanted:
            return Tool(name=wanted, parameters=tool.function.parameters)
    raise ValueError(f"tool_choice names {wanted!r}, which is no tool of this request")
