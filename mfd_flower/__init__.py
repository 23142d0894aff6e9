"""Send the model to the data: MFD walks and GaisNet split learning on Lightning and Flower.

``import mfd_flower as mfd`` imports neither torch nor Flower; a name is imported when it is used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mfd_flower.accounting.plan import plan
    from mfd_flower.ledger import Ledger, LedgerError, example_ledger
    from mfd_flower.models import PromptedViT, get_tunables, set_tunables
    from mfd_flower.models.stages import split_model
    from mfd_flower.packets import Packet, PacketError, example_packet
    from mfd_flower.results import Results
    from mfd_flower.routing import Candidate, choose, kl_divergence
    from mfd_flower.runtime.compare import compare, run
    from mfd_flower.split.cuts import plan_cuts

    __version__: str

__all__ = [
    "Candidate",
    "Ledger",
    "LedgerError",
    "Packet",
    "PacketError",
    "PromptedViT",
    "Results",
    "__version__",
    "choose",
    "compare",
    "example_ledger",
    "example_packet",
    "get_tunables",
    "kl_divergence",
    "plan",
    "plan_cuts",
    "run",
    "set_tunables",
    "split_model",
]
_HOMES = {
    "accounting.plan": ("plan",),
    "ledger": ("Ledger", "LedgerError", "example_ledger"),
    "models": ("PromptedViT", "get_tunables", "set_tunables"),
    "models.stages": ("split_model",),
    "packets": ("Packet", "PacketError", "example_packet"),
    "results": ("Results",),
    "routing": ("Candidate", "choose", "kl_divergence"),
    "runtime.compare": ("compare", "run"),
    "split.cuts": ("plan_cuts",),
}


if not TYPE_CHECKING:  # A type checker is to refuse what is not named above.

    def __getattr__(name: str) -> Any:
        """Import a public name on first use."""
        if name == "__version__":
            return version("mfd-flower")
        for home, names in _HOMES.items():
            if name in names:
                value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Name what is public, so that completion offers it."""
    return sorted({*globals(), *__all__})
