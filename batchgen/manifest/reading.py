"""How does a job tell us to read its manifest?"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  msgspec reads the annotations at run time
from pathlib import Path

from batchgen.records import Expect, Params, Provider, Value


class Reading(Value, frozen=True, kw_only=True):
    """What a job says of its rows. Cells override what is said here."""

    model: str
    """Id sent where a row names none."""
    models: Mapping[str, str] | None = None
    """Lower-case alias or id → id as it is sent; None: any name is sent as it stands."""
    unknown: str = "unknown model"
    """What is said before a name that is not among `models`."""
    columns: Mapping[str, str] = {}
    """Our column → the file's."""
    template: str | None = None
    """Makes the prompt from columns: 'A studio photo of {product} on {background}'."""
    name: str | None = None
    """Makes the file name from columns, {id}, {variant} and {row}; None means '{id}'."""
    system: str | None = None
    params: Params = Params()
    expect: Expect | None = None
    """None: words where JSON or tools are asked for, else a picture."""
    variants: int = 1

    provider: Provider = Provider(name="", title="the endpoint", base_url="")
    """What its models and its endpoint are known to take; an unknown one takes anything."""
    cannot: Mapping[str, str] = {}
    """Our columns that the wire format has no place for → why."""
    folder: Path = Path()
    """Where references are found."""
    allow_outside: bool = False
    """Whether they may lie elsewhere."""
