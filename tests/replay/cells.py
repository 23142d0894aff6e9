"""Small runs whose numbers are kept: what each strategy and option does, on digits and fm-tiny.

Few steps of plain SGD, so that processors that round differently end at the same model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mfd_flower.config import FaultsConfig, RunConfig
from tests.scheduled_faults import Fault, Rates, Rule

DATA = {
    **{"name": "digits", "nodes": 5, "train_samples": 150, "test_samples": 100},
    "validation": 0.0,
}
SKEWED = {"partition": "dirichlet", "alpha": 0.5}
TRAIN = {"optimizer": "sgd", "lr": 0.05, "batch_size": 10}
TERMS = {
    "logit_adjustment": 1.0,
    "keep_absent_rows": True,
    "distillation": 2.0,
    "proximal_mu": 0.01,
}
HEAD = {"tune": "head"}
PROMPTS = {"tune": "prompts", "prompts": 2}
DAMPED = {"damping": {"start": 1.0, "end": 0.4, "tours": 2.0}}
FLOWER = "flwr.serverapp.strategy:"


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes
    ----------
    strategy, rounds, options
        As in a comparison's entry.
    tables : mapping
        Sections that differ from the small defaults above.
    faults : sequence of Rule
        What goes wrong on the way.
    serves : int
        Samples of a request to the trained model; 0 for none.
    """

    strategy: str
    rounds: int = 2
    options: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    faults: Sequence[Rule] = ()
    serves: int = 0

    def run(self) -> RunConfig:
        """Return the settings."""
        tables = dict(self.tables)
        return RunConfig.from_tables(
            {
                "data": {**DATA, **tables.pop("data", {})},
                "model": {**HEAD, **tables.pop("model", {})},
                "train": {**TRAIN, **tables.pop("train", {})},
                "strategy": {
                    "name": self.strategy,
                    "rounds": self.rounds,
                    "options": json.dumps(dict(self.options)),
                },
                **tables,
            }
        )


def walk(
    policy: str | Mapping[str, Any] = "round-robin",
    traits: Mapping[str, Any] | None = None,
    walkers: int = 1,
    rounds: int = 2,
    faults: Sequence[Rule] = (),
    **tables: Mapping[str, Any],
) -> Cell:
    """Return a cell of the walk."""
    options: dict[str, Any] = {"policy": policy}
    if walkers > 1:
        options["walkers"] = walkers
    if traits:
        options["traits"] = traits
    return Cell("mfd-walk", rounds, options, {"data": SKEWED, **tables}, faults)


JUDGED = {"ledger": {}, "admission": {}}
SIX = {**SKEWED, "nodes": 6, "train_samples": 180}
EVEN = {"nodes": 6, "train_samples": 360, "partition": "iid"}

