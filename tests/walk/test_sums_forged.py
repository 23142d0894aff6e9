"""What a node forges in a packet of sums, or beside it, is named, and harms itself alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from mfd_flower.config import RunConfig
from mfd_flower.ledger import Chains, follow, packed, unpacked
from mfd_flower.packets import delta, repack
from mfd_flower.walk import judging, summing
from mfd_flower.walk.custody import PACKET, UNTAKEN, enclosed, sealed
from mfd_flower.walk.hop import hop
from mfd_flower.walk.node_ledger import LEDGER, key_of_node
from mfd_flower.walk.traits import admission
from mfd_flower.walk.traits.admission import PARENT
from tests.harness import trial
from tests.strategies.test_exact_walk import whole
from tests.walk.summed import Settings, digest_without, refusals, result
from tests.walk.walks import packet_in, path_of


def test_a_lie_cannot_hide_behind_another_of_the_same_author(judged: Settings) -> None:
    """Who builds on its own version is not taken: to refuse that would leave the first one in."""
    run = judged(options={"policy": {"name": "round-robin", "advert_hops": 0}})
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
    judged: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The meeting node makes up what the other walker brought: it is judged as a whole."""
    true = summing.gather

    def stretched(*told: Any) -> Any:
        total, brought = true(*told), told[-1]
        return None if total is None else total + brought

    monkeypatch.setattr(summing, "gather", stretched)
    walked = trial(judged(options={"walkers": 2}))
    (refused, *_) = refusals(walked)
    assert refused.subject == "n0"
    assert refused.reason == "samples: 180 were signed, 360 are in the sums"


def test_who_was_refused_once_may_add_itself_again(
    judged: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receiver that errs, or lies, leaves nobody out for good: the next one judges anew."""
    judge, asked = admission.sums_fault, []

    def unjust(visit: Any, *told: Any) -> str:
        author = visit.ledger.maker(visit.packet).author
        asked.append(author)
        first = author == "n2" and asked.count("n2") == 1
        return "loss: said so" if first else judge(visit, *told)

    monkeypatch.setattr(admission, "sums_fault", unjust)
    walked = trial(run := judged(options={"policy": {"name": "round-robin", "advert_hops": 0}}))
    assert [entry.reason for entry in refusals(walked)] == ["loss: said so"]
    assert result(walked)["sums_version"] == digest_without(run)
    assert result(walked)["missing"] == []
    judges = [packet_in(reply.content).source for request, reply in walked.grid.of("train.hop")
              if reply is not None and packet_in(request.content).source == "n2"]  # fmt: skip
    assert judges == ["n3", "n4"]


def test_what_is_no_sums_at_all_is_refused(
    judged: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    true, made = summing.as_tensor, []

    def garbled(sums: Any) -> torch.Tensor:
        made.append(sums.samples)
        once = sums.samples == 180 and made.count(180) == 1
        return torch.zeros(7, dtype=torch.uint8) if once else true(sums)

    monkeypatch.setattr(summing, "as_tensor", garbled)
    walked = trial(judged())
    (refused, *_) = refusals(walked)
    assert refused.reason.startswith("sums: ")
    monkeypatch.undo()
    assert result(walked)["sums_version"] == digest_without(walked.run)


def test_a_parent_that_is_another_is_not_believed(judged: Settings) -> None:
    """A version's author cannot choose what it is compared with."""
    calm = trial(judged())
    parents = [q.content[PARENT] for q, _ in calm.grid.of("train.hop") if PARENT in q.content]

    def change(request: Any) -> None:
        # At the first try; what is asked for then comes whole.
        if PARENT in request.content and packet_in(request.content).hop == 5 and parents:
            request.content[PARENT] = parents.pop(0)
            parents.clear()

    walked = trial(run := judged(), change=change)
    assert not parents
    assert path_of(walked) == path_of(calm)
    assert result(walked)["sums_version"] == digest_without(run)


SPARSE = {"topology": "regular", "degree": 3}


def forwarding(judged: Settings) -> Iterator[RunConfig]:
    """Yield walks in which a node hands on what it did not make, and nobody has built on."""
    told = {"network": SPARSE, "options": {"policy": {"name": "random", "advert_hops": 0}}}
    for seed in itertools.count():
        run = judged(seed=seed, **told)
        sent = [packet_in(request.content) for request, _ in trial(run).grid.of("train.hop")]
        if any(one.version == other.version for one, other in itertools.pairwise(sent)):
            yield run


def test_a_header_that_is_not_its_authors_is_not_taken(
    judged: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who only forwarded, and lied, is passed over; the author is not blamed."""
    run = next(forwarding(judged))

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


def test_the_parent_stays_where_it_is_held(judged: Settings) -> None:
    """Neither nobody's sums, which each node can make, nor what the receiver itself had sent.

    Else it travels until somebody has built on the version.
    """
    for run in itertools.islice(forwarding(judged), 2):
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
