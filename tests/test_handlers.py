"""The ClientApp finds the handler, and keeps from it what is between it and the meter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp.strategy import FedAvg

from mfd_flower.config import RunConfig
from mfd_flower.cost_report import current_report
from mfd_flower.network.clock import now_s
from mfd_flower.node import Node
from mfd_flower.runtime.roll_call import call_roll
from mfd_flower.runtime.runner import local_grid, metered

heard: list[dict[str, Any]] = []


def listen(message: Message, context: Context) -> Message:
    """Note what is there to be known."""
    node = Node.of(context)
    view = node.world_view()
    heard.append({"records": [*message.content], "view": view, "report": current_report.get()})
    reply = RecordDict({"told": ConfigRecord({"address": node.address})})
    return Message(reply, reply_to=message)


class Listening(FedAvg):
    """Answers a message type of its own."""

    client_actions: ClassVar = {"query.listen": listen}


@pytest.fixture
def run(make_run: Callable[..., RunConfig]) -> RunConfig:
    heard.clear()
    network = {"topology": "ring", "latency_s": 2.0, "down_bps": 8e3, "d2d_bps": 123.0}
    name = f"{__name__}:Listening"
    return make_run(name, data={"nodes": 5, "train_samples": 50}, network=network)


def test_a_handler_sees_the_virtual_time_and_its_own_part_of_the_world(run: RunConfig) -> None:
    content = RecordDict({"ask": ConfigRecord({"x": 1})})
    with local_grid(run) as inner:
        grid = metered(inner, run, call_roll(inner, 5))
        (reply,) = grid.send_and_receive([Message(content, 3, "query.listen")])
    (told,) = heard
    assert told["records"] == ["ask"]
    assert list(reply.content) == ["told"]
    assert reply.content.config_records["told"]["address"] == told["view"].address == "n2"
    assert told["view"].at_s == pytest.approx(2.0 + grid.totals()["down"] / 1e3)
    assert set(told["view"].neighbours) == {"n1", "n3"}
    assert told["view"].rate_to_bps("n3") == 123.0
    assert (now_s.get(), current_report.get()) == (0.0, None)


def test_without_a_meter_time_stands_at_the_beginning(run: RunConfig) -> None:
    with local_grid(run) as grid:
        list(grid.send_and_receive([Message(RecordDict(), 1, "query.listen")]))
    assert heard[0]["view"].at_s == 0.0


def test_each_message_has_a_report_of_its_own(run: RunConfig) -> None:
    with local_grid(run) as grid:
        list(grid.send_and_receive([Message(RecordDict(), n, "query.listen") for n in (1, 2, 1)]))
    assert len({id(told["report"]) for told in heard}) == 3


def test_a_message_that_nobody_handles_is_an_error(run: RunConfig) -> None:
    content = RecordDict({"arrays": ArrayRecord()})
    with local_grid(run) as grid:
        (reply,) = grid.send_and_receive([Message(content, 1, "query.unknown")])
    assert "message type 'query.unknown': no handler" in str(reply.error.reason)
