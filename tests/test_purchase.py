"""A night stays within its budget and its quotas, stops where going on is pointless, and drains when told."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
from contextlib import closing
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest

from batchgen.ledger import Onlooker
from batchgen.records import Limit
from batchgen.simulator import Endpoint, Faults, Latency, Reply, Settings, bodies
from tests.nights import Nights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from batchgen.progress import Progress
    from batchgen.runner import Summary
    from batchgen.simulator.answers import Draw

pytestmark = pytest.mark.virtual_time

MODELS = ["gemini-3.1-flash-image-preview", "gemini-3-pro-image-preview"]
HOUR = 3600.0


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def stopped(summary: Summary) -> tuple[str, int, str]:
    assert summary.stopped is not None
    return summary.stopped.reason, summary.exit_status, summary.stopped.message


# Budget


class Wavering(Endpoint):
    """Thinks as it likes: a picture's price varies by a tenth."""

    def _answer(self, draw: Draw) -> bodies.Answer:
        answer = super()._answer(draw)
        longest = 300 if "pro" in draw.offer.model.id else 2200
        return told_anew(answer, text=answer.tokens.text + draw.random.randrange(longest))


class Dear(Endpoint):
    """Bills ten times the image tokens from a certain answer on."""

    since = 20

    def _answer(self, draw: Draw) -> bodies.Answer:
        answer = super()._answer(draw)
        return told_anew(answer, image=11_200) if self.account.answered >= self.since else answer


def told_anew(answer: bodies.Answer, **changes: int) -> bodies.Answer:
    tokens = msgspec.structs.replace(answer.tokens, **changes)
    return msgspec.structs.replace(answer, tokens=tokens)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("seed", range(3))
def test_a_budget_is_used_to_its_last_picture_and_never_passed(memory: Path, model: str, seed: int) -> None:
    nights = Nights(memory, Settings(paint=False, seed=seed), backend=("asyncio", "trio")[seed % 2])
    nights.rows(400)

    def night(budget: float) -> Summary:
        summary = nights.run(budget=budget, concurrency=64, model=model, seed=seed)
        assert stopped(summary)[:2] == ("budget", 3)
        assert summary.counted_usd == nights.endpoint.account.usd <= Decimal(str(budget))
        return summary

    first = night(5.0)
    assert nights.endpoint.account.usd >= Decimal("4.80")
    assert night(5.0).requests == 0, "the same budget again buys nothing"
    second = night(10.0)
    assert nights.endpoint.account.usd >= Decimal("9.80")
    assert (first.left, second.left) == (400 - first.bought, 400 - first.bought - second.bought)


@pytest.mark.parametrize("concurrency", [1, 7, 64, 400])
def test_prices_that_waver_do_not_pass_a_budget_at_any_concurrency(memory: Path, concurrency: int) -> None:
    for seed, model in enumerate(MODELS):
        folder = memory / model
        folder.mkdir()
        nights = Nights(folder, backend="asyncio")
        nights.endpoint = Wavering(Settings(paint=False, seed=seed), clock=anyio.current_time)
        nights.rows(400)
        nights.run(budget=5.0, concurrency=concurrency, model=model)
        dearest = Decimal("0.30") if "pro" in model else Decimal("0.08")
        assert 5 - dearest <= nights.endpoint.account.usd <= 5


@pytest.mark.parametrize("seed", range(6))
def test_faults_and_kills_of_a_night_do_not_pass_its_budget(memory: Path, seed: int) -> None:
    faults = Faults(
        reset_after=0.1, truncated=0.05, overloaded=0.1, refusal=0.05, corrupt=0.05, no_image=0.05
    )
    settings = Settings(paint=False, seed=seed, faults=faults)
    nights = Nights(memory, settings, backend=("asyncio", "trio")[seed % 2])
    nights.rows(300)
    at = random.Random(seed).randrange(5, 30)
    nights.run(budget=3.0, concurrency=32, signals=True, on_progress=twice(after=at), seed=seed)
    while (summary := nights.run(budget=3.0, concurrency=32, seed=seed)).requests:
        assert nights.endpoint.account.usd <= summary.counted_usd <= 3
    assert nights.endpoint.account.usd <= summary.counted_usd <= 3
    assert summary.counted_usd >= 3 - Decimal("0.15")


