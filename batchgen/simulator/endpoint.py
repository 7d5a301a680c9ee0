"""
What does the model endpoint answer to this request?

The contract is that of an OpenAI-compatible gateway in front of Google's image models: paths, bearer key,
usage, error bodies. Everything drawn depends on the seed, the content and how often it was asked, never on
the order in which concurrent requests arrive. No method blocks or sleeps; an endpoint belongs to one
thread.
"""

from __future__ import annotations

import math
import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping  # noqa: TC003  msgspec reads the annotations at run time
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec
import pybase64

from batchgen.providers import find, find_model
from batchgen.records import Value
from batchgen.simulator import bodies, paint, requests
from batchgen.simulator.account import Account, Tokens, content_key, cost
from batchgen.simulator.quota import Bucket

if TYPE_CHECKING:
    from batchgen.records import Model
    from batchgen.simulator.settings import Settings

LINKS_KEPT = 10_000
"""Links of shape S6 expire, as those of gateways do."""

_FREE = ("rate_limited", "rate_limited_silent", "daily_quota", "overloaded", "server_error", "no_channel")


class Ending(StrEnum):
    """How the connection ends."""

    WHOLE = "whole"
    RESET_AFTER = "reset_after"
    """Instead of the status line, after the delay."""
    TRUNCATED = "truncated"
    """After half of the body."""
    HANG = "hang"
    """The status line never comes."""


class Reply(Value, frozen=True, kw_only=True):
    """What goes back, and when."""

    status: int
    delay: float = 0.0
    """Seconds before the status line."""
    headers: Mapping[str, str] = msgspec.field(default_factory=lambda: {"content-type": "application/json"})
    body: bytes | Callable[[], bytes] = b""
    """A function is worth a thread: it paints."""
    ending: Ending = Ending.WHOLE


class _Draw(Value, frozen=True, kw_only=True):
    """A request that was admitted, and the dice for it."""

    request: requests.ChatRequest
    model: Model
    key: bytes
    random: random.Random
    fault: str | None
    host: str


