"""Every benchmark runs, here at its smallest; what it measures is kept with the results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "experiments" / "bench"
SMALLEST = {
    "clusters": "--instances 1 --sizes 12",
    "codecs": "--megabytes 0.1 --repeats 1",
    "blocks": "--repeats 1 --out {out}",
    "crossover": "--samples 8 --out {out}",
    "datagrams": "--repeats 1",
    "routes_only": "--nodes 200",
    "model_transfer": "--seeds 1",
    "growing": "--arch test_vit --width 96 --repeats 1",
    "hfsl_processes": "--samples 8 --rounds 1 --members 2",
    "hop": "",
    "judging": "--routes 1 --out {out}",
    "ledger": "--entries 20",
    "ledger_hop": "--tours 1",
    "overhead": "--no-flower --repeats 1",
    "pictures": "--photos 20 --megapixels 0.5 --folder {out}/photos",
    "pipeline": "--forward-s 0.05 --steps 1",
    "routes": "--routes 1 --out {out}",
    "routing": "--sizes 50",
    "scale": "--images mnist5k --nodes 20 --hops 25 --samples 60 --arch test_vit --cache-gb 0.002",
}

pytestmark = pytest.mark.slow


def test_every_benchmark_is_here() -> None:
    assert sorted(SMALLEST) == sorted(path.stem for path in BENCH.glob("*.py"))


@pytest.mark.parametrize("name", SMALLEST)
def test_a_benchmark_runs(name: str, tmp_path: Path) -> None:
    words = SMALLEST[name].format(out=tmp_path).split()
    _runs(BENCH / f"{name}.py", *words)


def test_the_check_of_an_accelerator_runs_without_one() -> None:
    assert "fedavg, lora" in _runs(ROOT / "experiments" / "gpu_check.py", "--small")


def _runs(script: Path, *words: str) -> str:
    command = [sys.executable, str(script), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()
    return done.stdout
