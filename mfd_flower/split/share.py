"""What one member of a cluster gave and took in a round, and the virtual time that it was busy.

The time of a pipeline that is filled and drained once a batch: Narayanan et al. 2021, section 2.2.1
(arXiv 2104.04473).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from mfd_flower.config import NetworkConfig
from mfd_flower.split.links import Neighbours
from mfd_flower.split.roster import EDGE, Roster


@dataclass(frozen=True)
class Share:
    """What one position gave and took.

    Attributes
    ----------
    tensors : dict of str to Tensor
        Trained tunables of its stage; empty after inference.
    loss : float
        Mean training loss, NaN where the last stage is not.
    logits : Tensor or None
        Of the asker after inference.
    batches : int
        Batches that went through.
    flops : float
        Of its stage.
    peak_bytes : int
        Memory of its stage.
    links : tuple of (str, int, int)
        Peer, bytes sent to it and received from it; links inside one node are left out.
    """

    tensors: dict[str, Tensor]
    loss: float
    logits: Tensor | None
    batches: int
    flops: float
    peak_bytes: int
    links: tuple[tuple[str, int, int], ...]


def bytes_by_peer(neighbours: Neighbours) -> tuple[tuple[str, int, int], ...]:
    """Return peer, bytes sent and bytes received of each link that leaves the node."""
    links = (neighbours.upstream, neighbours.downstream)
    return tuple((x.peer, x.sent_bytes, x.received_bytes) for x in links if x.peer != x.own)


def bill(
    shares: Sequence[Share], roster: Roster, network: NetworkConfig, *, fits: int
) -> dict[str, int | float]:
    r"""Return what a node's shares of a round cost, as `MeteredGrid` reads a report.

    .. math::

        T = \frac{m + s - 1}{m} \max\Big(\frac{F}{v},\; \max_c \frac{8 D_c}{r_c}\Big)
            + B\, h\, \ell

    with s stages, m micro-batches, B batches, latency :math:`\ell`, the node's FLOPs F at rate v
    and the bytes :math:`D_c` over each of its links at rate :math:`r_c`, in the direction that
    takes longer. In training a batch crosses every cut there and back before the next begins, in
    inference every cut and then the way to the asker: h links between nodes. A round lasts as long
    as its slowest member's T.

    Parameters
    ----------
    shares : sequence of Share
        Of one node: two for the first client of a U-shaped split.
    roster : Roster
        Says how many stages there are.
    network : NetworkConfig
        Rates.
    fits : int
        1 for training, 0 for inference.
    """
    stages, members = len(roster.members), roster.members
    cuts = sum(one != other for one, other in itertools.pairwise(members))
    crossings = 2 * cuts if fits else cuts + (members[-1] != members[0])
    flops = sum(share.flops for share in shares)
    links = [link for share in shares for link in share.links]
    busy_s = max([flops / network.flops_per_s, *(_link_s(link, network) for link in links)])
    fill = (roster.micro_batches + stages - 1) / roster.micro_batches
    waited_s = shares[0].batches * crossings * network.latency_s
    return {
        "fits": fits,
        "flops": flops,
        "peak-bytes": sum(share.peak_bytes for share in shares),
        "seconds": fill * busy_s + waited_s,
        "up": sum(sent for peer, sent, _ in links if peer == EDGE),
        "down": sum(received for peer, _, received in links if peer == EDGE),
        # Every node reports what it sent: each transfer is counted once.
        "d2d": sum(sent for peer, sent, _ in links if peer != EDGE),
    }


def _link_s(link: tuple[str, int, int], network: NetworkConfig) -> float:
    peer, sent, received = link
    if peer == EDGE:
        return max(8 * sent / network.up_bps, 8 * received / network.down_bps)
    return 8 * max(sent, received) / network.d2d_bps
