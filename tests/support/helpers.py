"""Builders shared by the tests, and a deliberately plain reference of the whole meta-objective.

The reference loops over tasks, and uses ``torch.nn.functional.linear``, ``torch.distributions`` and autograd
only: it shares no formula with the package, so that a mistake in one of them shows as a difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium.vector import AutoresetMode
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Distribution as TorchDistribution
from torch.distributions import Independent, Normal, kl_divergence

from maml_rl.envs.base import TaskVectorEnv
from maml_rl.envs.point_nav import PointNav
from maml_rl.envs.rollout import rollout, stream
from maml_rl.learning.adaptation import adapt_policy
from maml_rl.learning.batch import Samples, make_samples
from maml_rl.learning.meta_learner import Params
from maml_rl.policies.heads import LOG_STD, CategoricalHead, GaussianHead, Head
from maml_rl.policies.meta_params import INNER_LR, split_meta_params
from maml_rl.policies.mlp import MLP
from maml_rl.policies.network_policy import NetworkPolicy
from maml_rl.policies.policy import CONTEXT, Blocks, to_blocks


def small_spec(kind: Any = MLP, **overrides: Any) -> Any:
    """A network small enough for finite differences of every coordinate; no two sizes are equal."""
    sizes: dict[str, Any] = {
        "observation_size": 2,
        "action_size": 3,
        "hidden_sizes": (5, 4),
        "activation": "tanh",
    }
    if kind is NetworkPolicy:
        overrides.setdefault("head", GaussianHead(3, overrides.pop("initial_std", 1.0)))
    if "head" not in overrides:
        return MLP.gaussian(**(sizes | overrides))
    del sizes["action_size"]
    return kind(**(sizes | overrides))


def random_params(spec: MLP, seed: int = 0, dtype: torch.dtype = torch.float64) -> Params:
    """Initial parameters with noise everywhere: zero biases or equal deviations would hide mistakes."""
    generator = torch.Generator().manual_seed(seed + 1000)
    return {
        name: value.to(dtype) + 0.2 * torch.randn(value.shape, generator=generator, dtype=dtype)
        for name, value in spec.init_params(seed).items()
    }


def random_inner_lr(spec: MLP, seed: int = 0, dtype: torch.dtype = torch.float64) -> Params:
    """A learned step size per coordinate, all different, as entries of the meta-parameters."""
    generator = torch.Generator().manual_seed(seed + 2000)
    return {
        INNER_LR + name: 0.1 + 0.2 * torch.rand(shape, generator=generator, dtype=dtype)
        for name, shape in spec.shapes.items()
    }


def numpy_params(params: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.to(torch.float32).numpy() for name, value in params.items()}


def random_samples(
    spec: MLP, counts: Sequence[int], seed: int = 0, dtype: torch.dtype = torch.float64
) -> Samples:
    """``counts[i]`` valid transitions of task i; the padding holds large numbers that must never count."""
    generator = torch.Generator().manual_seed(seed + 3000)
    tasks, longest = len(counts), max(counts)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    valid = torch.arange(longest) < torch.tensor(counts)[:, None]
    samples = Samples(
        observations=normal(tasks, longest, spec.observation_size),
        actions=random_actions(spec.head, normal(tasks, longest, spec.action_size)),
        advantages=normal(tasks, longest),
        weights=valid.to(dtype) / torch.tensor(counts, dtype=dtype)[:, None],
    )
    return samples._replace(
        observations=torch.where(valid[..., None], samples.observations, 3.0),
        actions=torch.where(valid[..., None], samples.actions, -2.0 if LOG_STD in spec.shapes else 0.0),
        advantages=torch.where(valid, samples.advantages, 7.0),
    )


def fields_of(samples: Samples) -> list[Tensor]:
    """Those that there are."""
    return [field for field in samples if field is not None]


def random_actions(head: Head, normal: Tensor) -> Tensor:
    """Actions of a head made from as many normal numbers."""
    if isinstance(head, GaussianHead):
        return normal
    counts = torch.tensor(head.counts if isinstance(head, CategoricalHead) else [2] * head.action_size)
    return (torch.special.ndtr(normal) * counts).floor().clamp(max=counts - 1).to(normal.dtype)


def point_nav_samples(
    spec: MLP, params: Params, *, tasks: int, episodes: int, horizon: int, inner_lr: float, seed: int
) -> tuple[Samples, Samples]:
    """Both phases of one iteration on point navigation, in float32: for what random data would misstate."""
    env = PointNav(episodes, max_episode_steps=horizon, autoreset_mode="Disabled")
    goals = env.sample_tasks(tasks, np.random.default_rng(seed))

    def collect(phase: int, policies: Sequence[Params]) -> Samples:
        data = [
            rollout(env, goal, spec, numpy_params(policy), stream(seed, phase, task))
            for task, (goal, policy) in enumerate(zip(goals, policies, strict=True))
        ]
        return make_samples(data, gamma=0.99, gae_lambda=1.0)

    pre = collect(1, [params] * tasks)
    adapted = adapt_policy(spec, params, [pre], inner_lr, first_order=True)
    return pre, collect(2, [{name: value[task] for name, value in adapted.items()} for task in range(tasks)])


def to_dtype(samples: Samples, dtype: torch.dtype) -> Samples:
    return samples.each(lambda field: field.to(dtype))


def with_noise(samples: Samples, field: str, tasks: Sequence[int], seed: int = 0) -> Samples:
    """The samples with noise added to one field of some tasks."""
    value = getattr(samples, field).clone()
    generator = torch.Generator().manual_seed(seed + 4000)
    for task in tasks:
        value[task] += torch.randn(value[task].shape, generator=generator, dtype=value.dtype)
    return samples._replace(**{field: value})


def take_tasks(samples: Samples, order: Sequence[int]) -> Samples:
    return samples.each(lambda field: field[list(order)])


def valid_samples(samples: Samples, task: int) -> tuple[Tensor, Tensor, Tensor]:
    """Observations, actions and advantages of one task, without padding."""
    valid = samples.weights[task] != 0
    return samples.observations[task, valid], samples.actions[task, valid], samples.advantages[task, valid]


def flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([x.flatten() for x in tensors])


def relative_error(value: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """Norm of the difference over the norm of what is expected, over all tensors together."""
    reference = flat(expected)
    return float((flat(value) - reference).norm() / reference.norm())


def meta_blocks(spec: MLP, meta_params: Params) -> Blocks:
    """Meta-parameters (or their gradient, or a direction) as meta-blocks."""
    learned = {k.removeprefix(INNER_LR): v for k, v in meta_params.items() if k.startswith(INNER_LR)}
    return to_blocks(spec, meta_params) + (to_blocks(spec, learned) if learned else [])


# --- the reference


def reference_policy(spec: MLP, params: Params, observations: Tensor) -> Any:
    """The action distribution of one task's policy, in torch's own distributions."""
    activation = {"relu": F.relu, "tanh": torch.tanh, "gelu": F.gelu}[spec.activation]
    x = observations
    if spec.images:
        (image,), pictures = spec.images, observations[:, 1:].unflatten(-1, spec.images[0].shape)
        assert (image.start, image.channels_first) == (1, False)
        for i, (_, _, stride) in enumerate(spec.conv_filters):
            pictures = pictures.movedim(-1, -3) if i == 0 else pictures
            weight, bias = params[f"conv.0.{i}.weight"], params[f"conv.0.{i}.bias"]
            pictures = activation(F.conv2d(pictures, weight, bias, stride=stride))
        x = torch.cat([observations[:, :1], pictures.flatten(1)], dim=1)
    if spec.context_size:
        x = torch.cat([x, params[CONTEXT].expand(len(x), -1)], dim=1)
    for i in range(len(spec.hidden_sizes)):
        x = F.linear(x, params[f"hidden.{i}.weight"], params[f"hidden.{i}.bias"])
        if getattr(spec, "layer_norm", False):
            x = F.layer_norm(x, x.shape[-1:], 1 + params[f"norm.{i}.weight"], params[f"norm.{i}.bias"])
        x = activation(x)
    outputs = F.linear(x, params[f"{spec.head.layer}.weight"], params[f"{spec.head.layer}.bias"])
    if isinstance(spec.head, CategoricalHead):
        return Several([TorchCategorical(logits=logits) for logits in outputs.split(spec.head.counts, -1)])
    if isinstance(spec.head, GaussianHead):
        std = params[LOG_STD].clamp(min=math.log(spec.head.min_std)).exp()
        return Independent(Normal(outputs, std.expand_as(outputs)), 1)
    return Several([TorchBernoulli(logits=logits) for logits in outputs.unbind(-1)])


@dataclass
class Several:
    """Independent variables of an action, in torch's own distributions."""

    of: list[TorchDistribution]

    def log_prob(self, actions: Tensor) -> Tensor:
        return torch.stack([p.log_prob(a) for p, a in zip(self.of, actions.unbind(-1), strict=True)]).sum(0)


