"""The settings of a run, frozen; names, types, choices and bounds are checked as they are built.

A `RunConfig` flattens to the scalars that Flower carries in its run config (`RunConfig.flat`,
`RunConfig.from_flat`), so a node rebuilds the same settings on any engine.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from mfd_flower.canonical_json import load_json, load_json_list
from mfd_flower.checks import ConfigError, bounded, build


@dataclass(frozen=True)
class DataConfig:
    """Which images, and who holds them."""

    name: str = "mnist5k"
    """`mnist5k`, `digits`, `fashion-mnist` or `openclipart`, or several, `mnist5k+digits`; channels
    of base stations, `beams` or `line-of-sight`; your own pictures, see docs/data.md:
    `folder:<path>`, `csv:<path>`, `disk:<path>`, `hf:<owner>/<name>`; `<module>:<function>`, from a
    path to an `ImageSet`."""
    path: str = ""
    """Folder of the files, for the sets that are read from one; empty is their usual place."""
    options: str = "{}"
    """Of a set that is computed, as JSON; in a file a table. Those of `beams` and `line-of-sight`:
    `mfd_flower.network.BaseStations`."""
    strict: bool = False
    """Refuse pictures that cannot be read, which else are left out and named."""
    crop_mode: Literal["", "center", "squash", "border"] = ""
    """What becomes of pictures that are not square: cut, distorted, or padded with the mean colour;
    empty is the model's own way."""
    nodes: int = bounded(10, 1)
    partition: Literal["iid", "dirichlet", "classes", "tasks", "by-client", "by-folder"] = "iid"
    """`tasks` gives each node one task, what stands in front of a slash in its classes' names;
    `by-client` deals as the set says who holds what, a node a client: by its column `client`, or by
    the folders below a class, and `by-folder` is another word for it."""
    alpha: float = bounded(0.5, 0.0, open_low=True)
    """Dirichlet concentration of label shares; small is more skewed (partition `dirichlet`)."""
    classes: int = bounded(2, 1)
    """Classes a node holds (partition `classes`, GaisNet Table III)."""
    train_samples: int = bounded(1500, 0)
    """Images over all nodes; 0 takes all that the test set leaves."""
    test_samples: int = bounded(1000, 1)
    """Held-out images that no node trains on; of a test set that comes with the images the most."""
    public_samples: int = bounded(0, 0)
    """Images that all nodes have besides, of which no label is used (`fedmd`)."""
    validation: float = bounded(0.1, 0.0, 0.9)
    """Share of its images that a node holds out: by them, never by the test set, the best model of
    a run is chosen."""


@dataclass(frozen=True)
class ModelConfig:
    """The frozen backbone and what is tuned on it.

    Sizes are bounded, since a model file names them too: what is built of them must fit in memory.
    """

    backbone: str = "fm-tiny"
    """`fm-tiny`, `vit-small`, `random`, `file:<safetensors>` or `hub:<timm name>`."""
    arch: str = "fm-tiny"
    """Shape for `random` and `file:`: `fm-tiny` or a name of timm, see docs/models.md."""
    img_size: int = bounded(0, 0, 4096)
    """Side of an image in pixels, a multiple of the patch; 0 is the backbone's own. Positions of
    other sizes are resampled."""
    in_chans: int = bounded(0, 0, 64)
    """Channels of an image; 0 is the backbone's own. Weights of 3 are adapted as timm does."""
    normalise: Literal["", "unit", "half", "imagenet"] = ""
    """How pixels from 0 to 1 are shifted and scaled: as the backbone was trained, not at all, to -1
    to 1, or by ImageNet's means and deviations."""
    blocks: int = bounded(0, 0)
    """Use the first so many blocks; 0 is all."""
    weights: Literal["fp32", "int8"] = "fp32"
    """How frozen weights of linear layers are kept: int8 takes a quarter of the memory."""
    embed_dim: int = bounded(0, 0, 65536)
    """Width of a token, `depth` blocks, `num_heads` in each and the MLP's units over the width: the
    backbone grows to it and stays the same function, or loses blocks, heads and units; 0 is its
    own."""
    depth: int = bounded(0, 0, 1024)
    num_heads: int = bounded(0, 0, 1024)
    mlp_ratio: float = bounded(0.0, 0.0, 64.0)
    pooling: Literal["", "token", "avg", "map"] = ""
    """How tokens become features: the class token, the patches' mean, or the attention that the
    backbone was trained with; empty is the backbone's own way."""
    levels: str = ""
    """Numbers of blocks, such as `6,9,12`, behind which the class token and the patches' mean go to
    the head, each brought to mean 0 and variance 1; empty pools the last block alone."""
    tune: Literal["full", "head", "prompts", "lora"] = "prompts"
    prompts: int = bounded(8, 1, 4096)
    """Prompt tokens a layer (VPT)."""
    deep: bool = True
    """Prompts before every block, not only the first."""
    prompt_from: int = bounded(0, 0)
    """The first block with prompts; what stands in front of it is computed once."""
    prompt_dropout: float = bounded(0.0, 0.0, 0.99)
    lora_rank: int = bounded(4, 1, 1024)
    lora_alpha: int = bounded(8, 1)


