"""The `mfd` command."""

from __future__ import annotations

import functools
import io
import json
import logging
import math
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

# Before anything imports Flower: neither is asked of a command line tool.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

import typer
from rich.console import Console

from mfd_flower.checks import ConfigError
from mfd_flower.comparison import Comparison, load_comparison
from mfd_flower.config import RunConfig
from mfd_flower.files import to_json
from mfd_flower.ledger.commands import ledger_app
from mfd_flower.results import Results, reason_of

app = typer.Typer(
    help="Send the model to the data: run, compare and plan MFD walks and federated learning.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(ledger_app, name="ledger")
out_console = Console()
if not out_console.is_terminal:
    # In a pipe rich assumes 80 columns, which is too few for the tables.
    out_console = Console(width=120)
err_console = Console(stderr=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
ConfigPath = Annotated[Path, typer.Argument(help="Comparison, a TOML file.")]
OutOption = Annotated[Path, typer.Option(help="Folder for results and report.")]
ResumeOption = Annotated[bool, typer.Option(help="Go on where an earlier start ended.")]
OverwriteOption = Annotated[bool, typer.Option(help="Replace other results in the folder.")]
JobsOption = Annotated[int, typer.Option(min=0, help="Runs side by side; 0 is one a core.")]


def main() -> None:
    """Run the command; bad input is one line and exit status 2, a failed run is status 1."""
    warnings.filterwarnings("ignore")
    for stream in (sys.stdout, sys.stderr):
        # What a terminal's encoding lacks is replaced, and not the end of the command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    # Not by its level, which Flower sets when it is imported.
    logging.getLogger("flwr").addFilter(lambda record: record.levelno >= logging.ERROR)
    try:
        app(standalone_mode=True)
    except ConfigError as error:
        _say(f"mfd: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        _say(f"mfd: failed: {type(error).__name__}: {reason_of(error)}")
        if os.environ.get("MFD_DEBUG"):
            raise
        sys.exit(1)


def _say(line: str, console: Console = err_console) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


@app.command(epilog="Example: mfd compare experiments/compare.toml --out out/demo")
def compare(
    config: ConfigPath,
    out: OutOption,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    jobs: JobsOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Run every strategy of a comparison on the same data and seeds, and report."""
    _measure(load_comparison(config), out, jobs, as_json, resume, overwrite)


@app.command(epilog="Example: mfd run mfd-walk --config experiments/compare.toml --out out/walk")
def run(
    strategy: Annotated[str, typer.Argument(help="Short name or package.module:Class.")],
    config: Annotated[Path, typer.Option(help="Settings, a TOML file of a comparison.")],
    out: OutOption,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds or tours.")] = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    jobs: JobsOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Run one strategy on the data, scenarios and seeds of a config.

    Where the config lists the strategy, its first entry's settings are used.
    """
    _measure(load_comparison(config, strategy, rounds), out, jobs, as_json, resume, overwrite)


@app.command(epilog="Example: mfd reproduce compare")
def reproduce(
    name: Annotated[str, typer.Argument(help="A file of experiments/, without .toml.")],
    out: Annotated[Path | None, typer.Option(help="Folder; out/NAME without it.")] = None,
    jobs: JobsOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Measure an experiment of this repository again; goes on where it was stopped."""
    known = sorted(file.stem for file in Path("experiments").glob("*.toml"))
    if name not in known:
        accepted = f"accepted here: {', '.join(known) or 'nothing; no folder experiments'}"
        raise ConfigError("NAME", name, accepted)
    comparison = load_comparison(Path("experiments") / f"{name}.toml")
    _measure(comparison, out or Path("out") / name, jobs, as_json, resume=True, overwrite=False)


def _measure(
    comparison: Comparison, out: Path, jobs: int, as_json: bool, resume: bool, overwrite: bool
) -> None:
    from mfd_flower.report.progress import watch
    from mfd_flower.runtime.compare import compare

    shown = functools.partial(watch, err_console)
    try:
        results = compare(
            comparison, out, jobs=jobs or None, resume=resume, overwrite=overwrite, watch=shown
        )
    except KeyboardInterrupt as stop:
        _say(f"mfd: stopped; {stop}, the same command with --resume goes on")
        raise typer.Exit(130) from None
    _report(out, results, as_json)


@app.command(epilog="Example: mfd report out/demo")
def report(
    folder: Annotated[Path, typer.Argument(help="Folder with results.json.")],
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write tables, plots and report.html again from results.json."""
    _report(folder, Results.load(folder), as_json, as_markdown)


def _report(folder: Path, results: Results, as_json: bool, as_markdown: bool = False) -> None:
    from mfd_flower.report.page import write_report
    from mfd_flower.report.tables import markdown, summary_tables

    page = write_report(folder, results)
    if as_json:
        print(to_json(results.summary))
    elif as_markdown:
        print(markdown(results.summary), end="")
    else:
        for table in summary_tables(results.summary):
            out_console.print(table)
        _say(f"report: {page}", out_console)


@app.command(epilog="Example: mfd plan --params 7e9 --bytes-per-param 2 --nodes 10 --rounds 100")
def plan(
    ctx: typer.Context,
    params: Annotated[float, typer.Option(help="Parameters of the full model.")] = 86e6,
    bytes_per_param: Annotated[int, typer.Option(min=1, help="Bytes of a number.")] = 4,
    nodes: Annotated[int, typer.Option(min=1)] = 10,
    rounds: Annotated[int, typer.Option(min=1)] = 100,
    dim: Annotated[int, typer.Option(min=1, help="Width of the transformer.")] = 768,
    layers: Annotated[int, typer.Option(min=1, help="Blocks.")] = 12,
    tokens: Annotated[int, typer.Option(min=1, help="Class token and patches.")] = 197,
    prompts: Annotated[int, typer.Option(min=0, help="Prompts before every block.")] = 8,
    lora_rank: Annotated[int, typer.Option(min=1, help="Rank of the qkv factors.")] = 4,
    classes: Annotated[int, typer.Option(min=2)] = 10,
    samples: Annotated[int, typer.Option(min=1, help="Samples a node and round.")] = 100,
    cuts: Annotated[int, typer.Option(min=1, help="Cuts of split learning.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Say what each way of learning would send, by closed form."""
    from mfd_flower.accounting.plan import plan as closed_forms
    from mfd_flower.report.tables import plan_table

    if not 1 <= params < math.inf:
        raise ConfigError("--params", params, "must be finite and at least 1")
    sizes = {name: value for name, value in ctx.params.items() if name != "as_json"}
    found = vars(closed_forms(**sizes))
    if as_json:
        print(json.dumps(found))
    else:
        out_console.print(plan_table(found))


@app.command(epilog="Example: mfd infer experiments/hfsl.toml --samples 100")
def infer(
    config: ConfigPath,
    strategy: Annotated[str, typer.Option(help="One that serves; its first entry.")] = "hfsl",
    samples: Annotated[int, typer.Option(help="Held-out samples in the request.")] = 100,
    tunables: Annotated[Path | None, typer.Option(help="A safetensors file; else trained.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write the tunables to this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Let a cluster answer a node's request by split inference, and say what it costs."""
    from mfd_flower.data import load_federation
    from mfd_flower.report.columns import SERVED
    from mfd_flower.report.tables import plain_table
    from mfd_flower.runtime.inference import read_tunables, save_tunables, train_then_serve

    chosen = load_comparison(config, strategy).runs[0].config
    num_classes = load_federation(chosen.data, chosen.seed).num_classes
    tensors = read_tunables(tunables, chosen, num_classes) if tunables else None

    def on_round(number: int) -> None:
        _say(f"training: round {number} of {chosen.strategy.rounds}")

    served, tensors = train_then_serve(chosen, samples, tensors, on_round)
    if save:
        save_tunables(save, tensors)
    found = [vars(each) for each in served]
    if as_json:
        print(to_json(found))
    else:
        out_console.print(plain_table(SERVED, found))


@app.command(epilog="Example: mfd strategies --json")
def strategies(as_json: JsonOption = False) -> None:
    """List the strategies that are found here, with their options."""
    from flwr.serverapp.strategy import Strategy

    _list("strategy", Strategy, as_json)
    if not as_json:
        out_console.print("Any flwr strategy runs too: mfd run flwr.serverapp.strategy:FedAdam ...")


@app.command(epilog="Example: mfd traits --json")
def traits(as_json: JsonOption = False) -> None:
    """List the traits of a walk that are found here, with their options."""
    from mfd_flower.walk.trait import Trait

    _list("trait", Trait, as_json)


def _list(kind: str, base: type, as_json: bool) -> None:
    from mfd_flower.finding import find, sources
    from mfd_flower.parameters import parameters_of, rows
    from mfd_flower.report.tables import option_table

    entries: dict[str, dict[str, Any]] = {}
    for name, source in sources(kind).items():
        try:
            cls = find(kind, name, base).cls
        except ConfigError as error:
            # One file that is broken does not hide the others.
            entries[name] = {"from": source.origin, "error": str(error)}
            continue
        summary = (cls.__doc__ or "").strip().partition("\n")[0]
        entries[name] = {"summary": summary, "from": source.origin, "options": parameters_of(cls)}
    if as_json:
        print(json.dumps(entries, indent=1))
        return
    for name, entry in entries.items():
        title = f"{name} ({entry['from']}): {entry.get('error') or entry['summary']}"
        out_console.print(title, markup=False)
        if found := list(rows(entry.get("options", {}))):
            out_console.print(option_table(found))


@app.command(epilog="Example: mfd data mnist5k --partition dirichlet --alpha 0.5 --out out/data")
def data(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="mnist5k, digits, fashion-mnist, ...")],
    nodes: Annotated[int, typer.Option(help="Nodes that share the data.")] = 10,
    partition: Annotated[str, typer.Option(help="iid, dirichlet or classes.")] = "iid",
    alpha: Annotated[float, typer.Option(help="Dirichlet concentration.")] = 0.5,
    classes: Annotated[int, typer.Option(help="Classes a node holds.")] = 2,
    train_samples: Annotated[int, typer.Option(help="0 takes all.")] = 0,
    test_samples: Annotated[int, typer.Option(help="Held out.")] = 1000,
    path: Annotated[str, typer.Option(help="Folder of the files.")] = "",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[Path, typer.Option(help="Folder for partition.png, .svg.")] = Path("out/data"),
    as_json: JsonOption = False,
) -> None:
    """Show who holds which labels."""
    from mfd_flower.data import load_federation
    from mfd_flower.report.plots import plot_partition, save
    from mfd_flower.report.tables import partition_table

    own = ("seed", "out", "as_json")
    settings = {name: value for name, value in ctx.params.items() if name not in own}
    federation = load_federation(RunConfig.from_tables({"data": settings}).data, seed)
    counts = [federation.label_counts(node).tolist() for node in range(nodes)]
    if as_json:
        print(json.dumps({"classes": federation.images.classes, "counts": counts}))
    else:
        out_console.print(partition_table(federation.images.classes, counts))
    for file in save(plot_partition(federation.images.classes, counts), out / "partition"):
        _say(f"plot: {file}")


if __name__ == "__main__":
    main()
