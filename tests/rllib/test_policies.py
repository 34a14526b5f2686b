"""Every kind of policy and action, trained: the same on any number of runners and on a learner actor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray
import torch
from policy_kinds import FOUND, KINDS, Elsewhere, trained
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from tiny_runs import Algorithms, tiny_algorithms, tiny_config
from torch import nn
from user_modules import Net

from maml_rl import MAMLConfig
from maml_rl.learning.meta_learner import stack_params
from maml_rl.policies.meta_params import theta_of
from maml_rl.policies.mlp import MLP
from maml_rl.policies.module_policy import ModuleError
from maml_rl.policies.network_policy import NetworkPolicy

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


@pytest.fixture(scope="module")
def algorithms(local_ray: None) -> Iterator[Algorithms]:
    with tiny_algorithms() as found:
        yield found


@pytest.fixture(scope="module")
def elsewhere(local_ray: None) -> Iterator[Any]:
    """Trains in a process of its own, with one thread; started once."""
    actor = ray.remote(num_cpus=1)(Elsewhere).remote()
    yield actor
    ray.kill(actor)


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_is_the_same_in_another_process(kind: str, elsewhere: Any) -> None:
    here, there = trained(tiny_config(**KINDS[kind])), ray.get(elsewhere.train.remote(kind))
    for name, value in here.items():
        np.testing.assert_array_equal(value, there[name], err_msg=name)


@pytest.mark.system
@pytest.mark.parametrize("kind", ["image gru", "stateful rl module", "rl2 image"])
def test_the_result_is_the_same_on_runners_and_with_a_learner_actor(kind: str) -> None:
    here = trained(tiny_config(**KINDS[kind]))
    spread = trained(tiny_config(**KINDS[kind], num_env_runners=2, num_learners=1))
    for name, value in here.items():
        np.testing.assert_array_equal(value, spread[name], err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_the_rl_module_is_the_policy(kind: str, algorithms: Algorithms) -> None:
    """RLlib's tools get the distribution that rollouts sample from, step by step where there is a state."""
    algo = algorithms.build(tiny_config(**KINDS[kind]))
    algo.train()
    module: Any = algo.get_module()
    policy, params = module.spec, algo.meta_params()
    rng = np.random.default_rng(0)
    seen = rng.random((4, 3, policy.observation_size)).astype(np.float32)
    actor = policy.actor(theta_of(params), 4)
    state = {name: x.expand(4, *x.shape) for name, x in module.get_initial_state().items()}
    for t in range(3):
        batch: dict[str, Any] = {Columns.OBS: torch.from_numpy(seen[:, t])}
        if state:
            batch = {Columns.OBS: batch[Columns.OBS][:, None], Columns.STATE_IN: state}
        found = module.forward_inference(batch)
        state = found.get(Columns.STATE_OUT, {})
        inputs = found[Columns.ACTION_DIST_INPUTS].reshape(4, -1)
        given = seen[:, t]
        if module.normalizer is not None and module.normalizer.observations is not None:
            mean, std = module.normalizer.scale
            given = ((given - mean) / std).clip(-10, 10)
        outputs = actor(np.ascontiguousarray(given)).copy()
        if policy.head.kind == "bernoulli":
            inputs = inputs[:, 1::2]
        np.testing.assert_allclose(
            inputs.detach()[:, : outputs.shape[1]], outputs, rtol=1e-4, atol=1e-5, err_msg=str(t)
        )
    kind_of_distribution = module.get_train_action_dist_cls()
    sample = kind_of_distribution.from_logits(found[Columns.ACTION_DIST_INPUTS].reshape(4, -1)).sample()
    assert np.asarray(sample).reshape(4, -1).shape == (4, policy.action_size)


@pytest.mark.parametrize("kind", ["module", "recurrent module", "gelu norm", "normalised gru"])
def test_a_checkpoint_goes_on_as_if_there_had_been_no_break(kind: str, tmp_path: Any) -> None:
    config = tiny_config(**KINDS[kind])
    algo = config.build_algo()
    algo.train()
    algo.save_to_path(tmp_path)
    algo.train()
    expected = algo.meta_params()
    algo.stop()
    again = config.copy(copy_frozen=False).build_algo()
    again.restore_from_path(tmp_path)
    again.train()
    for name, value in again.meta_params().items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    again.stop()


# --- which network is chosen


def policy_of(config: MAMLConfig, env: str = "maml_rl/PointNav-v0", **env_config: Any) -> Any:
    from maml_rl.envs import make_task_env

    made = make_task_env(env, 1, 5, env_config)
    return config.policy_spec(made.single_observation_space, made.single_action_space)


@pytest.mark.parametrize(
    ("fields", "written_out"),
    [
        ({}, True),
        ({"activation": "tanh", "adapt_only": ("mean",)}, True),
        ({"activation": "silu"}, False),
        ({"layer_norm": True}, False),
        ({"recurrent": "gru"}, False),
    ],
)
def test_the_written_out_network_is_taken_where_it_applies(fields: dict[str, Any], written_out: bool) -> None:
    assert isinstance(policy_of(tiny_config(**fields)), MLP if written_out else NetworkPolicy)


