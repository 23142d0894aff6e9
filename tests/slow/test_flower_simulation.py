"""The same app on Flower's own simulation gives the same bytes and the same accuracies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mfd_flower.config import RunConfig
from mfd_flower.runtime.runner import run_locally
from tests.slow.test_wheel import readme_strategy

ROOT = Path(__file__).parents[2]
FLWR = Path(sys.executable).with_name("flwr")
FAULTS = {"loss": 0.15, "death": 0.1, "duplicate": 0.1, "delay": 0.1, "downtime": 1}
STOPS = '''"""A walk that a file stops, once."""

from pathlib import Path

from strategies.mfd_walk import MFDWalk


class Stops(MFDWalk):
    """Raise behind the third hop."""

    def _send_on(self, relay, course):
        told = Path({path!r})
        if course.done == 3 and told.exists():
            told.unlink()
            raise RuntimeError("stopped as told")
        super()._send_on(relay, course)
'''


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def started_from(home: Path) -> list[int]:
    """Return the ids of the SuperLink processes whose command line names this FLWR_HOME."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(home) in words:
            found.append(int(folder.name))
    return found


@pytest.fixture(scope="module")
def flower(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """Give a copy of the app, and an environment with a FLWR_HOME and ports of its own.

    The app has one more strategy, the README's.
    """
    home = tmp_path_factory.mktemp("flwr")
    app = tmp_path_factory.mktemp("an app")
    for name in ("pyproject.toml", "README.md", "LICENSE", "mfd_flower", "strategies"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, app / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, app / name)
    (app / "strategies" / "half_avg.py").write_text(readme_strategy())
    environment = {
        **os.environ,
        "PATH": f"{FLWR.parent}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(free_port()),
        "FLWR_LOCAL_CONTROL_API_PORT": str(free_port()),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_DISABLE_IMPORT_WARNING": "1",
    }
    try:
        yield app, environment
    finally:
        for process_id in started_from(home):
            os.kill(process_id, signal.SIGTERM)


def flwr_run(flower: tuple[Path, dict[str, str]], words: list[str], timeout_s: float) -> str:
    """Run ``flwr run`` and return what it said.

    Flower gives its local SuperLink 15 s to start, which a loaded machine may not keep to; nothing
    has been run then, and it is tried again.
    """
    app, environment = flower
    for _ in range(4):
        done = subprocess.run(
            [str(FLWR), "run", ".", "--stream", *words],
            cwd=app,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if "Failed to start local SuperLink" not in done.stdout + done.stderr:
            break
    return done.stdout + done.stderr


def run_on_flower(
    flower: tuple[Path, dict[str, str]], run: RunConfig, out: Path, nodes: int, **files: Any
) -> tuple[dict[str, Any], str]:
    settings = {"out": str(out), **files, **run.flat()}
    # Flower reads TOML values; those with double quotes in them stand in single ones.
    pairs = [
        f"{key}='{value}'" if '"' in str(value) else f"{key}={json.dumps(value)}"
        for key, value in settings.items()
    ]
    words = [
        "--federation-config",
        f"num-supernodes={nodes} client-resources-num-cpus=1",
        "--run-config",
        " ".join(pairs),
    ]
    said = flwr_run(flower, words, timeout_s=400)
    assert out.exists() or "as told" in said, said[-4000:]
    return json.loads(out.read_text()) if out.exists() else {}, said


@pytest.mark.slow
@pytest.mark.skipif(
    " " in sys.prefix,
    reason="Flower 1.41's SuperLink cannot migrate its database in an environment with a space in"
    " its path (alembic splits the location there)",
)
@pytest.mark.parametrize(
    ("strategy", "tables"),
    [
        ("fedavg", {}),
        ("fedavg", {"wire": {"codec": "int8", "top_k": 0.2}}),
        ("half-avg", {}),
        ("gossip", {}),
        ("mfd-walk", {}),
        ("mfd-walk", {"faults": FAULTS}),
    ],
)
def test_same_bytes_and_accuracies_as_in_process(
    make_run: Callable[..., RunConfig],
    flower: tuple[Path, dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    strategy: str,
    tables: dict[str, Any],
) -> None:
    run = make_run(strategy, rounds=2, data={"partition": "dirichlet"}, **tables)
    found, said = run_on_flower(flower, run, tmp_path / "run.json", nodes=3)
    if strategy == "half-avg":
        monkeypatch.chdir(flower[0])
    expected = run_locally(run)
    assert "Traceback" not in said
    assert len(found["failures"]) == len(expected["failures"])
    assert bool(found["failures"]) == ("faults" in tables)
    assert found["visits"] == expected["visits"]
    for ours, theirs in zip(expected["points"], found["points"], strict=True):
        assert ours["bytes"] == theirs["bytes"]
        assert ours["updates"] == theirs["updates"]
        assert theirs["accuracy"] == pytest.approx(ours["accuracy"], abs=1e-6)
        assert theirs["loss"] == pytest.approx(ours["loss"], abs=1e-6)
        assert theirs["virtual_seconds"] == pytest.approx(ours["virtual_seconds"])


@pytest.mark.slow
@pytest.mark.skipif(" " in sys.prefix, reason="see above")
def test_a_stopped_walk_goes_on_from_what_server_and_nodes_kept(
    make_run: Callable[..., RunConfig],
    flower: tuple[Path, dict[str, str]],
    tmp_path: Path,
) -> None:
    """Two packets, one of them under way when the run stops; the second run has new node ids."""
    options = {"walkers": 2, "traits": {"ledger": {}}}
    stopper, out = tmp_path / "stop", tmp_path / "run.json"
    (flower[0] / "strategies" / "stops.py").write_text(STOPS.format(path=str(stopper)))
    stopper.touch()
    changes: dict[str, Any] = {"data": {"nodes": 4, "train_samples": 64}, "options": options}
    run = make_run("stops", rounds=2, **changes)
    files = {"checkpoint_every": 1, "state-dir": str(tmp_path / "states")}
    nothing, said = run_on_flower(flower, run, out, nodes=4, **files)
    assert nothing == {}, said[-4000:]
    assert "stopped as told" in said
    assert len(list((tmp_path / "states" / "run").glob("*/n?/3.state"))) >= 1
    found, said = run_on_flower(flower, run, out, nodes=4, resume=True, **files)
    assert "goes on behind step 3" in said
    expected = run_locally(make_run("mfd-walk", rounds=2, **changes))
    for ours, theirs in zip(expected["points"], found["points"], strict=True):
        assert ours["bytes"] == theirs["bytes"]
        assert theirs["accuracy"] == pytest.approx(ours["accuracy"], abs=1e-6)
    assert found["visits"] == expected["visits"]
    assert not any((tmp_path / "states").iterdir())
    names = [path.name for path in (tmp_path / "models").iterdir()]
    assert names == ["run-final.safetensors"], "both met"
