"""Backbones, what is tuned on them, and how it is trained."""

from mfd_flower.models.backbones import backbone_digest, load_backbone
from mfd_flower.models.build import build_model, input_spec
from mfd_flower.models.classifier import Classifier
from mfd_flower.models.prompts import PromptedViT
from mfd_flower.models.residents import model_for
from mfd_flower.models.shard_data import ShardData
from mfd_flower.models.training import evaluate, fit
from mfd_flower.models.tunables import get_tunables, set_tunables
from mfd_flower.models.tuned import TunedModel

__all__ = [
    "Classifier",
    "PromptedViT",
    "ShardData",
    "TunedModel",
    "backbone_digest",
    "build_model",
    "evaluate",
    "fit",
    "get_tunables",
    "input_spec",
    "load_backbone",
    "model_for",
    "set_tunables",
]
