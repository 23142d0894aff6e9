"""A node's routing table in its Flower state."""

from __future__ import annotations

from flwr.app import ConfigRecord, Context

from mfd_flower.node import Node
from mfd_flower.routing import RoutingTable

TABLE = "routing-table"


def read_table(node: Node, context: Context) -> RoutingTable:
    """Read the node's table out of its state."""
    records = context.state.config_records.items()
    return RoutingTable.from_entries(
        node.address, [record for name, record in records if name.startswith(TABLE)]
    )


def write_table(table: RoutingTable, context: Context) -> None:
    """Write the node's table into its state."""
    for name in [name for name in context.state if name.startswith(TABLE)]:
        del context.state[name]
    for entry in table.entries():
        context.state[f"{TABLE}.{entry['address']}"] = ConfigRecord({**entry})
