"""Generators travel instead of data: each node trains on what others' generators draw, too.

Whitepaper, section 2.5 (b): a device trains a small generative model of its data and sends that;
who gets it trains on synthetic and local data together. Once, at the start, every node sends its
decoder (`mfd_flower.models.generator`, at most 1 MB) to its neighbours, or to some that it draws.
Afterwards each trains its own model, of whatever architecture, and nothing travels any more. What a
generator gives away of its images is measured (`leakage` in the results).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from mfd_flower.accounting.costs import count_flops
from mfd_flower.checks import Form, bounded, build
from mfd_flower.config import RunConfig
from mfd_flower.cost_report import current_report, report_flops
from mfd_flower.data.federation import Part
from mfd_flower.data.samples import InputSpec, Samples, prepared
from mfd_flower.models.build import input_spec
from mfd_flower.models.generator import SIDE_PX, Decoder, GeneratorOptions, trained_decoder
from mfd_flower.models.inputs import federation_of
from mfd_flower.models.residents import at_frozen_stage, model_for
from mfd_flower.node import Node
from mfd_flower.own_model import QUERY, keep_own, own_model, show_own
from mfd_flower.packets.digest import version_digest
from mfd_flower.records import integer, plain_record, plain_values, tensors_of, text
from mfd_flower.runtime.deliveries import deliveries
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.runtime.own_loop import OwnModels
from mfd_flower.sharing.drawn import EACH, MOST_CLASSES, MOST_NODES, drawn_sheet
from mfd_flower.sharing.leakage import leakage_of

GOT, SOURCE = "generator/", "source"
ADDRESS = Form(r"n[0-9]{1,9}", "an address such as n3")
TRAINED, RECEIVERS, DRAWN = 0x67656E, 0x67657274, 0x67656E64
"""Purposes of generators of random numbers."""


@dataclass(frozen=True)
class GeneratorStrategyOptions:
    """What is drawn, and who gets whose generator."""

    receivers: int = bounded(0, 0)
    """Neighbours that a node sends its generator to, drawn; 0: all."""
    images: int = bounded(30, 0)
    """Of each class that senders have, drawn at a receiver, by their shares of its samples."""
    generator: GeneratorOptions = field(default_factory=GeneratorOptions)
    """How it is trained."""


def make(message: Message, context: Context) -> Message:
    """Train a generator on this node's images, and hand its decoder out."""
    node, options = Node.of(context), options_of(Node.of(context).run)
    images, labels = unit_images(node.run, node.index)
    seed = int(node.rng(0, TRAINED).integers(2**62))
    decoder, cost, samples = trained_decoder(
        images, labels, node.num_classes, options.generator, seed
    )
    if (report := current_report.get()) is not None:
        size = min(options.generator.batch_size, len(images))
        report.fits += 1
        report.flops += cost.flops * samples / size
        report.peak_bytes = max(report.peak_bytes, cost.peak_bytes)
    near = list(node.world_view().neighbours)
    if 0 < options.receivers < len(near):
        picks = node.rng(0, RECEIVERS).choice(len(near), options.receivers, replace=False)
        near = [near[pick] for pick in sorted(picks.tolist())]
    counts = [int(count) for count in node.label_counts]
    return Message(
        RecordDict(
            {
                "arrays": ArrayRecord(decoder.state_dict()),
                "sent": ConfigRecord({SOURCE: node.address, "counts": counts}),
                "to": ConfigRecord({"receivers": near}),
            }
        ),
        reply_to=message,
    )


def take(message: Message, context: Context) -> Message:
    """Keep the generator that another node sent, and of what classes it is."""
    sent = message.content.config_records["sent"]
    source, classes = text(sent, SOURCE), Node.of(context).num_classes
    ADDRESS.check(SOURCE, source)
    if len(counts_in(sent)) != classes:
        raise ValueError(f"counts: {len(counts_in(sent))}, must be {classes}, one a class")
    context.state[f"{GOT}{source}"] = message.content.array_records["arrays"]
    context.state[f"{GOT}{source}/counts"] = ConfigRecord({"counts": counts_in(sent)})
    return Message(RecordDict(), reply_to=message)


