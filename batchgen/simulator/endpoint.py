"""
What does the model endpoint answer to this request?

The contract is that of a gateway in front of Google's image models, in each of the wire formats that
`formats` knows: paths, keys, usage, error bodies. Everything drawn depends on the seed, the content and how
often it was asked, never on the order in which concurrent requests arrive. No method blocks or sleeps; an
endpoint belongs to one thread.
"""

from __future__ import annotations

import math
import random
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

from batchgen.records import Value
from batchgen.simulator import answers, asked, bodies, sold
from batchgen.simulator.account import Account, content_key
from batchgen.simulator.answers import Draw
from batchgen.simulator.formats import CHAT, IMAGES, NATIVE, Call, Format, at
from batchgen.simulator.quota import STYLES, Bucket
from batchgen.simulator.reply import Ending, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchgen.records import Model
    from batchgen.simulator.asked import Asked
    from batchgen.simulator.bodies import Answer
    from batchgen.simulator.settings import Settings
    from batchgen.simulator.sold import Offer

LINKS_KEPT = 10_000
"""Links of shape S6 expire, as those of gateways do."""

_FREE = ("rate_limited", "rate_limited_silent", "daily_quota", "overloaded", "server_error", "no_channel")
_ENDINGS = {"reset_after": Ending.RESET_AFTER, "truncated": Ending.TRUNCATED, "hang": Ending.HANG}


class Decided(Value, frozen=True, kw_only=True):
    """An answer that is billed, before it is written."""

    draw: Draw
    answer: Answer
    delay: float
    """Seconds until it comes."""
    ending: Ending
    headers: Mapping[str, str]
    """What they say of limits, as it was when the request came in."""


