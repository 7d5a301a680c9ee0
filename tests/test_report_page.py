"""The page of a run in a real browser: found, looked at, judged, bought anew; whatever its words are."""

from __future__ import annotations

import csv
import io
import re
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from PIL import Image
from playwright.sync_api import expect

from batchgen import manifest as manifests
from batchgen import report
from batchgen.manifest import Reading
from batchgen.simulator import Faults, Settings
from tests.browsing import in_a_browser, launched, shown
from tests.nights import Nights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from playwright.sync_api import Browser, Page

    from tests.browsing import Opened

T = TypeVar("T")

pytestmark = in_a_browser

MODEL = "gemini-3.1-flash-image-preview"
EVIL = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    " &lt;&amp; \"double\" 'single' `tick` \u2028\u2029\u202e ]]> <!-- {{7*7}} ${7*7} \\u003c"
)
EVIL_ID = "\"><svg onload=document.title='owned'>"
EVIL_COLUMN = "<b onmouseover=alert(1)>kind</b>"
EVIL_FOLDER = "run <img src=x onerror=alert(1)> &#%41?"
FORMULA = '=HYPERLINK("http://example.com")\nin two lines, and "quotes"'
ROWS: list[dict[str, str]] = [
    {
        "id": "teapot",
        "prompt": "The teapot on linen",
        "references": "front.png;side.png",
        "system": "Be kind.",
    },
    {"id": "candle", "prompt": "The same by candle light", "parent": "teapot"},
    {"id": "fox", "prompt": "A fox in the snow", "variants": "3"},
    {"id": EVIL_ID, "prompt": EVIL, EVIL_COLUMN: EVIL},
    {"id": "=1+1", "prompt": FORMULA, "variants": "2"},
    {"id": "words", "prompt": "Describe a lighthouse", "expect": "text"},
    {"id": "wide", "prompt": "A very wide lake", "aspect_ratio": "16:9"},
    *(
        {
            "id": f"plain-{number}",
            "prompt": f"A plain picture of number {number}",
            EVIL_COLUMN: "ab"[number % 2],
        }
        for number in range(20)
    ),
]
COLUMNS = [
    "id",
    "prompt",
    "parent",
    "references",
    "variants",
    "system",
    "expect",
    "aspect_ratio",
    EVIL_COLUMN,
]


def apart(call: Callable[[], T]) -> T:
    """Do something where Playwright's event loop is not."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result()


def write(nights: Nights, rows: list[dict[str, str]]) -> None:
    with nights.manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """A night with everything in it, its words as bad as can be."""
    settings = Settings(paint=False, seed=3, ignores_size=True, faults=Faults(refusal=0.45, draft=0.3))
    nights = Nights(tmp_path_factory.mktemp("night"), settings)
    nights.directory = nights.directory.with_name(EVIL_FOLDER)
    for name, colour in (("front", "red"), ("side", "blue")):
        Image.new("RGB", (60, 40), colour).save(nights.manifest.with_name(f"{name}.png"))
    write(nights, ROWS)

    def bought() -> None:
        summary = nights.run(max_failure_rate=1)
        assert summary.tasks["no_image"] == 3, "the faults of this seed"
        with closing(sqlite3.connect(nights.directory / "ledger.db")) as ledger:
            ledger.execute("UPDATE tasks SET error_message = ? WHERE status = 'no_image'", (EVIL,))
            ledger.execute("UPDATE tasks SET text = ? WHERE id = ?", (EVIL, EVIL_ID))
            ledger.execute("UPDATE tasks SET error_class = ? WHERE id = 'plain-0'", ("<i>class</i>",))
            ledger.execute("UPDATE tasks SET status = 'failed' WHERE id = 'plain-0'")
            ledger.commit()
        report.build(nights.directory, nights.directory / "report.html")

    apart(bought)
    return nights


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as chromium:
        yield chromium


@pytest.fixture
def opened(browser: Browser, finished: Nights) -> Iterator[Opened]:
    with shown(browser, finished.directory / "report.html") as found:
        yield found


def reloaded(page: Page, until: str) -> None:
    """Load the page again; what it has just stored may take a moment to reach the browser's disk."""
    for _ in range(20):
        page.reload()
        page.wait_for_selector("html[data-ready]", state="attached")
        if page.evaluate(f"Boolean({until})"):
            return


