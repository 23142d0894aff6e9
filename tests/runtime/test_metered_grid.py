"""Bytes are counted from what is serialised, once for each logical transfer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mfd_flower.accounting.wire import measure
from mfd_flower.config import NetworkConfig, RunConfig
from mfd_flower.network.clock import START
from mfd_flower.network.world import EDGE, Device, Transfer, World
from mfd_flower.runtime import LocalGrid, MeteredGrid, metered_grid
from mfd_flower.runtime.runner import run_locally

NETWORK = NetworkConfig(
    up_bps=8e3, down_bps=8e4, d2d_bps=4e3, latency_s=0.5, flops_per_s=100.0, joules_per_flop=2.0,
    joules_per_bit=0.125,
)  # fmt: skip
WORLD = World(NETWORK, 2)
app = ClientApp()


@app.train()
def work(message: Message, context: Context) -> Message:
    """Send the arrays back after as many FLOPs as the node's number times 100."""
    flops = 100.0 * (context.node_id)
    report = ConfigRecord({"fits": 1, "flops": flops, "peak-bytes": 10 * context.node_id})
    records = {"arrays": message.content.array_records["arrays"], "report": report}
    return Message(RecordDict(records), reply_to=message)  # type: ignore[arg-type]


@app.train("hop")
def hop(message: Message, context: Context) -> Message:
    reply = work(message, context)
    reply.content["header"] = ConfigRecord({"source": f"n{context.node_id - 1}"})
    return reply


@app.query("advert")
def advert(message: Message, context: Context) -> Message:
    return Message(RecordDict({"arrays": ArrayRecord([np.ones(1000)])}), reply_to=message)


def arrays(count: int) -> ArrayRecord:
    return ArrayRecord([np.arange(count, dtype=np.float32)])


def serialised_by_flower(content: RecordDict) -> int:
    """Follow Flower's own path to the wire: every object of the tree, deflated."""
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

    return sum(len(o.deflate()) for o in get_all_nested_objects(content).values())


@given(
    shapes=st.lists(st.lists(st.integers(1, 9), max_size=3).map(tuple), min_size=1, max_size=5),
    dtype=st.sampled_from([np.float32, np.float16, np.int8, np.int64]),
)
@settings(max_examples=30, deadline=None)
def test_payload_is_the_array_data_and_wire_is_what_flower_sends(
    shapes: list[tuple[int, ...]], dtype: type
) -> None:
    record = ArrayRecord([np.full(shape, 3 + i, dtype) for i, shape in enumerate(shapes)])
    content = RecordDict({"arrays": record, "metrics": MetricRecord({"loss": 0.5})})
    size = measure(content)
    assert size.payload == sum(int(np.prod(s)) * np.dtype(dtype).itemsize for s in shapes)
    assert size.wire == serialised_by_flower(content)


def test_a_star_message_is_billed_down_and_up() -> None:
    with LocalGrid(app, 2) as inner:
        grid = MeteredGrid(inner, world=WORLD)
        content = RecordDict({"arrays": arrays(250)})
        list(grid.send_and_receive([Message(content, n, "train") for n in (1, 2)]))
    wire = measure(content).wire
    totals = grid.totals()
    assert totals == {
        "payload": 4 * 1000,
        "wire": 4 * wire,
        "relay": 4 * wire,
        "up": 2 * wire,
        "down": 2 * wire,
        "d2d": 0,
        "backhaul": 0,
    }
    assert grid.updates == 2
    assert grid.peak_node_bytes == 20
    assert grid.joules == pytest.approx(300 * 2.0 + 4 * wire)
    # The straggler: node 2 computes 2 s.
    assert grid.virtual_seconds == pytest.approx(0.5 + wire / 1e4 + 2.0 + 0.5 + wire / 1e3)


