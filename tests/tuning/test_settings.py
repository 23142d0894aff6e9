"""Every entry gets equally many settings, whatever the others are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfd_flower.checks import ConfigError
from mfd_flower.comparison import comparison_from_tables
from mfd_flower.tuning.settings import Search, searches_of

LRS, EPOCHS = [0.01, 0.03, 0.1], [1, 5, 20]
FEDAVG = {
    "strategy": "fedavg",
    "tune": {
        "train": {"lr": LRS, "local_epochs": EPOCHS},
        "options": {"fraction_train": [0.3, 0.6, 1.0]},
    },
}
WALK = {"strategy": "mfd-walk", "tune": {"train": {"lr": LRS}}}


def tried(search: Search) -> list[str]:
    return [json.dumps(sorted(map(str, each.values.items()))) for each in search.settings]


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(0, 99))
def test_each_entry_gets_the_budget_or_all_there_is_and_nothing_twice(
    budget: int, seed: int
) -> None:
    """The default learning rate, 0.01, is in the lists; that of scenario b, 0.5, is not."""
    scenarios = [{"name": "a"}, {"name": "b", "train": {"lr": 0.5}}]
    tables = {"scenarios": scenarios, "strategies": [FEDAVG, WALK]}
    found = searches_of(tables, budget, seed)
    there = {("a", 0): 27, ("a", 1): 3, ("b", 0): 28, ("b", 1): 4}
    assert {(each.scenario, each.place): each.combinations for each in found} == there
    for search in found:
        assert len(search.settings) == min(budget, search.combinations)
        assert len(set(tried(search))) == len(search.settings)
        own = search.settings[0].values
        assert own["train", "lr"] == {"a": 0.01, "b": 0.5}[search.scenario]


def test_options_that_have_their_default_are_the_entry_as_it_stands() -> None:
    """Without `fraction_train` FedAvg asks all: the combination that says so is no other one."""
    entry = {**FEDAVG, "train": {"lr": 0.1, "local_epochs": 20}}
    (search,) = searches_of({"strategies": [entry]}, 99, 0)
    assert (len(search.settings), search.combinations) == (27, 27)
    own = {("train", "lr"): 0.1, ("train", "local_epochs"): 20, ("options", "fraction_train"): 1.0}
    assert search.settings[0].values == own


@pytest.mark.parametrize(("rounds", "combined"), [(9, 2), (5, 3)])
def test_an_entry_that_has_values_which_belong_together_is_one_of_them(
    rounds: int, combined: int
) -> None:
    pairs = [
        {"rounds": 9, "train": {"local_epochs": 1}},
        {"rounds": 2, "train": {"local_epochs": 5}},
    ]
    entry = {"strategy": "fedavg", "rounds": rounds, "train": {"local_epochs": 1}}
    (search,) = searches_of({"strategies": [{**entry, "tune": {"together": pairs}}]}, 99, 0)
    assert search.combinations == len(search.settings) == combined
    own = search.settings[0].values
    assert (own[("rounds",)], own["train", "local_epochs"]) == (rounds, 1)


@settings(max_examples=20)
@given(st.integers(1, 30), st.integers(0, 99))
def test_other_entries_and_a_larger_budget_do_not_change_what_is_tried_first(
    budget: int, seed: int
) -> None:
    (alone,) = searches_of({"strategies": [FEDAVG]}, budget, seed)
    _, beside = searches_of({"strategies": [WALK, FEDAVG]}, budget, seed)
    (more,) = searches_of({"strategies": [FEDAVG]}, budget + 5, seed)
    assert tried(alone) == tried(beside) == tried(more)[:budget]


def test_a_setting_is_an_entry_that_runs_so() -> None:
    tables: dict[str, Any] = {
        "train": {"batch_size": 8},
        "scenarios": [{"name": "a"}, {"name": "b", "train": {"lr": 0.5}}],
        "strategies": [FEDAVG],
    }
    for search in searches_of(tables, 9, 3):
        for setting in search.settings:
            changed = {**tables, "strategies": [setting.entry]}
            (run,) = comparison_from_tables(changed, "x").runs
            values = {".".join(path): value for path, value in setting.values.items()}
            assert (run.scenario, run.label) == (search.scenario, setting.label)
            assert run.config.train.batch_size == 8
            assert run.config.train.lr == values["train.lr"]
            assert run.config.train.local_epochs == values["train.local_epochs"]
            share = run.config.strategy.keywords().get("fraction_train", 1.0)
            assert share == values["options.fraction_train"]
    assert search.settings[0].values["train", "lr"] == 0.5


def test_an_entry_is_searched_in_its_own_scenarios() -> None:
    scenarios = [{"name": "a"}, {"name": "b"}]
    tables = {"scenarios": scenarios, "strategies": [FEDAVG, {**WALK, "only": ["b"]}]}
    found = [(search.scenario, search.label) for search in searches_of(tables, 2, 0)]
    assert found == [("a", "fedavg"), ("b", "fedavg"), ("b", "mfd-walk")]


def test_where_nothing_may_vary_there_is_nothing_to_tune() -> None:
    with pytest.raises(ConfigError, match=r"^tune = None: missing; no entry says what may vary"):
        searches_of({"strategies": [{"strategy": "fedavg"}]}, 3, 0)
