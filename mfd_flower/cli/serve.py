"""Commands that use a trained model."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mfd_flower.checks import ConfigError
from mfd_flower.cli.screen import ConfigPath, JsonOption, out_console, say
from mfd_flower.comparison import load_comparison
from mfd_flower.files import to_json, writable, write_text

serve_app = typer.Typer()

PICTURES = "Files, folders or patterns such as 'new/*.jpg'."
TopOption = Annotated[int, typer.Option("--top-k", min=1, help="Classes a picture.")]
CsvOption = Annotated[Path | None, typer.Option("--csv", help="Write a table to this file.")]
SheetOption = Annotated[Path | None, typer.Option("--sheet", help="Write a contact sheet, PNG.")]


@serve_app.command(
    epilog="Example: mfd predict out/walk/models/0-mfd-walk-seed-0-best.safetensors pictures/"
)
def predict(
    model: Annotated[Path, typer.Argument(help="A file below the models/ of a run's folder.")],
    pictures: Annotated[list[str], typer.Argument(help=PICTURES)],
    top_k: TopOption = 1,
    csv_file: CsvOption = None,
    sheet: SheetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a trained model sees on pictures; status 1 if some of them cannot be read."""
    from mfd_flower.models.model_file import TrainedModel
    from mfd_flower.models.predict import picture_files, predictions

    for option, path in (("--csv", csv_file), ("--sheet", sheet)):
        writable(option, path)
    trained, files = TrainedModel.load(model), picture_files(pictures)
    _tell(list(predictions(trained, files, top_k=top_k)), csv_file, sheet, as_json)


@serve_app.command(epilog="Example: mfd infer experiments/hfsl.toml --samples 100")
def infer(
    config: ConfigPath,
    pictures: Annotated[list[str] | None, typer.Argument(help=PICTURES)] = None,
    strategy: Annotated[str, typer.Option(help="One that serves; its first entry.")] = "hfsl",
    samples: Annotated[int, typer.Option(help="Held-out samples, without pictures.")] = 100,
    model: Annotated[Path | None, typer.Option(help="A model that a run kept; else trained.")] = None,
    save: Annotated[Path | None, typer.Option(help="Keep the trained model in this file.")] = None,
    top_k: TopOption = 1,
    csv_file: CsvOption = None,
    sheet: SheetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a cluster answer a node's request by split inference, and say what it costs.

    The request is about pictures, or about held-out samples.
    """
    from mfd_flower.models.predict import prepared_pictures, ranked
    from mfd_flower.report.columns import SERVED
    from mfd_flower.report.tables import plain_table
    from mfd_flower.split.inference import classes_of, model_of, read_model, train_then_serve

    for option, path in (("--save", save), ("--csv", csv_file), ("--sheet", sheet)):
        writable(option, path)
    chosen = load_comparison(config, strategy).runs[0].config
    classes = classes_of(chosen)
    tensors = read_model(model, chosen, classes) if model else None
    asked = prepared_pictures(pictures, chosen) if pictures else None

    def on_round(number: int) -> None:
        say(f"training: round {number} of {chosen.strategy.rounds}")

    images = asked.images if asked else None
    served, tensors, logits = train_then_serve(chosen, samples, tensors, on_round, images)
    if save:
        model_of(chosen, tensors, classes).save(save)
    found: list[dict[str, Any]] = [vars(each) for each in served]
    if asked is None:
        if as_json:
            print(to_json(found))
        else:
            out_console.print(plain_table(SERVED, found))
        return
    told = ranked(asked, logits, classes, top_k)
    if not as_json:
        out_console.print(plain_table(SERVED, found))
    _tell(told, csv_file, sheet, as_json, {"served": found})
