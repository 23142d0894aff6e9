"""Which clients belong to one domain, from what they tell of their data.

GaisNet (arXiv 2401.02668), section II-C: an edge server has the model of a domain, and clusters of
clients below it. A client tells a Gaussian sketch of its features, 27 bytes, from which no picture
follows; later what each domain's model loses on its data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from mfd_flower.checks import Form
from mfd_flower.node import Node
from mfd_flower.records import number, tensors_of, text
from mfd_flower.routing.sketch import CHARS, Sketch
from mfd_flower.runtime.metered_grid import MeteredGrid

SKETCH, LOSSES = "query.sketch", "query.losses"
TEXT = Form(rf"[A-Za-z0-9_-]{{{CHARS}}}", f"a sketch of {CHARS} letters, digits, - _")


def tell_sketch(message: Message, context: Context) -> Message:
    """Say what this node's pictures are like."""
    told = ConfigRecord({"sketch": Node.of(context).sketch().to_text()})
    return Message(RecordDict({"told": told}), reply_to=message)


def tell_losses(message: Message, context: Context) -> Message:
    """Say what each of the models that came loses on this node's samples, in nats."""
    node, records = Node.of(context), message.content.array_records
    losses = {name: node.evaluate(tensors_of(records[name])).loss for name in sorted(records)}
    return Message(RecordDict({"told": ConfigRecord({**losses})}), reply_to=message)


def grouped(sketches: Mapping[str, Sketch], groups: int) -> list[list[str]]:
    """Join nodes whose sketches are alike into so many groups, or as many as there are nodes.

    By average linkage over the divergence of two Gaussians, both ways added up. Of n nodes it
    holds n x n numbers. A node that tells an odd sketch may be a group by itself.
    """
    names = list(sketches)
    if len(names) <= groups:
        return [[name] for name in names]
    apart = divergences([sketches[name] for name in names])
    tree = linkage(squareform(apart, checks=False), "average")
    found: dict[int, list[str]] = {}
    for name, group in zip(names, fcluster(tree, groups, "maxclust").tolist(), strict=True):
        found.setdefault(group, []).append(name)
    return list(found.values())


def divergences(sketches: Sequence[Sketch]) -> NDArray[np.float64]:
    r"""Return D(p || q) + D(q || p) of all pairs, ``(n, n)``, as products of matrices.

    .. math::

        \tfrac12 \left( \mathrm{tr}\, \Sigma_q^{-1} \Sigma_p + \mathrm{tr}\, \Sigma_p^{-1} \Sigma_q
            + \delta^T (\Sigma_p^{-1} + \Sigma_q^{-1}) \delta \right) - k

    with the difference :math:`\delta` of the means; see `routing.sketch.gaussian_divergence`.
    """
    means = np.stack([each.mean for each in sketches])
    factors = np.stack([each.factor for each in sketches])
    inverse = np.linalg.inv(factors)
    precision = inverse.transpose(0, 2, 1) @ inverse
    # Of a pair the second moment about the other's mean is covariance and difference together.
    moments = factors @ factors.transpose(0, 2, 1) + means[:, :, None] * means[:, None]
    flat, count = precision.reshape(len(means), -1), means.shape[1]
    pulls = np.einsum("nij,nj->ni", precision, means)
    crossed = moments.reshape(len(means), -1) @ flat.T - 2 * means @ pulls.T
    one_way = crossed + np.einsum("ni,ni->n", pulls, means)
    apart = (one_way + one_way.T) / 2 - count
    np.fill_diagonal(apart, 0.0)
    return np.maximum(apart, 0.0)


def ask_groups(grid: MeteredGrid, groups: int, timeout: float) -> list[list[str]]:
    """Ask all nodes for sketches, and group them; who tells none is in no group."""
    ask = RecordDict({"config": ConfigRecord({"ask": "sketch"})})
    sketches = {}
    for name, answer in grid.ask(SKETCH, dict.fromkeys(grid.nodes, ask), timeout).items():
        try:
            told = text(answer.config_records["told"], "sketch")
            TEXT.check("sketch", told)
            sketches[name] = Sketch.from_text(told)
        except (KeyError, TypeError, ValueError) as error:
            grid.failures.append(f"its sketch is refused: {error}")
            grid.failed.append(name)
    return grouped(sketches, groups)


def ask_best(
    grid: MeteredGrid, nodes: Sequence[str], models: Sequence[ArrayRecord], timeout: float
) -> dict[str, int]:
    """Send nodes the models of all domains, and return which of them loses least at each."""
    content = RecordDict({str(place): model for place, model in enumerate(models)})
    found = {}
    for name, answer in grid.ask(LOSSES, dict.fromkeys(nodes, content), timeout).items():
        told = answer.config_records.get("told", ConfigRecord())
        try:
            losses = [number(told, str(place)) for place in range(len(models))]
        except (KeyError, TypeError):
            continue
        if np.isfinite(losses).all():
            found[name] = int(np.argmin(losses))
    return found
