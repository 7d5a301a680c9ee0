"""
What can be typed?

Nothing heavier than click is imported before a command needs it, so that `--help` and completion are instant.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import click
from click.core import ParameterSource

from batchgen.cli import examples
from batchgen.cli.options import Lines, Rate, complete_model, complete_provider, pairs, parsed
from batchgen.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

_OF_A_NIGHT = frozenset(
    {
        "source", "output", "concurrency", "rpm", "ipm", "tpm", "attempts", "drain", "max_failure_rate",
        "budget", "on_daily_quota", "limit", "only", "again", "retry_failed", "on_uncertain", "variants",
        "name", "dry_run", "as_json", "quiet", "verbose",
    }
)  # fmt: skip
"""What `run` takes and means nothing to a single request."""


class Call(NamedTuple):
    """What somebody typed, and what no answer to it may show."""

    typed: list[str]
    keys: set[str]


@click.group(context_settings=_CONTEXT, epilog=examples.BATCHGEN)
@click.version_option(__version__, "-V", "--version", message="batchgen %(version)s")
def commands() -> None:
    """
    A table of prompts in, a table of images out.

    Every row is accounted for to the last token, nothing already paid for is bought again, and the run
    never spends more than it was allowed.
    """


@commands.command(context_settings={**_CONTEXT, "auto_envvar_prefix": "BATCHGEN"}, epilog=examples.RUN)
@click.argument("source", metavar="SOURCE")
@click.option("-o", "--output", metavar="DIR", help="The run directory.  [default: runs/<name of SOURCE>]")
@click.option(
    "--provider",
    metavar="NAME",
    shell_complete=complete_provider,
    help="Where pictures come from; see `batchgen models`.  [default: core-today]",
)
@click.option("--base-url", metavar="URL", help="Another endpoint; the URL ends before /chat/completions.")
@click.option(
    "--key-file", metavar="FILE", help="A file with the API key alone in it, closed to others (mode 0600)."
)
@click.option("--allow-http", is_flag=True, help="Let key and prompts travel unencrypted to another machine.")
@click.option("--dialect", metavar="NAME", help="The wire format.  [default: the provider's own]")
@click.option(
    "--image-options",
    type=click.Choice(["none", "google", "openrouter", "modalities", "flat", "suffix"]),
    help="How the endpoint is told of shape and size.  [default: the provider's own]",
)
@click.option("--stream", is_flag=True, help="Answers as events: past proxies that cut what is silent long.")
@click.option(
    "-m",
    "--model",
    metavar="NAME",
    shell_complete=complete_model,
    help="An id or alias.  [default: gemini-3.1-flash-image-preview]",
)
@click.option("-c", "--concurrency", type=int, metavar="N", help="Requests in flight at most.  [default: 8]")
@click.option(
    "--rpm",
    type=Rate(),
    metavar="N",
    help="Requests a minute, paced, never passed.  [default: auto: felt for]",
)
@click.option("--ipm", type=float, metavar="N", help="Pictures a minute, never passed.")
@click.option("--tpm", type=float, metavar="N", help="Tokens a minute, never passed.")
@click.option("--attempts", type=int, metavar="N", help="Attempts per task; a 429 counts none.  [default: 5]")
@click.option("--timeout", type=float, metavar="S", help="Seconds a request may take.  [default: 300]")
@click.option(
    "--drain", type=float, metavar="S", help="Seconds to land after a signal.  [default: as --timeout]"
)
@click.option(
    "--max-failure-rate",
    type=float,
    metavar="X",
    help="Stop when more of the last hundred tasks failed for good.  [default: 0.5]",
)
@click.option("--budget", type=float, metavar="USD", help="Spent in this run directory, ever, at most.")
@click.option(
    "--on-daily-quota",
    type=click.Choice(["wait", "stop"]),
    help="Once the day's quota is used up: until its reset, or not.  [default: stop]",
)
@click.option("--limit", type=int, metavar="N", help="Only the first N tasks of the manifest.")
@click.option("--only", metavar="FILE", help="Only the rows whose ids are in this table.")
@click.option(
    "--again", is_flag=True, allow_from_autoenv=False, help="Buy finished tasks anew (with --only: those)."
)
@click.option("--retry-failed", is_flag=True, help="Take up tasks that failed for good.")
@click.option(
    "--on-uncertain",
    type=click.Choice(["retry", "skip"]),
    help="Requests a crash left unanswered: once more, or not.  [default: retry]",
)
@click.option("--template", metavar="T", help='The prompt from columns: "A photo of {product}".')
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="NAME=COLUMN",
    callback=pairs,
    help="Where the manifest has another name: prompt=Caption. Repeatable.",
)
@click.option("--variants", type=int, metavar="N", help="Pictures a row.  [default: 1]")
@click.option("--name", metavar="T", help='File names from columns: "{category}/{id}".  [default: {id}]')
@click.option("--system", metavar="TEXT", help="System prompt for rows without one.")
@click.option("--temperature", type=float, metavar="X", help="0 to 2, for rows without one.")
@click.option("--top-p", type=float, metavar="X", help="0 to 1, for rows without one.")
@click.option("--max-tokens", type=int, metavar="N", help="Text and picture together, for rows without one.")
@click.option("--seed", type=int, metavar="N", help="0 to 2147483647, for rows without one.")
@click.option(
    "--stop",
    type=Lines(),
    multiple=True,
    metavar="TEXT",
    help="Ends an answer, for rows without one. Repeatable.",
)
@click.option("--aspect-ratio", metavar="W:H", help="Such as 16:9, for rows without one.")
@click.option("--image-size", metavar="SIZE", help="512, 1K, 2K or 4K, for rows without one.")
@click.option(
    "--expect",
    type=click.Choice(["image", "text"]),
    help="What completes a row.  [default: text with JSON or tools, else image]",
)
@click.option("--response-format", metavar="JSON", callback=parsed, help='Such as {"type": "json_object"}.')
@click.option("--tools", metavar="JSON", callback=parsed, help="A list of functions, in OpenAI's format.")
@click.option("--tool-choice", metavar="WORD", help="none, auto, required, or a tool as JSON.")
@click.option("--extra", metavar="JSON", callback=parsed, help="An object, laid over the body of requests.")
@click.option("--allow-outside", is_flag=True, help="References may lie outside the manifest's folder.")
@click.option(
    "--check",
    type=click.Choice(["full", "quick"]),
    help="Decode every picture, or look at its structure.  [default: full]",
)
@click.option(
    "-n",
    "--dry-run",
    is_flag=True,
    allow_from_autoenv=False,
    help="Read everything, send nothing, say what would be bought.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    allow_from_autoenv=False,
    help="The summary as one JSON object on stdout.",
)
@click.option("-q", "--quiet", is_flag=True, allow_from_autoenv=False, help="No progress.")
@click.option(
    "-v", "--verbose", is_flag=True, allow_from_autoenv=False, help="A line for every retry and failure."
)
@click.pass_context
def run(
    context: click.Context,
    /,
    source: str,
    *,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **flags: object,
) -> int:
    """
    Render SOURCE: a job file (.toml) or a manifest (.csv, .tsv, .jsonl, .parquet, or - for CSV on stdin).

    Pictures, results.parquet and the ledger go to the run directory. Interrupt it at any time: what is in
    flight is kept, and the same command goes on.
    """
    from batchgen.cli import running  # noqa: PLC0415  the run pays for its imports, --help does not

    call: Call = context.obj
    given = _given(context, flags)
    if dry_run:
        return running.preview(source, given, as_json=as_json)
    return running.run(
        source, given, typed=call.typed, as_json=as_json, quiet=quiet, verbose=verbose, keys=call.keys
    )


def _given(context: click.Context, flags: Mapping[str, object]) -> dict[str, object]:
    """What flags and environment say of a job, without their defaults."""
    stated = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
    given = {name: value for name, value in flags.items() if context.get_parameter_source(name) in stated}
    if os.environ.get("BATCHGEN_API_KEY", "").strip():
        given.setdefault("key_file", None)  # the environment goes before the job file
    return given


@commands.command(
    context_settings={**_CONTEXT, "auto_envvar_prefix": "BATCHGEN"},
    epilog=examples.PROBE,
    params=[parameter for parameter in run.params if parameter.name not in _OF_A_NIGHT],
)
@click.argument("source", metavar="[SOURCE]", required=False)
@click.option("--save", metavar="FILE", allow_from_autoenv=False, help="Keep the picture in a new file.")
@click.option(
    "-n",
    "--dry-run",
    is_flag=True,
    allow_from_autoenv=False,
    help="Show the request, send nothing; needs no key.",
)
@click.option(
    "--json", "as_json", is_flag=True, allow_from_autoenv=False, help="What it found as one JSON object."
)
@click.pass_context
def probe(
    context: click.Context,
    /,
    source: str | None,
    *,
    save: str | None,
    dry_run: bool,
    as_json: bool,
    **flags: object,
) -> int:
    """
    Send one request, at once and at its price, and say what a night at this endpoint would meet.

    Is the model there, does a picture come back, in which form, of which size, how fast, at what price? And
    which settings follow from that? SOURCE is a job file or a manifest, of which the first row is asked for;
    without one it is a small picture of the cheapest size.
    """
    from batchgen.cli import probing  # noqa: PLC0415

    call: Call = context.obj
    telling = probing.Telling(typed=call.typed, as_json=as_json, keys=call.keys)
    return probing.tell(source, _given(context, flags), telling, dry_run=dry_run, save=save)


@commands.command(context_settings=_CONTEXT, epilog=examples.STATUS)
@click.argument("directory", metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def status(directory: str, *, as_json: bool) -> int:
    """Say how far the run in DIR is and what it has cost; also while it runs."""
    from batchgen.cli import looking  # noqa: PLC0415

    return looking.status(directory, as_json=as_json)


@commands.command(context_settings=_CONTEXT, epilog=examples.VERIFY)
@click.argument("directory", metavar="DIR")
@click.option("--repair", is_flag=True, help="Put right what can be, without losing a picture.")
@click.option(
    "--check",
    type=click.Choice(["full", "quick"]),
    default="full",
    help="Decode every picture, or look at its structure.  [default: full]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def verify(directory: str, *, repair: bool, check: str, as_json: bool, quiet: bool) -> int:
    """
    Hold every row of the run in DIR against its file and the ledger; also while it runs.

    Every picture is read, hashed and decoded. With --repair, misplaced pictures get their names back, rows
    without their picture are put back to pending and results.parquet is written anew; what a row has cost
    stays in the account, and no picture is deleted.
    """
    from batchgen.cli import verifying  # noqa: PLC0415

    return verifying.tell(directory, repair=repair, check=check, as_json=as_json, quiet=quiet)


@commands.command(context_settings=_CONTEXT)
@click.option("--provider", metavar="NAME", shell_complete=complete_provider, help="Only this provider's.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def models(*, provider: str | None, as_json: bool) -> int:
    """List the known providers and models with prices, tokens a picture and aliases."""
    from batchgen.cli import looking  # noqa: PLC0415

    return looking.models(provider, as_json=as_json)


@commands.command(context_settings=_CONTEXT, epilog=examples.SIMULATE)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0: any free one.  [default: 0]")
@click.option("--seed", type=int, default=0, help="Same seed, same pictures and faults.  [default: 0]")
@click.option("--rpm", type=float, metavar="N", help="Requests a minute, enforced.")
@click.option("--ipm", type=float, metavar="N", help="Pictures a minute, enforced.")
@click.option("--latency", type=float, default=1.0, metavar="X", help="Times the real models'.  [default: 1]")
@click.option("--shape", default="S1", metavar="NAME", help="The answers' shape, or `mixed`.  [default: S1]")
@click.option("--key", metavar="KEY", help="Take this key only.  [default: any]")
@click.option("--paint/--no-paint", default=True, help="Paint, or send one small picture for speed.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="NAME=RATE",
    callback=pairs,
    help="How often something goes wrong: overloaded=0.05. Repeatable.",
)
@click.option(
    "--chat-pictures/--no-chat-pictures",
    default=True,
    help="Whether chat completions carry pictures; Google's own answer 400.",
)
@click.option("--ignore-size", "ignores_size", is_flag=True, help="Squares of 1K, whatever is asked for.")
@click.option("--reference-urls", is_flag=True, help="Take pictures named by https URLs; none is fetched.")
@click.option("--calm", type=int, default=0, metavar="N", help="Requests before the first fault.")
def simulate(*, port: int, **settings: object) -> int:
    """
    Serve the simulated endpoint on loopback, for any client.

    It speaks OpenAI's chat completions and Images API and Google's generateContent, streamed or whole; GET
    /account tells what it billed.
    """
    from batchgen.cli import serving  # noqa: PLC0415

    return serving.simulate(settings, port=port)
