import numpy as np
import torch
from torch import nn

from supervised import Episodes, Examples, MetaLearner


def lines(rng: np.random.Generator, tasks: int) -> Episodes:
    """Tasks: straight lines, 5 support and 10 query points each."""
    slope, offset = rng.uniform(-2, 2, (2, tasks, 1, 1))
    points = rng.uniform(-1, 1, (tasks, 15, 1))
    y = torch.from_numpy(slope * points + offset).float()
    x = torch.from_numpy(points).float()
    return Episodes(Examples(x[:, :5], y[:, :5]), Examples(x[:, 5:], y[:, 5:]))


torch.manual_seed(0)
model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
learner = MetaLearner(model, nn.functional.mse_loss, inner_lr=0.1, learn_inner_lr="layer")
learner.fit(lines, iterations=500, meta_batch_size=16, seed=0)
print(learner.evaluate(lines, episodes=100, steps=3).losses.mean(1))  # after 0, 1, 2, 3 steps

support = lines(np.random.default_rng(1), 1).support
adapted = learner.adapt(support.inputs[0], support.targets[0])  # a module
