"""
What can be typed, and what does the exit status say?

Only this package prints or exits. Nothing heavier than click is imported before a command needs it, so that
`--help` and completion are instant.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from contextlib import suppress
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

import click
from click.core import ParameterSource

from batchgen.cli.terminal import complaint, json_text, printable
from batchgen.credentials import ADVICE, MISPLACED
from batchgen.errors import BatchgenError, StorageError
from batchgen.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

_SECRETS = ("KEY", "TOKEN", "SECRET", "PASSWORD")
"""How the names of variables end whose values are nobody's business."""

_EXAMPLES = """
\b
Examples:
  batchgen run jobs/sample.toml                 24 pictures from the simulator, no key needed
  batchgen run prompts.csv -o runs/tonight      buy what is missing; the same command resumes
  batchgen status runs/tonight                  how far, how much, from any terminal
  batchgen verify runs/tonight                  is every picture there, and as it was bought?
  batchgen models                               what there is, and what it costs
  batchgen simulate --port 8080                 the endpoint itself, offline, for any client
"""

_RUN_EXAMPLES = """
\b
Examples:
  batchgen run jobs/sample.toml
  batchgen run prompts.csv -o runs/tonight -c 32 --rpm 900 --budget 50
  batchgen run products.parquet --template "A studio photo of {product} on {background}" --variants 2
  batchgen run prompts.csv --column prompt=Caption --column id=sku --name "{category}/{id}"
  batchgen run prompts.csv --base-url http://127.0.0.1:8080/v1 -m gemini-3-pro-image-preview
  zcat prompts.csv.gz | batchgen run - -o runs/tonight

\b
The same command again resumes: it buys only what is missing. What says what to buy and how is also a
key of a job file and an environment variable (--rpm, rpm, BATCHGEN_RPM); flags go before the environment,
the environment before the job file. The API key is read from --key-file, else from BATCHGEN_API_KEY or
the provider's own variable.

\b
Exit status: 0 every task it was about succeeded; 1 finished, some did not; 2 bad input, nothing sent;
3 stopped and resumable (budget, account, quota, disk, too many failures);
130/143 drained after a signal; 70 a defect.
"""

_STATUS_EXAMPLES = """
\b
Examples:
  batchgen status runs/tonight
  batchgen status runs/tonight --json | jq .cost_usd
"""

_VERIFY_EXAMPLES = """
\b
Examples:
  batchgen verify runs/tonight
  batchgen verify runs/tonight --check quick    hashes and structure, without decoding
  batchgen verify runs/tonight --repair         names, account and table put right; nothing is bought
  batchgen verify runs/tonight --json | jq .problems

\b
Exit status: 0 all is well, or is now; 1 there are problems, or some are left; 2 no run directory, a ledger
that cannot be read, or (with --repair) a run at work.
"""

_SIMULATE_EXAMPLES = """
\b
Examples:
  batchgen simulate --port 8080
  batchgen simulate --port 8080 --rpm 60 --fault overloaded=0.05 --fault refusal=0.02 --seed 7
  batchgen simulate --port 8080 --no-chat-pictures     what Google's own chat endpoint does
  BATCHGEN_API_KEY=any batchgen run p.csv --provider core-today --base-url http://127.0.0.1:8080/v1
"""


def _complete_provider(_: click.Context, __: click.Parameter, typed: str) -> list[str]:
    from batchgen import providers  # noqa: PLC0415  completion pays for it, --help does not

    return [name for name in providers.catalogue() if name.startswith(typed)]


def _complete_model(_: click.Context, __: click.Parameter, typed: str) -> list[str]:
    from batchgen import providers  # noqa: PLC0415

    known = {model.id for provider in providers.catalogue().values() for model in provider.models}
    return sorted(name for name in known if name.startswith(typed))


def _pairs(_: click.Context, parameter: click.Parameter, given: Sequence[str]) -> dict[str, str]:
    for pair in given:
        if "=" not in pair or pair.startswith("="):
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE", param=parameter)
    return dict(pair.split("=", 1) for pair in given)


class Call(NamedTuple):
    """What somebody typed, and what no answer to it may show."""

    typed: list[str]
    keys: set[str]


@click.group(context_settings=_CONTEXT, epilog=_EXAMPLES)
@click.version_option(__version__, "-V", "--version", message="batchgen %(version)s")
def commands() -> None:
    """
    A table of prompts in, a table of images out.

    Every row is accounted for to the last token, nothing already paid for is bought again, and the run
    never spends more than it was allowed.
    """


