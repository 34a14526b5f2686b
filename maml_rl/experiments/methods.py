"""MAML, the baselines that the paper compares it with (Finn et al. 2017, sec. 5.3, 6.2, app. B), guided MAML.

A method is a change of an experiment's configuration and a way to begin adaptation: all of them are trained,
evaluated and plotted by the same commands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from maml_rl.envs import TASK_IN_OBSERVATION
from maml_rl.envs.trials import TRIAL_EPISODES
from maml_rl.experiments.presets import Experiment
from maml_rl.rllib.config import MAMLConfig

MethodName = Literal[
    "maml", "first-order", "pretrained", "random", "oracle", "context-vector", "guided", "rl2"
]

GUIDED: MethodName = "guided"
RL2: MethodName = "rl2"


@dataclass(frozen=True)
class Method:
    """How a method differs from MAML.

    Attributes:
        summary: one line for help and tables.
        configure: sets the fields that differ.
        iterations: of a full run; None is the experiment's own number, 0 trains nothing.
        adapts: whether its policy takes gradient steps at test time.
    """

    summary: str
    configure: Callable[[MAMLConfig], MAMLConfig]
    iterations: int | None = None
    adapts: bool = True


NO_INNER_STEP: dict[str, Any] = {"inner_steps": 0, "inner_loss": "log_prob"}
"""With the loss of a step that there is not at its default, whichever the experiment's is."""


def _single_policy(config: MAMLConfig) -> MAMLConfig:
    """TRPO on 100 episodes per iteration (code), five each of 20 tasks: episodes of a task step together."""
    return config.training(**NO_INNER_STEP, meta_batch_size=20, episodes_per_task=5)


def _told_the_task(config: MAMLConfig) -> MAMLConfig:
    return _single_policy(config).environment(
        env_config={**config.env_config, TASK_IN_OBSERVATION: True},
    )


def _remembers(config: MAMLConfig) -> MAMLConfig:
    """PPO over whole trials (Duan et al. 2016: TRPO); sizes from trials on point navigation: see docs/log.md."""
    return config.training(
        **NO_INNER_STEP,
        outer_update="ppo",
        recurrent="gru",
        hidden_sizes=(64,),
        activation="tanh",
        meta_batch_size=40,
        episodes_per_task=4,
        num_epochs=6,
        minibatch_size=4000,
        lr=0.003,
        max_kl=0.05,
        entropy_coeff=0.01,
    )


METHODS: dict[str, Method] = {
    "maml": Method("model-agnostic meta-learning", lambda config: config),
    "first-order": Method(
        "MAML without second derivatives", lambda config: config.training(first_order=True)
    ),
    "pretrained": Method(
        "one policy for all tasks, then fine-tuned", _single_policy, iterations=1000
    ),  # code
    "random": Method("fresh weights, then fine-tuned", _single_policy, iterations=0),
    "oracle": Method("one policy that is told the task", _told_the_task, iterations=1000, adapts=False),
    "context-vector": Method(
        "only free parameters beside the observation are adapted (Rei 2015)",
        # Sizes are not published for RL. With inner_lr 0.5 point navigation beats the paper (docs/log.md).
        lambda config: config.training(context_size=10, inner_lr=0.5),
    ),
    GUIDED: Method(
        "MAML that imitates an oracle (Mendonca et al. 2019)",
        # The loss has little noise: what bounds the step is only how far its expansion holds. With 0.5 two of four
        # seeds of point navigation fell back to less than -100 (docs/log.md).
        lambda config: config.training(max_kl=0.2),
        iterations=200,
    ),
    RL2: Method(
        "a recurrent policy that remembers the episodes of a task (Duan et al. 2016)",
        _remembers,
        iterations=500,
        adapts=False,
    ),
}


def configure(experiment: Experiment, method: MethodName) -> tuple[MAMLConfig, int]:
    """Configuration and number of iterations of ``method`` in an experiment.

    Raises:
        ValueError: there is no such method.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; it must be one of: {', '.join(get_args(MethodName))}")
    chosen = METHODS[method]
    config = chosen.configure(experiment.make_config())
    iterations = chosen.iterations
    if method == RL2:
        iterations = experiment.rl2_iterations or iterations
        config.environment(env_config={**config.env_config, TRIAL_EPISODES: experiment.trial_episodes})
        config.training(**experiment.rl2)
    if method in experiment.inner_lr:
        config.training(inner_lr=experiment.inner_lr[method])
    return config, experiment.iterations if iterations is None else iterations
