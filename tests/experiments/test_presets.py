"""The settings, the test tasks and the numbers of the paper, written down a second time."""

from __future__ import annotations

import numpy as np
import pytest

from maml_rl.experiments.methods import METHODS, MethodName, configure
from maml_rl.experiments.presets import EXPERIMENTS, get_experiment
from maml_rl.rllib.config import MAMLConfig
from maml_rl.rllib.rules import TRAINING_FIELDS

# Environment, alpha, episodes, meta-batch, horizon, iterations, max_kl, test episodes.
SETTINGS = {
    "point-nav": ("PointNav", 0.1, 20, 20, 100, 100, 0.01, 40),
    "half-cheetah-vel": ("HalfCheetahVel", 0.1, 20, 40, 200, 100, 0.02, 20),
    "half-cheetah-dir": ("HalfCheetahDir", 0.1, 20, 40, 200, 200, 0.02, 20),
    "ant-vel": ("AntVel", 0.1, 20, 40, 200, 500, 0.02, 20),
    "ant-dir": ("AntDir", 0.1, 40, 40, 200, 500, 0.02, 40),
}
TEST_TASKS = {
    "point-nav": (1, -0.5, 0.5, (40, 2)),
    "half-cheetah-vel": (1, 0, 2, 40),
    "half-cheetah-dir": (1, 0, 2, 40),
    "ant-vel": (1, 0, 3, 40),
    "ant-dir": (2, 0, 3, 40),
}
# MAML after 0, 1, 2, 3 steps with intervals; the oracle.
PAPER = {
    "point-nav": ([-40.41, -11.68, -3.33, -3.23], [4.0, 2.2, 0.55, 0.58], (-2.29, 0.14)),
    "half-cheetah-vel": ([-129.5, -78.6, -66.6, -60.8], [16.5, 9.9, 8.9, 8.6], (-54.5, 6.9)),
    "half-cheetah-dir": ([-50.7, 293.2, 313.5, 315.7], [5.7, 17.0, 15.8, 13.9], (442.7, 8.4)),
    "ant-vel": ([30.6, 96.7, 100.1, 101.4], [30.0, 20.7, 21.5, 21.0], (107.9, 20.0)),
    "ant-dir": ([8.7, 499.2, 500.7, 499.1], [14.2, 32.1, 31.5, 32.5], (524.8, 12.4)),
}
BASELINES = {
    "point-nav": {"random": [-82.7, -58.0, -53.8, -46.8], "context-vector": [-42.42, -13.90, -5.17, -3.18]},
    "half-cheetah-vel": {"pretrained": [-158, -135, -129, -134], "random": [-255, -254, -247, -231]},
    "half-cheetah-dir": {
        "pretrained": [-43, -25, -13, 20],
        "random": [-36, 22, 62, 86],
        "context-vector": [-40.5, -44.1, -38.3, -42.5],
    },
    "ant-vel": {"pretrained": [-1.8, 6.1, 8.5, 9.5], "random": [-79, -63, -49, -36]},
    "ant-dir": {"pretrained": [3.2, 1.3, 6.5, 6.9], "random": [3.1, 9.3, 16.0, 26.1]},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(name: str) -> None:
    experiment = get_experiment(name)
    config = experiment.make_config()
    found = (
        config.env.removeprefix("maml_rl/").removesuffix("-v0"),
        config.inner_lr,
        config.episodes_per_task,
        config.meta_batch_size,
        config.horizon,
        experiment.iterations,
        config.max_kl,
        experiment.test_episodes,
    )
    assert found == SETTINGS[name]
    assert config.env_config == ({"reward": "distance"} if name == "point-nav" else {"variant": "paper"})
    initial_std = 0.5 if name == "half-cheetah-vel" else 1.0
    assert (config.hidden_sizes, config.activation, config.initial_std) == ((100, 100), "relu", initial_std)
    assert (config.inner_steps, config.first_order, config.outer_update) == (1, False, "trpo")


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("point-nav", {"gae_lambda": 0.8}),
        (
            "half-cheetah-vel",
            {
                "hvp": "exact",
                "curvature_fraction": 0.2,
                "normalize_observations": True,
                "initial_std": 0.5,
            },
        ),
        (
            "half-cheetah-dir",
            {"hvp": "exact", "curvature_fraction": 0.2, "normalize_observations": True, "gae_lambda": 0.95},
        ),
        ("ant-vel", {"hvp": "exact", "curvature_fraction": 0.2, "baseline_ridge": 100.0}),
        (
            "ant-dir",
            {"hvp": "exact", "curvature_fraction": 0.2, "baseline_ridge": 100.0, "gae_lambda": 0.95},
        ),
    ],
)
def test_all_else_is_as_published(name: str, ours: dict[str, object]) -> None:
    config, default = get_experiment(name).make_config(), MAMLConfig()
    known = {"inner_lr", "episodes_per_task", "meta_batch_size", "horizon", "max_kl"}  # see above
    names = [field for field in TRAINING_FIELDS if field not in known]
    changed = {n: getattr(config, n) for n in names if getattr(config, n) != getattr(default, n)}
    assert changed == ours


