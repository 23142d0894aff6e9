"""The edge server's part in a round: ask all members at once, stand in where it must, collect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from mfd_flower.config import NetworkConfig
from mfd_flower.records import integer, text
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.split.frames import LinkError
from mfd_flower.split.roster import EDGE, LOOPBACK, NotMetError, Roster, free_port
from mfd_flower.split.share import Share, bill

FAILURE = "failure"


@dataclass(frozen=True)
class Outcome:
    """Round of one cluster.

    Attributes
    ----------
    content : RecordDict or None
        All arrays and metrics of its members; None if the round failed.
    lost : frozenset of str
        Members that failed, not those that only heard of it.
    reason : str
        Of a failure.
    met : bool
        False if the members were not there at the same time.
    """

    content: RecordDict | None
    lost: frozenset[str] = frozenset()
    reason: str = ""
    met: bool = True


def place(message: Message, context: Context) -> Message:
    """Say where the others of a cluster can meet this node over gloo.

    The host is the node config's ``host``, without it this machine's loopback.
    """
    host = str(context.node_config.get("host", LOOPBACK))
    content = RecordDict({"place": ConfigRecord({"host": host, "port": free_port()})})
    return Message(content, reply_to=message)


def word_of_failure(error: LinkError, message: Message) -> Message:
    """Answer for a node that is well itself but whose cluster is not."""
    failure = ConfigRecord({"reason": str(error), "met": not isinstance(error, NotMetError)})
    return Message(RecordDict({FAILURE: failure}), reply_to=message)


def placed(grid: MeteredGrid, rosters: Sequence[Roster], timeout: float) -> list[Roster]:
    """Ask each cluster's first member where it is met; a roster without an answer is as it was."""
    ask = RecordDict({"config": ConfigRecord({"ask": "place"})})
    requests = [Message(ask, grid.node_id(r.members[0]), "query.place") for r in rosters]
    answers = _answers(grid, requests, timeout)
    found = []
    for roster in rosters:
        answer = answers.get(roster.members[0])
        if answer is not None:
            where = answer.config_records["place"]
            roster = replace(roster, host=text(where, "host"), port=integer(where, "port"))
        found.append(roster)
    return found


def together(
    grid: MeteredGrid,
    rosters: Sequence[Roster],
    message_type: str,
    contents: Callable[[Roster, str], RecordDict],
    stand_in: Callable[[Roster, int], Share],
    network: NetworkConfig,
    *,
    timeout: float,
    fits: int,
) -> list[Outcome]:
    """Let clusters work side by side; the edge server holds its positions in threads of its own.

    Parameters
    ----------
    grid : MeteredGrid
        Reaches the members.
    rosters : sequence of Roster
        The clusters.
    message_type : str
        Of the request to each member.
    contents : callable
        Roster and address to the content of that request.
    stand_in : callable
        What the edge server does at a position.
    network : NetworkConfig
        Rates, for what the edge server's work costs.
    timeout : float
        Longest time to wait for replies, in seconds.
    fits : int
        1 for training, 0 for inference.

    Returns
    -------
    list of Outcome
        In the order of `rosters`.
    """
    requests = [
        Message(contents(roster, name), grid.node_id(name), message_type)
        for roster in rosters
        for name in roster.nodes
    ]
    seats = [(roster, place) for roster in rosters for place in roster.positions(EDGE)]
    began_s = grid.virtual_seconds
    with ThreadPoolExecutor(max(1, len(seats))) as pool:
        futures = [pool.submit(stand_in, *seat) for seat in seats]
        answers = _answers(grid, requests, timeout)
    shares: dict[int, list[Share]] = {roster.cluster: [] for roster in rosters}
    for (roster, _), future in zip(seats, futures, strict=True):
        if not isinstance(future.exception(), LinkError):
            shares[roster.cluster].append(future.result())
    for roster in rosters:
        if own := shares[roster.cluster]:
            cost = bill(own, roster, network, fits=fits)
            grid.bill_server(cost["flops"], cost["seconds"], began_s)
    return [_outcome(roster, answers, shares[roster.cluster]) for roster in rosters]


def _answers(grid: MeteredGrid, requests: list[Message], timeout: float) -> dict[str, RecordDict]:
    replies = list(grid.send_and_receive(requests, timeout=timeout))
    # A reply is matched by id: what a SuperLink makes for a node that is gone does not name it.
    asked = {r.metadata.message_id: grid.address(r.metadata.dst_node_id) for r in requests}
    return {
        asked[reply.metadata.reply_to_message_id]: reply.content
        for reply in replies
        if reply.has_content()
    }


def _outcome(roster: Roster, answers: Mapping[str, RecordDict], shares: Sequence[Share]) -> Outcome:
    lost = frozenset(name for name in roster.nodes if name not in answers)
    contents = [answers[name] for name in roster.nodes if name in answers]
    failures = [c.config_records[FAILURE] for c in contents if FAILURE in c]
    if lost or failures or len(shares) < len(roster.positions(EDGE)):
        reason = text(failures[0], "reason") if failures else f"no answer of {', '.join(lost)}"
        return Outcome(None, lost, reason, all(bool(failure["met"]) for failure in failures))
    arrays = {name: a for c in contents for r in c.array_records.values() for name, a in r.items()}
    for share in shares:
        arrays |= ArrayRecord(share.tensors)
    metrics = {key: v for c in contents for r in c.metric_records.values() for key, v in r.items()}
    return Outcome(RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord(metrics)}))
