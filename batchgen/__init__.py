"""
What does batchgen offer to a Python program?

    import batchgen

    summary = batchgen.run(batchgen.Job(manifest="prompts.csv", provider="simulator"))

Everything is imported on first use, so that `import batchgen` and the command line's `--help` cost nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from batchgen.version import __version__

if TYPE_CHECKING:
    from batchgen.errors import (
        BatchgenError,
        InputError,
        LockedError,
        ManifestError,
        StorageError,
    )
    from batchgen.job import Job
    from batchgen.outlook import Preview, preview
    from batchgen.progress import Progress, Stop
    from batchgen.runner import Summary, run

__all__ = [
    "BatchgenError",
    "InputError",
    "Job",
    "LockedError",
    "ManifestError",
    "Preview",
    "Progress",
    "Stop",
    "StorageError",
    "Summary",
    "__version__",
    "preview",
    "run",
]

_HOMES = {
    "BatchgenError": "errors",
    "InputError": "errors",
    "Job": "job",
    "LockedError": "errors",
    "ManifestError": "errors",
    "Preview": "outlook",
    "Progress": "progress",
    "Stop": "progress",
    "StorageError": "errors",
    "Summary": "runner",
    "preview": "outlook",
    "run": "runner",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'batchgen' has no attribute {name!r}")
    return getattr(importlib.import_module(f"batchgen.{_HOMES[name]}"), name)
