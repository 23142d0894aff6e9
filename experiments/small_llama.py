"""A small decoder of Llama's architecture, and the text that it is trained and measured on.

Python's own manual, `pydoc_data`: 465 kB of English text and code, a token a character.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

NODES, CONTEXT, BATCH, RANK, ALPHA = 10, 96, 8, 4, 8


@dataclass(frozen=True)
class Text:
    """What the base model is trained on, what each node has, and the test."""

    public: Tensor
    nodes: Sequence[Tensor]
    test: Tensor

    @classmethod
    def split(cls, seed: int) -> Text:
        """Deal topics out: a third at random to the base model, the others by the alphabet."""
        names = sorted(topics)
        drawn = set(np.random.default_rng(seed).permutation(len(names))[: len(names) // 3])
        private = [_tokens(topics[n]) for number, n in enumerate(names) if number not in drawn]
        public = [_tokens(topics[names[number]]) for number in sorted(drawn)]
        nodes = torch.cat([each[: len(each) * 5 // 6] for each in private]).tensor_split(NODES)
        test = torch.cat([each[len(each) * 5 // 6 :] for each in private])
        return cls(torch.cat(public), nodes, test)


def _tokens(text: str) -> Tensor:
    return torch.tensor(list(text.encode("ascii", "replace")))


def base_model(text: Text, steps: int, folder: Path, seed: int) -> LlamaForCausalLM:
    """Return the model that all have, trained on public text; made once."""
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    path = folder / f"base-{seed}-{steps}.safetensors"
    if path.exists():
        load_model(model, path)
    else:
        train(model, text.public, steps, 3e-3, seed)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(model, str(path))
    return model.requires_grad_(False)


def with_factors(base: nn.Module) -> nn.Module:
    """Return the model with fresh factors, the only ones that train."""
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["q_proj", "v_proj"])
    torch.manual_seed(0)
    return inject_adapter_in_model(config, base)


def train(model: nn.Module, text: Tensor, steps: int, lr: float, seed: int) -> None:
    """Take so many steps on windows of the text that the seed draws."""
    tuned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(tuned, lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        starts = rng.integers(0, len(text) - CONTEXT, BATCH)
        batch = torch.stack([text[start : start + CONTEXT] for start in starts.tolist()])
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(tuned, 1.0)
        optimizer.step()
        schedule.step()


@torch.inference_mode()
def perplexity(model: nn.Module, text: Tensor) -> float:
    """Return the perplexity a character, over windows that follow each other."""
    windows = text[: len(text) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)
    losses = [float(model(input_ids=w, labels=w).loss) * len(w) for w in windows.split(64)]
    return math.exp(sum(losses) / len(windows))
