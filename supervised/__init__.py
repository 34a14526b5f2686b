"""Supervised meta-learning with ``maml_rl.meta_learner``: sinusoid regression and few-shot classification.

The lines of Algorithm 2 (Finn et al. 2017):

====  ==========================================================================
line  where
====  ==========================================================================
3, 5  ``sinusoid.SinusoidSampler``, ``image_tasks.FewShotSampler``, or your own
6, 7  ``maml_rl.meta_learner.adapt``, through ``meta_step.adapted_params``
8, 10 ``meta_step.meta_gradient``, ``trainer.MetaTrainer``
====  ==========================================================================
"""

from supervised.episodes import Episodes, Examples
from supervised.meta_learner import MetaLearner

__all__ = ["Episodes", "Examples", "MetaLearner"]
