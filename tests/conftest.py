"""Backends, virtual time and the guard against blocking the event loop."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio.testing
from blockbuster import blockbuster_ctx

from batchgen.clock import VirtualTimeLoop

if TYPE_CHECKING:
    from collections.abc import Iterator

BACKENDS = ("asyncio", "trio")


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Every async test runs on both backends; marked `virtual_time`, on their virtual clocks."""
    if request.node.get_closest_marker("virtual_time") is None:
        return request.param, {}
    if request.param == "asyncio":
        return "asyncio", {"loop_factory": VirtualTimeLoop}
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in which an fsync costs nothing, where the machine has one: for nights by the hundred."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def _no_blocking_in_the_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test in which batchgen blocks the event loop."""
    if any(map(request.node.get_closest_marker, ("virtual_time", "blocks"))):
        yield
        return
    with blockbuster_ctx("batchgen") as guard:
        if sys.gettrace() is not None:  # coverage takes a lock of its own wherever a line runs
            guard.functions["threading.Lock.acquire"].deactivate()
        yield


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, proxy or setting of the machine reaches a test."""
    vendors = ("AWS_", "AZURE_", "BATCHGEN_", "CORE_TODAY_", "OPENAI_", "GEMINI_", "GOOGLE_", "OPENROUTER_")
    for name in list(os.environ):
        if name.startswith(vendors) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="play this one night of tests/test_schedules.py alone")
    parser.addoption("--nightly", action="store_true", help="run what takes minutes, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--nightly"):
        nightly = [item for item in items if item.get_closest_marker("nightly") is not None]
        config.hook.pytest_deselected(items=nightly)
        items[:] = [item for item in items if item.get_closest_marker("nightly") is None]
