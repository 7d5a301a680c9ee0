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
from batchgen.cli.options import (
    Lines,
    Rate,
    complete_file,
    complete_folder,
    complete_model,
    complete_provider,
    pairs,
    parsed,
    several,
    size,
)
from batchgen.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

_OF_A_NIGHT = frozenset(
    {
        "source", "output", "concurrency", "rpm", "ipm", "tpm", "attempts", "hedge", "drain",
        "max_failure_rate", "budget", "on_daily_quota", "limit", "only", "again", "retry_failed",
        "on_uncertain", "variants", "name", "embed", "quality", "log_file", "ray", "dry_run", "as_json",
        "quiet", "verbose",
    }
)  # fmt: skip
"""What `run` takes and means nothing to a single request."""
_OF_SENDING = frozenset({"dry_run", "as_json", "quiet", "verbose"})
"""What `run` takes and means nothing where nothing is sent, or is said otherwise."""


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
@click.argument("source", metavar="SOURCE", shell_complete=complete_file)
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    help="The run directory, or s3://…, gs://…, az://….  [default: runs/<name of SOURCE>]",
)
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
@click.option(
    "--hedge",
    is_flag=True,
    help="Ask once more for what is late when nothing else is left to do: the first picture counts, both are"
    " paid for.",
)
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
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="A Ray cluster whose nodes make the requests: auto, HOST:PORT, or local.",
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
@click.option("--embed", is_flag=True, help="Put prompt, model, request and origin into each picture (XMP).")
@click.option(
    "--quality", is_flag=True, help="After buying, find blank pictures and ones that look the same."
)
@click.option(
    "--log-file", metavar="FILE", help="Append what happens, one JSON object a line; docs/events.md."
)
@click.option(
    "-n",
    "--dry-run",
    is_flag=True,
    allow_from_autoenv=False,
    help="Read everything, send nothing, say what it would do, as `batchgen plan` does.",
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
        from batchgen.cli import planning  # noqa: PLC0415

        return planning.tell(source, given, typed=call.typed, keys=call.keys, as_json=as_json)
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


@commands.command(context_settings=_CONTEXT, epilog=examples.INIT)
@click.argument("manifest", metavar="MANIFEST", shell_complete=complete_file)
@click.option("-o", "--output", metavar="FILE", help="The job file.  [default: jobs/<name of MANIFEST>.toml]")
@click.option("--force", is_flag=True, help="Overwrite it.")
def init(manifest: str, *, output: str | None, force: bool) -> int:
    """
    Write a job file for MANIFEST, with what its columns seem to mean and the usual other keys as comments.

    The whole table is read and checked; nothing is sent, and no key is needed.
    """
    from batchgen.cli import beginning  # noqa: PLC0415

    return beginning.begin(manifest, output, force=force)


@commands.command(
    context_settings={**_CONTEXT, "auto_envvar_prefix": "BATCHGEN"},
    epilog=examples.PLAN,
    params=[parameter for parameter in run.params if parameter.name not in _OF_SENDING],
)
@click.option(
    "--deadline",
    metavar="WHEN",
    allow_from_autoenv=False,
    help="When it must be done: 07:00 (the next), or 2026-11-22T07:00.",
)
@click.option("--rehearse", is_flag=True, allow_from_autoenv=False, help="Play the night, in virtual time.")
@click.option(
    "--seeds",
    type=click.IntRange(1, 1000),
    default=10,
    metavar="N",
    allow_from_autoenv=False,
    help="How often it is played, with other dice each time.  [default: 10]",
)
@click.option(
    "--quota",
    type=float,
    metavar="N",
    allow_from_autoenv=False,
    help="Requests a minute that the endpoint takes.  [default: as seen, else any]",
)
@click.option(
    "--latency",
    type=float,
    metavar="S",
    allow_from_autoenv=False,
    help="Median seconds of an answer.  [default: as seen, else 12 or 25]",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="NAME=RATE",
    callback=pairs,
    allow_from_autoenv=False,
    help="How often something goes wrong: overloaded=0.05.  [default: as seen] Repeatable.",
)
@click.option("--json", "as_json", is_flag=True, allow_from_autoenv=False, help="One JSON object on stdout.")
@click.pass_context
def plan(
    context: click.Context,
    /,
    source: str,
    *,
    deadline: str | None,
    rehearse: bool,
    seeds: int,
    quota: float | None,
    latency: float | None,
    faults: Mapping[str, str],
    as_json: bool,
    **flags: object,
) -> int:
    """
    Say what `run` would do with SOURCE, what it would cost and when it would be done; nothing is sent.

    It reads and checks everything that the run would, and needs no key. The cost is a band that holds 95 of
    100 times, by prices alone at first and by what pictures of the run directory cost once there are some.

    With --rehearse the whole night is played, too, against the simulator, in virtual time and without a
    picture, by the same rules as a real one: when it ends, what it costs, how much goes wrong on the way.
    """
    from batchgen.cli import planning, rehearsing  # noqa: PLC0415

    for name in () if rehearse else ("seeds", "quota", "latency", "faults"):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            flag = "fault" if name == "faults" else name
            raise click.UsageError(f"--{flag} says what a rehearsed night is like: add --rehearse")
    call: Call = context.obj
    return planning.tell(
        source,
        _given(context, flags),
        typed=call.typed,
        keys=call.keys,
        as_json=as_json,
        deadline=deadline,
        expected=rehearsing.wishes(quota=quota, latency=latency, faults=faults) if rehearse else None,
        nights=seeds,
    )


@commands.command(
    context_settings={**_CONTEXT, "auto_envvar_prefix": "BATCHGEN"},
    epilog=examples.PROBE,
    params=[parameter for parameter in run.params if parameter.name not in _OF_A_NIGHT],
)
@click.argument("source", metavar="[SOURCE]", required=False, shell_complete=complete_file)
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
@click.argument("directory", metavar="DIR", shell_complete=complete_folder)
@click.option("-w", "--watch", is_flag=True, help="Again and again, until the run has ended.")
@click.option(
    "--every",
    type=click.FloatRange(0.1, 86_400),
    metavar="S",
    help="Seconds between two looks.  [default: 2, without a terminal 30]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object; with --watch one a line.")
def status(directory: str, *, watch: bool, every: float | None, as_json: bool) -> int:
    """
    Say how the run in DIR is: how far, how fast, at what cost, until when; also while it runs.

    It reads the ledger alone, and is as quick for a million rows as for ten. 0 whatever it says.
    """
    from batchgen.cli import watching  # noqa: PLC0415

    return watching.status(directory, watch=watch, every=every, as_json=as_json)


@commands.command(context_settings=_CONTEXT, epilog=examples.VERIFY)
@click.argument("directory", metavar="DIR", shell_complete=complete_folder)
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


@commands.command(context_settings=_CONTEXT, epilog=examples.EXPORT)
@click.argument("directory", metavar="DIR")
@click.option(
    "--to",
    type=click.Choice(["hf", "webdataset", "imagefolder", "csv", "jsonl"]),
    required=True,
    help="A Hugging Face dataset, WebDataset tars, a folder with a table, or a table alone.",
)
@click.option("-o", "--output", metavar="OUT", help="A folder of its own.  [default: DIR/export/FORMAT]")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    metavar="STATUS",
    help="Rows of this status, with a picture or not; or `all`. Repeatable."
    "  [default: succeeded, with a picture where pictures go out]",
)
@click.option(
    "--where",
    multiple=True,
    metavar="COLUMN=VALUE",
    callback=several,
    help="Rows with this value. Repeatable: any value of one column, all of several columns.",
)
@click.option("--only", metavar="FILE", help="Only the rows whose ids are in this table.")
@click.option(
    "--shard-size",
    "shard_bytes",
    metavar="SIZE",
    callback=size,
    help="About, of a file of hf and webdataset.  [default: 500MB]",
)
@click.option(
    "--link",
    type=click.Choice(["auto", "hard", "copy"]),
    help="How pictures get into an imagefolder.  [default: hard links, else copies]",
)
@click.option("--absolute", is_flag=True, help="Absolute paths of pictures in csv and jsonl.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def export(
    directory: str,
    *,
    to: str,
    output: str | None,
    statuses: tuple[str, ...],
    where: tuple[tuple[str, str], ...],
    only: str | None,
    as_json: bool,
    quiet: bool,
    **options: object,
) -> int:
    """
    Put the pictures and rows of the run in DIR into a dataset; also while it runs.

    Every picture is held against its recorded hash on the way; a row whose picture is lost or altered is
    named and left out. The same command goes on with an export that was interrupted, and brings it up to
    date when the run has gone on.
    """
    from batchgen.cli import exporting  # noqa: PLC0415

    return exporting.tell(
        directory,
        to,
        output=output,
        statuses=statuses,
        where=where,
        only=only,
        options=options,
        as_json=as_json,
        quiet=quiet,
    )


