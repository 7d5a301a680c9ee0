"""How is a text made from the cells of a row?"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.compute as pc

from batchgen.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

_TOKEN: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class Template:
    """
    Text with `{column}` placeholders; `{{` and `}}` are braces.

    A placeholder is a name and nothing else: there are no attributes, indices or formats, so that a column
    may be called anything without braces in it.
    """

    def __init__(self, text: str) -> None:
        """Raise `InputError` for a brace that neither opens nor closes a placeholder."""
        if "\0" in text:
            raise InputError(f"the template {text!r} has a nul character in it; remove it")
        self.parts: list[tuple[str, str | None]] = []
        """Literal text and the name of the placeholder behind it, in turn."""
        literal, end = "", 0
        for match in _TOKEN.finditer(text):
            literal += text[end : match.start()]
            end = match.end()
            if match[1] is not None:
                self.parts.append((literal, match[1]))
                literal = ""
            elif len(match[0]) == 2:
                literal += match[0][0]
            else:
                raise InputError(
                    f"the template {text!r} has a lone {match[0]!r}; write {match[0] * 2!r} for a brace"
                )
        self.parts.append((literal + text[end:], None))
        self.names = tuple(name for _, name in self.parts if name is not None)

    def render(self, cells: Mapping[str, pa.Array | str], rows: int) -> pa.Array:
        """One text a row; null cells are empty."""
        texts: list[object] = []
        for literal, name in self.parts:
            texts.append(literal)
            if name is not None:
                texts.append(cells[name])
        if all(isinstance(text, str) for text in texts):
            return pa.repeat(pa.scalar("".join(map(str, texts)), pa.string()), rows)
        return pc.binary_join_element_wise(*texts, "", null_handling="replace", null_replacement="")
