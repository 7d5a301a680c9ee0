"""The ledger keeps what it confirmed, sums to the last nano-dollar, and knows what a crash left behind."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchgen.errors import DamagedError, InputError, StorageError
from batchgen.ledger import Attempt, Audit, Failed, Ledger, Onlooker, Orphan, Reader
from batchgen.ledger.schema import nano, usd
from batchgen.records import ErrorClass, Expect, Image, Limit, Look, Outcome, Status, Usage, UsageQuality
from tests.nights import inline

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.blocks
ROOT = Path(__file__).parent.parent

PICTURE = Image(file_name="images/a.jpg", sha256="0" * 64, mime="image/jpeg", width=8, height=8, bytes=9)
BOUGHT = Outcome(
    images=(PICTURE,),
    text="here",
    usage=Usage(
        prompt_tokens=3, text_tokens=20, image_tokens=1120, total_tokens=1143, quality=UsageQuality.DETAILED
    ),
    cost_usd=Decimal("0.067261500"),
    latency=2.5,
)
REFUSED = Outcome(
    kind=ErrorClass.BLOCKED,
    message="no",
    usage=Usage(prompt_tokens=3, text_tokens=7, total_tokens=10, quality=UsageQuality.SPLIT_ESTIMATED),
    cost_usd=Decimal("0.000022500"),
)

UNREACHED = Outcome(kind=ErrorClass.UNREACHABLE, message="refused")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with closing(Ledger(path)) as opened:
        begin(opened)
        yield opened


@pytest.fixture
def reader(ledger: Ledger, path: Path) -> Iterator[Reader]:
    with closing(Reader(path)) as opened:
        yield opened


def begin(ledger: Ledger) -> None:
    ledger.begin(now=1, provider="core-today", simulated=False, tasks=2, version="0", in_flight=8)


def intended(ledger: Ledger, key: str, *, stem: str = "a") -> Attempt:
    return ledger.start(
        key=key, row_id=key, stem=stem, model="m", provider="p", reserved=Decimal("0.1"), now=2
    )


async def started(ledger: Ledger, key: str, *, stem: str = "a") -> Attempt:
    attempt = intended(ledger, key, stem=stem)
    await ledger.submitted(attempt, now=3)
    return attempt


async def settled(ledger: Ledger, attempt: Attempt, outcome: Outcome, status: Status) -> None:
    await ledger.settle(attempt, outcome, status=status, counts=True, in_credits=outcome.cost_usd, now=4)


async def test_a_task_shows_the_sum_of_its_attempts_and_its_last_answer(
    ledger: Ledger, reader: Reader
) -> None:
    await settled(ledger, await started(ledger, "k"), REFUSED, Status.PENDING)
    await settled(ledger, await started(ledger, "k"), BOUGHT, Status.SUCCEEDED)
    (result,) = reader.results(["k"])
    assert result is not None
    assert (result.status, result.attempts, result.images) == ("succeeded", 2, (PICTURE,))
    assert (result.cost, result.wasted) == (67_284_000, 22_500)
    assert (result.prompt_tokens, result.text_tokens, result.image_tokens, result.total_tokens) == (
        6,
        27,
        1120,
        1153,
    )
    assert result.quality == UsageQuality.SPLIT_ESTIMATED, "the worst of both"
    assert result.error_class is None


async def test_totals_count_every_request_and_its_waste(ledger: Ledger, reader: Reader) -> None:
    await settled(ledger, await started(ledger, "k"), REFUSED, Status.REFUSED)
    await settled(ledger, await started(ledger, "l", stem="b"), BOUGHT, Status.SUCCEEDED)
    totals = reader.totals()
    assert totals.tasks == {"refused": 1, "succeeded": 1}
    assert (totals.requests, totals.usage.total_tokens) == (2, 1153)
    assert (totals.cost_usd, totals.wasted_usd) == (Decimal("0.067284000"), Decimal("0.000022500"))
    assert reader.failures() == [Failed(kind="blocked", count=1, id="k", message="no")]


async def test_the_latest_costs_are_those_of_the_model_s_pictures(ledger: Ledger, reader: Reader) -> None:
    await settled(ledger, await started(ledger, "k"), BOUGHT, Status.SUCCEEDED)
    await settled(ledger, await started(ledger, "l", stem="b"), REFUSED, Status.REFUSED)
    assert reader.costs("m", Expect.IMAGE, most=10) == [BOUGHT.cost_usd]
    assert reader.costs("m", Expect.IMAGE, most=1) == []
    assert reader.costs("another", Expect.IMAGE, most=10) == reader.costs("m", Expect.TEXT, most=10) == []


async def test_results_come_in_the_order_asked_for_with_none_for_the_unknown(
    ledger: Ledger, reader: Reader
) -> None:
    for key in ("b", "a"):
        await settled(ledger, await started(ledger, key, stem=key), BOUGHT, Status.SUCCEEDED)
    found = reader.results(["a", "nobody", "b", "a"])
    assert [result is not None for result in found] == [True, False, True, True]
    assert set(reader.states(["a", "nobody"])) == {"a"}


async def test_an_attempt_that_does_not_count_is_still_in_the_account(ledger: Ledger, reader: Reader) -> None:
    attempt = await started(ledger, "k")
    limited = Outcome(kind=ErrorClass.RATE, message="slow down", http_status=429)
    await ledger.settle(attempt, limited, status=Status.PENDING, counts=False, in_credits=None, now=4)
    (result,) = reader.results(["k"])
    assert result is not None
    assert (result.attempts, reader.totals().requests) == (0, 1)


@pytest.mark.parametrize(
    ("first", "second"), [("A", "a"), ("straße", "STRASSE"), ("é", "e\u0301"), ("x", "x")]
)
async def test_two_tasks_never_share_a_file_name_even_where_case_is_folded(
    ledger: Ledger, first: str, second: str
) -> None:
    one = await started(ledger, "k", stem=first)
    two = await started(ledger, "l", stem=second)
    assert one.stem == first
    assert two.stem.startswith(f"{second}~")
    assert (await started(ledger, "l", stem=first)).stem == two.stem, "a task keeps its name"


async def test_a_dead_run_leaves_what_was_submitted_uncertain_and_the_rest_free(
    ledger: Ledger, path: Path
) -> None:
    intended(ledger, "unsent", stem="unsent")
    await started(ledger, "sent", stem="sent")
    ledger.close()
    with closing(Ledger(path)) as next_one, closing(Reader(path)) as reader:
        assert sorted(reader.unfinished()) == ["sent", "unsent"]
        begin(next_one)
        states = reader.states(["sent", "unsent"])
        results = reader.results(["sent", "unsent"])
        totals = reader.totals()
        assert reader.unfinished() == []
    assert (states["sent"].status, states["sent"].uncertain) == (Status.PENDING, 1)
    assert (states["unsent"].status, states["unsent"].uncertain) == (Status.PENDING, 0)
    assert [result and result.attempts for result in results] == [1, 0], "it counts as one of the task's"
    assert (totals.uncertain, totals.uncertain_usd, totals.requests) == (1, Decimal("0.1"), 1)


async def test_giving_up_and_taking_up_again_are_each_other_s_way_back(
    ledger: Ledger, reader: Reader
) -> None:
    await started(ledger, "k")
    await ledger.give_up("k")
    assert reader.states(["k"])["k"].status is Status.UNCERTAIN
    ledger.take_up_again(["k", "nobody"])
    assert reader.states(["k"])["k"].status is Status.PENDING


async def test_operations_that_wait_share_a_commit(path: Path) -> None:
    commits = 0

    async def counting(call: object) -> None:
        nonlocal commits
        commits += 1
        await anyio.lowlevel.checkpoint()
        await anyio.to_thread.run_sync(call)  # type: ignore[arg-type]

    with closing(Ledger(path, blocking=counting)) as ledger:
        begin(ledger)
        async with anyio.create_task_group() as group:
            for number in range(200):
                group.start_soon(partial(started, ledger, f"k{number}", stem=f"s{number}"))
    assert commits <= 3
    with closing(Reader(path)) as reader:
        assert len(reader.states([f"k{n}" for n in range(200)])) == 200


async def test_who_is_cancelled_before_its_turn_has_written_nothing(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        begin(ledger)
        await started(ledger, "k")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await ledger.give_up("k")
        await started(ledger, "l", stem="b")
    with closing(Reader(path)) as reader:
        assert {state.status for state in reader.states(["k", "l"]).values()} == {Status.PENDING}


async def test_who_is_cancelled_before_its_submission_is_on_disk_has_not_submitted(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        begin(ledger)
        early, late, sent = (intended(ledger, key, stem=key) for key in ("early", "late", "sent"))
        with anyio.CancelScope() as scope:
            scope.cancel()
            await ledger.submitted(early, now=3)
        await ledger.submitted(sent, now=3)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await ledger.submitted(late, now=3)  # its start is on disk, with what was sent
    with closing(Ledger(path)) as next_one, closing(Reader(path)) as reader:
        begin(next_one)
        states = reader.states(["early", "late", "sent"])
    assert {key: state.uncertain for key, state in states.items()} == {"early": 0, "late": 0, "sent": 1}


async def test_a_submission_counts_whether_its_start_is_on_disk_or_not(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        begin(ledger)
        first = intended(ledger, "first", stem="first")
        await ledger.submitted(intended(ledger, "second", stem="second"), now=3)
        await ledger.submitted(first, now=3)
    with closing(Reader(path)) as reader:
        assert reader.totals().requests == 2


async def test_a_folder_that_is_closed_for_writing_is_read_without_files_beside_the_ledger(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await started(ledger, "k")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with closing(Reader(path)) as live:
        assert live.totals().requests == 1, "a run is at work: its files are there"
    ledger.close()
    with closing(Reader(path)) as still:
        assert still.totals().requests == 1
        assert [*path.parent.iterdir()] == [path]


async def test_a_disk_that_refuses_is_a_storage_error_for_all_who_wait(ledger: Ledger) -> None:
    ledger._connection.execute("PRAGMA query_only = ON")
    with pytest.raises(
        StorageError, match=r"ledger\.db: attempt to write a readonly database: make .* writable"
    ):
        await started(ledger, "k")
    ledger._connection.execute("PRAGMA query_only = OFF")
    await started(ledger, "k")


def test_a_full_disk_rolls_back_and_the_ledger_goes_on_when_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(Ledger(path, blocking=inline)) as ledger:
        begin(ledger)
        ledger._connection.execute("PRAGMA max_page_count = 12")

        async def fill() -> int:
            for number in range(10_000):
                await started(ledger, f"k{number}" * 20, stem=f"s{number}" * 20)
            return 0

        with pytest.raises(StorageError, match="free some space"):
            anyio.run(fill)
        ledger._connection.execute("PRAGMA max_page_count = 100000")
        anyio.run(started, ledger, "after")
    with closing(Reader(path)) as reader:
        assert "after" in reader.states(["after"])


def test_what_is_no_ledger_is_refused_by_name(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.db"
    with closing(sqlite3.connect(foreign)) as connection:
        connection.execute("CREATE TABLE cats (name)")
    with pytest.raises(InputError, match="not a batchgen ledger"):
        Ledger(foreign)
    text = tmp_path / "text.db"
    text.write_text("not a database, but quite long enough to be read as the header of one" * 30)
    for opened in (Ledger, Reader):
        with pytest.raises(DamagedError, match=r"the ledger is damaged .*verify .* --repair"):
            opened(text)
    newer = tmp_path / "newer.db"
    Ledger(newer).close()
    with closing(sqlite3.connect(newer)) as connection:
        connection.execute("PRAGMA user_version = 999")
    with pytest.raises(InputError, match="newer batchgen"):
        Ledger(newer)
    with pytest.raises(InputError, match="no ledger here"):
        Reader(tmp_path / "nothing" / "ledger.db")


def test_what_was_confirmed_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    command = [sys.executable, "-c", KILLED, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout is not None
        confirmed = [child.stdout.readline().strip() for _ in range(50)]
        child.kill()
        confirmed += child.stdout.read().split()
    with closing(Ledger(path)) as ledger, closing(Reader(path)) as reader:
        begin(ledger)
        assert set(confirmed) <= set(reader.states([f"k{n}" for n in range(5000)]))


KILLED = """
import sys, anyio
from pathlib import Path
from batchgen.ledger import Ledger
async def main():
    ledger = Ledger(Path(sys.argv[1]))
    ledger.begin(now=1, provider="p", simulated=False, tasks=1, version="0", in_flight=8)
    for n in range(5000):
        new = ledger.start(key=f"k{n}", row_id="", stem=f"s{n}", model="", provider="", reserved=None, now=1)
        await ledger.submitted(new, now=1)
        print(f"k{n}", flush=True)