@dataclass(frozen=True)
class TrainConfig:
    """One local update."""

    optimizer: str = "adamw"
    """A name of `mfd_flower.models.optimizers`."""
    lr: float = bounded(0.01, 0.0, open_low=True)
    momentum: float = bounded(0.0, 0.0, 0.999)
    weight_decay: float = bounded(0.0, 0.0)
    lr_schedule: Literal["constant", "cosine"] = "constant"
    """Within one local update."""
    batch_size: int = bounded(16, 0)
    """0 is the whole shard as one batch."""
    local_epochs: int = bounded(1, 1)
    shuffle: bool = True
    logit_adjustment: float = bounded(0.0, 0.0)
    """Weight of the local log label prior added to the logits (Menon et al., 2007.07314)."""
    proximal_mu: float = bounded(0.0, 0.0)
    """Pull towards the arriving tunables (FedProx, 1812.06127); a message may override it."""
    distillation: float = bounded(0.0, 0.0)
    """Weight of not-true distillation from the arriving model (FedNTD, 2106.03097) on a node of one
    class; it falls with the skew of the node's labels, to nothing where they are even."""
    keep_absent_rows: bool = False
    """Leave the head's rows of classes that the node does not have as they arrived."""
    augmentation: str = ""
    """`crop-flip` or a policy of timm's, `rand-m9-mstd0.5` for instance: nodes train on another
    view of each image in every epoch, and what is frozen computes it again."""
    accelerator: str = "auto"
    """As Lightning's Trainer takes it; `auto` is an accelerator if there is one, else the CPU. What
    it took stands in the results."""
    precision: Literal["32", "tf32", "bf16", "fp16"] = "32"
    """Of products of matrices; weights stay fp32. TF32 needs a CUDA card, fp16 an accelerator."""
    threads: int = bounded(1, 0)
    """Intra-op threads of one fit; 0 leaves torch's setting. Fits side by side fill the cores."""

    def __post_init__(self) -> None:
        if self.augmentation and self.distillation:
            accepted = "none with train.distillation, whose teacher sees other views"
            raise ConfigError("train.augmentation", self.augmentation, accepted)


@dataclass(frozen=True)
class TrainerConfig:
    """Keywords of Lightning's Trainer for every local fit, by Lightning's names."""

    gradient_clip_val: float = bounded(0.0, 0.0)
    """0 clips nothing."""
    gradient_clip_algorithm: Literal["norm", "value"] = "norm"
    accumulate_grad_batches: int = bounded(1, 1)
    """Batches whose gradients are summed for one step."""
    limit_train_batches: float = bounded(1.0, 0.0, 1.0, open_low=True)
    """Share of a shard's batches that an epoch takes."""


