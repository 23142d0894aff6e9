"""The settings of a run, tried before anything runs."""

from __future__ import annotations

from mfd_flower.adversary.attackers import attack_of
from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.models.build import check_model
from mfd_flower.models.devices import device_for
from mfd_flower.models.inputs import augmented, federation_of
from mfd_flower.models.optimizers import optimizer_of
from mfd_flower.models.residents import model_for
from mfd_flower.models.resizing import resizing
from mfd_flower.network.worlds import world_of
from mfd_flower.node import initial_tunables
from mfd_flower.profiles import own_settings
from mfd_flower.strategy import find_strategy


def check_run(run: RunConfig) -> None:
    """Try the settings of network, data, model, training and threat before anything runs.

    Raises ConfigError for the first one that names nothing there is, or does not fit the others.
    """
    world_of(run.network, run.data.nodes, run.seed)
    check_profiles(run)
    for each in {run, *(own_settings(run, node) for node in range(run.data.nodes))}:
        initial_tunables(each)
        check_model(model_for(each), each.model.tune)
        optimizer_of(each.train)
        device_for(each.train)
    if attack_of(run).needs_sums and not carries_sums(run):
        accepted = "accepted where packets carry sums: exact-walk"
        raise ConfigError("threat.kind", run.threat.kind, accepted)
    if run.train.augmentation:
        augmented(run, 0, run.seed)


def check_profiles(run: RunConfig) -> None:
    """Raise ConfigError if nodes have models of their own that the strategy has no use for.

    Its ``own_models`` says of a run which it takes: ``any``, or ``sized``, that are the model that
    all share at other sizes; without it none.
    """
    takes = getattr(find_strategy(run.strategy.name), "own_models", lambda run: "")(run)
    for place, profile in enumerate(run.node_profiles):
        if profile.model and takes == "sized":
            own = run.with_profile(profile)
            resizing(run.model, own.model, federation_of(run).num_classes, run.seed)
        elif profile.model and not takes:
            said = f"accepted where nodes may have models of their own, not by {run.strategy.name}"
            raise ConfigError(f"profiles[{place}].model", {**profile.model}, said)


def carries_sums(run: RunConfig) -> bool:
    """Tell whether the strategy of a run sends packets of sums."""
    return bool(getattr(find_strategy(run.strategy.name), "carries_sums", False))
