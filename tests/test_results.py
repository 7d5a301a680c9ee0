"""The table has one row a task, opens everywhere, and replaces the old one whole."""

from __future__ import annotations

from contextlib import closing
from decimal import Decimal
from typing import TYPE_CHECKING

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen import manifest as manifests
from batchgen import results
from batchgen.errors import StorageError
from batchgen.ledger import Ledger, Reader
from batchgen.records import ErrorClass, Image, Outcome, Status, Usage, UsageQuality
from batchgen.references import References
from tests.nights import inline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchgen.manifest import Manifest

pytestmark = pytest.mark.blocks

IMAGES = (
    Image(
        file_name="drafts/a.1.jpg", sha256="1" * 64, mime="image/jpeg", width=4, height=4, bytes=5, draft=True
    ),
    Image(file_name="images/a.jpg", sha256="2" * 64, mime="image/jpeg", width=8, height=6, bytes=9),
)
BOUGHT = Outcome(
    images=IMAGES,
    text="here",
    finish_reason="stop",
    request_id="req-1",
    usage=Usage(
        prompt_tokens=3, text_tokens=20, image_tokens=1120, total_tokens=1143, quality=UsageQuality.DETAILED
    ),
    cost_usd=Decimal("123456789.123456789"),
    billed_usd=Decimal("0.05"),
    started_at=1_800_000_000_000_001,
    latency=2.5,
)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "ledger.db", blocking=inline)) as opened:
        opened.begin(now=1, provider="p", simulated=False, tasks=2, version="0", in_flight=8)
        yield opened


def manifest(tmp_path: Path, text: str) -> Manifest:
    source = tmp_path / "m.csv"
    source.write_text(text, encoding="utf-8")
    reading = manifests.Reading(model="m")
    return manifests.read(
        str(source), reading, snapshot=tmp_path / "manifest.parquet", look=References().look
    )


async def settle(ledger: Ledger, key: str, outcome: Outcome, status: Status) -> None:
    attempt = ledger.start(key=key, row_id="x", stem=key, model="m", provider="p", reserved=None, now=2)
    await ledger.submitted(attempt, now=3)
    credits_of = None if outcome.cost_usd is None else outcome.cost_usd * 1000
    await ledger.settle(attempt, outcome, status=status, counts=True, in_credits=credits_of, now=4)


def write(tmp_path: Path, rows: Manifest) -> tuple[pa.Table, results.Tally]:
    with closing(Reader(tmp_path / "ledger.db")) as reader:
        tally = results.write(rows, reader, tmp_path / "results.parquet")
    return pq.read_table(tmp_path / "results.parquet"), tally


async def test_a_row_tells_all_there_is_to_tell(ledger: Ledger, tmp_path: Path) -> None:
    rows = manifest(tmp_path, "id,prompt,shelf\na,a cat,007\n")
    (key,) = next(rows.batches()).keys
    await settle(ledger, key, BOUGHT, Status.SUCCEEDED)
    table, tally = write(tmp_path, rows)
    (row,) = table.to_pylist()
    assert (row["id"], row["variant"], row["status"], row["prompt"], row["shelf"]) == (
        "a", 1, "succeeded", "a cat", "007",
    )  # fmt: skip
    assert row["file_name"] == "images/a.jpg"
    assert [image["draft"] for image in row["images"]] == [True, False]
    assert row["cost_usd"] == Decimal("123456789.123456789"), "to the billionth"
    assert (row["wasted_usd"], row["billed_usd"]) == (0, Decimal("0.05"))
    assert (row["text"], row["request_id"], row["latency_s"]) == ("here", "req-1", 2.5)
    assert row["started_at"].isoformat() == "2027-01-15T08:00:00.000001+00:00"
    assert (row["total_tokens"], row["usage_quality"], row["task_key"]) == (1143, "detailed", key)
    assert (tally.tasks, tally.cost_usd, tally.image_tokens) == ({"succeeded": 1}, row["cost_usd"], 1120)


def test_a_row_nobody_came_to_is_pending_with_its_prompt(ledger: Ledger, tmp_path: Path) -> None:
    table, tally = write(tmp_path, manifest(tmp_path, "id,prompt\na,a cat\nb,a dog\n"))
    assert table["status"].to_pylist() == ["pending", "pending"]
    assert table["prompt"].to_pylist() == ["a cat", "a dog"]
    assert (
        table["cost_usd"].null_count == table["started_at"].null_count == table["file_name"].null_count == 2
    )
    assert (table["attempts"].to_pylist(), table["images"].to_pylist()) == ([0, 0], [[], []])
    assert tally.tasks == {"pending": 2}


def test_the_schema_is_the_same_whatever_happened(ledger: Ledger, tmp_path: Path) -> None:
    table, _ = write(tmp_path, manifest(tmp_path, "id,prompt\na,a cat\n"))
    assert table.schema.remove_metadata() == results.SCHEMA


