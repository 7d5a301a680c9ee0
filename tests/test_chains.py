"""A row that continues another follows it, with its picture and its words, and is bought anew with it."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pybase64
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen import job as jobs
from batchgen import manifest as manifests
from batchgen import outlook
from batchgen.errors import ManifestError
from batchgen.events import unheard
from batchgen.feed import Feed
from batchgen.job import LEDGER, MANIFEST
from batchgen.ledger import Ledger, Reader
from batchgen.references import References
from batchgen.simulator import Endpoint, Faults, Reply, Settings
from batchgen.simulator.paint import prompt_key, prompt_mark, reference_marks
from batchgen.store import Store
from batchgen.verify import verify
from tests.chaos import Killed, Life, _Line, _Loop
from tests.nights import Nights, inline
from tests.test_end_to_end import simulator
from tests.test_kills import command, finished

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from batchgen import runner
    from batchgen.progress import Progress
    from batchgen.simulator.answers import Draw

BACKENDS = ("asyncio", "trio")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, as the endpoint saw it."""

    prompt: str
    """What the user said last."""
    said: tuple[tuple[str, str], ...]
    """Roles and words before that."""
    pictures: tuple[bytes, ...]
    at: float


class Album(Endpoint):
    """An endpoint that writes down what it was asked, and refuses what is forbidden."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float]) -> None:
        super().__init__(settings, clock=clock)
        self.log: list[Asked] = []
        self.allows = False
        """What was forbidden."""

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        if method == "POST":
            self.log.append(asked(body, self._clock()))
        return super().answer(method, path, headers, body)

    def _draw(self, *args: Any) -> Draw:
        draw = super()._draw(*args)
        forbidden = "forbidden" in draw.asked.prompt and not self.allows
        return msgspec.structs.replace(draw, fault="refusal") if forbidden else draw


def asked(body: bytes, at: float) -> Asked:
    *said, last = json.loads(body)["messages"]
    parts = last["content"]
    parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    assert [part["type"] for part in parts] == [*["image_url"] * len(urls), "text"], "pictures before words"
    return Asked(
        prompt=parts[-1]["text"],
        said=tuple((turn["role"], turn["content"]) for turn in said),
        pictures=tuple(pybase64.b64decode(url.partition("base64,")[2]) for url in urls),
        at=at,
    )


class Tree(Nights):
    """Nights over rows that continue one another."""

    endpoint: Album

    def __init__(self, folder: Path, *, backend: str = "asyncio", **values: Any) -> None:
        super().__init__(folder, Settings(paint=False, shape="S2", **values), backend=backend, endpoint=Album)

    def grow(
        self, rows: Sequence[tuple[str, str, str]], *, variants: Mapping[str, int] | None = None
    ) -> None:
        """Put a manifest in place: id, prompt and parent of each row."""
        lines = [f"{row},{prompt},{parent},{(variants or {}).get(row, 1)}\n" for row, prompt, parent in rows]
        self.write("id,prompt,parent,variants\n" + "".join(lines))

    def statuses(self) -> dict[str, str]:
        """By the row's id."""
        return {row["id"]: row["error_class"] or row["status"] for row in self.table()}

    def asked(self, *prompts: str) -> int:
        """How many requests there were, for these prompts."""
        return sum(one.prompt in prompts for one in self.endpoint.log)

    def check(self, *, whole: bool = True, once: bool = True) -> None:
        """Hold table, ledger and the endpoint's log against each other."""
        table = {(row["id"], row["variant"]): row for row in self.table()}
        seen = {(one.prompt, one.said, one.pictures) for one in self.endpoint.log}
        for row in table.values():
            assert row["status"] != "pending" or not whole, row["id"]
            before = lineage(table, row)
            if row["status"] == "succeeded":
                assert prompt_mark(self.picture(row)) == prompt_key(row["prompt"]), "another row's picture"
            if not row["parent"]:
                continue
            above = parent_of(table, row)
            if row["status"] == "succeeded":
                assert (row["prompt"], before, (self.picture(above),)) in seen, row["id"]
                made_from = sha256(self.picture(above)).hexdigest()[:16]
                assert reference_marks(self.picture(row)) == (made_from,), "made from another picture"
            if above["status"] not in {"succeeded", "pending"}:
                assert (row["error_class"], row["attempts"]) == ("parent_failed", 0), row["id"]
        if once:
            self.nothing_is_bought_twice()

    def picture(self, row: Mapping[str, Any]) -> bytes:
        """A row's picture, which is the one that was recorded."""
        data: bytes = (self.directory / row["file_name"]).read_bytes()
        assert sha256(data).hexdigest() == row["images"][-1]["sha256"]
        return data

    def nothing_is_bought_twice(self) -> None:
        with closing(sqlite3.connect(self.directory / LEDGER)) as ledger:
            good = ledger.execute(
                "SELECT key, count(*) FROM attempts WHERE settled_at IS NOT NULL AND error_class IS NULL"
                " GROUP BY key HAVING count(*) > 1"
            ).fetchall()
        assert good == []


