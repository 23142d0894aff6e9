"""Gossip: every node trains a model of its own and averages it with those that others send it.

``graph`` is D-PSGD (Lian et al., arXiv 1705.09056): a node sends its model to all its neighbours,
and those of i and j, which have d_i and d_j neighbours, have the Metropolis weight
w_ij = 1 / (1 + max(d_i, d_j)) for each other (Xiao, Boyd and Lall, *A Scheme for Robust Distributed
Sensor Fusion Based on Average Consensus*, IPSN 2005). ``random`` is EL-Local of Epidemic Learning
(de Vos et al., arXiv 2310.01972): a node sends its model to a few nodes that it draws anew in each
round, and what a node gets weighs as much as its own. It draws from its neighbours, which are all
nodes where the network is ``full``. In both a node does one local update, which stands for the
gradient step, and then x_i <- x_i + sum over j of w_ij (x_j - x_i): a model that does not come
leaves its weight with the node's own.

Nodes draw, weigh and average; the server half carries. A model that goes to k nodes is k transfers
(``d2d``), and a node takes in one after another. The curve is the mean accuracy of the nodes'
models on the common test set, as they were heard of last; to show them is measurement (``relay``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from mfd_flower.checks import ConfigError, bounded, build
from mfd_flower.node import Node
from mfd_flower.records import integer, tensors_of, text, texts
from mfd_flower.runtime.deliveries import deliveries
from mfd_flower.runtime.metered_grid import SOURCE, MeteredGrid
from mfd_flower.runtime.own_loop import OwnModels

OWN, PULL, ROUND = "own-tunables", "pull", "round"
"""State of a node: its model as trained, the sum of w_ij (x_j - x_i) so far, and whose that is."""
RECEIVERS = 1
"""Purpose of a node's generator."""


@dataclass(frozen=True)
class GossipOptions:
    """Who is sent a model."""

    neighbours: Literal["graph", "random"] = "graph"
    """All neighbours in the network's graph, averaged with Metropolis weights (D-PSGD); or some
    that each node draws in each round, averaged evenly (EL-Local)."""
    degree: int = bounded(4, 0)
    """How many are drawn (`random`); all neighbours where they are fewer."""


@dataclass(frozen=True)
class Peer:
    """A node with what it keeps from one message to the next."""

    node: Node
    state: RecordDict

    @classmethod
    def of(cls, context: Context) -> Peer:
        """Return the peer that a handler is called on."""
        return cls(Node.of(context), context.state)

    @property
    def options(self) -> GossipOptions:
        """Options of the run."""
        found: GossipOptions = build(GossipOptions, self.node.run.strategy.keywords(), "options.")
        return found

    @property
    def round(self) -> int:
        """Round that the node is in; 0 before its first."""
        return integer(self.state.config_records[ROUND], "number") if ROUND in self.state else 0

    def begin(self, number: int, own: Mapping[str, Tensor]) -> None:
        """Be in round `number` with this model; nobody else's has come yet."""
        degree = len(self.node.world_view().neighbours)
        self.state[OWN] = ArrayRecord(dict(own))
        self.state[ROUND] = ConfigRecord({"number": number, "degree": degree, "heard": []})
        self.state.pop(PULL, None)

    def receivers(self) -> list[str]:
        """Return to whom the node sends its model in this round."""
        near, options = self.node.world_view().neighbours, self.options
        if options.neighbours == "graph":
            return list(near)
        rng, count = self.node.rng(self.round, RECEIVERS), min(options.degree, len(near))
        return [near[place] for place in sorted(rng.choice(len(near), count, replace=False))]

    def take_in(self, theirs: Mapping[str, Tensor], source: str, degree: int) -> None:
        """Add the model of `source`, which has so many neighbours, to what this round averages.

        A sum is kept and not the models: it does not grow with the number of neighbours.
        """
        here, own = self.state.config_records[ROUND], tensors_of(self.state.array_records[OWN])
        if source in (heard := texts(here, "heard")):
            return
        graph = self.options.neighbours == "graph"
        weight = metropolis(integer(here, "degree"), degree) if graph else 1.0
        pull = {name: weight * (theirs[name] - tensor) for name, tensor in own.items()}
        if PULL in self.state:
            before = tensors_of(self.state.array_records[PULL])
            pull = {name: before[name] + tensor for name, tensor in pull.items()}
        self.state[PULL] = ArrayRecord(pull)
        here["heard"] = [*heard, source]

    def averaged(self) -> dict[str, Tensor]:
        """Return the average of the node's model and those that came in this round."""
        own = tensors_of(self.state.array_records[OWN])
        if PULL not in self.state:
            return own
        heard = texts(self.state.config_records[ROUND], "heard")
        # An even weight is not known before all are there.
        share = 1.0 if self.options.neighbours == "graph" else 1 / (1 + len(heard))
        pull = tensors_of(self.state.array_records[PULL])
        return {name: tensor + share * pull[name] for name, tensor in own.items()}