def card(page: Page, text: str) -> Any:
    return page.locator(".card", has=page.locator(".prompt", has_text=text)).first


def test_hostile_words_are_words_everywhere(opened: Opened, finished: Nights) -> None:
    page = opened.page
    scripts = page.locator("script").count()
    page.fill("#search", "</script><script>document.title")
    expect(page.locator("#found")).to_contain_text(re.compile(r"^\d+ of 30 rows$"))
    card(page, EVIL[:40]).click()
    dialog = page.locator("#detail")
    assert dialog.locator(".said").first.text_content() == EVIL
    expect(dialog.locator("#detail-title")).to_contain_text(EVIL_ID)
    page.keyboard.press("Escape")
    page.click("#clear")
    page.select_option("#status", "no_image")
    page.locator(".card").first.click()
    assert dialog.locator(".alert .said").text_content() == EVIL
    page.keyboard.press("Escape")
    page.select_option("#column", label=EVIL_COLUMN)
    page.click("#tab-figures")
    page.click("#ask")
    assert page.locator("h1").text_content() == EVIL_FOLDER
    assert page.locator("script").count() == scripts
    assert (
        page.locator("svg, img[onerror], #grid script, dialog script, b[onmouseover], i[class='']").count()
        == 0
    )
    assert page.title() == f"{EVIL_FOLDER} · batchgen report"


def test_pictures_are_shown_small_and_whole_whatever_their_names_are(opened: Opened) -> None:
    page = opened.page
    card(page, EVIL[:40]).click()
    full = page.locator("#detail img[data-full]")
    expect(full).to_have_count(1)
    page.wait_for_function("document.querySelector('#detail img[data-full]').naturalWidth > 0")
    assert re.fullmatch(r"images/[\w%.~()'-]+", full.get_attribute("src") or "")
    page.keyboard.press("Escape")
    page.wait_for_function(
        "[...document.querySelectorAll('.face img')].slice(0, 4).every((image) => image.naturalWidth > 0)"
    )


def test_search_filters_and_order_narrow_what_is_shown(opened: Opened) -> None:
    page = opened.page
    assert opened.found() == "30 rows"
    page.fill("#search", "PLAIN number 13")
    expect(page.locator("#found")).to_have_text("1 of 30 rows")
    assert opened.cards() == ["A plain picture of number 13"]
    page.fill("#search", "nothing is like that")
    expect(page.locator("#empty")).to_be_visible()
    page.click("#clear-empty")
    expect(page.locator("#found")).to_have_text("30 rows")
    page.select_option("#column", label=EVIL_COLUMN)
    page.select_option("#value", label="b (10)")
    expect(page.locator("#found")).to_have_text("10 of 30 rows")
    page.select_option("#column", label="parent")
    page.fill("#contains", "TEAP")
    expect(page.locator("#found")).to_have_text("1 of 30 rows")
    page.click("#clear")
    page.select_option("#flag", "variants")
    expect(page.locator("#found")).to_have_text("5 of 30 rows")
    page.select_option("#flag", "size")
    assert opened.cards() == ["A very wide lake"]
    page.click("#clear")
    page.select_option("#order", "newest")
    newest = opened.cards()
    page.select_option("#order", "manifest")
    assert opened.cards()[0] == "The teapot on linen"
    assert newest[0] != opened.cards()[0]


def test_failures_are_cards_with_their_class_and_what_to_do(opened: Opened) -> None:
    page = opened.page
    page.locator("[data-error=no_image]").first.click()
    refused = page.locator("#found").inner_text()
    assert refused.endswith("that ended with no_image")
    expect(page.locator(".face .why b").first).to_have_text("no_image")
    page.locator(".card").first.click()
    expect(page.locator("#detail .alert")).to_contain_text("ask for an image")
    expect(page.locator("#detail .why")).to_contain_text("without a picture: no_image")


def test_a_row_is_shown_with_what_it_came_from(opened: Opened) -> None:
    page = opened.page
    card(page, "candle light").click()
    dialog = page.locator("#detail")
    expect(dialog.locator("[data-parent] figcaption")).to_have_text("continues teapot")
    page.wait_for_function("document.querySelector('[data-parent] img').naturalWidth > 0")
    dialog.get_by_role("button", name="Row teapot").click()
    expect(dialog.locator("#detail-title")).to_have_text("teapot")
    expect(dialog.locator("[data-reference] figcaption")).to_have_text("went along: front.png")
    went = dialog.locator(".strip section", has_text="Pictures that went along").locator("img")
    expect(went).to_have_count(2)
    page.wait_for_function(
        "[...document.querySelectorAll('.strip img')].every((one) => one.naturalWidth > 0)"
    )
    expect(dialog.locator(".facts")).to_contain_text("Be kind.")
    expect(dialog.locator(".strip")).to_contain_text("Continued by")


