"""The ledger of model versions: who made which version from which parent, unaltered, in order.

It imports neither Flower nor torch, so that reading a ledger takes no time.
"""

from mfd_flower.ledger.chain import Chains
from mfd_flower.ledger.entry import Entry, LedgerError, parse_entry
from mfd_flower.ledger.example import example_ledger
from mfd_flower.ledger.keys import key_of, new_key, public_key, write_key
from mfd_flower.ledger.store import Ledger
from mfd_flower.ledger.sync import heads, packed, receive, suffix, unpacked
from mfd_flower.ledger.writing import Tip, check_receipt, countersign, follow, found

__all__ = [
    "Chains",
    "Entry",
    "Ledger",
    "LedgerError",
    "Tip",
    "check_receipt",
    "countersign",
    "example_ledger",
    "follow",
    "found",
    "heads",
    "key_of",
    "new_key",
    "packed",
    "parse_entry",
    "public_key",
    "receive",
    "suffix",
    "unpacked",
    "write_key",
]
