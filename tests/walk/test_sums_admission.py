"""Sums that lie are refused by name, and what is left is the sums of who told the truth."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from mfd_flower.adversary.attackers import poisoners
from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.ledger import Chains, Entry, follow, packed, unpacked
from mfd_flower.node import check_run
from mfd_flower.packets import delta, repack
from mfd_flower.packets.digest import version_digest
from mfd_flower.records import tensors_of
from mfd_flower.runtime.run_files import RunFiles
from mfd_flower.runtime.runner import run_locally
from mfd_flower.walk import judging, summing
from mfd_flower.walk.custody import PACKET, UNTAKEN, enclosed, sealed
from mfd_flower.walk.hop import hop
from mfd_flower.walk.node_ledger import LEDGER, REFUSALS_TO_DROP, key_of_node
from mfd_flower.walk.traits import admission
from mfd_flower.walk.traits.admission import PARENT
from tests.harness import Trial, trial
from tests.scheduled_faults import Fault
from tests.strategies.test_exact_walk import whole
from tests.walk.walks import chains_of, packet_in, path_of

NODES = 6
JUDGED: dict[str, dict[str, Any]] = {"ledger": {}, "admission": {}}
Settings = Callable[..., RunConfig]


@pytest.fixture
def settings(make_run: Settings) -> Settings:
    def build(kind: str = "", scale: float = 1.0, share: float = 0.2, **told: Any) -> RunConfig:
        options = {"traits": told.pop("traits", JUDGED), **told.pop("options", {})}
        data = {"nodes": NODES, "train_samples": 360, "partition": "iid", **told.pop("data", {})}
        threat = {"kind": kind, "share": share, "scale": scale}
        return make_run(
            "exact-walk", 3, data=data, options=options, threat=threat, model=HEAD, **told
        )

    return build


HEAD = {"tune": "head"}


def refusals(walked: Trial) -> list[Entry]:
    return [entry for entry in chains_of(walked).entries if entry.kind == "refusal"]


def digest_without(run: RunConfig, *addresses: str) -> str:
    """Return the version of the sums of all nodes but some, from their data in one place."""
    left_out = tuple(int(address.removeprefix("n")) for address in addresses)
    return version_digest({"sums": summing.as_tensor(whole(run, left_out))})


def result(walked: Trial) -> dict[str, Any]:
    return vars(walked.strategy)


def model(walked: Trial) -> dict[str, torch.Tensor]:
    arrays = walked.models[-1]
    assert isinstance(arrays, ArrayRecord)
    return tensors_of(arrays)


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
    settings: Settings, kind: str, scale: float
) -> None:
    run = settings(kind, scale)
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
def test_without_admission_they_stay_in(settings: Settings, kind: str, scale: float) -> None:
    """Or the tests above would show nothing."""
    run = settings(kind, scale, traits={"ledger": {}})
    walked = trial(run)
    assert result(walked)["missing"] == []
    assert result(walked)["sums_version"] != digest_without(run)
    assert walked.accuracy < trial(settings(kind, scale)).accuracy


def test_who_adds_nothing_is_missing_by_name_and_not_refused(settings: Settings) -> None:
    run = settings("replay")
    walked = trial(run)
    assert refusals(walked) == []
    assert result(walked)["not_taken"] == {}
    assert result(walked)["missing"] == sorted(poisoners(run))
    assert result(walked)["sums_version"] == digest_without(run, *poisoners(run))


def test_a_changed_bit_costs_a_second_sending_and_nothing_else(settings: Settings) -> None:
    walked = trial(run := settings("tamper"))
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
    settings: Settings, partition: dict[str, Any], walkers: int
) -> None:
    told = {"data": partition, "options": {"walkers": walkers}}
    judged, plain = trial(run := settings(**told)), trial(settings(**told, traits={"ledger": {}}))
    assert refusals(judged) == []
    assert result(judged)["sums_version"] == result(plain)["sums_version"] == digest_without(run)
    for name, tensor in model(plain).items():
        assert torch.equal(model(judged)[name], tensor)
    # One more landing: of the last version, which somebody else judges.
    hops = [each.grid.kinds["train.hop"] for each in (judged, plain)]
    assert hops[0] == hops[1] + 1
    assert "query.judge" not in judged.grid.kinds


@pytest.mark.parametrize("topology", [{"topology": "ring"}, {"topology": "regular", "degree": 3}])
def test_who_only_forwards_hands_the_parent_on(
    settings: Settings, topology: dict[str, Any]
) -> None:
    run = settings("scale", 10.0, network=topology, options={"policy": "random"})
    walked, bad = trial(run), poisoners(run)
    assert {entry.subject for entry in refusals(walked)} == bad
    assert result(walked)["not_taken"] == {}
    assert result(walked)["sums_version"] == digest_without(run, *bad)


@pytest.mark.parametrize(("kind", "scale"), [("scale", 10.0), ("label-flip", 1.0)])
def test_where_walkers_meet_the_honest_are_added_up(
    settings: Settings, kind: str, scale: float
) -> None:
    for start_node in range(3):
        policy = {"name": "round-robin", "advert_hops": 0, "start_node": start_node}
        run = settings(kind, scale, options={"walkers": 2, "policy": policy})
        walked, bad = trial(run), poisoners(run)
        assert {entry.subject for entry in refusals(walked)} == bad
        assert len(refusals(walked)) <= REFUSALS_TO_DROP
        assert result(walked)["sums_version"] == digest_without(run, *bad)


def test_a_lie_cannot_hide_behind_another_of_the_same_author(settings: Settings) -> None:
    """Who builds on its own version is not taken: to refuse that would leave the first one in."""
    run = settings(options={"policy": {"name": "round-robin", "advert_hops": 0}})
    content = trial(run).grid.of("train.hop")[2][0].content
    first = packet_in(content)
    assert (first.source, first.destination) == ("n1", "n2")
    again = summing.as_tensor(whole(run, (2, 3)))
    told = {"samples": first.samples + 120, "included": first.included}
    second, _ = repack(first, {"sums": again}, **told)
    lines = unpacked(content.config_records[LEDGER]["lines"])
    (tip,) = Chains(lines.splitlines()).tips.values()
    entry = follow(
        key_of_node(run.seed, "n1"),
        tip,
        author="n1",
        version=second.version,
        parents=(first.version,),
        samples=second.samples,
        hop=first.hop,
        time_s=float(first.hop),
        size_bytes=1,
    )
    record = {"head": entry.hash, "lines": packed(lines + entry.text + "\n")}
    sent = {PACKET: sealed(second), LEDGER: ConfigRecord(record)}
    sent[PARENT] = enclosed(delta(first, second.version, {"sums"}))
    context = Context(1, 1, {"partition-id": 2}, RecordDict(), run.flat())
    answer = hop(Message(RecordDict({**sent}), 1, "train.hop"), context).content
    assert answer.config_records[UNTAKEN]["text"] == (
        "parent: n1 has built on its own version, which nobody has taken"
    )
    assert not context.state


def test_where_they_meet_the_sums_of_nobody_are_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The meeting node makes up what the other walker brought: it is judged as a whole."""
    true = summing.gather

    def stretched(*told: Any) -> Any:
        total, brought = true(*told), told[-1]
        return None if total is None else total + brought

    monkeypatch.setattr(summing, "gather", stretched)
    walked = trial(settings(options={"walkers": 2}))
    (refused, *_) = refusals(walked)
    assert refused.subject == "n0"
    assert refused.reason == "samples: 180 were signed, 360 are in the sums"