def metropolis(here: int, there: int) -> float:
    """Return the weight for each other of two neighbours that have so many neighbours."""
    return 1 / (1 + max(here, there))


def step(message: Message, context: Context) -> Message:
    """Average, do one local update, and hand the model out with the names of its receivers."""
    peer, arrived = Peer.of(context), message.content
    number = integer(arrived.config_records["config"], "server-round")
    if peer.round < number:  # Asked twice, a node answers twice and trains once.
        first = peer.round == 0
        own = tensors_of(arrived.array_records["arrays"]) if first else peer.averaged()
        trained, _ = peer.node.fit(own, step=number)
        peer.begin(number, trained)
    degree = integer(peer.state.config_records[ROUND], "degree")
    sent = ConfigRecord({SOURCE: peer.node.address, "server-round": number, "degree": degree})
    to = ConfigRecord({"receivers": peer.receivers()})
    content = RecordDict({"arrays": peer.state.array_records[OWN], "sent": sent, "to": to})
    return Message(content, reply_to=message)


def receive(message: Message, context: Context) -> Message:
    """Take in the model that another node sent."""
    peer, sent = Peer.of(context), message.content.config_records["sent"]
    number = integer(sent, "server-round")
    if 0 < peer.round < number:  # The node's own update of this round is missing.
        peer.begin(number, peer.averaged())
    # Who has not begun has nothing to average with, and what comes too late is of no use.
    if peer.round == number:
        theirs = tensors_of(message.content.array_records["arrays"])
        peer.take_in(theirs, text(sent, SOURCE), integer(sent, "degree"))
    return Message(RecordDict(), reply_to=message)


def show(message: Message, context: Context) -> Message:
    """Show the node's model, averaged, to the experimenter; it changes nothing."""
    peer = Peer.of(context)
    shown = RecordDict({"arrays": ArrayRecord(peer.averaged())} if peer.round else {})
    return Message(shown, reply_to=message)


class Gossip(OwnModels, Strategy):
    """Every node averages with its neighbours, or with nodes that it draws."""

    Options: ClassVar = GossipOptions
    client_actions: ClassVar = {"train.step": step, "train.model": receive, "query.own": show}
    links: ClassVar = {"train.step": "relay", "train.model": "d2d", "query.own": "relay"}

    def __init__(self, **options: Any) -> None:
        super().__init__()
        chosen: GossipOptions = build(GossipOptions, options, "options.")
        if chosen.neighbours == "graph" and "degree" in options:
            accepted = 'only with neighbours = "random"; that of a graph is network.degree'
            raise ConfigError("options.degree", chosen.degree, accepted)

    def round(self, grid: MeteredGrid, number: int, arrays: ArrayRecord, timeout: float) -> None:
        """Let all nodes train, send and average."""
        again = RecordDict({"config": ConfigRecord({"server-round": number})})
        first = RecordDict({**again, "arrays": arrays})
        contents = {name: again if name in self.models else first for name in grid.nodes}
        for models in deliveries(grid.ask("train.step", contents, timeout)):
            grid.ask("train.model", models, timeout)
        shown = grid.ask("query.own", dict.fromkeys(contents, again), timeout)
        for name, answer in shown.items():
            if answer.array_records:  # None of a node that has not begun.
                self.models[name] = answer.array_records["arrays"]
