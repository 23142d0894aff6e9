"""The worlds that `[network] world` names."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from mfd_flower.checks import ConfigError, build
from mfd_flower.config import NetworkConfig
from mfd_flower.network.wireless import WirelessWorld
from mfd_flower.network.wireless_options import WirelessOptions
from mfd_flower.network.world import World


def _constant(config: NetworkConfig, nodes: int, seed: int) -> World:
    if options := config.keywords():
        raise ConfigError("network.options", options, "accepted with world = constant: none")
    return World(config, nodes, seed)


def _wireless(config: NetworkConfig, nodes: int, seed: int) -> World:
    options: WirelessOptions = build(WirelessOptions, config.keywords(), "network.options.")
    return WirelessWorld(config, nodes, seed, options)


WORLDS: dict[str, Callable[[NetworkConfig, int, int], World]] = {
    "constant": _constant,
    "wireless": _wireless,
}
"""Made from the settings, the number of nodes and the seed."""


def new_world(config: NetworkConfig, nodes: int, seed: int) -> World:
    """Return the world of a run in which nothing was spent, or refuse its name or options."""
    if config.world not in WORLDS:
        raise ConfigError("network.world", config.world, f"accepted: {', '.join(WORLDS)}")
    return WORLDS[config.world](config, nodes, seed)


world_of = lru_cache(maxsize=16)(new_world)
"""The same for all that ask, in each process: for what does not depend on what is spent."""