def train_mixed(message: Message, context: Context) -> Message:
    """Train the node's own model on its images and on drawn ones."""
    node, own = own_model(context)
    state, number = context.state, integer(message.content.config_records["config"], "round")
    got: dict[str, tuple[dict[str, Tensor], list[int]]] = {}
    for name in sorted(n for n in state.array_records if n.startswith(GOT)):
        counts = counts_in(state.config_records[f"{name}/counts"])
        got[name] = tensors_of(state.array_records[name]), counts
    drawn = drawn_samples(node, got) if got else None
    local = node.samples
    samples = None
    if drawn is not None and len(drawn):
        inputs = torch.cat([local.inputs[:], drawn.inputs[:]])
        samples = Samples(inputs, torch.cat([local.labels, drawn.labels]))
        if number == 1:  # Whenever a process makes them again, a node has drawn them once.
            latent, first = options_of(node.run).generator.latent, next(iter(got.values()))[0]
            decoder, one = decoder_of(first, latent, node.num_classes), drawn.labels[:1].long()
            parts = (torch.zeros(1, latent), one)
            report_flops(len(drawn) * count_flops(decoder, parts, lambda d, part: d(*part)))
    own, _ = node.fit(own, number, samples=samples)
    keep_own(context, own)
    return Message(RecordDict(), reply_to=message)


def options_of(run: RunConfig) -> GeneratorStrategyOptions:
    """Return the options of a run."""
    found: GeneratorStrategyOptions = build(
        GeneratorStrategyOptions, run.strategy.keywords(), "options."
    )
    return found


def unit_images(run: RunConfig, part: Part) -> tuple[Tensor, Tensor]:
    """Return a part's images at 28 px with values from 0 to 1, and their labels."""
    federation = federation_of(run)
    channels = federation.images.images.shape[-1]
    spec = InputSpec(SIDE_PX, channels, (0.0,) * channels, (1.0,) * channels)
    samples = federation.samples(federation.part(part), spec)
    return samples.inputs[:], samples.labels.long()


def counts_in(record: Mapping[str, Any]) -> list[int]:
    """Return how many samples of each class a sender has."""
    counts = record["counts"]
    if not isinstance(counts, list) or not all(type(c) is int and c >= 0 for c in counts):
        raise TypeError("counts: must be whole numbers, one a class")
    return counts


def drawn_samples(node: Node, got: Mapping[str, tuple[dict[str, Tensor], list[int]]]) -> Samples:
    """Return drawn images at the frozen stage of the node's model, the same in every round."""
    versions = tuple((name, version_digest(tensors)) for name, (tensors, _) in got.items())
    kept = _drawn(node.run, node.index)
    if versions not in kept:
        kept.clear()
        kept[versions] = _draw(node, got)
    return kept[versions]


@functools.lru_cache(maxsize=512)
def _drawn(run: RunConfig, index: int) -> dict[Any, Samples]:
    """Return what was drawn at a node, by the versions of the generators."""
    return {}


def _draw(node: Node, got: Mapping[str, tuple[dict[str, Tensor], list[int]]]) -> Samples:
    options, classes = options_of(node.run), node.num_classes
    totals = [sum(counts[c] for _, counts in got.values()) for c in range(classes)]
    spec = input_spec(model_for(node.run).backbone)
    images, labels = [], []
    for place, (tensors, counts) in enumerate(got.values()):
        shares = [round(options.images * counts[c] / max(1, totals[c])) for c in range(classes)]
        wanted = torch.arange(classes).repeat_interleave(torch.tensor(shares))
        if not len(wanted):
            continue
        decoder = decoder_of(tensors, options.generator.latent, classes)
        rng = torch.Generator().manual_seed(int(node.rng(place, DRAWN).integers(2**62)))
        drawn = (decoder.draw(wanted, rng) * 255).round().to(torch.uint8)
        images.append(drawn.permute(0, 2, 3, 1).numpy())
        labels.append(wanted.numpy())
    if not images:
        return Samples(node.samples.inputs[:0], node.samples.labels[:0])
    return at_frozen_stage(node.run, prepared(np.concatenate(images), np.concatenate(labels), spec))


def decoder_of(tensors: Mapping[str, Tensor], latent: int, classes: int) -> Decoder:
    """Return the decoder that arrays are; ValueError if they are none of this run."""
    channels = len(tensors["last.bias"])
    if channels > 16:
        raise ValueError(f"last.bias: {channels} channels, accepted: at most 16")
    decoder = Decoder(latent, classes, channels).eval()
    decoder.load_state_dict(dict(tensors))
    return decoder


