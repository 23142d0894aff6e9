"""The curves of results in TensorBoard, MLflow or Weights & Biases, by Lightning's own loggers.

All of it stays on this machine: MLflow writes a database, W&B a folder that `wandb sync` uploads if
its owner wants that. A run of the comparison is a run there.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from mfd_flower.checks import ConfigError
from mfd_flower.files import slug
from mfd_flower.results import Results

MakeLogger = Callable[[str], Logger]
"""Takes the name of a run, which may be part of a path, and makes the logger that it goes to."""


def log_results(
    results: Results, logger: str | MakeLogger, folder: Path | str = "."
) -> Path | None:
    """Log every measured point of all runs, and the settings of each run.

    Metrics are the numbers of a point: ``accuracy``, ``loss``, ``bytes/wire`` and the others. The
    logger's step is the number of local updates so far, on which walks and rounds are alike.

    Parameters
    ----------
    results
        What `compare` returned, or `Results.load` read.
    logger
        ``tensorboard``, ``mlflow`` or ``wandb``, of the extra ``mfd-flower[loggers]``; or what
        makes a logger of Lightning's for a run: ``lambda name: CSVLogger("curves", name=name)``.
    folder
        With a name: the folder in which one of this name is made.

    Returns
    -------
    Path or None
        The folder that was made.

    Raises
    ------
    ConfigError
        If there is no such logger, its package is missing, or its folder is there already.
    """
    if callable(logger):
        _log(results, logger)
        return None
    if logger not in LOGGERS:
        raise ConfigError("LOGGER", logger, f"accepted: {', '.join(LOGGERS)}")
    if find_spec(logger) is None:
        raise ConfigError("LOGGER", logger, "not installed; pip install 'mfd-flower[loggers]'")
    target = Path(folder) / logger
    try:
        target.mkdir(parents=True)
    except OSError as error:
        raise ConfigError("DIR", str(folder), f"{target}: {error.strerror}") from error
    try:
        _log(results, LOGGERS[logger](results.config["name"], target))
    except BaseException:
        shutil.rmtree(target)
        raise
    return target


def _log(results: Results, make: MakeLogger) -> None:
    for place, run in enumerate(results.runs):
        told = {key: run[key] for key in ("scenario", "strategy", "seed")}
        logger = make(slug(f"{place} {run['scenario']} {run['strategy']} seed {run['seed']}"))
        logger.log_hyperparams({**run["settings"], **told})
        for point in run["points"]:
            logger.log_metrics(_numbers(point), step=point["updates"])
        logger.finalize("success")
        if isinstance(logger, WandbLogger):
            # Else the next run would go on with this one.
            logger.experiment.finish()


def _numbers(point: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a point; what is not known, or diverged, is left out."""
    found = {}
    for name, value in point.items():
        parts = value if isinstance(value, Mapping) else {"": value}
        for part, number in parts.items():
            if isinstance(number, int | float) and math.isfinite(number):
                found[f"{name}/{part}" if part else name] = float(number)
    return found


def _tensorboard(comparison: str, folder: Path) -> MakeLogger:
    return lambda name: TensorBoardLogger(folder, name="", version=name, default_hp_metric=False)


def _mlflow(comparison: str, folder: Path) -> MakeLogger:
    # Read when it is imported; without the first it tells its maker that it is used.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    where: dict[str, Any] = {
        "tracking_uri": f"sqlite:///{folder.resolve()}/mlflow.db",
        "artifact_location": (folder.resolve() / "artifacts").as_uri(),
    }
    return lambda name: MLFlowLogger(comparison, run_name=name, **where)


def _wandb(comparison: str, folder: Path) -> MakeLogger:
    # Read when it is imported.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    # The run is over: what this machine and its terminal do now is no part of it.
    settings = wandb.Settings(
        mode="offline",
        silent=True,
        console="off",
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
    wandb.setup(settings)
    # It makes a folder of its own name there, or takes the one that is there.
    where: dict[str, Any] = {"save_dir": folder.parent, "offline": True, "settings": settings}
    return lambda name: WandbLogger(name=name, project=slug(comparison) or "mfd", **where)


LOGGERS: Mapping[str, Callable[[str, Path], MakeLogger]] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
}
"""By the name of their package: takes the comparison's name and a folder that is there."""
