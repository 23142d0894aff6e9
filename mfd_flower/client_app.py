"""Flower's ClientApp of this package."""

from __future__ import annotations

from mfd_flower.handlers import StrategyClientApp

app = StrategyClientApp()