def test_a_hop_is_billed_once_and_its_time_adds_up() -> None:
    with LocalGrid(app, 2) as inner:
        addresses = {1: "n0", 2: "n1"}
        grid = MeteredGrid(inner, {"train.hop": "d2d"}, WORLD, addresses)
        first = RecordDict({"arrays": arrays(250)})
        (reply,) = grid.send_and_receive([Message(first, 1, "train.hop")])
        second = reply.content
        (last,) = grid.send_and_receive([Message(second, 2, "train.hop")])
    totals = grid.totals()
    sizes = [measure(content).wire for content in (first, second, last.content)]
    assert totals["payload"] == 2 * 1000
    assert totals["d2d"] == totals["wire"] == sizes[0] + sizes[1]
    assert totals["relay"] == sizes[0] + 2 * sizes[1] + sizes[2]
    assert totals["up"] == totals["down"] == 0
    hops = [0.5 + 2 * sizes[i] / 1e3 for i in (0, 1)]
    assert grid.virtual_seconds == pytest.approx(hops[0] + 1.0 + hops[1] + 2.0)
    assert grid.visits == ["n0", "n1"]


def test_a_report_is_taken_out_before_the_bill_and_before_the_strategy() -> None:
    with LocalGrid(app, 1) as inner:
        grid = MeteredGrid(inner)
        content = RecordDict({"arrays": arrays(10)})
        (reply,) = grid.send_and_receive([Message(content, 1, "train")])
    assert list(reply.content) == ["arrays"]
    assert grid.totals()["up"] == measure(content).wire


def test_relay_only_messages_cost_no_transfer() -> None:
    with LocalGrid(app, 1) as inner:
        grid = MeteredGrid(inner, {"query.advert": "relay"})
        list(grid.send_and_receive([Message(RecordDict(), 1, "query.advert")]))
    totals = grid.totals()
    assert totals["relay"] > 8000
    assert totals["payload"] == totals["wire"] == 0


def test_failures_are_kept_and_cost_only_the_request() -> None:
    with LocalGrid(app, 1) as inner:
        grid = MeteredGrid(inner)
        (reply,) = grid.send_and_receive([Message(RecordDict(), 1, "evaluate")])
        assert reply.has_error()
    assert len(grid.failures) == 1
    assert grid.totals()["up"] == 0
    assert grid.updates == 0


@pytest.mark.parametrize("strategy", ["fedavg", "mfd-walk"])
@pytest.mark.parametrize("tune", ["head", "prompts", "lora"])
def test_bytes_equal_the_closed_form_plus_a_named_overhead(
    make_run: Callable[..., RunConfig], strategy: str, tune: str
) -> None:
    """Payload is parameters x 4 bytes, twice a visit or once. The rest is Flower's headers."""
    run = make_run(strategy, rounds=2, model={"tune": tune})
    record = run_locally(run)
    totals = record["points"][-1]["bytes"]
    visits = 2 * run.data.nodes
    transfers = visits * (2 if strategy == "fedavg" else 1)
    assert totals["payload"] == transfers * 4 * record["tunables"]
    # Each array carries an npy header, its name, two object ids and their heads: below 600 bytes;
    # a message's own records add below 1200.
    tensors = {"head": 2, "prompts": 8, "lora": 14}[tune]
    overhead = totals["wire"] - totals["payload"]
    assert 0 < overhead < transfers * (600 * tensors + 1200)


def test_two_runs_with_the_same_seed_are_identical(make_run: Callable[..., RunConfig]) -> None:
    for strategy in ("fedavg", "mfd-walk", "local-only", "centralised"):
        run = make_run(strategy, rounds=2, data={"partition": "dirichlet"})
        torch.manual_seed(1)
        first = run_locally(run, workers=1)
        torch.manual_seed(2)
        second = run_locally(run, workers=3)
        for one, two in zip(first["points"], second["points"], strict=True):
            one.pop("wall_seconds")
            two.pop("wall_seconds")
        assert first == second


