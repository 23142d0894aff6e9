"""HFSL, hybrid federated split learning: split learning in clusters, FedAvg across them.

*GaisNet* (arXiv 2401.02668), section II-D, in four steps: deliver the stages; embed the data of
each cluster's first client; pass activations forward and gradients back between its members;
average like module with like module across clusters. One cluster is split learning (arXiv
1812.00564), clusters of one node are FedAvg (arXiv 1602.05629). A round is one Flower message a
member; what members say to each other goes over the links of `mfd_flower.split`.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from mfd_flower.checks import ConfigError, bounded, build, filled
from mfd_flower.config import RunConfig, TrainerConfig
from mfd_flower.models import load_backbone
from mfd_flower.models.residents import model_for
from mfd_flower.models.stages import check_split
from mfd_flower.network.worlds import world_of
from mfd_flower.node import Node
from mfd_flower.packets.codecs import CodecName
from mfd_flower.records import plain_record, plain_values, tensors_of
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.runtime.own_loop import OwnLoop, Step
from mfd_flower.split import formation
from mfd_flower.split.costs import BlockCosts
from mfd_flower.split.frames import LinkError
from mfd_flower.split.member import take_part, tensors_for, train_position
from mfd_flower.split.pipeline import StageResult
from mfd_flower.split.roster import NotMetError, Roster, seated
from mfd_flower.split.round import Outcome, place, placed, run_round
from mfd_flower.split.serving import Service, answer, deliver

NEEDED = (
    '{0} nodes must run at once: with flwr run set options.link = "gloo" and '
    '--federation-config "init-args-num-cpus={0} client-resources-num-cpus=1"'
)
"""What the engine lacks if members do not meet."""


@dataclass(frozen=True)
class HFSLOptions:
    """How clusters form, split and talk."""

    clusters: int = bounded(1, 1)
    """They work side by side."""
    form: Literal["order", "planned"] = "order"
    """The first cluster has the first nodes, and so on; or clusters are planned by what nodes tell
    of their labels, and by devices and links."""
    cluster_size: int = bounded(4, 1)
    """Members of a cluster, the edge server counted; at most as many as blocks."""
    cuts: Literal["even", "planned"] | tuple[int, ...] = "even"
    """Planned for the fastest step by measured FLOPs and the world's rates; or the block indices
    that `mfd_flower.models.stages.split_model` takes: 0 in front leaves Emb alone on the first
    client, the number of blocks behind leaves the head alone on the last one (GaisNet, III-B)."""
    micro_batches: int = bounded(4, 1, 1024)
    """Parts of a batch that follow one another through the stages."""
    codec: CodecName = "fp32"
    """How activations and gradients travel, a key of `mfd_flower.packets.CODECS`."""
    u_shape: bool = False
    """Norm, head and labels stay with the first client; else it sends labels to the last one."""
    edge_stages: tuple[int, ...] = ()
    """Positions, from 1 on, that the edge server holds itself."""
    rotate: bool = False
    """Another client is first in the next round, so that the data of all are used."""
    link: Literal["queue", "gloo"] = "queue"
    """`queue` where nodes are threads of one process, `gloo` where they are not."""
    meet_s: float = bounded(30.0, 0.0, 1e6, open_low=True)
    """Longest time to wait for the other members at the start of a round."""
    timeout_s: float = bounded(120.0, 0.0, 1e6, open_low=True)
    """Longest time to wait for a neighbour's next tensor."""


def stage(message: Message, context: Context) -> Message:
    """Train this node's stages while the others of its cluster train theirs."""
    node = Node.of(context)
    tensors = tensors_of(message.content.array_records["arrays"])

    def work(roster: Roster, position: int) -> StageResult:
        return train_position(roster, position, tensors, node.run, node)

    def reply(roster: Roster, results: list[StageResult]) -> RecordDict:
        feeds = roster.members[0] == node.address
        metrics = MetricRecord({"num-examples": node.num_samples} if feeds else {})
        if roster.members[-1] == node.address:
            metrics["train-loss"] = results[-1].loss
        trained = {name: tensor for result in results for name, tensor in result.tensors.items()}
        return RecordDict({"arrays": ArrayRecord(trained), "metrics": metrics})

    return take_part(message, node, work, reply, fits=1)