class Endpoint:
    """One simulated endpoint: its quotas, its account and the links it handed out."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float]) -> None:
        self.settings = settings
        self.account = Account()
        self._clock = clock
        rates = {"requests": settings.rpm, "images": settings.ipm}
        self._buckets = {
            name: Bucket(rate, settings.burst) for name, rate in rates.items() if rate is not None
        }
        self._attempts: Counter[bytes] = Counter()
        self._connections = random.Random(f"{settings.seed} connections")
        self._faults = settings.faults.exclusive()
        self._links: OrderedDict[str, Callable[[], bytes]] = OrderedDict()

    def refuses(self) -> bool:
        """Whether the next connection is reset before anything is read; ask once for each."""
        rate = self.settings.faults.reset_before
        return rate > 0 and self.account.seen >= self.settings.calm and self._connections.random() < rate

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Decide, and book what is billed. Header names come in lower case, the target with its query."""
        path, _, query = target.partition("?")
        call = Call(
            path=unquote(path).rstrip("/"),
            query=dict(parse_qsl(query)) if query else {},
            headers=headers,
            body=body,
            links=self.settings.reference_urls,
        )
        spoken = at(call.path) if method == "POST" else None
        if spoken is not None:
            self.account.seen += 1
            return self._unauthorised(call, spoken) or self._asked(call, spoken)
        if method == "GET":
            return self._shown(call)
        return _told(CHAT, 404, "NOT_FOUND", f"{method} {call.path} is not served here.")

    def _shown(self, call: Call) -> Reply:
        path = call.path
        if path.endswith("/models") or "/models/" in path:
            spoken = _lister(call)
            return self._unauthorised(call, spoken) or _listed(path, spoken)
        if path in self._links:
            return Reply(status=200, headers={"content-type": "image/jpeg"}, body=self._links[path])
        if path == "/account":
            return Reply(status=200, body=bodies.encode(self.account.summary()))
        if not path:
            text = b"batchgen's simulator: a model endpoint without a model; see /account for its bill.\n"
            return Reply(status=200, headers={"content-type": "text/plain; charset=utf-8"}, body=text)
        return _told(CHAT, 404, "NOT_FOUND", f"{path} is not served here.")

    def _unauthorised(self, call: Call, spoken: Format) -> Reply | None:
        wanted, key = self.settings.key, _key(call)
        if wanted == "" or (key and wanted in {None, key}):
            return None
        if key:
            reason = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
            message = "API key not valid. Please pass a valid API key."
            return _told(spoken, 400, "INVALID_ARGUMENT", message, reason)
        if spoken is NATIVE:
            message = "Method doesn't allow unregistered callers. Please use an API key."
            return _told(spoken, 403, "PERMISSION_DENIED", message)
        content = bodies.gateway_error("No API key was given", "invalid_api_key", f"{self.account.seen:08d}")
        return Reply(status=401, body=bodies.encode(content))

    def _asked(self, call: Call, spoken: Format) -> Reply:
        try:
            request = spoken.read(call)
            offer = sold.offer(request.model)
            if offer is None or (offer.provider.dialect == "images" and spoken is not IMAGES):
                message = f"models/{request.model} is not found for API version v1beta."
                return _told(spoken, 404, "NOT_FOUND", message)
            asked.check(request, offer.model, offer.provider, length=len(call.body))
        except ValueError as error:
            return _told(spoken, 400, "INVALID_ARGUMENT", f"Invalid request: {error}")
        decided = self._decided(request, offer, spoken, call.headers.get("host", "simulator"))
        return decided if isinstance(decided, Reply) else self.written(decided)

    def ask(self, request: Asked, offer: Offer) -> Reply | Decided:
        """
        Decide on a request without its bytes, in chat completions; book what is billed.

        Nothing of it is checked. A failure that is free comes as it is written.
        """
        self.account.seen += 1
        return self._decided(request, offer, CHAT, "simulator")

    def _decided(self, request: Asked, offer: Offer, spoken: Format, host: str) -> Reply | Decided:
        now = self._clock()
        if wait := max((bucket.wait(now) for bucket in self._buckets.values()), default=0.0):
            dice = random.Random(f"{self.settings.seed} {request.prompt}")
            return self._limited(spoken, offer.model, wait, dice)
        for bucket in self._buckets.values():
            bucket.take()
        self.account.admitted.append(now)
        return self._admitted(self._draw(request, offer, spoken, host))

    def _draw(self, request: Asked, offer: Offer, spoken: Format, host: str) -> Draw:
        key = content_key(request.prompt, offer.model.id, request.references)
        self._attempts[key] += 1
        dice = random.Random(f"{self.settings.seed} {key.hex()} {self._attempts[key]}")
        point, fault = dice.random(), None
        calm = self.account.seen <= self.settings.calm
        for name, rate in () if calm else self._faults:
            point -= rate
            if point < 0:
                fault = name
                break
        return Draw(
            format=spoken,
            asked=request,
            offer=offer,
            size=answers.size(request, offer, self.settings),
            key=key,
            random=dice,
            fault=fault,
            host=host,
        )

    def _admitted(self, draw: Draw) -> Reply | Decided:
        if draw.fault in _FREE:
            return self._failed(draw)
        answer = self._answer(draw)
        if (reply := self._withheld(draw, answer)) is not None:
            return reply
        self.account.answered += 1
        self.account.book(draw.offer.model, answer.tokens, draw.key)
        usual = self.settings.latency_of(draw.offer.model.id)
        delay = draw.random.lognormvariate(math.log(usual.median), usual.spread) * self.settings.latency
        delay *= self.settings.slowness if draw.fault == "slow" else 1
        ending = _ENDINGS.get(draw.fault or "", Ending.WHOLE)
        said = self._quota_headers()
        return Decided(draw=draw, answer=answer, delay=delay, ending=ending, headers=said)

    def _quota_headers(self) -> Mapping[str, str]:
        return STYLES[self.settings.quota_headers](self._buckets)

    def written(self, decided: Decided) -> Reply:
        """An answer as it goes over the wire; its pictures are not painted yet."""
        draw, answer = decided.draw, decided.answer
        shape, body = self._composed(draw, answer)
        kind = "text/event-stream" if draw.asked.stream and draw.asked.events else "application/json"
        return Reply(
            status=200,
            delay=decided.delay,
            headers={"content-type": kind, "x-request-id": answer.id, **decided.headers},
            body=body,
            stream=draw.format.opening(shape, answer) if draw.asked.stream else None,
            ending=decided.ending,
        )

    def _answer(self, draw: Draw) -> Answer:
        return answers.decided(draw, self.settings, now=self._clock())

    def _withheld(self, draw: Draw, answer: Answer) -> Reply | None:
        """A picture that the format cannot carry, or a refusal that it tells as an error: both free."""
        if draw.format is CHAT and answer.tokens.image and not self.settings.chat_pictures:
            message = "Unhandled generated data mime type: image/jpeg"
            return _told(CHAT, 400, "INVALID_ARGUMENT", message)
        if draw.format is IMAGES and answer.finish == "content_filter":
            message = "Your request was rejected by the safety system."
            return _told(IMAGES, 400, "moderation_blocked", message)
        return None

    def _composed(self, draw: Draw, answer: Answer) -> tuple[str, bytes | Callable[[], bytes]]:
        """The answer's shape, and its body."""
        dice = draw.random
        shape = dice.choice(bodies.SHAPES) if self.settings.shape == "mixed" else self.settings.shape
        wants_draft = dice.random() < self.settings.faults.draft and shape not in bodies.SINGLE
        seeds = [dice.getrandbits(32) for _ in range(1 + wants_draft)]
        if draw.asked.seed is not None:
            seeds = [draw.asked.seed + at for at in reversed(range(1 + wants_draft))]
        if not answer.tokens.image:
            return shape, answers.written(draw, shape, answer)
        pictures = [answers.painter(draw, seed, self.settings) for seed in seeds]
        linked = shape == "S6" and draw.format is CHAT
        if linked or draw.asked.link or draw.fault == "lost_link":
            links = [self._link(draw, seed, picture) for seed, picture in zip(seeds, pictures, strict=True)]
            return "S6", answers.written(draw, "S6", bodies.with_pictures(answer, links, linked=True))
        return shape, lambda: answers.composed(draw, shape, answer, pictures)

    def _link(self, draw: Draw, seed: int, picture: Callable[[], bytes]) -> str:
        path = f"/pictures/{draw.key.hex()[:16]}-{seed:08x}.jpg"
        if draw.fault != "lost_link":
            self._links[path] = picture
        if len(self._links) > LINKS_KEPT:
            self._links.popitem(last=False)
        return f"http://{draw.host}{path}"

    def _failed(self, draw: Draw) -> Reply:
        dice, model, spoken = draw.random, draw.offer.model, draw.format
        delay = dice.uniform(0.05, 0.5) * self.settings.latency
        if draw.fault == "overloaded":
            message = "The model is overloaded. Please try again later."
            return _told(spoken, 503, "UNAVAILABLE", message, delay=delay)
        if draw.fault == "server_error":
            message = "An internal error has occurred. Please retry."
            return _told(spoken, 500, "INTERNAL", message, delay=delay)
        if draw.fault == "no_channel":
            message = f"No available channel for model {model.id} under group default"
            told = bodies.gateway_error(message, "model_not_found", f"{self.account.seen:08d}")
            return Reply(status=503, delay=delay, body=bodies.encode(told))
        if draw.fault == "rate_limited_silent":
            self.account.rate_limited += 1
            return _told(spoken, 429, "RESOURCE_EXHAUSTED", "Resource has been exhausted.", delay=delay)
        wait = dice.uniform(1, 3)
        return self._limited(spoken, model, wait, dice, daily=draw.fault == "daily_quota", delay=delay)

    def _limited(
        self,
        spoken: Format,
        model: Model,
        wait: float,
        dice: random.Random,
        *,
        daily: bool = False,
        delay: float = 0.0,
    ) -> Reply:
        self.account.rate_limited += 1
        per = "Day" if daily else "Minute"
        value = "250" if daily else f"{self.settings.rpm or self.settings.ipm or 60:g}"
        quota = f"GenerateRequestsPer{per}PerProjectPerModel"
        message = "You exceeded your current quota, please check your plan and billing details."
        details = bodies.quota_details(model.id, wait, quota, value)
        retry_after = {"retry-after": str(math.ceil(wait))} if dice.random() < 0.5 else {}
        return _told(
            spoken,
            429,
            "RESOURCE_EXHAUSTED",
            message,
            details,
            delay=delay,
            headers={**retry_after, **self._quota_headers()},
        )


