"""What every field of a configuration may hold, and which of RLlib's fields mean something to MAML."""

from __future__ import annotations

from typing import Any, Literal, get_args

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from maml_rl.learning.losses import INNER_LOSSES
from maml_rl.learning.meta_update import HVPS
from maml_rl.policies.layers import ACTIVATIONS
from maml_rl.policies.network_policy import GATES
from maml_rl.tools.checks import (
    BOOL,
    COUNT,
    COUNT_OR_ZERO,
    FRACTION,
    NON_NEGATIVE,
    OPEN_UNIT,
    POSITIVE,
    SEED,
    UNIT,
    Rule,
    one_of,
)

InnerLoss = Literal["log_prob", "likelihood_ratio"]
HVP = Literal["finite_difference", "exact"]
OuterUpdate = Literal["trpo", "ppo"]
Activation = Literal[
    "relu", "tanh", "leaky_relu", "elu", "selu", "gelu", "silu", "mish", "softplus", "sigmoid"
]
Recurrent = Literal["gru", "lstm"] | None

# Fields of RLlib that do for MAML what RLlib's documentation says, beside those with a rule below.
HONOURED = {
    *("algo_class", "env", "env_config", "env_runner_cls", "_learner_class"),
    *("callbacks_class", "extra_python_environs_for_driver", "extra_python_environs_for_worker"),
    *("placement_strategy", "num_cpus_for_main_process", "custom_resources_for_main_process"),
    *("custom_resources_per_env_runner", "custom_resources_per_learner", "local_gpu_idx"),
    *("validate_env_runners_after_construction", "restart_failed_env_runners", "max_num_env_runner_restarts"),
    *("env_runner_health_probe_timeout_s", "env_runner_restore_timeout_s"),
    *("log_level", "log_sys_usage", "stats_cls_lookup", "_use_msgpack_checkpoints"),
    # A configuration's own state; and several policies, which have an error of their own.
    *(
        "_is_frozen",
        "_validate_config",
        "_dont_auto_sync_env_runner_states",
        "in_evaluation",
        "simple_optimizer",
        "policies",
        "policy_mapping_fn",
    ),
}
_CALLBACKS = (
    *("algorithm_init", "checkpoint_loaded", "train_result", "env_runners_recreated"),
    *("environment_created", "episode_created", "episode_start", "episode_step", "episode_end", "sample_end"),
    *("evaluate_start", "evaluate_end"),
)
HONOURED |= {f"callbacks_on_{event}" for event in _CALLBACKS}

# What to do instead of setting a field that would change nothing, by the beginning of the field's name.
_INSTEAD = {
    ("grad_clip", "torch_skip_nan"): "the meta-update is a trust-region step (max_kl)",
    ("_train_batch_size_per_learner", "train_batch_size"): (
        "a batch is meta_batch_size x episodes_per_task episodes"
    ),
    ("num_envs_per_env_runner", "gym_env_vectorize"): "a runner holds episodes_per_task episodes of one task",
    ("rollout_fragment_length", "batch_mode", "episode_lookback", "count_steps_by"): (
        "a runner always collects whole episodes"
    ),
    ("explore", "exploration", "_prior_exploration"): "rollouts always sample from the policy",
    ("clip_rewards",): "set normalize_rewards, or wrap the environment",
    ("normalize_actions", "clip_actions"): (
        "policy actions in [-1, 1] are always scaled to the action box and clipped there"
    ),
    ("model", "_model_config", "_rl_module_spec"): (
        "set the network with .training(hidden_sizes=..., ...) or .rl_module(model_config=..., rl_module_spec=...)"
    ),
    ("observation_space", "action_space"): "the spaces are the environment's own",
    (
        "observation_filter",
        "observation_fn",
        "preprocessor",
        "_env_to_module",
        "_module_to_env",
        "_learner_conn",
    ): ("wrap the environment, or set normalize_observations"),
    ("add_default_connectors", "update_worker_filter", "use_worker_filter", "sync_filters"): (
        "there are no connectors and no filters"
    ),
    ("compress_observations", "episodes_to_numpy", "sample_collector"): (
        "trajectories travel as arrays of float32"
    ),
    ("min_time_s", "min_train_timesteps", "min_sample_timesteps"): "an iteration is one meta-update",
    ("num_aggregator",): "runners send trajectories straight to the learner",
    (
        "evaluation_duration_unit",
    ): "evaluation_duration counts held-out tasks, each with episodes_per_task episodes",
    ("evaluation_num_env_runners", "evaluation_parallel"): "evaluation uses the training env runners",
    ("custom_evaluation_function",): "override MAML.evaluate in a class of your own",
    ("evaluation_", "off_policy", "ope_"): "evaluation measures adaptation with the training's settings",
    ("torch_compile", "eager", "tf_", "local_tf", "framework_str", "enable_tf1", "_tf"): (
        "the policy is written in torch, its products are written out and not compiled"
    ),
    ("torch_ddp", "max_requests_in_flight_per_learner"): "learners exchange sums over tasks",
    ("_torch", "optimizer", "shuffle_batch"): "TRPO has no optimiser, and PPO's is Adam with step size lr",
    ("learner_config_dict", "algorithm_config_overrides", "_per_module"): "nothing reads it",
    ("policies_to_train", "policy_", "policies"): "there is one policy",
    (
        "input",
        "output",
        "offline",
        "prelearner",
        "dataset_",
        "shuffle_buffer",
        "postprocess",
        "actions_in_input",
        "materialize",
        "map_batches",
        "iter_batches",
        "ignore_final",
    ): ("MAML learns from its own rollouts alone"),
    ("num_gpus",): "set num_gpus_per_learner with .learners()",
    (
        "enable_rl_module",
        "enable_env_runner",
        "_enable",
    ): "MAML is written for RLlib's present interfaces alone",
    ("create_local_env_runner", "create_env_on"): "the driver's own runner draws the tasks",
    ("max_requests_in_flight", "delay_between", "num_consecutive_env_runner", "ignore_env_runner"): (
        "tasks of a runner that died are run again on another one"
    ),
    ("restart_failed_sub",): "an environment that raises ends the run: let it handle its own faults",
    (
        "remote_worker_envs",
        "remote_env",
        "use_env_runner_state",
        "env_runner_state",
        "merge_env",
        "broadcast",
    ): ("a runner steps its environment itself and keeps no state"),
    ("render_env",): "make a video with maml-rl video",
    ("log_gradients",): "a result holds gradient_norm",
    ("action_mask_key", "_is_atari"): "actions are not masked",
    ("disable_env_checking",): "what an environment returns is always checked",
    ("metrics_", "keep_per_episode", "sampler_perf"): "a result is about one iteration",
}


