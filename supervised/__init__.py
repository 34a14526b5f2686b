"""Supervised meta-learning with ``maml_rl.meta_learner``: sinusoid regression and few-shot classification.

Not built yet: this package holds its name only.
"""
