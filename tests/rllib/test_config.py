"""``MAMLConfig``: every wrong value is refused before anything starts, every field has an effect."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from maml_rl.envs import UserEnvError, make_task_env
from maml_rl.experiments.presets import EXPERIMENTS, get_experiment
from maml_rl.rllib.config import MAMLConfig
from maml_rl.rllib.contradictions import PPO_ONLY
from maml_rl.rllib.rules import HONOURED, RULES, TRAINING_FIELDS

PAPER = sorted(n for n, e in EXPERIMENTS.items() if e.test_tasks and not n.startswith("metaworld"))
"""The experiments of Finn et al. 2017; those of Meta-World need an extra: see test_metaworld.py."""


def valid() -> MAMLConfig:
    return MAMLConfig().environment("maml_rl/PointNav-v0")


def test_defaults_are_valid() -> None:
    valid().validate()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("meta_batch_size", 0),
        ("meta_batch_size", 2.5),
        ("meta_batch_size", True),
        ("episodes_per_task", -1),
        ("horizon", 0),
        ("inner_lr", -0.1),
        ("inner_lr", math.nan),
        ("inner_steps", -1),
        ("inner_steps", 1.5),
        ("context_size", -1),
        ("gamma", 1.1),
        ("gae_lambda", -0.1),
        ("baseline_ridge", 0.0),
        ("max_kl", 0.0),
        ("hvp", "approximate"),
        ("inner_loss", "ratio"),
        ("hvp_step", 0.0),
        ("curvature_fraction", 0.0),
        ("curvature_fraction", 1.5),
        ("cg_iterations", 0),
        ("cg_damping", -1e-5),
        ("line_search_ratio", 1.0),
        ("hidden_sizes", ()),
        ("hidden_sizes", (100, 0)),
        ("activation", "swish"),
        ("min_std", 0.0),
        ("first_order", "yes"),
        ("learn_inner_lr", 1),
        ("seed", -1),
        ("seed", None),
        ("seed", 2**32),
        ("seed", 1.0),
        ("sample_timeout_s", 0),
        ("sample_timeout_s", math.inf),
        ("lr", math.inf),
        ("max_kl", "0.01"),
        ("hidden_sizes", "100"),
        ("hidden_sizes", 100),
        ("num_env_runners", -2),
        ("num_env_runners", 1.5),
        ("num_learners", -1),
        ("num_gpus_per_learner", math.nan),
        *(
            (name, -1)
            for name in ("horizon", "inner_lr", "gamma", "max_kl", "meta_batch_size", "num_env_runners")
        ),
    ],
)
def test_wrong_values_name_field_and_value(field: str, value: object) -> None:
    config = valid()
    setattr(config, field, value)
    with pytest.raises(ValueError, match=field) as error:
        config.validate()
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("field", ["horizon", "inner_lr", "gamma", "hidden_sizes", "seed", "first_order"])
def test_minus_one_is_no_default(field: str, local_ray: None) -> None:
    """RLlib drops what equals -1 from a configuration's state, from which an algorithm rebuilds it."""
    config = valid()
    setattr(config, field, -1)
    assert config.get_state()[field] == -1
    with pytest.raises(ValueError, match=f"{field} is -1"):
        config.build_algo()


def test_numbers_of_numpy_are_numbers() -> None:
    config = valid().training(
        inner_lr=np.float32(0.25),
        meta_batch_size=np.int64(3),  # type: ignore[arg-type]
        hidden_sizes=np.array([8, 8]),  # type: ignore[arg-type]
        first_order=np.bool_(True),  # type: ignore[arg-type]
    )
    state = config.get_state()
    assert (state["hidden_sizes"], state["meta_batch_size"]) == ((8, 8), 3)
    config.validate()
    assert (config.inner_lr, config.meta_batch_size, config.first_order) == (0.25, 3, True)
    assert (type(config.inner_lr), type(config.meta_batch_size)) == (float, int)
    assert config.hidden_sizes == (8, 8)


def test_every_field_has_a_rule() -> None:
    own = set(vars(MAMLConfig())) - set(vars(AlgorithmConfig()))
    own = {name for name in own if not name.startswith("_")}  # what is derived
    assert own <= set(RULES)


def test_unknown_field_is_an_error() -> None:
    config = valid()
    config.update_from_dict({"fast_lr": 0.1})
    with pytest.raises(ValueError, match="fast_lr"):
        config.validate()
    with pytest.raises(TypeError, match="fast_lr"):
        MAMLConfig().training(fast_lr=0.1)  # type: ignore[call-arg]


RLLIB_FIELDS = sorted(vars(AlgorithmConfig()))


