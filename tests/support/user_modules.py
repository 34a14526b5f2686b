"""Networks and RLModules as users write them."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn


class Net(nn.Module):
    """Made the way ``module`` is: with the observation space and the number of outputs."""

    def __init__(self, observation_space: Any, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(observation_space.shape[0], 6), nn.SiLU(), nn.LayerNorm(6))
        self.head = nn.Linear(6, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class ByKey(nn.Module):
    """Reads a dictionary of observations."""

    def __init__(self, observation_space: Any, outputs: int) -> None:
        super().__init__()
        position, code = observation_space["position"], observation_space["code"]
        self.position, self.code = nn.Linear(position.shape[0], 4), nn.Linear(int(code.n), 4)
        self.head = nn.Linear(8, outputs)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        return self.head(torch.tanh(torch.cat([self.position(x["position"]), self.code(x["code"])], -1)))


class Remembers(nn.Module):
    """A GRU of torch's."""

    def __init__(self, observation_space: Any, outputs: int) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(observation_space.shape[0], 5, batch_first=True), nn.Linear(5, outputs)

    def initial_state(self, n: int) -> Tensor:
        return torch.zeros(1, n, 5)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        states, state = self.cell(x, state)
        return self.head(states), state


class Module(TorchRLModule):
    """An RLModule: inputs of RLlib's action distribution."""

    def setup(self) -> None:
        width, size = self.model_config["width"], self.observation_space.shape[0]
        outputs = 2 * self.action_space.shape[0] if self.action_space.shape else int(self.action_space.n)
        self.net = nn.Sequential(nn.Linear(size, width), nn.Tanh(), nn.Linear(width, outputs))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: self.net(batch[Columns.OBS])}


class StatefulModule(TorchRLModule):
    """An RLModule with a state."""

    def setup(self) -> None:
        self.cell = nn.GRU(self.observation_space.shape[0], 5, batch_first=True)
        self.net = nn.Linear(5, 2 * self.action_space.shape[0])

    def get_initial_state(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(5)}

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        states, h = self.cell(batch[Columns.OBS], batch[Columns.STATE_IN]["h"][None].contiguous())
        return {Columns.ACTION_DIST_INPUTS: self.net(states), Columns.STATE_OUT: {"h": h[0]}}
