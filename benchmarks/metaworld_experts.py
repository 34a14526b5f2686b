"""Meta-World's scripted experts and random actions on the 15 families of ML10, on the MuJoCo installed.

Compares engine versions: run it once in the project's environment, and once with this folder on PYTHONPATH in an
environment that holds metaworld 3.1.1, which pins the MuJoCo (3.3.0) it was made for. Same goals and actions.

    python benchmarks/metaworld_experts.py
"""

from __future__ import annotations

import warnings
from typing import Any

import mujoco
import numpy as np
from metaworld.policies import ENV_POLICY_MAP

from maml_rl.envs.metaworld import HORIZON, ML10, MetaWorldEnv, held_out_tasks, ml1

EPISODES = 5


def expert_succeeds(env: MetaWorldEnv, name: str) -> bool:
    """Whether the expert, which sees the goal, reaches it within an episode."""
    expert = ENV_POLICY_MAP[name]()
    simulation: Any = env.unwrapped
    observation, _ = env.reset()
    for _ in range(HORIZON):
        seen = np.concatenate([observation[:-3], simulation._target_pos])
        observation, *_, info = env.step(np.clip(expert.get_action(seen), -1, 1))
        if info["success"]:
            return True
    return False


def random_return(env: MetaWorldEnv, seed: int) -> float:
    """Return of 200 random actions."""
    rng = np.random.default_rng(seed)
    env.reset()
    return sum(float(env.step(rng.uniform(-1, 1, 4).astype(np.float32))[1]) for _ in range(200))


def main() -> None:
    warnings.filterwarnings("ignore", "Constant", UserWarning)  # the experts' own, about their large actions
    print(
        f"MuJoCo {mujoco.__version__}\n| family | expert's successes of {EPISODES} | random return |\n|---|---|---|"
    )
    total = 0
    for name in ML10.families:
        env = MetaWorldEnv(ml1(name))
        successes, returns = 0, []
        for seed, task in enumerate(held_out_tasks(ml1(name), EPISODES)):
            env.set_task(task)
            successes += expert_succeeds(env, name)
            returns.append(random_return(env, seed))
        total += successes
        print(f"| {name} | {successes} | {np.mean(returns):.2f} |", flush=True)
    print(f"| all | {total} of {15 * EPISODES} | |")


if __name__ == "__main__":
    main()