@pytest.mark.parametrize(("short", "words", "budget"), [(6, 48_000, 2.0), (0, 80_000, 3.0)])
def test_a_long_prompt_is_reckoned_with_before_it_is_asked(
    nights: Nights, short: int, words: int, budget: float
) -> None:
    nights.write("id,prompt\n" + "".join(f"r{n},a picture {n}\n" for n in range(short)))
    with nights.manifest.open("a") as file:
        file.writelines(f"long-{n},{n} {'word ' * words}\n" for n in range(9))
    summary = nights.run(budget=budget, concurrency=16, model=MODELS[1])
    assert budget - 1 <= nights.endpoint.account.usd <= budget
    assert stopped(summary)[0] == "budget"


def test_what_is_billed_above_all_that_was_held_back_is_told(
    nights: Nights, caplog: pytest.LogCaptureFixture
) -> None:
    nights.endpoint = Dear(Settings(paint=False), clock=anyio.current_time)
    nights.rows(200)
    summary = nights.run(budget=5.0, concurrency=8)
    assert summary.counted_usd == nights.endpoint.account.usd > 5
    assert summary.budget_usd == 5
    warned = [
        record.getMessage() for record in caplog.records if "dearer than any before" in record.getMessage()
    ]
    assert len(warned) == 1
    assert nights.run(budget=5.0).requests == 0


def test_most_of_a_budget_used_is_told_once(nights: Nights, caplog: pytest.LogCaptureFixture) -> None:
    nights.rows(90)
    nights.run(budget=5.0, concurrency=16)
    nights.run(budget=5.0)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert told[0].startswith("80 % of the budget is used: $4.0")


def test_money_that_the_endpoint_names_counts_where_it_is_more(memory: Path, backend: str) -> None:
    class Marked(Endpoint):
        def _answer(self, draw: Draw) -> bodies.Answer:
            answer = super()._answer(draw)
            return msgspec.structs.replace(answer, usd=answer.usd * 2)

    nights = Nights(memory, backend=backend)
    nights.endpoint = Marked(Settings(paint=False, shape="S2"), clock=anyio.current_time)
    nights.rows(90)
    for _ in range(2):
        summary = nights.run(budget=5.0, concurrency=8)
        assert Decimal("4.80") <= nights.endpoint.account.usd * 2 <= 5
        assert abs(summary.counted_usd - nights.endpoint.account.usd * 2) < Decimal("0.0001")


def test_a_stopped_run_says_what_is_left_and_which_budget_is_enough(nights: Nights) -> None:
    nights.rows(60)
    summary = nights.run(budget=2.0)
    assert summary.left == 60 - summary.bought
    assert summary.left_usd is not None
    assert abs(summary.left_usd - summary.left * summary.cost_usd / summary.bought) < Decimal("0.01")
    assert summary.budget_needed is not None
    done = nights.run(budget=float(summary.budget_needed))
    assert (done.exit_status, done.left, done.budget_needed) == (0, 0, None)
    assert summary.budget_needed - done.counted_usd < 2


def test_what_is_left_is_what_the_run_was_about(nights: Nights) -> None:
    nights.rows(60)
    assert nights.run(limit=3).left == 0
    assert nights.run(limit=20, budget=1.0).left == 6


@pytest.fixture
def nights(memory: Path, backend: str) -> Nights:
    return Nights(memory, backend=backend)


# Stops


def google(status: int, name: str, message: str, details: list[dict[str, Any]] | None = None) -> Reply:
    return Reply(status=status, body=bodies.encode(bodies.google_error(status, name, message, details)))


