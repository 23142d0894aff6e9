"""Flower's ServerApp of this package: one run on whatever engine started it."""

from __future__ import annotations

import logging
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from mfd_flower.config import RunConfig
from mfd_flower.files import write_json
from mfd_flower.runtime.runner import Point, run_on

app = ServerApp()
log = logging.getLogger("flwr")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the strategy that the run config names; write the measured run to `out` if it is set."""
    run = RunConfig.from_flat(context.run_config)

    def on_point(point: Point) -> None:
        wire_mb = point["bytes"]["wire"] / 1e6
        log.info("step %d  accuracy %.3f  %.3f MB", point["step"], point["accuracy"], wire_mb)

    record = run_on(grid, run, on_point)
    if out := str(context.run_config.get("out", "")):
        # Flower runs this in a working directory of its own: a relative path would be lost there.
        path = Path(out)
        if not path.is_absolute():
            raise ValueError(f"out = {out!r}: must be an absolute path")
        write_json(path, record)
