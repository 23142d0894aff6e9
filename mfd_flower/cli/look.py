"""Commands that show what is there: plans, strategies, traits, models, data."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from mfd_flower.checks import ConfigError
from mfd_flower.cli.screen import JsonOption, out_console, say
from mfd_flower.config import RunConfig

look_app = typer.Typer()


@look_app.command(
    epilog="Example: mfd plan --params 7e9 --bytes-per-param 2 --nodes 10 --rounds 100"
)
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


@look_app.command(epilog="Example: mfd strategies --json")
def strategies(as_json: JsonOption = False) -> None:
    """List the strategies that are found here, with their options."""
    from flwr.serverapp.strategy import Strategy

    _list("strategy", Strategy, as_json)
    if not as_json:
        out_console.print("Any flwr strategy runs too: mfd run flwr.serverapp.strategy:FedAdam ...")


@look_app.command(epilog="Example: mfd traits --json")
def traits(as_json: JsonOption = False) -> None:
    """List the traits of a walk that are found here, with their options."""
    from mfd_flower.walk.trait import Trait

    _list("trait", Trait, as_json)


@look_app.command(epilog="Example: mfd models --json")
def models(
    as_json: JsonOption = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """List the architectures of timm that were measured, what works with each, or why not."""
    from rich.table import Table

    from mfd_flower.models import tested

    if as_json:
        print(json.dumps(tested.tested(), indent=1))
    elif as_markdown:
        print(tested.markdown(), end="")
    else:
        rows = [tested.cells(row) for row in tested.tested()["rows"]]
        table = Table(*tested.HEADINGS[:-1])
        for row in rows:
            table.add_row(*row[:-1])
        out_console.print(table)
        for name, *_, reason in rows:
            if reason:
                say(f"{name}: {reason}", out_console)
        say("Others of timm's VisionTransformer, Eva and Beit are accepted too.", out_console)


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


@look_app.command(
    epilog="Example: mfd data mnist5k --partition dirichlet --alpha 0.5 --out out/data"
)
def data(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="mnist5k, folder:PATH, csv:PATH, ...")],
    nodes: Annotated[int, typer.Option(help="Nodes that share the data.")] = 10,
    partition: Annotated[
        str, typer.Option(help="iid, dirichlet, classes, tasks, by-client.")
    ] = "iid",
    alpha: Annotated[float, typer.Option(help="Dirichlet concentration.")] = 0.5,
    classes: Annotated[int, typer.Option(help="Classes a node holds.")] = 2,
    train_samples: Annotated[int, typer.Option(help="0 takes all.")] = 0,
    test_samples: Annotated[int, typer.Option(help="Held out.")] = 1000,
    path: Annotated[str, typer.Option(help="Folder of the files.")] = "",
    options: Annotated[str, typer.Option(help="Of a set that is computed, as JSON.")] = "{}",
    strict: Annotated[bool, typer.Option(help="Refuse unreadable pictures.")] = False,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[Path, typer.Option(help="Folder for partition.png, .svg.")] = Path("out/data"),
    as_json: JsonOption = False,
) -> None:
    """Show who holds which labels, and which pictures cannot be read."""
    from mfd_flower.data import load_federation
    from mfd_flower.report.plots import plot_partition, save
    from mfd_flower.report.tables import partition_table

    own = ("seed", "out", "as_json")
    settings = {name: value for name, value in ctx.params.items() if name not in own}
    settings["validation"] = 0.0  # A node has what it holds out, too.
    federation = load_federation(RunConfig.from_tables({"data": settings}).data, seed)
    names = federation.images.classes
    counts = [federation.label_counts(node).tolist() for node in range(nodes)]
    if as_json:
        found = {
            "classes": names,
            "counts": counts,
            "test_counts": federation.test_label_counts().tolist(),
            "clients": federation.clients,
            "unreadable": [vars(picture) for picture in federation.images.unreadable],
            "notes": federation.notes,
        }
        print(json.dumps(found))
    else:
        holders = [*federation.holders, "test set"]
        rows = [*counts, federation.test_label_counts().tolist()]
        out_console.print(partition_table(names, holders, rows))
        for note in federation.notes:
            say(f"note: {note}")
    for file in save(plot_partition(names, federation.holders, counts), out / "partition"):
        say(f"plot: {file}")