@commands.command(context_settings=_CONTEXT, epilog=examples.REPORT)
@click.argument("directory", metavar="DIR")
@click.option("-o", "--output", metavar="FILE", help="The page.  [default: DIR/report.html]")
@click.option(
    "--thumbnails",
    "pixels",
    type=click.IntRange(32, 2048),
    default=256,
    metavar="PX",
    help="Their longer side.  [default: 256]",
)
@click.option(
    "--limit",
    type=click.IntRange(1, 100_000),
    default=10_000,
    metavar="N",
    help="Rows in the gallery at most; the figures count all.  [default: 10000]",
)
@click.option("--inline", is_flag=True, help="Thumbnails inside the page, for one file to send.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def report(
    directory: str, *, output: str | None, pixels: int, limit: int, inline: bool, as_json: bool, quiet: bool
) -> int:
    """
    Make one offline page of the run in DIR: a gallery to search and judge in, and charts; also while it runs.

    Thumbnails go beside the page and are used again by the next call. Where there are more rows than --limit,
    failures are shown first, up to half of it, then the manifest's first rows.
    """
    from batchgen.cli import reporting  # noqa: PLC0415

    return reporting.tell(
        directory, output, pixels=pixels, limit=limit, inline=inline, as_json=as_json, quiet=quiet
    )


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
@click.option(
    "--quota-headers",
    type=click.Choice(["none", "openai", "ietf"]),
    default="none",
    help="How answers say what these limits are and how much is left.  [default: none]",
)
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


@commands.command(context_settings=_CONTEXT, epilog=examples.COMPLETION)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), metavar="bash|zsh|fish")
def completion(shell: str) -> int:
    """Print what completes batchgen's commands, flags, providers and models in a shell."""
    from click.shell_completion import get_completion_class  # noqa: PLC0415

    from batchgen.cli.saying import say  # noqa: PLC0415

    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"click knows no completion for {shell}")
    say(found(commands, {}, "batchgen", "_BATCHGEN_COMPLETE").source())
    return 0
