"""
What do the pieces of a streamed answer say together?

They become the one answer that would have come without streaming: words and tool calls joined, pictures in
their order, the last count of tokens. Chat completions and Gemini's own format differ in names only.
"""

from __future__ import annotations

import re
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from batchgen.dialects import failures
from batchgen.dialects.events import END
from batchgen.dialects.lenient import count, encode, mapping, scalars, sequence, string
from batchgen.records import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

T = TypeVar("T")

_MOST = 64
"""Choices, candidates and pictures, each."""
_MOST_PARTS = 10_000
_MOST_CALLS = 1000
_LIFTED_LAST = re.compile(r"lifted-\d{1,9}\Z")
_LIFTED_LONGEST = 20
_TEXT_KEYS = {"text", "type", "thought", "thoughtSignature"}
_COMPLETED = ("image_generation.completed", "image_edit.completed")
"""https://platform.openai.com/docs/api-reference/images-streaming"""
_MESSAGE_WORDS = ("content", "reasoning_content", "reasoning", "refusal")
_LAST_OF = ("usage", "usageMetadata", "promptFeedback")
_FIRST_OF = ("id", "responseId", "request_id")


class Joined(Value, frozen=True, kw_only=True):
    """An answer as one."""

    answer: Any
    whole: bool = True
    """Whether it came to its end: a finish reason, an error, or the mark that ends a stream."""
    begun: bool = False
    """Whether pieces of it came before an error."""
    torn: bool = False
    """Whether a payload that `pictures.lift` took out goes on in the next event."""


def joined(values: Iterable[object]) -> Joined:
    """
    Put the pieces of an answer together.

    :param values: chunks or arrays of them, as they were decoded, and `events.END`.
    """
    answer = _Answer()
    for value in values:
        answer.take(value)
    return answer.joined()


def unfolded(value: object) -> Joined:
    """Take a decoded answer; Gemini's own format without events streams it as an array of pieces."""
    if isinstance(value, list) and any("candidates" in mapping(chunk) for chunk in value[1:]):
        return joined(value)
    return Joined(answer=value)


class _Answer:
    """An answer while its events come in."""

    def __init__(self) -> None:
        self._whole = False
        self._begun = False
        self._fields: dict[str, Any] = {}
        self._complaint: dict[str, Any] | None = None
        self._data: list[Any] = []
        self._choices: dict[int, _Choice] = {}
        self._candidates: dict[int, _Candidate] = {}

    def take(self, value: object) -> None:
        """Take the value of an event: a chunk, chunks, or the end."""
        if value == END:
            self._whole = True
        for chunk in map(mapping, sequence(value)):
            self._chunk(chunk)

    def joined(self) -> Joined:
        fields = dict(self._fields)
        if self._choices:
            fields["choices"] = [choice.joined() for choice in self._choices.values()]
        if self._candidates:
            fields["candidates"] = [candidate.joined() for candidate in self._candidates.values()]
        if self._data:
            fields["data"] = self._data
        whole = self._whole or self._ended()
        if not whole and self._complaint is not None:
            fields |= {**self._complaint, "error": self._complaint}
        block = mapping(fields.get("promptFeedback")).get("blockReason")
        return Joined(
            answer=fields,
            whole=whole or bool(block or self._data or fields.get("error")),
            begun=self._begun,
            torn=any(part.torn for part in self._parts()),
        )

    def _parts(self) -> list[_Choice | _Candidate]:
        return [*self._choices.values(), *self._candidates.values()]

    def _ended(self) -> bool:
        return any(part.ended for part in self._parts())

    def _chunk(self, chunk: Mapping[str, Any]) -> None:
        choices = [mapping(choice) for choice in sequence(chunk.get("choices"))]
        candidates = [mapping(candidate) for candidate in sequence(chunk.get("candidates"))]
        erring = chunk.get("error") or any(choice.get("error") for choice in choices)
        begun = choices or candidates or chunk.get("b64_json")
        self._begun = self._begun or (not erring and bool(begun))
        first = {name: chunk[name] for name in _FIRST_OF if chunk.get(name)}
        last = {name: chunk[name] for name in _LAST_OF if chunk.get(name)}
        self._fields = {**first, **self._fields, **last}
        if chunk.get("error") and "error" not in self._fields and not self._ended():
            self._fields |= {**scalars(chunk), "error": chunk["error"]}
        elif failures.is_bare(chunk):
            self._complaint = scalars(chunk)
        if string(chunk.get("type")).endswith(_COMPLETED):
            self._data.append(chunk)
        self._data += islice(sequence(chunk.get("data")), _MOST)
        del self._data[_MOST:]
        for choice in choices:
            _of(self._choices, choice, _Choice).take(choice)
        for candidate in candidates:
            _of(self._candidates, candidate, _Candidate).take(candidate)


def _of(known: dict[int, T], part: Mapping[str, Any], new: Callable[[], T]) -> T:
    """What a part of a chunk belongs to, by its index."""
    index = count(part.get("index")) or 0
    if index not in known:
        made = new()
        if len(known) < _MOST:
            known[index] = made
        return made
    return known[index]


