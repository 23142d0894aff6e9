"""HFSL, hybrid federated split learning: split learning in clusters, FedAvg across them.

*GaisNet* (arXiv 2401.02668), section II-D, in four steps: deliver the stages; embed the data of
each cluster's first client; pass activations forward and gradients back between its members;
average like module with like module across clusters. One cluster is split learning (arXiv
1812.00564), clusters of one node are FedAvg (arXiv 1602.05629). A round is one Flower message a
member; what members say to each other goes over the links of `mfd_flower.split`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from torch import Tensor

from mfd_flower.accounting.unbilled import REPORT
from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.data import load_federation
from mfd_flower.models import load_backbone
from mfd_flower.models.residents import model_for
from mfd_flower.models.tunables import named_tunables
from mfd_flower.node import Node
from mfd_flower.packets import CODECS
from mfd_flower.records import tensors_of
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.split.frames import LinkError
from mfd_flower.split.planning import even_cuts, planned_cuts
from mfd_flower.split.roster import EDGE, NotMetError, Roster, seated
from mfd_flower.split.serving import SERVING_ACTIONS, Service
from mfd_flower.split.share import Share, bill
from mfd_flower.split.together import Outcome, place, placed, together, word_of_failure
from mfd_flower.split.work import side_by_side, stages_of, train_position
from mfd_flower.strategy import OwnLoop

LINKS = ("queue", "gloo")


def stage(message: Message, context: Context) -> Message:
    """Train this node's stage while the others of its cluster train theirs."""
    node = Node.of(context)
    roster = Roster.from_record(message.content.config_records["roster"])
    tensors = tensors_of(message.content.array_records["arrays"])
    feeds = roster.members[0] == node.address
    # Drawn as `Node.fit` draws it, so that the order of the samples is that of FedAvg.
    order_seed = int(node.rng(roster.round).integers(2**62))

    def work(position: int) -> Share:
        return train_position(
            roster,
            position,
            tensors,
            node.run,
            node.num_classes,
            samples=node.samples if feeds else None,
            order_seed=order_seed,
        )

    try:
        shares = side_by_side(work, roster.positions(node.address))
    except LinkError as error:
        return word_of_failure(error, message)
    metrics = MetricRecord({"num-examples": len(node.samples)} if feeds else {})
    if roster.members[-1] == node.address:
        metrics["train-loss"] = shares[-1].loss
    trained = {name: tensor for share in shares for name, tensor in share.tensors.items()}
    cost = ConfigRecord({**bill(shares, roster, node.run.network, fits=1)})
    content = RecordDict({"arrays": ArrayRecord(trained), "metrics": metrics, REPORT: cost})
    return Message(content, reply_to=message)