STOPS: Mapping[str, Reply] = {
    "auth": google(403, "PERMISSION_DENIED", "Your API key was reported as leaked."),
    "credits": Reply(status=402, body=b'{"error":{"message":"Insufficient credits","code":402}}'),
    "account": google(400, "FAILED_PRECONDITION", "User location is not supported for the API use."),
    "model": google(404, "NOT_FOUND", "models/x is not found for API version v1beta"),
    "endpoint_incapable": google(400, "INVALID_ARGUMENT", "Unhandled generated data mime type: image/png"),
    "daily_quota": google(
        429, "RESOURCE_EXHAUSTED", "quota", bodies.quota_details("x", 3, "GenerateRequestsPerDay", "250")
    ),
}


class Refusing(Endpoint):
    """Answers every request alike, after a second."""

    reply: Reply

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        self.account.seen += 1
        return msgspec.structs.replace(self.reply, delay=1.0)


@pytest.mark.parametrize("concurrency", [1, 16])
@pytest.mark.parametrize("reason", STOPS)
def test_what_would_fail_every_row_alike_stops_the_run_within_its_concurrency(
    nights: Nights, reason: str, concurrency: int
) -> None:
    endpoint = Refusing(Settings(), clock=anyio.current_time)
    endpoint.reply = STOPS[reason]
    nights.endpoint = endpoint
    nights.rows(300)
    summary = nights.run(concurrency=concurrency)
    assert stopped(summary)[:2] == (reason, 3)
    assert nights.endpoint.account.seen <= concurrency
    assert summary.tasks == {"pending": 300}, "no row is burned"
    assert summary.left == 300
    assert summary.stopped is not None
    assert len(summary.stopped.remedy) > 20


# Signals


def twice(*, after: int) -> Callable[[Progress], None]:
    """Ask for the end when so many pictures are there, and then for an end at once."""
    left = [signal.SIGTERM, signal.SIGTERM]

    def watch(progress: Progress) -> None:
        if left and progress.succeeded >= after and (len(left) == 2 or progress.stopping):
            os.kill(os.getpid(), left.pop())

    return watch


def once(number: signal.Signals, when: Callable[[Progress], bool]) -> Callable[[Progress], None]:
    sent: list[Progress] = []

    def watch(progress: Progress) -> None:
        if not sent and when(progress):
            sent.append(progress)
            os.kill(os.getpid(), number)

    return watch


@pytest.mark.parametrize("drain", [0, 3, None])
def test_what_has_not_landed_when_the_drain_ends_is_uncertain(nights: Nights, drain: float | None) -> None:
    nights.endpoint = Endpoint(Settings(paint=False, faults=Faults(hang=0.2)), clock=anyio.current_time)
    nights.rows(60)
    watch = once(signal.SIGTERM, lambda progress: progress.succeeded >= 8)
    ends: list[float] = []

    def timed(progress: Progress) -> None:
        watch(progress)
        if progress.stopping:
            ends.append(anyio.current_time())

    summary = nights.run(on_progress=timed, signals=True, timeout=100.0, concurrency=16, drain=drain)
    assert summary.exit_status == 143
    assert ends[-1] - ends[0] <= (100 if drain is None else drain) + 0.1
    assert summary.uncertain == nights.endpoint.account.billed - summary.bought > 0
    reason, _, message = stopped(summary)
    assert reason == "SIGTERM"
    assert ("was cut off and is uncertain" in message) == (drain is not None)
    assert summary.uncertain_usd > 0


def test_a_signal_during_a_stop_does_not_end_it_at_once(nights: Nights) -> None:
    nights.endpoint = Endpoint(
        Settings(paint=False, faults=Faults(daily_quota=0.05)), clock=anyio.current_time
    )
    nights.rows(200)
    watch = once(signal.SIGINT, lambda progress: progress.stopping is not None and progress.in_flight > 2)
    summary = nights.run(on_progress=watch, signals=True, concurrency=8)
    assert stopped(summary)[:2] == ("SIGINT", 130)
    assert summary.uncertain == 0
    assert nights.endpoint.account.billed == summary.bought


