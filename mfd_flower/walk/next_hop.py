"""Where a packet goes next: the holder chooses among the nodes that it knows of."""

from __future__ import annotations

from collections.abc import Collection

from mfd_flower.routing import Candidate, choose
from mfd_flower.walk.visit import Visit

VISITS_KEPT = 64
CHOICE = 1
"""Purpose of the generator that a policy draws from."""


def route(visit: Visit) -> None:
    """Add this visit to the header of the next version, and name the next hop."""
    start, node = visit.start, visit.node
    visited = (*start.visited, node.address)[-VISITS_KEPT:]
    pairs = zip(start.seen, visit.told_counts, strict=True)
    seen = tuple(was + round(told, 1) for was, told in pairs)
    visit.header |= {
        "source": node.address,
        "destination": next_hop(visit, start.hop + 1, visited, seen),
        "ttl": start.ttl - 1,
        "hop": start.hop + 1,
        "visited": visited,
        "seen": seen,
    }


def next_hop(
    visit: Visit,
    number: int,
    visited: tuple[str, ...],
    seen: tuple[float, ...],
    busy: Collection[str] = (),
) -> str:
    """Choose where hop `number` goes, from this node's own table; itself if it knows nobody.

    The policy chooses among all known nodes, and the packet goes to the neighbour on the way there:
    it is trained at every stop, and the next holder chooses anew.
    `visited` ends with this visit, `seen` counts samples of each label that the walk has trained
    on, and `busy` neighbours do not take the packet now.
    """
    node, table, policy = visit.node, visit.table, visit.plan.policy
    world = node.world_view()
    last = {address: number - len(visited) + place for place, address in enumerate(visited)}
    known = [c for c in table.candidates(world.at_s, last) if table.via(c.address) not in busy]
    for trait in visit.plan.traits:
        known = list(trait.route(visit, known))
    if not known:
        return node.address
    recent = visited[-policy.memory :] if policy.memory else ()
    # With every neighbour visited of late, the one left longest ago is the freshest.
    oldest = min(candidate.last_visit for candidate in known)
    fresh = [c for c in known if c.address not in recent] or [
        c for c in known if c.last_visit == oldest
    ]
    here = Candidate(
        node.address,
        tuple(float(count) for count in node.label_counts),
        len(node.samples),
        flops_per_s=world.device.flops_per_s,
        degree=len(table.neighbours),
        last_visit=last.get(node.address, -1),
    )
    rng = node.rng(number, CHOICE)
    chosen = choose(policy.name, here, fresh, seen, rng, **policy.options)
    return chosen if chosen == node.address else table.via(chosen)
