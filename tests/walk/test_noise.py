"""Noise is added once, to what a node gives away, and the header tells nothing more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.models.inputs import federation_of
from mfd_flower.models.privacy import gaussian_sigma, sums_sensitivity
from mfd_flower.models.residents import shard
from mfd_flower.models.rounded import Rounding, scale_of
from mfd_flower.models.sums import Sums
from mfd_flower.packets import Packet
from mfd_flower.runtime.runner import run_locally
from mfd_flower.walk.custody import packet_in
from tests.harness import Trial, trial

NODES = 4
FEATURES = {"bits": 4, "clip": 3.0, "norm": 1.0}


@pytest.fixture
def settings(make_run: Callable[..., RunConfig]) -> Callable[..., RunConfig]:
    def build(noise: dict[str, Any], **tables: Any) -> RunConfig:
        traits = {"noise": {"repeatable": True, **noise}, **tables.pop("traits", {})}
        options = {"traits": traits, "features": FEATURES, **tables.pop("options", {})}
        data = {"nodes": NODES, "train_samples": 200}
        return make_run("exact-walk", 1, data=data, model={"tune": "head"}, options=options)

    return build


def packets(found: Trial) -> list[Packet]:
    return [packet_in(r.content) for _, r in found.grid.of("train.hop") if r is not None]


def exact(run: RunConfig) -> np.ndarray:
    scale, classes = scale_of(run, Rounding(**FEATURES)), federation_of(run).num_classes  # type: ignore[arg-type]
    parts = [shard(run, node) for node in range(NODES)]
    sums = [Sums.of(scale.rounded(s.inputs[:].numpy()), s.labels.numpy(), classes) for s in parts]
    return sum(part.cells for part in sums)  # type: ignore[return-value]


@pytest.mark.parametrize("epsilon", [1.0, 8.0])
def test_the_sums_are_off_by_the_noise_of_all_nodes(
    settings: Callable[..., RunConfig], epsilon: float
) -> None:
    run = settings({"epsilon": epsilon})
    data = packets(trial(run))[-1].decoded()["sums"].numpy().tobytes()
    off = Sums.from_bytes(data, 96, 10).cells - exact(run)
    rounding = Rounding(**FEATURES)  # type: ignore[arg-type]
    sensitivity = sums_sensitivity(rounding.longest(96), rounding.largest)
    sigma = gaussian_sigma(epsilon, 1e-5, sensitivity)
    # G's triangle: what is noised of Q may be cut off where a class seems empty.
    assert np.std(off[97 * 10 :]) == pytest.approx(sigma * NODES**0.5, rel=0.05)


def test_the_header_does_not_tell_how_many_samples_a_node_has(
    settings: Callable[..., RunConfig],
) -> None:
    for packet in packets(trial(settings({}))):
        assert packet.samples == 0
        assert set(packet.seen) == {0.0}


def test_a_repeatable_run_repeats_and_another_does_not(
    settings: Callable[..., RunConfig],
) -> None:
    def accuracy(**noise: Any) -> list[float]:
        points = run_locally(settings({"epsilon": 50.0, **noise}))["points"]
        return [point["loss"] for point in points]

    assert accuracy() == accuracy()
    assert accuracy(repeatable=False) != accuracy(repeatable=False)


def test_much_noise_costs_accuracy_and_little_does_not(
    settings: Callable[..., RunConfig],
) -> None:
    found = {
        epsilon: run_locally(settings({"epsilon": epsilon}))["points"][-1]["accuracy"]
        for epsilon in (0.1, 1e5)
    }
    assert found[1e5] > 0.8
    assert found[0.1] < found[1e5] - 0.2


def test_noise_and_mask_go_together(settings: Callable[..., RunConfig]) -> None:
    plain, hidden = (trial(settings({}, traits=traits)) for traits in ({}, {"mask": {}}))
    one, other = (packets(found)[-1] for found in (plain, hidden))
    assert one.decoded()["sums"].tolist() == other.decoded()["sums"].tolist()


def test_what_does_not_go_with_it_is_refused(settings: Callable[..., RunConfig]) -> None:
    for run, said in (
        (settings({"epsilon": 0.0}), "options.traits.noise.epsilon = 0.0"),
        (settings({"delta": 0.5, "epsilon": -1.0}), "epsilon"),
        (settings({}, traits={"contributions": {}}), "contributions"),
    ):
        with pytest.raises(ConfigError, match=said):
            trial(run)


def test_a_longest_vector_is_kept(make_run: Callable[..., RunConfig]) -> None:
    run = make_run(model={"tune": "head"})
    features = shard(run, 0).inputs[:].numpy()
    for norm, least in ((0.3, 0.4), (1.0, 0.8)):
        rounding = Rounding(norm=norm)
        whole = scale_of(run, rounding).rounded(features)
        lengths = np.linalg.norm(whole, axis=1)
        assert lengths.max() <= rounding.longest(96) * (1 + 1e-9)
        assert lengths.max() > least * rounding.longest(96)