Rows = dict[tuple[str, int], dict[str, Any]]


def parent_of(table: Rows, row: Mapping[str, Any]) -> dict[str, Any]:
    """The task another one continues."""
    same = table.get((row["parent"], row["variant"]))
    if same is not None:
        return same
    return table[row["parent"], max(variant for other, variant in table if other == row["parent"])]


def lineage(table: Rows, row: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What was said on the way to a row."""
    if not row["parent"]:
        return ()
    above = parent_of(table, row)
    answer = (("assistant", above["text"]),) if above["text"] else ()
    return (*lineage(table, above), ("user", above["prompt"]), *answer)


def levels(count: int, *, linked: bool = True) -> list[tuple[str, str, str]]:
    """So many base shots, their night versions, and the banners of those, all mixed."""
    rows = []
    for n in range(count):
        rows += [
            (f"a{n}", f"base {n}", ""),
            (f"b{n}", f"night {n}", f"a{n}" if linked else ""),
            (f"c{n}", f"banner {n}", f"b{n}" if linked else ""),
        ]
    random.Random(count).shuffle(rows)
    return rows


# The order


@pytest.mark.virtual_time
def test_three_levels_of_a_thousand_rows_are_bought_in_order_however_the_endpoint_fails(memory: Path) -> None:
    rates = {"overloaded": 0.03, "server_error": 0.02, "truncated": 0.01, "refusal": 0.02, "no_image": 0.02}
    tree = Tree(memory, faults=Faults(**rates))
    tree.grow(levels(1000))
    summary = tree.run(concurrency=64, max_failure_rate=1.0)
    tree.check()
    statuses = Counter(tree.statuses().values())
    assert summary.stopped is None
    assert statuses["succeeded"] > 2700
    assert statuses["blocked"] > 10
    assert statuses["parent_failed"] > 10


@pytest.mark.virtual_time
@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_that_wait_for_others_leave_no_worker_idle(memory: Path, backend: str) -> None:
    spans = {}
    for linked in (False, True):
        folder = memory / str(linked)
        folder.mkdir()
        tree = Tree(folder, backend=backend)
        tree.grow(levels(200, linked=linked))
        tree.run(concurrency=64)
        spans[linked] = max(one.at for one in tree.endpoint.log)
    assert spans[True] < 1.15 * spans[False]


@pytest.mark.virtual_time
def test_a_thousand_children_wait_for_their_one_parent_and_nobody_else_does(memory: Path) -> None:
    tree = Tree(memory)
    others = [(f"other-{n}", f"other {n}", "") for n in range(50)]
    tree.grow([*((f"child-{n}", f"child {n}", "root") for n in range(1000)), ("root", "root", ""), *others])
    assert tree.run(concurrency=16).bought == 1051
    tree.check()
    born = next(one.at for one in tree.endpoint.log if one.prompt == "root")
    assert all(one.at > born for one in tree.endpoint.log if one.prompt.startswith("child"))


@pytest.mark.virtual_time
def test_a_chain_of_fifty_rows_carries_all_that_was_said_to_its_end(memory: Path) -> None:
    tree = Tree(memory)
    rows = [(f"r{n}", f"prompt {n}", f"r{n - 1}" if n else "") for n in range(50)]
    tree.grow(rows[::-1])
    assert tree.run(concurrency=8).bought == 50
    tree.check()
    last = tree.endpoint.log[-1]
    assert [text for role, text in last.said if role == "user"] == [f"prompt {n}" for n in range(49)]
    assert len(last.pictures) == 1, "of its parent alone"


@pytest.mark.virtual_time
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_variant_continues_its_own_number_or_the_last_one_there_is(memory: Path, backend: str) -> None:
    tree = Tree(memory, backend=backend)
    tree.grow([("a", "base", ""), ("b", "night", "a"), ("c", "banner", "b")], variants={"a": 2, "b": 4})
    assert tree.run(concurrency=3).bought == 7
    tree.check()
    made = {(row["id"], row["variant"]): row["images"][-1]["sha256"] for row in tree.table()}
    nights = [sha256(one.pictures[0]).hexdigest() for one in tree.endpoint.log if one.prompt == "night"]
    assert Counter(nights) == {made["a", 1]: 1, made["a", 2]: 3}
    (banner,) = (one for one in tree.endpoint.log if one.prompt == "banner")
    assert sha256(banner.pictures[0]).hexdigest() == made["b", 1]


@pytest.mark.virtual_time
async def test_no_more_rows_are_set_aside_than_there_is_room_for(tmp_path: Path) -> None:
    lines = [f"b{n},night {n},a\n" for n in range(100)]
    manifest = read(tmp_path, "id,prompt,parent\na,base,\n" + "".join(lines))
    job = jobs.resolve(str(tmp_path / "table.csv"), {"provider": "simulator"})
    path = tmp_path / LEDGER
    with closing(Ledger(path, blocking=inline)) as ledger, closing(Reader(path)) as reader:
        feed = Feed(
            job,
            manifest,
            reader,
            None,
            finished=manifests.Finished(),
            ledger=ledger,
            provider="simulator",
            address=Store(tmp_path).address,
            room=8,
            blocking=inline,
            now=lambda: 0,
            tell=unheard,
        )
        offers = feed.offers()
        assert (await anext(offers)).task.id == "a"
        with anyio.move_on_after(10) as patience:
            await anext(offers)
        assert patience.cancelled_caught, "they all wait for the first one"
        assert (feed._held, len(feed._busy)) == (8, 9)


@pytest.mark.virtual_time
@pytest.mark.parametrize("rows", ["b,night,a", "b,night,a\nc,banner,b"], ids=["two rows", "three rows"])
async def test_a_row_whose_parent_lands_while_the_manifest_is_read_is_offered(
    tmp_path: Path, rows: str
) -> None:
    manifest = read(tmp_path, f"id,prompt,parent\na,base,\n{rows}\n")
    job = jobs.resolve(str(tmp_path / "table.csv"), {"provider": "simulator"})
    path = tmp_path / LEDGER
    due: list[str] = []

    async def late(call: Callable[[], Any]) -> Any:
        found = call()
        if found is None and due:
            feed.ended(due.pop())
        return found

    with closing(Ledger(path, blocking=inline)) as ledger, closing(Reader(path)) as reader:
        feed = Feed(
            job,
            manifest,
            reader,
            None,
            finished=manifests.Finished(),
            ledger=ledger,
            provider="simulator",
            address=Store(tmp_path).address,
            room=8,
            blocking=late,
            now=lambda: 0,
            tell=unheard,
        )
        offers = feed.offers()
        due.append((await anext(offers)).task.key)
        with anyio.fail_after(10):
            assert [offer async for offer in offers] == []
    assert feed.waiting == rows.count("\n") + 1, "the ledger knows of no picture of the first one"


# What fails, and what is bought anew


@pytest.mark.virtual_time
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_continues_a_refused_row_fails_at_no_cost_until_that_one_is_edited(
    memory: Path, backend: str
) -> None:
    tree = Tree(memory, backend=backend)
    children = [(f"b{n}", f"night {n}", "a") for n in range(300)]
    rows = [*children, ("c", "banner", "b7"), ("z", "alone", "")]
    tree.grow([("a", "something forbidden", ""), *rows])
    summary = tree.run()
    assert (summary.exit_status, summary.stopped, summary.left, summary.waiting) == (1, None, 0, 0)
    assert tree.statuses() == {
        "a": "blocked",
        "z": "succeeded",
        **{row: "parent_failed" for row, _, parent in rows if parent},
    }
    assert tree.asked("something forbidden", "alone") == len(tree.endpoint.log) == 2
    assert ("parent_failed", 301) in [(kind, count) for kind, count, _ in summary.failures]
    tree.check()
    failed = next(row for row in tree.table() if row["id"] == "c")
    assert failed["error_message"] == "row b7, which it continues, has no picture (failed)"
    assert verify(tree.directory).problems == {}

    before = {row["id"]: row["task_key"] for row in tree.table()}
    assert tree.run().requests == 0, "and again at no cost"
    tree.grow([("a", "something decent", ""), *rows])
    assert tree.run().bought == 302
    after = {row["id"]: row["task_key"] for row in tree.table()}
    assert {row for row in before if before[row] == after[row]} == {"z"}, "all that hangs on it is another"
    assert set(tree.statuses().values()) == {"succeeded"}
    tree.check()


@pytest.mark.virtual_time
def test_what_a_failed_row_took_along_follows_it_once_it_succeeds(memory: Path) -> None:
    tree = Tree(memory)
    tree.grow([("a", "forbidden", ""), ("b", "night", "a"), ("c", "banner", "b"), ("d", "dawn", "a")])
    assert tree.run().exit_status == 1
    assert tree.statuses() == {"a": "blocked", **dict.fromkeys("bcd", "parent_failed")}
    tree.endpoint.allows = True
    (memory / "only.txt").write_text("a\n")
    again = tree.run(retry_failed=True, only=str(memory / "only.txt"))
    assert (again.bought, again.waiting) == (1, 0)
    assert tree.run().bought == 3, "without being asked to"
    assert set(tree.statuses().values()) == {"succeeded"}
    tree.check()


@pytest.mark.virtual_time
@pytest.mark.parametrize("backend", BACKENDS)
def test_all_that_hangs_on_a_row_is_bought_anew_once_that_one_was(memory: Path, backend: str) -> None:
    tree = Tree(memory, backend=backend)
    tree.grow(
        [("c", "banner", "b"), ("b", "night", "a"), ("a", "base", ""), ("d", "dawn", "z"), ("z", "z", "")]
    )
    tree.run()
    before = {row["id"]: row["images"][-1]["sha256"] for row in tree.table()}
    (memory / "only.txt").write_text("a\n")
    assert tree.run(again=True, only=str(memory / "only.txt")).bought == 1
    job = jobs.resolve(str(tree.manifest), {"provider": "simulator", "output": str(tree.directory)})
    found = outlook.preview(job)
    assert (found.changed, found.buy, found.done) == (2, 2, 3)
    assert tree.run().bought == 2
    after = {row["id"]: row["images"][-1]["sha256"] for row in tree.table()}
    assert {row for row in before if before[row] != after[row]} == {"a", "b", "c"}
    assert tree.run().requests == 0, "and then no more"
    assert verify(tree.directory).problems == {}


@pytest.mark.virtual_time
def test_a_run_that_buys_all_anew_does_so_once_each_and_in_order(memory: Path) -> None:
    tree = Tree(memory)
    tree.grow(levels(20))
    tree.run()
    assert tree.run(again=True, concurrency=4).bought == 60
    assert tree.run().requests == 0
    tree.check(once=False)
    assert Counter(one.prompt for one in tree.endpoint.log) == Counter(
        {prompt: 2 for _, prompt, _ in levels(20)}
    )


@pytest.mark.virtual_time
def test_a_lost_picture_sends_nothing_and_comes_back_with_all_that_hangs_on_it(memory: Path) -> None:
    tree = Tree(memory)
    tree.grow([("a", "base", ""), ("b", "night", "a")])
    tree.run(limit=1)
    picture = tree.directory / "images/a.jpg"
    kept = picture.read_bytes()
    picture.unlink()
    for _ in range(2):
        assert tree.run().requests == 0
        assert tree.statuses() == {"a": "succeeded", "b": "reference"}
    picture.write_bytes(kept)
    assert tree.run().bought == 1, "it is there again, and the row is taken up by itself"
    picture.unlink()
    verify(tree.directory, repair=True)
    assert tree.run().bought == 2
    tree.check(once=False)


# What a run is about


@pytest.mark.virtual_time
def test_a_row_whose_parent_is_no_part_of_the_run_waits_and_is_counted(memory: Path) -> None:
    tree = Tree(memory)
    tree.grow([("c", "banner", "b"), ("b", "night", "a"), ("x", "x", ""), ("a", "base", ""), ("y", "y", "x")])
    given = {"provider": "simulator", "output": str(tree.directory), "limit": 3}
    found = outlook.preview(jobs.resolve(str(tree.manifest), given))
    assert (found.new, found.waiting, found.done, found.failed) == (1, 2, 0, 0)
    summary = tree.run(limit=3)
    assert (summary.bought, summary.waiting, summary.left, summary.exit_status) == (1, 2, 0, 1)
    assert tree.asked("x") == len(tree.endpoint.log)
    (memory / "only.txt").write_text("c\ny\n")
    summary = tree.run(only=str(memory / "only.txt"))
    assert (summary.bought, summary.waiting, summary.failed) == (1, 1, 0), "x is done, b is not"
    assert (tree.run().bought, tree.run().requests) == (3, 0)
    tree.check()


@pytest.mark.virtual_time
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_budget_that_ends_amid_the_chains_counts_what_is_left_and_the_next_one_goes_on(
    memory: Path, backend: str
) -> None:
    tree = Tree(memory, backend=backend)
    tree.grow(levels(30))
    first = tree.run(budget=3.0, concurrency=8)
    assert first.stopped is not None
    assert first.stopped.reason == "budget"
    assert 30 < first.bought < 60, "amid the second level"
    assert first.left == 90 - first.bought, "and what waits is left, too"
    assert tree.endpoint.account.usd <= 3
    tree.check(whole=False)
    assert tree.run(budget=float(first.budget_needed or 0)).bought == first.left
    tree.check()
    assert len(tree.endpoint.log) == 90


@pytest.mark.virtual_time
def test_a_signal_amid_the_chains_ends_the_run_though_rows_wait_for_others(memory: Path) -> None:
    tree = Tree(memory)
    tree.grow([("a", "base", ""), *((f"b{n}", f"night {n}", "a") for n in range(40))])

    def interrupted(_: Progress) -> None:
        if not sent:
            sent.append(True)
            signal.raise_signal(signal.SIGTERM)

    sent: list[bool] = []
    summary = tree.run(signals=True, on_progress=interrupted, concurrency=2)
    assert summary.stopped is not None
    assert (summary.stopped.reason, summary.bought, summary.left) == ("SIGTERM", 1, 40)
    assert tree.run().bought == 40
    tree.check()


# Kills


class Mortal(Tree):
    """Nights whose processes are killed at a step."""

    life: Life

    def surroundings(self, seed: int) -> runner.Surroundings:
        life = self.life
        return replace(
            super().surroundings(seed),
            backend_options={"loop_factory": partial(_Loop, life)},
            blocking=life.blocking,
            transport=_Line(self.endpoint, life),  # type: ignore[arg-type]
        )

    def lives(self, kill: int | None) -> bool:
        """Run once; whether it was killed."""
        self.life = Life(self.directory, kill=kill)
        try:
            self.run(concurrency=2)
        except* Killed:
            assert self.life.over
        if self.life.over:
            self.life.bury()
        return self.life.over


@pytest.mark.virtual_time
def test_wherever_a_run_is_killed_no_link_of_a_chain_is_bought_twice_once_its_picture_is_there(
    memory: Path,
) -> None:
    adopted = 0
    for number, kill in enumerate(range(40, 400, 7)):
        folder = memory / str(number)
        folder.mkdir()
        tree = Mortal(folder)
        tree.endpoint.arrived = {}  # type: ignore[attr-defined]
        tree.grow([("c", "banner", "b"), ("a", "base", ""), ("b", "night", "a")])
        if not tree.lives(kill):
            break
        tree.lives(None)
        tree.check()
        with closing(sqlite3.connect(tree.directory / LEDGER)) as ledger:
            ((uncertain, found),) = ledger.execute(
                "SELECT count(CASE error_class WHEN 'uncertain' THEN 1 END),"
                " count(CASE WHEN error_class IS NULL AND cost IS NULL THEN 1 END) FROM attempts"
            )
        assert len(tree.endpoint.log) <= 3 + uncertain
        adopted += found
        seen = len(tree.endpoint.log)
        tree.lives(None)
        assert len(tree.endpoint.log) == seen, "what was found on disk counts as made from its parent"
    assert number > 10, "it was killed all along"
    assert adopted > 0, "and just before a picture was noted, too"


def test_processes_that_are_killed_at_any_instant_leave_every_chain_in_order(tmp_path: Path) -> None:
    rows = levels(80)
    lines = [f"{row},{prompt},{parent}\n" for row, prompt, parent in rows]
    (tmp_path / "prompts.csv").write_text("id,prompt,parent\n" + "".join(lines))
    with simulator("--no-paint", "--latency", "0.01") as url:
        status, out = finished("tests.killing", "8", "0.1", "0.5", *command(url, tmp_path))
        assert (status, Counter(out.split())) == (0, {str(-signal.SIGKILL): 8})
        status, out = finished("batchgen", *command(url, tmp_path, at_once=16), "--retry-failed", "--json")
    summary = json.loads(out)
    assert (status, summary["tasks"]) == (0, {"succeeded": 240})
    with closing(sqlite3.connect(tmp_path / "run" / LEDGER)) as ledger:
        good = "SELECT key, min(id), count(*) FROM attempts WHERE error_class IS NULL GROUP BY key"
        bought = {key: (first, count) for key, first, count in ledger.execute(good)}
        tasks = {
            row: (key, sha, json.loads(images)[-1]["sha256"])
            for row, key, sha, images in ledger.execute("SELECT id, key, parent_sha, images FROM tasks")
        }
        first = dict(ledger.execute("SELECT key, min(id) FROM attempts GROUP BY key"))
    assert {count for _, count in bought.values()} == {1}, "nothing that came is bought again"
    for row, _, parent in rows:
        if parent:
            key, sha, _ = tasks[row]
            above, _, picture = tasks[parent]
            assert sha == picture
            assert first[key] > bought[above][0], "asked for before its parent had its picture"


# Whatever is grown


@st.composite
def forests(draw: st.DrawFn) -> list[tuple[str, str, str, int]]:
    count = draw(st.integers(1, 9))
    names = [f"r{n}" for n in range(count)]
    rows = []
    for n, name in enumerate(names):
        parent = draw(st.sampled_from(["", *names[:n]]))
        # Of equal prompts, now and then, and some that are refused.
        prompt = draw(st.sampled_from([f"picture {n}", f"picture {n}", "twin", f"forbidden {n}"]))
        rows.append((name, prompt, parent, draw(st.integers(1, 3))))
    return draw(st.permutations(rows))


@pytest.mark.virtual_time
@settings(max_examples=15, deadline=None, derandomize=True)
@given(forest=forests(), seed=st.integers(0, 2**16), concurrency=st.integers(1, 6))
def test_any_forest_ends_with_every_row_final_and_made_from_its_parent(
    tmp_path_factory: pytest.TempPathFactory,
    forest: list[tuple[str, str, str, int]],
    seed: int,
    concurrency: int,
) -> None:
    tree = Tree(
        tmp_path_factory.mktemp("forest"),
        backend=BACKENDS[seed % 2],
        seed=seed,
        faults=Faults(overloaded=0.1, no_image=0.1, corrupt=0.1),
    )
    tree.grow([row[:3] for row in forest], variants={row[0]: row[3] for row in forest})
    tree.run(concurrency=concurrency, seed=seed, limit=max(1, len(forest) // 2), max_failure_rate=1.0)
    summary = tree.run(concurrency=concurrency, seed=seed, max_failure_rate=1.0)
    assert (summary.stopped, summary.waiting) == (None, 0)
    table = tree.table()
    assert [row["id"] for row in table] == [row[0] for row in forest for _ in range(row[3])]
    tree.check()
    ledger = sum((row["cost_usd"] or Decimal(0) for row in table), Decimal(0))
    assert ledger == tree.endpoint.account.usd
    assert verify(tree.directory).problems == {}
    requests = len(tree.endpoint.log)
    tree.run(seed=seed, max_failure_rate=1.0)
    assert len(tree.endpoint.log) == requests, "a second look buys nothing"


# The manifest


def read(folder: Path, text: str, **values: Any) -> manifests.Manifest:
    (folder / "table.csv").write_text(text)
    reading = manifests.Reading(model="m", **values)
    return manifests.read(
        str(folder / "table.csv"), reading, snapshot=folder / MANIFEST, look=References().look
    )


def keys(manifest: manifests.Manifest) -> dict[str, str]:
    deep = range(manifest.levels) if manifest.levels > 1 else [None]
    return {
        row: key
        for depth in deep
        for batch in manifest.batches(depth)
        for row, key in zip(batch.ids, batch.keys, strict=True)
    }


def problems(folder: Path, text: str, **values: Any) -> list[str]:
    with pytest.raises(ManifestError) as raised:
        read(folder, text, **values)
    assert raised.value.count == len(raised.value.problems)
    return [str(problem) for problem in raised.value.problems]


def test_a_key_holds_the_parent_s_and_rows_without_one_keep_theirs(tmp_path: Path) -> None:
    alone = keys(read(tmp_path, "id,prompt\na,x\nb,y\n"))
    assert alone["a"] == "e0cec92b44cba9d329801f5837fdfd68-1-1", "as ledgers on disk have it"
    assert keys(read(tmp_path, "id,prompt,parent\na,x,\nb,y,\n")) == alone
    linked = keys(read(tmp_path, "id,prompt,parent\nb,y,a\na,x,\nc,x,\n"))
    own = bytes.fromhex(alone["b"].partition("-")[0])
    above = bytes.fromhex(alone["a"].partition("-")[0])
    digest = blake2b(own + above + b"1", digest_size=16).hexdigest()
    assert linked == {"a": alone["a"], "c": alone["a"][:-3] + "2-1", "b": f"{digest}-1-1"}
    assert linked["b"] == "f1e843da52aa86adad30d4a4260e83ff-1-1"
    moved = keys(read(tmp_path, "id,prompt,parent\na,x,\nc,x,\nb,y,c\n"))
    assert moved["b"] != linked["b"], "its parent is another purchase, be it of the same words"


def test_a_changed_row_changes_the_keys_of_all_that_hangs_on_it_and_of_nothing_else(tmp_path: Path) -> None:
    text = "id,prompt,parent\na,x,\nb,y,a\nc,z,b\nd,z,\ne,y,d\n"
    before, after = keys(read(tmp_path, text)), keys(read(tmp_path, text.replace("a,x,", "a,x!,")))
    assert {row for row in before if before[row] != after[row]} == {"a", "b", "c"}
    lines = text.splitlines()
    random.Random(1).shuffle(rest := lines[1:])
    assert keys(read(tmp_path, "\n".join([lines[0], *rest]))) == before, "the order is none of its business"


def test_equal_children_of_equal_parents_keep_theirs_when_others_are_taken_out(tmp_path: Path) -> None:
    text = "id,prompt,parent\na1,x,\na2,x,\na3,x,\nb1,y,a3\nb2,y,a2\nb3,y,a1\nb4,y,a1\n"
    before = keys(read(tmp_path, text))
    assert len(set(before.values())) == 7
    without = keys(read(tmp_path, text.replace("b1,y,a3\n", "")))
    assert without.items() <= before.items()


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("a,x,a\n", ["row 1, column 'parent': the row continues itself; leave the cell empty"]),
        (
            "a,x,b\nb,x,a\nc,x,b\n",
            [
                f"row {n}, column 'parent': the row continues itself in a circle of 2 rows;"
                " leave one of their cells empty"
                for n in (1, 2)
            ],
        ),
        (
            "a,x,\nb,x,A\n",
            ["row 2, column 'parent': no row has the id 'A'; name one, or leave the cell empty"],
        ),
        (
            "a,x,b\na,x,\n",
            [
                "row 1, column 'parent': no row has the id 'b'; name one, or leave the cell empty",
                "row 2, column 'id': id 'a' is also that of row 1; ids are unique",
            ],
        ),
    ],
)
def test_a_parent_that_cannot_be_one_is_told_with_its_row(tmp_path: Path, rows: str, told: list[str]) -> None:
    assert problems(tmp_path, f"id,prompt,parent\n{rows}") == told


def test_more_rows_than_a_conversation_holds_are_told(tmp_path: Path) -> None:
    lines = [f"r{n},x,{f'r{n - 1}' if n else ''}\n" for n in range(101)]
    assert read(tmp_path, "id,prompt,parent\n" + "".join(lines[:100])).levels == 100
    (told,) = problems(tmp_path, "id,prompt,parent\n" + "".join(lines))
    assert told.startswith("row 101, column 'parent': more than 100 rows that continue one another")


def test_a_column_of_parents_needs_a_column_of_ids(tmp_path: Path) -> None:
    (told,) = problems(tmp_path, "prompt,parent\nx,\n")
    assert told.startswith("column 'parent': it names the rows that are continued by their ids")
    (told,) = problems(tmp_path, "prompt,base\nx,\n", columns={"parent": "base"})
    assert told.startswith("column 'base'")


def test_a_circle_of_a_hundred_thousand_rows_is_told_row_by_row(tmp_path: Path) -> None:
    lines = [f"r{n},x,r{(n + 1) % 100_000}\n" for n in range(100_000)]
    with pytest.raises(ManifestError) as raised:
        read(tmp_path, "id,prompt,parent\n" + "".join(lines))
    assert (raised.value.count, len(raised.value.problems)) == (100_000, 20)


@pytest.mark.virtual_time
def test_the_table_keeps_the_parent_under_its_own_name(memory: Path) -> None:
    tree = Tree(memory)
    tree.write("id,prompt,base,shelf\nb,night,a,1\na,base,,2\n")
    assert tree.run(columns={"parent": "base"}).bought == 2
    assert [(row["base"], row["shelf"]) for row in tree.table()] == [("a", "1"), ("", "2")]
