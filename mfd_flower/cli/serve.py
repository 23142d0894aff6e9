"""Commands that use a trained model."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mfd_flower.checks import ConfigError
from mfd_flower.cli.screen import ConfigPath, JsonOption, out_console, say
from mfd_flower.comparison import load_comparison
from mfd_flower.files import check_writable, to_json, write_text

if TYPE_CHECKING:
    from mfd_flower.models.predict import Prediction

serve_app = typer.Typer()

PICTURES = "Files, folders or patterns such as 'new/*.jpg'."
TopOption = Annotated[int, typer.Option("--top-k", min=1, help="Classes a picture.")]
CsvOption = Annotated[Path | None, typer.Option("--csv", help="Write a table to this file.")]
SheetOption = Annotated[Path | None, typer.Option("--sheet", help="Write a contact sheet, PNG.")]


@serve_app.command(
    epilog="Example: mfd predict out/walk/models/0-MFD-walk-seed-0-best.safetensors pictures/"
)
def predict(
    model: Annotated[Path, typer.Argument(help="A file below the models/ of a run's folder.")],
    pictures: Annotated[list[str], typer.Argument(help=PICTURES)],
    top_k: TopOption = 1,
    csv_file: CsvOption = None,
    sheet: SheetOption = None,
    accelerator: Annotated[str, typer.Option(help="As train.accelerator of a run.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Say what a trained model sees on pictures; status 1 if some of them cannot be read."""
    from mfd_flower.models.model_file import TrainedModel
    from mfd_flower.models.predict import picture_files, predict

    for option, path in (("--csv", csv_file), ("--sheet", sheet)):
        check_writable(option, path)
    trained = TrainedModel.load(model)
    files = _checked(picture_files(pictures), sheet)
    found = predict(trained, files, top_k=top_k, accelerator=accelerator)
    _tell(found, csv_file, sheet, as_json)


@serve_app.command(
    epilog="Example: mfd export out/walk/models/0-MFD-walk-seed-0-best.safetensors --out my-model"
)
def export(
    model: Annotated[Path, typer.Argument(help="A file of DIR/models.")],
    out: Annotated[Path, typer.Option(help="Folder to make; empty or not there yet.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Write model.onnx too.")] = False,
) -> None:
    """Write a trained model as files that timm and peft read alone, with a model card."""
    from mfd_flower.models.export import export as write

    folder = write(model, out, onnx=onnx)
    for path in sorted(folder.iterdir()):
        say(f"{path} ({path.stat().st_size:,} bytes)", out_console)


@serve_app.command(epilog="Example: mfd infer experiments/hfsl.toml --samples 100")
def infer(
    config: ConfigPath,
    pictures: Annotated[list[str] | None, typer.Argument(help=PICTURES)] = None,
    strategy: Annotated[str, typer.Option(help="One that serves; its first entry.")] = "hfsl",
    samples: Annotated[int, typer.Option(help="Held-out samples, without pictures.")] = 100,
    model: Annotated[
        Path | None, typer.Option(help="A model that a run kept; else trained.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Keep the trained model in this file.")] = None,
    top_k: TopOption = 1,
    csv_file: CsvOption = None,
    sheet: SheetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a cluster answer a node's request by split inference, and say what it costs.

    The request is about pictures, or about held-out samples.
    """
    from mfd_flower.models.inputs import federation_of, spec_of
    from mfd_flower.models.predict import Pictures, Prediction, picture_files
    from mfd_flower.report.columns import SERVED
    from mfd_flower.report.tables import plain_table
    from mfd_flower.split.inference import model_of, read_model, train_then_serve

    for option, path in (("--save", save), ("--csv", csv_file), ("--sheet", sheet)):
        if path and not pictures and option != "--save":
            raise ConfigError(option, str(path), "accepted with pictures alone")
        check_writable(option, path)
    chosen = load_comparison(config, strategy).runs[0].config
    classes = federation_of(chosen).images.classes
    given = read_model(model, chosen, classes) if model else None
    asked = None
    if pictures:
        files = _checked(picture_files(pictures), sheet)
        asked = Pictures.read(files, given.spec if given else spec_of(chosen))
        if len(asked.images) == 0:
            _name_unread([Prediction(str(files[i]), error=why) for i, why in asked.errors.items()])
            raise typer.Exit(1)

    def on_round(number: int) -> None:
        say(f"training: round {number} of {chosen.strategy.rounds}")

    images = asked.images if asked else None
    tensors = given.tensors if given else None
    served, tensors, logits = train_then_serve(chosen, samples, tensors, on_round, images)
    if save:
        (given or model_of(chosen, tensors, classes)).save(save)
    costs = [vars(each) for each in served]
    if not as_json:
        out_console.print(plain_table(SERVED, costs))
    if asked is not None:
        _tell(list(asked.ranked(logits, classes, top_k)), csv_file, sheet, as_json, costs)
    elif as_json:
        print(to_json(costs))


def _tell(
    found: Sequence[Prediction],
    csv_file: Path | None,
    sheet: Path | None,
    as_json: bool,
    costs: Sequence[Any] = (),
) -> None:
    """Print predictions and write them to files; status 1 if there are pictures without one."""
    from mfd_flower.report.columns import PREDICTED
    from mfd_flower.report.sheet import write_sheet
    from mfd_flower.report.tables import plain_table

    rows = [_plain(each) for each in found]
    if csv_file:
        names = ("picture", "class", "probability", "error")
        page = io.StringIO()
        table = csv.DictWriter(page, names, restval="", extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        write_text(csv_file, page.getvalue())
    if sheet:
        write_sheet(sheet, found)
    if as_json:
        print(to_json({"served": costs, "predictions": rows} if costs else rows))
    else:
        out_console.print(plain_table(PREDICTED, rows))
    if any(each.error for each in found):
        _name_unread(found)
        raise typer.Exit(1)


def _checked(files: list[Path], sheet: Path | None) -> list[Path]:
    """Return pictures that are to be classified; ConfigError if the sheet has no room for them."""
    from mfd_flower.report.sheet import check_room

    if sheet:
        check_room(len(files))
    return files


def _name_unread(found: Sequence[Prediction]) -> None:
    unread = [each for each in found if each.error]
    first = "; ".join(f"{each.picture}: {each.error}" for each in unread[:5])
    say(f"mfd: {len(unread)} of {len(found)} pictures cannot be read: {first}")


def _plain(found: Prediction) -> dict[str, Any]:
    """Return a prediction as it stands in JSON."""
    if found.error:
        return {"picture": found.picture, "error": found.error}
    pairs = zip(found.labels, found.probabilities, strict=True)
    top = [{"class": label, "probability": share} for label, share in pairs]
    return {"picture": found.picture, **top[0], "top": top}
