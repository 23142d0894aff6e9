"""How far a walk has come: what the experimenter sees of it between two hops."""

from __future__ import annotations

from dataclasses import dataclass, field

from flwr.app import ArrayRecord, RecordDict

from mfd_flower.packets import Packet
from mfd_flower.records import joined, part_of, plain_record, plain_values
from mfd_flower.walk.custody import PACKET, packet_in, sealed


@dataclass
class Course:
    """Of all walkers together, by their names."""

    models: dict[str, ArrayRecord] = field(default_factory=dict)
    """Newest version that counts."""
    made: dict[str, int] = field(default_factory=dict)
    """Hops of these versions."""
    landed: dict[str, Packet] = field(default_factory=dict)
    """Packets that landed last, whether what was made of them counts or not."""
    landings: int = 0
    done: int = 0
    """Steps so far."""
    moved: str = ""
    """Walker whose model changed last."""
    onward: tuple[Packet, RecordDict] = field(init=False)
    """Packet that landed last of all, and the message to send it on in."""

    def state_dict(self) -> RecordDict:
        """Return all of it as records."""
        packet, content = self.onward
        names = ("made", "landings", "done", "moved")
        counts = plain_record({name: getattr(self, name) for name in names})
        parts = {
            "counts": RecordDict({"counts": counts}),
            "models": RecordDict({**self.models}),
            "landed": RecordDict({name: sealed(each) for name, each in self.landed.items()}),
            "onward": RecordDict({PACKET: sealed(packet)}),
            "content": content,
        }
        return joined(parts)

    @classmethod
    def load(cls, state: RecordDict) -> Course:
        """Inverse of `state_dict`."""
        counts = part_of(state, "counts").config_records["counts"]
        landed = part_of(state, "landed")
        course = cls(
            models=dict(part_of(state, "models").array_records),
            landed={name: packet_in(landed, name) for name in landed},
            **plain_values(counts),
        )
        course.onward = packet_in(part_of(state, "onward")), part_of(state, "content")
        return course
