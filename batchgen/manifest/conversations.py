"""
Is this a conversation that can go on, and what does it say?

The format is that of chat completions: https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple

import msgspec
import pybase64

from batchgen.errors import InputError
from batchgen.manifest.structure import Written, decoded, written

if TYPE_CHECKING:
    from collections.abc import Iterator

_DATA: Final = re.compile(r"data:image/[a-z0-9.+-]+;base64,", re.IGNORECASE)
ROLES: Final = ("system", "developer", "user", "assistant", "tool")
_TOLD: Final = {
    r"Object missing required field `(\w+)`": r"`\1` is missing",
    "^Expected": "expected",
    "^Invalid": "invalid",
    r"`(?=[^`]*\b(?:str|array|object|int|float|bool|null)\b)([^`]*)`": r"\1",
    r"\bstr\b": "a text",
    r"\barray\b": "a list",
    r"\bobject\b": "a table",
    r"\b(?:int|float)\b": "a number",
    r"\bnull\b": "nothing",
    r" \| ": " or ",
}
"""What msgspec says, and how a person would."""

_Text = Annotated[str, msgspec.Meta(min_length=1)]


class _Link(msgspec.Struct):
    url: _Text


class _TextPart(msgspec.Struct, tag="text"):
    text: str


class _ImagePart(msgspec.Struct, tag="image_url"):
    image_url: _Link


class _Function(msgspec.Struct):
    name: _Text
    arguments: str


class _Call(msgspec.Struct):
    id: _Text
    function: _Function
    type: Literal["function"]


_Words = str | list[_TextPart]


class _System(msgspec.Struct, tag_field="role", tag="system"):
    content: _Words


class _Developer(msgspec.Struct, tag_field="role", tag="developer"):
    content: _Words


class _User(msgspec.Struct, tag_field="role", tag="user"):
    content: str | list[_TextPart | _ImagePart]


class _Assistant(msgspec.Struct, tag_field="role", tag="assistant"):
    content: _Words | None = None
    tool_calls: list[_Call] = []


class _Tool(msgspec.Struct, tag_field="role", tag="tool"):
    tool_call_id: _Text
    content: _Words


_Message = _System | _Developer | _User | _Assistant | _Tool


class Conversation(NamedTuple):
    """What a cell of messages says."""

    messages: Written
    prompt: str
    """What the user said last, in words."""
    system: bool
    """Whether it brings a system prompt."""
    open: bool
    """Whether the user has the last word: what a tool says has no pictures."""
    pictures: int
    largest: int
    """Bytes of the largest of them."""


def conversation(value: object, *, urls: bool) -> Conversation:
    """
    Read the messages of a row.

    :param urls: whether pictures may be named by an https URL.
    :raises InputError: they cannot be sent; says what is wrong, and in which message.
    """
    value = decoded(value) if isinstance(value, str) else value
    messages = _checked(value)
    text = written(value)
    last = messages[-1]
    if not isinstance(last, _User | _Tool):
        raise InputError(f"the last message is of the {_role(last)}; it must be of the user or of a tool")
    users = [message for message in messages if isinstance(message, _User)]
    if not users:
        raise InputError("no message is of the user")
    _check_calls(messages)
    sizes = [_size(url, urls=urls) for url in _pictures(users)]
    return Conversation(
        messages=text,
        prompt=_said(users[-1].content),
        system=any(isinstance(message, _System | _Developer) for message in messages),
        open=isinstance(last, _User),
        pictures=len(sizes),
        largest=max(sizes, default=0),
    )


def _checked(value: object) -> list[_Message]:
    if not isinstance(value, list) or not value:
        raise InputError('expected a list of messages: [{"role": "user", "content": "…"}]')
    try:
        messages = msgspec.convert(value, list[_Message])
    except msgspec.ValidationError as error:
        raise InputError(_plain(str(error))) from None
    for number, message in enumerate(messages, 1):
        calls = isinstance(message, _Assistant) and bool(message.tool_calls)
        if not message.content and not calls:
            raise InputError(f"message {number}: its content is empty")
    return messages


def _check_calls(messages: list[_Message]) -> None:
    """What a tool says answers a call that was made before."""
    made: set[str] = set()
    for number, message in enumerate(messages, 1):
        if isinstance(message, _Assistant):
            made.update(call.id for call in message.tool_calls)
        elif isinstance(message, _Tool) and message.tool_call_id not in made:
            raise InputError(f"message {number}: `tool_call_id` names no call of a message before it")


def _pictures(users: list[_User]) -> Iterator[str]:
    for message in users:
        for part in message.content if isinstance(message.content, list) else ():
            if isinstance(part, _ImagePart):
                yield part.image_url.url


def _size(url: str, *, urls: bool) -> int:
    """Bytes of a picture that is named by a URL; 0 where the endpoint fetches it."""
    if url.startswith("https://"):
        if not urls:
            raise InputError(
                "a picture is named by a URL, and this endpoint is not known to fetch any; put it into"
                " `references`, or write it as a data URL"
            )
        return 0
    start = _DATA.match(url)
    if start is None:
        raise InputError("a picture's URL starts with https:// or data:image/…;base64,")
    try:
        return len(pybase64.b64decode_as_bytearray(url[start.end() :], validate=True))
    except ValueError:
        raise InputError("the base64 of a data URL is damaged") from None


def _said(content: str | list[Any]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.text for part in content if isinstance(part, _TextPart))


def _role(message: _Message) -> str:
    return str(msgspec.to_builtins(message)["role"])


def _plain(message: str) -> str:
    """What msgspec says, as a person would: 'message 2, content: expected a text or a list, got a number'."""
    what, _, place = message.partition(" - at `$[")
    for technical, plain in _TOLD.items():
        what = re.sub(technical, plain, what)
    number, _, rest = place.removesuffix("`").partition("]")
    if not number.isdigit():
        return what
    rest = rest.replace(".", ", ")
    known = f"; known are {', '.join(ROLES)}" if rest == ", role" and "invalid" in what else ""
    return f"message {int(number) + 1}{rest}: {what}{known}"
