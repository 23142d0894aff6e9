"""A run that is stopped anywhere goes on from its checkpoint and ends with the same numbers."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Strategy

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.models.model_file import TrainedModel
from mfd_flower.records import from_bytes, to_bytes
from mfd_flower.runtime.checkpoints import Checkpoints
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.runtime.own_loop import OwnLoop, Step
from mfd_flower.runtime.run_files import RunFiles
from mfd_flower.runtime.runner import run_locally

DATA = {"nodes": 4, "train_samples": 64, "validation": 0.2}
TRAIN = {"lr": 0.05}
FLOWER = "flwr.serverapp.strategy:"
SKEWED = {"partition": "dirichlet", "alpha": 0.5}
ADVERTS = {"name": "label-balance", "advert_every": 1}
SIGNED = {"ledger": {}, "admission": {}}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "fedavg": ("fedavg", {}, {}),
    "fedavg, sampled": ("fedavg", {"fraction_train": 0.5}, {}),
    "fedadam": (f"{FLOWER}FedAdam", {}, {}),
    "fedavgm": (f"{FLOWER}FedAvgM", {"server_momentum": 0.9}, {}),
    "fedavg, coded": ("fedavg", {}, {"wire": {"codec": "int8", "top_k": 0.2}}),
    "fedadam, coded": (f"{FLOWER}FedAdam", {}, {"wire": {"codec": "fp16"}}),
    "fedavg, coded, under way": (f"{__name__}:Ahead", {}, {"wire": {"top_k": 0.2}}),
    "local-only": ("local-only", {}, {}),
    "gossip": ("gossip", {"neighbours": "random", "degree": 2}, {}),
    "centralised": ("centralised", {}, {}),
    "heterofl": ("heterofl", {"fraction_train": 0.5}, {}),
    "fedmd": ("fedmd", {}, {"data": {"public_samples": 20}}),
    "fedproto": ("fedproto", {"directions": 4}, {}),
    "generator": ("generator", {"receivers": 1, "generator": {"epochs": 2}}, {}),
    "walk, teach": ("mfd-walk", {"traits": {"teach": {"least_accuracy": 0.0}}}, {}),
    "walk, ensemble": ("mfd-walk", {"traits": {"ensemble": {"members": 2}}}, {}),
    "walk, terms": (
        "mfd-walk",
        {"traits": {"terms": {}, "codec": {"name": "int8"}}},
        {"model": {"backbone": "fm-tiny", "tune": "lora", "lora_rank": 8}},
    ),
    "cloud-edge": ("cloud-edge", {"edges": 2, "inner": 2, "rematch": 1}, {}),
    "hfsl": ("hfsl", {"clusters": 2, "cluster_size": 2, "rotate": True}, {}),
    "hfsl, planned": ("hfsl", {"clusters": 1, "cluster_size": 2, "form": "planned"}, {}),
    "walk": ("mfd-walk", {"policy": ADVERTS}, {}),
    "two walkers": ("mfd-walk", {"walkers": 2, "policy": ADVERTS}, {}),
    "walk, all traits": (
        "mfd-walk",
        {
            "traits": {
                "damping": {"start": 1.0, "end": 0.4, "tours": 2.0},
                "codec": {"name": "int8"},
                "delta": {},
                "ledger": {},
            }
        },
        {"data": SKEWED},
    ),
    "walk, admission": ("mfd-walk", {"traits": SIGNED}, {"threat": {"kind": "sign-flip"}}),
    "two walkers, faults": (
        "mfd-walk",
        {"walkers": 2},
        {"faults": {"loss": 0.1, "death": 0.1, "duplicate": 0.1, "delay": 0.1, "downtime": 1}},
    ),
    "fedavg, faults": ("fedavg", {}, {"faults": {"loss": 0.1, "death": 0.1, "delay": 0.2}}),
}


class StoppedError(Exception):
    """What a test stops a run with."""


class Unlike(FedAvg):
    """Keeps something between rounds that is no number, text or array."""

    def aggregate_train(self, *args: Any, **keywords: Any) -> Any:
        self.seen: Any = object()
        return super().aggregate_train(*args, **keywords)


class Ahead(FedAvg):
    """Asks nodes for a round while it takes in what they answer to the one before."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        due, own = getattr(self, "asked", []), ConfigRecord(dict(config))
        requests = super().configure_train(server_round, arrays, own, grid)
        self.asked = list(grid.push_messages(requests))
        self.replies: list[Message] = []
        for message_id in due:  # In this order, whatever comes first.
            while not (found := list(grid.pull_messages([message_id]))):
                time.sleep(0.001)
            self.replies += found
        return []

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        return super().aggregate_train(server_round, vars(self).pop("replies"))


class Forgetful(OwnLoop, Strategy):
    """A loop whose state nobody can ask for."""

    def steps(
        self, grid: MeteredGrid, arrays: ArrayRecord, num_rounds: int, timeout: float
    ) -> Iterator[Step]:
        yield Step(0, arrays)
        for number in range(1, num_rounds + 1):
            grid.updates += 1
            yield Step(number, arrays)