@dataclass(frozen=True)
class NetworkConfig:
    """Who reaches whom, and rates that turn counted bytes and FLOPs into seconds and joules."""

    world: str = "constant"
    """A key of `mfd_flower.network.worlds.WORLDS`: how rates, devices and who is there change."""
    options: str = "{}"
    """The world's own, as JSON; in a file a table. All that follows is of `constant`, but for
    `backhaul_bps`, `latency_s`, `timeout_s`, `sample_s` and `sample_j`."""
    topology: str = "full"
    """Who can reach whom over one `d2d` link: `full`, `ring`, `regular`, `geometric`, `x2` or
    `file:<graph>`, see `mfd_flower.network.topology`."""
    degree: int = bounded(4, 2)
    """Neighbours of a node (topology `regular`), in the mean (`geometric`)."""
    up_bps: float = bounded(20e6, 0.0, open_low=True)
    down_bps: float = bounded(100e6, 0.0, open_low=True)
    d2d_bps: float = bounded(50e6, 0.0, open_low=True)
    backhaul_bps: float = bounded(1e9, 0.0, open_low=True)
    latency_s: float = bounded(0.01, 0.0)
    """One-way latency of every message."""
    timeout_s: float = bounded(5.0, 0.0)
    """How long a sender waits for word of a message that is lost, in virtual time."""
    flops_per_s: float = bounded(5e9, 0.0, open_low=True)
    joules_per_flop: float = bounded(1e-10, 0.0)
    joules_per_bit: float = bounded(1e-7, 0.0)
    sample_s: float = bounded(0.0, 0.0)
    """What acquiring a sample takes, once, before a node works on it."""
    sample_j: float = bounded(0.0, 0.0)

    def keywords(self) -> dict[str, Any]:
        """Return the world's own options."""
        return load_json("network.options", self.options)


@dataclass(frozen=True)
class WireConfig:
    """How arrays travel where rounds and client half are Flower's, see `mfd_flower.wire_codec`."""

    codec: Literal["fp32", "bf16", "fp16", "int8"] = "fp32"
    """Of the arrays that nodes are sent, and of the updates that they send back."""
    top_k: float = bounded(1.0, 0.0, 1.0, open_low=True)
    """Share of the entries of its update that a node sends, the largest ones; it keeps the others
    and adds them to its next update."""

    @property
    def coded(self) -> bool:
        """Whether anything travels otherwise than Flower sends it."""
        return self != WireConfig()


@dataclass(frozen=True)
class FaultsConfig:
    """Shares of the messages to nodes that go wrong, see `mfd_flower.network.faults`.

    Each message meets at most one fault, so the shares add up to at most 1.
    """

    loss: float = bounded(0.0, 0.0, 1.0)
    """The request or the reply is lost, each as likely."""
    death: float = bounded(0.0, 0.0, 1.0)
    """The node dies before, during or after its work, while it answers, or when it has."""
    duplicate: float = bounded(0.0, 0.0, 1.0)
    """The node gets the request twice."""
    corruption: float = bounded(0.0, 0.0, 1.0)
    """A bit of what the request or the reply carries is flipped, each as likely."""
    delay: float = bounded(0.0, 0.0, 1.0)
    """The reply comes late."""
    downtime: int = bounded(3, 0)
    """How many more messages find a node down after its death."""
    silent: bool = False
    """Dead nodes give no sign, as it always is when a message is lost; else the sender is told."""
    late_by: int = bounded(1, 1)
    """How many later messages go out before a delayed reply comes in."""

    def __post_init__(self) -> None:
        if self.total > 1 + 1e-9:
            raise ConfigError("faults: sum of the shares", self.total, "at most 1")

    @property
    def total(self) -> float:
        """Share of the messages that anything happens to."""
        return self.loss + self.death + self.duplicate + self.corruption + self.delay


@dataclass(frozen=True)
class ThreatConfig:
    """Which nodes poison what they send; no strategy is told."""

    kind: str = ""
    """A name of `mfd_flower.adversary.attacks`; empty for honest nodes alone. `repeat` and
    those that claim or deny are for packets of sums."""
    share: float = bounded(0.2, 0.0, 1.0)
    """Share of the nodes that are malicious."""
    scale: float = bounded(1.0, 0.0, open_low=True)
    """Factor on the update or the sums, or of the noise's norm to theirs; `scale`, `repeat` and
    `claim-samples` need one but 1."""
    target: int = bounded(0, 0)
    """Class that the trigger stands for (`backdoor`)."""


