"""Every setting of ``MAMLConfig`` has the effect it is said to have, in every path that reads it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns
from tiny_runs import (
    PPO,
    SINGLE,
    TINY,
    Algorithms,
    NumpyParams,
    save_expert,
    tiny_algorithms,
    tiny_config,
)

from maml_rl.envs.rollout import Phase
from maml_rl.experiments.training import RESULT_FIELDS, describe
from maml_rl.learning.adaptation import InnerUpdateSettings
from maml_rl.learning.meta_update import MetaUpdateSettings
from maml_rl.learning.ppo import PPOSettings
from maml_rl.learning.trpo import LineSearch
from maml_rl.rllib.metrics import Trials
from maml_rl.rllib.rules import _EVALUATION, RESOURCES, RULES, TRAINING_FIELDS

Changes = dict[str, tuple[dict[str, Any], Any]]
"""By the name of a path: settings with which a field matters there, and another value of the field."""

EXPERT = {"expert": "EXPERT", "max_kl": 1.0}
GUIDED_PPO = PPO | EXPERT
BACKTRACKED = {"max_kl": 1.0}
"""A trust region in which the quadratic model of the KL is wrong: the first lengths tried are refused."""
CLIPPED = PPO | {"lr": 0.1, "clip_param": 0.05}
FAR_PPO = PPO | {"lr": 0.1, "max_kl": 0.01}
"""The same for PPO."""
PICTURES = {"env": "maml_rl/VisualNav-v0"}
BOUND = {"initial_std": 0.3, "inner_lr": 0.02}

EFFECTS: dict[str, Changes] = {
    "env_config": {"trpo": ({}, {"reward": "squared_distance"})},
    "seed": {"trpo": ({}, 1), "ppo": (PPO, 1), "critic": (SINGLE, 1)},
    "inner_lr": {"trpo": ({}, 0.2), "ppo": (PPO, 0.2), "learned": ({"learn_inner_lr": True}, 0.2)},
    "inner_steps": {"trpo": ({}, 2), "none": ({}, 0), "ppo": (PPO, 2)},
    "context_size": {"trpo": ({}, 2), "ppo": (PPO, 2)},
    "learn_inner_lr": {"trpo": ({}, True), "ppo": (PPO, True)},
    "first_order": {
        "trpo": ({"inner_lr": 0.2}, True),
        "exact": ({"inner_lr": 0.2, "hvp": "exact"}, True),
        "ppo": (PPO | {"inner_lr": 0.2}, True),
    },
    "inner_loss": {
        "trpo": ({"inner_lr": 0.2}, "likelihood_ratio"),
        "exact": ({"inner_lr": 0.2, "hvp": "exact"}, "likelihood_ratio"),
        "ppo": (PPO | {"inner_lr": 0.2}, "likelihood_ratio"),
    },
    "expert": {"trpo": ({"max_kl": 1.0}, "EXPERT"), "ppo": (PPO | {"max_kl": 1.0}, "EXPERT")},
    "expert_std_scale": {"trpo": (EXPERT, 0.5), "ppo": (GUIDED_PPO, 0.5)},
    "expert_clip": {"trpo": (EXPERT, True), "ppo": (GUIDED_PPO, True)},
    "meta_batch_size": {"trpo": ({}, 4), "ppo": (PPO, 4)},
    "episodes_per_task": {"trpo": ({}, 5), "ppo": (PPO, 5)},
    "horizon": {"trpo": ({}, 5), "ppo": (PPO, 5)},
    "gamma": {"trpo": ({}, 0.5), "ppo": (PPO, 0.5), "critic": (SINGLE, 0.5)},
    "gae_lambda": {"trpo": ({}, 0.5), "ppo": (PPO, 0.5), "critic": (SINGLE, 0.5)},
    "baseline_ridge": {"trpo": ({}, 10.0), "ppo": (PPO, 10.0), "one policy": ({"inner_steps": 0}, 10.0)},
    "outer_update": {"adapted": ({"max_kl": 0.5}, "ppo"), "one policy": ({"inner_steps": 0}, "ppo")},
    "max_kl": {"trpo": ({}, 0.001), "ppo": (PPO, 0.005), "one policy": (SINGLE, 0.005)},
    "hvp": {"trpo": ({"hvp_step": 0.1}, "exact")},
    "hvp_step": {"trpo": ({}, 0.3)},
    "curvature_fraction": {"finite difference": ({}, 0.5), "exact": ({"hvp": "exact"}, 0.5)},
    "cg_iterations": {"trpo": ({}, 1)},
    "cg_residual_tol": {"trpo": ({}, 0.1)},
    "cg_damping": {"trpo": ({}, 1.0)},
    "line_search_steps": {"trpo": (BACKTRACKED, 1), "ppo": (FAR_PPO, 1)},
    "line_search_ratio": {"trpo": (BACKTRACKED, 0.3), "ppo": (FAR_PPO, 0.3)},
    "lr": {"ppo": (PPO, 0.005), "one policy": (SINGLE, 0.005), "expert": (GUIDED_PPO, 0.005)},
    "num_epochs": {"ppo": (PPO, 2), "one policy": (SINGLE, 2), "expert": (GUIDED_PPO, 2)},
    "minibatch_size": {"ppo": (PPO, 54), "one policy": (SINGLE, 54), "expert": (GUIDED_PPO, 54)},
    "clip_param": {"ppo": (CLIPPED, 0.3), "one policy": (CLIPPED | SINGLE, 0.3)},
    "entropy_coeff": {"ppo": (PPO, 0.5), "one policy": (SINGLE, 0.5)},
    "normalize_observations": {"trpo": ({}, True), "ppo": (PPO, True), "critic": (SINGLE, True)},
    "normalize_rewards": {"critic": (SINGLE, True)},
    "hidden_sizes": {"trpo": ({}, (4, 4))},
    "layer_norm": {"trpo": ({"activation": "tanh"}, True), "ppo": (PPO, True)},
    "conv_filters": {"trpo": (PICTURES, ((3, 3, 1),)), "flat": (PICTURES, ())},
    "recurrent": {"trpo": ({}, "gru"), "other": ({"recurrent": "gru"}, "lstm"), "ppo": (PPO, "gru")},
    "recurrent_size": {"trpo": ({"recurrent": "gru"}, 5)},
    "adapt_only": {"trpo": ({}, ("mean",)), "ppo": (PPO, ("mean",)), "exact": ({"hvp": "exact"}, ("mean",))},
    "module": {"trpo": ({}, "user_modules:Net"), "ppo": (PPO, "user_modules:Net")},
    "activation": {"trpo": ({}, "tanh"), "ppo": (PPO, "tanh")},
    "initial_std": {"trpo": ({}, 0.5), "ppo": (PPO, 0.5)},
    "min_std": {"trpo": (BOUND, 0.4), "ppo": (PPO | BOUND, 0.4), "expert": (EXPERT | BOUND, 0.4)},
}
CASES = [(name, path) for name, changes in EFFECTS.items() for path in changes]


@pytest.fixture(scope="module")
def algorithms(local_ray: None) -> Iterator[Algorithms]:
    with tiny_algorithms() as found:
        yield found


@dataclass
class Runs:
    """Parameters after an iteration, by settings; every run is made once."""

    algorithms: Algorithms
    expert: str
    known: dict[str, NumpyParams] = field(default_factory=dict)

    def __call__(self, settings: dict[str, Any]) -> NumpyParams:
        settings = {k: self.expert if v == "EXPERT" else v for k, v in settings.items()}
        key = repr(sorted(settings.items()))
        if key not in self.known:
            self.known[key], (result,) = self.algorithms.train(1, **settings)
            # Of two refused updates nothing could be told.
            assert result["step_accepted"] or settings.get("line_search_steps") == 1
        return self.known[key]


@pytest.fixture(scope="module")
def runs(algorithms: Algorithms, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(algorithms, save_expert(tmp_path_factory.mktemp("expert") / "expert.safetensors"))


def differ(a: NumpyParams, b: NumpyParams) -> bool:
    return any(k not in b or b[k].shape != v.shape or not np.array_equal(b[k], v) for k, v in a.items())


# --- every field


def test_every_field_has_an_entry() -> None:
    assert set(EFFECTS) == {*TRAINING_FIELDS, "seed", "env_config"}
    # What has a rule but no effect on the parameters: how long a rollout may take, where it runs, and evaluation.
    assert set(RULES) - set(EFFECTS) == {"sample_timeout_s", *RESOURCES, *_EVALUATION}


@pytest.mark.parametrize(("name", "path"), CASES, ids=[f"{name}-{path}" for name, path in CASES])
def test_every_field_changes_the_parameters(name: str, path: str, runs: Runs) -> None:
    settings, value = EFFECTS[name][path]
    other = (TINY | {name: tiny_config(**settings).__dict__.get(name)} | settings).get(name)
    assert other != value, "the table must change something"
    assert differ(runs(settings), runs(settings | {name: value}))


# --- from the configuration to the updates


def unusual(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return "exact"
    return value + 3 if isinstance(value, int) else value * 0.77


def settings_of(kind: type) -> dict[str, Any]:
    """Another value than the default's for all that the update's settings hold, under the configuration's names."""
    default = tiny_config()
    names = {f.name for f in fields(kind)} - {"line_search"} | {"line_search_steps", "line_search_ratio"}
    return {name: unusual(getattr(default, name)) for name in names}


