"""Whole runs in virtual time: every row accounted for, nothing bought twice, no quota or budget passed."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from decimal import Decimal
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from batchgen.errors import InputError, LockedError
from batchgen.lock import RunLock
from batchgen.simulator import Faults, Settings
from batchgen.simulator.paint import prompt_mark
from tests.nights import Nights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchgen.progress import Progress

pytestmark = pytest.mark.virtual_time


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def nights(memory: Path, backend: str) -> Nights:
    return Nights(memory, backend=backend)


def statuses(nights: Nights) -> Counter[str]:
    return Counter(row["status"] for row in nights.table())


def sums(nights: Nights) -> dict[str, Any]:
    table = nights.table()
    tokens = ("prompt_tokens", "text_tokens", "image_tokens", "total_tokens")
    return {name: sum(row[name] for row in table) for name in tokens} | {
        "usd": sum((row["cost_usd"] or Decimal(0) for row in table), Decimal(0))
    }


def account(nights: Nights) -> dict[str, Any]:
    spent = nights.endpoint.account.models.values()
    tokens = ("prompt_tokens", "text_tokens", "image_tokens", "total_tokens")
    return {name: sum(getattr(one, name) for one in spent) for name in tokens} | {
        "usd": nights.endpoint.account.usd
    }


def test_every_row_gets_its_picture_and_the_sums_are_the_endpoints_own(nights: Nights) -> None:
    nights.rows(100)
    summary = nights.run()
    assert summary.exit_status == 0
    assert [row["id"] for row in nights.table()] == [f"row-{n}" for n in range(100)]
    assert statuses(nights) == {"succeeded": 100}
    assert sums(nights) == account(nights)
    assert (summary.cost_usd, summary.spent_usd, summary.run_usd) == (nights.endpoint.account.usd,) * 3
    assert (summary.bought, summary.requests, summary.total_tokens) == (
        100,
        100,
        sums(nights)["total_tokens"],
    )


def test_each_picture_is_its_own_prompts(memory: Path, backend: str) -> None:
    nights = Nights(memory, Settings(latency=0.1), backend=backend)
    nights.rows(12)
    nights.run(concurrency=5)
    for row in nights.table():
        painted = (nights.directory / row["file_name"]).read_bytes()
        assert prompt_mark(painted) == prompt_mark_of(row["prompt"])


def prompt_mark_of(prompt: str) -> str:
    return sha256(prompt.encode()).hexdigest()[:16]


def test_a_second_run_sends_nothing(nights: Nights) -> None:
    nights.rows(30)
    nights.run()
    again = nights.run()
    assert nights.endpoint.account.seen == 30
    assert (again.bought, again.requests, again.exit_status) == (0, 0, 0)
    assert again.run_usd == 0
    assert again.cost_usd == nights.endpoint.account.usd


def test_a_shuffled_manifest_buys_nothing_and_keeps_every_picture_with_its_row(nights: Nights) -> None:
    lines = [f"row-{n},a picture of number {n}\n" for n in range(30)]
    nights.write("id,prompt\n" + "".join(lines))
    nights.run()
    before = {row["id"]: row for row in nights.table()}
    random.Random(1).shuffle(lines)
    nights.write("id,prompt\n" + "".join(lines))
    nights.run()
    assert nights.endpoint.account.seen == 30
    table = nights.table()
    assert [row["id"] for row in table] == [line.split(",")[0] for line in lines]
    assert {row["id"]: row for row in table} == before


def test_only_what_changed_is_bought(nights: Nights) -> None:
    nights.write("id,prompt\na,one\nb,two\nc,three\n")
    nights.run()
    nights.write("id,prompt\na,one\nb,two!\nc,three\n")
    assert nights.run().bought == 1, "an edited prompt is one picture"
    nights.write("id,prompt\nz,zero\na,one\nb,two!\nc,three\n")
    assert nights.run().bought == 1, "an added row is one picture"
    nights.write("id,prompt\nz,zero\nc,three\n")
    summary = nights.run()
    assert summary.bought == 0
    assert [row["id"] for row in nights.table()] == ["z", "c"], "deleted rows leave the table"
    assert (nights.directory / "images/a.jpg").exists(), "and stay on disk"
    assert summary.spent_usd == nights.endpoint.account.usd > summary.cost_usd


def test_raising_the_variants_buys_the_difference(nights: Nights) -> None:
    nights.rows(5)
    nights.run(variants=2)
    assert nights.run(variants=5).bought == 15
    names = [row["file_name"] for row in nights.table()][:5]
    assert len(set(names)) == 5


def test_a_limit_is_a_beginning_and_its_rows_are_not_bought_again(nights: Nights) -> None:
    nights.rows(20)
    first = nights.run(limit=7)
    assert (first.bought, first.exit_status) == (7, 0)
    assert statuses(nights) == {"succeeded": 7, "pending": 13}
    assert nights.run().bought == 13


def test_only_the_named_rows_are_bought_and_again_buys_them_anew(nights: Nights, memory: Path) -> None:
    nights.rows(10)
    chosen = memory / "rejects.csv"
    chosen.write_text("id\nrow-3\nrow-7\n")
    assert nights.run(only=str(chosen)).bought == 2
    nights.run()
    assert nights.run(only=str(chosen), again=True).bought == 2
    assert nights.run().bought == 0
    costs = {row["id"]: row["attempts"] for row in nights.table()}
    assert (costs["row-3"], costs["row-4"]) == (2, 1)
    assert sums(nights) == account(nights)


def test_failed_rows_rest_until_they_are_asked_for(memory: Path, backend: str) -> None:
    nights = Nights(memory, Settings(paint=False, faults=Faults(refusal=0.3), seed=5), backend=backend)
    nights.rows(40)
    first = nights.run(attempts=1)
    assert first.exit_status == 1
    failed = 40 - first.tasks["succeeded"]
    assert failed > 0
    resting = nights.run(attempts=1)
    assert (resting.requests, resting.exit_status) == (0, 1)
    again = nights.run(attempts=1, retry_failed=True)
    assert again.requests == failed
    assert again.bought > 0
    assert sums(nights) == account(nights)


def test_the_declared_quota_is_used_and_never_passed(memory: Path, backend: str) -> None:
    nights = Nights(memory, Settings(paint=False, rpm=120, burst=3), backend=backend)
    nights.rows(400)
    summary = nights.run(rpm=120, concurrency=64)
    assert summary.exit_status == 0
    assert nights.endpoint.account.rate_limited == 0
    starts = list(nights.endpoint.account.admitted)
    assert (starts[-1] - starts[0]) <= 1.02 * 399 / 2, "two a second"


def test_a_quota_nobody_declared_loses_no_row_and_costs_no_attempt(memory: Path, backend: str) -> None:
    nights = Nights(memory, Settings(paint=False, rpm=60, burst=5), backend=backend)
    nights.rows(120)
    summary = nights.run(concurrency=32, attempts=1)
    assert statuses(nights) == {"succeeded": 120}
    assert nights.endpoint.account.rate_limited > 0
    assert all(row["attempts"] == 1 for row in nights.table())
    assert summary.requests == nights.endpoint.account.seen


@pytest.mark.parametrize("concurrency", [1, 8, 64])
def test_a_wrong_key_stops_the_run_within_its_concurrency(
    memory: Path, backend: str, concurrency: int
) -> None:
    nights = Nights(memory, Settings(paint=False, key="another"), backend=backend)
    nights.rows(1000)
    summary = nights.run(concurrency=concurrency)
    assert nights.endpoint.account.seen <= concurrency
    assert summary.exit_status == 3
    assert summary.stopped is not None
    assert (summary.stopped.reason, "API key" in summary.stopped.remedy) == ("auth", True)
    assert statuses(nights) == {"pending": 1000}, "no row is burned"


def test_a_used_up_daily_quota_stops_the_run_and_burns_no_row(memory: Path, backend: str) -> None:
    nights = Nights(memory, Settings(paint=False, faults=Faults(daily_quota=0.05), seed=2), backend=backend)
    nights.rows(200)
    summary = nights.run(concurrency=4)
    assert summary.exit_status == 3
    assert summary.stopped is not None
    assert summary.stopped.reason == "daily_quota"
    assert statuses(nights).keys() == {"succeeded", "pending"}


def test_a_budget_needs_a_price(nights: Nights) -> None:
    nights.rows(1)
    with pytest.raises(InputError, match="has no known price"):
        nights.run(budget=1.0, provider=None, base_url="http://127.0.0.1:1/v1", model="unheard-of")


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
)
def test_a_signal_lets_land_what_is_in_flight(nights: Nights, number: signal.Signals, status: int) -> None:
    nights.rows(50)
    seen: list[Progress] = []

    def watch(progress: Progress) -> None:
        if progress.succeeded == 5 and not seen:
            seen.append(progress)
            os.kill(os.getpid(), number)

    summary = nights.run(on_progress=watch, signals=True)
    assert summary.exit_status == status
    bought = statuses(nights)["succeeded"]
    assert 5 <= bought <= 5 + 8
    assert bought == nights.endpoint.account.billed, "nothing bought is lost"
    assert summary.uncertain == 0
    assert nights.run().bought == 50 - bought
    assert sums(nights) == account(nights)


def two_signals(*, after: int) -> Callable[[Progress], None]:
    """Ask for the end when so many pictures are there, and then for an end at once."""
    left = [signal.SIGTERM, signal.SIGTERM]

    def watch(progress: Progress) -> None:
        if left and progress.succeeded >= after and (len(left) == 2 or progress.stopping):
            os.kill(os.getpid(), left.pop())

    return watch


def test_a_second_signal_ends_it_at_once_and_says_what_is_uncertain(nights: Nights) -> None:
    nights.rows(50)
    summary = nights.run(on_progress=two_signals(after=5), signals=True)
    assert summary.exit_status == 143
    account_of = nights.endpoint.account
    assert summary.uncertain == account_of.billed - statuses(nights)["succeeded"] > 0
    assert nights.run().exit_status == 0
    assert account_of.billed == 50 + summary.uncertain, "each uncertain one was asked for once more"


def test_what_a_crash_left_uncertain_is_tried_once_more_or_left_alone(memory: Path, backend: str) -> None:
    nights = Nights(memory, Settings(paint=False, faults=Faults(hang=1.0)), backend=backend)
    nights.rows(3)
    nights.run(timeout=5.0, concurrency=3)
    assert statuses(nights) == {"uncertain": 3}
    assert nights.endpoint.account.billed == 6, "one request and one more, each"
    summary = nights.run()
    assert (summary.requests, summary.exit_status, summary.uncertain) == (0, 1, 6)
    assert summary.uncertain_usd > 0


def test_a_rerun_that_skips_leaves_unanswered_requests_alone(nights: Nights) -> None:
    nights.rows(20)
    first = nights.run(on_progress=two_signals(after=2), signals=True)
    assert first.uncertain > 0
    second = nights.run(on_uncertain="skip")
    assert statuses(nights)["uncertain"] == first.uncertain
    assert second.exit_status == 1


def test_a_row_that_two_crashes_lost_is_taken_up_by_the_first_run_that_is_asked_to(nights: Nights) -> None:
    nights.rows(1)
    for _ in range(2):
        assert nights.run(on_progress=two_signals(after=0), signals=True).uncertain
    assert statuses(nights) == {"pending": 1}, "nobody has given it up yet"
    assert nights.run(retry_failed=True).tasks == {"succeeded": 1}


def test_two_runs_never_share_a_directory(nights: Nights) -> None:
    nights.rows(1)
    nights.run()
    with RunLock(nights.directory), pytest.raises(LockedError, match=str(os.getpid())):
        nights.run()


def test_a_bad_manifest_sends_nothing_and_leaves_the_old_table(nights: Nights) -> None:
    nights.rows(3)
    nights.run()
    before = nights.table()
    nights.write("id,prompt\na,\na,x\n")
    with pytest.raises(InputError, match="nothing was sent"):
        nights.run()
    assert nights.table() == before
    assert nights.endpoint.account.seen == 3


def test_a_draft_is_kept_apart_from_the_picture(memory: Path, backend: str) -> None:
    nights = Nights(memory, Settings(paint=False, faults=Faults(draft=1.0)), backend=backend)
    nights.rows(3)
    nights.run()
    for row in nights.table():
        draft, picture = row["images"]
        assert (draft["draft"], picture["draft"]) == (True, False)
        assert row["file_name"] == picture["file_name"] == f"images/{row['id']}.jpg"
        assert draft["file_name"].startswith("drafts/")
        assert (nights.directory / draft["file_name"]).stat().st_size == draft["bytes"]
    assert sums(nights) == account(nights), "a draft is not billed"


HOSTILE = [
    "../../etc/passwd",
    "/abs",
    "CON",
    "a" * 300,
    "A",
    "a",
    "x/y",
    "..",
    "nul.txt",
    "naïve",
    "nai\u0308ve",
    "🎨",
    ".hidden",
]


def test_hostile_ids_become_files_of_their_own_inside_the_run_directory(nights: Nights) -> None:
    nights.write("id,prompt\n" + "".join(f"{name},picture {n}\n" for n, name in enumerate(HOSTILE)))
    assert nights.run().exit_status == 0
    table = nights.table()
    assert [row["id"] for row in table] == HOSTILE
    names = [row["file_name"] for row in table]
    assert len({name.casefold() for name in names}) == len(HOSTILE)
    for name in names:
        path = (nights.directory / name).resolve()
        assert path.is_relative_to(nights.directory.resolve() / "images")
        assert path.is_file()


def test_file_names_come_from_columns_when_asked(nights: Nights) -> None:
    nights.write("id,prompt,category\na,one,shoes\nb,two,bags\n")
    nights.run(name="{category}/{id}", variants=2)
    assert [row["file_name"] for row in nights.table()] == [
        "images/shoes/a-1.jpg",
        "images/shoes/a-2.jpg",
        "images/bags/b-1.jpg",
        "images/bags/b-2.jpg",
    ]


def test_a_changed_name_template_buys_nothing_and_files_keep_their_names(nights: Nights) -> None:
    nights.rows(3)
    nights.run()
    before = [row["file_name"] for row in nights.table()]
    assert nights.run(name="other-{id}").bought == 0
    assert [row["file_name"] for row in nights.table()] == before


def test_cells_go_before_the_job(nights: Nights) -> None:
    pro = "gemini-3-pro-image-preview"
    nights.write(f"id,prompt,model,variants\na,one,{pro},\nb,two,,2\n")
    nights.run()
    assert [(row["id"], row["model"].split("-")[1]) for row in nights.table()] == [
        ("a", "3"),
        ("b", "3.1"),
        ("b", "3.1"),
    ]
    assert set(nights.endpoint.account.models) == {pro, "gemini-3.1-flash-image-preview"}
    assert sums(nights) == account(nights)


def test_a_picture_that_cannot_be_written_is_in_the_account_and_stops_the_run(nights: Nights) -> None:
    nights.rows(50)
    nights.directory.mkdir()
    (nights.directory / "images").write_text("in the way")
    summary = nights.run(concurrency=4)
    assert summary.exit_status == 3
    assert summary.stopped is not None
    assert summary.stopped.reason == "unwritten"
    assert nights.endpoint.account.billed <= 4, "what was in flight, and nothing more"
    assert sums(nights) == account(nights)
    assert summary.wasted_usd == summary.cost_usd > 0
    assert summary.uncertain == 0
    assert statuses(nights) == {"pending": 50}
    (nights.directory / "images").unlink()
    assert nights.run().exit_status == 0


def test_an_endpoint_that_only_fails_stops_the_run_after_ten_rows(memory: Path, backend: str) -> None:
    nights = Nights(memory, Settings(paint=False, faults=Faults(server_error=1.0)), backend=backend)
    nights.rows(500)
    summary = nights.run(attempts=2)
    assert summary.exit_status == 3
    assert summary.stopped is not None
    assert (summary.stopped.reason, "first 10 tasks all failed" in summary.stopped.message) == (
        "failures",
        True,
    )
    assert statuses(nights)["pending"] >= 500 - 10 - 8


def test_few_rows_that_all_fail_are_just_failed(memory: Path, backend: str) -> None:
    nights = Nights(memory, Settings(paint=False, faults=Faults(server_error=1.0)), backend=backend)
    nights.rows(10)
    summary = nights.run(attempts=1)
    assert (summary.exit_status, summary.stopped) == (1, None)


@pytest.mark.parametrize(("most", "status"), [(0.5, 3), (1.0, 1)])
def test_a_run_stops_when_more_than_a_share_of_the_last_hundred_failed(
    memory: Path, backend: str, most: float, status: int
) -> None:
    nights = Nights(memory, Settings(paint=False, calm=1, faults=Faults(refusal=0.8)), backend=backend)
    nights.rows(150)
    summary = nights.run(attempts=1, max_failure_rate=most)
    assert summary.exit_status == status
    assert (statuses(nights)["pending"] > 0) == (status == 3)


def test_an_endpoint_that_is_away_for_a_while_costs_no_row(memory: Path, backend: str) -> None:
    nights = Nights(memory, Settings(paint=False, faults=Faults(reset_before=0.6)), backend=backend)
    nights.rows(40)
    assert nights.run(attempts=1).exit_status == 0
    assert all(row["attempts"] == 1 for row in nights.table())


def test_an_endpoint_that_never_answers_stops_the_run_within_minutes_and_burns_no_row(
    memory: Path, backend: str
) -> None:
    nights = Nights(memory, Settings(paint=False, faults=Faults(reset_before=1.0)), backend=backend)
    nights.rows(100)
    summary = nights.run()
    assert summary.exit_status == 3
    assert summary.stopped is not None
    assert summary.stopped.reason == "unreachable"
    assert statuses(nights) == {"pending": 100}
    assert summary.requests == 0


def test_a_quota_that_never_comes_back_stops_the_run_after_an_hour(memory: Path, backend: str) -> None:
    nights = Nights(memory, Settings(paint=False, faults=Faults(rate_limited=1.0)), backend=backend)
    nights.rows(100)
    summary = nights.run()
    assert summary.exit_status == 3
    assert summary.stopped is not None
    assert summary.stopped.reason == "rate"
    assert "nothing else for 6" in summary.stopped.message
    assert statuses(nights) == {"pending": 100}


def test_simulated_pictures_never_mix_with_real_ones(nights: Nights) -> None:
    nights.rows(3)
    nights.run()
    with pytest.raises(InputError, match="holds simulated pictures, and this job makes real ones"):
        nights.run(provider="core-today", base_url="http://127.0.0.1:1/v1")


async def test_a_run_inside_an_event_loop_says_how_it_is_done(memory: Path) -> None:
    with pytest.raises(InputError, match=r"to_thread\.run_sync\(batchgen\.run, job\)"):
        Nights(memory).run()


def test_chosen_ids_that_no_row_has_are_told_and_a_table_of_others_is_refused(
    memory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nights = Nights(memory)
    nights.rows(3)
    chosen = memory / "chosen.csv"
    chosen.write_text("id\nrow-1\nrow 2\n")
    assert nights.run(only=str(chosen)).bought == 1
    assert f"{chosen}: 1 of its 2 ids are no row's" in caplog.text
    assert "'row 2'" in caplog.text
    chosen.write_text("id\nshoe\n")
    with pytest.raises(InputError, match="'shoe'; is it another table's"):
        nights.run(only=str(chosen))