class HFSL(OwnLoop, Strategy):
    """Clusters that each train a split model, averaged by the edge server.

    A member that fails costs its cluster the round and is out for the rest of the run: an idle node
    takes the last place in the cluster, or the others share the blocks. A planned cluster is then
    planned anew from its survivors and the idle nodes. Where links come and go all are planned anew
    once a cluster is broken, of all who are there.
    """

    Options: ClassVar = HFSLOptions
    client_actions: ClassVar = {
        "train.stage": stage,
        "query.place": place,
        "query.labels": formation.tell_labels,
        "query.deliver": deliver,
        "query.infer": answer,
    }

    def __init__(self, run: RunConfig, **options: Any) -> None:
        self.run = run
        self.options: HFSLOptions = build(self.Options, options, "options.")
        backbone = check_split(load_backbone(run.model, run.seed), run.model.tune)
        self.depth = len(backbone.blocks)
        self.entry = run.model.prompt_from if run.model.tune == "prompts" else 0
        """First block that any member runs: what stands in front is computed once."""
        _check(self.options, run, self.entry, self.depth)
        self.clients = self.options.cluster_size - len(self.options.edge_stages)
        self.concurrent_nodes = self.options.clusters * self.clients
        """Nodes that must run at the same time."""
        if self.concurrent_nodes > run.data.nodes:
            accepted = f"{self.clients} nodes in each, and there are {run.data.nodes}"
            raise ConfigError("options.clusters", self.options.clusters, accepted)
        self.one_process = self.options.link == "queue" and self.options.cluster_size > 1
        """Whether they must be threads of the server's process."""
        self.world = world_of(run.network, run.data.nodes, run.seed)
        number, by_plan = max(1, self.options.clusters), self.options.form == "planned"
        self.formation = formation.Formation(
            self.world, number, self.clients, by_plan=by_plan, costs_of=self.costs_of
        )
        if self.formation.changing and not by_plan:
            raise ConfigError("options.form", self.options.form, "planned where links come and go")
        self.done = self.finished = 0
        """The round that ended last, and how many of them a cluster finished."""
        # Two runs of one process must not meet each other.
        self.meeting = uuid.uuid4().hex

    def steps(
        self, grid: MeteredGrid, arrays: ArrayRecord, num_rounds: int, timeout: float
    ) -> Iterator[Step]:
        """Train `num_rounds` rounds; a step is the average after each."""
        if not self.done:
            yield Step(0, arrays)
            self.formation.form(grid, timeout)
        for number in range(self.done + 1, num_rounds + 1):
            self.formation.renew(grid, timeout)
            rosters = self.rosters(grid, number, self.formation.clusters, timeout)
            outcomes = self.trained(grid, rosters, [arrays] * len(rosters), timeout)
            done = [outcome.content for outcome in outcomes if outcome.content]
            if done:
                arrays = aggregate_arrayrecords(done, "num-examples")
                self.finished += 1
            elif outcomes and not any(outcome.met or outcome.lost for outcome in outcomes):
                needed = NEEDED.format(self.concurrent_nodes)
                raise NotMetError(f"{outcomes[0].reason}; {needed}")
            elif outcomes and number == num_rounds and not self.finished:
                raise LinkError(f"no cluster finished a round: {outcomes[0].reason}")
            for roster, outcome in zip(rosters, outcomes, strict=True):
                if outcome.lost:
                    self.formation.without(roster.cluster, outcome.lost, grid.virtual_seconds)
            self.done = number
            yield Step(number, arrays)

    def state_dict(self) -> RecordDict:
        """Return who is in which cluster after the round that was yielded last."""
        rounds = {"done": self.done, "finished": self.finished}
        who = {name: getattr(self.formation, name) for name in ("clusters", "idle", "labels")}
        return RecordDict({"loop": plain_record(rounds), "formation": plain_record(who)})

    def load_state_dict(self, state: RecordDict) -> None:
        """Go on with these clusters behind that round."""
        vars(self).update(plain_values(state.config_records["loop"]))
        vars(self.formation).update(plain_values(state.config_records["formation"]))

    def cuts(self, stages: int) -> tuple[int, ...] | None:
        """Return where so many stages are cut; None if that is planned."""
        if isinstance(self.options.cuts, tuple) and stages == self.options.cluster_size:
            return self.options.cuts
        if self.options.cuts == "planned":
            return None
        return self.behind_entry(formation.even_cuts(self.depth - self.entry, stages))

    def behind_entry(self, cuts: Sequence[int]) -> tuple[int, ...]:
        """Return cuts of the blocks that run as cuts of the model."""
        return tuple(self.entry + cut for cut in cuts)

    def costs_of(self, stages: int) -> BlockCosts:
        """Return what each block takes where cuts are free, else each of so many stages."""
        cuts = self.cuts(stages)
        return self.costs if cuts is None else self.costs.joined([c - self.entry for c in cuts])

    @functools.cached_property
    def costs(self) -> BlockCosts:
        """What each block that runs takes."""
        parts, stages = self.options.micro_batches, self.options.cluster_size
        return BlockCosts.of(model_for(self.run), self.run.train, parts, stages)

    def rosters(
        self, grid: MeteredGrid, number: int, clusters: Sequence[Sequence[str]], timeout: float
    ) -> list[Roster]:
        """Return the roster of each cluster that has clients in round `number`."""
        at_s = grid.virtual_seconds
        rosters = [self.roster(number, k, c, at_s) for k, c in enumerate(clusters) if c]
        return self.met(grid, rosters, timeout)

    def met(self, grid: MeteredGrid, rosters: list[Roster], timeout: float) -> list[Roster]:
        """Return rosters that say where their members meet, if that has to be asked for."""
        return placed(grid, rosters, timeout) if self.options.link == "gloo" else rosters

    def roster(self, number: int, cluster: int, clients: Sequence[str], at_s: float) -> Roster:
        """Seat the clients of a cluster for round `number` and cut the model for them."""
        options = self.options
        turn = (number - 1) % len(clients) if options.rotate else 0
        stages = seated([*clients[turn:], *clients[:turn]], options.edge_stages)
        cuts = self.cuts(len(stages))
        if cuts is None:
            found = formation.cut_by_cost(self.costs, stages, self.world, at_s)
            cuts = self.behind_entry(found)
        members = (*stages, stages[0]) if options.u_shape else stages
        how = (options.micro_batches, options.codec, options.meet_s, options.timeout_s)
        return Roster(self.meeting, number, cluster, members, cuts, *how)

    def trained(
        self,
        grid: MeteredGrid,
        rosters: Sequence[Roster],
        models: Sequence[ArrayRecord],
        timeout: float,
    ) -> list[Outcome]:
        """Let every cluster train a round, each from its model."""
        pairs = zip(rosters, models, strict=True)
        tensors = {roster.cluster: tensors_of(arrays) for roster, arrays in pairs}

        def request(roster: Roster, address: str) -> RecordDict:
            own = ArrayRecord(tensors_for(address, roster, self.run, tensors[roster.cluster]))
            return RecordDict({"arrays": own, "roster": ConfigRecord(roster.to_record())})

        def stand_in(roster: Roster, position: int) -> StageResult:
            return train_position(roster, position, tensors[roster.cluster], self.run)

        return run_round(
            grid, rosters, self.run, "train.stage", request, stand_in, timeout=timeout, fits=1
        )

    def service(self, grid: MeteredGrid, arrays: ArrayRecord, *, whole: bool = False) -> Service:
        """Return the first cluster as one that answers requests with these tunables.

        `whole` delivers all parameters of each stage instead of its tunables.
        """
        timeout_s = self.options.timeout_s
        if not self.formation.clusters:
            self.formation.form(grid, timeout_s)
        (roster,) = self.rosters(grid, 1, self.formation.clusters[:1], timeout_s)
        return Service(grid, self.run, roster, tensors_of(arrays), whole)


