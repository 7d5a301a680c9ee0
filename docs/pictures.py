"""
How are the README's pictures made? From real runs on the simulator: `python docs/pictures.py`.

A run goes on in a pseudo-terminal; what stands on its screen in the middle of it, and the report it leaves,
are photographed with the machine's own Chromium.
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from html import escape
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import pyte
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
COLUMNS, LINES = 124, 12
NIGHT = """
manifest = "{manifest}"
provider = "simulator"
variants = 3
name = "{{category}}/{{id}}-{{variant}}"
concurrency = 12
rpm = 120
budget = 20.0

[simulator]
seed = 11
latency = 0.4

[simulator.faults]
overloaded = 0.04
refusal = 0.03
no_image = 0.02
"""
PAGE = """
<meta charset="utf-8">
<style>
  body {{ margin: 0; padding: 20px; background: #f4f4f2; width: max-content }}
  figure {{ margin: 0; border-radius: 10px; background: #16181d; overflow: hidden }}
  figcaption {{ padding: 9px 16px; font: 12px "JetBrains Mono", monospace; color: #8b919d;
               background: #1e2128 }}
  pre {{ margin: 0; padding: 14px 18px 18px; font: 13px/1.5 "JetBrains Mono", "DejaVu Sans Mono", monospace;
        color: #d7dae0 }}
</style>
<figure><figcaption>{title}</figcaption><pre>{text}</pre></figure>
"""
COLOURS = {"green": "#8fce8b", "red": "#f0908a", "brown": "#e5c07b", "cyan": "#7cc5d9", "blue": "#86b1f2"}


def main() -> None:
    """Make them anew."""
    chromium = shutil.which("chromium") or sys.exit("chromium is needed")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        job = Path(folder) / "night.toml"
        job.write_text(NIGHT.format(manifest=ROOT / "sample_prompts.csv"), encoding="utf-8")
        terminals(browser, Path(folder))
        gallery(browser, Path(folder) / "runs/night")
        browser.close()


def terminals(browser: Browser, folder: Path) -> None:
    """Photograph a run and, from another terminal, its status; then let it end."""
    run = Terminal(["batchgen", "run", "night.toml", "-v"], folder)
    run.watch(20.0)
    watch = Terminal(["batchgen", "status", "runs/night", "--watch"], folder)
    for _ in range(20):
        run.watch(0.2)
        watch.watch(0.2)
    photograph(browser, "batchgen run night.toml -v", run.screen, DOCS / "run.png")
    photograph(browser, "batchgen status runs/night --watch", watch.screen, DOCS / "status.png")
    while run.watch(0.5):
        watch.watch(0.1)
    watch.end()


def gallery(browser: Browser, directory: Path) -> None:
    """Photograph the report of a run."""
    batchgen(["report", str(directory)], directory.parent)
    for scheme in ("light", "dark"):
        page = browser.new_page(viewport={"width": 1280, "height": 860}, color_scheme=scheme)
        page.goto((directory / "report.html").as_uri())
        page.wait_for_timeout(1500)
        page.screenshot(path=DOCS / f"report-{scheme}.jpg", type="jpeg", quality=82)
        page.close()


def batchgen(arguments: list[str], folder: Path) -> None:
    """Carry out a command."""
    subprocess.run([sys.executable, "-m", "batchgen", *arguments], cwd=folder, check=True)


class Terminal:
    """A program on a screen of its own."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self.screen)
        child, self._file = pty.fork()
        if child == 0:
            os.chdir(folder)
            os.environ.update(TERM="xterm-256color", PYTHONPATH=str(ROOT))
            os.execv(sys.executable, [sys.executable, "-m", *command])
        self._child = child
        fcntl.ioctl(self._file, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))

    def watch(self, seconds: float) -> bool:
        """Take in what it shows for so long; whether there may be more."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if not select.select([self._file], [], [], left)[0]:
                continue
            try:
                self._stream.feed(os.read(self._file, 65536))
            except OSError:  # Linux says so when the other side has ended
                return False
        return True

    def end(self) -> None:
        """Wait for it."""
        while self.watch(0.5):
            pass
        os.waitpid(self._child, 0)


def photograph(browser: Browser, title: str, screen: pyte.Screen, path: Path) -> None:
    """Put what stands on a screen into a picture."""
    rows = ["".join(_spans(screen, row)).rstrip() for row in range(screen.lines)]
    page = browser.new_page(device_scale_factor=2)
    page.set_content(PAGE.format(title=escape(f"$ {title}"), text="\n".join(rows).rstrip()))
    page.locator("figure").screenshot(path=path)
    page.close()


def _spans(screen: pyte.Screen, row: int) -> Iterator[str]:
    cells = [screen.buffer[row][column] for column in range(screen.columns)]
    for (colour, bold), same in groupby(cells, lambda cell: (cell.fg, cell.bold)):
        text = escape("".join(cell.data for cell in same))
        style = (f"color:{COLOURS[colour]};" if colour in COLOURS else "") + "font-weight:700;" * bold
        yield f'<span style="{style}">{text}</span>' if style else text


if __name__ == "__main__":
    main()