class Generator(OwnModels, Strategy):
    """Send generators once, then let all train on local and drawn images."""

    Options: ClassVar = GeneratorStrategyOptions
    client_actions: ClassVar = {
        "train.generator": make,
        "query.take": take,
        "train.mixed": train_mixed,
        QUERY: show_own,
    }
    links: ClassVar = {
        "train.generator": "relay",
        "query.take": "d2d",
        "train.mixed": "relay",
        QUERY: "relay",
    }
    own_models: ClassVar = staticmethod(lambda run: "any")

    def __init__(self, run: RunConfig, **options: Any) -> None:
        super().__init__()
        self.run = run
        build(GeneratorStrategyOptions, options, "options.")
        self.leakage: dict[str, dict[str, float | None]] = {}
        """What each node's generator gives away."""
        self.drawn: dict[str, Any] = {}
        """A sheet of what generators draw: ``png`` in base64, ``nodes`` and ``classes`` on it."""

    def round(self, grid: MeteredGrid, number: int, arrays: ArrayRecord, timeout: float) -> None:
        """Let all nodes train; before the first time they share generators."""
        content = RecordDict({"config": ConfigRecord({"round": number})})
        contents = dict.fromkeys(grid.nodes, content)
        if number == 1:
            made = grid.ask("train.generator", contents, timeout)
            for generators in deliveries(made):
                grid.ask("query.take", generators, timeout)
            self._measure(made)
        grid.ask("train.mixed", contents, timeout)
        self.look(grid, timeout)

    def state_dict(self) -> RecordDict:
        """Return the round that was yielded last, the models, and what was measured."""
        state = super().state_dict()
        state["leakage"] = plain_record({"leakage": self.leakage, "drawn": self.drawn})
        return state

    def load_state_dict(self, state: RecordDict) -> None:
        """Go on behind that round."""
        super().load_state_dict(state)
        told = plain_values(state.config_records["leakage"])
        self.leakage, self.drawn = told["leakage"], told["drawn"]

    def _measure(self, made: Mapping[str, RecordDict]) -> None:
        """Measure what generators give away, which only the experimenter can, and show them."""
        options = options_of(self.run)
        others, of_others = unit_images(self.run, "test")
        names = federation_of(self.run).images.classes
        classes, sheets = len(names), dict[str, Tensor]()
        for name, answer in made.items():
            members, labels = unit_images(self.run, int(name.removeprefix("n")))
            # Not what the node says of its samples: it could claim any number of them.
            counts = torch.bincount(labels, minlength=classes)
            tensors = tensors_of(answer.array_records["arrays"])
            try:
                decoder = decoder_of(tensors, options.generator.latent, classes)
            except (KeyError, ValueError, RuntimeError):
                continue  # Who gets it refuses it, by name.
            if decoder.channels != members.shape[1]:
                continue  # What it draws is no image of this set: there is nothing to compare.
            # As many of each class on both sides: members and others differ in nothing else.
            rows, alike = [], []
            for label in range(len(counts)):
                here, there = ((y == label).nonzero()[:, 0] for y in (labels, of_others))
                both = min(len(here), len(there))
                rows.append(here[:both])
                alike.append(there[:both])
            wanted = torch.arange(len(counts)).repeat_interleave(counts)
            drawn = decoder.draw(wanted, torch.Generator().manual_seed(self.run.seed))
            own, rest = members[torch.cat(rows)], others[torch.cat(alike)]
            found = asdict(leakage_of(drawn, own, rest))
            self.leakage[name] = {**found, "epsilon": options.generator.epsilon}
            each = torch.arange(classes).repeat_interleave(EACH)
            shown = decoder.draw(each, torch.Generator().manual_seed(self.run.seed))
            shown[counts.repeat_interleave(EACH) == 0] = torch.nan
            sheets[name] = shown.unflatten(0, (classes, EACH))
        if sheets:
            told = {"nodes": [*sheets][:MOST_NODES], "classes": [*names][:MOST_CLASSES]}
            self.drawn = {"png": drawn_sheet(sheets), **told}
