"""How does the terminal tell what a run is like, once or until it has ended?"""

from __future__ import annotations

import shlex
import shutil
import socket
import sys
import time
import unicodedata
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from batchgen import depot, overview, recovery
from batchgen.address import is_url
from batchgen.cli.counting import counted, limit_told, looks_told, span
from batchgen.cli.places import check_run_directory
from batchgen.cli.saying import say, say_json, showable
from batchgen.cli.terminal import line, printable
from batchgen.layout import LEDGER, TABLE
from batchgen.ledger import Reader
from batchgen.overview import Phase

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from batchgen.depot import Seen
    from batchgen.overview import Overview
    from batchgen.results import Odd

_EVERY, _EVERY_LINE = 2.0, 30.0
"""Seconds between two looks: at a terminal, and where lines are kept."""
_LIVE = frozenset({Phase.BUSY, Phase.RUNNING, Phase.ELSEWHERE})


def status(directory: str, *, watch: bool, every: float | None, as_json: bool) -> int:
    """
    Tell what a run is like; 0 whatever it is, 130 where a watch was interrupted.

    :param watch: again until it has ended.
    :param every: seconds between two looks.
    """
    if not watch:
        with _found(directory) as found:
            seen, odd = _look(found), _odd(found.directory)
        if as_json:
            # The same names whatever there is: null where nobody has looked.
            blank, alike = (None, None) if odd is None else (odd.blank, odd.near_duplicates)
            say_json({**msgspec.structs.asdict(seen), "blank": blank, "near_duplicates": alike})
        else:
            say("\n".join([*_told(seen, odd), *_hint(seen)]))
        return 0
    screen = _Screen() if sys.stdout.isatty() and not as_json else None
    # Over a network each look may fetch the whole account.
    pause = every or (_EVERY if screen is not None and not is_url(directory) else _EVERY_LINE)
    try:
        _watch(directory, screen, pause, as_json=as_json)
    except KeyboardInterrupt:
        return 130
    return 0


def _hint(seen: Overview) -> list[str]:
    watch = shlex.join(["batchgen", "status", seen.directory, "--watch"])
    return [f"next: {line(watch)}"] if seen.phase in _LIVE else []


def _watch(directory: str, screen: _Screen | None, pause: float, *, as_json: bool) -> None:
    while True:
        with _found(directory) as found:
            seen = _look(found)
        if screen is not None:
            screen.draw(_told(seen))
        elif as_json:
            say_json(seen)
        else:
            say(_in_short(seen))
        if seen.phase not in _LIVE or not _anyone_reads():
            return
        time.sleep(pause)


def _found(place: str) -> AbstractContextManager[Seen]:
    check_run_directory(place)
    return depot.seen(place)


def _look(found: Seen) -> Overview:
    recovery.check_not_lost(found.directory / LEDGER)
    return overview.look(
        found.directory,
        name=found.name,
        held=found.held,
        now=time.time_ns() // 1000,
        host=socket.gethostname(),
    )


def _odd(directory: Path) -> Odd | None:
    """Which pictures are told apart in the last table; None where nobody has looked at them."""
    if not (directory / LEDGER).is_file():
        return None
    with closing(Reader(directory / LEDGER)) as reader:
        if not reader.has_looks() or not (directory / TABLE).is_file():
            return None
    from batchgen import results  # noqa: PLC0415  it is large, and most run directories need none of it

    return results.odd(directory / TABLE)


def _anyone_reads() -> bool:
    """Whether standard output still leads somewhere: a closed pipe ends a watch."""
    try:
        sys.stdout.flush()
    except OSError:
        return False
    return True


class _Screen:
    """A terminal that is drawn over; what stood there before is in its scrollback, the last drawing stays."""

    def __init__(self) -> None:
        self._begun = False

    def draw(self, lines: list[str]) -> None:
        size = shutil.get_terminal_size()
        room = max(1, size.lines - 1)
        if len(lines) > room:
            lines = [*lines[: room - 1], f"… {len(lines) - room + 1} more lines"]
        home = "\x1b[H" if self._begun else "\n" * room + "\x1b[H"
        self._begun = True
        drawn = "".join(f"{_fitting(showable(printable(text)), size.columns)}\x1b[K\n" for text in lines)
        # One write: a half-drawn screen is what flickers.
        sys.stdout.write(f"{home}{drawn}\x1b[J")
        sys.stdout.flush()


def _fitting(text: str, columns: int) -> str:
    """As much of a line as the terminal has room for: a line that wraps would push the rest down."""
    taken = 0
    for at, sign in enumerate(text):
        taken += 0 if unicodedata.combining(sign) else 1 + (unicodedata.east_asian_width(sign) in "WF")
        if taken > columns:
            return text[:at]
    return text


def _in_short(seen: Overview) -> str:
    left = "" if seen.eta_s is None else f", {span(seen.eta_s)} left"
    rate = "" if seen.rate_now is None else f", {seen.rate_now:.1f}/min"
    failed = f" ({seen.failed:,} failed)" if seen.failed else ""
    return (
        f"{_clock(time.time())} {seen.directory}: {seen.phase}, {seen.done:,} of {seen.rows or 0:,}{failed},"
        f" {seen.in_flight:,} in flight, ${seen.cost_usd:,.4f}{rate}{left}"
    )


