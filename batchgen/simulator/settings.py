"""
What is the simulated endpoint told to be like?

A job file's `[simulator]` table, with `[simulator.faults]`, has these names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping  # noqa: TC003  msgspec reads the annotations at run time
from typing import Literal

from batchgen.errors import InputError
from batchgen.records import Value


class Faults(Value, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often what goes wrong, as rates from 0 to 1; what a request can suffer adds up to 1 at most."""

    reset_before: float = 0.0
    """The connection is refused or reset before the request is read: free."""
    rate_limited: float = 0.0
    """429 of the minute, with the seconds to wait."""
    rate_limited_silent: float = 0.0
    """429 of the minute that names no wait."""
    daily_quota: float = 0.0
    """429 of the day."""
    overloaded: float = 0.0
    """503."""
    server_error: float = 0.0
    """500."""
    no_channel: float = 0.0
    """503 of a gateway that has no upstream for the model."""
    reset_after: float = 0.0
    """The connection is reset after the request was read: billed."""
    truncated: float = 0.0
    """The connection closes in the middle of the body: billed."""
    hang: float = 0.0
    """No answer until the client gives up: billed."""
    slow: float = 0.0
    """A whole answer that takes `slowness` times as long: billed."""
    bad_json: float = 0.0
    """A whole body that is half a JSON document: billed."""
    bad_base64: float = 0.0
    """A picture that is no base64: billed."""
    corrupt: float = 0.0
    """A picture that does not decode: billed."""
    lost_link: float = 0.0
    """A picture as a link that answers 404, whatever the shape: billed."""
    refusal: float = 0.0
    """200 with `content_filter` and no picture; input and text are billed."""
    no_image: float = 0.0
    """200 with words only; input and text are billed."""
    stream_error: float = 0.0
    """An error in the middle of an answer that is streamed (others stay whole): billed."""
    draft: float = 0.0
    """A draft in front of the picture; not billed, and not part of the sum."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"fault {name}: {getattr(self, name)} is no rate from 0 to 1")
        if (total := sum(rate for _, rate in self.exclusive())) > 1 + 1e-9:
            raise InputError(f"faults: the rates add up to {total:g}; they may reach 1")

    def exclusive(self) -> list[tuple[str, float]]:
        """The faults of which a request that was read suffers one at most."""
        apart = ("reset_before", "draft")
        return [(name, getattr(self, name)) for name in self.__struct_fields__ if name not in apart]


class Latency(Value, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a model takes for an answer: log-normal, as the real ones are."""

    median: float
    """Seconds."""
    spread: float = 0.35
    """Of the logarithm, the standard deviation; 0.0: always the same."""

    def __post_init__(self) -> None:
        if not 0 < self.median < math.inf:
            raise InputError(f"simulator latencies: a median of {self.median} s is not above 0")
        if not 0 <= self.spread <= 10:
            raise InputError(f"simulator latencies: a spread of {self.spread} is not from 0 to 10")


_FLASH, _PRO = Latency(median=12.0), Latency(median=25.0)


class Settings(Value, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the endpoint is like."""

    seed: int = 0
    """
    Throws the dice, together with the request's content and how often this process was asked for it. Never
    with time or order: a fresh process throws the same. (Only `reset_before` goes by order: nothing was
    read yet.)
    """
    calm: int = 0
    """Requests that suffer no fault, before the first one that may; each process counts its own."""
    rpm: float | None = None
    """Requests a minute; None for no limit."""
    ipm: float | None = None
    """Pictures a minute."""
    burst: int = 10
    """Requests (pictures) that fit at once."""
    quota_headers: Literal["none", "openai", "ietf"] = "none"
    """In which headers answers say what these limits are and how much is left."""
    latency: float = 1.0
    """1.0: medians of 12 s (flash) and 25 s (pro), and the `latencies` as they stand; 0.0: none."""
    latencies: Mapping[str, Latency] = {}
    """By model id, in place of those medians."""
    slowness: float = 20.0
    """How many times as long an answer takes that suffers the fault `slow`."""
    faults: Faults = Faults()
    shape: Literal["S1", "S2", "S3", "S4", "S5", "S6", "S7", "mixed"] = "S1"
    """Where the picture stands in the answer; see `bodies`."""
    key: str | None = None
    """The only key it takes; None takes any, '' asks for none."""
    size: Literal["1K", "2K", "4K"] = "1K"
    """Of pictures for which none is asked."""
    ignores_size: bool = False
    """True: all pictures are squares of `size`, whatever is asked for; gateways do so without a word."""
    reference_urls: bool = False
    """Whether pictures may be named by https URLs; they are never fetched."""
    chat_pictures: bool = True
    """False: chat completions answer 400 where a picture would come, as Google's own do."""
    paint: bool = True
    """False: every picture is the same plain one, a small one where no size is asked for: for speed."""
    details: bool = True
    """False: the usage is a sum that does not tell text from picture."""

    def latency_of(self, model: str) -> Latency:
        """What is set for a model, else what models of its kind take."""
        return self.latencies.get(model) or (_PRO if "pro" in model else _FLASH)

    def __post_init__(self) -> None:
        least = {"calm": 0, "burst": 1, "latency": 0, "slowness": 1}
        for name, lowest in least.items():
            if not getattr(self, name) >= lowest:
                raise InputError(f"simulator {name}: {getattr(self, name)} is less than {lowest}")
        for name in ("rpm", "ipm"):
            rate = getattr(self, name)
            if rate is not None and not rate > 0:
                raise InputError(f"simulator {name}: {rate} is not above 0")
