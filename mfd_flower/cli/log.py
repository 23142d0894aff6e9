"""The command that hands results on to the tools that draw curves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mfd_flower.cli.screen import out_console, say
from mfd_flower.results import Results

log_app = typer.Typer()

HOW = {
    "tensorboard": "tensorboard --logdir {folder}",
    "mlflow": "mlflow ui --backend-store-uri sqlite:///{folder}/mlflow.db",
    "wandb": "wandb sync {folder}/offline-run-*",
}
"""How a person sees what was written."""


@log_app.command(epilog="Example: mfd log out/demo tensorboard")
def log(
    folder: Annotated[Path, typer.Argument(help="Folder with results.json.")],
    logger: Annotated[str, typer.Argument(help="tensorboard, mlflow or wandb.")],
) -> None:
    """Write the curves of all runs for TensorBoard, MLflow or W&B, below DIR; nothing is sent."""
    from mfd_flower.report.loggers import log_results

    made = log_results(Results.load(folder), logger, folder)
    say(HOW[logger].format(folder=made), out_console)
