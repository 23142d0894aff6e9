"""The map plays what a run's record says, in the world of its settings."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from py_mini_racer import MiniRacer

from mfd_flower.config import RunConfig
from mfd_flower.network.worlds import new_world
from mfd_flower.report.map import MOST_FRAMES, movie, playable
from mfd_flower.report.page import write_report
from mfd_flower.results import Results
from mfd_flower.runtime.runner import run_locally
from tests.report.test_columns import MACHINE, RESULTS

SCRIPT = (Path(__file__).parents[2] / "mfd_flower/report/map.js").read_text(encoding="utf-8")
MOVING = {
    **{"width_m": 300.0, "height_m": 200.0, "d2d_range_m": 400.0, "mobility": "waypoint"},
    **{"low_m_per_s": 20.0, "high_m_per_s": 30.0, "slowed": {"n0": 2e5, "n2": 3e5}},
}
PAGE = """
const drawn = [], texts = [];
const pen = new Proxy({}, {
  get: (kept, name) => kept[name] ?? ((...all) => { drawn.push([name, ...all]); }),
  set: (kept, name, value) => { kept[name] = value; return true; },
});
const parts = {
  canvas: { width: 760, height: 560, getContext: () => pen }, button: {}, output: {}, input: {},
  select: { add: each => texts.push(each.text) }, script: { textContent: DATA },
};
const box = { querySelector: name => parts[name] };
const document = { querySelectorAll: () => [box] };
const performance = { now: () => 0 };
function Option(text, value) { this.text = text; this.value = value; }
let frame = null, clock = 0;
const requestAnimationFrame = call => { frame = call; };
const play = ms => {
  parts.button.onclick();
  while (frame) { const call = frame; frame = null; clock += ms; call(clock); }
};
"""


def run_of(strategy: str, network: dict[str, Any]) -> dict[str, Any]:
    data = {"name": "digits", "nodes": 4, "train_samples": 80, "test_samples": 40}
    tables = {
        "data": data,
        "model": {"tune": "head"},
        "train": {"accelerator": "cpu"},
        "network": network,
        "strategy": {"name": strategy, "rounds": 2},
    }
    return run_locally(RunConfig.from_tables(tables))


@pytest.fixture(scope="module")
def walked() -> dict[str, Any]:
    return run_of("mfd-walk", {"world": "wireless", "options": json.dumps(MOVING)})


def played(*movies: Any) -> MiniRacer:
    context = MiniRacer()
    context.eval(PAGE.replace("DATA", json.dumps(json.dumps(movies))))
    context.eval(SCRIPT)
    return context


def test_places_and_messages_are_those_of_the_world(walked: dict[str, Any]) -> None:
    found = movie("walk", walked)
    assert found is not None
    config = RunConfig.from_flat(walked["settings"])
    world = new_world(config.network, 4, config.seed)
    assert 2 < len(found["times"]) <= MOST_FRAMES
    assert found["times"][-1] == pytest.approx(found["end"], rel=1e-4)
    for at_s, frame in zip(found["times"], found["frames"], strict=True):
        places = world.places_m(at_s)
        assert places is not None
        # A moment is rounded, and may so fall into the step before it.
        assert frame == [pytest.approx(place, abs=31.0) for place in places.tolist()]
    assert [move[3] for move in found["moves"]] == [int(node[1:]) for node in walked["visits"]]
    for sent, begun, here, _, megabits in found["moves"]:
        assert 0 <= sent < begun <= found["end"]
        assert here >= 0 < megabits


def test_where_nothing_has_a_place_nodes_stand_around_the_server() -> None:
    found = movie("fedavg", run_of("fedavg", {}))
    assert found is not None
    assert (found["placed"], found["size"], found["sites"]) == (False, [100, 100], [[50, 50]])
    assert len(found["frames"]) == 1
    assert len({tuple(place) for place in found["frames"][0]}) == 4
    assert {move[2] for move in found["moves"]} == {-1}
    assert {move[4] for move in found["moves"]} == {100.0}


def test_the_script_plays_to_the_end_and_names_what_was_sent(walked: dict[str, Any]) -> None:
    other = run_of("fedavg", {})
    context = played(movie("the walk", walked), movie("the star", other))
    assert json.loads(context.eval("JSON.stringify(texts)")) == ["the walk", "the star"]
    assert "accuracy" in context.eval("parts.output.textContent")
    context.eval("drawn.length = 0; play(500)")
    assert context.eval("parts.button.textContent") == "play"
    last = walked["points"][-1]
    said = context.eval("parts.output.textContent")
    assert f"accuracy {last['accuracy']:.3f}" in said
    assert f"to {walked['visits'][-1]}, " in said
    frames = context.eval('drawn.filter(each => each[0] === "clearRect").length')
    texts = context.eval('drawn.filter(each => each[0] === "fillText").length')
    assert frames >= 50
    assert texts == 4 * frames
    context.eval("parts.select.value = 1; parts.select.onchange(); play(500)")
    assert "edge server to " in context.eval("parts.output.textContent")
    context.eval("parts.input.value = 0; parts.input.oninput()")
    assert context.eval("parts.output.textContent").startswith("0.000 s of ")


def test_a_label_does_not_leave_the_script_that_holds_it(
    walked: dict[str, Any], tmp_path: Path
) -> None:
    label = "</script><b>walk</b>"
    run = {**walked, "scenario": "here", "strategy": label, "seed": 0, "yardstick": False}
    results = Results(RESULTS.config, MACHINE, [{**run, "wall_seconds": 0.0}])
    page = write_report(tmp_path, results).read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    assert json.loads(data)[0]["title"] == f"{label}, seed 0"
    assert "src=" not in page.replace("xmlns", "")


def test_records_that_do_not_say_when_have_no_map(tmp_path: Path) -> None:
    assert not any(playable(run) for run in RESULTS.runs)
    page = write_report(tmp_path, RESULTS).read_text(encoding="utf-8")
    assert "<canvas" not in page
    assert "<script" not in page