def test_links_beside_the_star_are_billed_as_reported_and_timed_by_the_world() -> None:
    beside = ClientApp()

    @beside.train()
    def stage(message: Message, context: Context) -> Message:
        cost = {"fits": 1, "flops": 50.0, "peak-bytes": 7, "fill": 1.5, "crossings": 2}
        links = {"peers": [EDGE, "n1"], "sent": [100, 400], "received": [200, 50]}
        report = ConfigRecord({**cost, **links})
        return Message(RecordDict({"report": report}), reply_to=message)

    with LocalGrid(beside, 1) as inner:
        grid = MeteredGrid(inner, world=WORLD, addresses={1: "n0"})
        list(grid.send_and_receive([Message(RecordDict(), 1, "train")]))
        star = measure(RecordDict()).wire
        grid.bill_server({"flops": 10.0}, START)
    totals = grid.totals()
    assert (totals["up"], totals["down"], totals["d2d"]) == (star + 100, star + 200, 400)
    assert totals["wire"] == 2 * star + 700
    assert totals["payload"] == 700
    assert totals["relay"] == 2 * star
    assert grid.wire_by_type == {"train": 2 * star, "train.link": 700}
    assert grid.node_flops == {"n0": 50.0}
    assert grid.node_peak_bytes == {"n0": 7}
    assert grid.joules == pytest.approx(2.0 * 60 + 8 * 0.125 * (2 * star + 700))
    assert grid.busiest_node_bytes == 2 * star + 750
    # 400 bytes at 500 a second take longer than 0.5 s of computing, filled and drained; two links
    # are half a second late each. The server's own work went on beside that.
    took_s = 1.5 * 0.8 + 2 * 0.5
    assert grid.virtual_seconds == pytest.approx(1.0 + star / 1e4 + took_s + star / 1e3)
    took = grid.known.took
    assert took["compute"] == pytest.approx(0.5)
    assert took["d2d"] == pytest.approx(took_s - 0.5)
    assert sum(took.values()) == pytest.approx(grid.virtual_seconds)


def test_a_request_says_when_it_arrives_and_nobody_pays_for_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listener, heard = ClientApp(), []

    @listener.train()
    def listen(message: Message, context: Context) -> Message:
        heard.append(message.content.config_records["virtual-clock"]["at-s"])
        del message.content["virtual-clock"]
        report = ConfigRecord({"fits": 1, "flops": 100.0 * context.node_id, "peak-bytes": 1})
        return Message(RecordDict({**message.content, "report": report}), reply_to=message)

    measured: list[RecordDict] = []
    real = metered_grid.measure
    monkeypatch.setattr(metered_grid, "measure", lambda c: measured.append(c) or real(c))
    with LocalGrid(listener, 2, workers=1) as inner:
        grid = MeteredGrid(inner, world=WORLD, addresses={1: "n0", 2: "n1"})
        content = RecordDict({"arrays": arrays(250)})
        requests = [Message(content, n, "train") for n in (1, 2)]
        for _ in range(2):
            list(grid.send_and_receive(requests))
    wire = measure(content).wire
    down_s, up_s = 0.5 + wire / 1e4, 0.5 + wire / 1e3
    # The second round begins when the slower node, which works for 2 s, has answered.
    assert heard == pytest.approx([down_s, down_s, *[2 * down_s + 2.0 + up_s] * 2])
    assert grid.totals()["wire"] == grid.totals()["relay"] == 8 * wire
    assert list(content) == ["arrays"]
    assert all(request.content is content for request in requests)
    assert sum(one is content for one in measured) == 2


class Odd(World):
    """Every address has a device of its own, and n1 is away until 5 s."""

    def __init__(self) -> None:
        super().__init__(NETWORK, 2)
        self.spent: list[tuple[str, float]] = []

    def device(self, address: str) -> Device:
        place = {EDGE: 1, "n0": 2, "n1": 3}[address]
        return Device(100.0 * place, 10.0**-place, 10.0**place)

    def available(self, address: str, at_s: float) -> bool:
        return address != "n1" or at_s >= 5

    def spend(self, address: str, joules: float, at_s: float) -> None:
        self.spent.append((address, joules))