@dataclass(frozen=True)
class StrategyConfig:
    """Which algorithm, for how long, with which constructor keywords."""

    name: str = "mfd-walk"
    """A file of `strategies/` (`mfd-walk`) or `package.module:Class`."""
    rounds: int = bounded(10, 1)
    """In one round every node does one local update on average: a FedAvg round, a walk's tour."""
    options: str = "{}"
    """Constructor keywords as JSON."""

    def keywords(self) -> dict[str, Any]:
        """Return the constructor keywords."""
        return load_json("strategy.options", self.options)


@dataclass(frozen=True)
class NodeProfile:
    """What some of the nodes have of their own: a model, and how they train and prepare."""

    name: str = ""
    share: float = bounded(0.0, 0.0, 1.0)
    """Of the nodes, dealt out anew for each seed; or they are named by what they are:"""
    devices: tuple[str, ...] = ()
    """Kinds of devices, where the world has some; see `mfd_flower.network.devices.PROFILES`."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """Settings of `ModelConfig` instead of the run's, where nodes may have models of their own."""
    train: Mapping[str, Any] = field(default_factory=dict)
    """Settings of `TrainConfig` instead of the run's."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that one run depends on."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    trainer: TrainerConfig = TrainerConfig()
    network: NetworkConfig = NetworkConfig()
    wire: WireConfig = WireConfig()
    faults: FaultsConfig = FaultsConfig()
    threat: ThreatConfig = ThreatConfig()
    strategy: StrategyConfig = StrategyConfig()
    profiles: str = "[]"
    """What nodes have of their own, as JSON; in a file ``[[profiles]]``, each a `NodeProfile`."""
    seed: int = bounded(0, 0)

    def __post_init__(self) -> None:
        if sum(profile.share for profile in self.node_profiles) > 1 + 1e-9:
            shares = [profile.share for profile in self.node_profiles]
            raise ConfigError("profiles: sum of the shares", sum(shares), "at most 1")
        for profile in self.node_profiles:
            self._changed({"model": profile.model, "train": profile.train})

    @property
    def node_profiles(self) -> tuple[NodeProfile, ...]:
        """What nodes have of their own, of whom which are, see `mfd_flower.profiles`."""
        return _profiles(self.profiles)

    def with_profile(self, profile: NodeProfile, *, own_model: bool = True) -> Self:
        """Return the settings of a node that has a profile."""
        told = {"model": profile.model if own_model else {}, "train": profile.train}
        return dataclasses.replace(self, **self._changed(told))

    def _changed(self, told: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Return tables of settings that have some others."""
        return {
            name: build(type(here), {**dataclasses.asdict(here), **new}, f"profiles.{name}.")
            for name, new in told.items()
            if new and (here := getattr(self, name))
        }

    @classmethod
    def from_tables(cls, tables: Mapping[str, Any]) -> Self:
        """Build from nested tables as TOML gives them; unknown keys and bad values are refused."""
        return build(cls, tables)

    def flat(self) -> dict[str, str | int | float | bool]:
        """Return `{"data.name": "mnist5k", ...}`, the form that Flower's run config carries."""
        flat: dict[str, str | int | float | bool] = {}
        for table, values in dataclasses.asdict(self).items():
            if isinstance(values, dict):
                flat |= {f"{table}.{name}": value for name, value in values.items()}
            else:
                flat[table] = values
        return flat

    @staticmethod
    def given(flat: Mapping[str, Any]) -> dict[str, Any]:
        """Return of `flat` settings those that are not as they are by default.

        So settings that were kept before there was a new one compare equal to those of now.
        """
        usual = RunConfig().flat()
        return {k: v for k, v in flat.items() if k not in usual or v != usual[k]}

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `flat`; keys that are not settings of a run are ignored."""
        known = cls().flat()
        tables: dict[str, Any] = {}
        for key, value in values.items():
            if key in known:
                table, _, name = key.rpartition(".")
                (tables.setdefault(table, {}) if table else tables)[name] = value
        return cls.from_tables(tables)


@functools.lru_cache(maxsize=16)
def _profiles(text: str) -> tuple[NodeProfile, ...]:
    rows = load_json_list("profiles", text)
    return tuple(build(NodeProfile, row, f"profiles[{i}].") for i, row in enumerate(rows))