@pytest.mark.parametrize(
    "field", sorted({*RLLIB_FIELDS} - HONOURED - {*RULES} | (HONOURED - {*RLLIB_FIELDS}))
)
def test_rllib_fields_without_effect_are_refused(field: str) -> None:
    config = valid()
    default = getattr(config, field)
    setattr(config, field, not default if isinstance(default, bool) else {"a": 1})
    with pytest.raises(ValueError, match=rf"^{field.lstrip('_')} is .*MAML does not use it"):
        config.validate()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.env_runners(observation_filter="MeanStdFilter"), "wrap the environment"),
        (lambda c: c.env_runners(env_to_module_connector=lambda *a: []), "wrap the environment"),
        (lambda c: c.env_runners(compress_observations=True), "arrays of float32"),
        (lambda c: c.env_runners(num_envs_per_env_runner=4), "episodes_per_task"),
        (lambda c: c.training(grad_clip_by="value"), "max_kl"),
        (lambda c: c.training(model={"fcnet_hiddens": [8]}), "hidden_sizes"),
        (lambda c: c.training(learner_config_dict={"a": 1}), "nothing reads it"),
        (lambda c: c.environment(observation_space=1), "the environment's own"),
        (lambda c: c.environment(clip_actions=True), "clipped there"),
        (lambda c: c.evaluation(evaluation_duration_unit="timesteps"), "held-out tasks"),
        (lambda c: c.fault_tolerance(restart_failed_sub_environments=True), "handle its own faults"),
        (lambda c: c.framework("tf2"), "written in torch"),
        (lambda c: c.offline_data(input_="a.json"), "its own rollouts"),
    ],
)
def test_rllibs_methods_say_what_to_use_instead(change: Callable[[MAMLConfig], Any], message: str) -> None:
    config = valid()
    change(config)
    with pytest.raises(ValueError, match=message):
        config.validate()


def test_a_valid_configuration_stays_valid() -> None:
    config = valid().evaluation(evaluation_interval=2)
    config.validate()
    config.validate()
    config.get_evaluation_config_object().validate()


@pytest.mark.parametrize("field", ["env_runner_cls", "learner_class"])
def test_foreign_classes_are_refused(field: str) -> None:
    config = valid()
    setattr(config, field if field == "env_runner_cls" else "_learner_class", dict)
    with pytest.raises(ValueError, match=f"{field} is .* derived from MAML"):
        config.validate()


@pytest.mark.parametrize("field", PPO_ONLY)
def test_settings_of_ppo_are_refused_without_it(field: str) -> None:
    config = valid()
    value = 0.5 if field in ("lr", "clip_param") else 12345
    setattr(config, field, value)
    with pytest.raises(ValueError, match=f"{field} is {value}, but outer_update is 'trpo'"):
        config.validate()
    config.training(outer_update="ppo").validate()


@pytest.mark.parametrize(
    "env",
    ["CartPole-v99", "maml_rl/PointNavv-v0", None, "no.such.module.Env", "maml_rl.policies.mlp:Nothing"],
)
def test_unknown_environment(env: str | None) -> None:
    with pytest.raises(ValueError, match=r"environment is .*maml_rl/PointNav-v0"):
        MAMLConfig().environment(env).validate()


def test_an_environment_without_tasks_is_refused_before_workers_start(local_ray: None) -> None:
    config = MAMLConfig().environment("Pendulum-v1").env_runners(num_env_runners=2)
    with pytest.raises(UserEnvError, match="sample_tasks: is missing"):
        config.build_algo()


def test_unimportable_environment() -> None:
    with pytest.raises(ValueError, match="'no_such_module' cannot be imported"):
        MAMLConfig().environment("no_such_module:Env").validate()


def test_first_test_tasks_are_the_papers() -> None:
    first = {name: np.ravel(EXPERIMENTS[name].test_tasks("", {})[:2]) for name in PAPER}
    np.testing.assert_allclose(first["point-nav"][:2], [-0.082978, 0.220324], atol=1e-6)
    np.testing.assert_allclose(first["half-cheetah-vel"], [0.834044, 1.440649], atol=1e-6)
    np.testing.assert_allclose(first["ant-vel"][:1], [1.251066], atol=1e-6)


def test_training_sets_fields_and_returns_the_config() -> None:
    config = valid().training(inner_lr=0.3, hidden_sizes=(8,))
    assert (config.inner_lr, config.hidden_sizes) == (0.3, (8,))
    assert config.max_kl == MAMLConfig().max_kl


def test_settings_carry_the_fields() -> None:
    config = valid().training(inner_lr=0.3, max_kl=0.02, line_search_steps=3, hvp="exact")
    settings = config.meta_update_settings()
    assert config.inner_update_settings().inner_lr == 0.3
    assert (settings.max_kl, settings.hvp) == (0.02, "exact")
    assert settings.line_search.steps == 3


@pytest.mark.parametrize("name", PAPER)
def test_presets_are_valid(name: str) -> None:
    experiment = get_experiment(name)
    config = experiment.make_config()
    config.validate()
    tasks = experiment.test_tasks("", {})
    assert len(tasks) == 40
    env = make_task_env(config.env, 2, config.horizon, dict(config.env_config))
    for task in tasks:
        env.set_task(task)


def test_unknown_preset_suggests() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'point-nav'\?"):
        get_experiment("pont-nav")


def test_training_fields_are_all_arguments_of_training() -> None:
    import inspect

    assert set(inspect.signature(MAMLConfig.training).parameters) - {"self", "rllib"} == set(TRAINING_FIELDS)
