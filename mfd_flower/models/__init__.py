"""Backbones, what is tuned on them, and the Lightning module that tunes it."""

from mfd_flower.models.backbones import load_backbone
from mfd_flower.models.build import build_model, input_spec
from mfd_flower.models.learner import PromptLearner, evaluate, fit
from mfd_flower.models.prompts import PromptedViT
from mfd_flower.models.tunables import get_tunables, set_tunables

__all__ = [
    "PromptLearner",
    "PromptedViT",
    "build_model",
    "evaluate",
    "fit",
    "get_tunables",
    "input_spec",
    "load_backbone",
    "set_tunables",
]
