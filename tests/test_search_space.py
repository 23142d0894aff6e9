"""What may vary in an entry: read from its `tune` table, drawn without repetition."""

from __future__ import annotations

import json
import math
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.checks import ConfigError
from mfd_flower.comparison import comparison_from_tables
from mfd_flower.search_space import combinations, in_drawn_order, search_space, varied

ROOT = Path(__file__).parents[1]
LR, EPOCHS, SHARE = ("train", "lr"), ("train", "local_epochs"), ("options", "fraction_train")
NAMES = ("lr", "momentum", "local_epochs", "weight_decay")
TRAIN = st.dictionaries(
    st.sampled_from(NAMES), st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True)
)


def text_of(values: Any) -> str:
    return json.dumps(sorted((list(path), value) for path, value in values.items()))


@given(TRAIN, st.integers(0, 2**40))
def test_every_combination_is_drawn_once(train: dict[str, Any], seed: int) -> None:
    space = search_space({"train": train}, {})
    drawn = [text_of(values) for values in in_drawn_order(space, seed)]
    assert len(drawn) == len(set(drawn)) == combinations(space) == math.prod(
        len(values) for values in train.values()
    )  # fmt: skip


@given(TRAIN, st.integers(0, 2**40))
def test_the_order_follows_from_lists_and_seed_and_not_from_the_lines(
    train: dict[str, Any], seed: int
) -> None:
    backwards = dict(reversed(train.items()))
    here, there = (search_space({}, {"train": lines}) for lines in (train, backwards))
    assert in_drawn_order(here, seed) == in_drawn_order(there, seed)


def test_another_seed_draws_other_settings_first() -> None:
    space = search_space({"train": {"lr": [1, 2, 3], "local_epochs": [1, 2, 3]}}, {})
    firsts = {text_of(in_drawn_order(space, seed)[0]) for seed in range(50)}
    assert len(firsts) > 5


def test_an_entrys_list_counts_in_place_of_the_common_one_and_an_empty_one_takes_it_out() -> None:
    common = {"train": {"lr": [0.1, 0.2], "local_epochs": [1, 5]}}
    own = {"train": {"lr": [0.3], "local_epochs": []}, "options": {"fraction_train": [0.5, 1.0]}}
    found = {each.path: each.values for each in search_space(common, own)}
    assert found == {LR: (0.3,), SHARE: (0.5, 1.0)}
    assert {each.path for each in search_space(common, {})} == {LR, EPOCHS}
    assert search_space({}, {}) == ()
    assert combinations(()) == len(in_drawn_order((), 0)) == 1


def test_values_that_belong_together_vary_as_one() -> None:
    pairs = [
        {"rounds": 40, "train": {"local_epochs": 1}},
        {"rounds": 4, "train": {"local_epochs": 20}},
    ]
    space = search_space({}, {"together": pairs, "train": {"lr": [0.1, 0.2]}})
    drawn = in_drawn_order(space, 0)
    assert combinations(space) == len(drawn) == 4
    assert {(each[("rounds",)], each[EPOCHS]) for each in drawn} == {(40, 1), (4, 20)}
    entry = {"strategy": "fedavg", "rounds": 9, "train": {"lr": 0.3, "local_epochs": 5}}
    found = [varied(entry, values) for values in drawn]
    assert {(each["rounds"], each["train"]["local_epochs"]) for each in found} == {(40, 1), (4, 20)}
    assert {each["train"]["lr"] for each in found} == {0.1, 0.2}


def test_values_take_their_places_and_all_else_stays() -> None:
    options = {"policy": "random", "traits": {"damping": {"end": 0.2, "tours": 1.0}}}
    entry = {"strategy": "x", "tune": {"rounds": [1]}, "options": options}
    values = {
        ("rounds",): 3,
        LR: 0.1,
        ("options", "traits", "damping", "end"): 0.4,
        ("options", "policy", "name"): "interest",
    }
    before = json.dumps(entry)
    assert varied(entry, values) == {
        "strategy": "x",
        "rounds": 3,
        "train": {"lr": 0.1},
        "options": {
            "policy": {"name": "interest"},
            "traits": {"damping": {"end": 0.4, "tours": 1.0}},
        },
    }
    assert json.dumps(entry) == before


def deep(levels: int) -> dict[str, Any]:
    table: dict[str, Any] = {"a": [1]}
    for _ in range(levels):
        table = {"a": table}
    return table


