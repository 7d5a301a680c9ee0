"""
What did the simulated endpoint bill, to the last token?

Its arithmetic is its own on purpose: a test that compares two bills must not compare one function with
itself.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from batchgen.records import ZERO, Value

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    from batchgen.records import Model

ADMITTED_KEPT = 100_000


class Tokens(Value, frozen=True, kw_only=True):
    """Tokens of one answer; `text` is all output that is no picture, thinking included."""

    prompt: int
    pictures: int = 0
    """The part of `prompt` that is pictures."""
    text: int
    thinking: int = 0
    """The part of `text` that was thinking."""
    image: int = 0

    @property
    def completion(self) -> int:
        """Everything the model put out."""
        return self.text + self.image

    @property
    def total(self) -> int:
        """What `usage.total_tokens` says."""
        return self.prompt + self.completion


@dataclass
class Spent:
    """What one model cost so far."""

    requests: int = 0
    prompt_tokens: int = 0
    text_tokens: int = 0
    image_tokens: int = 0
    total_tokens: int = 0
    usd: Decimal = ZERO


def content_key(prompt: str, model: str, references: Sequence[str] = ()) -> bytes:
    """
    What makes two requests the same purchase: the user's words, the model's id and the pictures.

    :param references: their SHA-256 in hex, in their order.
    """
    content = "\0".join([model, prompt, *references])
    return hashlib.sha256(content.encode()).digest()[:16]


def cost(model: Model, tokens: Tokens) -> Decimal:
    """Exact USD of one answer: tokens times the price of a million, over a million."""
    price = model.price
    if price is None:
        return ZERO
    shown = price.input if price.image_input is None else price.image_input
    asked = price.input * (tokens.prompt - tokens.pictures) + shown * tokens.pictures
    return (asked + price.text * tokens.text + price.image * tokens.image).scaleb(-6)


@dataclass
class Account:
    """Everything the endpoint has seen, answered and billed since it started."""

    seen: int = 0
    """Requests that were read, whatever became of them."""
    answered: int = 0
    """Requests answered 200, whether or not the answer arrived."""
    rate_limited: int = 0
    """Requests answered 429."""
    billed: int = 0
    models: dict[str, Spent] = field(default_factory=dict)
    """By the model's id, never an alias."""
    admitted: deque[float] = field(default_factory=lambda: deque(maxlen=ADMITTED_KEPT))
    """When the last requests that passed the quota came in, by the endpoint's clock."""
    purchases: Counter[bytes] = field(default_factory=Counter)
    """Billed answers by `content_key`."""

    @property
    def usd(self) -> Decimal:
        """The whole bill."""
        return sum((spent.usd for spent in self.models.values()), ZERO)

    def bought(self, prompt: str, model: str, references: Sequence[str] = ()) -> int:
        """How often this prompt was billed for this model, with these pictures (SHA-256 in hex)."""
        return self.purchases[content_key(prompt, model, references)]

    def book(self, model: Model, tokens: Tokens, key: bytes) -> None:
        """Bill one answer."""
        self.billed += 1
        self.purchases[key] += 1
        spent = self.models.setdefault(model.id, Spent())
        spent.requests += 1
        spent.prompt_tokens += tokens.prompt
        spent.text_tokens += tokens.text
        spent.image_tokens += tokens.image
        spent.total_tokens += tokens.total
        spent.usd += cost(model, tokens)

    def summary(self) -> dict[str, Any]:
        """The account as `GET /account` tells it; money is a decimal string."""
        return {
            "seen": self.seen,
            "answered": self.answered,
            "rate_limited": self.rate_limited,
            "billed": self.billed,
            "bought_again": sum(count - 1 for count in self.purchases.values()),
            "usd": str(self.usd),
            "models": msgspec.to_builtins(self.models),
        }
