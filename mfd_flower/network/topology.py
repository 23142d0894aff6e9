"""Who can reach whom over one link between nodes, where that does not change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import networkx as nx
import numpy as np

from mfd_flower.checks import ConfigError
from mfd_flower.config import NetworkConfig

FILE = "file:"
READERS: dict[str, Callable[[Path], nx.Graph]] = {
    ".graphml": nx.read_graphml,
    ".gml": nx.read_gml,
    ".edgelist": nx.read_edgelist,
    ".json": lambda path: nx.node_link_graph(json.loads(path.read_text("utf-8")), edges="edges"),
}
"""networkx's forms, by the end of a file's name."""
ATTEMPTS = 1000
WIDER = 1.02
"""By how much the radius of a geometric graph grows until it is connected."""


def neighbours_of(config: NetworkConfig, nodes: int, seed: int) -> dict[str, tuple[str, ...]]:
    """Return the neighbours of every address, the same for one seed.

    Raises ConfigError if there is no such graph, or a node in it that another one cannot reach.
    """
    if config.topology.startswith(FILE):
        graph = _from_file(Path(config.topology.removeprefix(FILE)), nodes)
    elif config.topology in GRAPHS:
        graph = GRAPHS[config.topology](config, nodes, seed)
    else:
        accepted = f"accepted: {', '.join(('full', *GRAPHS))}, {FILE}<graph>"
        raise ConfigError("network.topology", config.topology, accepted)
    reached = nx.node_connected_component(graph, 0)
    if island := sorted(set(graph) - reached):
        named = ", ".join(f"n{node}" for node in island[:5])
        raise ConfigError("network.topology", config.topology, f"n0 does not reach {named}")
    return {f"n{i}": tuple(f"n{j}" for j in sorted(graph[i]) if j != i) for i in range(nodes)}


def _ring(config: NetworkConfig, nodes: int, seed: int) -> nx.Graph:
    return nx.cycle_graph(nodes) if nodes > 2 else nx.path_graph(nodes)


def _regular(config: NetworkConfig, nodes: int, seed: int) -> nx.Graph:
    if config.degree >= nodes or config.degree * nodes % 2 or config.degree < 2:
        accepted = f"at least 2, below {nodes} nodes, and degree x nodes must be even"
        raise ConfigError("network.degree", config.degree, accepted)
    # A random regular graph of degree 3 or more is nearly always connected; of 2, often not.
    for attempt in range(ATTEMPTS):
        graph = nx.random_regular_graph(config.degree, nodes, seed=seed * ATTEMPTS + attempt)
        if nx.is_connected(graph):
            break
    return graph


def _geometric(config: NetworkConfig, nodes: int, seed: int) -> nx.Graph:
    """Return places in a square, joined where they are near: `degree` neighbours in the mean.

    Where that leaves islands the reach grows until there are none.
    """
    places = dict(enumerate(np.random.default_rng(seed).random((nodes, 2)).tolist()))
    radius = (config.degree / (np.pi * nodes)) ** 0.5
    while not nx.is_connected(graph := nx.random_geometric_graph(nodes, radius, pos=places)):
        radius *= WIDER
    return graph


def _x2(config: NetworkConfig, nodes: int, seed: int) -> nx.Graph:
    """Return base stations in hexagonal cells, in rings round the first, joined with the next.

    Places are axial coordinates; neighbours are one of six steps away.
    """
    steps = [(1, 0), (1, -1), (0, -1), (-1, 0), (-1, 1), (0, 1)]
    cells, ring = [(0, 0)], 0
    while len(cells) < nodes:
        ring += 1
        q, r = -ring, ring
        for step_q, step_r in steps:
            for _ in range(ring):
                cells.append((q, r))
                q, r = q + step_q, r + step_r
    numbered = {cell: number for number, cell in enumerate(cells[:nodes])}
    graph = nx.empty_graph(nodes)
    for (q, r), number in numbered.items():
        for step_q, step_r in steps:
            if (other := numbered.get((q + step_q, r + step_r))) is not None:
                graph.add_edge(number, other)
    return graph


GRAPHS: dict[str, Callable[[NetworkConfig, int, int], nx.Graph]] = {
    "ring": _ring,
    "regular": _regular,
    "geometric": _geometric,
    "x2": _x2,
}


def _from_file(path: Path, nodes: int) -> nx.Graph:
    """Read a graph whose nodes are called 0, 1, 2 ... or n0, n1, n2 ..., all of them."""

    def refused(reason: str) -> ConfigError:
        return ConfigError("network.topology", f"{FILE}{path}", reason)

    if path.suffix not in READERS:
        raise refused(f"accepted: names that end in {', '.join(READERS)}")
    try:
        read = READERS[path.suffix](path)
    except OSError as error:
        raise refused(f"not readable ({error.strerror})") from error
    except Exception as error:  # Each reader has errors of its own for what is no such file.
        raise refused(f"no graph in networkx's form ({type(error).__name__})") from error
    names = {str(name).removeprefix("n"): name for name in read}
    missing = [str(node) for node in range(nodes) if str(node) not in names]
    if missing or len(read) != nodes:
        accepted = f"{nodes} nodes, n0 to n{nodes - 1}"
        said = f"n{missing[0]} is missing" if missing else f"there are {len(read)}"
        raise refused(f"{said}; accepted: {accepted}")
    return nx.Graph(nx.relabel_nodes(read, {name: int(number) for number, name in names.items()}))
