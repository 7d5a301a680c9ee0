"""Rows for which words are enough: bought once, told apart from pictures, and no picture is missed."""

from __future__ import annotations

import base64
import json
import logging
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from batchgen import disk, outlook
from batchgen import job as jobs
from batchgen.cli import cli
from batchgen.cli.running import _told
from batchgen.inspection import Kind
from batchgen.simulator import Endpoint, Faults, Settings
from batchgen.simulator.paint import thumbnail
from batchgen.simulator.reply import Ending, Reply
from batchgen.verify import verify
from tests.nights import Nights

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from batchgen.runner import Summary

pytestmark = pytest.mark.blocks


class Talking(Endpoint):
    """Answers in words whoever asks it to describe something, and draws for the others."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.described: list[str] = []
        self.cut = 0
        """So many descriptions are lost on their way."""

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        prompt = json.loads(body)["messages"][-1]["content"] if method == "POST" else ""
        if not prompt.startswith("describe"):
            return super().answer(method, path, headers, body)
        self.described.append(prompt)
        tokens = (1000 if "at length" in prompt else 40) + 1120 * ("drawing" in prompt)
        usage = {"prompt_tokens": 20, "completion_tokens": tokens, "total_tokens": 20 + tokens}
        choice = {"message": self._said(prompt), "finish_reason": "stop"}
        whole = json.dumps({"id": "1", "choices": [choice], "usage": usage}).encode()
        lost = self.cut > 0
        self.cut -= lost
        return Reply(status=200, body=whole, delay=1.0, ending=Ending.RESET_AFTER if lost else Ending.WHOLE)

    def _said(self, prompt: str) -> dict[str, Any]:
        if "silent" in prompt:
            return {"content": ""}
        if "calling" in prompt:
            return {"content": None, "tool_calls": [{"id": "call-1", "type": "function"}]}
        said: dict[str, Any] = {"content": f"words for: {prompt}", "reasoning_content": "let me see"}
        if "drawing" in prompt:
            data = thumbnail(prompt, seed=1)
            data = data[: len(data) * 3 // 5] if "damaged" in prompt else data
            url = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
            said["images"] = [{"type": "image_url", "image_url": {"url": url}}]
        return said


@pytest.fixture
def nights(memory: Path) -> Nights:
    return Nights(memory, Settings(paint=False), endpoint=Talking)


def asked(nights: Nights) -> list[str]:
    assert isinstance(nights.endpoint, Talking)
    return nights.endpoint.described


def rows(nights: Nights, *, pictures: int, words: int, what: str = "describe") -> None:
    """A manifest with so many of each."""
    drawn = [f"p{n},a picture of number {n},image" for n in range(pictures)]
    said = [f"w{n},{what} number {n},text" for n in range(words)]
    nights.write("\n".join(["id,prompt,expect", *drawn, *said, ""]))


def first_line(summary: Summary) -> str:
    return _told(summary)[0]


def test_words_and_pictures_are_bought_once_each_and_told_apart(nights: Nights) -> None:
    rows(nights, pictures=10, words=2)
    summary = nights.run()
    assert (summary.tasks, summary.requests, summary.exit_status) == ({"succeeded": 12}, 12, 0)
    assert (summary.for_words, summary.in_words, summary.bought) == (2, 2, 12)
    assert first_line(summary).startswith("12 of 12 rows; 10 pictures, 2 answers in words; 12 bought now")
    table = nights.table()
    assert [row["file_name"] is None for row in table] == [False] * 10 + [True] * 2
    for row in table[10:]:
        assert (row["status"], row["text"]) == ("succeeded", f"words for: {row['prompt']}")
        assert (row["reasoning"], row["images"], row["size_ok"]) == ("let me see", [], None)
        assert (row["prompt_tokens"], row["text_tokens"], row["image_tokens"]) == (20, 40, 0)
        assert 0 < row["cost_usd"] < table[0]["cost_usd"] / 100
        assert row["wasted_usd"] == 0
    assert nights.run().requests == 0
    assert nights.run(retry_failed=True).requests == 0
    assert len(asked(nights)) == 2


def test_a_tool_call_is_words_and_silence_is_none(nights: Nights) -> None:
    nights.write("id,prompt,expect\na,describe by calling,text\nb,describe in silent,text\n")
    summary = nights.run()
    assert summary.tasks == {"succeeded": 1, "no_image": 1}
    called, silent = nights.table()
    assert json.loads(called["tool_calls"]) == [{"id": "call-1", "type": "function"}]
    assert (called["text"], silent["tool_calls"]) == (None, None)
    assert first_line(summary).startswith("1 of 2 rows (1 no_image); 0 pictures, 1 answer in words;")


def test_who_asks_for_a_picture_does_not_get_away_with_words(nights: Nights) -> None:
    nights.write("id,prompt,expect\na,describe a cat,image\n")
    assert nights.run().tasks == {"no_image": 1}
    (row,) = nights.table()
    assert row["text"] == "words for: describe a cat", "they are kept all the same"
    assert len(asked(nights)) == 3


def test_a_picture_that_comes_with_the_words_is_kept_and_paid_for(nights: Nights) -> None:
    rows(nights, pictures=1, words=2, what="describe with a drawing")
    summary = nights.run()
    assert (summary.tasks, summary.for_words, summary.in_words) == ({"succeeded": 3}, 2, 0)
    for row in nights.table()[1:]:
        data = (nights.directory / row["file_name"]).read_bytes()
        assert data == thumbnail(row["prompt"], seed=1)
        assert row["text"] == f"words for: {row['prompt']}"
        assert (row["image_tokens"], row["text_tokens"]) == (747, 413), "by its pixels"
    assert verify(nights.directory).problems == {}


def test_a_damaged_picture_beside_enough_words_is_not_bought_again(nights: Nights) -> None:
    rows(nights, pictures=0, words=1, what="describe with a damaged drawing")
    summary = nights.run()
    assert (summary.tasks, summary.in_words, len(asked(nights))) == ({"succeeded": 1}, 1, 1)
    (row,) = nights.table()
    assert (row["error_class"], row["text"]) == (None, f"words for: {row['prompt']}")
    assert "kept as corrupt/" in row["error_message"]
    assert row["image_tokens"] == 1120, "it was drawn, so it is billed"
    assert verify(nights.directory).problems == {}


def test_an_answer_that_was_lost_is_asked_for_once_more(nights: Nights) -> None:
    rows(nights, pictures=0, words=3)
    assert isinstance(nights.endpoint, Talking)
    nights.endpoint.cut = 2
    summary = nights.run()
    assert (summary.tasks, summary.uncertain) == ({"succeeded": 3}, 2)
    assert len(asked(nights)) == 5


def test_again_asks_for_the_words_anew(nights: Nights) -> None:
    rows(nights, pictures=1, words=1)
    nights.run()
    (nights.manifest.parent / "only.txt").write_text("w0\n")
    summary = nights.run(again=True, only=str(nights.manifest.parent / "only.txt"))
    assert (summary.requests, summary.in_words, summary.tasks) == (1, 1, {"succeeded": 2})
    assert len(asked(nights)) == 2


# The account of it


def test_an_audit_misses_no_picture_where_words_were_enough(nights: Nights) -> None:
    rows(nights, pictures=3, words=4)
    nights.run()
    report = verify(nights.directory)
    assert (report.problems, report.tasks, report.pictures) == ({}, {"succeeded": 7}, 3)
    assert verify(nights.directory, repair=True).problems == {}
    assert nights.run().requests == 0


def test_a_row_of_words_that_lost_its_answer_is_named(nights: Nights) -> None:
    rows(nights, pictures=1, words=2)
    nights.run()
    with closing(sqlite3.connect(nights.directory / "ledger.db", isolation_level=None)) as connection:
        connection.execute("UPDATE tasks SET images = NULL WHERE id IN ('w0', 'p0')")
    assert verify(nights.directory).problems[Kind.UNANSWERED].count == 2


def test_a_lost_ledger_comes_back_from_the_table_with_its_words(nights: Nights) -> None:
    rows(nights, pictures=2, words=3)
    nights.run()
    before = nights.table()
    for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
        (nights.directory / name).unlink(missing_ok=True)
    report = verify(nights.directory, repair=True)
    assert (report.exit_status, set(report.problems)) == (0, {Kind.LEDGER})
    assert verify(nights.directory).problems == {}
    summary = nights.run()
    assert (summary.requests, summary.in_words) == (0, 3)
    assert nights.table() == before


def test_rows_done_in_words_are_not_taken_for_pictures_that_are_gone(
    nights: Nights, caplog: pytest.LogCaptureFixture
) -> None:
    rows(nights, pictures=3, words=4)
    nights.run()
    with caplog.at_level(logging.ERROR, "batchgen"):
        nights.run()
        assert not caplog.records
        (nights.directory / nights.table()[0]["file_name"]).unlink()
        nights.run()
    assert "1 pictures are gone" in caplog.text


def test_status_and_verify_tell_words_from_pictures(
    nights: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    rows(nights, pictures=2, words=1)
    nights.run()
    assert cli(["status", str(nights.directory)]) == 0
    assert "3 of 3 rows; 2 pictures, 1 answer in words\n" in capsys.readouterr().out
    assert cli(["status", str(nights.directory), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["in_words"] == 1
    assert cli(["verify", str(nights.directory)]) == 0
    assert "3 of 3 rows succeeded; 2 pictures are as they were bought" in capsys.readouterr().out


# Money and room


def test_what_words_cost_never_teaches_what_a_picture_may(nights: Nights) -> None:
    rows(nights, pictures=0, words=50)
    words = nights.run(concurrency=1)
    rows(nights, pictures=3, words=50)
    # Room for pictures, had they cost what words do.
    summary = nights.run(budget=float(words.counted_usd) + 0.02)
    assert (summary.requests, summary.exit_status) == (0, 3)
    assert summary.stopped is not None
    assert "no room for another picture" in summary.stopped.message
    assert first_line(summary).startswith("50 of 53 rows (3 pending); 0 pictures, 50 answers in words;")


def test_a_budget_that_holds_one_picture_back_buys_words_to_its_end(nights: Nights) -> None:
    rows(nights, pictures=0, words=150, what="describe at length")
    most = 0.25
    summary = nights.run(budget=most)
    assert summary.stopped is not None
    assert summary.stopped.reason == "budget"
    assert "no room for another answer" in summary.stopped.message
    assert most * 0.97 < summary.counted_usd <= most, "the worst case is a picture, the likely one is not"
    assert summary.left == 150 - summary.bought
    assert summary.budget_needed == 1
    assert nights.run(budget=summary.budget_needed).tasks == {"succeeded": 150}
    assert sorted(asked(nights)) == sorted(set(asked(nights))), "nothing twice"


def test_a_disk_without_room_for_pictures_has_room_for_words(nights: Nights) -> None:
    rows(nights, pictures=1, words=200)
    small = disk.Free(bytes=60_000_000, files=None)
    assert nights.run(free=lambda _: small, concurrency=4).tasks == {"succeeded": 201}


def test_a_plan_counts_words_as_words(nights: Nights, capsys: pytest.CaptureFixture[str]) -> None:
    rows(nights, pictures=2, words=1000)
    job = jobs.resolve(str(nights.manifest), {"provider": "simulator", "output": str(nights.directory)})
    found = outlook.preview(job)
    assert (found.new, found.buy, found.for_words) == (1002, 1002, 1000)
    assert found.cost is not None
    assert found.cost.low_usd < 2
    assert found.cost.high_usd > 67, "who is asked for words may draw all the same"
    command = ["plan", str(nights.manifest), "--provider", "simulator"]
    assert cli(command) == 0
    told = capsys.readouterr().out
    assert "1,002 rows, 1,002 tasks; nothing was sent" in told
    assert "for 1,002 to buy (1,000 in words)" in told
    rows(nights, pictures=2, words=0)
    assert cli(command) == 0
    assert "2 rows, 2 pictures; nothing was sent" in capsys.readouterr().out


def test_a_bad_night_of_both_ends_with_every_row_accounted_for(memory: Path) -> None:
    faults = Faults(refusal=0.1, no_image=0.1, reset_after=0.1, corrupt=0.1)
    nights = Nights(memory, Settings(paint=False, faults=faults), endpoint=Talking)
    rows(nights, pictures=60, words=60)
    first = nights.run(limit=90)
    assert (first.tasks["pending"], first.for_words) == (30, 60)
    summary = nights.run()
    assert sum(summary.tasks.values()) == 120
    assert (summary.in_words, len(asked(nights))) == (60, 60)
    assert verify(nights.directory).problems == {}
