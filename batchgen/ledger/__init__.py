"""
What was asked for, what came of it, and what did it cost?

The ledger is one SQLite file, `ledger.db`, in the run directory (WAL, `synchronous=FULL`). It is the truth of
a run; `results.parquet` is derived from it. One attempt, one HTTP request, goes through three durable steps:

    started     before anything leaves: the intent, the file name it will fill, the money it may cost
    submitted   before the first byte of the body leaves: from here on it may be billed
    settled     with its outcome, after its picture is durable on disk

An attempt that a crash left between two steps is read back as what it is: never submitted and free, or
submitted and *uncertain*. Money is held in nano-USD (1e-9), times in UTC microseconds.
"""

from __future__ import annotations

from batchgen.ledger.audit import EXAMPLES, Audit, Lost, Record, Stray, Tasks
from batchgen.ledger.history import History
from batchgen.ledger.log import Log, Mark
from batchgen.ledger.onlooker import LATEST, Latest, Moment, Onlooker
from batchgen.ledger.reader import (
    Attempted,
    Failed,
    Journey,
    Reader,
    Result,
    Run,
    Said,
    Standing,
    State,
    Totals,
    Unanswered,
)
from batchgen.ledger.restore import Told, restore
from batchgen.ledger.schema import usd
from batchgen.ledger.writer import Attempt, Ledger, Orphan

__all__ = [
    "EXAMPLES",
    "LATEST",
    "Attempt",
    "Attempted",
    "Audit",
    "Failed",
    "History",
    "Journey",
    "Latest",
    "Ledger",
    "Log",
    "Lost",
    "Mark",
    "Moment",
    "Onlooker",
    "Orphan",
    "Reader",
    "Record",
    "Result",
    "Run",
    "Said",
    "Standing",
    "State",
    "Stray",
    "Tasks",
    "Told",
    "Totals",
    "Unanswered",
    "restore",
    "usd",
]