CELLS: dict[str, Cell] = {
    "fedavg": Cell("fedavg", tables={"model": PROMPTS}),
    "fedavg, every loss term": Cell("fedavg", tables={"data": SKEWED, "train": TERMS}),
    "fedavg, federated evaluation": Cell("fedavg", options={"fraction_evaluate": 1.0}),
    "fedavg, backdoor": Cell(
        "fedavg", tables={"threat": {"kind": "backdoor", "share": 0.4, "scale": 2.0}}
    ),
    "local only": Cell("local-only", tables={"data": SKEWED}),
    "centralised": Cell("centralised", tables={"data": SKEWED}),
    "foreign: FedAdam": Cell(FLOWER + "FedAdam", options={"eta": 0.01}, tables={"data": SKEWED}),
    "foreign: FedProx": Cell(FLOWER + "FedProx", options={"proximal_mu": 0.1}),
    "foreign: trimmed mean under noise": Cell(
        FLOWER + "FedTrimmedAvg", options={"beta": 0.2}, tables={"threat": {"kind": "noise"}}
    ),
    "walk": Cell("mfd-walk", tables={"data": SKEWED, "model": PROMPTS}),
    "walk, random": walk("random"),
    "walk, kl-near": walk({"name": "kl-near", "memory": 3}),
    "walk, label-balance": walk({"name": "label-balance", "memory": 4}),
    "walk, interest": walk({"name": "interest", "memory": 2}),
    "walk, fastest": walk("fastest"),
    "walk, weighted": walk({"name": "weighted", "w_speed": 0.0}),
    "walk, metropolis": walk({"name": "metropolis", "epsilon": 0.2, "target": "samples"}),
    "walk, start": walk({"name": "round-robin", "start_node": 2}),
    "walk, adverts two links far": walk(
        {"name": "label-balance", "advert_hops": 2}, network={"topology": "ring"}
    ),
    "walk, adverts every tour": walk({"name": "random", "advert_every": 1}),
    "walk, noised adverts": walk({"name": "label-balance", "noise_epsilon": 1.0}),
    "walk, every loss term": walk(train=TERMS, rounds=1),
    "walk, lora": walk(rounds=1, model={"tune": "lora"}),
    "walk, full": walk(rounds=1, model={"tune": "full"}, train={"lr": 0.01}),
    "walk, damping": walk(traits=DAMPED),
    "walk, optimizer": walk(traits={"optimizer": {}}, train={"momentum": 0.9}),
    "walk, bf16": walk(traits={"codec": {"name": "bf16"}}),
    "walk, fp16": walk(traits={"codec": {"name": "fp16"}}),
    "walk, int8": walk(traits={"codec": {"name": "int8"}}, model=PROMPTS),
    "walk, delta": walk(traits={"delta": {}}, model=PROMPTS),
    "walk, entropy": walk(
        traits={"partial": {"by": "entropy", "budget": 0.5}},
        model=PROMPTS,
        train={"logit_adjustment": 1.0},
    ),
    "walk, least recent": walk(
        traits={"partial": {"by": "least-recent", "budget": 0.4}}, model=PROMPTS
    ),
    "walk, visit in time": walk(
        traits={"partial": {"by": "least-recent", "visit_s": 0.3}},
        model=PROMPTS,
        network={"d2d_bps": 1e6},
    ),
    "walk, entropy, int8, delta, damping": walk(
        traits={
            "partial": {"by": "entropy", "budget": 0.5},
            "codec": {"name": "int8"},
            "delta": {},
            **DAMPED,
        },
        model=PROMPTS,
        train={"logit_adjustment": 1.0, "keep_absent_rows": True, "distillation": 2.0},
    ),
    "walk, two walkers": walk("random", walkers=2, data=SIX),
    "walk, two walkers, damping": walk("label-balance", DAMPED, walkers=2, data=SIX),
    "walk, two walkers, delta": walk("random", {"delta": {}}, walkers=2, data=SIX),
    "walk, ledger": walk("random", {"ledger": {}}, data=SIX),
    "walk, ledger, two walkers": walk("random", {"ledger": {}}, walkers=2, data=SIX),
    "walk, admission": walk("random", {**JUDGED, **DAMPED}, data=EVEN),
    "walk, admission, sign flip": walk(
        "random",
        JUDGED,
        rounds=3,
        data=EVEN,
        train={"lr": 0.3},
        threat={"kind": "sign-flip", "scale": 3.0},
    ),
    "walk, admission, int8, delta, two walkers": walk(
        "random",
        {**JUDGED, "codec": {"name": "int8"}, "delta": {}},
        walkers=2,
        data=EVEN,
    ),
    "walk, admission, replay": walk("random", JUDGED, data=EVEN, threat={"kind": "replay"}),
    "walk, label flip": walk(threat={"kind": "label-flip"}),
    "walk, ledger, tamper": walk("random", {"ledger": {}}, threat={"kind": "tamper"}),
    "walk, next hop dies": walk(
        faults=[Fault("dies-before-training", "n2", message_type="train.hop")]
    ),
    "walk, holder and next hop die": walk(
        traits={"ledger": {}, "delta": {}},
        faults=[
            Fault("dies-after-reply", "n1", message_type="train.hop"),
            Fault("dies-before-training", "n2", message_type="train.hop"),
        ],
    ),
    "walk, faults by rate": walk(
        "random", rounds=4, faults=[Rates(FaultsConfig(loss=0.2, death=0.05, downtime=3), seed=1)]
    ),
    "hfsl": Cell("hfsl", options={"cluster_size": 3}, tables={"model": PROMPTS}, serves=20),
    "hfsl, u-shape, int8, rotating": Cell(
        "hfsl",
        options={"cluster_size": 2, "u_shape": True, "codec": "int8", "rotate": True},
        tables={"model": PROMPTS},
    ),
    "hfsl, two clusters with an edge, planned cuts": Cell(
        "hfsl",
        options={"clusters": 2, "cluster_size": 3, "edge_stages": [1], "cuts": "planned"},
        tables={"model": PROMPTS, "train": {"logit_adjustment": 1.0}},
    ),
    "hfsl, lora": Cell("hfsl", 1, {"cluster_size": 2}, {"model": {"tune": "lora"}}),
}