def settings(make_run: Callable[..., RunConfig], case: str, rounds: int) -> RunConfig:
    strategy, options, tables = CASES[case]
    data = {**DATA, **tables.get("data", {})}
    split = strategy in ("hfsl", "cloud-edge")
    model = {"tune": "prompts", "prompts": 2} if split else {"tune": "head"}
    others = {"model": model, "train": TRAIN, **{k: v for k, v in tables.items() if k != "data"}}
    return make_run(strategy, rounds, options=options, data=data, **others)


def stopped_at(number: int) -> Callable[[dict[str, Any]], None]:
    """Return what stops a run when it has measured so many points."""
    points: list[Any] = []

    def on_point(point: dict[str, Any]) -> None:
        points.append(point)
        if len(points) == number:
            raise StoppedError

    return on_point


def timeless(record: dict[str, Any]) -> dict[str, Any]:
    for point in record["points"]:
        point.pop("wall_seconds", None)
    # Signatures are of the moment, and so is what is packed of them.
    return {name: value for name, value in record.items() if name != "ledger"}


@pytest.mark.parametrize("case", CASES)
def test_a_stopped_run_ends_with_the_numbers_of_one_that_was_not(
    make_run: Callable[..., RunConfig], tmp_path: Path, case: str
) -> None:
    run = settings(make_run, case, rounds=2 if "walk" in case else 3)
    whole = run_locally(run, files=RunFiles(tmp_path / "whole", "a"))
    folder = tmp_path / "stopped"
    said: list[str] = []
    for stop in (3, 2):  # A stop comes before the checkpoint of the step that was measured.
        files = RunFiles(folder, "a", 1, resume=True)
        with pytest.raises(StoppedError):
            run_locally(run, stopped_at(stop), files=files, say=said.append)
    again = run_locally(run, files=RunFiles(folder, "a", 1, resume=True), say=said.append)
    assert [line for line in said if "behind step" in line], said
    assert timeless(again) == timeless(whole)
    once_more = run_locally(run, files=RunFiles(folder, "a", 0, resume=True))
    assert timeless(once_more) == timeless(whole), "its record was lost before it was saved"
    for path in (tmp_path / "whole" / "models").iterdir():
        ours = TrainedModel.load(folder / "models" / path.name)
        theirs = TrainedModel.load(path)
        assert {n: t.tolist() for n, t in ours.tensors.items()} == {
            n: t.tolist() for n, t in theirs.tensors.items()
        }
    RunFiles(folder, "a").drop_checkpoints()
    assert not (folder / "checkpoints").exists()


def test_a_walk_whose_steps_go_back_loses_no_point(
    make_run: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """Holders die, and the walk goes on from a copy that is some hops old."""
    faults = {"death": 0.33, "downtime": 3}
    data = {**DATA, "nodes": 5}
    run = make_run("mfd-walk", 4, data=data, train=TRAIN, model={"tune": "head"}, faults=faults)
    whole = run_locally(run)
    steps = [point["step"] for point in whole["points"]]
    assert steps[:10] == [0, 1, 2, 3, 4, 3, 3, 4, 4, 5]
    files = RunFiles(tmp_path, "a", 1, resume=True)
    said: list[str] = []
    for stop in (6, 3):
        with pytest.raises(StoppedError):
            run_locally(run, stopped_at(stop), files=files)
    again = run_locally(run, files=files, say=said.append)
    assert said == ["goes on behind step 3"]
    assert timeless(again)["points"] == timeless(whole)["points"]


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        (f"{__name__}:Forgetful", "begins again, no checkpoint: Forgetful has no state_dict"),
        (f"{__name__}:Unlike", "begins again, no checkpoint"),
    ],
)
def test_a_strategy_without_a_state_begins_again_and_says_so(
    make_run: Callable[..., RunConfig], tmp_path: Path, strategy: str, said: str
) -> None:
    run = make_run(strategy, 3, model={"tune": "head"})
    lines: list[str] = []
    with pytest.raises(StoppedError):
        run_locally(run, stopped_at(3), files=RunFiles(tmp_path, "a", 1), say=lines.append)
    assert lines == []
    record = run_locally(run, files=RunFiles(tmp_path, "a", 1, resume=True), say=lines.append)
    assert lines == [said]
    assert [point["step"] for point in record["points"]] == [0, 1, 2, 3]