@pytest.mark.parametrize(
    ("kind", "method"), [(MetaUpdateSettings, "meta_update_settings"), (PPOSettings, "ppo_settings")]
)
def test_every_setting_of_an_update_is_the_configurations(kind: type, method: str) -> None:
    chosen = settings_of(kind)
    settings = getattr(tiny_config(**chosen), method)()
    search = LineSearch(chosen.pop("line_search_steps"), chosen.pop("line_search_ratio"))
    assert {f.name: getattr(settings, f.name) for f in fields(kind)} == chosen | {"line_search": search}


def test_every_setting_of_the_adaptation_is_the_configurations() -> None:
    chosen = {f.name: unusual(getattr(tiny_config(), f.name)) for f in fields(InnerUpdateSettings)}
    assert asdict(tiny_config(**chosen).inner_update_settings()) == chosen


def test_a_description_of_a_run_holds_every_field() -> None:
    assert set(RESULT_FIELDS) == {*EFFECTS, "env"}
    chosen = {n: unusual(getattr(tiny_config(), n)) for n in ("gamma", "seed", "lr", "cg_damping", "min_std")}
    described = describe(tiny_config(hidden_sizes=(9, 8), **chosen), "point-nav", "maml", 3)["config"]
    assert set(RESULT_FIELDS) <= set(described)
    assert {name: described[name] for name in chosen} == chosen
    assert described["hidden_sizes"] == [9, 8]