async def test_a_column_of_the_manifest_never_hides_one_of_the_table(ledger: Ledger, tmp_path: Path) -> None:
    text = "id,prompt,status,manifest_status,variant\na,a cat,mine,too,three\n"
    table, _ = write(tmp_path, manifest(tmp_path, text))
    (row,) = table.to_pylist()
    assert row["status"] == "pending"
    assert (row["manifest_status"], row["manifest_manifest_status"]) == ("mine", "too")
    assert (row["variant"], row["manifest_variant"]) == (1, "three")


async def test_tokens_without_a_price_are_counted_as_unpriced(ledger: Ledger, tmp_path: Path) -> None:
    rows = manifest(tmp_path, "id,prompt\na,a cat\nb,a dog\n")
    first, second = next(rows.batches()).keys
    refused = Outcome(kind=ErrorClass.BLOCKED, message="no", usage=Usage(prompt_tokens=3, total_tokens=3))
    await settle(ledger, first, refused, Status.REFUSED)
    await settle(ledger, second, BOUGHT, Status.SUCCEEDED)
    table, tally = write(tmp_path, rows)
    assert (tally.unpriced, tally.tasks) == (1, {"succeeded": 1, "refused": 1})
    assert table["error_class"].to_pylist() == ["blocked", None]
    assert table["cost_usd"].to_pylist()[0] is None


async def test_the_table_opens_in_duckdb_and_pandas(ledger: Ledger, tmp_path: Path) -> None:
    rows = manifest(tmp_path, "id,prompt\na,a cat\nb,a dog\n")
    first, _ = next(rows.batches()).keys
    await settle(ledger, first, BOUGHT, Status.SUCCEEDED)
    write(tmp_path, rows)
    path = tmp_path / "results.parquet"
    with duckdb.connect() as connection:
        found = connection.execute(
            f"SELECT status, sum(cost_usd) FROM '{path}' GROUP BY 1 ORDER BY 1"
        ).fetchall()
    assert found == [("pending", None), ("succeeded", Decimal("123456789.123456789"))]
    assert list(pd.read_parquet(path)["status"]) == ["succeeded", "pending"]


def test_a_table_that_cannot_be_written_leaves_the_old_one(ledger: Ledger, tmp_path: Path) -> None:
    rows = manifest(tmp_path, "id,prompt\na,a cat\n")
    before, _ = write(tmp_path, rows)
    (tmp_path / ".results.parquet.part").mkdir()
    with pytest.raises(StorageError, match=r"results\.parquet: .*make room"):
        write(tmp_path, rows)
    assert pq.read_table(tmp_path / "results.parquet") == before


def test_a_manifest_that_breaks_off_leaves_the_old_table_and_nothing_else(
    ledger: Ledger, tmp_path: Path
) -> None:
    rows = manifest(tmp_path, "id,prompt\n" + "".join(f"r{n},p{n}\n" for n in range(20_000)))
    before, _ = write(tmp_path, rows)
    copy = tmp_path / "manifest.parquet"
    copy.write_bytes(copy.read_bytes()[:-100])
    with pytest.raises(StorageError, match=r"manifest\.parquet"):
        write(tmp_path, rows)
    assert pq.read_table(tmp_path / "results.parquet") == before
    assert not (tmp_path / ".results.parquet.part").exists()


def test_more_rows_than_a_batch_keep_their_order(ledger: Ledger, tmp_path: Path) -> None:
    rows = manifest(tmp_path, "id,prompt\n" + "".join(f"r{n},p{n}\n" for n in range(20_000)))
    table, tally = write(tmp_path, rows)
    assert table["id"].to_pylist() == [f"r{n}" for n in range(20_000)]
    assert tally.tasks == {"pending": 20_000}


# Words, and sizes


SAID = Outcome(text="a cat", reasoning="it purrs", tool_calls='[{"id":"1"}]', latency=1.0)


async def test_a_row_done_in_words_says_all_of_them_and_has_no_file(ledger: Ledger, tmp_path: Path) -> None:
    rows = manifest(tmp_path, "id,prompt\na,a cat\nb,a dog\n")
    first, second = next(rows.batches()).keys
    await settle(ledger, first, SAID, Status.SUCCEEDED)
    await settle(ledger, second, BOUGHT, Status.SUCCEEDED)
    table, tally = write(tmp_path, rows)
    said, bought = table.to_pylist()
    assert (said["status"], said["file_name"], said["images"], said["size_ok"]) == (
        "succeeded",
        None,
        [],
        None,
    )
    assert (said["text"], said["reasoning"], said["tool_calls"]) == ("a cat", "it purrs", '[{"id":"1"}]')
    assert (bought["reasoning"], bought["tool_calls"]) == (None, None)
    assert (tally.tasks, tally.in_words) == ({"succeeded": 2}, 1)


