"""What a node does with a message: the client half of the run's strategy, or the default for it."""

from __future__ import annotations

import contextvars
import os
import socket
import sys

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from mfd_flower.adversary.attackers import LINK, change_on_link
from mfd_flower.coded_handler import coded
from mfd_flower.cost_report import CostReport, current_report
from mfd_flower.models.training import TooLargeError
from mfd_flower.network.clock import now_s
from mfd_flower.node import Node, OutOfAreaError, initial_tunables
from mfd_flower.node_state import KEEP_STATE, RECALL_STATE, keep_state, recall_state
from mfd_flower.records import CLOCK, REPORT, integer, number, taken, tensors_of
from mfd_flower.strategy import Handler, client_actions, find_strategy
from mfd_flower.wire_codec import ARRAYS, shapes_of

ROLL_CALL = "query.address"


class StrategyClientApp(ClientApp):
    """Run the client half of whatever strategy the run config names."""

    def __call__(self, message: Message, context: Context) -> Message:
        """Handle a message, and report what it cost to the experimenter."""
        clock = taken(message.content, CLOCK)
        report = CostReport()

        def handled() -> Message:
            current_report.set(report)
            now_s.set(number(clock, "at-s") if clock is not None else 0.0)
            return handler_of(message.metadata.message_type, context)(message, context)

        try:
            reply = contextvars.copy_context().run(handled)
        except (TooLargeError, OutOfAreaError) as error:
            # No fault of anybody's: a network tells so of a node that takes no part.
            return Message(Error(ErrorCode.NODE_UNAVAILABLE, str(error)), reply_to=message)
        if not reply.has_content():
            return reply
        if report.fits:
            # Sent again, out of custody and untrained, it arrives whole.
            node = Node.of(context)
            rng = node.rng(step_of(message), LINK)
            change_on_link(node.run, node.index, reply.content, rng)
        if report.fits or report.flops:
            samples = Node.of(context).num_samples
            reply.content[REPORT] = ConfigRecord(
                {
                    **{"fits": report.fits, "flops": report.flops, "samples": samples},
                    "peak-bytes": report.peak_bytes,
                }
            )
        return reply


def handler_of(message_type: str, context: Context) -> Handler:
    """Return what the run's strategy, or else this module, does with messages of a type."""
    if message_type in ENGINE_ACTIONS:
        return ENGINE_ACTIONS[message_type]
    run = Node.of(context).run
    actions = client_actions(find_strategy(run.strategy.name), run)
    handler = actions.get(message_type, DEFAULT_ACTIONS.get(message_type))
    if handler is None:
        refused = f"message type {message_type!r}: no handler in the strategy or the defaults"
        raise ValueError(refused)
    if not run.wire.coded:
        return handler
    return coded(handler, run.wire, shapes_of(initial_tunables(run)))


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
    metrics = MetricRecord({"num-examples": node.num_samples, "train-loss": result.loss})
    content = RecordDict({ARRAYS: ArrayRecord(tensors), "metrics": metrics})
    return Message(content, reply_to=message)


def evaluate(message: Message, context: Context) -> Message:
    """Measure the arrays in the message on the node's own shard."""
    node = Node.of(context)
    arrays = next(iter(message.content.array_records.values()))
    found = node.evaluate(tensors_of(arrays))
    quality = {"accuracy": found.accuracy, "loss": found.loss, "macro-f1": found.macro_f1}
    metrics = MetricRecord({"num-examples": node.num_samples, **quality})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def address(message: Message, context: Context) -> Message:
    """Answer the roll call."""
    node = {"index": int(context.node_config["partition-id"]), "workers": engine_workers()}
    content = RecordDict({"node": ConfigRecord({**node, "process": this_process()})})
    return Message(content, reply_to=message)


DEFAULT_ACTIONS = {"train": train, "evaluate": evaluate}
ENGINE_ACTIONS = {ROLL_CALL: address, KEEP_STATE: keep_state, RECALL_STATE: recall_state}
"""What every node answers, whatever the strategy."""


def this_process() -> str:
    """Return a name of this process that no other one has, on any machine."""
    return f"{socket.gethostname()}:{os.getpid()}"


def engine_workers() -> int:
    """Return how many nodes Flower's simulation runs at once; 0 outside of it, where all do.

    A node there is a Ray actor, and as many fit as its own share of the machine goes into the whole
    (``init-args-num-cpus`` over ``client-resources-num-cpus``).
    """
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return 0
    share = {k: v for k, v in ray.get_runtime_context().get_assigned_resources().items() if v > 0}
    machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
    if not share:
        return 0
    return sum(min(int(has.get(k, 0) / part) for k, part in share.items()) for has in machines)


def step_of(message: Message) -> int:
    """Return the round or hop that a message names, 0 if none."""
    records = message.content.config_records.values()
    found = (record[key] for record in records for key in ("server-round", "hop") if key in record)
    return next((step for step in found if isinstance(step, int)), 0)
