"""Supervised meta-learning with ``maml_rl.learning.meta_learner``: sinusoid regression and few-shot classification.

The lines of Algorithm 2 (Finn et al. 2017):

====  =========================================================================================
line  where
====  =========================================================================================
3, 5  ``data.sinusoid.SinusoidSampler``, ``data.image_tasks.FewShotSampler``, or your own sampler
6, 7  ``maml_rl.learning.meta_learner.adapt``, through ``learning.meta_step.adapted_params``
8, 10 ``learning.meta_step.meta_gradient``, ``learning.trainer.MetaTrainer``
====  =========================================================================================
"""

from supervised.data.episodes import Episodes, Examples
from supervised.meta_learner import MetaLearner

__all__ = ["Episodes", "Examples", "MetaLearner"]