def test_variants_stand_side_by_side(opened: Opened) -> None:
    page = opened.page
    card(page, "A fox in the snow").click()
    expect(page.locator("#detail .strip .mini[aria-current=true]")).to_have_count(1)
    page.keyboard.press("v")
    expect(page.locator("#detail .pictures figure")).to_have_count(3)
    page.click("#beside")
    expect(page.locator("#detail .pictures figure")).to_have_count(1)


def test_everything_is_reached_by_keys(opened: Opened) -> None:
    page = opened.page

    def focus_is_on(place: int) -> None:
        page.wait_for_function(
            "(place) => document.activeElement.closest('.cell')?.ariaPosInSet === String(place)", arg=place
        )

    page.keyboard.press("j")
    focus_is_on(1)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    focus_is_on(
        2
        + page.evaluate(
            "new Set([...document.querySelectorAll('.cell')].map((one) =>"
            " one.getBoundingClientRect().left)).size"
        )
    )
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    focus_is_on(1)
    page.keyboard.press("End")
    focus_is_on(30)
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    place = page.locator("#detail .place")
    expect(place).to_have_text("29 of 30")
    page.keyboard.press("k")
    page.keyboard.press("ArrowLeft")
    expect(place).to_have_text("27 of 30")
    page.keyboard.press("r")
    expect(page.locator("#detail .mark.reject")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("j")
    page.keyboard.press("Escape")
    focus_is_on(28)
    expect(page.locator("#marked")).to_have_text("1 rejected")
    page.keyboard.press("/")
    page.keyboard.type("fox?")
    assert page.locator("#search").input_value() == "fox?", "keys are letters where one types"
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()


def test_marks_outlive_the_page(opened: Opened) -> None:
    page = opened.page
    page.locator(".cell").first.hover()
    page.locator(".cell .reject").first.click()
    page.locator(".card").nth(1).focus()
    page.keyboard.press("u")
    reloaded(page, "document.querySelector('.cell.rejected') && document.querySelector('.cell.kept')")
    expect(page.locator("#marked")).to_have_text("1 rejected, 1 kept")
    expect(page.locator(".cell").first).to_have_class("cell rejected")
    page.select_option("#flag", "kept")
    expect(page.locator("#found")).to_have_text("1 of 30 rows")
    page.keyboard.press("j")
    page.keyboard.press("u")
    expect(page.locator("#marked")).to_have_text("1 rejected")


def test_rows_that_hang_on_a_rejected_one_are_told_since_they_follow(opened: Opened) -> None:
    page = opened.page
    for text, later in (("The teapot on linen", "1 more row continues"), ("The same by candle light", "")):
        card(page, text).focus()
        page.keyboard.press("r")
        said = page.locator("#again-note").text_content() or ""
        assert said.startswith(later)
        assert ("more row" in said) == bool(later), "what is bought anew now is not bought once more"


def test_the_list_of_rejects_buys_those_rows_anew_and_nothing_else(
    browser: Browser, finished: Nights, tmp_path: Path
) -> None:
    nights = Nights(tmp_path, finished.endpoint.settings)
    shutil.copytree(finished.manifest.parent, tmp_path, dirs_exist_ok=True)
    (tmp_path / EVIL_FOLDER).rename(nights.directory)
    chosen = ("=HYPERLINK", EVIL[:40], "number 3")
    with shown(browser, nights.directory / "report.html") as opened:
        page = opened.page
        for text in chosen:
            card(page, text).focus()
            page.keyboard.press("r")
        with page.expect_download() as download:
            page.click("#download")
        expect(page.locator("#again")).to_contain_text("--only rejects.csv --again")
        expect(page.locator("#again-note")).to_contain_text("1 rejected row has several variants")
        download.value.save_as(tmp_path / "rejects.csv")
    said = (tmp_path / "rejects.csv").read_bytes().decode()
    cost = re.findall(r"0\.\d{9}", said)
    quoted = [text.replace('"', '""') for text in (EVIL_ID, EVIL, FORMULA)]
    assert sorted(said.split("\r\n")) == sorted(
        [
            "id,variant,file_name,model,cost_usd,prompt",
            f'"{quoted[0]}",1,{name(said, "svg")},{MODEL},{cost[0]},"{quoted[1]}"',
            f'=1+1,1,images/=1+1-1.jpg,{MODEL},{cost[1]},"\'{quoted[2]}"',
            f"plain-3,1,images/plain-3.jpg,{MODEL},{cost[2]},A plain picture of number 3",
            "",
        ]
    )
    assert [row["id"] for row in csv.DictReader(io.StringIO(said))] == [EVIL_ID, "=1+1", "plain-3"]
    before = requests(nights)
    apart(lambda: nights.run(only=str(tmp_path / "rejects.csv"), again=True, max_failure_rate=1))
    after = requests(nights)
    assert {row for row in after if after[row] > before[row]} == {EVIL_ID, "=1+1", "plain-3"}


def name(said: str, part: str) -> str:
    return next(found for found in map(str, re.findall(r"images/[^,]+", said)) if part in found)


def requests(nights: Nights) -> dict[str, int]:
    with closing(sqlite3.connect(nights.directory / "ledger.db")) as ledger:
        return dict(
            ledger.execute("SELECT tasks.id, count(*) FROM attempts JOIN tasks USING (key) GROUP BY 1")
        )


def test_figures_have_charts_and_the_same_as_tables(opened: Opened) -> None:
    page = opened.page
    page.click("#tab-figures")
    expect(page.locator("#figures .u-wrap canvas")).to_have_count(4)
    expect(page.locator("#figures")).to_contain_text("<i>class</i>")
    painted = (
        "[...document.querySelectorAll('#figures canvas')].every((one) =>"
        " one.getContext('2d').getImageData(0, 0, one.width, one.height).data.some((value) => value > 0))"
    )
    assert page.evaluate(painted)
    spend = page.locator(".figure", has_text="Spend over time")
    spend.locator("summary").click()
    expect(spend.locator("tbody tr").last).to_contain_text("$")
    page.locator("#figures .link", has_text="no_image").click()
    expect(page.locator("#gallery")).to_be_visible()
    assert opened.found().endswith("that ended with no_image")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_are_the_system_s_and_the_reader_s(
    browser: Browser, finished: Nights, scheme: str
) -> None:
    with shown(browser, finished.directory / "report.html", color_scheme=scheme) as opened:
        page = opened.page

        def dark() -> bool:
            shade = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)")
            return sum(map(int, shade)) < 200

        assert dark() is (scheme == "dark")
        page.click("#theme")
        assert dark() is (scheme != "dark")
        reloaded(page, f"document.documentElement.dataset.theme !== '{scheme}'")
        assert dark() is (scheme != "dark"), "as it was chosen"


