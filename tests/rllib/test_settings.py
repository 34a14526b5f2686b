"""Every setting reaches what it is a setting of: changed alone, where it matters, it changes a tiny run.

A setting that several paths read (TRPO and PPO, baseline and critic) has a case for each.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maml_rl import MAMLConfig
from maml_rl.policies.mlp import GaussianMLP
from maml_rl.policies.policy_file import save_policy
from maml_rl.rllib.config import TRAINING_FIELDS

EXPERT = "expert.safetensors"
TINY: dict[str, Any] = {
    "inner_lr": 0.1,
    "meta_batch_size": 3,
    "episodes_per_task": 4,
    "horizon": 8,
    "hidden_sizes": (6, 6),
    "cg_iterations": 3,
}
PPO = {"outer_update": "ppo", "minibatch_size": 40, "num_epochs": 3, "lr": 0.01}
PPO_ALONE = PPO | {"inner_steps": 0}
"""No inner steps: the critic takes the baseline's place."""
LONG_STEPS = PPO | {"lr": 0.1, "max_kl": 0.05}
"""So that the line search has to go back."""
GUIDED = {"expert": EXPERT}
UNTRUSTED = {"max_kl": 20.0}
"""A trust region larger than the model holds in, where TRPO's line search has to go back."""


@dataclass(frozen=True)
class Case:
    """One setting changed, among others that make it matter."""

    name: str
    value: Any
    among: dict[str, Any] = field(default_factory=dict)


CASES = [
    Case("inner_lr", 0.5),
    Case("inner_lr", 0.5, PPO),
    Case("inner_lr", 0.5, {"learn_inner_lr": True}),
    Case("inner_lr", 0.5, {"context_size": 2}),
    Case("inner_steps", 2),
    Case("inner_steps", 0),
    Case("inner_steps", 2, PPO),
    Case("context_size", 2),
    Case("learn_inner_lr", True),
    Case("learn_inner_lr", True, PPO),
    Case("first_order", True),
    Case("first_order", True, {"hvp": "exact"}),
    Case("first_order", True, PPO),
    Case("first_order", True, GUIDED),
    Case("expert", EXPERT),
    Case("expert", EXPERT, PPO),
    Case("expert_std_scale", 0.5, GUIDED),
    Case("expert_clip", True, GUIDED),
    Case("expert_clip", True, GUIDED | PPO),
    Case("meta_batch_size", 4),
    Case("episodes_per_task", 5),
    Case("horizon", 7),
    Case("gamma", 0.5),
    Case("gamma", 0.5, PPO_ALONE),
    Case("gae_lambda", 0.5),
    Case("gae_lambda", 0.5, PPO_ALONE),
    Case("baseline_ridge", 1e3),
    Case("baseline_ridge", 1e3, PPO),
    Case("outer_update", "ppo"),
    Case("max_kl", 0.001),
    Case("max_kl", 0.001, GUIDED),
    Case("max_kl", 1e-4, PPO),
    Case("max_kl", 1e-4, PPO_ALONE),
    Case("hvp", "exact"),
    Case("hvp_step", 0.3),
    Case("curvature_fraction", 0.5),
    Case("curvature_fraction", 0.5, {"hvp": "exact"}),
    Case("cg_iterations", 1),
    Case("cg_residual_tol", 1.0),
    Case("cg_damping", 1.0),
    Case("line_search_steps", 1, UNTRUSTED),
    Case("line_search_steps", 1, LONG_STEPS),
    Case("line_search_ratio", 0.1, UNTRUSTED),
    Case("line_search_ratio", 0.1, LONG_STEPS),
    Case("lr", 0.02, PPO),
    Case("lr", 0.02, PPO_ALONE),
    Case("num_epochs", 1, PPO),
    Case("num_epochs", 1, PPO_ALONE),
    Case("minibatch_size", 20, PPO),
    Case("minibatch_size", 20, PPO_ALONE),
    Case("clip_param", 0.01, PPO),
    Case("clip_param", 0.01, PPO_ALONE),
    Case("hidden_sizes", (7, 6)),
    Case("hidden_sizes", (6,)),
    Case("activation", "tanh"),
    Case("initial_std", 0.5),
    Case("min_std", 2.0),
    Case("seed", 1),
    Case("env_config", {"reward": "squared_distance"}),
]


@pytest.fixture(autouse=True, scope="module")
def in_a_folder_with_an_expert(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An expert told the goal, whose mean actions lie partly outside the box."""
    folder = tmp_path_factory.mktemp("expert")
    spec = GaussianMLP(4, 2, (5,))
    params = {name: value.numpy() for name, value in spec.init_params(7).items()}
    params["mean.bias"] += np.float32(1.5)
    save_policy(folder / EXPERT, spec, params, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield
    run_with.cache_clear()


def config_with(**settings: Any) -> MAMLConfig:
    settings = TINY | settings
    config = MAMLConfig().environment("maml_rl/PointNav-v0", env_config=settings.pop("env_config", {}))
    return config.debugging(seed=settings.pop("seed", 0)).training(**settings)


@functools.cache
def run_with(settings: tuple[tuple[str, Any], ...]) -> dict[str, np.ndarray]:
    """Meta-parameters after two iterations."""
    algo = config_with(**dict(settings)).build_algo()
    try:
        for _ in range(2):
            algo.train()
        return algo.meta_params()
    finally:
        algo.stop()


def parameters(**settings: Any) -> dict[str, np.ndarray]:
    if "env_config" in settings:  # not hashable
        return run_with.__wrapped__(tuple(settings.items()))
    return run_with(tuple(sorted(settings.items())))


def test_every_setting_has_a_case() -> None:
    assert {case.name for case in CASES} == {*TRAINING_FIELDS, "seed", "env_config"}


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: "-".join([case.name, str(case.value)[:12], *map(str, case.among)])
)
def test_a_changed_setting_changes_the_result(case: Case) -> None:
    as_it_was = parameters(**case.among)
    changed = parameters(**case.among | {case.name: case.value})
    assert as_it_was.keys() != changed.keys() or any(
        value.shape != changed[name].shape or not np.array_equal(value, changed[name])
        for name, value in as_it_was.items()
    )


# --- and in the right direction


def test_the_trust_region_is_kept() -> None:
    for settings in ({"max_kl": 0.003}, PPO | {"max_kl": 0.003}, PPO_ALONE | {"max_kl": 0.003}, GUIDED):
        algo = config_with(**settings).build_algo()
        result = algo.train()
        algo.stop()
        assert 0 < result["kl"] <= settings.get("max_kl", 0.01), settings


def test_an_expert_on_disk_is_the_one_that_is_imitated() -> None:
    """With an expert that asks for much action, the adapted policies' means grow; without, they do not."""
    means = {}
    for name, settings in (("guided", GUIDED | {"max_kl": 1.0}), ("maml", {"max_kl": 1.0})):
        means[name] = parameters(**settings)["mean.bias"].mean()
    assert means["guided"] > means["maml"] + 0.1


def test_a_files_path_is_found_from_other_folders() -> None:
    config = config_with(**GUIDED)
    config.validate()
    assert Path(config.expert or "").is_absolute()