# --- the right effects


@pytest.mark.parametrize(
    "settings", [{}, PPO | {"lr": 0.05}, SINGLE | {"lr": 0.05}], ids=["trpo", "ppo", "one policy"]
)
@pytest.mark.parametrize("max_kl", [0.1, 0.003])
def test_an_update_stays_within_max_kl(
    settings: dict[str, Any], max_kl: float, algorithms: Algorithms
) -> None:
    _, (result,) = algorithms.train(1, **(settings | {"max_kl": max_kl, "cg_iterations": 10}))
    assert result["step_accepted"]
    assert 0.2 * max_kl < result["kl"] <= max_kl


@pytest.mark.parametrize("settings", [BACKTRACKED, FAR_PPO], ids=["trpo", "ppo"])
def test_the_line_search_tries_as_often_as_it_is_told(
    settings: dict[str, Any], algorithms: Algorithms
) -> None:
    _, (free,) = algorithms.train(1, **settings)
    needed = int(free["backtracks"])
    assert needed >= 1
    assert free["step_accepted"]
    _, (enough,) = algorithms.train(1, **settings, line_search_steps=needed + 1)
    assert (enough["step_accepted"], enough["backtracks"]) == (1, needed)
    _, (few,) = algorithms.train(1, **settings, line_search_steps=needed)
    assert (few["step_accepted"], few["backtracks"]) == (0, needed)
    assert few["kl"] == 0