def instead(name: str) -> str:
    """What to do in place of setting RLlib's field ``name``."""
    if "offline" in name:
        name = "offline"
    fitting = [why for starts, why in _INSTEAD.items() if name.startswith(starts)]
    return fitting[0] if fitting else "leave it at its default"


def reject_unused(config: AlgorithmConfig) -> None:
    """Refuse a field of RLlib's that differs from RLlib's default and would change nothing.

    Raises:
        ValueError: naming the field, its value and what to use instead.
    """
    for name, default in vars(AlgorithmConfig()).items():
        value = getattr(config, name)
        if name not in HONOURED and name not in RULES and not _same(value, default):
            raise ValueError(f"{name.lstrip('_')} is {value!r}, but MAML does not use it: {instead(name)}")


def _same(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except ValueError:  # arrays
        return False


def _is_filter(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and all(map(COUNT[1], value))


RULES: dict[str, Rule] = {
    "inner_lr": POSITIVE,
    "inner_steps": COUNT_OR_ZERO,
    "context_size": COUNT_OR_ZERO,
    "learn_inner_lr": BOOL,
    "first_order": BOOL,
    "inner_loss": (" or ".join(INNER_LOSSES), lambda v: v in INNER_LOSSES),
    "expert": ("a path or None", lambda v: v is None or (isinstance(v, str) and v != "")),
    "expert_std_scale": POSITIVE,
    "expert_clip": BOOL,
    "meta_batch_size": COUNT,
    "episodes_per_task": COUNT,
    "horizon": COUNT,
    "gamma": UNIT,
    "gae_lambda": UNIT,
    "baseline_ridge": POSITIVE,
    "normalize_observations": BOOL,
    "normalize_rewards": BOOL,
    "outer_update": (" or ".join(get_args(OuterUpdate)), lambda v: v in get_args(OuterUpdate)),
    "max_kl": POSITIVE,
    "hvp": (" or ".join(HVPS), lambda v: v in HVPS),
    "hvp_step": POSITIVE,
    "curvature_fraction": FRACTION,
    "cg_iterations": COUNT,
    "cg_residual_tol": NON_NEGATIVE,
    "cg_damping": NON_NEGATIVE,
    "line_search_steps": COUNT,
    "line_search_ratio": OPEN_UNIT,
    "lr": POSITIVE,
    "num_epochs": COUNT,
    "minibatch_size": COUNT,
    "clip_param": OPEN_UNIT,
    "entropy_coeff": NON_NEGATIVE,
    "hidden_sizes": (
        "a sequence of positive integers",
        lambda v: isinstance(v, tuple) and len(v) > 0 and all(COUNT[1](width) for width in v),
    ),
    "activation": one_of(tuple(ACTIVATIONS)),
    "layer_norm": BOOL,
    "conv_filters": (
        "None or a sequence of [channels, kernel size, stride], positive integers",
        lambda v: v is None or (isinstance(v, tuple) and all(map(_is_filter, v))),
    ),
    "recurrent": (f"None or {' or '.join(GATES)}", lambda v: v is None or v in tuple(GATES)),
    "recurrent_size": COUNT,
    "adapt_only": (
        "a sequence of beginnings of parameters' names",
        lambda v: isinstance(v, tuple) and all(isinstance(name, str) and name for name in v),
    ),
    "module": (
        "None, package.module:Class, a torch.nn.Module, or a class or function that makes one",
        lambda v: (
            v is None or callable(v) or isinstance(v, RLModuleSpec) or (isinstance(v, str) and ":" in v)
        ),
    ),
    "initial_std": POSITIVE,
    "min_std": POSITIVE,
    "seed": SEED,
    "sample_timeout_s": POSITIVE,
    "num_env_runners": COUNT_OR_ZERO,
    "num_cpus_per_env_runner": NON_NEGATIVE,
    "num_gpus_per_env_runner": NON_NEGATIVE,
    "num_learners": COUNT_OR_ZERO,
    "num_cpus_per_learner": ("a number >= 0 or 'auto'", lambda v: v == "auto" or NON_NEGATIVE[1](v)),
    "num_gpus_per_learner": NON_NEGATIVE,
    "evaluation_interval": ("a positive integer or None", lambda v: v is None or COUNT[1](v)),
    "evaluation_duration": COUNT,
}
RESOURCES = {name for name in RULES if name.startswith("num_") and name != "num_epochs"}
_EVALUATION = ("evaluation_interval", "evaluation_duration")
_NOT_OF_TRAINING = {"seed", "sample_timeout_s", *RESOURCES, *_EVALUATION}
TRAINING_FIELDS = tuple(name for name in RULES if name not in _NOT_OF_TRAINING)
"""The fields that ``MAMLConfig.training`` sets."""