def _told(seen: Overview, odd: Odd | None = None) -> list[str]:
    if seen.run is None:
        what = "a run is starting; it reads its manifest" if seen.phase is Phase.BUSY else "nothing yet"
        return [f"{seen.directory}: {what}"]
    flying = f", {seen.in_flight:,} in flight" if seen.phase in _LIVE and seen.in_flight else ""
    return [
        f"{line(seen.directory)}: {_counted(seen)}{flying}",
        f"  run       {_session(seen)}",
        *_pace(seen),
        *limit_told(seen.rate_limit),
        *_money(seen),
        f"  tokens    {seen.prompt_tokens:,} in, {seen.text_tokens:,} text out,"
        f" {seen.image_tokens:,} image out",
        _requests(seen),
        *_doubts(seen),
        *(looks_told(odd.blank, odd.near_duplicates) if odd is not None else []),
        *(
            f"  {each.count:,} x {each.kind or 'failed'}: row {line(each.id)}: {line(each.message)}"
            for each in seen.failures
        ),
        *([f"next: {line(seen.next)}"] if seen.next is not None else []),
    ]


def _counted(seen: Overview) -> str:
    return counted(seen.tasks, seen.rows, for_words=seen.in_words > 0, in_words=seen.in_words)


def _session(seen: Overview) -> str:
    run = seen.run
    if run is None:
        return "none yet"
    process = f"pid {run.pid} on {line(run.host)}"
    began = f"began {_when(run.started_at)} with {line(run.provider)}"
    if run.ended_at is not None:
        ended = f"{began}, ended {_when(run.ended_at)}: {line(run.ended or '')}"
        return (
            ended if seen.phase is Phase.ENDED else f"{ended}; at work: on its table, a next run or a repair"
        )
    fate = {
        Phase.RUNNING: f"running ({process})",
        Phase.KILLED: f"killed; the same command goes on ({process})",
    }
    return f"{began}, {fate.get(seen.phase, f'at work elsewhere, or killed ({process})')}"


def _pace(seen: Overview) -> list[str]:
    rates = []
    if seen.rate_now is not None:
        rates.append(f"{seen.rate_now:,.1f} a minute now")
    if seen.rate_run is not None:
        rates.append(f"{seen.rate_run:,.1f} {'' if rates else 'a minute '}over the run")
    if seen.eta_s is not None and seen.ends_at is not None:
        rates.append(f"{span(seen.eta_s)} left, until {_local(seen.ends_at)}")
    return [f"  pace      {', '.join(rates)}"] if rates else []


def _money(seen: Overview) -> list[str]:
    simulated = "  (simulated: no money was spent)" if seen.simulated else ""
    parts = [f"${seen.cost_usd:,.4f}"]
    if seen.wasted_usd:
        parts.append(f"${seen.wasted_usd:,.4f} of it bought no picture")
    if seen.run_usd != seen.cost_usd:
        parts.append(f"${seen.run_usd:,.4f} of it by this run")
    lines = [f"  cost      {', '.join(parts)}{simulated}"]
    flying = f"${seen.reserved_usd:,.4f} reserved in flight" if seen.phase in _LIVE and seen.in_flight else ""
    if seen.budget_usd is not None:
        used = f"${seen.counted_usd:,.4f} of ${seen.budget_usd:,.2f}"
        lines.append(f"  budget    {used}{f', {flying}' if flying else ''}")
    elif flying:
        lines.append(f"  reserved  {flying.replace('reserved in flight', 'at most for what is in flight')}")
    return lines


def _requests(seen: Overview) -> str:
    parts = [f"{seen.requests:,}"]
    if seen.rate_limited:
        parts.append(f"{seen.rate_limited:,} answered 429")
    if seen.retried:
        unawaited = ", or were not waited for" if seen.hedge else ""
        parts.append(f"{seen.retried:,} failed and were tried again{unawaited}")
    if seen.late:
        parts.append(f"{seen.late:,} came after another one for their row, ${seen.late_usd:,.4f}")
    return f"  requests  {', '.join(parts)}"


def _doubts(seen: Overview) -> list[str]:
    lines = []
    if seen.in_flight and seen.phase not in _LIVE:
        lines.append(
            f"  lost      {seen.in_flight:,} requests in flight when it was killed, up to"
            f" ${seen.reserved_usd:,.4f} more"
        )
    if seen.uncertain:
        lines.append(f"  uncertain {seen.uncertain:,} requests, up to ${seen.uncertain_usd:,.4f} more")
    if seen.unpriced:
        lines.append(f"  unpriced  {seen.unpriced:,} requests: their model has no known price")
    return lines


def _when(at: int) -> str:
    return datetime.fromtimestamp(at / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _local(at: int) -> str:
    """A time to come, on the clock of whoever looks on."""
    then = datetime.fromtimestamp(at / 1e6, UTC).astimezone()
    today = datetime.now(UTC).astimezone().date()
    return then.strftime("%H:%M" if then.date() == today else "%a %d %b %H:%M")


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%H:%M:%S")