def test_who_sends_and_who_works_pays_with_the_own_device() -> None:
    world = Odd()
    with LocalGrid(app, 2) as inner:
        grid = MeteredGrid(inner, {"train.hop": "d2d"}, world, {1: "n0", 2: "n1"})
        down = RecordDict({"arrays": arrays(250)})
        list(grid.send_and_receive([Message(down, 1, "train")]))
        hopped = RecordDict({"arrays": arrays(250), "header": ConfigRecord({"source": "n0"})})
        list(grid.send_and_receive([Message(hopped, 2, "train.hop")]))
        before = grid.virtual_seconds
        grid.bill_server({"flops": 100.0}, START)
    size, hop_size = measure(down).wire, measure(hopped).wire
    expected = [
        (EDGE, 8 * size * 10.0),
        ("n0", 100 * 1e-2),
        ("n0", 8 * size * 100.0),
        ("n0", 8 * hop_size * 100.0),
        ("n1", 200 * 1e-3),
        (EDGE, 100 * 1e-1),
    ]
    assert world.spent == [(who, pytest.approx(joules)) for who, joules in expected]
    assert grid.joules == pytest.approx(sum(joules for _, joules in expected))
    went_s = [0.5 + size / 1e4, 100 / 200, 0.5 + size / 1e3]
    assert grid.ready_s("n0") == pytest.approx(sum(went_s[:2]))
    assert grid.ready_s("n1") == pytest.approx(sum(went_s[:2]) + 0.5 + hop_size / 500 + 200 / 300)
    assert grid.virtual_seconds == before


def test_a_node_that_is_away_is_not_offered() -> None:
    with LocalGrid(app, 2) as inner:
        grid = MeteredGrid(inner, world=Odd(), addresses={2: "n1", 1: "n0"})
        assert list(grid.get_node_ids()) == [1]
        grid.bill_server({"flops": 500.0}, START)
        assert list(grid.get_node_ids()) == [2, 1]


def test_a_transfer_between_nodes_is_asked_of_the_world_by_its_ends() -> None:
    asked: list[Transfer] = []

    class Asked(World):
        def rates_bps(self, transfers: Sequence[Transfer], at_s: float) -> NDArray[np.float64]:
            asked.append(transfers[0])  # Behind it are those that were sent before.
            return super().rates_bps(transfers, at_s)

    with LocalGrid(app, 2) as inner:
        grid = MeteredGrid(inner, {"train.hop": "d2d"}, Asked(NETWORK, 2), {1: "n0", 2: "n1"})
        first = RecordDict({"arrays": arrays(10), "header": ConfigRecord({"source": "n1"})})
        list(grid.send_and_receive([Message(first, 1, "train.hop")]))
        list(grid.send_and_receive([Message(RecordDict({"arrays": arrays(10)}), 2, "train")]))
    assert asked == [("n1", "n0", "d2d"), (EDGE, "n1", "down"), ("n1", EDGE, "up")]


def test_a_missing_reply_does_not_shift_the_next_ones() -> None:
    class Deaf(LocalGrid):
        """Loses the replies to hops."""

        def send_and_receive(
            self, messages: Iterable[Message], *, timeout: float | None = None
        ) -> Iterable[Message]:
            replies = super().send_and_receive(messages, timeout=timeout)
            return [r for r in replies if r.metadata.message_type != "train.hop"]

    with Deaf(app, 1) as inner:
        grid = MeteredGrid(inner, {"train.hop": "d2d"})
        content = RecordDict({"arrays": arrays(10)})
        assert not list(grid.send_and_receive([Message(content, 1, "train.hop")], timeout=1))
        list(grid.send_and_receive([Message(content, 1, "train")], timeout=1))
    assert grid.totals()["up"] == measure(content).wire


def test_an_array_that_was_cut_off_is_billed_for_what_is_left() -> None:
    record = arrays(1000)
    whole = record["0"]
    record["0"] = Array(whole.dtype, whole.shape, whole.stype, whole.data[:300])
    size = measure(RecordDict({"arrays": record}))
    assert size.payload == 300
    assert size.wire > size.payload
