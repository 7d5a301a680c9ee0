"""
Who competes, in which environment, and what does each one's own record say in the end?

Every contestant is a command of its own in an environment of its own, killed with all it started when its
time is over. CPU and peak memory are what the kernel accounts to that process (wait4); a process starts with
its parent's peak, 130 MB here, so that less than that is never told.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.seller import mark
from bench.servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

REQUIREMENTS = {
    "openai": ["openai>=2", "aiolimiter>=1.2"],
    "litellm": ["litellm>=1.80"],
    "curator": ["bespokelabs-curator>=0.1.25"],
}
"""What a peer's environment is made of; each has pins against another's."""
_LONGEST = _INSTALL = 900
"""Seconds."""
_HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One way to buy a table of pictures."""

    name: str
    kind: str
    """`batchgen` or a key of `REQUIREMENTS`."""
    arguments: tuple[str, ...] = ()

    def command(self, python: Path, prompts: Path, folder: Path, url: str, workers: int) -> list[str]:
        """The command that buys what is missing in `folder`."""
        match self.kind:
            case "batchgen":
                start = [sys.executable, "-m", "batchgen", "run", str(prompts), "--output", str(folder)]
                told = ["--provider", "core-today", "--quiet"]
            case "curator":
                start, told = [str(python), str(_HERE / "curated.py"), str(prompts), str(folder)], []
            case client:
                start = [str(python), str(_HERE / "script.py"), str(prompts), str(folder)]
                told = ["--client", client]
        return [*start, *told, "--base-url", url, "--concurrency", str(workers), *self.arguments]


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What the kernel says of a process that ended."""

    status: int
    cpu: float
    """Seconds, user and system."""
    peak: float
    """MB."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a contestant left: whole pictures of their own rows, and what it can say of the money."""

    pictures: int
    wrong: int
    """Files that are not whole, or another row's."""
    tokens: int
    """Tokens in its own table."""
    named: int = 0
    """Requests that it names as possibly billed."""


@dataclass
class Environments:
    """The peers' environments in one folder; what could not be made is told, not guessed."""

    folder: Path
    missing: dict[str, str] = field(default_factory=dict)

    def python(self, kind: str) -> Path:
        """The interpreter of a peer."""
        return self.folder / kind / "bin" / "python"

    def make(self) -> None:
        """Make those that are not there."""
        for kind, requirements in REQUIREMENTS.items():
            python = self.python(kind)
            if (self.folder / kind / "complete").exists():
                continue
            print(f"installing {' '.join(requirements)} …", file=sys.stderr, flush=True)
            try:
                made = subprocess.run(
                    [sys.executable, "-m", "venv", str(self.folder / kind)], check=False, capture_output=True
                )
                made.check_returncode()
                pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
                subprocess.run([*pip, *requirements], check=True, capture_output=True, timeout=_INSTALL)
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                said = (error.stderr or b"").decode(errors="replace").strip().splitlines()
                self.missing[kind] = said[-1] if said else str(error)
                print(
                    f"cannot install {kind}, so it is not measured: {self.missing[kind]}\n"
                    f"(with PyPI in reach once, the environments stay in {self.folder})",
                    file=sys.stderr,
                )
            else:
                (self.folder / kind / "complete").touch()

    def versions(self, kind: str) -> list[str]:
        """`name version` of each package in an environment."""
        python = sys.executable if kind == "batchgen" else str(self.python(kind))
        code = (
            "import importlib.metadata as m;"
            "print('\\n'.join(sorted({f'{d.name} {d.version}' for d in m.distributions()}, key=str.lower)))"
        )
        told = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True, timeout=60)
        return told.stdout.splitlines()


@dataclass(frozen=True)
class Entry:
    """A contestant at one table of prompts, in one folder."""

    contestant: Contestant
    environments: Environments
    folder: Path
    """An empty one; prompts, log and results go there."""
    rows: int

    @property
    def results(self) -> Path:
        """Where the contestant puts what it buys."""
        return self.folder / "results"

    @contextmanager
    def started(self, url: str, workers: int) -> Iterator[subprocess.Popen[bytes]]:
        """The contestant at work; what is left of it in the end is killed."""
        prompts = self.folder / "prompts.csv"
        prompts.write_text("id,prompt\n" + "".join(f"r{row},picture {row}\n" for row in range(self.rows)))
        python = self.environments.python(self.contestant.kind)
        command = self.contestant.command(python, prompts, self.results, url, workers)
        with launched(command, self.folder) as process:
            yield process

    def run(self, url: str, workers: int) -> Ran:
        """Let it buy everything."""
        began = time.monotonic()
        with self.started(url, workers) as process:
            ran = ended(process, self.folder / "log")
        told = f"  {self.contestant.name}: {self.rows} rows in {time.monotonic() - began:.0f} s"
        print(told, file=sys.stderr, flush=True)
        return ran

    def record(self) -> Record:
        """What it left."""
        images = [self.results / "images" / f"r{row}.png" for row in range(self.rows)]
        found = [(image.stem, image.read_bytes()) for image in images if image.exists()]
        whole = sum(mark(row) in data and data.endswith(b"IEND\xaeB`\x82") for row, data in found)
        counted = {"pictures": whole, "wrong": len(found) - whole}
        match self.contestant.kind:
            case "batchgen":
                status = _status(self.results)
                return Record(**counted, tokens=status["total_tokens"], named=status["uncertain"])
            case "curator":
                return Record(**counted, tokens=_curated(self.results / "curator"))
            case _:
                return Record(**counted, tokens=_noted(self.results / "results.jsonl"))


@contextmanager
def launched(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a session of its own, its words in `folder`/log, none of it left at the end."""
    keys = {"BATCHGEN_API_KEY": "any", "OPENAI_API_KEY": "any", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    surroundings = {**os.environ, **keys, "PYTHONPATH": str(ROOT), "NO_PROXY": "*"}
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=surroundings, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def ended(process: subprocess.Popen[bytes], log: Path) -> Ran:
    """Wait for the end of a process, for some minutes at most."""
    until = time.monotonic() + _LONGEST
    while True:
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return Ran(
                status=process.returncode, cpu=used.ru_utime + used.ru_stime, peak=used.ru_maxrss / 1024
            )
        if time.monotonic() > until:
            raise SystemExit(f"not at its end after {_LONGEST} s; its last words:\n{_last(log)}")
        time.sleep(0.02)


def _last(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])


def _status(results: Path) -> dict[str, Any]:
    told = subprocess.run(
        [sys.executable, "-m", "batchgen", "status", str(results), "--json"],
        check=True,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        timeout=60,
    )
    status: dict[str, Any] = json.loads(told.stdout)
    return status


def _noted(table: Path) -> int:
    """Tokens in the script's table; a torn last line says nothing."""
    lines = table.read_text().split("\n")[:-1]
    return sum(json.loads(line).get("tokens", 0) for line in lines)


def _curated(folder: Path) -> int:
    """Tokens in curator's responses; a torn last line says nothing."""
    tokens = 0
    for file in folder.glob("*/responses_*.jsonl"):
        with file.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    tokens += (json.loads(line)["token_usage"] or {}).get("total", 0)
    return tokens
