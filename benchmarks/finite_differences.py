"""How far finite-difference Hessian-vector products are from exact ones, at several displacements and sizes.

``python benchmarks/finite_differences.py`` prints a Markdown table: relative error of products in single precision
against the exact product in double precision, along the meta-gradient and in three random directions (the worst),
for fresh ReLU policies of 2 x 100 units and real episodes of three tasks.
"""

from __future__ import annotations

import numpy as np
import torch
from gymnasium.spaces import flatdim

from maml_rl.envs import make_task_env
from maml_rl.envs.rollout import rollout, stream
from maml_rl.learning.adaptation import inner_loss
from maml_rl.learning.batch import Samples, make_samples
from maml_rl.learning.curvature import ChunkCurvature
from maml_rl.learning.meta_learner import Params, adapt, stack_params
from maml_rl.policies.mlp import MLP
from maml_rl.policies.policy import Blocks, Policy, Scratch, to_blocks

FAMILIES = ("maml_rl/PointNav-v0", "maml_rl/HalfCheetahVel-v0", "maml_rl/AntVel-v0")
SIZES = ((3, 50), (20, 200))
"""Episodes of each task, and their steps."""
STEPS = (0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
"""Displacements of the meta-parameters; 0.005 is the default of ``hvp_step``."""
TASKS, INNER_LR = 3, 0.1


def batches(family: str, episodes: int, horizon: int) -> tuple[MLP, Params, Samples, Samples]:
    """A policy, theta, and the samples before and after one inner step."""
    env = make_task_env(family, episodes, horizon)
    spec = MLP.gaussian(flatdim(env.single_observation_space), flatdim(env.single_action_space))
    theta = spec.init_params(1)
    tasks = env.sample_tasks(TASKS, np.random.default_rng(0))

    def collect(params: Params, phase: int) -> Samples:
        trajectories = [
            rollout(
                env, task, spec, {k: v[i].detach().numpy() for k, v in params.items()}, stream(0, phase, i)
            )
            for i, task in enumerate(tasks)
        ]
        return make_samples(trajectories, gamma=0.99, gae_lambda=1.0, baseline_ridge=1e-5)

    stacked = stack_params(theta, TASKS)
    pre = collect(stacked, 0)
    adapted = adapt(inner_loss(spec), stacked, [pre], INNER_LR, first_order=True)
    return spec, theta, pre, collect(adapted, 1)


def curvature(
    policy: Policy, theta: Params, pre: Samples, post: Samples, dtype: torch.dtype
) -> ChunkCurvature:
    """The objective in the given precision."""
    meta = [block.to(dtype) for block in to_blocks(policy, theta)]
    before, after = (part.each(lambda field: field.to(dtype)) for part in (pre, post))
    return ChunkCurvature(policy, meta, [before], after, INNER_LR, Scratch(), first_order=False)


def flat(blocks: Blocks) -> torch.Tensor:
    return torch.cat([block.double().flatten() for block in blocks])


def main() -> None:
    """Measure and print the table."""
    torch.manual_seed(0)
    print("| family | samples per task | direction | " + " | ".join(f"{step:g}" for step in STEPS) + " |")
    print("|---" * (3 + len(STEPS)) + "|")
    for family in FAMILIES:
        for episodes, horizon in SIZES:
            case = batches(family, episodes, horizon)
            single, double = curvature(*case, torch.float32), curvature(*case, torch.float64)
            random = [[torch.randn_like(block) for block in to_blocks(*case[:2])] for _ in range(3)]
            for name, directions in (("gradient", [single.loss_gradient()]), ("random", random)):
                errors = np.zeros(len(STEPS))
                for v in directions:
                    exact = flat(double.exact_product([x.double() for x in v]))
                    for i, step in enumerate(STEPS):
                        product = flat(single.finite_difference_product(v, step / float(flat(v).norm())))
                        errors[i] = max(errors[i], float((product - exact).norm() / exact.norm()))
                cells = " | ".join(f"{error:.1e}" for error in errors)
                print(f"| {family} | {episodes * horizon} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
