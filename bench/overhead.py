"""
How much more CPU does a run take than a bare loop that does the same work?

    python -m bench.overhead [--trio] [--only 1|10]

All buy the same picture, of 1 MB and then of 10 MB, from a loopback endpoint in a process of its own: a loop
over one blocking socket, `runner.run` with 16 workers, and the `openai` SDK behind a semaphore of 16. The
same work: receive, base64, sha256, a full decode with Pillow (not with `--check quick`), write. The loop uses
the same base64 as batchgen, looks for the picture with `find` instead of reading JSON, and writes without
fsync; beside it stands one that syncs file and folder.

CPU is user + system of the whole process, ledger and table included. What it takes to start is left out:
each figure is the difference between many rows and few, by the row. The contestants take turns, and each is
compared with the loop of its own round, since a machine's pace changes by the minute; medians are told.

With `--check quick` batchgen must also take half of the SDK's CPU at most, though that syncs nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

from bench.servers import MODEL, serving

FEW, MANY, ROUNDS, WORKERS = 30, 230, 7, 16
BOUNDS = {"full": 1.25, "quick": 2.0}
"""As multiples of the loop's CPU."""
HALF = 0.5
"""Of the SDK's CPU, with `--check quick`."""
SIDE = 590
"""Pixels of noise whose PNG has 1 MB."""


@dataclass(frozen=True)
class Case:
    """Pictures of one size, and how many of them are bought."""

    megabytes: int
    side: int
    few: int
    many: int


CASES = (Case(1, SIDE, FEW, MANY), Case(10, 1866, 6, 36))
_CONTESTANTS = ("loop", "batchgen", "loop-fsync", "openai")


# In the child


def _keep(encoded: bytes | memoryview | str, file: Path, check: str, *, durable: bool = False) -> None:
    """What every contestant but batchgen does with a picture."""
    import pybase64  # noqa: PLC0415  only what a contestant needs is loaded
    from PIL import Image  # noqa: PLC0415

    data = pybase64.b64decode(encoded, validate=True)
    hashlib.sha256(data).hexdigest()
    if check == "full":
        with Image.open(BytesIO(data)) as image:
            image.load()
    if not durable:
        file.write_bytes(data)
        return
    with file.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    folder = os.open(file.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def _receive(connection: socket.socket, buffer: bytearray) -> int:
    """Receive one answer into `buffer`; where its body starts."""
    view, got, head, end = memoryview(buffer), 0, -1, 0
    while head < 0 or got < end:
        received = connection.recv_into(view[got:])
        if not received:
            raise ConnectionError("the endpoint hung up")
        got += received
        if head < 0 and (head := buffer.find(b"\r\n\r\n", 0, got)) >= 0:
            at = buffer.index(b"content-length:", 0, head) + 15
            end = head + 4 + int(buffer[at : buffer.index(b"\r\n", at)])
    return head + 4


def _loop(url: str, rows: int, check: str, folder: Path, *, durable: bool = False) -> None:
    at = urlsplit(url)
    buffer = bytearray(16 * 2**20)
    with socket.create_connection((at.hostname, at.port)) as connection:
        for row in range(rows):
            prompt = {"role": "user", "content": f"picture {row}"}
            body = json.dumps({"model": MODEL, "messages": [prompt]}).encode()
            head = f"POST {at.path}/chat/completions HTTP/1.1\r\nhost: {at.netloc}\r\n"
            connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            start = buffer.index(b"base64,", _receive(connection, buffer)) + 7
            encoded = memoryview(buffer)[start : buffer.index(b")", start)]
            _keep(encoded, folder / f"r{row}.png", check, durable=durable)


def _batchgen(url: str, rows: int, check: str, folder: Path, *, backend: str) -> None:
    from batchgen import job as jobs  # noqa: PLC0415
    from batchgen import runner  # noqa: PLC0415

    manifest = folder / "prompts.csv"
    manifest.write_text("id,prompt\n" + "".join(f"r{row},picture {row}\n" for row in range(rows)))
    given = {
        "base_url": url,
        "provider": "core-today",
        "concurrency": WORKERS,
        "check": check,
        "output": str(folder / "run"),
    }
    summary = runner.run(
        jobs.resolve(str(manifest), given),
        environment={"BATCHGEN_API_KEY": "any"},
        surroundings=runner.Surroundings(backend=backend),
    )
    if summary.bought != rows:
        raise SystemExit(f"only {summary.bought} of {rows} were bought: {summary.failures}")


async def _openai(url: str, rows: int, check: str, folder: Path) -> None:
    from openai import AsyncOpenAI  # noqa: PLC0415

    client = AsyncOpenAI(base_url=url, api_key="any", max_retries=0)
    slots = asyncio.Semaphore(WORKERS)

    async def buy(row: int) -> None:
        async with slots:
            completion = await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": f"picture {row}"}]
            )
        content = completion.choices[0].message.content or ""
        encoded = content[content.index("base64,") + 7 : content.rindex(")")]
        await asyncio.to_thread(_keep, encoded, folder / f"r{row}.png", check)

    async with client:
        await asyncio.gather(*map(buy, range(rows)))


