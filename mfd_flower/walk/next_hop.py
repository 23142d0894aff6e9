"""Where a packet goes next: its holder chooses, and chooses again until somebody has taken it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from flwr.app import ConfigRecord, Context, Message, RecordDict

from mfd_flower.packets import PacketError
from mfd_flower.records import integer, text, texts
from mfd_flower.routing import Candidate
from mfd_flower.routing.policy import CHOICE, MEMORY, PROBES
from mfd_flower.walk.custody import FOR_SENDER
from mfd_flower.walk.visit import Visit
from mfd_flower.walk.wants import own_sketch

PROBE = "probe"
"""Record of whom a holder asks for their adverts before it chooses."""


def route(visit: Visit) -> None:
    """Add this visit to the header of the next version, and name the next hop."""
    start, node, policy = visit.start, visit.node, visit.plan.policy
    visited = (*start.visited, node.address)[-MEMORY:]
    pairs = zip(start.seen, visit.told_counts, strict=True)
    seen = tuple(was + round(told, 1) for was, told in pairs)
    among = None if visit.members is None else len(visit.members)
    toured = policy.toured(start.toured, node.address, visit.plan.nodes, among)
    recent = policy.recent(visited, toured)
    visit.header |= {
        "source": node.address,
        "destination": next_hop(visit, start.hop + 1, visited, recent, seen, start.task),
        "ttl": start.ttl - 1,
        "hop": start.hop + 1,
        "visited": visited,
        "seen": seen,
        **({"toured": toured} if policy.tour else {}),
    }
    if asked := probed(visit, recent):
        visit.answers[PROBE] = ConfigRecord({PROBE: asked})


def probed(visit: Visit, recent: frozenset[str]) -> list[str]:
    """Draw the neighbours that are asked for their adverts: not those that were visited lately."""
    table, rng = visit.table, visit.node.rng(visit.start.hop + 1, PROBES)
    links = visit.node.world_view().neighbours
    near = [a for a in links if a not in table.gone and visit.is_member(a)]
    return visit.plan.policy.asks(near, recent, table, rng)


def next_hop(
    visit: Visit,
    number: int,
    visited: tuple[str, ...],
    recent: frozenset[str],
    seen: tuple[float, ...],
    task: str = "",
    busy: Collection[str] = (),
) -> str:
    """Choose where hop `number` goes, from this node's own table; itself if it knows nobody.

    The policy chooses among all known nodes. The packet goes to the neighbour on the way there,
    where it is trained and the next holder chooses anew, or with `forward` all the way.
    `visited` ends with this visit, to those of `recent` it does not go while others are there,
    `seen` counts samples of each label that the walk has trained
    on, `task` is what the model is for, and `busy` neighbours do not take the packet now.
    """
    node, table, policy = visit.node, visit.table, visit.plan.policy
    world = node.world_view()
    last = {address: number - len(visited) + place for place, address in enumerate(visited)}
    known = [c for c in table.candidates(world.at_s, last) if table.via(c.address) not in busy]
    if world.changes:
        known = _in_reach(known, visit)
    if world.changes or not policy.advert_hops:
        known = known or [
            Candidate(a, link_bps=world.rate_to_bps(a), last_visit=last.get(a, -1))
            for a in world.neighbours
            if a not in table.gone and a not in busy
        ]
    known = [c for c in known if visit.is_member(c.address)]
    for trait in visit.plan.traits:
        known = list(trait.route(visit, known))
    if not known:
        return node.address
    here = Candidate(
        node.address,
        tuple(float(count) for count in node.label_counts),
        node.num_samples,
        flops_per_s=world.device.flops_per_s,
        degree=len(table.neighbours),
        last_visit=last.get(node.address, -1),
        sketch=own_sketch(visit) if policy.by_features else "",
    )
    trail = visit.trail() if policy.tour else None
    names = {c.address for c in known}
    near = [a for a in world.neighbours if a in names or (a not in table and a not in table.gone)]
    near = [a for a in near if a not in busy and visit.is_member(a)]
    rng = node.rng(number, CHOICE)
    chosen = policy.chosen(here, known, recent, seen, rng, number, task, trail, near)
    if trail is not None:
        visit.keep_trail(trail)
    return chosen if policy.forward else table.via(chosen)


def _in_reach(known: list[Candidate], visit: Visit) -> list[Candidate]:
    """Return who can be reached now: since its advert came, a neighbour may have walked off."""
    world, table = visit.node.world_view(), visit.table
    near = set(world.neighbours)
    reached = [c for c in known if table.via(c.address) in near]
    if not visit.plan.policy.by_rate:
        return reached
    return [replace(c, link_bps=world.rate_to_bps(table.via(c.address))) for c in reached]


def acknowledge(message: Message, context: Context) -> Message:
    """Note that the next holder has the packet: its custody has passed on, signed if it can be.

    With a receipt that is not good, a `LedgerError`, the packet stays in custody.
    """
    visit, records = Visit.of(context), message.content.config_records
    told, receipt = records["ack"], records.get(FOR_SENDER, ConfigRecord())
    walker = text(told, "walker")
    for trait in visit.plan.traits:
        trait.settled(visit, walker, receipt)
    visit.save()
    visit.custody.acknowledge(walker, integer(told, "hop"))
    return Message(RecordDict(), reply_to=message)


def send_again(message: Message, context: Context) -> Message:
    """Send the packet in custody once more, elsewhere if its receiver has failed or is busy.

    The holder's timer has gone off, or the receiver has another walker, or the adverts that it
    asked for have come. What failed leaves the routing table, what is busy stays
    in it, and the policy chooses among the rest. A packet that
    its receiver has acknowledged is sent again only if `lost` says that it vanished behind that
    receiver; otherwise, and if none of the walker is in custody here, this is a `PacketError`.
    """
    told = message.content.config_records["timer"]
    visit = Visit.again(context, text(told, "walker"))
    kept = visit.onward
    if visit.custody.acknowledged(kept) and not told.get("lost", False):
        raise PacketError(f"hop {kept.hop}: acknowledged, the next holder has it")
    if "failed" in told:
        visit.table.unreachable(text(told, "failed"))
        visit.table_changed = True
        for trait in visit.plan.traits:
            trait.undelivered(visit, text(told, "failed"))
    if told.get("spent", False):
        # A hop was used up on a version that nobody could take.
        visit.onward = kept = replace(kept, ttl=max(0, kept.ttl - 1))
    busy = texts(told, "busy") if "busy" in told else []
    if "failed" in told or busy or "choose" in told:
        recent = visit.plan.policy.recent(kept.visited, kept.toured)
        elsewhere = next_hop(visit, kept.hop, kept.visited, recent, kept.seen, kept.task, busy)
        visit.onward = replace(kept, destination=elsewhere)
        visit.commit()
    content = visit.outgoing()
    visit.save()
    return Message(content, reply_to=message)
