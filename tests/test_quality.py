"""Every picture is looked at once, what looks the same is told, and a run may be interrupted meanwhile."""

from __future__ import annotations

import json
import logging
import os
import signal
import sqlite3
from contextlib import closing
from hashlib import sha256
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from batchgen.alike import WITHIN
from batchgen.cli import cli
from batchgen.errors import CorruptImageError
from batchgen.inspection import Kind
from batchgen.quality import look
from batchgen.simulator import Settings
from batchgen.simulator.paint import paint
from batchgen.verify import verify
from tests.nights import Nights

if TYPE_CHECKING:
    from pathlib import Path

    from batchgen.records import Look
    from batchgen.runner import Summary

pytestmark = pytest.mark.blocks
SIDE = 512


def looked(image: Image.Image, kind: str = "JPEG", **options: Any) -> Look:
    file = BytesIO()
    image.save(file, kind, **options)
    return look(file.getvalue(), *image.size)


def painted(prompt: str) -> Image.Image:
    return Image.open(BytesIO(paint(prompt, model="m", seed=1))).convert("RGB").resize((256, 256))


DOG, VASE, CASTLE = map(painted, ("a dog in a park", "a vase", "a castle by night"))


# Blank


def plain(colour: str) -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), colour)


def white_on_white() -> Image.Image:
    image = plain("white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((140, 400, 380, 440), fill=(243, 243, 244))
    draw.rounded_rectangle((160, 120, 360, 420), 30, fill=(252, 252, 251), outline=(232, 232, 232), width=4)
    return image


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("colour", ["white", "black", "#7f7f7f", "#c01030"])
def test_a_picture_of_one_colour_is_blank(kind: str, colour: str) -> None:
    assert looked(plain(colour), kind).blank


@pytest.mark.parametrize("quality", [20, 90])
def test_grain_and_what_compression_makes_of_it_leave_grey_blank(quality: int) -> None:
    assert looked(Image.effect_noise((SIDE, SIDE), 5), quality=quality).blank


def test_what_is_transparent_all_over_is_blank() -> None:
    noise = Image.effect_noise((SIDE, SIDE), 90)
    nothing = Image.merge("RGBA", [noise, noise, noise, Image.new("L", noise.size, 0)])
    assert looked(nothing, "PNG").blank


@pytest.mark.parametrize("quality", [30, 95])
def test_little_on_a_picture_is_not_nothing(quality: int) -> None:
    line = plain("white")
    ImageDraw.Draw(line).line((0, 200, SIDE, 200), fill="black")
    gradient = Image.linear_gradient("L").resize((SIDE, SIDE))
    hue = Image.merge(
        "RGB", [gradient.point(lambda v: 100 + v // 16), *[Image.new("L", gradient.size, 100)] * 2]
    )
    for image in (line, gradient, gradient.point(lambda v: 120 + v // 16), hue, white_on_white()):
        assert not looked(image, quality=quality).blank


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
def test_pictures_of_every_mode_are_looked_at(mode: str) -> None:
    image = Image.linear_gradient("L")
    image = (
        image.convert("I").point(lambda v: v * 256).convert("I;16") if mode == "I;16" else image.convert(mode)
    )
    assert not looked(image, "JPEG" if mode == "CMYK" else "PNG").blank


def test_what_is_no_picture_is_told() -> None:
    with pytest.raises(CorruptImageError, match="does not decode"):
        look(b"\x89PNG\r\n\x1a\n and then nothing", 8, 8)


# The hash


def bits(one: Look, other: Look) -> int:
    return (one.phash ^ other.phash).bit_count()


def test_copies_look_the_same_and_other_pictures_do_not() -> None:
    for image in (DOG, VASE, CASTLE):
        half = image.resize((image.width // 2, image.height // 2))
        for copy in (looked(image, quality=50), looked(half, quality=75), looked(half, "WEBP")):
            assert bits(looked(image, "PNG"), copy) <= WITHIN
    first, second, third = map(looked, (DOG, VASE, CASTLE))
    assert min(bits(first, second), bits(second, third), bits(first, third)) > 2 * WITHIN


def test_the_hash_is_what_it_is_said_to_be() -> None:
    across = Image.linear_gradient("L").transpose(Image.Transpose.ROTATE_90)
    assert looked(across, "PNG").phash == 0xFFFF_FFFF_0000_0000
    assert looked(Image.linear_gradient("L"), "PNG").phash == 0x0000_0000_FFFF_FFFF


# A run


@pytest.fixture
def nights(memory: Path) -> Nights:
    made = Nights(memory, Settings(paint=False))
    made.rows(12)
    made.run(concurrency=1)
    return made


def redrawn(nights: Nights, pictures: dict[int, Image.Image]) -> None:
    """Put other pictures in the place of some, as if they had been bought."""
    with closing(sqlite3.connect(nights.directory / "ledger.db", isolation_level=None)) as ledger:
        for row in nights.table():
            image = pictures.get(int(row["id"].removeprefix("row-")))
            if image is not None:
                file = BytesIO()
                image.save(file, "JPEG")
                (nights.directory / row["file_name"]).write_bytes(file.getvalue())
                kept = {"sha256": sha256(file.getvalue()).hexdigest(), "bytes": len(file.getvalue())}
                kept |= {"width": image.width, "height": image.height}
                entry = json.dumps([{**row["images"][-1], **kept}])
                ledger.execute("UPDATE tasks SET images = ? WHERE key = ?", (entry, row["task_key"]))


def odd(nights: Nights) -> dict[str, tuple[str | None, bool | None, str | None]]:
    return {
        row["id"].removeprefix("row-"): (row["phash"], row["blank"], row["near_duplicate_of"])
        for row in nights.table()
    }


def drawn(nights: Nights) -> Summary:
    """One run that looks at a dog, a vase, two blanks, and the dog again; the rest are one small picture."""
    redrawn(nights, {1: DOG, 3: VASE, 4: plain("white"), 5: plain("black"), 8: DOG.resize((200, 200))})
    return nights.run(quality=True)


def test_a_finished_directory_is_looked_at_and_nothing_is_bought(nights: Nights) -> None:
    summary = drawn(nights)
    assert (summary.requests, summary.exit_status, summary.not_looked_at) == (0, 0, 0)
    found = odd(nights)
    names = {row["id"].removeprefix("row-"): row["file_name"] for row in nights.table()}
    assert {number for number, (_, blank, _) in found.items() if blank} >= {"4", "5"}
    assert (found["1"][2], found["3"][2], found["8"][2]) == (None, None, names["1"])
    assert all(len(phash or "") == 16 for phash, _, _ in found.values())
    assert not any(near for _, blank, near in found.values() if blank), "a blank picture is like nothing"
    assert summary.blank == sum(bool(blank) for _, blank, _ in found.values())
    assert summary.near_duplicates == sum(near is not None for _, _, near in found.values())
    assert verify(nights.directory).problems == {}


def test_the_order_of_the_manifest_says_which_picture_is_the_first(nights: Nights) -> None:
    drawn(nights)
    lines = nights.manifest.read_text(encoding="utf-8").splitlines()
    nights.write("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    nights.run()
    names = {row["id"].removeprefix("row-"): row["file_name"] for row in nights.table()}
    assert (odd(nights)["8"][2], odd(nights)["1"][2]) == (None, names["8"])
    assert verify(nights.directory).problems == {}


def test_who_does_not_ask_pays_nothing_and_gets_nothing(nights: Nights) -> None:
    assert set(odd(nights).values()) == {(None, None, None)}
    with closing(sqlite3.connect(nights.directory / "ledger.db")) as ledger:
        assert ledger.execute("SELECT count(*) FROM looks").fetchone() == (0,)


def test_a_picture_is_looked_at_once_ever(nights: Nights) -> None:
    drawn(nights)
    seen: list[tuple[int, int]] = []
    for path in (nights.directory / "images").iterdir():
        path.unlink()
    summary = nights.run(quality=True, on_look=lambda done, total: seen.append((done, total)))
    assert (seen, summary.unreadable) == ([], 0)
    assert odd(nights)["8"][2] is not None


def test_pictures_that_cannot_be_read_are_named_and_the_rest_is_looked_at(
    nights: Nights, caplog: pytest.LogCaptureFixture
) -> None:
    redrawn(nights, {1: DOG, 3: VASE, 5: CASTLE})
    rows = {row["id"].removeprefix("row-"): row["file_name"] for row in nights.table()}
    (nights.directory / rows["1"]).unlink()
    (nights.directory / rows["3"]).write_bytes(b"other bytes")
    with caplog.at_level(logging.WARNING, "batchgen"):
        summary = nights.run(quality=True)
    assert (summary.unreadable, summary.exit_status) == (2, 0)
    assert f"{rows['1']}: it was not looked at: it is gone" in caplog.text
    assert f"{rows['3']}: it was not looked at: it was changed" in caplog.text
    found = odd(nights)
    assert (found["1"], found["3"]) == ((None, None, None), (None, None, None))
    assert found["5"][0] is not None
    assert nights.run(quality=True).unreadable == 2, "they are asked for again"


def test_a_signal_ends_the_looking_and_keeps_what_was_looked_at(memory: Path) -> None:
    nights = Nights(memory, Settings(paint=False))
    nights.rows(200)
    nights.run(concurrency=8)
    redrawn(nights, {n: Image.new("RGB", (8 + n, 8)) for n in range(200)})
    before = signal.getsignal(signal.SIGINT)
    summary = nights.run(
        quality=True, signals=True, on_look=lambda _done, _total: os.kill(os.getpid(), signal.SIGINT)
    )
    assert summary.stopped is not None
    assert (summary.stopped.reason, summary.exit_status) == ("SIGINT", 130)
    looked_at = sum(phash is not None for phash, _, _ in odd(nights).values())
    assert (looked_at, summary.not_looked_at) == (64, 136)
    assert signal.getsignal(signal.SIGINT) is before
    assert nights.run(quality=True).not_looked_at == 0
    assert all(phash is not None for phash, _, _ in odd(nights).values())


# What else tells of it


def test_status_and_summary_tell_of_odd_pictures(nights: Nights, capsys: pytest.CaptureFixture[str]) -> None:
    cli(["status", str(nights.directory)])
    assert "looks" not in capsys.readouterr().out
    summary = drawn(nights)
    cli(["status", str(nights.directory)])
    line = (
        f"  looks     {summary.blank} blank, {summary.near_duplicates} near-duplicates:"
        " see `blank`, `near_duplicate_of` in the table\n"
    )
    assert line in capsys.readouterr().out
    cli(["status", str(nights.directory), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (told["blank"], told["near_duplicates"]) == (summary.blank, summary.near_duplicates)
    (nights.directory / "results.parquet").write_bytes(b"PAR1")
    assert cli(["status", str(nights.directory)]) != 0
    assert "results.parquet: it cannot be read" in capsys.readouterr().err


def test_a_lost_ledger_comes_back_from_the_table_with_its_looks(nights: Nights) -> None:
    drawn(nights)
    before = nights.table()
    for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
        (nights.directory / name).unlink(missing_ok=True)
    report = verify(nights.directory, repair=True)
    assert (report.exit_status, set(report.problems)) == (0, {Kind.LEDGER})
    assert nights.table() == before


def test_a_table_that_was_tampered_with_is_told(nights: Nights) -> None:
    summary = drawn(nights)
    path = nights.directory / "results.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index("near_duplicate_of")
    pq.write_table(table.set_column(place, "near_duplicate_of", pa.nulls(12, pa.string())), path)
    assert verify(nights.directory).problems[Kind.TABLE].count == summary.near_duplicates
