"""Distributed meta-reinforcement learning: MAML with a TRPO meta-update on Ray RLlib.

Algorithm 3 of Finn, Abbeel & Levine 2017 (arXiv 1703.03400), line by line:

====  =============================================================  =========================================
line  what happens                                                   where
====  =============================================================  =========================================
3     sample a batch of tasks                                        ``envs``: ``TaskVectorEnv.sample_tasks``
5     K episodes per task with theta                                 ``env_runner.collect`` -> ``rollout.rollout``
6-7   theta'_i = theta - alpha grad L_i(D_i), all tasks at once      ``learner.adapt`` -> ``meta_learner.adapt``
8     K episodes per task with theta'_i                              as line 5
10    one trust-region step on the mean post-adaptation surrogate    ``meta_update.meta_update`` -> ``trpo``
====  =============================================================  =========================================

(Line 10 with Adam's steps in place of the trust-region step: ``ppo``.) ``MAML._meta_iteration`` in ``maml.py``
reads like the algorithm. Importing this package imports neither Ray nor torch until one of its names is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maml_rl.config import MAMLConfig
    from maml_rl.maml import MAML

__all__ = ["MAML", "MAMLConfig"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from maml_rl import maml  # also registers the name "MAML" with Ray Tune

        return getattr(maml, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
