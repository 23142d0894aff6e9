r"""A small conditional generator of a node's images: what a node can send instead of its data.

A conditional variational autoencoder (Kingma and Welling 2014, arXiv 1312.6114; Sohn, Lee and Yan
2015, *Learning structured output representation using deep conditional generative models*). Only
the decoder travels: ``(z, class) -> image`` of 28 px, at most 1 MB in fp32. The loss of an image is

.. math:: \mathrm{BCE}(x, \hat x) + \mathrm{KL}(\mathcal{N}(\mu, \sigma) \| \mathcal{N}(0, 1))

summed over pixels and the entries of z. Without batch norms no statistic of the data stays outside
its weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from mfd_flower.accounting.costs import StepCost, measure_step
from mfd_flower.checks import bounded
from mfd_flower.data.augmentation import process_generators
from mfd_flower.models.privacy import epsilon_of

SIDE_PX = 28
WIDTH = 32
"""Channels of the decoder's last feature maps but one."""
OF_CLASS = 16
"""Numbers that tell a class."""


@dataclass(frozen=True)
class GeneratorOptions:
    """How a generator is trained."""

    latent: int = bounded(16, 1, 256)
    """Entries of z."""
    epochs: int = bounded(150, 1)
    lr: float = bounded(2e-3, 0.0, open_low=True)
    """Of Adam."""
    batch_size: int = bounded(32, 1)
    clip: float = bounded(0.0, 0.0)
    """Largest norm of a sample's gradient, with `noise` (Abadi et al. 2016, arXiv 1607.00133); 0
    for none."""
    noise: float = bounded(0.0, 0.0)
    """Standard deviation of what is added to a batch's gradient, in units of `clip`."""
    delta: float = bounded(1e-5, 0.0, 0.5, open_low=True)
    """At which the privacy of that noise is told."""

    @property
    def epsilon(self) -> float | None:
        """The privacy budget of one sample at `delta`, None without noise.

        A sample is in one batch an epoch, whose gradient it moves by `clip` at most, so it is in as
        many releases as there are epochs. That batches are drawn by chance is not counted on. It
        hides what an image is, not how many of which class a node has.
        """
        if not (self.clip and self.noise):
            return None
        return epsilon_of(self.noise, self.delta, self.epochs**0.5)


class Decoder(nn.Module):
    """Maps z and a class to an image ``(batch, channels, 28, 28)`` of values from 0 to 1."""

    def __init__(self, latent: int, classes: int, channels: int) -> None:
        super().__init__()
        self.latent, self.channels = latent, channels
        self.kind = nn.Embedding(classes, OF_CLASS)
        self.lift = nn.Linear(latent + OF_CLASS, 2 * WIDTH * 7 * 7)
        self.middle = nn.Conv2d(2 * WIDTH, WIDTH, 3, padding=1)
        self.last = nn.Conv2d(WIDTH, channels, 3, padding=1)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Decode ``(batch, latent)`` of classes ``(batch,)``."""
        told = torch.cat([z, self.kind(labels)], dim=1)
        maps = F.relu(self.lift(told)).unflatten(1, (2 * WIDTH, 7, 7))
        maps = F.relu(self.middle(F.interpolate(maps, scale_factor=2.0)))
        return torch.sigmoid(self.last(F.interpolate(maps, scale_factor=2.0)))

    @torch.no_grad()
    def draw(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Draw an image of each class."""
        z = torch.randn(len(labels), self.latent, generator=generator)
        return self(z, labels)


class Encoder(nn.Module):
    """Maps an image and its class to the mean and log variance of z; it stays on the node."""

    def __init__(self, latent: int, classes: int, channels: int) -> None:
        super().__init__()
        self.kind = nn.Embedding(classes, OF_CLASS)
        self.first = nn.Conv2d(channels, WIDTH, 3, stride=2, padding=1)
        self.second = nn.Conv2d(WIDTH, 2 * WIDTH, 3, stride=2, padding=1)
        self.told = nn.Linear(2 * WIDTH * 7 * 7 + OF_CLASS, 2 * latent)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode ``(batch, channels, 28, 28)``."""
        maps = F.relu(self.second(F.relu(self.first(images)))).flatten(1)
        told = torch.cat([maps, self.kind(labels)], dim=1)
        mean, log_variance = self.told(told).chunk(2, dim=1)
        return mean, log_variance


def sample_losses(
    decoder: Decoder, encoder: Encoder, images: Tensor, labels: Tensor, noise: Tensor
) -> Tensor:
    """Return the loss of each image in nats, ``(batch,)``; `noise` is what z is drawn with."""
    mean, log_variance = encoder(images, labels)
    drawn = decoder(mean + (0.5 * log_variance).exp() * noise, labels)
    rebuilt = F.binary_cross_entropy(drawn, images, reduction="none").flatten(1).sum(1)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
    return rebuilt + divergence


class Pair(nn.Module):
    """Decoder and encoder of one node."""

    def __init__(self, latent: int, classes: int, channels: int) -> None:
        super().__init__()
        self.decoder = Decoder(latent, classes, channels)
        self.encoder = Encoder(latent, classes, channels)

    def forward(self, images: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """Return `sample_losses`."""
        return sample_losses(self.decoder, self.encoder, images, labels, noise)


def trained_decoder(
    images: Tensor, labels: Tensor, classes: int, options: GeneratorOptions, seed: int
) -> tuple[Decoder, StepCost, int]:
    """Train a generator on images ``(n, channels, 28, 28)`` of values from 0 to 1.

    Returns
    -------
    tuple
        The decoder, the cost of a step on a full batch, and how many samples it was trained on,
        epochs counted. `seed` decides all randomness but the noise of a privacy budget, which comes
        from it too: whoever knows the seed can take it off.
    """
    generator = torch.Generator().manual_seed(seed)
    with process_generators, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pair = Pair(options.latent, classes, images.shape[1])
    optimizer = torch.optim.Adam(pair.parameters(), lr=options.lr)
    size = min(options.batch_size, len(images))
    first = (images[:size], labels[:size], torch.zeros(size, options.latent))
    cost = measure_step(pair, first, lambda model, batch: model(*batch).mean(), 2)
    for _ in range(options.epochs):
        for pick in torch.randperm(len(images), generator=generator).split(size):
            noise = torch.randn(len(pick), options.latent, generator=generator)
            optimizer.zero_grad()
            if options.clip:
                _clipped(pair, (images[pick], labels[pick], noise), options, generator)
            else:
                pair(images[pick], labels[pick], noise).mean().backward()
            optimizer.step()
    return pair.decoder.requires_grad_(False).eval(), cost, options.epochs * len(images)


def _clipped(
    pair: Pair, batch: tuple[Tensor, ...], options: GeneratorOptions, generator: torch.Generator
) -> None:
    """Give the parameters the mean of the samples' clipped gradients, with noise."""
    named = {name: p.detach() for name, p in pair.named_parameters()}

    def loss(parameters: dict[str, Tensor], *sample: Tensor) -> Tensor:
        return functional_call(pair, parameters, tuple(part[None] for part in sample)).sum()

    each = vmap(grad(loss), in_dims=(None, 0, 0, 0))(named, *batch)
    squares = sum(g.flatten(1).square().sum(1) for g in each.values())
    scale = (options.clip / squares.sqrt().clamp(min=1e-12)).clamp(max=1.0)
    count = len(batch[0])
    for name, parameter in pair.named_parameters():
        total = torch.einsum("b,b...->...", scale, each[name])
        if options.noise:
            drawn = torch.randn(total.shape, generator=generator)
            total = total + options.noise * options.clip * drawn
        parameter.grad = total / count
