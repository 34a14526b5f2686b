"""Speed of the locomotion environments on one core, next to bare physics and to other vector environments.

Run by hand: ``OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/locomotion.py``. It needs a C compiler
(``cc``) and prints a Markdown table. EnvPool is included where it is installed.

The floor is a C loop that copies an action and calls ``mj_step``, for the same copies, actions and initial
states as the environment. Times are the process's CPU time. Floor and candidates take turns, and each
fraction is the median over the rounds, so that drifts of the machine's speed cancel.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import gymnasium
import mujoco
import numpy as np

from maml_rl.envs.locomotion import AntVel, HalfCheetahVel, Locomotion

# (family, variant, Gymnasium's id); the paper's variants have no counterpart elsewhere.
CASES: list[tuple[type[Locomotion], Literal["paper", "gymnasium"], str | None]] = [
    (HalfCheetahVel, "paper", None),
    (HalfCheetahVel, "gymnasium", "HalfCheetah-v5"),
    (AntVel, "paper", None),
    (AntVel, "gymnasium", "Ant-v5"),
]

FLOOR_SOURCE = r"""
#include <string.h>
#include <mujoco/mujoco.h>
void floor_loop(const mjModel* model, mjData** data, int copies, int steps, int frame_skip,
                const double* actions) {
  for (int t = 0; t < steps; t++)
    for (int k = 0; k < copies; k++, actions += model->nu) {
      memcpy(data[k]->ctrl, actions, model->nu * sizeof(double));
      for (int i = 0; i < frame_skip; i++) mj_step(model, data[k]);
    }
}
"""


def compile_floor() -> Callable[..., None]:
    """The C loop, compiled against the MuJoCo library that Python has loaded."""
    package = Path(mujoco.__file__).parent
    library = next(package.glob("libmujoco.so*"))
    with tempfile.TemporaryDirectory() as folder:
        source, shared = Path(folder, "floor.c"), Path(folder, "floor.so")
        source.write_text(FLOOR_SOURCE)
        flags = ["-O2", "-shared", "-fPIC", f"-I{package / 'include'}", f"-Wl,-rpath,{package}"]
        subprocess.run(["cc", *flags, "-o", str(shared), str(source), str(library)], check=True)
        return ctypes.CDLL(str(shared)).floor_loop


def time_floor(loop: Callable[..., None], env: Locomotion, actions: np.ndarray) -> float:
    """Seconds of the C loop from fresh initial states of ``env``."""
    model = env._simulations.model
    rngs = [np.random.default_rng(k) for k in range(env.num_envs)]
    copies = [mujoco.MjData(model) for _ in rngs]
    for data, rng in zip(copies, rngs, strict=True):
        data.qpos[:], data.qvel[:] = env._initial_state(rng)
        mujoco.mj_forward(model, data)
    pointers = (ctypes.c_void_p * len(copies))(*[data._address for data in copies])
    controls = np.ascontiguousarray(actions, np.float64)
    frame_skip = round(env._dt / model.opt.timestep)
    start = time.process_time()
    loop(
        ctypes.c_void_p(model._address),
        pointers,
        len(copies),
        len(actions),
        frame_skip,
        controls.ctypes.data_as(ctypes.c_void_p),
    )
    return time.process_time() - start


def time_steps(env: Any, actions: np.ndarray) -> float:
    """Seconds of ``env.step`` for all actions, after a reset."""
    env.reset(seed=0) if isinstance(env, gymnasium.vector.VectorEnv) else env.reset()
    start = time.process_time()
    for action in actions:
        env.step(action)
    return time.process_time() - start


def candidates(env: Locomotion, gymnasium_id: str | None) -> dict[str, Any]:
    """Vector environments of the same robot with as many copies, by name."""
    envs: dict[str, Any] = {"maml_rl": env}
    if gymnasium_id is None:
        return envs
    # No early ends, so that all candidates step all copies all the time.
    kwargs = {"terminate_when_unhealthy": False} if gymnasium_id.startswith("Ant") else {}
    envs["SyncVectorEnv"] = gymnasium.vector.SyncVectorEnv(
        [lambda: gymnasium.make(gymnasium_id, **kwargs)] * env.num_envs
    )
    if importlib.util.find_spec("envpool"):
        import envpool

        envs["EnvPool, 1 thread"] = envpool.make_gymnasium(
            gymnasium_id.replace("v5", "v4"), num_envs=env.num_envs, num_threads=1, **kwargs
        )
    return envs


def without_ends(family: type[Locomotion]) -> type[Locomotion]:
    """The family with episodes that never end early: a finished copy would be skipped and look fast."""

    class Endless(family):  # type: ignore[misc, valid-type]
        def _fallen(self) -> np.ndarray:
            super()._fallen()
            return np.zeros(self.num_envs, bool)

    return Endless


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--copies", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200, help="batched steps per round; the paper's horizon")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    loop = compile_floor()
    print(f"{args.copies} copies, one core; env steps/s, and as a fraction of the C loop of `mj_step`\n")
    print("| family | variant | C loop | candidate | env steps/s | fraction |\n|---|---|---|---|---|---|")
    for family, variant, gymnasium_id in CASES:
        env = without_ends(family)(args.copies, variant=variant, max_episode_steps=10**6)
        shape = (args.steps, args.copies, env.action_size)
        actions = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
        envs = candidates(env, gymnasium_id)
        floors = []
        times: dict[str, list[float]] = {name: [] for name in envs}
        for _ in range(args.rounds):
            floors.append(time_floor(loop, env, actions))
            for name, candidate in envs.items():
                times[name].append(time_steps(candidate, actions))
        steps = args.steps * args.copies
        for name, seconds in times.items():
            fraction = np.median(np.divide(floors, seconds))
            print(
                f"| {family.__name__} | {variant} | {steps / np.median(floors):,.0f} | {name} "
                f"| {steps / np.median(seconds):,.0f} | {fraction:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