def test_a_phone_needs_no_scrolling_sideways(browser: Browser, finished: Nights) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    with shown(browser, finished.directory / "report.html", **phone) as opened:
        page = opened.page

        def width() -> int:
            return int(page.evaluate("document.documentElement.scrollWidth"))

        assert width() == 360
        assert page.evaluate("document.querySelector('.cell').offsetWidth") <= 180
        page.click("#more")
        page.select_option("#flag", "size")
        expect(page.locator("#found")).to_have_text("1 of 30 rows")
        page.locator(".card").first.tap()
        assert page.evaluate("document.querySelector('#detail').scrollWidth") <= 360
        page.locator("#detail [aria-label^=Close]").tap()
        page.click("#tab-figures")
        assert width() == 360


def test_the_page_alone_shows_its_thumbnails_when_they_are_inside(
    browser: Browser, finished: Nights, tmp_path: Path
) -> None:
    alone = tmp_path / "alone" / "page.html"
    alone.parent.mkdir()
    built = apart(lambda: report.build(finished.directory, alone, inline=True, pixels=64))
    assert built.thumbnails is None
    assert [path.name for path in alone.parent.iterdir()] == ["page.html"]
    (moved := tmp_path / "sent.html").write_bytes(alone.read_bytes())
    with shown(browser, moved) as opened:
        page = opened.page
        page.wait_for_function("document.querySelector('.face img').naturalWidth > 0")
        page.locator(".card").first.click()
        expect(page.locator("#detail")).to_contain_text("is not beside this page; this is its thumbnail")
        opened.said.clear()  # the browser notes that the file is not there