def test_a_signal_after_the_last_picture_does_not_come_between_a_run_and_its_table(nights: Nights) -> None:
    nights.rows(5)
    signals = iter([signal.SIGTERM, signal.SIGINT, signal.SIGHUP] * 2)

    def watch(progress: Progress) -> None:
        if progress.succeeded == 5 and not progress.in_flight:
            os.kill(os.getpid(), next(signals))

    summary = nights.run(on_progress=watch, signals=True, concurrency=1)
    assert summary.exit_status == 0
    assert next(signals) == signal.SIGINT, "one was sent"
    assert len(nights.table()) == 5


def test_a_second_signal_leaves_the_table_and_the_next_ones_cannot_prevent_it(nights: Nights) -> None:
    nights.rows(50)
    before = signal.getsignal(signal.SIGTERM)
    summary = nights.run(on_progress=twice(after=5), signals=True)
    assert summary.uncertain > 0
    assert len(nights.table()) == 50
    assert signal.getsignal(signal.SIGTERM) == before


# The quota of a day


class Daily(Endpoint):
    """Gives so many pictures a day. Its clock's zero is midnight in California, as that of `Nights` is."""

    a_day = 30
    late = 0.0
    """Seconds after midnight at which the quota is really reset, from the second day on."""
    says: float | None = None
    """Seconds that its answer names; None: the useless ones of a minute's quota."""

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        now = self._clock()
        self.seen_at = [*getattr(self, "seen_at", []), now]
        used = sum(1 for at in self.account.admitted if at // (24 * HOUR) == now // (24 * HOUR))
        if used < self.a_day and (now < 24 * HOUR or now % (24 * HOUR) >= self.late):
            return super().answer(method, path, headers, body)
        self.account.seen += 1
        wait = 37.0 if self.says is None else self.says
        details = bodies.quota_details("x", wait, "GenerateRequestsPerDayPerProjectPerModel", "30")
        reply = google(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota.", details)
        return msgspec.structs.replace(reply, delay=0.2)


def daily(nights: Nights, **changes: float | None) -> Daily:
    endpoint = Daily(Settings(paint=False), clock=anyio.current_time)
    for name, value in changes.items():
        setattr(endpoint, name, value)
    nights.endpoint = endpoint
    return endpoint


def pauses(endpoint: Daily) -> list[tuple[float, float]]:
    """The hours without a request: from, to."""
    seen = endpoint.seen_at
    return [(a, b) for a, b in itertools.pairwise(seen) if b - a > 500]


def test_a_night_waits_for_midnight_in_california_and_asks_once_before_all_go_on(
    nights: Nights, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = daily(nights)
    nights.rows(70)
    summary = nights.run(on_daily_quota="wait", concurrency=16, attempts=1)
    assert (summary.exit_status, summary.tasks) == (0, {"succeeded": 70})
    assert [round(end) for _, end in pauses(endpoint)] == [24 * HOUR + 5, 48 * HOUR + 5]
    for _, end in pauses(endpoint):
        alone = [at for at in endpoint.seen_at if end <= at < end + 1]
        assert alone == [end], "one request, and no burst"
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert told[0] == "daily quota used up; going on at 2027-01-16 00:00 PST, in 24 h 0 min"
    assert all(row["attempts"] == 1 for row in nights.table()), "a 429 costs no attempt"
    assert endpoint.account.seen - 70 <= 2 * 16


def test_a_reset_that_the_endpoint_names_goes_before_midnight(nights: Nights) -> None:
    endpoint = daily(nights, a_day=10, says=5 * HOUR)
    nights.rows(12)
    assert nights.run(on_daily_quota="wait", concurrency=2).exit_status == 0
    assert {round(b - a) for a, b in pauses(endpoint)} == {5 * HOUR + 5}


def test_a_reset_that_comes_late_is_waited_for_in_short_steps(nights: Nights) -> None:
    endpoint = daily(nights, late=25 * 60.0)
    nights.rows(25)
    endpoint.account.admitted.extend([HOUR] * 29)  # one is left for today; it lands after the others' 429
    summary = nights.run(on_daily_quota="wait", concurrency=4)
    assert summary.exit_status == 0
    assert [round(b - a) for a, b in pauses(endpoint)] == [24 * HOUR + 5, 605, 605, 605]


def test_an_outage_after_a_long_wait_is_borne_like_any_other(nights: Nights) -> None:
    class Hiccup(Daily):
        def refuses(self) -> bool:
            return 24 * HOUR < self._clock() < 24 * HOUR + 300

    nights.endpoint = Hiccup(Settings(paint=False), clock=anyio.current_time)
    nights.rows(40)
    assert nights.run(on_daily_quota="wait", concurrency=4).exit_status == 0


def test_a_quota_that_never_comes_back_stops_the_run_an_hour_after_its_reset(nights: Nights) -> None:
    daily(nights, a_day=0)
    nights.rows(40)
    summary = nights.run(on_daily_quota="wait", concurrency=4)
    reason, status, message = stopped(summary)
    assert (reason, status) == ("daily_quota", 3)
    assert "also after its reset" in message
    assert nights.endpoint.account.seen <= 4 + 7
    assert summary.tasks == {"pending": 40}


def test_a_signal_ends_the_wait_for_a_quota_at_once(nights: Nights) -> None:
    daily(nights, a_day=5)
    nights.rows(20)
    ends: list[float] = []
    watch = once(signal.SIGTERM, lambda progress: progress.cooling > 5 * HOUR and progress.in_flight > 0)

    def timed(progress: Progress) -> None:
        watch(progress)
        ends.append(anyio.current_time())

    summary = nights.run(on_daily_quota="wait", on_progress=timed, signals=True, concurrency=4)
    assert stopped(summary)[:2] == ("SIGTERM", 143)
    assert summary.uncertain == 0
    assert ends[-1] < HOUR
    assert summary.left == 15


# What is found out of a limit that nobody declared


def test_the_limit_that_a_run_found_out_is_told_and_where_the_next_one_begins(memory: Path) -> None:
    usual = {"gemini-3.1-flash-image-preview": Latency(median=2.0, spread=0.3)}
    nights = Nights(memory, Settings(paint=False, rpm=900, burst=15, latencies=usual))
    nights.rows(500)
    told: list[Progress] = []
    first = nights.run(concurrency=64, limit=250, on_progress=told.append, log_file=str(memory / "run.jsonl"))
    assert first.rate_limit.felt == pytest.approx(900, rel=0.15)
    assert (told[0].rate_limit, told[-1].rate_limit) == (Limit(), first.rate_limit)
    lines = [json.loads(line) for line in (memory / "run.jsonl").read_text().splitlines()]
    assert [line["felt"] for line in lines if line["event"] == "rate_limit"][-1] == first.rate_limit.felt
    told.clear()
    refused = nights.endpoint.account.rate_limited
    second = nights.run(concurrency=64, on_progress=told.append)
    assert told[0].rate_limit == first.rate_limit, "from the first moment on"
    assert nights.endpoint.account.rate_limited - refused <= 0.02 * 250
    assert second.tasks == {"succeeded": 500}


def test_of_a_declared_limit_nothing_is_found_out_and_what_was_known_is_left_alone(memory: Path) -> None:
    nights = Nights(memory, Settings(paint=False, rpm=60, quota_headers="openai", latency=0.1))
    nights.rows(30)
    assert nights.run(concurrency=20, limit=20).rate_limit.stated == 60
    assert nights.run(concurrency=20, rpm=50).rate_limit == Limit()
    with closing(Onlooker(nights.directory / "ledger.db")) as reader:
        assert reader.moment().limit == Limit()
        assert reader.limit("http://simulator", MODELS[0]).stated == 60
