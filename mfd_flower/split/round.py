"""The edge server's part in a round: ask all members at once, stand in where it must, collect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from mfd_flower.config import RunConfig
from mfd_flower.network.world import EDGE
from mfd_flower.records import integer, text
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.split.frames import LinkError
from mfd_flower.split.gloo import free_port
from mfd_flower.split.member import FAILURE, member_report
from mfd_flower.split.pipeline import StageResult
from mfd_flower.split.roster import Roster


@dataclass(frozen=True)
class Outcome:
    """Round of one cluster."""

    content: RecordDict | None
    """All arrays and metrics of its members; None if the round failed."""
    lost: frozenset[str] = frozenset()
    """Members that failed, not those that only heard of it."""
    reason: str = ""
    """Of a failure."""
    met: bool = True
    """False if the members were not there at the same time."""


def run_round(
    grid: MeteredGrid,
    rosters: Sequence[Roster],
    run: RunConfig,
    message_type: str,
    contents: Callable[[Roster, str], RecordDict],
    stand_in: Callable[[Roster, int], StageResult],
    *,
    timeout: float,
    fits: int,
) -> list[Outcome]:
    """Let clusters work side by side; returns their outcomes in the order of `rosters`.

    Each member gets a request with what `contents` makes of roster and address; the edge server
    does `stand_in` at its positions, in threads of its own. Replies are waited for `timeout`
    seconds; `fits` is 1 for training, 0 for inference.
    """
    requests = {name: contents(roster, name) for roster in rosters for name in roster.nodes}
    seats = [(roster, place) for roster in rosters for place in roster.positions(EDGE)]
    began = grid.known
    with ThreadPoolExecutor(max(1, len(seats))) as pool:
        futures = [pool.submit(stand_in, *seat) for seat in seats]
        answers = grid.ask(message_type, requests, timeout)
    own: dict[int, list[StageResult]] = {roster.cluster: [] for roster in rosters}
    for (roster, _), future in zip(seats, futures, strict=True):
        if not isinstance(future.exception(), LinkError):
            own[roster.cluster].append(future.result())
    for roster in rosters:
        if results := own[roster.cluster]:
            grid.bill_server(member_report(results, roster, fits=fits), began)
    return [_outcome(roster, answers, own[roster.cluster]) for roster in rosters]


def place(message: Message, context: Context) -> Message:
    """Say where the others of a cluster can meet this node over gloo.

    The host is the node config's ``host``, without it this machine's loopback.
    """
    host = str(context.node_config.get("host", "127.0.0.1"))
    content = RecordDict({"place": ConfigRecord({"host": host, "port": free_port()})})
    return Message(content, reply_to=message)


def placed(grid: MeteredGrid, rosters: Sequence[Roster], timeout: float) -> list[Roster]:
    """Ask each cluster's first member where it is met; a roster without an answer is as it was."""
    ask = RecordDict({"config": ConfigRecord({"ask": "place"})})
    answers = grid.ask("query.place", {r.members[0]: ask for r in rosters}, timeout)
    found = []
    for roster in rosters:
        if answer := answers.get(roster.members[0]):
            where = answer.config_records["place"]
            roster = replace(roster, host=text(where, "host"), port=integer(where, "port"))
        found.append(roster)
    return found


def _outcome(
    roster: Roster, answers: Mapping[str, RecordDict], own: Sequence[StageResult]
) -> Outcome:
    lost = frozenset(name for name in roster.nodes if name not in answers)
    contents = [answers[name] for name in roster.nodes if name in answers]
    failures = [c.config_records[FAILURE] for c in contents if FAILURE in c]
    if lost or failures or len(own) < len(roster.positions(EDGE)):
        reason = text(failures[0], "reason") if failures else f"no answer of {', '.join(lost)}"
        return Outcome(None, lost, reason, all(bool(failure["met"]) for failure in failures))
    arrays = {name: a for c in contents for r in c.array_records.values() for name, a in r.items()}
    for result in own:
        arrays |= ArrayRecord({**result.tensors})
    metrics = {key: v for c in contents for r in c.metric_records.values() for key, v in r.items()}
    return Outcome(RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord(metrics)}))
