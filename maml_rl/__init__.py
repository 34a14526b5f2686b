"""Distributed meta-reinforcement learning: MAML with a TRPO meta-update on Ray RLlib.

Algorithm 3 of Finn, Abbeel & Levine 2017 (arXiv 1703.03400), line by line:

====  ==============================================================  ==========================================
line  what happens                                                    where
====  ==============================================================  ==========================================
all   one meta-iteration, in the algorithm's own order                ``rllib.maml.MAML._meta_iteration``
3     sample a batch of tasks                                         ``envs.base.TaskVectorEnv.sample_tasks``
5, 8  K episodes per task, with theta and with every theta'_i         ``rllib.dispatch.collect``,
                                                                      ``envs.rollout.rollout``
6-7   theta'_i = theta - alpha grad L_i(D_i), all tasks at once       ``rllib.learner.MAMLLearner.adapt``,
                                                                      ``learning.meta_learner.adapt``
10    one trust-region step on the mean post-adaptation surrogate     ``learning.meta_update.meta_update``,
                                                                      ``learning.trpo.trust_region_step``
====  ==============================================================  ==========================================

(Line 10 with Adam's steps in place of the trust-region step: ``learning.ppo``.) The rooms: ``policies`` are what is
adapted, ``learning`` is the mathematics, ``envs`` the task families and rollouts, ``rllib`` the Ray skin,
``experiments`` the paper, ``views`` and ``cli`` what people see and type, ``tools`` the rest. Importing this
package imports neither Ray nor torch until one of its names is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maml_rl.rllib import MAML, MAMLConfig

__all__ = ["MAML", "MAMLConfig"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from maml_rl import rllib

        return getattr(rllib, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
