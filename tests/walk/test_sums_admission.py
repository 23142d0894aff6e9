"""Sums that lie are refused by name, and what is left is the sums of who told the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mfd_flower.adversary.attackers import poisoners
from mfd_flower.checks import ConfigError
from mfd_flower.records import tensors_of
from mfd_flower.run_checks import check_run
from mfd_flower.walk.node_ledger import REFUSALS_TO_DROP
from mfd_flower.walk.traits.admission import PARENT
from tests.harness import trial, whole_and_stopped
from tests.scheduled_faults import Fault
from tests.walk.summed import HEAD, JUDGED, Settings, digest_without, model, refusals, result
from tests.walk.walks import packet_in, path_of

ATTACKS = {
    ("label-flip", 1.0): ("loss: ", "accuracy: "),
    ("sign-flip", 1.0): ("loss: ", "accuracy: "),
    ("sign-flip", 3.0): ("bounds: ", "whole numbers: ", "scatter: "),
    ("scale", 10.0): ("bounds: ",),
    ("scale", 1.5): ("bounds: ", "whole numbers: ", "scatter: "),
    ("noise", 1.0): ("bounds: ",),
    ("claim-member", 1.0): ("included: ",),
    ("deny-member", 1.0): ("included: ",),
    ("claim-samples", 3.0): ("samples: 180 were signed, 60 are in the sums",),
}


@pytest.mark.parametrize(("kind", "scale"), ATTACKS)
def test_what_is_left_is_the_sums_of_honest_nodes(
    judged: Settings, kind: str, scale: float
) -> None:
    run = judged(kind, scale)
    walked, bad = trial(run), poisoners(run)
    assert len(bad) == 1
    refused = refusals(walked)
    assert [entry.subject for entry in refused] == [*bad] * REFUSALS_TO_DROP
    assert all(entry.reason.startswith(ATTACKS[kind, scale]) for entry in refused)
    assert result(walked)["sums_version"] == digest_without(run, *bad)
    assert result(walked)["missing"] == sorted(bad)
    assert path_of(walked)[-1].version == digest_without(run, *bad)
    assert not bad & {entry.author for entry in path_of(walked)[1:]}


@pytest.mark.parametrize(("kind", "scale"), [("scale", 10.0), ("label-flip", 1.0)])
def test_without_admission_they_stay_in(judged: Settings, kind: str, scale: float) -> None:
    """Or the tests above would show nothing."""
    run = judged(kind, scale, traits={"ledger": {}})
    walked = trial(run)
    assert result(walked)["missing"] == []
    assert result(walked)["sums_version"] != digest_without(run)
    assert walked.accuracy < trial(judged(kind, scale)).accuracy


def test_who_adds_nothing_is_missing_by_name_and_not_refused(judged: Settings) -> None:
    run = judged("replay")
    walked = trial(run)
    assert refusals(walked) == []
    assert result(walked)["not_taken"] == {}
    assert result(walked)["missing"] == sorted(poisoners(run))
    assert result(walked)["sums_version"] == digest_without(run, *poisoners(run))


def test_a_changed_bit_costs_a_second_sending_and_nothing_else(judged: Settings) -> None:
    walked = trial(run := judged("tamper"))
    assert refusals(walked) == []
    assert result(walked)["sums_version"] == digest_without(run)


@pytest.mark.parametrize(
    "partition",
    [
        {"partition": "iid"},
        {"partition": "dirichlet", "alpha": 0.1},
        {"partition": "classes", "classes": 2},
        {"partition": "classes", "classes": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("walkers", [1, 2])
def test_an_honest_walk_ends_with_the_same_sums_and_head(
    judged: Settings, partition: dict[str, Any], walkers: int
) -> None:
    told = {"data": partition, "options": {"walkers": walkers}}
    judged, plain = trial(run := judged(**told)), trial(judged(**told, traits={"ledger": {}}))
    assert refusals(judged) == []
    assert result(judged)["sums_version"] == result(plain)["sums_version"] == digest_without(run)
    for name, tensor in model(plain).items():
        assert torch.equal(model(judged)[name], tensor)
    # One more landing: of the last version, which somebody else judges.
    hops = [each.grid.kinds["train.hop"] for each in (judged, plain)]
    assert hops[0] == hops[1] + 1
    assert "query.judge" not in judged.grid.kinds


@pytest.mark.parametrize("topology", [{"topology": "ring"}, {"topology": "regular", "degree": 3}])
def test_who_only_forwards_hands_the_parent_on(judged: Settings, topology: dict[str, Any]) -> None:
    run = judged("scale", 10.0, network=topology, options={"policy": "random"})
    walked, bad = trial(run), poisoners(run)
    assert {entry.subject for entry in refusals(walked)} == bad
    assert result(walked)["not_taken"] == {}
    assert result(walked)["sums_version"] == digest_without(run, *bad)


@pytest.mark.parametrize(("kind", "scale"), [("scale", 10.0), ("label-flip", 1.0)])
def test_where_walkers_meet_the_honest_are_added_up(
    judged: Settings, kind: str, scale: float
) -> None:
    for start_node in range(3):
        policy = {"name": "round-robin", "advert_hops": 0, "start_node": start_node}
        run = judged(kind, scale, options={"walkers": 2, "policy": policy})
        walked, bad = trial(run), poisoners(run)
        assert {entry.subject for entry in refusals(walked)} == bad
        assert len(refusals(walked)) <= REFUSALS_TO_DROP
        assert result(walked)["sums_version"] == digest_without(run, *bad)


def test_the_bill_is_one_parent_a_hop_and_one_more_hop(judged: Settings) -> None:
    judged, plain = trial(judged()), trial(judged(traits={"ledger": {}}))
    sent = [packet_in(request.content) for request, _ in judged.grid.of("train.hop")]
    sizes = [len(packet.payload["sums"]) for packet in sent]
    parents = [
        packet_in(q.content, PARENT) for q, _ in judged.grid.of("train.hop") if PARENT in q.content
    ]
    # The first version has no parent that others could not make.
    assert [len(parent.payload["sums"]) for parent in parents] == sizes[1:-1]
    payload = [each.grid.totals()["payload"] for each in (judged, plain)]
    assert payload[0] - payload[1] == sizes[-1] + sum(sizes[1:-1])


@pytest.mark.parametrize("address", ["n1", "n2", "n4"])
def test_who_dies_with_its_word_is_added_all_the_same(judged: Settings, address: str) -> None:
    dies = Fault("dies-after-training", address, message_type="train.hop", downtime=2)
    walked = trial(run := judged(), [dies], timeout=5)
    assert refusals(walked) == []
    assert result(walked)["sums_version"] == digest_without(run)


def test_a_killed_run_goes_on_to_the_same_sums(judged: Settings, tmp_path: Path) -> None:
    whole, again, _ = whole_and_stopped(judged("scale", 10.0), tmp_path, 4)
    assert again == whole


def test_the_last_version_counts_once_it_was_judged(judged: Settings) -> None:
    """What the last node added is shown to another before the model has it."""
    shown = trial(judged())
    *_, before, after = (tensors_of(arrays) for arrays in shown.models)
    assert not torch.equal(before["head.weight"], after["head.weight"])
    plain = trial(judged(traits={"ledger": {}}))
    *_, last = (tensors_of(arrays) for arrays in plain.models)
    assert torch.equal(after["head.weight"], last["head.weight"])


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"traits": {"admission": {}}}, "options.traits.admission = {}: needs trait ledger"),
        ({"traits": {**JUDGED, "noise": {}}}, "does not go with trait admission"),
        ({"traits": {**JUDGED, "mask": {}}}, "does not go with trait admission"),
        ({"traits": {**JUDGED, "contributions": {}}}, "does not go with trait admission"),
        ({"options": {"walkers": 3}}, "options.walkers = 3: accepted with admission: up to 2"),
    ],
)
def test_what_does_not_go_with_it_is_named(
    judged: Settings, told: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        trial(judged(**told))


def test_a_session_does_not_go_with_it(make_run: Settings) -> None:
    options = {"traits": JUDGED, "session": 2}
    with pytest.raises(ConfigError, match=r"options.session = 2: accepted with admission: 0"):
        trial(make_run("exact-walk", 1, options=options, model={"tune": "prompts"}))


def test_lies_about_members_are_for_packets_of_sums(make_run: Settings) -> None:
    for kind in ("repeat", "claim-member", "deny-member", "claim-samples"):
        run = make_run("mfd-walk", threat={"kind": kind, "scale": 2.0}, model=HEAD)
        said = f"threat.kind = '{kind}': accepted where packets carry sums: exact-walk"
        with pytest.raises(ConfigError, match=said):
            check_run(run)
