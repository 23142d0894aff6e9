"""Flower's ClientApp of this package: looks the handler up in the strategy that the run names."""

from __future__ import annotations

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from mfd_flower.node import CostReport, Node, current_report
from mfd_flower.records import integer, number, tensors_of
from mfd_flower.runtime.metered_grid import REPORT
from mfd_flower.runtime.roll_call import ROLL_CALL, address
from mfd_flower.strategy import Handler, client_actions, find_strategy
from mfd_flower.threat import LINK, malicious_nodes, tamper


def train(message: Message, context: Context) -> Message:
    """Do one local update of the arrays in the message, as Flower's own strategies expect it."""
    node = Node.of(context)
    arrays = next(iter(message.content.array_records.values()))
    settings = next(iter(message.content.config_records.values()), ConfigRecord())
    tensors, result = node.fit(
        tensors_of(arrays),
        step=integer(settings, "server-round") if "server-round" in settings else 0,
        proximal_mu=number(settings, "proximal-mu") if "proximal-mu" in settings else None,
    )
    metrics = MetricRecord({"num-examples": len(node.samples), "train-loss": result.loss})
    content = RecordDict({"arrays": ArrayRecord(tensors), "metrics": metrics})
    return Message(content, reply_to=message)


def evaluate(message: Message, context: Context) -> Message:
    """Measure the arrays in the message on the node's own shard."""
    node = Node.of(context)
    arrays = next(iter(message.content.array_records.values()))
    found = node.evaluate(tensors_of(arrays))
    metrics = MetricRecord(
        {
            "num-examples": len(node.samples),
            "accuracy": found.accuracy,
            "loss": found.loss,
            "macro-f1": found.macro_f1,
        }
    )
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def has_bad_link(context: Context) -> bool:
    """Tell whether an attacker changes what this node sends, after the node has finished it."""
    node = Node.of(context)
    return node.run.threat.kind == "tamper" and node.index in malicious_nodes(node.run)


def step_of(message: Message) -> int:
    """Return the round or hop that a message names, 0 if none."""
    records = message.content.config_records.values()
    found = (record[key] for record in records for key in ("server-round", "hop") if key in record)
    return next((step for step in found if isinstance(step, int)), 0)


DEFAULT_ACTIONS = {"train": train, "evaluate": evaluate, ROLL_CALL: address}


class StrategyClientApp(ClientApp):
    """Run the client half of whatever strategy the run config names."""

    def __call__(self, message: Message, context: Context) -> Message:
        """Handle a message, and report what its fits cost to the experimenter."""
        kind = message.metadata.message_type
        handler: Handler | None = DEFAULT_ACTIONS.get(kind)
        if kind != ROLL_CALL:
            run = Node.of(context).run
            handler = client_actions(find_strategy(run.strategy.name), run).get(kind, handler)
        if handler is None:
            raise ValueError(f"message type {kind!r}: no handler in the strategy or the defaults")
        report = CostReport()
        token = current_report.set(report)
        try:
            reply = handler(message, context)
        finally:
            current_report.reset(token)
        if not reply.has_content():
            return reply
        if report.fits and has_bad_link(context):
            # Sent again, out of custody and untrained, it arrives whole.
            tamper(reply.content, Node.of(context).rng(step_of(message), LINK))
        if report.fits or report.flops:
            reply.content[REPORT] = ConfigRecord(
                {"fits": report.fits, "flops": report.flops, "peak-bytes": report.peak_bytes}
            )
        return reply


app = StrategyClientApp()