def test_who_was_refused_once_may_add_itself_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receiver that errs, or lies, leaves nobody out for good: the next one judges anew."""
    judge, asked = admission.sums_fault, []

    def unjust(visit: Any, *told: Any) -> str:
        author = visit.ledger.maker(visit.packet).author
        asked.append(author)
        first = author == "n2" and asked.count("n2") == 1
        return "loss: said so" if first else judge(visit, *told)

    monkeypatch.setattr(admission, "sums_fault", unjust)
    walked = trial(run := settings(options={"policy": {"name": "round-robin", "advert_hops": 0}}))
    assert [entry.reason for entry in refusals(walked)] == ["loss: said so"]
    assert result(walked)["sums_version"] == digest_without(run)
    assert result(walked)["missing"] == []
    judges = [packet_in(reply.content).source for request, reply in walked.grid.of("train.hop")
              if reply is not None and packet_in(request.content).source == "n2"]  # fmt: skip
    assert judges == ["n3", "n4"]


def test_what_is_no_sums_at_all_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    true, made = summing.as_tensor, []

    def garbled(sums: Any) -> torch.Tensor:
        made.append(sums.samples)
        once = sums.samples == 180 and made.count(180) == 1
        return torch.zeros(7, dtype=torch.uint8) if once else true(sums)

    monkeypatch.setattr(summing, "as_tensor", garbled)
    walked = trial(settings())
    (refused, *_) = refusals(walked)
    assert refused.reason.startswith("sums: ")
    monkeypatch.undo()
    assert result(walked)["sums_version"] == digest_without(walked.run)


def test_a_parent_that_is_another_is_not_believed(settings: Settings) -> None:
    """A version's author cannot choose what it is compared with."""
    calm = trial(settings())
    parents = [q.content[PARENT] for q, _ in calm.grid.of("train.hop") if PARENT in q.content]

    def change(request: Any) -> None:
        # At the first try; what is asked for then comes whole.
        if PARENT in request.content and packet_in(request.content).hop == 5 and parents:
            request.content[PARENT] = parents.pop(0)
            parents.clear()

    walked = trial(run := settings(), change=change)
    assert not parents
    assert path_of(walked) == path_of(calm)
    assert result(walked)["sums_version"] == digest_without(run)


