"""How much of what an inner step does is the task's, and how much is chance.

Run by hand: ``python benchmarks/adaptation_signal.py [RUN | POLICY.safetensors ...]``; default: the policies that
come with the package that act by Gaussians. Of each of two held-out tasks it takes one gradient step on 12
independent batches of episodes, and looks at how the mean action changes in some of the first batch's states: the
part that all batches agree on is the signal, the rest noise. Both in units of the policy's standard deviations.
Prints a Markdown table.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from maml_rl.experiments.evaluation import AdaptationStep, adaptation
from maml_rl.experiments.held_out import HeldOut
from maml_rl.learning.batch import to_tensors
from maml_rl.learning.trajectories import Trajectories
from maml_rl.policies.heads import GaussianHead
from maml_rl.policies.policy_file import PRETRAINED, PolicyFile, load_policy, policy_file_in

BATCHES = 12
STATES = 500


def signal_and_noise(changes: Tensor) -> tuple[float, float]:
    """Root mean squares, of independent ``changes [batches, ...]`` of the same quantities."""
    noise = float(changes.var(0).mean())
    signal = float(changes.mean(0).square().mean()) - noise / len(changes)
    return max(signal, 0.0) ** 0.5, noise**0.5


def states_of(episodes: Trajectories) -> Tensor:
    """Some of the observations ``[1, STATES, observation]``, as the policy sees them."""
    observations, _, _, valid = to_tensors([episodes])
    seen = observations[valid]
    chosen = torch.randperm(len(seen), generator=torch.Generator().manual_seed(0))[:STATES]
    return seen[None, chosen]


def change(policy: PolicyFile, before: AdaptationStep, after: AdaptationStep, states: Tensor) -> Tensor:
    """Of the mean action in some states, in standard deviations."""
    first, second = (policy.spec(step.params, states).parts[0].detach() for step in (before, after))
    return (second - first) / before.params["log_std"].detach().exp()


def measure(policy: PolicyFile, name: str) -> None:
    held_out = HeldOut(policy, steps=1, episodes=policy.info["episodes_per_task"])
    env, tasks = held_out.make_env(), held_out.tasks
    cells = []
    for task in (tasks[:1], tasks[-1:]):
        batches = [
            tuple(adaptation(env, replace(held_out.protocol, seed=seed), task)) for seed in range(BATCHES)
        ]
        states = states_of(batches[0][0].trajectories[0])
        changes = torch.stack([change(policy, before, after, states) for before, after in batches])
        cells.append("{:.2f} / {:.2f}".format(*signal_and_noise(changes)))
    env.close()
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    places = [Path(argument) for argument in sys.argv[1:]] or sorted(PRETRAINED.glob("*.safetensors"))
    print("| signal / noise | first task | last task |\n|---|---|---|")
    for place in places:
        loaded = load_policy(policy_file_in(place))
        if isinstance(loaded.spec.head, GaussianHead):
            measure(loaded, place.stem)
