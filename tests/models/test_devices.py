"""What takes part in a fit is on one device, and stays there; torch's meta device stands in."""

from __future__ import annotations

import importlib.metadata
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.loops import fit_loop
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mfd_flower.checks import ConfigError
from mfd_flower.config import ModelConfig, RunConfig, TrainConfig
from mfd_flower.data import Samples
from mfd_flower.models import (
    PromptedViT,
    build_model,
    devices,
    evaluate,
    fit,
    get_tunables,
    residents,
    training,
)
from mfd_flower.models.build import check_model
from mfd_flower.models.classifier import LocalUpdate
from mfd_flower.models.devices import (
    Resident,
    ResidentCUDA,
    autocast,
    device_for,
    device_name,
    held,
    quiet,
)
from mfd_flower.models.loss import Loss, gradient_entropy
from mfd_flower.models.residents import keep_features, placed
from mfd_flower.models.stages import split_model

META = torch.device("meta")
SHARD = Samples(
    torch.randn(12, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 4
)
EVERY_TERM = TrainConfig(
    batch_size=4,
    logit_adjustment=1.0,
    proximal_mu=0.1,
    distillation=2.0,
    keep_absent_rows=True,
    local_epochs=2,
)
MOVES = ("_to_copy", "copy_", "index", "index_put_", "_index_put_impl_")
"""Operations that may meet two devices: copies, and an index, which torch moves."""


class OneDevice(TorchDispatchMode):
    """Refuse operations on tensors of two devices, numbers and copies aside."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.ndim]
        devices = {t.device for t in tensors}
        assert len(devices) < 2 or name in MOVES, f"{name} on {devices}"
        return function(*args, **(kwargs or {}))


def model_on(device: torch.device, tune: str = "prompts", dropout: float = 0.2) -> PromptedViT:
    config = ModelConfig(tune=tune, prompt_dropout=dropout)  # type: ignore[arg-type]
    return placed(build_model(config, 10, 0), device)


@pytest.mark.parametrize("tune", ["head", "prompts", "lora", "full"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_all_that_takes_part_in_a_fit_is_on_one_device(
    tune: str, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every term of the loss, dropout, masks, teacher and an optimiser's state that arrives."""
    # Nothing can be read off a tensor without values.
    monkeypatch.setattr(LocalUpdate, "mean_loss", 0.0)
    monkeypatch.setattr(training, "state_of", lambda *args: {})
    monkeypatch.setattr(fit_loop, "has_len_all_ranks", lambda *args, **keywords: True)
    monkeypatch.setattr(CPUAccelerator, "setup_device", lambda self, device: None)
    config = replace(EVERY_TERM, optimizer=optimizer, momentum=0.9)
    model = model_on(META, tune)
    slot = "exp_avg" if optimizer == "adamw" else "momentum_buffer"
    state = {f"{name}:{slot}": torch.zeros(p.shape) for name, p in _tunables(model).items()}
    if optimizer == "adamw":
        state |= {k.replace("avg", "avg_sq"): v for k, v in state.items()}
        state |= {f"{name}:step": torch.tensor(3.0) for name in _tunables(model)}
    with OneDevice():
        found = fit(model, SHARD, config, seed=0, optimizer_state=state)
    assert found.samples == 24
    # It costs what it costs on a CPU: virtual time does not depend on who simulates.
    monkeypatch.undo()
    on_cpu = fit(model_on(torch.device("cpu"), tune), SHARD, config, seed=0)
    assert (found.flops, found.peak_bytes) == (on_cpu.flops, on_cpu.peak_bytes)
    assert {p.device for p in model.parameters()} == {META}


def test_entropy_and_logits_are_computed_where_the_model_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_on(META)
    loss = Loss.of(EVERY_TERM, SHARD.labels, model)
    with OneDevice():
        assert training.logits_of(model, SHARD, "images").device == META
        with pytest.raises(RuntimeError, match="meta tensors"):  # Reads the gradients' squares.
            gradient_entropy(model, SHARD, loss)


@pytest.mark.parametrize(
    "arch", ["fm-tiny", "eva02_tiny_patch14_224", "vit_small_patch16_dinov3", "test_vit"]
)
def test_a_backbones_own_tensors_are_where_it_is(arch: str) -> None:
    """Rotary positions too, which are no parameters."""
    config = ModelConfig(backbone="random", arch=arch, prompts=2)
    model = placed(build_model(config, 4, 0), META)
    with OneDevice():
        check_model(model, "prompts")


@pytest.mark.parametrize("kept_gb", [1.0, 0.0])
def test_a_nodes_samples_are_where_its_model_is(
    kept_gb: float, make_run: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residents, "device_for", lambda config: META)
    monkeypatch.setattr(residents, "_models", residents._Models())
    keep_features(None, kept_gb)
    try:
        with OneDevice():
            samples = residents.shard(make_run(), 1)
            assert samples.inputs[:].device == META
            # As one has them who asks about pictures.
            images = torch.zeros(2, 1, 28, 28)
            assert residents.frozen_features(make_run(), images).device == META
            assert (
                residents.held_out_by(make_run(data={"validation": 0.2}), 1).inputs.device == META
            )
    finally:
        keep_features(None)


def test_a_card_keeps_its_memory_between_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise AssertionError("emptied")

    monkeypatch.setattr(torch.cuda, "empty_cache", refuse)
    ResidentCUDA().setup(None)  # type: ignore[arg-type]


def _tunables(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("tune", ["head", "prompts", "lora", "full"])
def test_models_on_a_device_share_what_is_frozen_and_nothing_else(tune: str) -> None:
    one, other = (dict(model_on(META, tune).named_parameters()) for _ in range(2))
    for name, parameter in one.items():
        assert parameter.device == META
        assert (parameter is other[name]) == (not parameter.requires_grad)
    at_home = dict(build_model(ModelConfig(tune=tune), 10, 0).named_parameters())  # type: ignore[arg-type]
    assert {p.device.type for p in at_home.values()} == {"cpu"}
    assert {n for n, p in at_home.items() if p.requires_grad} == _tunables(
        model_on(META, tune)
    ).keys()


def test_threads_build_one_resident(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residents, "_residents", type(residents._residents)())
    barrier, models = threading.Barrier(4), []

    def build() -> None:
        model = build_model(ModelConfig(), 10, 0)
        barrier.wait()
        models.append(placed(model, META))

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(model.backbone.pos_embed) for model in models}) == 1
    assert len({id(model.head.weight) for model in models}) == 4