SPARSE = {"topology": "regular", "degree": 3}


def forwarding(settings: Settings) -> list[RunConfig]:
    """Return walks in which a node hands on what it did not make, and nobody has built on."""
    told = {"network": SPARSE, "options": {"policy": {"name": "random", "advert_hops": 0}}}
    runs = [settings(seed=seed, **told) for seed in range(12)]
    sent = [
        [packet_in(request.content).version for request, _ in trial(run).grid.of("train.hop")]
        for run in runs
    ]
    found = [
        run
        for run, versions in zip(runs, sent, strict=True)
        if any(one == other for one, other in itertools.pairwise(versions))
    ]
    assert len(found) > 1
    return found


def test_a_header_that_is_not_its_authors_is_not_taken(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who only forwarded, and lied, is passed over; the author is not blamed."""
    run = forwarding(settings)[0]

    def lie(visit: Any, *told: Any) -> str:
        forwarded = visit.ledger.maker(visit.packet).author != visit.packet.source
        said = judging.header_fault(visit, *told)
        return said or ("included: forged" if forwarded and visit.packet.hop > 1 else "")

    monkeypatch.setattr(admission, "header_fault", lie)
    walked = trial(run)
    assert {reason for told in result(walked)["not_taken"].values() for reason in told} >= {
        "included"
    }
    assert refusals(walked) == []


def test_the_parent_stays_where_it_is_held(settings: Settings) -> None:
    """Neither nobody's sums, which each node can make, nor what the receiver itself had sent.

    Else it travels until somebody has built on the version.
    """
    for run in forwarding(settings):
        walked = trial(run)
        assert result(walked)["not_taken"] == {}
        path, confirmed = {entry.version: entry for entry in path_of(walked)}, set[str]()
        for request, _ in walked.grid.of("train.hop"):
            packet = packet_in(request.content)
            receiver = walked.grid.address(request.metadata.dst_node_id)
            made = path[packet.version]
            confirmed |= set(made.parents)
            before = path[made.parents[0]] if made.parents else None
            needed = before is not None and before.hop > 0 and before.author != receiver
            assert (PARENT in request.content) == (needed and packet.version not in confirmed)


def test_the_bill_is_one_parent_a_hop_and_one_more_hop(settings: Settings) -> None:
    judged, plain = trial(settings()), trial(settings(traits={"ledger": {}}))
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
def test_who_dies_with_its_word_is_added_all_the_same(settings: Settings, address: str) -> None:
    dies = Fault("dies-after-training", address, message_type="train.hop", downtime=2)
    walked = trial(run := settings(), [dies], timeout=5)
    assert refusals(walked) == []
    assert result(walked)["sums_version"] == digest_without(run)


def test_a_killed_run_goes_on_to_the_same_sums(settings: Settings, tmp_path: Path) -> None:
    run = settings("scale", 10.0)
    points = run_locally(run)["points"]

    def on_point(point: dict[str, object]) -> None:
        if point["step"] == 4:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run_locally(run, on_point, files=RunFiles(tmp_path, "a", 1, resume=True))
    again = run_locally(run, files=RunFiles(tmp_path, "a", 1, resume=True))["points"]
    for point in (*points, *again):
        del point["wall_seconds"]
    assert again == points


def test_the_last_version_counts_once_it_was_judged(settings: Settings) -> None:
    """What the last node added is shown to another before the model has it."""
    judged = trial(settings())
    *_, before, after = (tensors_of(arrays) for arrays in judged.models)
    assert not torch.equal(before["head.weight"], after["head.weight"])
    plain = trial(settings(traits={"ledger": {}}))
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
    settings: Settings, told: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        trial(settings(**told))


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