def test_a_checkpoint_that_is_damaged_or_of_other_settings_is_refused(
    make_run: Callable[..., RunConfig], tmp_path: Path
) -> None:
    run = make_run("fedavg", 3, model={"tune": "head"})
    files = RunFiles(tmp_path, "a", 1, resume=True)
    with pytest.raises(StoppedError):
        run_locally(run, stopped_at(3), files=files)
    other = make_run("fedavg", 4, model={"tune": "head"})
    with pytest.raises(ConfigError, match="a checkpoint of other settings"):
        run_locally(other, files=files)
    state = tmp_path / "checkpoints" / "a" / "run.state"
    data = state.read_bytes()
    for content in hostile(data):
        state.write_bytes(content)
        with pytest.raises(ConfigError, match="damaged checkpoint") as error:
            run_locally(run, files=files)
        assert "\n" not in str(error.value)
    state.write_bytes(data)
    log = state.with_name("run.jsonl")
    lines = log.read_bytes().splitlines(keepends=True)
    whole = b"".join(lines)
    for content in (b"", b"".join(lines[:-1]), whole[:-1], bytes(len(whole)), b"[" * len(whole)):
        log.write_bytes(content)
        with pytest.raises(ConfigError, match="damaged checkpoint") as error:
            run_locally(run, files=files)
        assert "\n" not in str(error.value)
    log.write_bytes(whole)
    (state.parent / "run.id").write_text("../..")
    with pytest.raises(ConfigError, match="damaged checkpoint"):
        run_locally(run, files=files)


def hostile(data: bytes) -> Iterator[bytes]:
    """Yield contents of a checkpoint's file that are none, or whose digest alone is right."""
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    yield flipped
    yield signed(b"\xff\xff\xff")
    yield to_bytes(RecordDict())
    for told in (
        "[" * 20_000,
        "[]",
        "{}",
        '{"done": 1, "states": {}, "logged": 0, "settings": {}}',
    ):
        yield to_bytes(RecordDict({"head/head": ConfigRecord({"json": told})}))
    content = from_bytes(data)
    for name in content.config_records:
        yield to_bytes(RecordDict({n: r for n, r in content.items() if n != name}))


def signed(body: bytes) -> bytes:
    return hashlib.sha256(body).digest() + body


def test_a_checkpoint_costs_the_same_however_far_the_run_is(
    make_run: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """Only what is new is written of what grows, and only states of nodes that did something."""
    run = make_run("mfd-walk", 8, model={"tune": "head"}, data={"nodes": 3})
    sizes: list[int] = []
    written: list[set[str]] = []
    folder = tmp_path / "checkpoints" / "a"

    def on_point(point: dict[str, Any]) -> None:
        if point["step"] > 1:
            sizes.append((folder / "run.state").stat().st_size)
            written.append({str(path) for path in folder.rglob("*.state")})

    run_locally(run, on_point, files=RunFiles(tmp_path, "a", 1))
    assert sizes[-1] < 1.2 * sizes[0]
    assert all(len(names) <= 1 + 2 * 3 for names in written)
    new = [later - earlier for earlier, later in itertools.pairwise(written)]
    assert {len(names) for names in new} == {2}, "of who sent the packet and who got it"


def test_a_checkpoint_adds_to_the_log_what_is_new_and_leaves_the_rest(tmp_path: Path) -> None:
    checkpoints, points, log = Checkpoints(tmp_path / "a", {}), [], tmp_path / "a" / "run.jsonl"
    checkpoints.begin()
    before, added = b"", set()
    for number in range(100, 200):
        points.append({"step": number})
        checkpoints.save(number, {}, {}, {"points": points})
        content = log.read_bytes()
        assert content.startswith(before)
        added.add(len(content) - len(before))
        before = content
    assert len(added) == 1
    kept = Checkpoints(tmp_path / "a", {}).load()
    assert kept is not None
    assert kept.log == {"points": points}


def test_a_checkpoint_costs_the_same_however_much_went_wrong(
    make_run: Callable[..., RunConfig], tmp_path: Path
) -> None:
    faults = {"loss": 0.2, "death": 0.1, "delay": 0.3, "duplicate": 0.1, "downtime": 1}
    run = make_run("fedavg", 40, model={"tune": "head"}, faults={**faults, "silent": True})
    state = tmp_path / "checkpoints" / "a" / "run.state"
    sizes: dict[int, int] = {}

    def on_point(point: dict[str, Any]) -> None:
        if state.exists():
            sizes[point["step"]] = state.stat().st_size

    run_locally(run, on_point, files=RunFiles(tmp_path, "a", 1))
    assert sizes[40] < 1.02 * sizes[8]


def test_a_point_has_the_mean_over_what_nodes_hold_out(
    make_run: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """The best model is that of the best validation; the test set has no say."""
    run = make_run("mfd-walk", 3, data={**DATA, **SKEWED}, train=TRAIN, model={"tune": "head"})
    record = run_locally(run, files=RunFiles(tmp_path, "a"))
    points = record["points"]
    best = max(points, key=lambda p: (p["validation_accuracy"], -p["validation_loss"], -p["step"]))
    assert record["best"]["step"] == best["step"]
    model = TrainedModel.load(tmp_path / record["best"]["model"])
    assert model.about.made["metrics"]["loss"] == best["loss"]
    assert json.loads(json.dumps(model.about.made["settings"])) == run.flat()
