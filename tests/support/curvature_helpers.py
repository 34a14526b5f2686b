"""Blocks, directions and a whole meta-objective, for the tests of written-out derivatives."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from helpers import (
    flat,
    gradient_and_hessian_product,
    meta_blocks,
    random_inner_lr,
    random_params,
    random_samples,
    reference_loss_and_kl,
    small_spec,
)
from torch import Tensor

from maml_rl.learning.adaptation import with_old_log_probs
from maml_rl.learning.curvature import ChunkCurvature
from maml_rl.learning.meta_learner import Params
from maml_rl.policies.distributions import Distribution
from maml_rl.policies.heads import BernoulliHead, CategoricalHead
from maml_rl.policies.meta_params import split_meta_params
from maml_rl.policies.mlp import MLP
from maml_rl.policies.network_policy import NetworkPolicy
from maml_rl.policies.policy import Blocks, Scratch, from_blocks, to_blocks
from maml_rl.policies.structure import Image

DOUBLE = torch.float64


COUNTS = [6, 4, 5]


TASKS = len(COUNTS)


EXACT = 1e-10


INNER_LR = 0.3


NETWORKS = (
    [
        pytest.param(small_spec(activation=activation, hidden_sizes=hidden), id=f"{activation}-{len(hidden)}")
        for activation in ("relu", "tanh")
        for hidden in ((), (5,), (5, 4), (4, 6, 5))
    ]
    + [
        pytest.param(small_spec(activation=activation, context_size=3), id=f"{activation}-context")
        for activation in ("relu", "tanh")
    ]
    + [
        pytest.param(
            small_spec(head=head, activation=activation, context_size=context), id=f"{activation}-{name}"
        )
        for activation, name, head, context in (
            ("tanh", "categorical", CategoricalHead((4,)), 0),
            ("relu", "categoricals", CategoricalHead((3, 2, 4)), 0),
            ("tanh", "categoricals-context", CategoricalHead((3, 2, 4)), 3),
            ("tanh", "bits", BernoulliHead(3), 0),
        )
    ]
    + [
        pytest.param(small_spec(NetworkPolicy, **settings), id=f"network-{name}")
        for name, settings in {
            "relu": {"activation": "relu"},
            "tanh-context": {"context_size": 3},
            "linear": {"hidden_sizes": ()},
            "norm": {"activation": "gelu", "layer_norm": True},
            "norm-relu-categoricals": {
                "activation": "relu",
                "layer_norm": True,
                "head": CategoricalHead((3, 2, 4)),
            },
            "conv": {
                "observation_size": 1 + 6 * 7 * 2,
                "images": (Image(1, (6, 7, 2)),),
                "conv_filters": ((3, 3, 1), (2, 2, 2)),
                "activation": "relu",
            },
        }.items()
    ]
)


def random_blocks(like: Blocks, seed: int) -> Blocks:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in like]


def task_blocks(spec: MLP) -> Blocks:
    """Different parameters for each task: a product that mixes tasks must show."""
    params = [random_params(spec, seed) for seed in range(TASKS)]
    return to_blocks(spec, {name: torch.stack([p[name] for p in params]) for name in spec.shapes})


def inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return float(flat(a).dot(flat(b)))


def policy_at(spec: MLP, blocks: Blocks, observations: Tensor) -> Distribution:
    return spec(from_blocks(spec, blocks), observations)


def network_outputs(spec: MLP, blocks: Blocks, observations: Tensor) -> tuple[Tensor, ...]:
    return policy_at(spec, blocks, observations).parts


class Case:
    """A small meta-objective, with its ``ChunkCurvature`` and its autograd reference."""

    def __init__(
        self,
        spec: MLP,
        *,
        steps: int = 1,
        learned: bool = False,
        first_order: bool = False,
        inner_loss: str = "log_prob",
        dtype: torch.dtype = DOUBLE,
        counts: Sequence[int] = COUNTS,
        seed: int = 0,
    ) -> None:
        self.spec, self.first_order, self.inner_loss = spec, first_order, inner_loss
        self.meta_params = random_params(spec, seed, dtype)
        if learned:
            self.meta_params |= random_inner_lr(spec, seed, dtype)
        self.pre = [random_samples(spec, counts, seed + 10 + step, dtype) for step in range(steps)]
        if inner_loss == "likelihood_ratio":
            self.pre = [*with_old_log_probs(spec, self.meta_params, self.pre, INNER_LR)]
        self.post = random_samples(spec, counts[::-1], seed + 20, dtype)
        generator = torch.Generator().manual_seed(seed + 30)
        self.direction = {
            name: torch.randn(value.shape, generator=generator, dtype=dtype)
            for name, value in self.meta_params.items()
        }
        _, inner_lr = split_meta_params(spec, self.meta_params, INNER_LR)
        fixed = inner_lr if isinstance(inner_lr, float) else [*inner_lr.values()]
        self.curvature = ChunkCurvature(
            spec,
            meta_blocks(spec, self.meta_params),
            self.pre,
            self.post,
            None if learned else fixed,
            Scratch(),
            first_order=first_order,
        )

    def blocks(self, params: Params) -> Blocks:
        return meta_blocks(self.spec, params)

    def reference(self) -> tuple[Blocks, Blocks]:
        """Surrogate gradient and KL-Hessian product, summed over tasks, by autograd."""

        def objective(params: Params, which: int) -> Tensor:
            both = reference_loss_and_kl(
                self.spec,
                params,
                self.meta_params,
                self.pre,
                self.post,
                INNER_LR,
                first_order=self.first_order,
                inner_loss=self.inner_loss,
            )
            return both[which] * len(self.post.weights)

        gradient, _ = gradient_and_hessian_product(
            lambda p: objective(p, 0), self.meta_params, self.direction
        )
        _, product = gradient_and_hessian_product(lambda p: objective(p, 1), self.meta_params, self.direction)
        return self.blocks(gradient), self.blocks(product)
