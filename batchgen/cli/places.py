"""Is a run directory where somebody says, and if not, which one may be meant?"""

from __future__ import annotations

from pathlib import Path

from batchgen.address import is_url, parsed
from batchgen.errors import InputError, nearest
from batchgen.layout import LEDGER, TABLE

_TRACES = (LEDGER, f"{LEDGER}-wal", TABLE, "images", "lock")
_SHOWN = 3


def check_run_directory(directory: str) -> None:
    """
    See that something may be found there: in a bucket, whoever opens it finds out.

    :raises InputError: nothing there was ever a run directory; says which others there are.
    """
    if is_url(directory):
        parsed(directory)
        return
    path = Path(directory)
    try:
        if any((path / name).exists() for name in _TRACES):
            return
    except OSError as cause:
        raise InputError(f"{directory}: {cause.strerror}; name one that you can read") from cause
    known = _known(path)
    hint = nearest(directory, known)
    if path.is_file():
        named = str(Path("runs") / path.name.removesuffix(path.suffix))
        what = "this is a file, not a run directory"
        hint = f"; did you mean {named!r}?" if named in known else hint
    else:
        what = "no ledger here: this is no run directory" if path.is_dir() else "no such folder"
    if not hint and known:
        hint = f"; there are {', '.join(map(repr, known[:_SHOWN]))}"
    raise InputError(f"{directory}: {what}{hint or '; `batchgen run prompts.csv -o DIR` makes one'}")


def _known(path: Path) -> list[str]:
    """The run directories in it, beside it and in `runs`, the newest first."""
    folders = (path, path.parent, path.parent / "runs", Path("runs"))
    found = {ledger.parent for folder in folders for ledger in folder.glob(f"*/{LEDGER}")}
    return [str(each) for each in sorted(found, key=lambda each: -(each / LEDGER).stat().st_mtime)]
