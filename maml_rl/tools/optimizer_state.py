"""The state of a torch optimiser as named arrays, to be kept without pickling."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def optimizer_arrays(optimizer: torch.optim.Optimizer, params: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Everything the optimiser remembers of each parameter, as ``key/name``; empty before its first step.

    Args:
        params: by name, the very tensors that the optimiser updates, in its order.
    """
    return {
        f"{key}/{name}": torch.as_tensor(value).detach().cpu().numpy().copy()
        for name, param in params.items()
        for key, value in optimizer.state[param].items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, params: Mapping[str, Tensor], arrays: Mapping[str, np.ndarray]
) -> None:
    """Go on from what ``optimizer_arrays`` returned, on each parameter's device.

    Raises:
        ValueError: an array names no parameter.
    """
    index = {name: i for i, name in enumerate(params)}
    state: dict[int, dict[str, Tensor]] = {}
    for full_name, value in arrays.items():
        key, _, name = full_name.partition("/")
        if name not in index:
            raise ValueError(f"the optimiser's state names {name!r}, which is no parameter")
        state.setdefault(index[name], {})[key] = torch.from_numpy(value.copy())
    # Torch's own loading puts each tensor where the optimiser wants it: step counts do not always belong on a GPU.
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
