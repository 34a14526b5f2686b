"""What the untouched package metaworld says of all its families; run as a program, in a process of its own.

python metaworld_reference.py FILE.npz
"""

from __future__ import annotations

import pickle
import sys
from typing import Any

import metaworld
import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP
from metaworld.sawyer_xyz_env import SawyerMocapBase

STEPS = 200
"""Of each of two goals: with random actions, and with those of the scripted expert."""


def random_action(step: int) -> np.ndarray:
    return np.random.default_rng(step).uniform(-1, 1, 4).astype(np.float32)


def record(simulation: Any, action: np.ndarray | None) -> np.ndarray:
    """Observation, reward and success: ``[41]``."""
    if action is None:
        return np.append(simulation.reset()[0], (0.0, 0.0))
    observation, reward, _, _, info = simulation.step(action)
    return np.append(observation, (reward, info["success"]))


def _weld(env: Any) -> None:
    """As ``maml_rl.envs.metaworld`` says: the package writes rows of MuJoCo 3."""
    for i in np.flatnonzero(env.model.eq_type == mujoco.mjtEq.mjEQ_WELD):
        env.model.eq_data[i] = 0
        env.model.eq_data[i, [6, 10]] = -1.0, 5.0


def main(path: str) -> None:
    SawyerMocapBase.reset_mocap_welds = _weld
    found: dict[str, np.ndarray] = {}
    for name, family in ALL_V3_ENVIRONMENTS.items():
        drawing, simulation = family(), family()
        drawing._freeze_rand_vec, drawing._set_task_called, drawing.seeded_rand_vec = False, True, True
        drawing.seed(3)
        rows, goals, actions = [], [], []
        for expert in (None, ENV_POLICY_MAP[name]()):
            drawing.reset()
            goals.append(np.array(drawing._last_rand_vec))
            told = {"rand_vec": goals[-1], "env_cls": family, "partially_observable": True}
            simulation.set_task(metaworld.Task(name, pickle.dumps(told)))
            rows.append(record(simulation, None))
            for step in range(STEPS):
                action = random_action(step)
                if expert is not None:
                    seen = np.append(rows[-1][:36], simulation._target_pos)  # the goal, which is hidden
                    action = np.clip(expert.get_action(seen), -1, 1).astype(np.float32)
                actions.append(action)
                rows.append(record(simulation, action))
        for key, values in (("goals", goals), ("actions", actions), ("rows", rows)):
            found[f"{name}/{key}"] = np.array(values)
    np.savez(path, **found)


if __name__ == "__main__":
    main(sys.argv[1])