anyio.run(main)
"""


@given(st.integers(min_value=0, max_value=10**15))
def test_money_comes_back_as_it_went_in(amount: int) -> None:
    assert nano(usd(amount)) == amount
    assert usd(None) == 0
    assert nano(None) is None


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([BOUGHT, REFUSED])), max_size=12))
def test_the_tasks_add_up_to_the_attempts(plan: list[tuple[int, Outcome]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"

        async def play() -> None:
            with closing(Ledger(path, blocking=inline)) as ledger:
                begin(ledger)
                for number, outcome in plan:
                    attempt = await started(ledger, f"k{number}", stem=f"s{number}")
                    await settled(ledger, attempt, outcome, Status.PENDING)

        anyio.run(play)
        with closing(Reader(path)) as reader:
            totals = reader.totals()
            tasks = [result for result in reader.results([f"k{n}" for n in range(5)]) if result is not None]
    assert totals.cost_usd == sum((usd(task.cost) for task in tasks), Decimal(0))
    assert totals.wasted_usd == sum((usd(task.wasted) for task in tasks), Decimal(0))
    assert totals.usage.total_tokens == sum(task.total_tokens for task in tasks)
    assert totals.requests == len(plan) == sum(task.attempts for task in tasks)


SAID = Outcome(
    text="a cat on a sofa",
    reasoning="it purrs",
    tool_calls='[{"id":"1"}]',
    usage=Usage(prompt_tokens=1120, text_tokens=40, total_tokens=1160, quality=UsageQuality.DETAILED),
    cost_usd=Decimal("0.000680000"),
)
UNANSWERED = Outcome(kind=ErrorClass.UNCERTAIN, message="cut off")
SLOWER = Outcome(kind=ErrorClass.RATE, message="slow down", http_status=429)
ADDED_UP = (
    "SELECT status, count(*) FROM tasks GROUP BY 1",
    "SELECT sum(status = 'succeeded' AND images = '[]') FROM tasks",
    "SELECT count(submitted_at), sum(total_tokens), sum(cost), sum(iif(error_class <> '', cost, 0))"
    " FROM attempts",
    "SELECT run, count(*) FROM attempts WHERE error_class = 'rate' GROUP BY 1",
    "SELECT sum(max(reserved, 0)) FROM attempts WHERE settled_at IS NULL",
)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["ask", "ask", "ask", "open", "die", "again", "lost", "give up", "orphan", "delete"]
            ),
            st.integers(0, 3),
            st.sampled_from([BOUGHT, REFUSED, SAID, UNANSWERED, SLOWER]),
        ),
        max_size=15,
    )
)
@example([("open", 0, BOUGHT), ("ask", 0, SAID), ("die", 0, BOUGHT)])
def test_sums_over_all_rows_are_those_of_the_rows_whatever_writes_them(
    plan: list[tuple[str, int, Outcome]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        anyio.run(carried_out, path, plan)
        with closing(Audit(path)) as audit, closing(sqlite3.connect(path)) as connection:
            assert audit.wrong_totals() == 0
            status, words, sums, slow, reserved = (connection.execute(each).fetchall() for each in ADDED_UP)
            with closing(Onlooker(path)) as reader:
                moment = reader.moment()
            totals = moment.totals
            assert totals.tasks == dict(status)
            assert totals.in_words == words[0][0] or not status
            found = (totals.requests, totals.usage.total_tokens, totals.cost_usd, totals.wasted_usd)
            assert found == (sums[0][0], sums[0][1] or 0, usd(sums[0][2]), usd(sums[0][3]))
            assert moment.run is not None
            assert moment.answered.get("rate", 0) == dict(slow).get(moment.run.id, 0)
            assert moment.reserved_usd == usd(reserved[0][0])
            assert totals.uncertain == len(reader_unknown(connection))


def reader_unknown(connection: sqlite3.Connection) -> list[object]:
    return connection.execute("SELECT 1 FROM attempts WHERE error_class = 'uncertain'").fetchall()


async def carried_out(path: Path, plan: list[tuple[str, int, Outcome]]) -> None:
    ledger = Ledger(path, blocking=inline)
    begin(ledger)
    for what, number, outcome in plan:
        key = f"k{number}"
        if what == "ask":
            status = Status.SUCCEEDED if outcome.kind is None else Status.REFUSED
            await settled(ledger, await started(ledger, key, stem=key), outcome, status)
        elif what == "open":
            await started(ledger, key, stem=key)
        elif what == "die":
            ledger.close()
            ledger = Ledger(path, blocking=inline)
            begin(ledger)
        elif what == "again":
            ledger.take_up_again([key])
        elif what == "lost":
            ledger.put_back([(key, PICTURE.file_name, False)], now=5)
        elif what == "give up":
            await ledger.give_up(key)
        elif what == "orphan":
            orphan = Orphan(key=key, row_id=key, stem=key, model="m", message="its parent has no picture")
            await ledger.orphan([orphan], provider="p", now=5)
        else:
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute("DELETE FROM attempts WHERE key = ?", (key,))
                connection.execute("DELETE FROM tasks WHERE key = ?", (key,))
    ledger.close()


async def test_sums_that_are_wrong_are_found_and_added_up_again(ledger: Ledger, path: Path) -> None:
    await settled(ledger, await started(ledger, "k"), BOUGHT, Status.SUCCEEDED)
    await settled(ledger, await started(ledger, "l", stem="b"), REFUSED, Status.REFUSED)
    with closing(Audit(path)) as audit, closing(sqlite3.connect(path)) as connection:
        right = audit.totals()
        for wrong in (
            "UPDATE attempt_sums SET cost = cost + 1 WHERE class = ''",
            "DELETE FROM attempt_sums WHERE class = 'blocked'",
            "UPDATE task_sums SET tasks = tasks + 1 WHERE status = 'refused'",
            "INSERT INTO task_sums VALUES ('failed', 'transient', 0, 3)",
        ):
            assert audit.wrong_totals() == 0
            with connection:
                connection.execute(wrong)
            assert audit.wrong_totals() > 0, wrong
            assert audit.totals() != right
            ledger.recount()
            assert audit.totals() == right


# Rows that are done in words
async def asked_in_words(ledger: Ledger, key: str, outcome: Outcome = SAID) -> None:
    attempt = ledger.start(
        key=key, row_id=key, stem=key, model="m", provider="p", reserved=None, now=2, expect=Expect.TEXT
    )
    await ledger.submitted(attempt, now=3)
    await settled(ledger, attempt, outcome, Status.SUCCEEDED)


async def test_words_complete_a_task_with_all_that_was_said(ledger: Ledger, reader: Reader) -> None:
    await asked_in_words(ledger, "k")
    await settled(ledger, await started(ledger, "l", stem="l"), BOUGHT, Status.SUCCEEDED)
    said, bought = reader.results(["k", "l"])
    assert said is not None
    assert bought is not None
    assert (said.status, said.images, said.text) == ("succeeded", (), "a cat on a sofa")
    assert (said.reasoning, said.tool_calls) == ("it purrs", '[{"id":"1"}]')
    assert (bought.reasoning, bought.tool_calls) == (None, None)
    assert (reader.totals().tasks, reader.totals().in_words) == ({"succeeded": 2}, 1)


async def test_what_an_earlier_answer_thought_and_called_goes_with_it(ledger: Ledger, reader: Reader) -> None:
    await asked_in_words(ledger, "k")
    await settled(ledger, await started(ledger, "k", stem="k"), REFUSED, Status.REFUSED)
    (result,) = reader.results(["k"])
    assert result is not None
    assert (result.text, result.reasoning, result.tool_calls) == (None, None, None)
    assert reader.totals().in_words == 0


async def test_what_words_cost_says_nothing_of_pictures(ledger: Ledger, reader: Reader) -> None:
    await asked_in_words(ledger, "k")
    await settled(ledger, await started(ledger, "l", stem="l"), BOUGHT, Status.SUCCEEDED)
    assert reader.costs("m", Expect.IMAGE, most=10) == [BOUGHT.cost_usd]
    assert reader.costs("m", Expect.TEXT, most=10) == [SAID.cost_usd]
    assert reader.picture_bytes(most=10) == PICTURE.bytes


async def test_a_picture_left_by_a_dead_run_does_not_stand_for_words(ledger: Ledger, path: Path) -> None:
    for key, expect in (("k", Expect.TEXT), ("l", Expect.IMAGE)):
        attempt = ledger.start(
            key=key, row_id=key, stem=key, model="m", provider="p", reserved=None, now=2, expect=expect
        )
        await ledger.submitted(attempt, now=3)
    ledger.close()
    with closing(Ledger(path)) as next_one, closing(Reader(path)) as reader:
        begin(next_one)
        assert [task.key for task in reader.unanswered()] == ["l"]


async def test_a_task_knows_the_picture_it_is_made_from_until_it_is_asked_for_again(
    ledger: Ledger, path: Path
) -> None:
    def parent() -> object:
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute("SELECT parent_sha FROM tasks").fetchone()[0]

    for sha in ("a" * 64, "b" * 64, None):
        attempt = ledger.start(
            key="k", row_id="k", stem="k", model="m", provider="p", reserved=None, now=2, parent_sha=sha
        )
        await ledger.submitted(attempt, now=3)
        await ledger.settle(attempt, BOUGHT, status=Status.SUCCEEDED, counts=True, in_credits=None, now=4)
        assert parent() == sha


async def test_a_task_that_has_lost_what_it_continues_keeps_nothing_that_was_said(
    ledger: Ledger, path: Path
) -> None:
    said = msgspec.structs.replace(BOUGHT, text="words", reasoning="thoughts", tool_calls="[]")
    await ledger.settle(
        await started(ledger, "k"), said, status=Status.SUCCEEDED, counts=True, in_credits=None, now=4
    )
    lost = Orphan(key="k", row_id="k", stem="k", model="m", message="its parent has no picture")
    await ledger.orphan([lost], provider="p", now=5)
    with closing(Reader(path)) as reader:
        (found,) = reader.results(["k"])
    assert found is not None
    assert (found.status, found.error_class, found.images) == ("failed", "parent_failed", ())
    assert (found.text, found.reasoning, found.tool_calls) == (None, None, None)


# Ledgers of the version before

FORMER = """
CREATE TABLE runs (
  id INTEGER PRIMARY KEY, started_at INTEGER NOT NULL, ended_at INTEGER, ended TEXT,
  pid INTEGER NOT NULL, host TEXT NOT NULL, version TEXT NOT NULL,
  provider TEXT NOT NULL, simulated INTEGER NOT NULL, tasks INTEGER NOT NULL
);
CREATE TABLE tasks (
  key TEXT PRIMARY KEY, id TEXT NOT NULL, stem TEXT NOT NULL, folded TEXT NOT NULL UNIQUE,
  status TEXT NOT NULL DEFAULT 'pending', model TEXT NOT NULL, provider TEXT NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0, uncertain INTEGER NOT NULL DEFAULT 0,
  prompt_tokens INTEGER NOT NULL DEFAULT 0, text_tokens INTEGER NOT NULL DEFAULT 0,
  image_tokens INTEGER NOT NULL DEFAULT 0, total_tokens INTEGER NOT NULL DEFAULT 0,
  quality INTEGER NOT NULL DEFAULT -1,
  cost INTEGER, wasted INTEGER, billed INTEGER, credits INTEGER,
  images TEXT, text TEXT, finish_reason TEXT, error_class TEXT, error_message TEXT, request_id TEXT,
  started_at INTEGER, finished_at INTEGER, latency REAL
) WITHOUT ROWID;
CREATE INDEX tasks_status ON tasks (status, error_class);
CREATE TABLE attempts (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL, run INTEGER NOT NULL,
  started_at INTEGER NOT NULL, submitted_at INTEGER, settled_at INTEGER,
  reserved INTEGER, error_class TEXT, error_message TEXT, http_status INTEGER, request_id TEXT,
  prompt_tokens INTEGER NOT NULL DEFAULT 0, text_tokens INTEGER NOT NULL DEFAULT 0,
  image_tokens INTEGER NOT NULL DEFAULT 0, total_tokens INTEGER NOT NULL DEFAULT 0, quality INTEGER,
  cost INTEGER, billed INTEGER, latency REAL
);
CREATE INDEX attempts_key ON attempts (key);
CREATE INDEX attempts_open ON attempts (id) WHERE settled_at IS NULL;
INSERT INTO runs VALUES (1, 1, 9, 'done', 7, 'host', '0', 'p', 0, 2);
INSERT INTO tasks (key, id, stem, folded, status, model, provider, attempts, cost, wasted, images, text)
  VALUES ('k', 'a', 'a', 'a', 'succeeded', 'm', 'p', 1, 67261500, 0,
  '[{"file_name":"images/a.jpg","sha256":"0","mime":"image/jpeg","width":8,"height":8,"bytes":9}]', 'here');
