"""The `mfd` command."""

from __future__ import annotations

import json
import logging
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
from rich.table import Table

from mfd_flower.checks import ConfigError
from mfd_flower.comparison import (
    Comparison,
    comparison_from_tables,
    load_comparison,
    read_toml,
)
from mfd_flower.config import RunConfig
from mfd_flower.ledger.commands import ledger_app

app = typer.Typer(
    help="Send the model to the data: run, compare and plan MFD walks and federated learning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(ledger_app, name="ledger")
out_console = Console()
if not out_console.is_terminal:
    # In a pipe rich assumes 80 columns, which is too few for the tables.
    out_console = Console(width=120)
err_console = Console(stderr=True)
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def main() -> None:
    """Run the command; bad input is one line and exit status 2, a failed run is status 1."""
    warnings.filterwarnings("ignore")
    logging.getLogger("flwr").setLevel(logging.ERROR)
    try:
        app(standalone_mode=True)
    except ConfigError as error:
        err_console.print(f"mfd: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        line = str(error).strip().splitlines()[-1] if str(error).strip() else ""
        message = f"mfd: failed: {type(error).__name__}: {line}"
        err_console.print(message, markup=False, highlight=False, soft_wrap=True)
        if os.environ.get("MFD_DEBUG"):
            raise
        sys.exit(1)


@app.command(epilog="Example: mfd compare experiments/compare.toml --out out/demo")
def compare(
    config: Annotated[Path, typer.Argument(help="Comparison, a TOML file.")],
    out: Annotated[Path, typer.Option(help="Folder for results and report.")],
    resume: Annotated[bool, typer.Option(help="Go on where an earlier start ended.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace other results in the folder.")] = False,
    jobs: Annotated[int, typer.Option(min=0, help="Runs side by side; 0 is one a core.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Run every strategy of a comparison on the same data and seeds, and report."""
    _run(load_comparison(config), out, resume, overwrite, jobs, as_json)


@app.command(epilog="Example: mfd run mfd-walk --config experiments/compare.toml --out out/walk")
def run(
    strategy: Annotated[str, typer.Argument(help="Short name or package.module:Class.")],
    config: Annotated[Path, typer.Option(help="Settings, a TOML file of a comparison.")],
    out: Annotated[Path, typer.Option(help="Folder for results and report.")],
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds or tours.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on where an earlier start ended.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace other results in the folder.")] = False,
    jobs: Annotated[int, typer.Option(min=0, help="Runs side by side; 0 is one a core.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Run one strategy on the data, scenarios and seeds of a config.

    Where the config lists the strategy, its first entry's settings are used.
    """
    tables = read_toml(config)
    entries = [e for e in tables.get("strategies", []) if e.get("strategy") == strategy]
    entry = dict(entries[0]) if entries else {"strategy": strategy}
    if rounds is not None:
        entry["rounds"] = rounds
    comparison = comparison_from_tables({**tables, "strategies": [entry]}, config.stem)
    _run(comparison, out, resume, overwrite, jobs, as_json)


@app.command(epilog="Example: mfd reproduce compare")
def reproduce(
    name: Annotated[str, typer.Argument(help="A file of experiments/, without .toml.")],
    out: Annotated[Path | None, typer.Option(help="Folder; out/NAME without it.")] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Runs side by side; 0 is one a core.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Measure an experiment of this repository again; goes on where it was stopped."""
    known = sorted(file.stem for file in Path("experiments").glob("*.toml"))
    if name not in known:
        accepted = f"accepted here: {', '.join(known) or 'nothing; no folder experiments'}"
        raise ConfigError("NAME", name, accepted)
    comparison = load_comparison(Path("experiments") / f"{name}.toml")
    _run(comparison, out or Path("out") / name, True, False, jobs, as_json)


def _run(
    comparison: Comparison, out: Path, resume: bool, overwrite: bool, jobs: int, as_json: bool
) -> None:
    from mfd_flower.report.progress import watch
    from mfd_flower.report.report import write_report
    from mfd_flower.report.tables import summary_tables
    from mfd_flower.runtime.compare import check, open_results, run_comparison

    check(comparison)
    results = open_results(out, comparison, resume=resume, overwrite=overwrite)
    missing = len(comparison.runs) - len(results["runs"])
    if missing:
        try:
            with watch(err_console, comparison, len(results["runs"])) as watcher:
                run_comparison(comparison, out, results, watcher, jobs or None)
        except KeyboardInterrupt:
            done = len(results["runs"])
            err_console.print(
                f"mfd: stopped; {done} of {len(comparison.runs)} runs are kept in {out},"
                " the same command with --resume goes on",
                markup=False,
            )
            raise typer.Exit(130) from None
    report = write_report(out, results)
    if as_json:
        print(json.dumps(results["summary"], indent=1))
        return
    for table in summary_tables(results["summary"]):
        out_console.print(table)
    out_console.print(f"report: {report}", markup=False, highlight=False, soft_wrap=True)


@app.command(epilog="Example: mfd report out/demo")
def report(
    folder: Annotated[Path, typer.Argument(help="Folder with results.json.")],
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write tables, plots and report.html again from results.json."""
    from mfd_flower.report.report import write_report
    from mfd_flower.report.tables import markdown, summary_tables
    from mfd_flower.runtime.compare import read_results

    results = read_results(folder)
    path = write_report(folder, results)
    if as_json:
        print(json.dumps(results["summary"], indent=1))
        return
    if as_markdown:
        print(markdown(results["summary"]), end="")
        return
    for table in summary_tables(results["summary"]):
        out_console.print(table)
    out_console.print(f"report: {path}", markup=False, highlight=False, soft_wrap=True)


@app.command(epilog="Example: mfd plan --params 7e9 --bytes-per-param 2 --nodes 10 --rounds 100")
def plan(
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
    from mfd_flower.report.tables import megabytes

    if not params >= 1:
        raise ConfigError("--params", params, "must be at least 1")
    found = closed_forms(
        params=params,
        bytes_per_param=bytes_per_param,
        nodes=nodes,
        rounds=rounds,
        dim=dim,
        layers=layers,
        tokens=tokens,
        prompts=prompts,
        lora_rank=lora_rank,
        classes=classes,
        samples=samples,
        cuts=cuts,
    ).as_dict()
    if as_json:
        print(json.dumps(found))
        return
    few = f"{found.pop('crossover_samples'):.4g} samples a node and round"
    table = Table(
        "way of learning",
        "payload",
        "against FedAvg, full model",
        caption=f"split sends less than FedAvg of the full model below {few}",
    )
    for name, size in found.items():
        share = f"{size / found['fedavg_bytes']:.2g}"
        table.add_row(name.removesuffix("_bytes").replace("_", " "), megabytes(size), share)
    out_console.print(table)


@app.command(epilog="Example: mfd infer experiments/hfsl.toml --samples 100")
def infer(
    config: Annotated[Path, typer.Argument(help="Settings, a TOML file of a comparison.")],
    strategy: Annotated[str, typer.Option(help="One that serves; its first entry is used.")] = (
        "hfsl"
    ),
    samples: Annotated[int, typer.Option(help="Held-out samples in the request.")] = 100,
    tunables: Annotated[
        Path | None, typer.Option(help="Safetensors file; without it they are trained first.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Write the tunables to this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Let a cluster answer a node's request by split inference, and say what it costs."""
    from mfd_flower.data import load_federation
    from mfd_flower.report.tables import megabytes
    from mfd_flower.runtime.inference import read_tunables, save_tunables, train_then_serve

    tables = read_toml(config)
    entries = [e for e in tables.get("strategies", []) if e.get("strategy") == strategy]
    entry = {**(entries[0] if entries else {"strategy": strategy})}
    entry.pop("only", None)
    chosen = comparison_from_tables({**tables, "strategies": [entry]}, config.stem).runs[0].config
    num_classes = load_federation(chosen.data, chosen.seed).num_classes
    tensors = read_tunables(tunables, chosen, num_classes) if tunables else None
    rounds = chosen.strategy.rounds

    def on_round(number: int) -> None:
        err_console.print(f"training: round {number} of {rounds}", highlight=False)

    served, tensors = train_then_serve(chosen, samples, tensors, on_round)
    if save:
        save_tunables(save, tensors)
    if as_json:
        print(json.dumps([each.as_dict() for each in served], indent=1))
        return
    table = Table(
        "delivered", "bytes", "in", "accuracy", "latency", "samples/s", "links", "peak a node"
    )
    for each in served:
        table.add_row(
            each.shipped,
            megabytes(each.shipped_bytes),
            f"{each.delivery_s:.3g} s",
            f"{each.accuracy:.3f}",
            f"{each.latency_s:.3g} s",
            f"{each.samples_per_s:.3g}",
            megabytes(sum(each.request_bytes.values())),
            megabytes(each.peak_node_bytes),
        )
    out_console.print(table)


@app.command(epilog="Example: mfd strategies --json")
def strategies(as_json: JsonOption = False) -> None:
    """List what can be run, with parameters and defaults read from the classes."""
    from mfd_flower.strategy import find_strategy, parameters_of, short_names

    found: dict[str, dict[str, Any]] = {}
    for name in short_names():
        strategy = find_strategy(name)
        parameters = {k: v if _plain(v) else str(v) for k, v in parameters_of(strategy).items()}
        summary = (strategy.__doc__ or "").strip().splitlines()[0]
        found[name] = {"summary": summary, "parameters": parameters}
    if as_json:
        print(json.dumps(found, indent=1))
        return
    table = Table("strategy", "what it is", "parameters (default)")
    for name, entry in found.items():
        words = ", ".join(f"{k}={v}" for k, v in entry["parameters"].items())
        table.add_row(name, str(entry["summary"]), words)
    out_console.print(table)
    out_console.print("Any flwr strategy runs too: mfd run flwr.serverapp.strategy:FedAdam ...")


@app.command(
    epilog="Example: mfd data mnist5k --nodes 10 --partition dirichlet --alpha 0.5 --out out/data"
)
def data(
    name: Annotated[str, typer.Argument(help="mnist5k, digits, fashion-mnist, ...")],
    nodes: Annotated[int, typer.Option(help="Nodes that share the data.")] = 10,
    partition: Annotated[str, typer.Option(help="iid, dirichlet or classes.")] = "iid",
    alpha: Annotated[float, typer.Option(help="Dirichlet concentration.")] = 0.5,
    classes: Annotated[int, typer.Option(help="Classes a node holds.")] = 2,
    train_samples: Annotated[int, typer.Option(help="0 takes all.")] = 0,
    test_samples: Annotated[int, typer.Option(help="Held out.")] = 1000,
    path: Annotated[str, typer.Option(help="Folder of the files.")] = "",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[Path, typer.Option(help="Folder for partition.png and .svg.")] = Path(
        "out/data"
    ),
    as_json: JsonOption = False,
) -> None:
    """Show who holds which labels."""
    from mfd_flower.data import load_federation
    from mfd_flower.report.plots import plot_partition
    from mfd_flower.report.tables import partition_table

    settings = {
        "name": name,
        "path": path,
        "nodes": nodes,
        "partition": partition,
        "alpha": alpha,
        "classes": classes,
        "train_samples": train_samples,
        "test_samples": test_samples,
    }
    config = RunConfig.from_tables({"data": settings}).data
    federation = load_federation(config, seed)
    counts = [federation.label_counts(node).tolist() for node in range(nodes)]
    if as_json:
        print(json.dumps({"classes": federation.images.classes, "counts": counts}))
    else:
        out_console.print(partition_table(federation.images.classes, counts))
    for file in plot_partition(out, federation.images.classes, counts):
        err_console.print(f"plot: {file}", markup=False, highlight=False, soft_wrap=True)


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


if __name__ == "__main__":
    main()