@commands.command(context_settings={**_CONTEXT, "auto_envvar_prefix": "BATCHGEN"}, epilog=_RUN_EXAMPLES)
@click.argument("source", metavar="SOURCE")
@click.option("-o", "--output", metavar="DIR", help="The run directory.  [default: runs/<name of SOURCE>]")
@click.option(
    "--provider",
    metavar="NAME",
    shell_complete=_complete_provider,
    help="Where pictures come from; see `batchgen models`.  [default: core-today]",
)
@click.option("--base-url", metavar="URL", help="Another endpoint; the URL ends before /chat/completions.")
@click.option(
    "--key-file", metavar="FILE", help="A file with the API key alone in it, closed to others (mode 0600)."
)
@click.option("--allow-http", is_flag=True, help="Let key and prompts travel unencrypted to another machine.")
@click.option("--dialect", metavar="NAME", help="The wire format.  [default: the provider's own]")
@click.option(
    "-m",
    "--model",
    metavar="NAME",
    shell_complete=_complete_model,
    help="An id or alias.  [default: gemini-3.1-flash-image-preview]",
)
@click.option("-c", "--concurrency", type=int, metavar="N", help="Requests in flight at most.  [default: 8]")
@click.option("--rpm", type=float, metavar="N", help="Requests a minute, paced, never passed.")
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
    callback=_pairs,
    help="Where the manifest has another name: prompt=Caption. Repeatable.",
)
@click.option("--variants", type=int, metavar="N", help="Pictures a row.  [default: 1]")
@click.option("--name", metavar="T", help='File names from columns: "{category}/{id}".  [default: {id}]')
@click.option("--system", metavar="TEXT", help="System prompt for rows without one.")
@click.option("--temperature", type=float, metavar="X", help="0 to 2, for rows without one.")
@click.option("--top-p", type=float, metavar="X", help="0 to 1, for rows without one.")
@click.option("--max-tokens", type=int, metavar="N", help="Text and picture together, for rows without one.")
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
    stated = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
    given = {name: value for name, value in flags.items() if context.get_parameter_source(name) in stated}
    if os.environ.get("BATCHGEN_API_KEY", "").strip():
        given.setdefault("key_file", None)  # the environment goes before the job file
    if dry_run:
        return running.preview(source, given, as_json=as_json)
    return running.run(
        source, given, typed=call.typed, as_json=as_json, quiet=quiet, verbose=verbose, keys=call.keys
    )


@commands.command(context_settings=_CONTEXT, epilog=_STATUS_EXAMPLES)
@click.argument("directory", metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def status(directory: str, *, as_json: bool) -> int:
    """Say how far the run in DIR is and what it has cost; also while it runs."""
    from batchgen.cli import looking  # noqa: PLC0415

    return looking.status(directory, as_json=as_json)


@commands.command(context_settings=_CONTEXT, epilog=_VERIFY_EXAMPLES)
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
@click.option("--provider", metavar="NAME", shell_complete=_complete_provider, help="Only this provider's.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def models(*, provider: str | None, as_json: bool) -> int:
    """List the known providers and models with prices, tokens a picture and aliases."""
    from batchgen.cli import looking  # noqa: PLC0415

    return looking.models(provider, as_json=as_json)


@commands.command(context_settings=_CONTEXT, epilog=_SIMULATE_EXAMPLES)
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
    callback=_pairs,
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


def cli(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; the only place where an exception becomes one."""
    # What no message shows, whatever it quotes; a run adds the key it uses.
    keys = {value.strip() for name, value in os.environ.items() if name.upper().endswith(_SECRETS)}
    _open_streams()
    try:
        return _carried_out(Call(sys.argv[1:] if arguments is None else [*arguments], keys))
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                _give_up(stream)


def _carried_out(call: Call) -> int:
    keys = call.keys
    try:
        result = commands.main(args=call.typed, prog_name="batchgen", standalone_mode=False, obj=call)
    except click.ClickException as cause:
        _complain(_usage(cause), keys)
        return cause.exit_code
    except click.Abort:
        return 130
    except BatchgenError as cause:
        _complain(f"batchgen: {cause}", keys)
        return cause.exit_status
    except Exception:  # noqa: BLE001  the boundary: a defect is told as one
        _complain(traceback.format_exc().rstrip(), keys)
        _complain("batchgen: this is a defect; what was bought is in the ledger, please report it", keys)
        return 70
    return int(result or 0)


def _usage(cause: click.ClickException) -> str:
    if isinstance(cause, click.NoSuchOption):
        name = cause.option_name.lstrip("-").lower().replace("-", "_")
        if name in MISPLACED:
            return f"batchgen: {cause.option_name}: the command line is seen by every process; {ADVICE}"
    shown = io.StringIO()
    cause.show(shown)
    return shown.getvalue().rstrip()


def _open_streams() -> None:
    """
    Put something where a standard stream was closed.

    Else the next file that is opened takes its place: the ledger, with messages written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    # Python has left out the streams that were closed when it started.
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _complain(text: str, keys: set[str]) -> None:
    """Put a message on standard error, if anyone is left to read it."""
    with suppress(OSError):
        click.echo(complaint(text, keys), err=True)


def _give_up(stream: TextIO) -> None:
    """Nobody can be told any more; the interpreter would try once more when it leaves, and say so."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def say(text: str) -> None:
    """
    Put a result on standard output; whoever has stopped reading does not change how a run ended.

    :raises StorageError: it is a file that cannot be written.
    """
    encoding = sys.stdout.encoding or "utf-8"
    try:
        # A terminal of another encoding shows what it can.
        click.echo(printable(text).encode(encoding, "backslashreplace").decode(encoding))
    except OSError as cause:
        if cause.errno not in {errno.EPIPE, errno.EIO}:
            raise StorageError(
                f"standard output: {cause.strerror}; `batchgen status` tells how far a run is"
            ) from cause


def say_json(value: object) -> None:
    """Put one JSON object on standard output; money as strings."""
    import msgspec  # noqa: PLC0415

    encoded = msgspec.json.encode(_plain(msgspec.to_builtins(value, builtin_types=(Decimal,))))
    say(json_text(encoded.decode()))


def _plain(value: object) -> object:
    """Write decimals in full: nobody wants to read 0E-9."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return f"{value:f}" if isinstance(value, Decimal) else value


__all__ = ["cli", "commands", "say", "say_json"]
