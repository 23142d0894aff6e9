"""Base stations' channels as image sets: a node a site, few shots, one set of channels for both."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from mfd_flower.checks import ConfigError
from mfd_flower.comparison import load_comparison
from mfd_flower.config import DataConfig, RunConfig
from mfd_flower.data import load_federation, load_set
from mfd_flower.data.channel_sets import beam_soundings
from tests.harness import trial

SMALL = {"sites": 4, "users": 100, "test_users": 20, "shots": 5}


def with_(**changed: object) -> str:
    return json.dumps({**SMALL, **changed})


def test_each_site_is_a_node_with_few_samples_of_a_class_and_its_part_of_the_test_set() -> None:
    config = DataConfig(
        "beams", options=with_(), nodes=4, partition="by-client", train_samples=0, validation=0.0
    )
    found = load_federation(config, 3)
    assert found.holders == [f"n{site} site-{site}" for site in range(4)]
    assert found.images.classes == tuple(f"beam-{beam:02}" for beam in range(16))
    counts = np.array([found.label_counts(node) for node in range(4)])
    assert counts.max() == 5
    assert found.images.client is not None
    assert np.unique(found.images.client[found.test], return_counts=True)[1].tolist() == [20] * 4
    everyone = load_set("beams", options=with_(shots=0))
    whole = np.bincount(everyone.labels[: 120 * 4].reshape(4, 120)[0, :100], minlength=16)
    np.testing.assert_array_equal(counts[0], np.minimum(whole, 5))


def test_names_of_many_sites_are_in_the_order_of_the_layout() -> None:
    options = with_(sites=12, users=4, test_users=1)
    config = DataConfig(
        "beams", options=options, nodes=12, partition="by-client", train_samples=0, test_samples=12
    )
    assert load_federation(config, 0).clients == tuple(f"site-{site:02}" for site in range(12))


def test_both_sets_are_of_the_same_channels() -> None:
    beams, sight = (load_set(name, options=with_(shots=0)) for name in ("beams", "line-of-sight"))
    np.testing.assert_array_equal(beams.images, sight.images)
    assert sight.classes == ("blocked", "line-of-sight")
    assert 0 < sight.labels.mean() < 1
    few = load_set("line-of-sight", options=with_())
    assert few.client is not None
    assert few.is_test is not None
    kinds = np.stack([few.client, few.labels.astype(str)], axis=1)[~few.is_test]
    assert np.unique(kinds, axis=0, return_counts=True)[1].max() == 5


def test_powers_of_the_beams_are_those_of_the_sets_samples() -> None:
    beams, powers = load_set("beams", options=with_(beams=32)), beam_soundings(with_(beams=32))
    assert len(beams.classes) == 32
    np.testing.assert_array_equal(beams.labels, powers.beam_snr_db.argmax(1))
    np.testing.assert_array_equal(beams.images, powers.pictures)


def test_what_is_learnt_of_pictures_holds_for_others(make_run: Callable[..., RunConfig]) -> None:
    data = {"name": "line-of-sight", "options": with_(shots=50), "nodes": 4, "train_samples": 0}
    data |= {"partition": "by-client", "test_samples": 80}
    ended = trial(make_run("fedavg", rounds=2, data=data, model={"tune": "head"}))
    assert ended.accuracy > 0.8


def test_options_of_a_comparison_are_tables_that_a_scenario_changes() -> None:
    tables = {
        "data": {"name": "beams", "nodes": 4, "options": SMALL},
        "scenarios": [{"name": "moved", "data": {"options": {"moved_m": 20.0}}}],
        "strategies": [{"strategy": "mfd-walk"}],
    }
    (planned,) = load_comparison(tables).runs
    assert json.loads(planned.config.data.options) == {**SMALL, "moved_m": 20.0}
    assert RunConfig.from_flat(planned.config.flat()) == planned.config


@pytest.mark.parametrize(
    ("name", "path", "options", "line"),
    [
        ("beams", "", '{"shots": -1}', "data.options.shots = -1: must be at least 0"),
        ("beams", "", '{"colour": 1}', "data.options.colour = 1: unknown key"),
        ("line-of-sight", "", "[]", "data.options = "),
        ("beams", "here", "{}", "data.path = 'here': none, beams is computed"),
        ("digits", "", '{"sites": 3}', "accepted with data.name = beams, line-of-sight alone"),
        ("beams:x", "", "{}", "data.name = 'beams:x'"),
    ],
)
def test_bad_options_are_refused_in_one_line(name: str, path: str, options: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line) as caught:
        load_set(name, path, options=options)
    assert "\n" not in str(caught.value)
