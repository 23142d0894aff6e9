"""`python -m mfd_flower.cli` is `mfd`."""

from mfd_flower.cli import main

main()
