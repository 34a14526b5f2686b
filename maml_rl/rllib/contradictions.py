"""Fields of a configuration that make no sense together."""

from __future__ import annotations

from typing import Any

from maml_rl.envs.trials import TRIAL_EPISODES
from maml_rl.tools.checks import COUNT, checked

PPO_ONLY = ("lr", "num_epochs", "minibatch_size", "clip_param", "entropy_coeff")


def reject_contradictions(config: Any, default: Any) -> None:
    """Refuse fields of a ``MAMLConfig`` that others leave without a meaning.

    Args:
        default: a configuration in which nothing was set.

    Raises:
        ValueError: naming both fields.
    """
    for name in ("first_order", "inner_loss", "learn_inner_lr", "context_size", "adapt_only", "expert"):
        if config.inner_steps == 0 and getattr(config, name) != getattr(default, name):
            raise ValueError(
                f"{name} is {getattr(config, name)!r}, but inner_steps is 0: there is no inner step"
            )
    if config.num_learners > 1:
        if config.inner_steps == 0:
            raise ValueError(
                f"num_learners is {config.num_learners}, but inner_steps is 0: one policy for all tasks has one "
                "batch, and only adaptation to tasks is shared out"
            )
        if config.num_learners > config.meta_batch_size:
            raise ValueError(
                f"num_learners is {config.num_learners}, but meta_batch_size is {config.meta_batch_size}: "
                "a learner would have no task"
            )
    if TRIAL_EPISODES in config.env_config:
        checked(TRIAL_EPISODES, config.env_config[TRIAL_EPISODES], COUNT)
        if config.inner_steps or (config.recurrent is None and config.module is None):
            raise ValueError(
                f"{TRIAL_EPISODES} is {config.trial_episodes}, but inner_steps is {config.inner_steps} and "
                f"recurrent is {config.recurrent}: trials are for recurrent policies without inner steps (RL2)"
            )
    for name in PPO_ONLY:
        value = getattr(config, name)
        if config.outer_update != "ppo" and value != getattr(default, name):
            raise ValueError(
                f"{name} is {value!r}, but outer_update is {config.outer_update!r}: it is a setting of PPO"
            )
    for name in ("expert_std_scale", "expert_clip"):
        value = getattr(config, name)
        if config.expert is None and value != getattr(default, name):
            raise ValueError(f"{name} is {value!r}, but there is no expert")
    for name, why in (("context_size", "a context takes"), ("adapt_only", "they take")):
        if config.learn_inner_lr and getattr(config, name):
            raise ValueError(
                f"learn_inner_lr is True, but {name} is {getattr(config, name)!r}: {why} fixed steps"
            )
    if config.recurrent is None and config.recurrent_size != default.recurrent_size:
        raise ValueError(f"recurrent_size is {config.recurrent_size!r}, but recurrent is None")