def test_images_get_convolutions_that_fit_them() -> None:
    policy = policy_of(tiny_config(), "maml_rl/VisualNav-v0", size=20)
    assert policy.conv_filters == ((16, 3, 2), (32, 3, 2))
    assert policy.images[0].chw == (1, 20, 20)
    flat = policy_of(tiny_config(conv_filters=()), "maml_rl/VisualNav-v0", size=20)
    assert flat.shapes["hidden.0.weight"] == (4, 400)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"conv_filters": ((4, 3, 1),)}, "conv_filters is .* but there is no image in Box"),
        ({"module": Net, "context_size": 2}, "context_size is 2, but module is given"),
        ({"module": lambda space, outputs: nn.Linear(2, 5)}, r"returned outputs of shape \(3, 5\)"),
        ({"module": "user_modules:Nothing"}, "'user_modules' has no class or function 'Nothing'"),
        ({"module": "no_such:Net"}, "module is 'no_such:Net', but 'no_such' cannot be imported"),
    ],
)
def test_combinations_that_do_not_fit_are_refused_before_any_worker_starts(
    fields: dict[str, Any], message: str
) -> None:
    config = tiny_config(**fields)
    config.validate()
    with pytest.raises(ValueError, match=message):
        config.env_runners(num_env_runners=2).build_algo()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"recurrent_size": 5}, "recurrent_size is 5, but recurrent is None"),
        ({"adapt_only": ("mean",), "learn_inner_lr": True}, "learn_inner_lr is True, but adapt_only is"),
        ({"adapt_only": ("mean",), "inner_steps": 0}, "adapt_only is .* but inner_steps is 0"),
        ({"entropy_coeff": 0.1}, "entropy_coeff is 0.1, but outer_update is 'trpo'"),
        (
            {"env_config": {"trial_episodes": 2}},
            "trial_episodes is 2, but inner_steps is 1 and recurrent is None",
        ),
        ({"env_config": {"trial_episodes": 0}}, "trial_episodes is 0; it must be a positive integer"),
        ({"module": "Net"}, "module is 'Net'; it must be None, package.module:Class"),
        ({"module": 3}, "module is 3; it must be None"),
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_config(**fields).validate()


def test_settings_of_boxes_are_refused_with_other_actions() -> None:
    config = tiny_config(**FOUND, initial_std=0.5).environment(env_config={"kind": "discrete"})
    with pytest.raises(ValueError, match=r"initial_std is 0.5, but .*actions.* Discrete"):
        config.build_algo()


# --- the ways of RLlib


def test_a_model_configuration_of_rllibs() -> None:
    config = MAMLConfig().rl_module(
        model_config=DefaultModelConfig(
            fcnet_hiddens=[8, 7], fcnet_activation="swish", use_lstm=True, lstm_cell_size=5
        )
    )
    found = (config.hidden_sizes, config.activation, config.recurrent, config.recurrent_size)
    assert found == ([8, 7], "silu", "lstm", 5)
    part = MAMLConfig().rl_module(model_config={"fcnet_use_layernorm": True})
    assert (part.layer_norm, part.hidden_sizes) == (True, (100, 100))
    spec = MAMLConfig().rl_module(rl_module_spec=RLModuleSpec(model_config={"fcnet_hiddens": [9]}))
    assert (spec.hidden_sizes, spec.module) == ([9], None)
    pictures = MAMLConfig().rl_module(
        model_config={"conv_filters": [[16, 3, 2]], "conv_activation": "relu", "fcnet_activation": "relu"}
    )
    assert pictures.conv_filters == [(16, 3, 2)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"model_config": {"fcnet_hidden": [3]}},
            "holds 'fcnet_hidden'; it must be a field of DefaultModelConfig",
        ),
        (
            {"model_config": {"lstm_use_prev_action": True}},
            "lstm_use_prev_action is True, but MAML does not use it",
        ),
        (
            {"model_config": DefaultModelConfig(conv_filters=[[4, 3, 2]])},
            "conv_activation is 'relu', but fcnet_activation is 'tanh'",
        ),
        (
            {"rl_module_spec": MultiRLModuleSpec(rl_module_specs={"p": RLModuleSpec()})},
            "it must be an RLModuleSpec",
        ),
    ],
)
def test_what_means_nothing_here_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MAMLConfig().rl_module(**given)


def test_a_module_can_be_a_class_a_function_or_a_module() -> None:
    given = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))
    names = []
    for module in (Net, lambda space, outputs: Net(space, outputs), given):
        policy = policy_of(tiny_config(module=module))
        names.append(policy.name)
        x = torch.ones(1, 3, 2)
        assert policy(stack_params(policy.init_params(0), 1), x).parts[0].shape == (1, 3, 2)
    assert names[0] == "user_modules:Net"
    assert torch.equal(policy.init_params(5)["0.weight"], given[0].weight)
    with pytest.raises(ModuleError, match="made 3"):
        policy_of(tiny_config(module=lambda space, outputs: 3))
