"""Nothing that comes from elsewhere is unpickled or run: the sources searched, pickles sent."""

from __future__ import annotations

import ast
import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.models import Classifier
from mfd_flower.models.model_file import TrainedModel
from mfd_flower.packets import Packet, PacketError
from mfd_flower.records import from_bytes, tensors_of
from tests.harness import trial

ROOT = Path(__file__).parents[2]
UNPICKLERS = {
    "pickle",
    "_pickle",
    "cPickle",
    "cloudpickle",
    "dill",
    "marshal",
    "shelve",
    "jsonpickle",
}
BETWEEN_PROCESSES = {"multiprocessing", "torch.multiprocessing"}
"""Modules that pickle what one process hands to another."""
LOADS = {
    ("torch", "load"): ("weights_only", True),
    ("np", "load"): ("allow_pickle", False),
    ("numpy", "load"): ("allow_pickle", False),
    ("joblib", "load"): None,
    ("yaml", "load"): None,
    ("yaml", "unsafe_load"): None,
}
"""Functions that unpickle unless a keyword has this value; None: always."""
NAMES = {
    *("read_pickle", "to_pickle", "load_from_checkpoint", "load_state_dict_from_url"),
    *("ProcessPoolExecutor", "eval", "exec", "exec_module", "__reduce__", "extractall"),
    *("recv_object_list", "all_gather_object", "gather_object", "broadcast_object_list"),
    *("scatter_object_list",),
}
"""What is called so unpickles, runs what it reads, or unpacks where it is told to."""
OWN = "processes that the program starts itself hand each other what they made"
ALLOWED = {
    ("mfd_flower/runtime/pool.py", "multiprocessing"): OWN,
    ("mfd_flower/runtime/pool.py", "ProcessPoolExecutor"): OWN,
    ("mfd_flower/data/pictures.py", "multiprocessing"): "asks whether it is a child; sends nothing",
    ("mfd_flower/finding.py", "exec_module"): "imports the user's own file, as import does",
    ("experiments/gpu_check.py", "multiprocessing"): OWN,
    ("experiments/gpu_check.py", "ProcessPoolExecutor"): OWN,
    ("experiments/bench/hfsl_processes.py", "multiprocessing"): OWN,
    ("experiments/bench/pictures.py", "multiprocessing"): OWN,
    ("experiments/bench/pictures.py", "ProcessPoolExecutor"): OWN,
    ("experiments/bench/routes_only.py", "multiprocessing"): OWN,
    ("experiments/bench/scale.py", "multiprocessing"): OWN,
}
"""File and name, and why that is no way in."""