def _key(call: Call) -> str:
    """The key, wherever it stands: https://ai.google.dev/gemini-api/docs/api-key"""
    scheme, _, key = call.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    named = call.headers.get("x-goog-api-key") or call.headers.get("x-api-key") or call.query.get("key")
    return (named or "").strip()


def _lister(call: Call) -> Format:
    """Google's list, where the path or the way of the key is Google's; else OpenAI's."""
    google = "x-goog-api-key" in call.headers or "key" in call.query or "/v1beta/models" in call.path
    return NATIVE if google else CHAT


def _listed(path: str, spoken: Format) -> Reply:
    name = path.rpartition("/models")[2].strip("/")
    if not name:
        return Reply(
            status=200, body=bodies.encode(sold.native_list() if spoken is NATIVE else sold.openai_list())
        )
    offer = sold.offer(name)
    if offer is None:
        return _told(spoken, 404, "NOT_FOUND", f"models/{name} is not found for API version v1beta.")
    describe = sold.native_model if spoken is NATIVE else sold.openai_model
    return Reply(status=200, body=bodies.encode(describe(offer)))


def _told(
    spoken: Format,
    status: int,
    name: str,
    message: str,
    details: list[dict[str, Any]] | None = None,
    *,
    delay: float = 0.0,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """An error, as the format writes it."""
    body = bodies.encode(spoken.error(status, name, message, details))
    return Reply(
        status=status, delay=delay, headers={"content-type": "application/json", **(headers or {})}, body=body
    )
