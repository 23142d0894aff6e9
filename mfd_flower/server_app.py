"""Flower's ServerApp of this package: one run on whatever engine started it."""

from __future__ import annotations

import contextlib
import functools
import logging
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.files import check_writable, unique_slug, write_json
from mfd_flower.runtime.curve import Point
from mfd_flower.runtime.run_files import RunFiles
from mfd_flower.runtime.runner import run_on

app = ServerApp()
log = logging.getLogger("flwr")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the strategy that the run config names.

    With `out` the measured run is written there, its models beside it, and a checkpoint every
    `checkpoint_every` steps, from which a later one with `resume` goes on.
    """
    settings = context.run_config
    run = RunConfig.from_flat(settings)
    files = save = None
    if out := str(settings.get("out", "")):
        # Flower runs this in a working directory of its own: a relative path would be lost there.
        path = Path(out)
        if not path.is_absolute():
            raise ConfigError("out", out, "must be an absolute path")
        every, resume = settings.get("checkpoint_every", 0), settings.get("resume", False)
        name = unique_slug(path.name.removesuffix(".json"))
        files = RunFiles(path.parent, name, int(every), bool(resume))
        with contextlib.suppress(OSError):  # Which is refused in the next line.
            path.parent.mkdir(parents=True, exist_ok=True)
        check_writable("out", path)
        save = functools.partial(write_json, path)

    def on_point(point: Point) -> None:
        wire_mb = point["bytes"]["wire"] / 1e6
        log.info("step %d  accuracy %.3f  %.3f MB", point["step"], point["accuracy"], wire_mb)

    run_on(grid, run, on_point, files, log.info, save)