def findings(code: str) -> Iterator[str]:
    """Yield what in a source unpickles or runs what it reads."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            source = getattr(node, "module", None)
            for module in [source] if source else [alias.name for alias in node.names]:
                if module.partition(".")[0] in UNPICKLERS:
                    yield module
                for name in BETWEEN_PROCESSES:
                    if module == name or module.startswith(f"{name}."):
                        yield name
            if isinstance(node, ast.ImportFrom):
                yield from (alias.name for alias in node.names if alias.name in NAMES)
        elif isinstance(node, ast.Attribute) and node.attr in NAMES - {"eval"}:
            yield node.attr  # `model.eval()` is torch's.
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield from {node.func.id} & NAMES
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield from _unsafe_load(node, node.func)


def _unsafe_load(call: ast.Call, function: ast.Attribute) -> Iterator[str]:
    place = (getattr(function.value, "id", ""), function.attr)
    if place not in LOADS:
        return
    given = {k.arg: getattr(k.value, "value", None) for k in call.keywords}
    rule = LOADS[place]
    # numpy's default is the safe one, torch's was not always.
    default = None if place[0] == "torch" else rule and rule[1]
    if rule is None or given.get(rule[0], default) is not rule[1]:
        yield ".".join(place)


def sources() -> Iterator[tuple[str, str]]:
    for folder in ("mfd_flower", "strategies", "experiments"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def test_no_source_unpickles_or_runs_what_it_reads() -> None:
    found = {(file, name) for file, code in sources() for name in findings(code)}
    assert found - {*ALLOWED} == set()
    assert {*ALLOWED} - found == set(), "no longer there, so no longer allowed"


@pytest.mark.parametrize(
    "code",
    [
        *("import pickle", "from pickle import loads", "import marshal, os", "import dill as d"),
        *("import multiprocessing.connection", "from multiprocessing import Queue"),
        *("from concurrent.futures import ProcessPoolExecutor", "eval(text)", "exec(text)"),
        *("torch.load(path)", "torch.load(path, weights_only=False)", "x = joblib.load(path)"),
        *("np.load(path, allow_pickle=True)", "yaml.load(text)", "pandas.read_pickle(path)"),
        *("Classifier.load_from_checkpoint(path)", "dist.broadcast_object_list(x)"),
        *("from torch.distributed import all_gather_object", "archive.extractall(folder)"),
    ],
)
def test_the_search_finds_each_way(code: str) -> None:
    assert list(findings(code))


@pytest.mark.parametrize(
    "code",
    [
        *("torch.load(path, weights_only=True)", "np.load(path)", "model.eval()", "import os"),
        *("np.load(path, allow_pickle=False)", "json.load(file)", "tomllib.load(file)"),
    ],
)
def test_the_search_leaves_the_safe_ones_alone(code: str) -> None:
    assert not list(findings(code))


class Trap:
    """Leaves a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Return a file that a trap leaves; here it is seen to work once."""
    found = tmp_path / "mark"
    pickle.loads(pickle.dumps(Trap(found)))
    assert found.exists()
    found.unlink()
    return found


def pickled_array(mark: Path) -> Array:
    """Return an array of Flower's whose bytes are numpy's form of a pickled object."""
    page = io.BytesIO()
    np.save(page, np.array([Trap(mark)], dtype=object), allow_pickle=True)
    return Array(dtype="object", shape=(1,), stype="numpy.ndarray", data=page.getvalue())


def test_a_pickle_in_a_record_is_refused(mark: Path) -> None:
    with pytest.raises(ValueError, match=r"[Pp]ickle"):
        tensors_of(ArrayRecord({"head.weight": pickled_array(mark)}))
    assert not mark.exists()


@pytest.mark.parametrize("reader", [Packet.from_bytes, from_bytes])
def test_a_pickle_in_place_of_a_packet_or_a_state_is_refused(
    reader: Callable[[bytes], object], mark: Path
) -> None:
    with pytest.raises((PacketError, ValueError)):
        reader(pickle.dumps(Trap(mark)))
    assert not mark.exists()


def test_a_pickle_in_place_of_a_model_is_refused(mark: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    torch.save({"head.weight": Trap(mark)}, path)
    with pytest.raises(ConfigError):
        TrainedModel.load(path)
    assert not mark.exists()


def test_a_pickle_in_a_checkpoint_of_lightnings_is_refused(mark: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": {}, "trap": Trap(mark)}, path)
    with pytest.raises(pickle.UnpicklingError, match="Weights only"):
        Classifier.load_from_checkpoint(path)
    assert not mark.exists()


def test_a_node_that_is_sent_a_pickle_does_not_read_it(
    make_run: Callable[..., RunConfig], mark: Path
) -> None:
    sent: list[str] = []

    def forge(request: Message) -> None:
        records = request.content.array_records
        if request.metadata.message_type == "train" and len(sent) < 1:
            (name,) = records
            request.content[name] = ArrayRecord({key: pickled_array(mark) for key in records[name]})
            sent.append(name)

    found = trial(make_run("fedavg", rounds=1, model={"tune": "head"}), change=forge)
    assert sent
    assert found.grid.failures
    assert not mark.exists()
