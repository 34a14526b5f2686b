"""MAML as an algorithm of Ray RLlib: configuration, algorithm, learner and env runners.

Importing this package registers the name "MAML" with Ray Tune.
"""

from maml_rl.rllib.config import MAMLConfig
from maml_rl.rllib.maml import MAML

__all__ = ["MAML", "MAMLConfig"]