def _child(contestant: str, url: str, rows: str, check: str, backend: str) -> None:
    """Do the work of one contestant; CPU milliseconds go to standard output."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        match contestant:
            case "batchgen":
                _batchgen(url, int(rows), check, folder, backend=backend)
            case "openai":
                asyncio.run(_openai(url, int(rows), check, folder))
            case _:
                _loop(url, int(rows), check, folder, durable=contestant == "loop-fsync")
        used = resource.getrusage(resource.RUSAGE_SELF)
    print((used.ru_utime + used.ru_stime) * 1000)


# In the parent


def touch(folder: Path) -> None:
    """
    Have the machine hand out the memory that files will lie in.

    In a virtual machine the first to touch a page pays for it, some milliseconds a megabyte.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(MANY + 200):
            file.write(bytes(2**20))


def _cpu(contestant: str, url: str, rows: int, check: str, backend: str) -> float:
    touch(Path(tempfile.gettempdir()))
    command = [sys.executable, "-m", "bench.overhead", "child", contestant, url, str(rows), check, backend]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def _a_row(contestant: str, url: str, case: Case, check: str, backend: str) -> float:
    """CPU milliseconds a picture."""
    few = _cpu(contestant, url, case.few, check, backend)
    return (_cpu(contestant, url, case.many, check, backend) - few) / (case.many - case.few)


def _ratios(values: list[float], bases: list[float]) -> list[float]:
    return [value / base for value, base in zip(values, bases, strict=True)]


def _measured(case: Case, backend: str) -> dict[tuple[str, str], list[float]]:
    """CPU milliseconds a picture by check and contestant, round by round."""
    figures: dict[tuple[str, str], list[float]] = {}
    with serving(width=case.side, height=case.side) as url:
        for _ in range(ROUNDS):
            for check in BOUNDS:
                for contestant in _CONTESTANTS:
                    figures.setdefault((check, contestant), []).append(
                        _a_row(contestant, url, case, check, backend)
                    )
    return figures


def _told(name: str, ratios: list[float], bound: float | None) -> bool:
    """Print one figure; whether it keeps its bound."""
    ratio = statistics.median(ratios)
    kept = bound is None or ratio <= bound
    told = "" if bound is None else f"(bound {bound}{'' if kept else ', broken'})"
    print(f"{name:<26}{ratio:6.2f} x   {min(ratios):.2f} to {max(ratios):.2f} {told}")
    return kept


def main() -> int:
    """Measure, print the figures, return 1 where a bound is broken."""
    backend = "trio" if "--trio" in sys.argv else "asyncio"
    only = sys.argv[sys.argv.index("--only") + 1] if "--only" in sys.argv else None
    kept = True
    for case in CASES:
        if only is not None and only != str(case.megabytes):
            continue
        figures = _measured(case, backend)
        print(
            f"CPU a picture of {case.megabytes} MB, as a multiple of the loop's; median of {ROUNDS} rounds"
            f" ({backend})"
        )
        for check, bound in BOUNDS.items():
            loops = figures[check, "loop"]
            print(f"{check:<6}{'loop':<20}{statistics.median(loops):6.2f} ms")
            for contestant in _CONTESTANTS[1:]:
                ratios = _ratios(figures[check, contestant], loops)
                kept &= _told(f"{check:<6}{contestant}", ratios, bound if contestant == "batchgen" else None)
            halves = _ratios(figures[check, "batchgen"], figures[check, "openai"])
            kept &= _told(f"{check:<6}batchgen / openai", halves, HALF if check == "quick" else None)
    return int(not kept)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        _child(*sys.argv[2:])
    else:
        sys.exit(main())