def reference_kl(old: Any, new: Any) -> Tensor:
    if isinstance(old, Several):
        return torch.stack([kl_divergence(p, q) for p, q in zip(old.of, new.of, strict=True)]).sum(0)
    return kl_divergence(old, new)


def reference_adapt(
    spec: MLP,
    meta_params: Params,
    pre: Sequence[Samples],
    task: int,
    inner_lr: float,
    *,
    first_order: bool = False,
    drawn_with: Sequence[Params] | None = None,
) -> Params:
    """One task's adapted parameters, differentiable in the meta-parameters (which must require grad).

    Args:
        drawn_with: the task's parameters that drew the samples of each step, where the loss is a likelihood ratio.
    """
    params, alpha = split_meta_params(spec, meta_params, inner_lr)
    for step, samples in enumerate(pre):
        observations, actions, advantages = valid_samples(samples, task)
        log_prob = reference_policy(spec, params, observations).log_prob(actions)
        if drawn_with is None:
            loss = -(log_prob * advantages).mean()
        else:
            drew = reference_policy(spec, drawn_with[step], observations).log_prob(actions).detach()
            loss = -(log_prob.exp() / drew.exp() * advantages).mean()
        gradients = torch.autograd.grad(loss, list(params.values()), create_graph=not first_order)
        steps = {name: alpha[name] if isinstance(alpha, Mapping) else alpha for name in params}
        params = {
            name: value - steps[name] * gradient
            for (name, value), gradient in zip(params.items(), gradients, strict=True)
        }
    return params


