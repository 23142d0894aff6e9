"""What may be set is read from the class: bounds, choices and texts are said once, there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from flwr.serverapp.strategy import FedAvg, FedProx

from mfd_flower.checks import Bounds, ConfigError, bounded, build
from mfd_flower.config import RunConfig
from mfd_flower.parameters import parameters_of, rows
from mfd_flower.strategy import build_strategy


@dataclass(frozen=True)
class Inner:
    """A table."""

    depth: int = bounded(2, 0, 9)
    """How deep it goes,
    in metres."""


@dataclass(frozen=True)
class Trait:
    """A trait is its options."""

    needed: str
    share: float = bounded(0.5, 0.0, 1.0, open_low=True)
    """Of the update."""
    how: Literal["quick", "slow"] = "quick"
    many: tuple[int, ...] = (1, 2)
    inner: Inner = Inner()
    """Below."""
    more: Mapping[str, int] = field(default_factory=dict)
    least: Annotated[int, Bounds(1)] = 1


class Optional(FedAvg):
    """A strategy with options."""

    Options = Trait

    def __init__(self, run: RunConfig, **options: Any) -> None:
        super().__init__()
        self.run, self.options = run, build(Trait, options, "options.")


def test_fields_are_described_as_the_class_declares_them() -> None:
    found = parameters_of(Trait)
    assert list(found) == ["needed", "share", "how", "many", "inner", "more", "least"]
    nothing = {"choices": None, "low": None, "open_low": False, "high": None, "text": None}
    assert found["needed"] == {**nothing, "type": "str", "required": True, "default": None}
    bounds = {"low": 0.0, "open_low": True, "high": 1.0, "text": "Of the update."}
    share = {"type": "float", "required": False, "default": 0.5, "choices": None}
    assert found["share"] == {**share, **bounds}
    assert (found["how"]["type"], found["how"]["choices"]) == ("str", ["quick", "slow"])
    assert found["many"]["default"] == [1, 2]
    assert found["inner"]["type"] == "table"
    assert found["inner"]["options"]["depth"]["text"] == "How deep it goes, in metres."
    assert found["more"]["default"] == {}
    least = found["least"]
    assert (least["type"], least["low"], least["high"]) == ("int", 1, None)
    json.dumps(found, allow_nan=False)
    assert parameters_of(Optional) == found


def test_rows_say_what_is_accepted() -> None:
    accepted = {name: words for name, _, _, words, _ in rows(parameters_of(Trait))}
    assert accepted["share"] == "above 0 to 1"
    assert accepted["how"] == "quick, slow"
    assert accepted["inner.depth"] == "from 0 to 9"
    assert accepted["needed"] == ""


def test_constructor_keywords_stand_in_where_there_are_no_options() -> None:
    found = parameters_of(FedProx)
    assert found["proximal_mu"]["type"] == "float"
    assert found["fraction_train"]["default"] == 1.0
    assert found["fraction_train"]["text"].startswith("Fraction of nodes used during training")
    assert found["proximal_mu"]["required"] is False
    assert "train_metrics_aggr_fn" not in found, "a function cannot stand in settings"
    assert "run" not in parameters_of(Optional)


def test_a_strategy_is_built_with_its_options(make_run: Callable[..., RunConfig]) -> None:
    name = f"{__name__}:Optional"
    run = make_run(name, options={"needed": "x", "inner": {"depth": 3}})
    built = build_strategy(run)
    assert isinstance(built, Optional)
    assert (built.run, built.options) == (run, Trait("x", inner=Inner(3)))
    for options, said in (
        ({"need": 1}, "options.need = 1: .* accepts: needed, share, how"),
        ({"needed": "x", "share": 0.0}, "options.share = 0.0: must be above 0"),
        ({"needed": "x", "inner": {"depth": 10}}, "options.inner.depth = 10: must be at least 0"),
    ):
        with pytest.raises(ConfigError, match=said):
            build_strategy(make_run(name, options=options))
