"""What does a chat request ask for, and is it one the endpoint accepts?"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

REFERENCE_TOKENS = 560
"""Prompt tokens of a picture in the request: https://ai.google.dev/gemini-api/docs/pricing"""

_Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)]
_Positive = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


class _Link(msgspec.Struct):
    url: str


class _TextPart(msgspec.Struct, tag="text"):
    text: str


class _ImagePart(msgspec.Struct, tag="image_url"):
    image_url: _Link


class _Message(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_TextPart | _ImagePart]

    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if isinstance(part, _TextPart))

    def pictures(self) -> int:
        if isinstance(self.content, str):
            return 0
        return sum(isinstance(part, _ImagePart) for part in self.content)


class ChatRequest(msgspec.Struct):
    """The body of a chat completion, as far as it decides the answer; gateways ignore other keys, too."""

    model: str
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    temperature: _Temperature | None = None
    top_p: _Fraction | None = None
    max_tokens: _Positive | None = None
    n: Literal[1] | None = None
    stream: Literal[False] | None = None

    @property
    def prompt(self) -> str:
        """The text of the user's messages."""
        return "\n".join(message.text() for message in self.messages if message.role == "user")

    @property
    def tokens(self) -> int:
        """Prompt tokens: about four characters each, and a fixed number a picture."""
        characters = sum(len(message.text()) for message in self.messages)
        pictures = sum(message.pictures() for message in self.messages)
        return max(1, -(-characters // 4)) + pictures * REFERENCE_TOKENS


_decoder = msgspec.json.Decoder(ChatRequest)


def read(body: bytes) -> ChatRequest:
    """Decode and check a request; ValueError says what is wrong with it."""
    try:
        return _decoder.decode(body)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
