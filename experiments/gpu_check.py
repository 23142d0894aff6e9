"""Check an accelerator against the CPU, and measure a local fit on it against a bare loop.

    python experiments/gpu_check.py                       # needs an accelerator; minutes
    python experiments/gpu_check.py --small               # the same code where there is none

(a) Every strategy with every term of the loss, prompt dropout, masks, augmentation, bf16 and
several nodes at once, on the accelerator and on the CPU: accuracy within a point, the same bytes on
every link, the same FLOPs, no failure; and a cluster answers a request on both. What a codec or a
compressor makes of tensors depends on their last bits, so it is left out, and so does the text of a
ledger: of that walk the payload is compared. (b) ViT-B/16 with random weights, 10 deep prompts,
batches of 64, 1,024 images: our `fit` against a loop of plain torch that does the same (autocast,
AdamW, cross-entropy on kept tokens), alternating in one process, and the first fit against the
second. Exit status 1 if (a) does not hold.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from joblib import cpu_count
from torch import Tensor

from mfd_flower.config import ModelConfig, RunConfig, TrainConfig
from mfd_flower.data import Samples
from mfd_flower.models import build_model, fit, input_spec
from mfd_flower.models.devices import AUTOCAST_DTYPES, device_for, device_name, set_products
from mfd_flower.models.residents import images_of, keep_features, placed
from mfd_flower.models.tunables import named_tunables
from mfd_flower.node import initial_tunables
from mfd_flower.runtime.runner import run_locally
from mfd_flower.split.inference import train_then_serve

TERMS = {
    "logit_adjustment": 1.0,
    "keep_absent_rows": True,
    "distillation": 2.0,
    "proximal_mu": 0.01,
}
TRAITS: dict[str, Any] = {"damping": {}, "ledger": {}, "partial": {"budget": 0.5}}
LEDGER = "walk, traits"
DROPOUT = "fedavg, prompt dropout"
"""An accelerator draws other masks than the CPU: accuracies are not compared."""
RUNS: dict[str, dict[str, Any]] = {
    "fedavg": {"strategy": "fedavg", "train": TERMS},
    "fedavg, lora": {"strategy": "fedavg", "train": TERMS, "model": {"tune": "lora"}},
    "fedavg, full": {
        "strategy": "fedavg",
        "train": {**TERMS, "lr": 0.001},
        "model": {"tune": "full"},
    },
    DROPOUT: {"strategy": "fedavg", "train": TERMS, "model": {"prompt_dropout": 0.3}},
    "fedavg, head": {"strategy": "fedavg", "train": TERMS, "model": {"tune": "head"}},
    "local-only": {"strategy": "local-only", "train": TERMS},
    "centralised": {"strategy": "centralised", "train": TERMS},
    "walk": {"strategy": "mfd-walk", "train": TERMS, "options": {"policy": "random"}},
    LEDGER: {
        "strategy": "mfd-walk",
        "train": TERMS,
        "options": {"policy": "random", "traits": TRAITS},
    },
    "walk, features made again": {
        "strategy": "mfd-walk",
        "train": TERMS,
        "options": {"policy": "random"},
        "cache_gb": 0.0,
    },
    "fedavg, bf16": {"strategy": "fedavg", "train": {**TERMS, "precision": "bf16"}},
    "fedavg, augmented": {"strategy": "fedavg", "train": {"augmentation": "crop-flip"}},
    "hfsl": {
        "strategy": "hfsl",
        "train": {"logit_adjustment": 1.0, "proximal_mu": 0.01},
        "options": {"clusters": 2, "cluster_size": 2},
    },
}
POINTS = 0.01
"""By how much accuracies may differ."""


def settings(entry: dict[str, Any], accelerator: str, small: bool) -> RunConfig:
    """Return the settings of a run, of seconds if `small`."""
    test, rounds = (100, 1) if small else (1000, 4)
    options = json.dumps(entry.get("options", {}))
    return RunConfig.from_tables(
        {
            "data": {
                "nodes": 4,
                "train_samples": 80 if small else 800,
                "test_samples": test,
                "partition": "dirichlet",
            },
            "model": entry.get("model", {}),
            "train": {"accelerator": accelerator, "local_epochs": 2, **entry["train"]},
            "strategy": {"name": entry["strategy"], "rounds": rounds, "options": options},
        }
    )


def measured(name: str, accelerator: str, small: bool) -> dict[str, Any]:
    """Do one run."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    keep_features(None, RUNS[name].get("cache_gb"))
    return run_locally(settings(RUNS[name], accelerator, small), workers=4)


def served(accelerator: str, small: bool) -> tuple[float, Tensor]:
    """Let a cluster of three answer; returns its FLOPs, and logits ``(images, classes)``."""
    entry = {"strategy": "hfsl", "train": {}, "options": {"clusters": 1, "cluster_size": 3}}
    run = settings(entry, accelerator, small)
    images = images_of(run, "test").inputs[:50]
    (found, _), _, logits = train_then_serve(run, 0, initial_tunables(run), images=images)
    return found.flops, logits


