"""Wherever a process dies, the same command ends with one picture, and none is bought twice unsaid."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.test_end_to_end import ROOT

LEFT = ["images/row-0.jpg", "job.json", "ledger.db", "lock", "manifest.parquet", "results.parquet"]


# Before and after it all is the same on both, and dying takes its time.
STRETCHES = {"asyncio": ("connect", "return Ledger.close"), "trio": ("call Ledger.start", "call Ledger.end")}


@pytest.fixture(scope="module", params=STRETCHES)
def deaths(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What came of dying at each call of store and ledger."""
    folder = tmp_path_factory.mktemp("deaths")
    done = subprocess.run(
        [sys.executable, "-m", "tests.crashing", str(folder), request.param, *STRETCHES[request.param]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_call_is_died_at(deaths: list[dict[str, Any]]) -> None:
    calls = [death["call"] for death in deaths]
    if calls[0] == "connect":
        # One that waits comes by again.
        assert [
            name for name in dict.fromkeys(calls) if name.startswith("call ") and "Ballast" not in name
        ] == [
            "call Store.sweep",
            "call Ledger.begin",
            "call Ledger.adopt",
            "call Store.names",
            "call Ledger.start",
            "call Ledger.submitted",
            "call Store.put",
            "call Ledger.settle",
            "call Ledger.end",
            "call Ledger.close",
        ]
        assert calls.count("execute") > 40
    within = calls[calls.index("call Store.put") : calls.index("return Store.put")]
    assert [call for call in within if call != "open"] == [
        "call Store.put", "mkdir", "fsync", "write", "fsync", "replace", "fsync",
    ]  # fmt: skip


def test_the_same_command_ends_with_one_whole_picture_and_no_litter(deaths: list[dict[str, Any]]) -> None:
    for death in deaths:
        assert (death["exit_status"], death["status"], death["unsettled"]) == (0, "succeeded", 0), death
        assert death["recorded"] == death["picture"], death
        assert death["files"] == LEFT, death


def test_a_second_request_is_sent_only_where_the_ledger_has_the_first_as_uncertain(
    deaths: list[dict[str, Any]],
) -> None:
    for death in deaths:
        requests = death["seen"] + death["seen_again"]
        assert 1 <= requests <= 2, death
        assert death["submitted"] in ([None], ["uncertain", None]), death
        assert len(death["submitted"]) >= requests, death


def test_from_the_rename_on_nothing_is_asked_for_again_and_what_was_not_sent_is_no_more_than_that(
    deaths: list[dict[str, Any]],
) -> None:
    calls = [death["call"] for death in deaths]
    before = calls.index("execute", calls.index("call Ledger.submitted"))
    for death in deaths[:before]:
        assert (death["seen"], death["submitted"]) == (0, [None]), death
    for death in deaths[calls.index("replace", calls.index("call Store.put")) + 1 :]:
        assert (death["seen"], death["seen_again"], death["submitted"]) == (1, 0, [None]), death
