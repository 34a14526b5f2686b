"""What the general path of other policies costs beside the written-out MLP, and how far finite differences are off.

``python benchmarks/policies.py`` prints a Markdown table. Times are milliseconds of processor time, the least of
five rounds in which all kinds take turns: the gradient with its kept activations, then ten curvature products, on
the same number of samples (3 tasks, 20 episodes of 100 steps), one thread. Errors are relative to the exact product
in double precision, the worst of the gradient and three random directions, with the default displacement of 0.005.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
import torch
from finite_differences import TASKS, curvature, flat
from torch import Tensor, nn

from maml_rl.learning.batch import Samples
from maml_rl.policies.heads import CategoricalHead, GaussianHead
from maml_rl.policies.mlp import MLP
from maml_rl.policies.module_policy import ModulePolicy
from maml_rl.policies.network_policy import NetworkPolicy
from maml_rl.policies.policy import Policy, to_blocks
from maml_rl.policies.structure import Image

EPISODES, STEPS, SIZE = 20, 100, 20
PRODUCTS, ROUNDS, HVP_STEP = 10, 5, 0.005
HEAD = GaussianHead(6)
PICTURE = Image(0, (10, 10, 1))


def relu_module() -> nn.Module:
    """The same network as the first, written by a user."""
    return nn.Sequential(
        nn.Linear(SIZE, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, HEAD.outputs)
    )


POLICIES: dict[str, Policy] = {
    "MLP, ReLU, written out": MLP(SIZE, HEAD),
    "MLP, tanh, written out": MLP(SIZE, HEAD, activation="tanh"),
    "the same, categorical actions": MLP(SIZE, CategoricalHead((6,)), activation="tanh"),
    "MLP, ReLU, general path": NetworkPolicy(SIZE, HEAD),
    "MLP, GELU": NetworkPolicy(SIZE, HEAD, activation="gelu"),
    "MLP, ReLU, layer norm": NetworkPolicy(SIZE, HEAD, layer_norm=True),
    "convolutions on 10 x 10": NetworkPolicy(
        100, HEAD, images=(PICTURE,), conv_filters=((16, 3, 2), (32, 3, 2)), hidden_sizes=(64,)
    ),
    "GRU of 64": NetworkPolicy(
        SIZE, HEAD, hidden_sizes=(64,), activation="tanh", recurrent_cell="gru", recurrent_size=64
    ),
    "LSTM of 64": NetworkPolicy(
        SIZE, HEAD, hidden_sizes=(64,), activation="tanh", recurrent_cell="lstm", recurrent_size=64
    ),
    "torch module, ReLU": ModulePolicy(relu_module, HEAD, SIZE, name="relu_module"),
}


def samples(policy: Policy, theta: dict[str, Tensor], seed: int) -> Samples:
    """Random observations, and actions of the policy there."""
    generator = torch.Generator().manual_seed(seed)
    shape = (TASKS, EPISODES, STEPS) if policy.recurrent else (TASKS, EPISODES * STEPS)
    observations = torch.randn((*shape, policy.observation_size), generator=generator)
    stacked = {name: value.expand(TASKS, *value.shape) for name, value in theta.items()}
    with torch.no_grad():
        outputs = policy(stacked, observations).parts[0].double()
    arrays = {name: torch.zeros(size).numpy() for name, size in policy.head.shapes.items()}
    rng = np.random.default_rng(seed)
    rows = outputs.reshape(-1, policy.head.outputs).numpy()
    actions = torch.from_numpy(policy.head.act(rows, policy.head.noise(rng, 1, len(rows), arrays)[0]))
    weights = torch.full(shape, 1 / (EPISODES * STEPS))
    advantages = torch.randn(shape, generator=generator)
    return Samples(observations, actions.float().reshape(*shape, -1), advantages, weights)


def milliseconds(work: Any) -> float:
    started = time.process_time()
    work()
    return 1e3 * (time.process_time() - started)


def update(policy: Policy, theta: dict[str, Tensor], data: tuple[Samples, Samples], hvp: str) -> None:
    """What a meta-update computes before its line search."""
    objective = curvature(policy, theta, *data, torch.float32)
    v = objective.loss_gradient()
    step = HVP_STEP / float(flat(v).norm())
    for _ in range(PRODUCTS):
        objective.exact_product(v) if hvp == "exact" else objective.finite_difference_product(v, step)


def error(policy: Policy, theta: dict[str, Tensor], data: tuple[Samples, Samples]) -> float:
    """Of finite differences in single precision, relative."""
    single, double = (curvature(policy, theta, *data, dtype) for dtype in (torch.float32, torch.float64))
    random = [[torch.randn_like(block) for block in to_blocks(policy, theta)] for _ in range(3)]
    errors = []
    for v in [single.loss_gradient(), *random]:
        exact = flat(double.exact_product([x.double() for x in v]))
        product = flat(single.finite_difference_product(v, HVP_STEP / float(flat(v).norm())))
        errors.append(float((product - exact).norm() / exact.norm()))
    return max(errors)


def main() -> None:
    """Measure and print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cases = {}
    for name, policy in POLICIES.items():
        theta = policy.init_params(1)
        cases[name] = (policy, theta, (samples(policy, theta, 1), samples(policy, theta, 2)))
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for name, case in cases.items():
            for hvp in ("exact", "finite differences"):
                times.setdefault((name, hvp), []).append(milliseconds(partial(update, *case, hvp)))
    first = next(iter(cases))
    print("| policy | exact, ms | ratio | finite differences, ms | ratio | their error |")
    print("|---|---|---|---|---|---|")
    for name, case in cases.items():
        cells = []
        for hvp in ("exact", "finite differences"):
            best = min(times[name, hvp])
            cells += [f"{best:.0f}", f"{best / min(times[first, hvp]):.1f}"]
        print(f"| {name} | {' | '.join(cells)} | {error(*case):.1e} |", flush=True)


if __name__ == "__main__":
    main()