INSERT INTO tasks (key, id, stem, folded, model, provider) VALUES ('l', 'b', 'b', 'b', 'm', 'p');
INSERT INTO attempts (id, key, run, started_at, submitted_at, settled_at, reserved, cost)
  VALUES (1, 'k', 1, 1, 1, 2, 100000000, 67261500);
INSERT INTO attempts (id, key, run, started_at, submitted_at, reserved) VALUES (2, 'l', 1, 1, 1, 100000000);
PRAGMA application_id = 1650946609;
PRAGMA user_version = 1;
"""


@pytest.fixture
def former(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(FORMER)
    return path


def shape(path: Path) -> tuple[int, list[tuple[object, ...]], list[tuple[object, ...]]]:
    """The version, the columns and the indices of a ledger."""
    with closing(sqlite3.connect(path)) as connection:
        ((version,),) = connection.execute("PRAGMA user_version")
        columns = [
            row
            for table in ("runs", "tasks", "attempts", "looks", "limits")
            for row in connection.execute(f"PRAGMA table_info({table})")
        ]
        indices = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' ORDER BY name")
        return version, columns, indices.fetchall()


def told(reader: Reader) -> tuple[object, ...]:
    """Everything a reader says."""
    return (
        reader.results(["k", "l"]),
        reader.states(["k", "l"]),
        reader.totals(),
        reader.unanswered(),
        reader.failures(),
        reader.last_run(),
        reader.costs("m", Expect.IMAGE, most=10),
        reader.costs("m", Expect.TEXT, most=10),
        reader.picture_bytes(most=10),
        reader.has_looks(),
        reader.looks(["0"]),
        reader.unseen(after="", most=10),
        reader.limit("here", "m"),
    )


def test_a_former_ledger_becomes_one_of_today_and_keeps_every_row(former: Path, tmp_path: Path) -> None:
    with closing(Reader(former)) as reader:
        before = told(reader)
    Ledger(former).close()
    fresh = tmp_path / "fresh.db"
    Ledger(fresh).close()
    assert shape(former) == shape(fresh)
    with closing(Reader(former)) as reader:
        assert told(reader) == before
        (bought, _) = reader.results(["k", "l"])
    assert bought is not None
    assert (bought.cost, bought.text, bought.images[0].file_name) == (67_261_500, "here", "images/a.jpg")
    Ledger(former).close()
    assert shape(former) == shape(fresh), "once is enough"


async def test_a_run_goes_on_in_a_former_ledger(former: Path) -> None:
    with closing(Ledger(former)) as ledger, closing(Reader(former)) as reader:
        assert reader.unfinished() == ["b"]
        begin(ledger)
        assert reader.unfinished() == [], "what its last run left is settled"
        await asked_in_words(ledger, "l")
        assert (reader.totals().tasks, reader.totals().in_words) == ({"succeeded": 2}, 1)
        (said,) = reader.results(["l"])
    assert said is not None
    assert (said.attempts, said.reasoning) == (2, "it purrs")


def test_who_only_looks_at_a_former_ledger_leaves_it_as_it_is(former: Path) -> None:
    before = shape(former)
    with closing(Reader(former)) as reader:
        assert reader.totals().in_words == 0
        assert [task.key for task in reader.unanswered()] == ["l"]
        assert reader.costs("m", Expect.TEXT, most=10) == []
    with closing(Audit(former)) as audit:
        assert [record.key for page in audit.bought() for record in page] == ["k"]
        assert set(audit.owners(["A", "b"])) == {"A", "b"}
        assert (audit.unsettled().count, audit.without_answer().count, audit.wrong_sums().count) == (1, 0, 0)
    assert shape(former) == before


def test_who_looks_on_sees_what_comes_after_the_ledger_was_brought_up_to_date(former: Path) -> None:
    with closing(Reader(former)) as reader:
        assert reader.totals().in_words == 0
        with closing(Ledger(former, blocking=inline)) as ledger:
            begin(ledger)
            anyio.run(asked_in_words, ledger, "l")
        (said,) = reader.results(["l"])
        assert said is not None
        assert (said.reasoning, reader.totals().in_words) == ("it purrs", 1)
        assert reader.costs("m", Expect.TEXT, most=10) == [SAID.cost_usd]


def test_a_former_ledger_that_cannot_be_brought_up_to_date_stays_what_it_was(former: Path) -> None:
    with closing(sqlite3.connect(former)) as connection:
        connection.execute("CREATE TABLE tasks_in_words (in_the_way)")
    before = shape(former)
    with pytest.raises(StorageError, match="tasks_in_words"):
        Ledger(former)
    assert shape(former) == before


def test_a_fresh_ledger_has_nothing_to_tell(path: Path) -> None:
    with closing(Ledger(path)), closing(Reader(path)) as reader:
        assert reader.last_run() is None
        assert reader.totals().cost_usd == 0
        assert reader.failures() == []


def test_the_newest_run_is_told_with_its_end(path: Path) -> None:
    with closing(Ledger(path)) as ledger, closing(Reader(path)) as reader:
        begin(ledger)
        begin(ledger)
        ledger.end(now=9, reason="SIGTERM")
        last = reader.last_run()
    assert last is not None
    assert (last.id, last.ended_at, last.ended, last.provider, last.tasks) == (
        2,
        9,
        "SIGTERM",
        "core-today",
        2,
    )


async def test_an_intent_goes_to_disk_with_the_next_commit_and_one_nobody_sent_is_free(
    ledger: Ledger, reader: Reader
) -> None:
    intended(ledger, "k")
    assert reader.states(["k"]) == {}, "nothing has left, nothing is to be told"
    await started(ledger, "l", stem="b")
    assert set(reader.states(["k", "l"])) == {"k", "l"}
    ledger.end(now=9, reason="done")
    assert (reader.totals().requests, reader.totals().uncertain) == (1, 1)


async def test_what_lies_where_nothing_can_be_written_is_read_and_leaves_nothing_there(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Ledger(path)) as ledger:
        begin(ledger)
        await started(ledger, "k")
        ledger.end(now=9, reason="done")
    monkeypatch.setattr("os.access", lambda *_: False)  # for root everything can be written
    path.parent.chmod(0o555)
    try:
        with closing(Onlooker(path)) as reader:
            reader.check()
            assert reader.moment().run is not None
            assert [file.name for file in path.parent.glob(f"{path.name}-[sw]*")] == []
    finally:
        path.parent.chmod(0o755)


async def refused(ledger: Ledger) -> Attempt:
    """One whose start the disk did not take, so that it was not sent."""
    ledger._connection.execute("PRAGMA query_only = ON")
    attempt = intended(ledger, "k")
    with pytest.raises(StorageError, match="readonly"):
        await ledger.submitted(attempt, now=3)
    with pytest.raises(StorageError, match="readonly"):
        await settled(ledger, attempt, UNREACHED, Status.PENDING)
    ledger._connection.execute("PRAGMA query_only = OFF")
    return attempt


async def test_a_start_that_the_disk_refused_is_taken_along_when_there_is_room(
    ledger: Ledger, reader: Reader
) -> None:
    attempt = await refused(ledger)
    await settled(ledger, attempt, UNREACHED, Status.PENDING)
    (result,) = reader.results(["k"])
    assert result is not None
    assert (result.status, result.error_class, reader.totals().requests) == ("pending", "unreachable", 0)

    attempt = await refused(ledger)
    await ledger.submitted(attempt, now=3)
    await settled(ledger, attempt, BOUGHT, Status.SUCCEEDED)
    assert (reader.totals().requests, reader.totals().tasks) == (1, {"succeeded": 1})


async def test_a_start_that_the_disk_refused_does_not_undo_what_another_request_brought(
    ledger: Ledger, reader: Reader
) -> None:
    won = await started(ledger, "k")
    lost = await refused(ledger)
    await settled(ledger, won, BOUGHT, Status.SUCCEEDED)
    await ledger.settle(lost, UNREACHED, status=None, counts=False, in_credits=None, now=5)
    assert (reader.totals().requests, reader.totals().tasks) == (1, {"succeeded": 1})


SECOND = """
ALTER TABLE tasks ADD COLUMN expect TEXT NOT NULL DEFAULT 'image';
ALTER TABLE tasks ADD COLUMN reasoning TEXT;
ALTER TABLE tasks ADD COLUMN tool_calls TEXT;
ALTER TABLE tasks ADD COLUMN parent_sha TEXT;
CREATE INDEX tasks_in_words ON tasks (status) WHERE images = '[]';
PRAGMA user_version = 2;
"""


def test_so_does_one_of_the_second_version(former: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(former)) as connection:
        connection.executescript(SECOND)
    with closing(Reader(former)) as reader:
        before = told(reader)
    Ledger(former).close()
    Ledger(tmp_path / "fresh.db").close()
    assert shape(former) == shape(tmp_path / "fresh.db")
    with closing(Reader(former)) as reader:
        assert told(reader) == before


def test_so_does_one_of_the_third_version(path: Path, tmp_path: Path) -> None:
    Ledger(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("DROP TABLE limits; PRAGMA user_version = 3;")
    before = shape(path)
    with closing(Onlooker(path)) as reader:
        assert (reader.limit("here", "m"), reader.moment().limit) == (Limit(), Limit())
    assert shape(path) == before, "who looks on leaves it as it is"
    Ledger(path).close()
    Ledger(tmp_path / "fresh.db").close()
    assert shape(path) == shape(tmp_path / "fresh.db")


# What was found out of limits


async def test_a_limit_that_was_found_out_goes_to_disk_with_the_next_commit(
    ledger: Ledger, reader: Reader
) -> None:
    ledger.note_limit("here", "m", Limit(felt=870.5, stated=900), now=1)
    assert reader.limit("here", "m") == Limit()
    await started(ledger, "k")
    assert reader.limit("here", "m") == Limit(felt=870.5, stated=900)
    assert reader.limit("here", "n") == reader.limit("there", "m") == Limit()


def test_the_last_one_is_on_disk_when_the_run_has_ended(path: Path) -> None:
    with closing(Ledger(path)) as ledger, closing(Onlooker(path)) as reader:
        begin(ledger)
        ledger.note_limit("here", "m", Limit(felt=1), now=1)
        ledger.note_limit("here", "m", Limit(stated=60), now=2)
        ledger.end(now=9, reason="done")
        assert reader.limit("here", "m") == reader.moment().limit == Limit(stated=60)
        begin(ledger)
        assert reader.moment().limit == Limit(), "that run has found out nothing yet"


# How pictures look


async def test_a_look_is_kept_by_content_and_once(ledger: Ledger, reader: Reader) -> None:
    attempt = await started(ledger, "k")
    assert (reader.has_looks(), reader.count_unseen()) == (False, 0)
    await settled(ledger, attempt, BOUGHT, Status.SUCCEEDED)
    assert reader.unseen(after="", most=9) == [("k", PICTURE)]
    assert reader.unseen(after="k", most=9) == []
    looks = {PICTURE.sha256: Look(phash=2**64 - 1, blank=True), "b": Look(phash=2**63, blank=False)}
    ledger.looked(looks)
    ledger.looked({"b": Look(phash=7, blank=True)})
    assert reader.looks([PICTURE.sha256, "b", "c"]) == looks
    assert (reader.has_looks(), reader.count_unseen(), reader.unseen(after="", most=9)) == (True, 0, [])
