"""What may the value of a flag look like, and how is it completed?"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from batchgen.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence


def complete_file(_: click.Context, __: click.Parameter, typed: str) -> list[CompletionItem]:
    """The shell's own names of files."""
    return [CompletionItem(typed, type="file")]


def complete_folder(_: click.Context, __: click.Parameter, typed: str) -> list[CompletionItem]:
    """The shell's own names of folders."""
    return [CompletionItem(typed, type="dir")]


def complete_provider(_: click.Context, __: click.Parameter, typed: str) -> list[str]:
    """The known providers that begin so."""
    from batchgen import providers  # noqa: PLC0415  completion pays for it, --help does not

    return [name for name in providers.catalogue() if name.startswith(typed)]


def complete_model(_: click.Context, __: click.Parameter, typed: str) -> list[str]:
    """The known models that begin so."""
    from batchgen import providers  # noqa: PLC0415

    known = {model.id for provider in providers.catalogue().values() for model in provider.models}
    return sorted(name for name in known if name.startswith(typed))


def pairs(_: click.Context, parameter: click.Parameter, given: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE, taken apart."""
    for pair in given:
        if "=" not in pair or pair.startswith("="):
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE", param=parameter)
    return dict(pair.split("=", 1) for pair in given)


def several(
    _: click.Context, parameter: click.Parameter, given: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    """NAME=VALUE, any number of times, also of one name."""
    for pair in given:
        if "=" not in pair or pair.startswith("="):
            raise click.BadParameter(f"{pair!r} is not COLUMN=VALUE", param=parameter)
    return tuple((name, value) for name, _, value in (pair.partition("=") for pair in given))


def size(_: click.Context, parameter: click.Parameter, given: str | None) -> int | None:
    """Bytes, as people say them: 500MB, 2GiB."""
    if given is None:
        return None
    found = _SIZE.fullmatch(given.strip())
    count = float(found["count"]) * _UNITS[found["unit"].lower()] if found else 0
    if not 1 <= count <= _MOST:
        raise click.BadParameter(
            f"{given!r} is no size from 1 byte to 1000GB, such as 500MB", param=parameter
        )
    return int(count)


_SIZE = re.compile(r"(?P<count>[0-9]{1,18}(\.[0-9]{1,9})?) ?(?P<unit>|[kmgt]i?b?|b)", re.IGNORECASE)
_UNITS = {"": 1, "b": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("kmgt", 1)
    for suffix, base in (("", 1000), ("b", 1000), ("i", 1024), ("ib", 1024))
}
_MOST = 10**12


def parsed(_: click.Context, parameter: click.Parameter, given: str | None) -> object:
    """JSON, decoded."""
    if given is None:
        return None
    from batchgen.manifest.structure import decoded  # noqa: PLC0415

    try:
        return decoded(given)
    except InputError as cause:
        raise click.BadParameter(str(cause), param=parameter) from None


class Rate(click.types.FloatParamType):
    """So many a minute, or `auto`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401  click's own
        """Take the word as it is."""
        return value if value == "auto" else super().convert(value, param, ctx)


class Lines(click.types.StringParamType):
    """Texts with blanks in them: in an environment variable, one a line."""

    envvar_list_splitter = "\n"
