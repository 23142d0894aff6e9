"""What nodes hand out with the names of its receivers, carried to these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from flwr.app import RecordDict

from mfd_flower.records import texts


def deliveries(handed: Mapping[str, RecordDict]) -> Iterator[dict[str, RecordDict]]:
    """Yield what nodes handed out by receiver, one model for each at a time.

    On Flower's simulation a node that gets two messages at once may forget one of them.
    """
    boxes: dict[str, list[RecordDict]] = {}
    for answer in handed.values():
        model = RecordDict({name: answer[name] for name in ("arrays", "sent")})
        for receiver in texts(answer.config_records["to"], "receivers"):
            boxes.setdefault(receiver, []).append(model)
    for place in range(max(map(len, boxes.values()), default=0)):
        yield {name: box[place] for name, box in boxes.items() if place < len(box)}
