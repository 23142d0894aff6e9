"""What may be called how, and have how many classes, on every wire and in every file."""

from __future__ import annotations

from typing import Annotated

from mfd_flower.checks import Form

WALKER = r"[A-Za-z0-9._-]{1,32}"
HEX = r"[0-9a-f]{64}"
ADDRESS, MODEL = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}"
Address = Annotated[str, Form(ADDRESS, "an address of up to 64 letters, digits, . _ -")]
Walker = Annotated[str, Form(WALKER, "up to 32 letters, digits, . _ -")]
ModelId = Annotated[str, Form(MODEL, "a name of up to 128 letters, digits, . _ : / @ + -")]
Digest = Annotated[str, Form(HEX, "64 hexadecimal digits")]
"""SHA-256: a version of a model, an entry of the ledger."""
Task = Annotated[str, Form(r"(?:[0-9a-f]{8})?", "8 hexadecimal digits")]
"""What a node's data, or a packet's model, are for; empty if nobody says so."""
Area = Annotated[str, Form(r"(?:[a-z][a-z0-9-]{0,39})?", "up to 40 small letters, digits, -")]
"""Of the network: a cell, a region; empty if there is one alone."""
MAX_CLASSES = 32_768
"""Of a data set, in adverts, packets and model files."""