def reference_loss_and_kl(
    spec: MLP,
    meta_params: Params,
    old_meta_params: Params,
    pre: Sequence[Samples],
    post: Samples,
    inner_lr: float,
    *,
    first_order: bool = False,
    inner_loss: str = "log_prob",
) -> tuple[Tensor, Tensor]:
    """Surrogate loss and KL at ``meta_params``, means over tasks, differentiable."""
    old_meta_params = {k: v.detach().clone().requires_grad_() for k, v in old_meta_params.items()}
    losses, kls = [], []
    for task in range(len(post.weights)):
        observations, actions, advantages = valid_samples(post, task)
        policies = []
        drawn_with = None
        if inner_loss == "likelihood_ratio":
            drawn_with = [
                reference_adapt(spec, old_meta_params, pre[:step], task, inner_lr, first_order=True)
                for step in range(len(pre))
            ]
        for start in (old_meta_params, meta_params):
            adapted = reference_adapt(
                spec, start, pre, task, inner_lr, first_order=first_order, drawn_with=drawn_with
            )
            policies.append(reference_policy(spec, adapted, observations))
        old, new = policies
        ratio = (new.log_prob(actions) - old.log_prob(actions).detach()).exp()
        losses.append(-(ratio * advantages).mean())
        kls.append(reference_kl(old, new).mean())
    return torch.stack(losses).mean(), torch.stack(kls).mean()


def gradient_and_hessian_product(
    function: Callable[[Params], Tensor], params: Params, direction: Params
) -> tuple[Params, Params]:
    """Gradient of a scalar function, and its Hessian times ``direction``, by double backward."""
    params = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
    gradient = torch.autograd.grad(function(params), list(params.values()), create_graph=True)
    inner = sum((g * direction[name]).sum() for name, g in zip(params, gradient, strict=True))
    product = torch.autograd.grad(inner, list(params.values()), materialize_grads=True)
    return dict(zip(params, (g.detach() for g in gradient), strict=True)), dict(
        zip(params, product, strict=True)
    )


# --- a task family with everything that point navigation lacks


class ToyEnv(TaskVectorEnv):
    """A random walk with random starts and an asymmetric action box; it records the actions it is given.

    The state moves by the action and by noise. The reward is task + state. Copy k terminates after
    ``lifetimes[k]`` steps, where given.
    """

    def __init__(
        self,
        num_envs: int,
        *,
        max_episode_steps: int = 6,
        lifetimes: Sequence[int] | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.DISABLED,
    ) -> None:
        super().__init__(
            num_envs,
            max_episode_steps=max_episode_steps,
            observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32),
            action_space=gymnasium.spaces.Box(np.array([0, -2], np.float32), np.array([1, 4], np.float32)),
            task_space=gymnasium.spaces.Box(-1, 1, (), np.float64),
            autoreset_mode=autoreset_mode,
        )
        self._lifetimes = np.array(lifetimes if lifetimes is not None else [max_episode_steps + 1] * num_envs)
        self._state = np.zeros((num_envs, 2), np.float32)
        self._age = np.zeros(num_envs, int)
        self.received: list[np.ndarray] = []

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-1, 1, n)

    def _reset(self, mask: np.ndarray) -> None:
        for k in np.flatnonzero(mask):
            self._state[k] = self._generators[k].standard_normal(2, np.float32)
            self._age[k] = 0

    def _step(self, actions: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.received.append(actions.copy())
        for k in np.flatnonzero(active):
            self._state[k] += actions[k] + self._generators[k].standard_normal(2, np.float32)
        self._age += active
        return (self._state.sum(1) + self._task).astype(np.float32), self._age >= self._lifetimes

    def _observe(self) -> np.ndarray:
        return self._state.copy()