@pytest.mark.parametrize(
    ("common", "own", "line"),
    [
        ([1], {}, "tune = [1]: a table of lists of values to try"),
        ({}, "lr", "strategies.tune = 'lr': a table of lists of values to try"),
        ({"data": {"nodes": [3]}}, {}, "tune.data = {'nodes': [3]}: unknown key; accepted: rounds"),
        ({}, {"train.lr": [1]}, "strategies.tune.train.lr = [1]: one key, for it is in quotes"),
        ({}, {"train": {"lr": 0.1}}, "strategies.tune.train.lr = 0.1: a list of values to try"),
        ({"rounds": 3}, {}, "tune.rounds = 3: a list of values to try"),
        ({}, {"train": {"lr": [1, 2, 1]}}, "strategies.tune.train.lr = [1, 2, 1]: each value once"),
        ({}, {"options": {"x": [{}, {}]}}, "strategies.tune.options.x = [{}, {}]: each value once"),
        ({}, {"train": {"lr": [0.1, 0.0]}}, "strategies.tune.train.lr = 0.0: must be above 0"),
        ({"train": {"lr": ["a"]}}, {}, "tune.train.lr = 'a': must be a number"),
        ({"train": {"speed": [1]}}, {}, "tune.train.speed = 1: unknown key; accepted: optimizer"),
        ({"train": [1]}, {}, "tune.train = 1: a table"),
        ({"model": {"tune": ["bias"]}}, {}, "tune.model.tune = 'bias': accepted: full, head"),
        ({"rounds": [0]}, {}, "tune.rounds = 0: must be at least 1"),
        ({"options": {"x": [ROOT]}}, {}, "JSON has no such values"),
        ({"options": deep(9999)}, {}, "nested too deep"),
        ({"together": {"rounds": 1}}, {}, "tune.together = {'rounds': 1}: a list of tables, each"),
        ({"together": [{"rounds": 1}, 2]}, {}, "tune.together = 2: a table of values that belong"),
        ({"together": [{}]}, {}, "tune.together = {}: a table of values that belong together"),
        ({"together": [{"data": {"nodes": 3}}]}, {}, "tune.together.data = {'nodes': 3}: unknown"),
        ({"together": [{"rounds": 0}]}, {}, "tune.together = {'rounds': 0}: must be at least 1"),
        ({"together": [{"options": deep(9999)}]}, {}, "nested too deep"),
        (
            {"together": [{"rounds": 1, "train": {"lr": 1.0}}, {"rounds": 2}]},
            {},
            "tune.together = {'rounds': 2}: values of rounds, train.lr, as in the first of these",
        ),
        (
            {"rounds": [1, 2]},
            {"together": [{"rounds": 3}]},
            "strategies.tune.together = 'rounds': tune.rounds sets it too; accepted: one list",
        ),
        (
            {"options": {"features": [{"bits": 3}]}},
            {"options": {"features": {"bits": [4]}}},
            "'options.features.bits': tune.options.features sets it too; accepted: one list",
        ),
    ],
)
def test_a_bad_tune_table_is_one_line(common: Any, own: Any, line: str) -> None:
    tables = {"tune": common, "strategies": [{"strategy": "fedavg", "tune": own}]}
    with pytest.raises(ConfigError) as refused:
        comparison_from_tables(tables, "x")
    said = str(refused.value)
    assert said.startswith(line) or said.endswith(line)
    assert "\n" not in said


def test_too_many_combinations_are_refused() -> None:
    many = list(range(1, 102))
    lists = {"train": {"lr": many}, "options": {"a": many, "b": many}}
    with pytest.raises(ConfigError, match=r"^strategies\.tune = '1030301 combinations': at most"):
        search_space(lists, {})


def test_a_value_is_tried_in_each_scenario_of_its_entry_alone() -> None:
    """Another view in each epoch does not go with distillation, which one scenario has."""
    tables = {
        "scenarios": [{"name": "a"}, {"name": "b", "train": {"distillation": 0.1}}],
        "strategies": [{"strategy": "x", "tune": {"train": {"augmentation": ["crop-flip"]}}}],
    }
    with pytest.raises(ConfigError, match=r"strategies\.tune\.train\.augmentation = 'crop-flip'"):
        comparison_from_tables(tables, "x")
    tables["strategies"][0]["only"] = ["a"]
    assert len(comparison_from_tables(tables, "x").runs) == 1


def test_a_comparison_is_the_same_with_and_without_what_may_vary() -> None:
    entry = {"strategy": "fedavg", "train": {"lr": 0.2}}
    tuned = {"tune": {"rounds": [1]}, "strategies": [{**entry, "tune": {"train": {"lr": [1.0]}}}]}
    with_it, without = (
        comparison_from_tables(tables, "x").describe()
        for tables in (tuned, {"strategies": [entry]})
    )
    assert with_it == without


def test_the_example_of_the_docs_is_read_as_it_says() -> None:
    page = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    tables = tomllib.loads(text)
    assert len(comparison_from_tables(tables, "x").runs) == 3
    spaces = [search_space(tables["tune"], entry["tune"]) for entry in tables["strategies"]]
    assert [combinations(space) for space in spaces] == [27, 8, 1]