def test_defaults_are_the_published_ones() -> None:
    config = MAMLConfig()
    published = {
        "gamma": 0.99,
        "gae_lambda": 1.0,
        "baseline_ridge": 1e-5,
        "max_kl": 0.01,
        "cg_iterations": 10,
        "cg_residual_tol": 1e-10,
        "cg_damping": 1e-5,
        "line_search_steps": 15,
        "line_search_ratio": 0.8,
        "min_std": 1e-6,
        "clip_param": 0.2,
    }
    assert {name: getattr(config, name) for name in published} == published


@pytest.mark.parametrize("name", TEST_TASKS)
def test_held_out_tasks(name: str) -> None:
    seed, low, high, size = TEST_TASKS[name]
    expected = np.random.RandomState(seed).uniform(low, high, size=size)
    np.testing.assert_array_equal(get_experiment(name).test_tasks("", {}), expected)


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_returns(name: str) -> None:
    means, widths, oracle = PAPER[name]
    paper = get_experiment(name).paper
    assert paper["maml"] == tuple(zip(means, widths, strict=True))
    assert paper["oracle"] == (oracle,)
    for method, expected in BASELINES[name].items():
        assert [mean for mean, _ in paper[method]] == expected


@pytest.mark.parametrize(
    ("method", "fields", "iterations"),
    [
        ("maml", {}, 100),
        ("first-order", {"first_order": True}, 100),
        ("pretrained", {"inner_steps": 0, "inner_lr": 0.05, "episodes_per_task": 5}, 1000),
        ("random", {"inner_steps": 0, "inner_lr": 0.5, "episodes_per_task": 5}, 0),
        (
            "oracle",
            {
                "inner_steps": 0,
                "episodes_per_task": 5,
                "env_config": {"reward": "distance", "task_in_observation": True},
            },
            1000,
        ),
        ("context-vector", {"context_size": 10, "inner_lr": 0.5}, 100),
        ("guided", {"max_kl": 0.2}, 200),
    ],
)
def test_what_sets_a_method_apart(method: MethodName, fields: dict[str, object], iterations: int) -> None:
    plain = get_experiment("point-nav").make_config()
    config, found = configure(get_experiment("point-nav"), method)
    assert found == iterations
    changed = {k: v for k, v in vars(config).items() if v != vars(plain).get(k)}
    assert changed == fields
    assert METHODS[method].adapts == (method != "oracle")


@pytest.mark.parametrize("preset", [name for name in EXPERIMENTS if name.startswith("metaworld")])
def test_rl2_takes_as_many_steps_as_maml_on_meta_world(preset: str) -> None:
    steps = {}
    for method in ("maml", "rl2"):
        config, iterations = configure(get_experiment(preset), method)
        episodes = config.meta_batch_size * config.episodes_per_task * (1 + config.inner_steps)
        steps[method] = iterations * episodes * config.trial_episodes * config.horizon
    assert steps["rl2"] == steps["maml"]
