"""Time of a recurrent policy's forward pass and gradient by the length of its episodes.

``OMP_NUM_THREADS=1 python benchmarks/recurrent.py`` prints a Markdown table: milliseconds per 100 steps of 8 tasks
with parameters of their own and an episode each, the least of three rounds. A column that stays the same is a time
in proportion to the steps.
"""

from __future__ import annotations

import time

import torch

from maml_rl.learning.meta_learner import stack_params
from maml_rl.policies.heads import GaussianHead
from maml_rl.policies.network_policy import NetworkPolicy

TASKS, UNITS, SIZE, ROUNDS = 8, 64, 40, 3


def milliseconds(cell: str, steps: int) -> tuple[float, float]:
    """Of a forward pass and of a gradient, per 100 steps."""
    policy = NetworkPolicy(
        SIZE,
        GaussianHead(4),
        hidden_sizes=(UNITS,),
        activation="tanh",
        recurrent_cell=cell,
        recurrent_size=UNITS,
    )
    params = {
        name: value.detach().requires_grad_()
        for name, value in stack_params(policy.init_params(0), TASKS).items()
    }
    observations = torch.randn(TASKS, 1, steps, SIZE)
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        loss = policy(params, observations).parts[0].square().sum()
        middle = time.perf_counter()
        torch.autograd.grad(loss, list(params.values()), allow_unused=True)
        times.append((middle - start, time.perf_counter() - middle))
    forward, gradient = (min(column) * 1e5 / steps for column in zip(*times, strict=True))
    return forward, gradient


def main() -> None:
    print("| cell | steps | forward | gradient |\n|---|---|---|---|")
    for cell in ("gru", "lstm"):
        for steps in (100, 500, 2500):
            forward, gradient = milliseconds(cell, steps)
            print(f"| {cell} | {steps} | {forward:.1f} | {gradient:.1f} |")


if __name__ == "__main__":
    main()