@pytest.mark.parametrize("there", ["cpu", "meta"])
def test_a_trainer_moves_nothing(there: str) -> None:
    """As a fit begins and as it ends; tensors on meta could not even be carried to the CPU."""
    module, strategy = LocalUpdate(model_on(torch.device(there))), Resident(torch.device("meta"))
    trainer = quiet(accelerator="cpu", strategy=strategy)
    strategy.connect(module)
    before = {name: (id(p), p.data_ptr()) for name, p in module.named_parameters()}
    strategy.model_to_device()
    strategy.teardown()
    assert {name: (id(p), p.data_ptr()) for name, p in module.named_parameters()} == before
    assert {p.device.type for p in module.parameters()} == {there}
    assert isinstance(trainer, lightning.Trainer)


def test_an_accelerator_is_held_by_one_thread_and_the_cpu_by_all() -> None:
    def gets_in(device: torch.device) -> bool:
        entered = threading.Event()

        def enter() -> None:
            with held(device, "32"):
                entered.set()

        with held(device, "32"), held(device, "32"):  # A fit evaluates inside.
            threading.Thread(target=enter, daemon=True).start()
            return entered.wait(0.3)

    assert not gets_in(META)
    assert gets_in(torch.device("cpu"))


def test_trainers_ask_for_their_data_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning patches torch's classes meanwhile, and threads of one process share these."""
    asking, together, ask = Counter[str](), Counter[str](), fit_loop._request_dataloader

    def counted(source: Any) -> Any:
        asking["now"] += 1
        together[str(asking["now"])] += 1
        time.sleep(0.2)
        asking["now"] -= 1
        return ask(source)

    monkeypatch.setattr(fit_loop, "_request_dataloader", counted)
    run = RunConfig(train=TrainConfig(accelerator="cpu"), model=ModelConfig(tune="head"))
    models = [build_model(run.model, 4, run.seed) for _ in range(4)]
    fits = [partial(fit, model, SHARD, run.train, seed=0) for model in models]
    threads = [threading.Thread(target=each) for each in fits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == {"1": 4}


def test_a_second_trainer_reads_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning looks for callbacks in all that is installed, for each Trainer anew."""
    read = Counter[str]()
    devices.quiet(accelerator="cpu")
    monkeypatch.setattr(
        importlib.metadata.Distribution, "discover", lambda **_: read.update("n") or []
    )
    devices.quiet(accelerator="cpu")
    assert not read
    importlib.metadata.entry_points()
    assert read


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_a_precision_that_a_cpu_has_not_is_refused(precision: str) -> None:
    config = TrainConfig(accelerator="cpu", precision=precision)  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as caught:
        device_for(config)
    assert str(caught.value) == f"train.precision = '{precision}': accepted on cpu: 32, bf16"


def test_auto_is_the_cpu_where_there_is_nothing_else() -> None:
    assert device_name(device_for(TrainConfig())) == "cpu"


def test_bf16_rounds_and_learns_the_same() -> None:
    ends, found = {}, {}
    for precision in ("32", "bf16"):
        model = model_on(torch.device("cpu"), dropout=0.0)
        config = replace(EVERY_TERM, precision=precision, local_epochs=8)
        loss = fit(model, SHARD, config, seed=0).loss
        ends[precision] = get_tunables(model)
        found[precision] = (loss, evaluate(model, SHARD, precision=precision).accuracy)
    assert {t.dtype for t in ends["bf16"].values()} == {torch.float32}
    assert found["bf16"][0] != found["32"][0]
    assert found["bf16"] == pytest.approx(found["32"], abs=0.1)
    drift = (ends["bf16"]["head.weight"] - ends["32"]["head.weight"]).norm()
    assert drift < 0.1 * ends["32"]["head.weight"].norm()


def test_the_head_has_its_own_precision_in_bf16() -> None:
    """A solved head takes differences of large numbers: rounded to bf16 it decides by chance."""
    model = model_on(torch.device("cpu"), dropout=0.0).eval()
    front, last = split_model(model, [1])
    images = torch.rand(4, 1, 28, 28)
    with autocast(torch.device("cpu"), "bf16"):
        whole, features = (
            model.forward_from("images", images),
            model.features_from("images", images),
        )
        split = last(front(images))
    torch.testing.assert_close(whole, model.head(features.float()), rtol=0, atol=0)
    torch.testing.assert_close(split, whole, rtol=0, atol=0)


@pytest.mark.parametrize("inside", ["32", "bf16", "tf32"])
def test_what_is_computed_in_between_leaves_the_precision(
    inside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features that found no room are made in the midst of a fit."""
    backends = [type("Backend", (), {"allow_tf32": False})() for _ in range(2)]
    monkeypatch.setattr(devices, "PRODUCTS", backends)
    device = torch.device("cuda")

    def allowed() -> set[bool]:
        return {backend.allow_tf32 for backend in backends}

    with held(device, "tf32"):
        with suppress(ValueError), held(device, inside):
            assert allowed() == {inside == "tf32"}
            raise ValueError
        assert allowed() == {True}
    assert allowed() == {False}


def test_a_model_that_a_trainer_carried_away_is_made_again(
    make_run: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning's own strategies bring what they trained to the CPU, frozen weights too."""
    monkeypatch.setattr(residents, "device_for", lambda config: META)
    monkeypatch.setattr(residents, "_models", residents._Models())
    keep_features(None)
    run = make_run()
    carried = residents.model_for(run)
    carried.to_empty(device="cpu")
    found = residents.model_for(run)
    assert {t.device for t in (*found.parameters(), *found.buffers())} == {META}
    with OneDevice():
        assert residents.shard(run, 0).inputs[:].device == META
    keep_features(None)
