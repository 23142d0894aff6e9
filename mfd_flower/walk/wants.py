"""What a node tells of itself beside its labels, if the policy asks for it (whitepaper, 2.3).

Task, loss and sketch all follow from what the node has: its own data, the model that all begin
with, and the models that came here. The loss is that of the newest model as it arrived, before it
was trained here. The model that asks, by a probe, is another one, which its holder has just made
and nobody else can have: its digest would say nothing more.
"""

from __future__ import annotations

import math
from typing import Any

from flwr.app import ConfigRecord

from mfd_flower.packets.codecs import BYTES
from mfd_flower.records import number, text
from mfd_flower.walk.visit import Visit

LOSS, SKETCH = "wants/loss", "wants/sketch"
"""Records in a node's state."""


def told(visit: Visit) -> dict[str, Any]:
    """Return the fields of `routing.Advert` that the policy asks for."""
    asked, found = visit.plan.policy, dict[str, Any]()
    if asked.by_task:
        found["task"] = visit.node.task
    if asked.by_loss and LOSS in visit.context.state:
        found["loss"] = number(visit.context.state.config_records[LOSS], "nats")
    if asked.by_features:
        found["sketch"] = own_sketch(visit)
    return found


def own_sketch(visit: Visit) -> str:
    """Return the text of this node's sketch, which is made once: its data do not change."""
    state = visit.context.state
    if SKETCH not in state:
        state[SKETCH] = ConfigRecord({"text": visit.node.sketch().to_text()})
    return text(state.config_records[SKETCH], "text")


def note_loss(visit: Visit) -> None:
    """Keep how the model that training began from did here; sums are no model, and have none."""
    if not visit.plan.policy.by_loss or visit.start.codec == BYTES:
        return
    node = visit.node
    losses, _ = node.sample_losses(visit.plan.model_of(node.run, visit.start, visit.content))
    if math.isfinite(nats := round(float(losses.mean()), 4)):
        visit.keep_for_all(LOSS, ConfigRecord({"nats": nats}))
