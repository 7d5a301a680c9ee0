"""
What does the model say where words are wanted: an answer, JSON of a schema, the arguments of a call?

Text carries the prompt, so that a test can tell whose answer it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchgen.simulator.asked import Asked

LONGEST = 200
"""Letters of the prompt that are repeated."""
_DEPTH = 12
_MOST = 1000
"""Values of one answer: a schema that refers to itself has no end."""


def spoken(asked: Asked) -> str:
    """Plain words, or JSON where it is asked for; a stop sequence ends them."""
    if asked.schema is not None:
        wanted = asked.schema or {"type": "object", "properties": {"prompt": {"type": "string"}}}
        return msgspec.json.encode(filled(wanted, asked.last)).decode()
    if not asked.drawing:
        came = "".join(f" [{name[:16]}]" for name in asked.references)
        return stopped(f"In words, {asked.last[:LONGEST]}{came}", asked.stop)
    return stopped(f"Here is your picture: {asked.prompt[:60]}", asked.stop)


def stopped(text: str, stop: tuple[str, ...]) -> str:
    """The text before the first of the stop sequences."""
    found = [at for sequence in stop if (at := text.find(sequence)) >= 0]
    return text[: min(found)] if found else text


def filled(schema: Mapping[str, Any], prompt: str) -> Any:  # noqa: ANN401  whatever the schema says
    """
    A value of a JSON schema: objects with all their properties, one item in a list.

    Types, enums, constants, the first of several choices and references within the schema are understood, in
    OpenAI's spelling and in Google's (`STRING`); other keywords are not.
    """
    return _Filler(schema, prompt).value(schema, 0)


class _Filler:
    def __init__(self, root: Mapping[str, Any], prompt: str) -> None:
        self._root = root
        self._prompt = prompt
        self._left = _MOST

    def value(self, schema: Any, depth: int) -> Any:  # noqa: ANN401  a schema may be anything
        self._left -= 1
        if not isinstance(schema, dict) or depth > _DEPTH or self._left < 0:
            return None
        for choice in ("$ref", "anyOf", "oneOf", "allOf", "const", "enum"):
            if choice in schema:
                return self._chosen(choice, schema[choice], depth)
        kind = schema.get("type", "object" if "properties" in schema else "string")
        kind = next(iter(kind), None) if isinstance(kind, list) else kind
        fill = _FILL.get(str(kind).lower())
        return None if fill is None else fill(self, schema, depth)

    def _chosen(self, choice: str, value: Any, depth: int) -> Any:  # noqa: ANN401  as above
        if choice == "const":
            return value
        if choice == "$ref":
            found: Any = self._root
            for name in str(value).removeprefix("#/").split("/"):
                found = found.get(name) if isinstance(found, dict) else None
            return self.value(found, depth + 1)
        first = value[0] if isinstance(value, list) and value else None
        return first if choice == "enum" else self.value(first, depth + 1)

    def object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            return {}
        return {name: self.value(inner, depth + 1) for name, inner in properties.items()}

    def array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        return [self.value(schema["items"], depth + 1)] if "items" in schema else []

    def string(self, _: Mapping[str, Any], __: int) -> str:
        return self._prompt[:LONGEST]


_FILL: dict[str, Callable[[_Filler, Mapping[str, Any], int], Any]] = {
    "object": _Filler.object,
    "array": _Filler.array,
    "string": _Filler.string,
    "integer": lambda _, schema, __: schema.get("minimum", 1),
    "number": lambda _, schema, __: schema.get("minimum", 0.5),
    "boolean": lambda *_: True,
}
