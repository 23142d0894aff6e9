"""Nodes that are unlike: which of them has which profile, and what a node's own settings are."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np

from mfd_flower.checks import ConfigError
from mfd_flower.config import NetworkConfig, NodeProfile, RunConfig
from mfd_flower.network.worlds import world_of

DEALT = 0x70726F66
"""Purpose of the generator that deals profiles out."""


def settings_of(run: RunConfig, node: int) -> RunConfig:
    """Return how one node trains the model that all share."""
    profile = profile_of(run, node)
    return run if profile is None else run.with_profile(profile, own_model=False)


@functools.lru_cache(maxsize=1024)
def own_settings(run: RunConfig, node: int) -> RunConfig:
    """Return the settings of one node's own model, and of how it trains it."""
    profile = profile_of(run, node)
    return run if profile is None else run.with_profile(profile)


def profile_of(run: RunConfig, node: int) -> NodeProfile | None:
    """Return the profile that a node has, None if it has what the run says.

    Raises
    ------
    ConfigError
        If a profile names a kind of device that no node has.
    """
    if not run.node_profiles:
        return None
    return _dealt(run.profiles, run.network, run.data.nodes, run.seed)[node]


@functools.lru_cache(maxsize=16)
def _dealt(
    text: str, network: NetworkConfig, nodes: int, seed: int
) -> tuple[NodeProfile | None, ...]:
    profiles = replace(RunConfig(), profiles=text).node_profiles
    found: list[NodeProfile | None] = [None] * nodes
    world = world_of(network, nodes, seed)
    kinds = [world.device(f"n{node}").kind for node in range(nodes)]
    for place, profile in enumerate(profiles):
        for kind in profile.devices:
            if kind not in kinds:
                accepted = f"accepted in this world: {', '.join(sorted({*kinds} - {''})) or 'none'}"
                raise ConfigError(f"profiles[{place}].devices", kind, accepted)
        for node, kind in enumerate(kinds):
            if kind in profile.devices and found[node] is None:
                found[node] = profile
    free = [node for node in range(nodes) if found[node] is None]
    np.random.default_rng([seed, DEALT]).shuffle(free)
    # Rounded as a whole, so that shares of 1 leave no node over.
    start, share = 0, 0.0
    for profile in profiles:
        share += profile.share
        end = int(share * nodes + 0.5 + 1e-9)
        for node in free[start:end]:
            found[node] = profile
        start = end
    return tuple(found)