def test_a_refused_step_changes_no_parameter(algorithms: Algorithms) -> None:
    algo = algorithms.build(tiny_config(**BACKTRACKED, line_search_steps=1))
    before = algo.meta_params()
    assert algo.train()["step_accepted"] == 0
    assert not differ(algo.meta_params(), before)


@pytest.mark.parametrize("settings", [PPO, SINGLE], ids=["ppo", "one policy"])
def test_ppo_takes_a_step_of_lr_per_minibatch_and_epoch(
    settings: dict[str, Any], algorithms: Algorithms
) -> None:
    """Adam's first step is ``lr`` in every coordinate whose gradient is well above its epsilon, never more."""

    def largest_move(**fields: Any) -> float:
        algo = algorithms.build(tiny_config(**(settings | {"max_kl": 100.0} | fields)))
        before = algo.meta_params()
        assert algo.train()["backtracks"] == 0
        return max(float(np.abs(v - before[k]).max()) for k, v in algo.meta_params().items())

    whole = {"minibatch_size": 54}
    assert largest_move(lr=0.01, num_epochs=1, **whole) == pytest.approx(0.01, rel=0.02)
    assert largest_move(lr=0.002, num_epochs=1, **whole) == pytest.approx(0.002, rel=0.02)
    assert 0.02 < largest_move(lr=0.01, num_epochs=3, **whole) <= 0.0301
    assert 0.02 < largest_move(lr=0.01, num_epochs=1, minibatch_size=18) <= 0.0301


@pytest.mark.parametrize("settings", [{}, PPO], ids=["trpo", "ppo"])
def test_no_action_is_drawn_with_less_than_min_std(settings: dict[str, Any], algorithms: Algorithms) -> None:
    algo = algorithms.build(tiny_config(**settings, **BOUND, min_std=0.4, episodes_per_task=40))
    before = algo.meta_params()
    np.testing.assert_allclose(before["log_std"], math.log(0.3), rtol=1e-6)
    tasks = algo._sample_tasks(algo.config.meta_batch_size, Phase.TASKS)
    trials = Trials()
    algo._collect(trials, tasks, {k: v[None] for k, v in before.items()}, (Phase.ROLLOUT, 1, 0))
    ((_, trajectories),) = trials.blocks
    # From the origin, where zero biases make the mean zero, the first actions are the noise alone.
    first = np.concatenate([t.actions[:, 0] for t in trajectories])
    assert first.std() == pytest.approx(0.4, rel=0.15)
    assert algo.train()["step_accepted"]
    # Below the bound there is no gradient: what was not adapted is not trained either.
    np.testing.assert_array_equal(algo.meta_params()["log_std"], before["log_std"])


def test_initial_values_are_those_of_the_configuration(algorithms: Algorithms) -> None:
    config = tiny_config(initial_std=0.3, inner_lr=0.07, learn_inner_lr=True, hidden_sizes=(6, 5))
    params = algorithms.build(config).meta_params()
    np.testing.assert_allclose(np.exp(params["log_std"]), 0.3, rtol=1e-6)
    shapes = {"hidden.0.weight": (6, 2), "hidden.1.weight": (5, 6), "mean.weight": (2, 5)}
    assert {name: params[name].shape for name in shapes} == shapes
    for name, value in params.items():
        if name.startswith("inner_lr."):
            np.testing.assert_allclose(value, 0.07, rtol=1e-6)


def test_the_module_acts_as_the_policy_that_is_trained(algorithms: Algorithms) -> None:
    config = tiny_config(**BOUND, min_std=0.4, activation="tanh", hidden_sizes=(4, 3), context_size=2)
    algo = algorithms.build(config)
    algo.train()
    module = algo.get_module()
    observations = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    spec = config.policy_spec(*algo.spaces["__env__"])
    stacked = {name: torch.from_numpy(value)[None] for name, value in algo.meta_params().items()}
    expected = spec(stacked, observations[None])
    out = module.forward_inference({Columns.OBS: observations})[Columns.ACTION_DIST_INPUTS]
    torch.testing.assert_close(out[:, :2], expected.mean[0])
    torch.testing.assert_close(out[:, 2:].exp(), torch.full((5, 2), 0.4))
