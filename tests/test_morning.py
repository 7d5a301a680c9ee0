"""A morning: the night is looked at, what is bad bought anew, what is good handed over."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from playwright.sync_api import expect

from batchgen.cli import cli
from tests.browsing import in_a_browser, launched, shown
from tests.test_end_to_end import account, simulator

if TYPE_CHECKING:
    import pytest
    from playwright.sync_api import Page

pytestmark = in_a_browser
ROWS = 60
REJECTED = ("shoe 07", "shoe 21", "shoe 44")
FAULTS = ("refusal=0.05", "no_image=0.05", "corrupt=0.04", "overloaded=0.05", "bad_base64=0.03")


def test_a_night_is_looked_at_mended_and_handed_over_and_every_token_is_accounted_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BATCHGEN_API_KEY", "cdt_any")
    lines = [f"shoe {n:02},{('red', 'blue')[n % 2]},a studio photo of shoe {n:02}\n" for n in range(ROWS)]
    Path("shoes.csv").write_text("id,colour,prompt\n" + "".join(lines), encoding="utf-8")
    faults = [word for fault in FAULTS for word in ("--fault", fault)]
    with simulator("--seed", "5", "--no-paint", *faults) as url:
        run = ["run", "shoes.csv", "-o", "night", "--provider", "core-today", "--base-url", f"{url}/v1", "-q"]

        assert cli([*run, "--attempts", "2"]) == 1, "not all of it came"
        first = rows()
        assert set(Counter(row["status"] for row in first.values())) > {"succeeded"}

        assert cli(["report", "night", "-q"]) == 0
        with launched() as browser, shown(browser, Path("night/report.html").absolute()) as opened:
            assert opened.found() == f"{ROWS} rows"
            for name in REJECTED:
                reject(opened.page, name)
            with opened.page.expect_download() as download:
                opened.page.click("#download")
            download.value.save_as("rejects.csv")

        capsys.readouterr()
        again = ["--only", "rejects.csv", "--again"]
        assert cli(["plan", *run[1:-1], *again, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["buy"] == len(REJECTED)
        while cli([*run, *again]) == 1:
            again = ["--only", "rejects.csv", "--retry-failed"]
        second = rows()
        assert {name for name in second if second[name]["images"] != first[name]["images"]} == set(REJECTED)

        while cli([*run, "--retry-failed"]) == 1:
            pass
        assert cli(["verify", "night", "-q"]) == 0
        assert cli(["export", "night", "--to", "hf", "-o", "shoes", "-q"]) == 0
        billed = account(url)

    last = rows()
    assert Counter(row["status"] for row in last.values()) == {"succeeded": ROWS}
    for name in ("prompt_tokens", "text_tokens", "image_tokens", "total_tokens"):
        assert sum(row[name] for row in last.values()) == sum(
            model[name] for model in billed["models"].values()
        ), name
    assert sum(row["cost_usd"] for row in last.values()) == Decimal(billed["usd"])
    assert asked() == billed["seen"]
    out = pq.read_table("shoes/data").to_pylist()
    assert [row["id"] for row in out] == [f"shoe {n:02}" for n in range(ROWS)]
    for row in out:
        assert row["sha256"] == last[row["id"]]["images"][-1]["sha256"]
        assert sha256(row["image"]["bytes"]).hexdigest() == row["sha256"]


def rows() -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in pq.read_table("night/results.parquet").to_pylist()}


def asked() -> int:
    with closing(sqlite3.connect("night/ledger.db")) as ledger:
        return int(ledger.execute("SELECT count(submitted_at) FROM attempts").fetchone()[0])


def reject(page: Page, name: str) -> None:
    page.fill("#search", f"photo of {name}")
    expect(page.locator(".card .prompt")).to_have_text([f"a studio photo of {name}"])
    page.locator(".card").focus()
    page.keyboard.press("r")
