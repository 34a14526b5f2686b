"""The learner's tensors are all where it computes: what a machine without a GPU can hold to, and the GPU itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from policy_kinds import KINDS
from tiny_runs import PPO, SINGLE, Algorithms, save_expert, tiny_algorithms, tiny_config
from torch import nn
from user_modules import Net, Remembers

from maml_rl.envs import make_task_env
from maml_rl.learning import advantages
from maml_rl.rllib import maml as maml_module
from maml_rl.rllib.config import MAMLConfig

pytestmark = pytest.mark.usefixtures("local_ray")

LEARNERS: dict[str, dict[str, Any]] = {
    "finite differences": {},
    "exact products": {"hvp": "exact", "curvature_fraction": 0.5, "inner_steps": 2},
    "learned step sizes": {"learn_inner_lr": True, "first_order": True},
    "context": {"context_size": 2},
    "likelihood ratio": {"inner_loss": "likelihood_ratio", "inner_steps": 2},
    "trpo on one policy": {"inner_steps": 0},
    "ppo": PPO | {"entropy_coeff": 0.01},
    "ppo with a critic": SINGLE,
    "ppo with a critic that remembers": SINGLE | {"recurrent": "gru", "recurrent_size": 3},
    "normalised": {"normalize_observations": True, "normalize_rewards": True},
    "guided": {"expert": "", "expert_clip": True},
} | KINDS
THEIR_STATES = ("recurrent module", "stateful rl module")
"""Users' modules may begin with a state of any device: it is moved, which nothing can be from ``meta``."""


@pytest.fixture(scope="module")
def algorithms(local_ray: None) -> Iterator[Algorithms]:
    with tiny_algorithms() as found:
        yield found


def with_expert(fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    return fields | ({"expert": save_expert(folder / "expert.safetensors")} if "expert" in fields else {})


def trap(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the learner a tensor whose device nobody named lies on ``meta``, which refuses to mix with others."""
    call = maml_module.call_learner

    def trapped(group: Any, method: str, **kwargs: Any) -> Any:
        if method not in ("adapt", "meta_update"):
            return call(group, method, **kwargs)
        with torch.device("meta"):
            return call(group, method, **kwargs)

    monkeypatch.setattr(maml_module, "call_learner", trapped)


@pytest.mark.parametrize("kind", [kind for kind in LEARNERS if kind not in THEIR_STATES])
def test_every_tensor_of_the_learner_is_where_the_data_are(
    kind: str, algorithms: Algorithms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = with_expert(LEARNERS[kind], tmp_path)
    plain, trapped = (algorithms.build(tiny_config(**fields)) for _ in range(2))
    for algo in (plain, trapped):
        algo.train()  # the first step makes the optimiser's state, which is torch's affair
    plain.train()
    trap(monkeypatch)
    trapped.train()
    expected = plain.training_state().learned
    for name, value in trapped.training_state().learned.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_a_stray_tensor_is_caught(algorithms: Algorithms, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: one without a device, in the features of the baseline."""
    algo = algorithms.build(tiny_config())
    trap(monkeypatch)
    algo.train()
    features = advantages.baseline_features
    monkeypatch.setattr(advantages, "baseline_features", lambda x: features(x) + torch.zeros(1))
    with pytest.raises(RuntimeError, match="meta"):
        algo.train()


class WithOthers(nn.Module):
    """Has a buffer and a frozen layer beside what is learned."""

    def __init__(self, observation_space: Any, outputs: int) -> None:
        super().__init__()
        self.frozen, self.learned = nn.Linear(2, 3), nn.Linear(3, outputs)
        self.frozen.requires_grad_(False)
        self.register_buffer("scale", torch.full((2,), 0.5))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.learned(torch.tanh(self.frozen(self.scale * observations)))


MODULES: dict[str, dict[str, Any]] = {
    "mlp": {},
    "layer norm": {"layer_norm": True, "activation": "gelu"},
    "gru": {"recurrent": "gru", "recurrent_size": 3},
    "lstm": {"recurrent": "lstm", "recurrent_size": 3},
    "module": {"module": Net},
    "recurrent module": {"module": Remembers},
    "module with buffers and frozen layers": {"module": WithOthers},
}


@pytest.mark.parametrize("kind", MODULES)
def test_a_policy_is_computed_where_its_parameters_are(kind: str) -> None:
    """On ``meta`` itself, which stands for a GPU: buffers and frozen parameters of modules go there, too."""
    config = tiny_config(**MODULES[kind])
    env = make_task_env("maml_rl/PointNav-v0", 2, 4)
    policy = config.policy_spec(env.single_observation_space, env.single_action_space)
    params = {name: value[None].expand(2, *value.shape) for name, value in policy.init_params(0).items()}
    shape = (2, 3, 4, 2) if policy.recurrent else (2, 12, 2)
    policy(params, torch.zeros(shape))  # the first call tries values out
    there = {name: value.to("meta") for name, value in params.items()}
    outputs = policy(there, torch.zeros(shape, device="meta"))
    assert {part.device.type for part in outputs.parts} == {"meta"}


# --- on a GPU

gpu = pytest.mark.gpu
NO_GPU = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="this machine has no GPU that torch can use"
)


def on(device: str, **fields: Any) -> MAMLConfig:
    config = tiny_config(**fields)
    return config.learners(num_learners=0, num_gpus_per_learner=0 if device == "cpu" else 1)


@NO_GPU
@gpu
@pytest.mark.parametrize("kind", LEARNERS)
def test_a_gpu_learns_what_a_cpu_learns(kind: str, algorithms: Algorithms, tmp_path: Path) -> None:
    fields = with_expert(LEARNERS[kind], tmp_path)
    found, expected = (algorithms.build(on(device, **fields)) for device in ("cuda", "cpu"))
    for algo in (found, expected):
        assert algo.train()["update_refused"] == 0
    (device,) = found.learner_group.foreach_learner(lambda learner: learner.device.type)
    assert device.get() == "cuda"
    reference = expected.meta_params()
    for name, value in found.meta_params().items():
        np.testing.assert_allclose(value, reference[name], rtol=1e-2, atol=1e-4, err_msg=name)


@NO_GPU
@gpu
def test_a_learner_actor_gets_a_gpu_of_its_own() -> None:
    algo = tiny_config().learners(num_learners=1, num_gpus_per_learner=1).build_algo()
    algo.train()
    (device,) = algo.learner_group.foreach_learner(lambda learner: learner.device.type)
    assert device.get() == "cuda"
    algo.stop()


@NO_GPU
@gpu
def test_a_meta_update_copies_little_back() -> None:
    """Not a tensor for every operation: some tens of numbers, for norms, line search and metrics."""
    algo = on("cuda").build_algo()
    algo.train()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        algo.train()
    copies = [event for event in profile.events() if "Memcpy DtoH" in event.name]
    assert len(copies) < 200
    algo.stop()
