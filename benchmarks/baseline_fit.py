"""How much of the returns' variance the linear baseline explains, by its ridge.

Run by hand: ``python benchmarks/baseline_fit.py [POLICY.safetensors ...]``; default: the policies that come
with the package. For 12 of the test tasks it fits the baseline to the policy's episodes of one task, as
in training, and measures it on those and on as many further episodes of the same policy and task. A baseline that
explains its own episodes much better than others has fitted their noise, and with it the signal that advantages
are for. Tasks without any variance (all rewards are zero) are left out. Prints a Markdown table.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from maml_rl.envs.rollout import rollout, stream
from maml_rl.experiments.evaluation import adaptation
from maml_rl.experiments.held_out import HeldOut
from maml_rl.learning.advantages import discounted_returns, linear_feature_baseline
from maml_rl.learning.batch import to_tensors
from maml_rl.learning.trajectories import Trajectories
from maml_rl.policies.policy_file import PRETRAINED, load_policy

TASKS = 12
RIDGES = (1e-5, 1.0, 10.0, 100.0, 1000.0)


def explained(first: Trajectories, second: Trajectories, gamma: float, ridge: float) -> tuple[float, float]:
    """Fractions of variance explained: in the episodes of the fit, and in others."""
    observations, _, rewards, valid = (field.flatten(0, 1) for field in to_tensors([first, second]))
    mine = torch.arange(len(valid)) < len(first.lengths)
    returns = discounted_returns(rewards.double(), gamma)
    fitted = valid & mine[:, None]
    values = linear_feature_baseline(observations[None], returns[None], fitted[None], ridge=ridge)[0]
    return _explained(values, returns, fitted), _explained(values, returns, valid & ~mine[:, None])


def _explained(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    return 1 - float((returns - values)[mask].var() / returns[mask].var())


def measure(path: Path) -> None:
    policy = load_policy(path)
    held_out = HeldOut(policy, steps=1, episodes=policy.info["episodes_per_task"])
    # Those of Meta-World come family by family.
    tasks = [held_out.tasks[i] for i in np.linspace(0, len(held_out.tasks) - 1, TASKS).astype(int)]
    env, protocol = held_out.make_env(), held_out.protocol
    for number, step in enumerate(adaptation(env, protocol, tasks)):
        params = {name: value.numpy() for name, value in step.params.items()}
        others = [
            rollout(
                env,
                task,
                protocol.spec,
                {name: value[i] for name, value in params.items()},
                stream(1, number, i),
                normalizer=protocol.normalizer,
            )
            for i, task in enumerate(tasks)
        ]
        cells = []
        for ridge in RIDGES:
            both = zip(step.trajectories, others, strict=True)
            pairs = [explained(a, b, protocol.gamma, ridge) for a, b in both]
            own, other = np.nanmean(pairs, axis=0)
            cells.append(f"{own:.2f} / {other:.2f}")
        print(f"| {path.stem} after {number} steps | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    paths = [Path(argument) for argument in sys.argv[1:]] or sorted(PRETRAINED.glob("*.safetensors"))
    print("| own / other episodes, ridge | " + " | ".join(f"{ridge:g}" for ridge in RIDGES) + " |")
    print("|---|" + "---|" * len(RIDGES))
    for path in paths:
        measure(path)