def compared(name: str, there: dict[str, Any], here: dict[str, Any]) -> dict[str, Any]:
    """Return what differs between a run on the accelerator and on the CPU."""
    last, expected = there["points"][-1], here["points"][-1]
    apart = abs(last["accuracy"] - expected["accuracy"])
    wrong = [key for key in ("flops", "updates") if last[key] != expected[key]]
    kinds = ("payload",) if name == LEDGER else tuple(last["bytes"])
    wrong += [kind for kind in kinds if last["bytes"][kind] != expected["bytes"][kind]]
    wrong += ["accuracy"] if apart > POINTS + 1e-9 and name != DROPOUT else []
    wrong += [f"failure: {failure['reason']}" for failure in there["failures"]]
    return {"run": name, "accuracy": last["accuracy"], "on the CPU": expected["accuracy"]} | {
        "seconds": round(last["wall_seconds"], 1),
        "wrong": wrong,
    }


def bare_fit(model: Any, shard: Samples, config: TrainConfig, device: torch.device) -> None:
    """Do the same steps with nothing around them."""
    tunables = [p for _, p in named_tunables(model)]
    optimiser = torch.optim.AdamW(tunables, lr=config.lr, weight_decay=config.weight_decay)
    dtype = AUTOCAST_DTYPES.get(config.precision)
    labels = shard.labels.to(device)
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    model.train()
    for pick in torch.randperm(len(shard)).to(device).split(config.batch_size):
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            loss = F.cross_entropy(model.forward_from("tokens", shard.inputs[pick]), labels[pick])
        optimiser.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()


def benchmark(accelerator: str, small: bool) -> list[dict[str, Any]]:
    """Return seconds of a fit in each precision, ours and bare."""
    arch, images, batch = ("test_vit", 32, 8) if small else ("vit_base_patch16_224", 1024, 64)
    device = device_for(TrainConfig(accelerator=accelerator))
    config = ModelConfig(backbone="random", arch=arch, prompts=10)
    model = placed(build_model(config, 10, 0), device)
    size = input_spec(model.backbone).size_px
    parts = [
        model.frozen_outputs("tokens", torch.randn(min(batch, images), 3, size, size).to(device))
        for _ in range(images // batch)
    ]
    shard = Samples(torch.cat(parts), torch.arange(images) % 10)
    rows: list[dict[str, Any]] = []
    for precision in ("32", "bf16") if device.type == "cpu" else ("32", "tf32", "bf16", "fp16"):
        train = TrainConfig(batch_size=batch, precision=precision, accelerator=accelerator)
        if precision == "tf32" and device.type != "cuda":
            continue
        ours, bare = [], []
        for _ in range(3 if small else 5):
            ours.append(
                seconds(lambda t=train: fit(model, shard, t, seed=0, stage="tokens"), device)
            )
            set_products(device, precision)
            bare.append(seconds(lambda t=train: bare_fit(model, shard, t, device), device))
        times = {"first": ours[0], "ours": min(ours[1:]), "bare": min(bare)}
        times["bare / ours"] = times["bare"] / times["ours"]
        rows.append({"precision": precision, **times})
    return rows


def seconds(work: Any, device: torch.device) -> float:
    """Return what the work takes, all that it started on the device included."""
    started = time.perf_counter()
    work()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - started


def main() -> int:
    """Print both tables; returns 1 if the accelerator does not do what the CPU does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="smallest sizes, also on a CPU")
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    chosen = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    device = device_for(TrainConfig(accelerator=chosen.accelerator))
    if device.type == "cpu" and not chosen.small:
        parser.error("no accelerator here; --small runs the same code on the CPU")
    print(f"{device_name(device)}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
    rows = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(1, cpu_count() // 4), mp_context=spawn) as pool:
        on_cpu: dict[str, Future[dict[str, Any]]] = {
            name: pool.submit(measured, name, "cpu", chosen.small) for name in RUNS
        }
        for name, expected in on_cpu.items():
            there = measured(name, chosen.accelerator, chosen.small)
            rows.append(compared(name, there, expected.result()))
            row = {key: value for key, value in rows[-1].items() if key != "wrong"}
            print(row, "; ".join(rows[-1]["wrong"]) or "ok", flush=True)
    (flops, logits), (expected_flops, expected_logits) = (
        served(where, chosen.small) for where in (chosen.accelerator, "cpu")
    )
    apart = float((logits - expected_logits).abs().max() / expected_logits.abs().max())
    wrong = [*(["flops"] if flops != expected_flops else []), *(["logits"] if apart > 1e-4 else [])]
    rows.append({"run": "split inference", "largest difference of logits": apart, "wrong": wrong})
    print({"run": "split inference", "apart": apart}, "; ".join(wrong) or "ok", flush=True)
    times = benchmark(chosen.accelerator, chosen.small)
    for row in times:
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})
    if chosen.json:
        found = {"device": device_name(device), "runs": rows, "fits": times}
        chosen.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return int(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
