"""Send the model to the data: MFD walks and GaisNet split learning on Lightning and Flower.

``import mfd_flower as mfd`` imports neither torch nor Flower; a name is imported when it is used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import Any

_HOMES = {
    "accounting.plan": ("plan",),
    "ledger": ("Ledger", "LedgerError", "example_ledger"),
    "models": ("PromptedViT", "get_tunables", "set_tunables"),
    "models.export": ("export",),
    "models.model_file": ("TrainedModel",),
    "models.predict": ("Prediction", "predict"),
    "models.stages": ("split_model",),
    "packets": ("Packet", "PacketError", "example_packet"),
    "report.loggers": ("log_results",),
    "results": ("Results",),
    "routing": ("Candidate", "choose", "kl_divergence"),
    "runtime.compare": ("compare", "run"),
    "split.cuts": ("plan_cuts",),
}
__all__ = sorted(["__version__", *(name for names in _HOMES.values() for name in names)])


def __getattr__(name: str) -> Any:
    """Import a public name on first use; type checkers read ``__init__.pyi``."""
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