class HFSL(OwnLoop, Strategy):
    """Clusters that each train a split model, averaged by the edge server.

    The first cluster has the first nodes, and so on. A member that fails costs its cluster the
    round and is out for the rest of the run: an idle node takes the last place in the cluster, or
    the others share the blocks.

    Parameters
    ----------
    run : RunConfig
        Settings of the run.
    clusters : int (default: 1)
        They work side by side.
    cluster_size : int (default: 4)
        Members of a cluster, the edge server counted; at most as many as blocks.
    cuts : str or list of int (default: "even")
        ``even``, ``planned`` (the fastest step by measured FLOPs and the settings' rates), or the
        block indices that `mfd_flower.models.stages.split_model` takes.
    micro_batches : int (default: 4)
        Parts of a batch that follow one another through the stages.
    codec : str (default: "fp32")
        How activations and gradients travel: ``fp32``, ``bf16``, ``fp16`` or ``int8``.
    u_shape : bool (default: False)
        Norm, head and labels stay with the first client; else it sends labels to the last one.
    edge_stages : list of int (default: none)
        Positions, from 1 on, that the edge server holds itself.
    rotate : bool (default: False)
        Another client is first in the next round, so that the data of all are used.
    link : str (default: "queue")
        ``queue`` where nodes are threads of one process, ``gloo`` where they are not.
    meet_s : float (default: 30.0)
        Longest time to wait for the other members at the start of a round.
    timeout_s : float (default: 120.0)
        Longest time to wait for a neighbour's next tensor.

    Attributes
    ----------
    concurrent_nodes : int
        Nodes that must run at the same time.
    one_process : bool
        Whether they must be threads of the server's process.
    """

    client_actions: ClassVar = {"train.stage": stage, "query.place": place, **SERVING_ACTIONS}

    def __init__(
        self,
        run: RunConfig,
        clusters: int = 1,
        cluster_size: int = 4,
        cuts: str | Sequence[int] = "even",
        micro_batches: int = 4,
        codec: str = "fp32",
        u_shape: bool = False,
        edge_stages: Sequence[int] = (),
        rotate: bool = False,
        link: str = "queue",
        meet_s: float = 30.0,
        timeout_s: float = 120.0,
    ) -> None:
        self.run = run
        self.depth = len(load_backbone(run.model, run.seed).blocks)
        _check_whole("clusters", clusters, 1, run.data.nodes)
        _check_whole("cluster_size", cluster_size, 1, self.depth)
        _check_whole("micro_batches", micro_batches, 1, 1024)
        for name, word, words in (("codec", codec, tuple(CODECS)), ("link", link, LINKS)):
            if word not in words:
                raise ConfigError(f"options.{name}", word, f"accepted: {', '.join(words)}")
        for name, flag in (("u_shape", u_shape), ("rotate", rotate)):
            if type(flag) is not bool:
                raise ConfigError(f"options.{name}", flag, "must be true or false")
        for name, seconds in (("meet_s", meet_s), ("timeout_s", timeout_s)):
            if type(seconds) not in (int, float) or not 0 < seconds < 1e6:
                raise ConfigError(f"options.{name}", seconds, "must be above 0 and below 1e6")
        _check_row("edge_stages", edge_stages, 1, cluster_size - 1)
        if cuts not in ("even", "planned"):
            # Each member has a block; the head alone is a stage only of a U-shaped split.
            _check_row("cuts", cuts, 1, self.depth - 1, cluster_size - 1)
        _check_settings(run)
        self.clients = cluster_size - len(edge_stages)
        self.concurrent_nodes = clusters * self.clients
        if self.concurrent_nodes > run.data.nodes:
            accepted = f"{self.clients} nodes in each, and there are {run.data.nodes}"
            raise ConfigError("options.clusters", clusters, accepted)
        self.cuts, self.edge_stages = cuts, tuple(edge_stages)
        self.clusters, self.cluster_size = clusters, cluster_size
        self.u_shape, self.rotate, self.link = u_shape, rotate, link
        self.one_process = link == "queue" and cluster_size > 1
        self.micro_batches, self.codec = micro_batches, codec
        self.meet_s, self.timeout_s = float(meet_s), float(timeout_s)
        # Two runs of one process must not meet each other.
        self.meeting = uuid.uuid4().hex

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Train `num_rounds` rounds and evaluate the average after each."""
        meter = _metered(grid)
        result = Result(arrays=initial_arrays)
        if evaluate_fn:
            evaluate_fn(0, initial_arrays)
        clusters, idle = self.formed(meter)
        for number in range(1, num_rounds + 1):
            rosters = [self.roster(number, k, c) for k, c in enumerate(clusters) if c]
            outcomes = self.trained(meter, rosters, result.arrays, timeout)
            done = [outcome.content for outcome in outcomes if outcome.content]
            if done:
                result.arrays = aggregate_arrayrecords(done, "num-examples")
            elif outcomes and not any(outcome.met or outcome.lost for outcome in outcomes):
                raise NotMetError(f"{outcomes[0].reason}; {self.needed()}")
            elif outcomes and number == num_rounds and result.arrays is initial_arrays:
                raise LinkError(f"no cluster finished a round: {outcomes[0].reason}")
            for roster, outcome in zip(rosters, outcomes, strict=True):
                left = [name for name in clusters[roster.cluster] if name not in outcome.lost]
                while idle and len(left) < self.clients:
                    left.append(idle.pop(0))
                clusters[roster.cluster] = left
            if evaluate_fn and (metrics := evaluate_fn(number, result.arrays)) is not None:
                result.evaluate_metrics_serverapp[number] = metrics
        return result

    def formed(self, grid: MeteredGrid) -> tuple[list[list[str]], list[str]]:
        """Return the clients of each cluster, and the idle nodes."""
        nodes = [grid.address(node_id) for node_id in grid.get_node_ids()]
        starts = range(0, self.concurrent_nodes, self.clients)
        clusters = [nodes[start : start + self.clients] for start in starts]
        return clusters, nodes[self.concurrent_nodes :]

    def roster(self, number: int, cluster: int, clients: Sequence[str]) -> Roster:
        """Seat the clients of a cluster for round `number` and cut the model for them."""
        turn = (number - 1) % len(clients) if self.rotate else 0
        stages = seated([*clients[turn:], *clients[:turn]], self.edge_stages)
        if self.cuts == "planned":
            model = model_for(self.run)
            cuts: Sequence[Any] = planned_cuts(model, stages, self.run)
        elif isinstance(self.cuts, str) or len(stages) < self.cluster_size:
            cuts = even_cuts(self.depth, len(stages))
        else:
            cuts = self.cuts
        return Roster(
            self.meeting,
            number,
            cluster,
            (*stages, stages[0]) if self.u_shape else stages,
            tuple(cuts),
            self.micro_batches,
            self.codec,
            self.meet_s,
            self.timeout_s,
        )

    def trained(
        self, grid: MeteredGrid, rosters: Sequence[Roster], arrays: ArrayRecord, timeout: float
    ) -> list[Outcome]:
        """Let every cluster train a round, each from `arrays`."""
        tensors = tensors_of(arrays)
        if self.link == "gloo":
            rosters = placed(grid, rosters, timeout)

        def modules(roster: Roster, address: str) -> dict[str, Tensor]:
            stages = stages_of(self.run, self.num_classes, roster)
            own = [stages[position].part for position in roster.positions(address)]
            return {name: tensors[name] for part in own for name, _ in named_tunables(part)}

        def request(roster: Roster, address: str) -> RecordDict:
            orders = ConfigRecord(roster.to_record())
            return RecordDict({"arrays": ArrayRecord(modules(roster, address)), "roster": orders})

        def stand_in(roster: Roster, position: int) -> Share:
            own = modules(roster, EDGE)
            return train_position(roster, position, own, self.run, self.num_classes)

        return together(
            grid,
            rosters,
            "train.stage",
            request,
            stand_in,
            self.run.network,
            timeout=timeout,
            fits=1,
        )

    def service(self, grid: Grid, arrays: ArrayRecord, *, whole: bool = False) -> Service:
        """Return the first cluster as one that answers requests.

        Parameters
        ----------
        grid : Grid
            A `MeteredGrid`.
        arrays : ArrayRecord
            Tunables of the whole model.
        whole : bool
            Deliver all parameters of each stage instead of its tunables.
        """
        meter = _metered(grid)
        roster = self.roster(1, 0, self.formed(meter)[0][0])
        if self.link == "gloo":
            (roster,) = placed(meter, [roster], self.timeout_s)
        return Service(meter, self.run, self.num_classes, roster, arrays, whole)

    def needed(self) -> str:
        """Say what the engine lacks if members do not meet."""
        return (
            f"{self.concurrent_nodes} nodes must run at once: with flwr run set options.link ="
            f' "gloo" and --federation-config "init-args-num-cpus={self.concurrent_nodes}'
            ' client-resources-num-cpus=1"'
        )

    @property
    def num_classes(self) -> int:
        """Classes of the data set."""
        return load_federation(self.run.data, self.run.seed).num_classes


def _metered(grid: Grid) -> MeteredGrid:
    if not isinstance(grid, MeteredGrid):
        raise TypeError("hfsl needs a MeteredGrid, which knows the nodes' addresses")
    return grid


def _check_whole(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ConfigError(f"options.{name}", value, f"must be a whole number from {low} to {high}")


def _check_row(name: str, values: Any, low: int, high: int, count: int | None = None) -> None:
    """Refuse all but rising whole numbers, `count` of them if that is given."""
    fits = isinstance(values, list | tuple) and all(type(v) is int for v in values)
    if not fits or list(values) != sorted({v for v in values if low <= v <= high}):
        accepted = f"must be rising whole numbers from {low} to {high}"
        words = ", or even, or planned" if name == "cuts" else ""
        raise ConfigError(f"options.{name}", values, accepted + words)
    if count is not None and len(values) != count:
        raise ConfigError(f"options.{name}", values, f"must be {count}, one less than the members")


def _check_settings(run: RunConfig) -> None:
    """Refuse settings of other sections that a split model cannot keep to."""
    if run.model.tune == "head":
        raise ConfigError("model.tune", "head", "accepted by hfsl: prompts, lora, full")
    if run.network.topology != "full":
        raise ConfigError("network.topology", run.network.topology, "accepted by hfsl: full")
    if run.threat.kind:
        raise ConfigError("threat.kind", run.threat.kind, "accepted by hfsl: no attack")
    if run.train.distillation:
        raise ConfigError("train.distillation", run.train.distillation, "accepted by hfsl: 0")
    if run.train.keep_absent_rows:
        raise ConfigError("train.keep_absent_rows", True, "accepted by hfsl: false")
