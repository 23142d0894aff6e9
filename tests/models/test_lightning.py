"""`Classifier` and `ShardData` under a Trainer of the user's own."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from sklearn.metrics import accuracy_score, f1_score

from mfd_flower.checks import ConfigError
from mfd_flower.config import ModelConfig, RunConfig, TrainConfig
from mfd_flower.models import Classifier, PromptedViT, ShardData, build_model, get_tunables
from mfd_flower.models.residents import held_out_by, shard
from tests.models.test_prompts import vit

ROOT = Path(__file__).parents[2]
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


def trainer_for(folder: Path, **keywords: Any) -> lightning.Trainer:
    plain = {"logger": False, "enable_checkpointing": False, "default_root_dir": folder}
    return lightning.Trainer(**{**QUIET, **plain, **keywords})


@pytest.fixture
def run(make_run: Callable[..., RunConfig]) -> RunConfig:
    return make_run(data={"train_samples": 120, "validation": 0.2}, train={"lr": 0.02})


def classifier_of(run: RunConfig, **train: Any) -> Classifier:
    model = build_model(run.model, 10, run.seed)
    return Classifier(model, TrainConfig(lr=0.02, **train), model.frozen_stage())


def test_metrics_are_those_of_another_library(run: RunConfig, tmp_path: Path) -> None:
    tuned, data = classifier_of(run), ShardData(run, 1)
    trainer = trainer_for(tmp_path, max_epochs=2)
    trainer.fit(tuned, data)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    held_out = held_out_by(run, 1)
    with torch.no_grad():
        logits = tuned.eval()(held_out.inputs)
    true, guessed = held_out.labels, logits.argmax(1)
    assert logged["val_acc"] == pytest.approx(accuracy_score(true, guessed))
    assert logged["val_loss"] == pytest.approx(float(F.cross_entropy(logits, true)), rel=1e-5)
    expected = f1_score(true, guessed, average="macro", zero_division=0)
    assert logged["val_macro_f1"] == pytest.approx(expected)
    assert logged["train_loss"] > 0
    assert (len(data.labels), len(held_out)) == (32, 8)


def test_testing_twice_counts_once(run: RunConfig, tmp_path: Path) -> None:
    tuned, data, trainer = classifier_of(run), ShardData(run, 0), trainer_for(tmp_path)
    assert trainer.test(tuned, data, verbose=False) == trainer.test(tuned, data, verbose=False)
    assert tuned.quality.samples == run.data.test_samples


def test_predictions_are_probabilities(run: RunConfig, tmp_path: Path) -> None:
    found = trainer_for(tmp_path).predict(classifier_of(run), ShardData(run, 0))
    assert found is not None
    torch.testing.assert_close(found[0].sum(1), torch.ones(40))


def test_callbacks_and_loggers_get_what_they_watch(run: RunConfig, tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path, monitor="val_macro_f1", mode="max")
    stop = EarlyStopping("val_loss", patience=0, min_delta=1e9)
    logger = CSVLogger(tmp_path)
    keywords = {
        "logger": [logger, TensorBoardLogger(tmp_path)],
        "enable_checkpointing": True,
        "log_every_n_steps": 1,
    }
    trainer = trainer_for(tmp_path, max_epochs=9, callbacks=[best, stop], **keywords)
    trainer.fit(classifier_of(run), ShardData(run, 0))
    assert trainer.current_epoch == 2  # Nothing is better by that much.
    assert best.best_model_score is not None
    with open(Path(logger.log_dir) / "metrics.csv", encoding="utf-8") as file:
        columns = set(next(csv.reader(file)))
    assert {"train_loss", "val_loss", "val_acc", "val_macro_f1"} <= columns
    assert list(tmp_path.rglob("events.out.tfevents.*"))


@pytest.mark.parametrize("tune", ["head", "prompts", "lora"])
def test_a_checkpoint_holds_the_tunables_alone_and_is_loaded(
    tune: str, make_run: Callable[..., RunConfig], tmp_path: Path
) -> None:
    run = make_run(model={"tune": tune})
    trainer, tuned = trainer_for(tmp_path, max_epochs=1), classifier_of(run)
    trainer.fit(tuned, ShardData(run, 0))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    saved = torch.load(tmp_path / "model.ckpt", weights_only=True)["state_dict"]
    own = get_tunables(tuned.model)
    assert saved.keys() == {f"model.{name}" for name in own}
    loaded = Classifier.load_from_checkpoint(tmp_path / "model.ckpt")
    assert loaded.config == tuned.config
    assert loaded.stage == tuned.stage
    inputs = shard(run, 0).inputs
    assert torch.equal(loaded.eval()(inputs), tuned.eval()(inputs))
    trainer_for(tmp_path, max_epochs=2).fit(
        classifier_of(run), ShardData(run, 0), ckpt_path=tmp_path / "model.ckpt"
    )


def test_a_checkpoint_of_another_model_is_refused(run: RunConfig, tmp_path: Path) -> None:
    trainer = trainer_for(tmp_path, max_epochs=1)
    trainer.fit(classifier_of(run), ShardData(run, 0))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    other = build_model(ModelConfig(tune="head"), 10, 0)
    with pytest.raises(ValueError, match=r"tunables of another model, not in both: model\.prompts"):
        Classifier.load_from_checkpoint(tmp_path / "model.ckpt", model=other)


def test_a_model_of_ones_own_is_passed_to_load(tmp_path: Path) -> None:
    tuned = Classifier(PromptedViT(vit(), 4, 2))
    trainer = trainer_for(tmp_path)
    trainer.strategy.connect(tuned)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = Classifier.load_from_checkpoint(
        tmp_path / "model.ckpt", model=PromptedViT(vit(), 4, 2)
    )
    for name, tensor in get_tunables(loaded.model).items():
        assert torch.equal(tensor, get_tunables(tuned.model)[name])


def test_mixed_precision_trains(run: RunConfig, tmp_path: Path) -> None:
    tuned = classifier_of(run)
    before = get_tunables(tuned.model)["head.weight"]
    trainer_for(tmp_path, max_epochs=1, precision="bf16-mixed").fit(tuned, ShardData(run, 0))
    assert not torch.equal(get_tunables(tuned.model)["head.weight"], before)


def test_the_loss_knows_the_labels_of_the_data_module(run: RunConfig, tmp_path: Path) -> None:
    tuned, data = classifier_of(run, logit_adjustment=1.0, keep_absent_rows=True), ShardData(run, 0)
    before = get_tunables(tuned.model)["head.weight"]
    trainer_for(tmp_path, max_epochs=1).fit(tuned, data)
    assert tuned.loss_terms.adjustment is not None
    absent = torch.bincount(data.labels, minlength=10) == 0
    after = get_tunables(tuned.model)["head.weight"]
    assert torch.equal(after[absent], before[absent])
    other = ShardData(run, 1)
    trainer_for(tmp_path, max_epochs=1).fit(tuned, other)
    assert torch.equal(tuned.labels, other.labels)
    fresh = Classifier(tuned.model, tuned.config, tuned.stage, other.labels)
    assert torch.equal(tuned.loss_terms.adjustment, fresh.loss_terms.adjustment)
    with pytest.raises(ConfigError, match=r"train\.logit_adjustment = 1\.0: needs `labels`"):
        trainer_for(tmp_path).fit(classifier_of(run, logit_adjustment=1.0), data.train_dataloader())
    with pytest.raises(ConfigError, match=r"train\.distillation = 2\.0: needs the arriving"):
        trainer_for(tmp_path, max_epochs=1).fit(classifier_of(run, distillation=2.0), data)


def test_a_node_without_hold_out_is_not_validated(make_run: Callable[..., RunConfig]) -> None:
    data = ShardData(make_run(), 2)
    assert data.val_dataloader() == []
    assert len(data.labels) == 16
    with pytest.raises(ConfigError, match="node = 3: must be at least 0 and at most 2"):
        ShardData(make_run(), 3)


@pytest.mark.slow
def test_the_page_runs_as_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "lightning.md").read_text(encoding="utf-8")
    code, table = re.findall(r"```(?:python|toml)\n(.*?)```", text, re.DOTALL)
    assert len([line for line in code.splitlines() if line and "import" not in line]) <= 10
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["trainer"].callback_metrics["test_acc"] > 0.5
    assert "gradient_clip_val" in table


def test_a_runs_trainer_table_reaches_its_fits(make_run: Callable[..., RunConfig]) -> None:
    from mfd_flower.node import Node, initial_tunables

    train = {"optimizer": "sgd", "lr": 1.0, "batch_size": 4}

    def fitted(**table: Any) -> tuple[float, int]:
        run = make_run(train=train, trainer=table)
        start = initial_tunables(run)
        trained, result = Node(run, 0).fit(start, step=1)
        moved = sum(float((trained[name] - start[name]).square().sum()) for name in start)
        return moved**0.5, result.samples

    free, samples = fitted()
    clipped, _ = fitted(gradient_clip_val=0.01)
    assert clipped <= 4 * 0.01 + 1e-6 < free
    assert fitted(limit_train_batches=0.5)[1] == samples // 2
    # A batch at least, and what a node expects a fit to cost is what it costs.
    for share in (0.01, 0.3, 0.5, 1.0):
        run = make_run(train=train, trainer={"limit_train_batches": share})
        _, result = Node(run, 0).fit(initial_tunables(run), step=1)
        assert result.samples >= 4
        assert result.flops == Node(run, 0).fit_flops()
    assert fitted(accumulate_grad_batches=4, gradient_clip_val=0.01)[0] <= 0.01 + 1e-6
    with pytest.raises(ConfigError, match=r"trainer\.max_epochs = 3: unknown key; accepted: grad"):
        fitted(max_epochs=3)