def _check(options: HFSLOptions, run: RunConfig, entry: int, depth: int) -> None:
    """Refuse options that do not fit the model, and settings that a split model cannot keep to."""
    # Of cuts that are named the first may leave Emb alone in front, the last one the head behind.
    named = isinstance(options.cuts, tuple) and options.form == "order"
    ends = 2 - options.u_shape if named else 0
    if options.cluster_size > (most := depth - entry + ends):
        said = "the blocks that run, Emb and head" if ends else "the blocks that run"
        raise ConfigError(
            "options.cluster_size", options.cluster_size, f"must be at most {most}, {said}"
        )
    _check_rising("edge_stages", options.edge_stages, 1, options.cluster_size - 1)
    if isinstance(options.cuts, tuple):
        low, high = (entry, depth - options.u_shape) if named else (entry + 1, depth - 1)
        _check_rising("cuts", options.cuts, low, high)
        if len(options.cuts) != options.cluster_size - 1:
            accepted = f"must be {options.cluster_size - 1}, one less than the members"
            raise ConfigError("options.cuts", list(options.cuts), accepted)
    if options.form == "planned" and options.edge_stages:
        raise ConfigError("options.edge_stages", list(options.edge_stages), "none where planned")
    topology, train = run.network.topology, run.train
    if options.form == "order" and topology != "full":
        raise ConfigError("network.topology", topology, "accepted by hfsl in order: full")
    if train.precision == "fp16":
        # A scaler of gradients would have to be the same in all members of a cluster.
        raise ConfigError("train.precision", "fp16", "accepted by hfsl: 32, tf32, bf16")
    if run.trainer != TrainerConfig():
        raise ConfigError("trainer", filled(TrainerConfig, run.trainer), "hfsl accepts none")
    if run.model.tune == "head":
        raise ConfigError("model.tune", "head", "accepted by hfsl: prompts, lora, full")
    for name, value, accepted in (
        ("threat.kind", run.threat.kind, "no attack"),
        # A member that is asked twice would wait for its cluster a second time.
        ("faults.duplicate", run.faults.duplicate, "0"),
        ("train.distillation", train.distillation, "0"),
        ("train.keep_absent_rows", train.keep_absent_rows, "false"),
        ("train.augmentation", train.augmentation, "none"),
        ("model.levels", run.model.levels, "none"),
    ):
        if value:
            raise ConfigError(name, value, f"accepted by hfsl: {accepted}")


def _check_rising(name: str, values: Sequence[int], low: int, high: int) -> None:
    if list(values) != sorted({value for value in values if low <= value <= high}):
        accepted = f"must be rising whole numbers from {low} to {high}"
        raise ConfigError(f"options.{name}", list(values), accepted)
