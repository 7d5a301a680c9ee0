"""How is the simulator put on a port from the terminal?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from batchgen import simulator
from batchgen.cli.saying import say
from batchgen.errors import InputError, nearest
from batchgen.simulator.app import serve

if TYPE_CHECKING:
    from collections.abc import Mapping


def simulate(settings: Mapping[str, object], *, port: int) -> int:
    """Serve until a signal comes; 0."""
    values = dict(settings)
    faults = values.pop("faults")
    known = simulator.Faults.__struct_fields__
    for name in faults if isinstance(faults, dict) else ():
        if name not in known:
            raise InputError(
                f"--fault: unknown fault {name!r}{nearest(name, known)}; known: {', '.join(known)}"
            )
    try:
        wanted = msgspec.convert({**values, "faults": faults}, simulator.Settings, strict=False)
    except msgspec.ValidationError as cause:
        raise InputError(f"simulate: {cause}") from cause
    serve(wanted, port=port, on_ready=lambda url: _ready(url, wanted.key))
    return 0


def _ready(url: str, key: str | None) -> None:
    say(f"simulating on {url}; {'its own key only' if key else 'any key will do'}; Ctrl-C ends it")
    say("  BATCHGEN_API_KEY=… batchgen run prompts.csv --provider core-today \\")
    say(f"    --base-url {url}/v1")
    say(f"  Google's own format: {url}/v1beta; its bill: {url}/account")
