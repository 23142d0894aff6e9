"""Who can reach whom in one link."""

from __future__ import annotations

import networkx as nx

from mfd_flower.checks import ConfigError
from mfd_flower.config import NetworkConfig


def neighbours_of(config: NetworkConfig, nodes: int, seed: int) -> dict[str, tuple[str, ...]]:
    """Return the neighbours of every address, the same for one seed.

    Parameters
    ----------
    config : NetworkConfig
        ``full``: everybody reaches everybody; ``ring``: two neighbours each; ``regular``: a random
        connected graph in which every node has `degree` neighbours.
    nodes : int
        Addresses are ``n0`` to ``n<nodes-1>``.
    seed : int
        Draws ``regular``.

    Raises
    ------
    ConfigError
        If there is no such regular graph.
    """
    if config.topology == "full":
        graph = nx.complete_graph(nodes)
    elif config.topology == "ring":
        graph = nx.cycle_graph(nodes) if nodes > 2 else nx.path_graph(nodes)
    else:
        if config.degree >= nodes or config.degree * nodes % 2 or config.degree < 2:
            raise ConfigError(
                "network.degree",
                config.degree,
                f"at least 2, below {nodes} nodes, and degree x nodes must be even",
            )
        # A random regular graph of degree 3 or more is nearly always connected; of 2, often not.
        for attempt in range(1000):
            graph = nx.random_regular_graph(config.degree, nodes, seed=seed * 1000 + attempt)
            if nx.is_connected(graph):
                break
    return {f"n{i}": tuple(f"n{j}" for j in sorted(graph[i])) for i in range(nodes)}