class _Parts:
    """Content in pieces. Words that end one piece and begin the next are one text."""

    def __init__(self) -> None:
        self.torn = False
        self._parts: list[Any] = []
        self._form: dict[str, Any] | None = None
        self._texts: list[str] = []

    def take(self, content: object) -> None:
        """Take the next piece: a string, a part, or parts."""
        parts = [content] if isinstance(content, str) else sequence(content)
        for number, part in enumerate(parts):
            fields = {"text": part} if isinstance(part, str) else mapping(part)
            text = fields.get("text")
            if not isinstance(text, str) or fields.keys() - _TEXT_KEYS:
                self._close()
                self._keep(part)
            elif text:
                form = {name: fields[name] for name in ("type", "thought") if fields.get(name)}
                if number or form != self._form:
                    self._close()
                self._form = form
                self._texts.append(text)

    def joined(self) -> str | list[Any]:
        """A string if nothing but plain words came, else parts."""
        self._close()
        if len(self._parts) == 1 and self._parts[0].keys() == {"text"}:
            return string(self._parts[0]["text"])
        return self._parts

    def _close(self) -> None:
        if self._texts:
            self.torn = self.torn or _torn(self._texts)
            self._keep({**(self._form or {}), "text": "".join(self._texts)})
        self._form, self._texts = None, []

    def _keep(self, part: object) -> None:
        if part and isinstance(part, dict) and len(self._parts) < _MOST_PARTS:
            self._parts.append(part)


class _Candidate:
    """A candidate of Gemini's own format."""

    def __init__(self) -> None:
        self.ended = False
        self._fields: dict[str, Any] = {}
        self._parts = _Parts()

    @property
    def torn(self) -> bool:
        return self._parts.torn

    def take(self, candidate: Mapping[str, Any]) -> None:
        for name in ("finishReason", "finishMessage"):
            if candidate.get(name):
                self._fields[name] = candidate[name]
        self.ended = "finishReason" in self._fields
        self._parts.take(mapping(candidate.get("content")).get("parts"))

    def joined(self) -> dict[str, Any]:
        return {**self._fields, "content": {"parts": self._parts.joined()}}


class _Choice:
    """A choice of a chat completion."""

    def __init__(self) -> None:
        self.ended = False
        self._fields: dict[str, Any] = {}
        self._words = {name: _Parts() for name in _MESSAGE_WORDS}
        self._images: list[Any] = []
        self._calls = _Calls()

    @property
    def torn(self) -> bool:
        return any(words.torn for words in self._words.values())

    def take(self, choice: Mapping[str, Any]) -> None:
        for name in ("finish_reason", "native_finish_reason", "error"):
            if choice.get(name) and not (name == "error" and self.ended):
                self._fields[name] = choice[name]
        self.ended = bool(self._fields)
        said = choice["delta"] if "delta" in choice else choice.get("message")
        delta = {"content": said} if isinstance(said, str) else mapping(said)
        for name, words in self._words.items():
            words.take(delta.get(name))
        for name in ("images", "image"):
            self._images += islice(_listed(delta.get(name)), _MOST - len(self._images))
        self._calls.take(delta.get("tool_calls"))

    def joined(self) -> dict[str, Any]:
        message = {name: words.joined() for name, words in self._words.items()}
        return {
            **self._fields,
            "message": {**message, "images": self._images, "tool_calls": self._calls.joined()},
        }


class _Calls:
    """Tool calls: a first piece with the name, then the arguments a few characters at a time."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}

    def take(self, calls: object) -> None:
        """Take pieces. Some endpoints count every call as number 0, some count none: a new id, a new call."""
        for piece in map(mapping, sequence(calls)):
            index = count(piece.get("index"))
            known = self._by_index.get(index) if index is not None else next(reversed(self._calls), None)
            if known is None or string(piece.get("id")) not in ("", known.fields.get("id")):
                known = _Call()
                if len(self._calls) < _MOST_CALLS:
                    self._calls.append(known)
            if index is not None:
                self._by_index[index] = known
            known.take(piece)

    def joined(self) -> list[Any]:
        return [call.joined() for call in self._calls]


class _Call:
    """One tool call."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        self._function: dict[str, Any] = {}
        self._arguments: list[str] = []

    def take(self, piece: Mapping[str, Any]) -> None:
        function = mapping(piece.get("function"))
        for fields, given in ((self.fields, piece), (self._function, function)):
            for name, value in given.items():
                if value and name not in {"index", "function", "arguments"}:
                    fields.setdefault(name, value)
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            self._arguments.append(arguments)
        elif arguments is not None:
            self._arguments.append(encode(arguments))

    def joined(self) -> dict[str, Any]:
        return {**self.fields, "function": {**self._function, "arguments": "".join(self._arguments)}}


def _torn(texts: list[str]) -> bool:
    """Tell whether a text was cut where a payload was taken out that did not end there."""
    return any(
        _LIFTED_LAST.search(first, max(0, len(first) - _LIFTED_LONGEST)) and not second.startswith((")", '"'))
        for first, second in pairwise(texts)
    )


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []
