"""Commands that use a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mfd_flower.cli.screen import ConfigPath, JsonOption, out_console, say
from mfd_flower.comparison import load_comparison
from mfd_flower.files import to_json

serve_app = typer.Typer()


@serve_app.command(epilog="Example: mfd infer experiments/hfsl.toml --samples 100")
def infer(
    config: ConfigPath,
    strategy: Annotated[str, typer.Option(help="One that serves; its first entry.")] = "hfsl",
    samples: Annotated[int, typer.Option(help="Held-out samples in the request.")] = 100,
    tunables: Annotated[Path | None, typer.Option(help="A safetensors file; else trained.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write the tunables to this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Let a cluster answer a node's request by split inference, and say what it costs."""
    from mfd_flower.models.inputs import federation_of
    from mfd_flower.report.columns import SERVED
    from mfd_flower.report.tables import plain_table
    from mfd_flower.runtime.inference import read_tunables, save_tunables, train_then_serve

    chosen = load_comparison(config, strategy).runs[0].config
    num_classes = federation_of(chosen).num_classes
    tensors = read_tunables(tunables, chosen, num_classes) if tunables else None

    def on_round(number: int) -> None:
        say(f"training: round {number} of {chosen.strategy.rounds}")

    served, tensors = train_then_serve(chosen, samples, tensors, on_round)
    if save:
        save_tunables(save, tensors)
    found = [vars(each) for each in served]
    if as_json:
        print(to_json(found))
    else:
        out_console.print(plain_table(SERVED, found))