def test_a_run_directory_can_be_moved_and_served(browser: Browser, finished: Nights, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(finished.directory, moved)
    with shown(browser, moved / "report.html") as opened:
        opened.page.wait_for_function("document.querySelector('.face img').naturalWidth > 0")
        opened.page.locator(".card").first.click()
        opened.page.wait_for_function("document.querySelector('#detail img[data-full]').naturalWidth > 0")


def test_ten_thousand_rows_are_all_reached_with_few_of_them_in_the_document(
    browser: Browser, ten_thousand: Path
) -> None:
    with shown(browser, ten_thousand / "report.html") as opened:
        assert opened.found() == "10,000 rows"
        stops = opened.page.evaluate(SWEEP, 25_000)
        for first, last, names, nodes in stops:
            assert names == [f"row-{place - 1}" for place in range(first, last + 1)]
            assert nodes < 2_000
        assert (stops[0][0], stops[-1][1]) == (1, 10_000)
        opened.page.fill("#search", "9999")
        expect(opened.page.locator("#found")).to_have_text("1 of 10,000 rows")


@pytest.mark.nightly
def test_ten_thousand_rows_are_there_at_once_and_scroll_smoothly(
    browser: Browser, ten_thousand: Path
) -> None:
    with shown(browser, ten_thousand / "report.html") as opened:
        page = opened.page
        assert page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") < 2_000
        page.evaluate(
            "window.longest = 0; new PerformanceObserver((list) => {"
            " for (const task of list.getEntries()) longest = Math.max(longest, task.duration);"
            "}).observe({type: 'longtask'})"
        )
        stops = page.evaluate(SWEEP, 300)
        assert page.evaluate("longest") < 500
        assert all(one[1] >= other[0] - 1 for one, other in pairwise(stops)), "no row is left out"
        assert stops[-1][1] == 10_000


SWEEP = """async (step) => {
  const stops = [];
  const end = document.documentElement.scrollHeight;
  for (let at = 0; at < end + step; at += step) {
    scrollTo(0, Math.min(at, end));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    const cells = [...document.querySelectorAll(".cell")].sort((a, b) => a.ariaPosInSet - b.ariaPosInSet);
    const places = cells.map((cell) => Number(cell.ariaPosInSet));
    const names = cells.map((cell) => cell.querySelector(".meta span").textContent);
    stops.push([places[0], places.at(-1), names, document.querySelectorAll("*").length]);
  }
  return stops;
}"""
"""Scrolls through the page; where it stops: the first and last row in the document, all names, its nodes."""


@pytest.fixture(scope="module")
def ten_thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A night of so many rows: the ledger of a small one, each of its tasks written a thousand times."""
    nights = Nights(tmp_path_factory.mktemp("many"))
    nights.rows(10)

    def bought() -> None:
        nights.run()
        nights.rows(10_000)
        reading = Reading(model=MODEL, folder=nights.manifest.parent)
        whole = manifests.read(
            str(nights.manifest), reading, snapshot=nights.directory / "manifest.parquet", look=no_reference
        )
        with closing(sqlite3.connect(nights.directory / "ledger.db")) as ledger:
            copy_tasks(
                ledger,
                {
                    key: row
                    for batch in whole.batches()
                    for key, row in zip(batch.keys, batch.ids, strict=True)
                },
            )
        report.build(nights.directory, nights.directory / "report.html")

    apart(bought)
    return nights.directory


def no_reference(path: str) -> Any:
    raise AssertionError(path)


def copy_tasks(ledger: sqlite3.Connection, ids: Mapping[str, str]) -> None:
    names = [row[1] for row in ledger.execute("PRAGMA table_info(tasks)")]
    (model,) = ledger.execute(f"SELECT {', '.join(names)} FROM tasks LIMIT 1").fetchall()
    values = dict(zip(names, model, strict=True))
    places = ", ".join(f":{name}" for name in names)
    ledger.executemany(
        f"INSERT OR REPLACE INTO tasks ({', '.join(names)}) VALUES ({places})",
        [{**values, "key": key, "id": row, "stem": row, "folded": row} for key, row in ids.items()],
    )
    ledger.commit()