SIX = "id,prompt\n" + "".join(f"{name},p\n" for name in "abcdef")


async def test_size_ok_says_whether_the_pixels_are_what_was_asked_for(ledger: Ledger, tmp_path: Path) -> None:
    asked = ["4:3,", "1:1,", ",512", ",2k", "4:3,1K", ",512"]
    text = "id,prompt,aspect_ratio,image_size\n" + "".join(
        f"r{n},p,{cells}\n" for n, cells in enumerate(asked)
    )
    rows = manifest(tmp_path, text)
    for key in next(rows.batches()).keys[:5]:
        await settle(ledger, key, BOUGHT, Status.SUCCEEDED)  # of 8 x 6, after a draft of 4 x 4
    table, tally = write(tmp_path, rows)
    assert table["size_ok"].to_pylist() == [True, False, True, False, False, None]
    assert tally.wrong_size == 3


async def test_size_ok_is_null_where_nothing_was_asked_and_nobody_counts_it(
    ledger: Ledger, tmp_path: Path
) -> None:
    empty = SIX.replace("prompt", "prompt,aspect_ratio,image_size").replace(",p\n", ",p,,\n")
    for rows in (manifest(tmp_path, SIX), manifest(tmp_path, empty)):
        for key in next(rows.batches()).keys:
            await settle(ledger, key, BOUGHT, Status.SUCCEEDED)
        table, tally = write(tmp_path, rows)
        assert table["size_ok"].to_pylist() == [None] * 6
        assert tally.wrong_size == 0


async def test_every_variant_is_held_against_what_its_row_asks_for(ledger: Ledger, tmp_path: Path) -> None:
    count = 3000
    ratios = [("4:3", "1:1", "")[n % 3] for n in range(count)]
    lines = [f"r{n},p{n},{1 + n % 2},{ratio}\n" for n, ratio in enumerate(ratios)]
    rows = manifest(tmp_path, "id,prompt,variants,aspect_ratio\n" + "".join(lines))
    keys = [key for batch in rows.batches() for key in batch.keys]
    for key in keys[::500]:
        await settle(ledger, key, BOUGHT, Status.SUCCEEDED)
    table, _ = write(tmp_path, rows)
    asked = {f"r{n}": ratio for n, ratio in enumerate(ratios)}
    fits = {"4:3": True, "1:1": False, "": None}
    for row in table.to_pylist():
        assert row["size_ok"] is (fits[asked[row["id"]]] if row["images"] else None)


def test_the_rows_for_which_words_are_enough_are_counted(ledger: Ledger, tmp_path: Path) -> None:
    assert write(tmp_path, manifest(tmp_path, SIX))[1].for_words == 0
    cells = ("text", "image", "", "text", "", "")
    rows = manifest(tmp_path, "id,prompt,expect\n" + "".join(f"r{n},p,{c}\n" for n, c in enumerate(cells)))
    assert write(tmp_path, rows)[1].for_words == 2


# Tables of the version before


LATER = ["phash", "blank", "near_duplicate_of"]
FIRST = [*LATER, "size_ok", "reasoning", "tool_calls"]


@pytest.mark.parametrize("lacking", [LATER, FIRST])
@pytest.mark.parametrize("shelf", ["shelf", "reasoning", "tool_calls,reasoning,size_ok", "blank,phash"])
async def test_a_former_table_is_read_as_far_as_it_goes(
    ledger: Ledger, tmp_path: Path, shelf: str, lacking: list[str]
) -> None:
    theirs = shelf.split(",")
    mine = ",mine" * len(theirs)
    rows = manifest(tmp_path, f"id,prompt,{shelf}\na,a cat{mine}\nb,a dog{mine}\n")
    first, _ = next(rows.batches()).keys
    await settle(ledger, first, BOUGHT, Status.SUCCEEDED)
    write(tmp_path, rows)
    path = tmp_path / "results.parquet"
    (now,) = results.read(path)
    table = pq.read_table(path).drop_columns(lacking)
    # The manifest's own column could have this name before there was one of ours.
    free = set(theirs) & set(lacking)
    names = [
        name.removeprefix("manifest_") if name.removeprefix("manifest_") in free else name
        for name in table.column_names
    ]
    pq.write_table(table.rename_columns(names), path)
    assert free <= set(pq.read_table(path).column_names)
    (then,) = results.read(path)
    assert then == now


async def test_what_a_table_tells_of_words_is_what_the_ledger_said(ledger: Ledger, tmp_path: Path) -> None:
    rows = manifest(tmp_path, "id,prompt\na,a cat\n")
    (key,) = next(rows.batches()).keys
    await settle(ledger, key, SAID, Status.SUCCEEDED)
    write(tmp_path, rows)
    (told,) = results.read(tmp_path / "results.parquet")
    with closing(Reader(tmp_path / "ledger.db")) as reader:
        assert [told.result] == reader.results([key])