class Endpoint:
    """One simulated endpoint: its quotas, its account and the links it handed out."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float]) -> None:
        self.settings = settings
        self.account = Account()
        self._clock = clock
        self._provider = find("core-today")
        rates = (settings.rpm, settings.ipm)
        self._buckets = [Bucket(rate, settings.burst) for rate in rates if rate is not None]
        self._attempts: Counter[bytes] = Counter()
        self._connections = random.Random(f"{settings.seed} connections")
        self._links: OrderedDict[str, Callable[[], bytes]] = OrderedDict()

    def refuses(self) -> bool:
        """Whether the next connection is reset before anything is read; ask once for each."""
        rate = self.settings.faults.reset_before
        return rate > 0 and self.account.seen >= self.settings.calm and self._connections.random() < rate

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Decide, and book what is billed. Header names come in lower case."""
        path = path.partition("?")[0].rstrip("/")
        if method == "POST" and path.endswith("/chat/completions"):
            self.account.seen += 1
            return self._unauthorised(headers) or self._chat(headers.get("host", "simulator"), body)
        if method == "GET":
            return self._shown(path, headers)
        return _google(404, "NOT_FOUND", f"{method} {path} is not served here.")

    def _shown(self, path: str, headers: Mapping[str, str]) -> Reply:
        if path.endswith("/models"):
            return self._unauthorised(headers) or self._models()
        if path in self._links:
            return Reply(status=200, headers={"content-type": "image/jpeg"}, body=self._links[path])
        if path == "/account":
            return Reply(status=200, body=bodies.encode(self.account.summary()))
        if not path:
            text = b"batchgen's simulator: a model endpoint without a model; see /account for its bill.\n"
            return Reply(status=200, headers={"content-type": "text/plain; charset=utf-8"}, body=text)
        return _google(404, "NOT_FOUND", f"{path} is not served here.")

    def _unauthorised(self, headers: Mapping[str, str]) -> Reply | None:
        wanted = self.settings.key
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if wanted == "":
            return None
        if scheme.lower() != "bearer" or not key.strip():
            content = bodies.gateway_error(
                "No API key was given", "invalid_api_key", f"{self.account.seen:08d}"
            )
            return Reply(status=401, body=bodies.encode(content))
        if wanted is None or key.strip() == wanted:
            return None
        reason = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
        return _google(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", reason)

    def _models(self) -> Reply:
        listed = [
            {"id": model.id, "object": "model", "owned_by": "google"} for model in self._provider.models
        ]
        return Reply(status=200, body=bodies.encode({"object": "list", "data": listed}))

    def _chat(self, host: str, body: bytes) -> Reply:
        try:
            request = requests.read(body)
        except ValueError as error:
            return _google(400, "INVALID_ARGUMENT", f"Invalid request: {error}")
        model = find_model(self._provider, request.model)
        if model is None:
            message = f"models/{request.model} is not found for API version v1beta."
            return _google(404, "NOT_FOUND", message)
        now = self._clock()
        if wait := max((bucket.wait(now) for bucket in self._buckets), default=0.0):
            return self._limited(model, wait, random.Random(f"{self.settings.seed} {request.prompt}"))
        for bucket in self._buckets:
            bucket.take()
        self.account.admitted.append(now)
        return self._admitted(self._draw(request, model, host))

    def _draw(self, request: requests.ChatRequest, model: Model, host: str) -> _Draw:
        key = content_key(request.prompt, model.id)
        self._attempts[key] += 1
        dice = random.Random(f"{self.settings.seed} {key.hex()} {self._attempts[key]}")
        point, fault = dice.random(), None
        calm = self.account.seen <= self.settings.calm
        for name, rate in [] if calm else self.settings.faults.exclusive():
            point -= rate
            if point < 0:
                fault = name
                break
        return _Draw(request=request, model=model, key=key, random=dice, fault=fault, host=host)

    def _admitted(self, draw: _Draw) -> Reply:
        if draw.fault in _FREE:
            return self._failed(draw)
        answer = self._answer(draw)
        self.account.answered += 1
        self.account.book(draw.model, answer.tokens, draw.key)
        headers = {"content-type": "application/json", "x-request-id": answer.id}
        median = 25.0 if "pro" in draw.model.id else 12.0
        delay = draw.random.lognormvariate(math.log(median), 0.35) * self.settings.latency
        faults = {"reset_after": Ending.RESET_AFTER, "truncated": Ending.TRUNCATED, "hang": Ending.HANG}
        ending = faults.get(draw.fault or "", Ending.WHOLE)
        body = self._body(draw, answer)
        return Reply(status=200, delay=delay, headers=headers, body=body, ending=ending)

    def _answer(self, draw: _Draw) -> bodies.Answer:
        """What the model says and bills, still without its picture."""
        dice, request, model = draw.random, draw.request, draw.model
        thinking = dice.randint(225, 340) if "pro" in model.id else dice.randint(150, 400)
        image = model.image_tokens.get(self.settings.size, model.image_tokens["1K"])
        text, finish, native = f"Here is your picture: {request.prompt[:60]}", "stop", "STOP"
        if draw.fault == "refusal":
            text, finish, native, image = "", "content_filter", "IMAGE_SAFETY", 0
        elif draw.fault == "no_image":
            text, image = "I can describe the scene in words, but I did not draw it this time.", 0
        spoken = thinking + -(-len(text) // 4)
        if request.max_tokens is not None and spoken + image > request.max_tokens:
            text, finish, native, image = "", "length", "MAX_TOKENS", 0
            spoken = thinking = min(spoken, request.max_tokens)
        tokens = Tokens(prompt=request.tokens, text=spoken, thinking=thinking, image=image)
        return bodies.Answer(
            id=f"chatcmpl-{dice.getrandbits(96):024x}",
            model=request.model,
            created=int(self._clock()),
            text=text,
            finish=finish,
            native_finish=native,
            tokens=tokens,
            usd=cost(model, tokens),
            details=self.settings.details,
        )

    def _body(self, draw: _Draw, answer: bodies.Answer) -> bytes | Callable[[], bytes]:
        dice = draw.random
        shape = dice.choice(bodies.SHAPES) if self.settings.shape == "mixed" else self.settings.shape
        wants_draft = dice.random() < self.settings.faults.draft and shape not in bodies.SINGLE
        seeds = [dice.getrandbits(32) for _ in range(1 + wants_draft)]
        cut = draw.fault == "bad_json"
        if not answer.tokens.image:
            return _finished(bodies.encode(bodies.completion(shape, answer)), cut=cut)
        pictures = [self._picture(draw, seed) for seed in seeds]
        if shape == "S6" or draw.fault == "lost_link":
            links = [self._link(draw, seed, picture) for seed, picture in zip(seeds, pictures, strict=True)]
            linked = _with_pictures(answer, links)
            return _finished(bodies.encode(bodies.completion("S6", linked)), cut=cut)

        def compose() -> bytes:
            encoded = [pybase64.b64encode_as_string(picture()) for picture in pictures]
            if draw.fault == "bad_base64":
                encoded[-1] = f"{encoded[-1][:400]}!#{encoded[-1][400:]}"
            whole = bodies.encode(bodies.completion(shape, _with_pictures(answer, encoded)))
            return _finished(whole, cut=cut)

        return compose

    def _picture(self, draw: _Draw, seed: int) -> Callable[[], bytes]:
        prompt, model, size = draw.request.prompt, draw.model.id, self.settings.size
        painted, damaged = self.settings.paint, draw.fault == "corrupt"

        def picture() -> bytes:
            data = (
                paint.paint(prompt, model=model, seed=seed, size=size)
                if painted
                else paint.thumbnail(prompt, seed=seed)
            )
            return data[: len(data) * 3 // 5] if damaged else data

        return picture

    def _link(self, draw: _Draw, seed: int, picture: Callable[[], bytes]) -> str:
        path = f"/pictures/{draw.key.hex()[:16]}-{seed:08x}.jpg"
        if draw.fault != "lost_link":
            self._links[path] = picture
        if len(self._links) > LINKS_KEPT:
            self._links.popitem(last=False)
        return f"http://{draw.host}{path}"

    def _failed(self, draw: _Draw) -> Reply:
        dice, model = draw.random, draw.model
        delay = dice.uniform(0.05, 0.5) * self.settings.latency
        if draw.fault == "overloaded":
            return _google(
                503, "UNAVAILABLE", "The model is overloaded. Please try again later.", delay=delay
            )
        if draw.fault == "server_error":
            return _google(500, "INTERNAL", "An internal error has occurred. Please retry.", delay=delay)
        if draw.fault == "no_channel":
            message = f"No available channel for model {model.id} under group default"
            told = bodies.gateway_error(message, "model_not_found", f"{self.account.seen:08d}")
            return Reply(status=503, delay=delay, body=bodies.encode(told))
        if draw.fault == "rate_limited_silent":
            self.account.rate_limited += 1
            return _google(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted.", delay=delay)
        wait = dice.uniform(1, 3)
        return self._limited(model, wait, dice, daily=draw.fault == "daily_quota", delay=delay)

    def _limited(
        self, model: Model, wait: float, dice: random.Random, *, daily: bool = False, delay: float = 0.0
    ) -> Reply:
        self.account.rate_limited += 1
        per = "Day" if daily else "Minute"
        value = "250" if daily else f"{self.settings.rpm or self.settings.ipm or 60:g}"
        quota = f"GenerateRequestsPer{per}PerProjectPerModel"
        message = "You exceeded your current quota, please check your plan and billing details."
        details = bodies.quota_details(model.id, wait, quota, value)
        retry_after = {"retry-after": str(math.ceil(wait))} if dice.random() < 0.5 else {}
        return _google(429, "RESOURCE_EXHAUSTED", message, details, delay=delay, headers=retry_after)


def _google(
    status: int,
    name: str,
    message: str,
    details: list[dict[str, Any]] | None = None,
    *,
    delay: float = 0.0,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    body = bodies.encode(bodies.google_error(status, name, message, details))
    return Reply(
        status=status, delay=delay, headers={"content-type": "application/json", **(headers or {})}, body=body
    )


def _finished(body: bytes, *, cut: bool) -> bytes:
    return body[: len(body) * 2 // 3] if cut else body


def _with_pictures(answer: bodies.Answer, pictures: list[str]) -> bodies.Answer:
    return msgspec.structs.replace(answer, pictures=tuple(pictures))
