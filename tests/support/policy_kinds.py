"""A tiny run of every kind of policy and action."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from tiny_runs import PPO, SINGLE, tiny_config
from user_modules import Module, StatefulModule

from maml_rl import MAMLConfig

GRID = {"env": "maml_rl/VisualNav-v0", "env_config": {"size": 6}}
FOUND = {"env": "user_envs:Choice"}
RL2 = PPO | {"inner_steps": 0, "recurrent": "gru", "recurrent_size": 4, "minibatch_size": 60}

KINDS: dict[str, dict[str, Any]] = {
    "discrete": FOUND | {"env_config": {"kind": "discrete"}},
    "multi-discrete": FOUND | {"env_config": {"kind": "multi-discrete"}, "context_size": 2},
    "multi-binary ppo": PPO | FOUND | {"env_config": {"kind": "multi-binary"}},
    "image": GRID,
    "image gru": GRID | {"recurrent": "gru", "recurrent_size": 4},
    "image flat": GRID | {"conv_filters": (), "learn_inner_lr": True},
    "gelu norm": {"activation": "gelu", "layer_norm": True, "inner_steps": 2},
    "adapt only": {"adapt_only": ("mean", "log_std"), "hvp": "exact"},
    "lstm ppo": PPO | {"recurrent": "lstm", "recurrent_size": 4, "entropy_coeff": 0.01},
    "gru critic": SINGLE | {"recurrent": "gru", "recurrent_size": 4},
    "normalised": {"normalize_observations": True, "normalize_rewards": True},
    "normalised gru": {"normalize_observations": True, "recurrent": "gru", "curvature_fraction": 0.7},
    "module": {"module": "user_modules:Net"},
    "module by key": FOUND | {"env_config": {"kind": "box"}, "module": "user_modules:ByKey"},
    "recurrent module": {"module": "user_modules:Remembers"},
    "rl module": {"module": RLModuleSpec(module_class=Module, model_config={"width": 5})},
    "stateful rl module": {"module": RLModuleSpec(module_class=StatefulModule), "first_order": True},
    "rl2": RL2 | {"env": "maml_rl/Bandit-v0", "env_config": {"arms": 3, "trial_episodes": 2}},
    "rl2 image": RL2
    | GRID
    | {"env_config": {"size": 6, "trial_episodes": 2}, "normalize_observations": True},
}


def trained(config: MAMLConfig) -> dict[str, np.ndarray]:
    algo = config.build_algo()
    try:
        start = algo.meta_params()
        results = [algo.train() for _ in range(2)]
        found = algo.meta_params()
    finally:
        algo.stop()
    assert results[-1]["update_refused"] == 0
    assert any(not np.array_equal(start[name], value) for name, value in found.items())
    return found


class Elsewhere:
    """Trains in a process of its own, with one thread."""

    def train(self, kind: str) -> dict[str, np.ndarray]:
        torch.set_num_threads(1)
        return trained(tiny_config(**KINDS[kind]))
