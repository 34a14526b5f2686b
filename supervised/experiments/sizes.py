"""Refuse an experiment that this machine could not hold in memory."""

from __future__ import annotations

import itertools
import math

from maml_rl.tools.memory_size import Need, check_fits, total_memory
from supervised.experiments.config import ExperimentConfig

_FLOAT = 4


def check_sizes(config: ExperimentConfig, inputs: int) -> None:
    """Compare the least that training needs with the memory that is there.

    The estimate counts drawn tasks and adapted weights of the hidden layers, and nothing else: more is needed in
    fact.

    Args:
        inputs: numbers in one input.

    Raises:
        ValueError: naming the fields, what they need and what is there.
    """
    examples = config.ways * (config.shots + config.query)
    widths = [inputs, *config.hidden_sizes] if config.hidden_sizes else [9 * config.filters, config.filters]
    weights = sum(math.prod(pair) for pair in itertools.pairwise(widths)) + config.context_size * widths[-1]
    # Images are drawn as bytes, points as floats.
    each = inputs * (_FLOAT if config.problem == "sinusoid" else 1)
    tasks = f"ways {config.ways}, shots {config.shots}, query {config.query}"
    network = (
        f"hidden_sizes {config.hidden_sizes}, filters {config.filters}, context_size {config.context_size}"
    )
    chunk = config.tasks_per_chunk or config.meta_batch_size
    steps = config.inner_steps * (config.method != "first-order") + 1
    adapted = f"{network}, inner_steps {config.inner_steps}, {chunk} tasks at once"
    check_fits(
        [
            Need("the inputs of a task", tasks, each * examples),
            *(
                Need(
                    "the inputs of all tasks",
                    f"{name} {getattr(config, name)}, {tasks}",
                    count * each * examples,
                )
                for name in ("meta_batch_size", "validation_episodes", "test_episodes")
                if (count := getattr(config, name))
            ),
            Need("the weights", network, _FLOAT * weights),
            Need("the adapted weights", adapted, _FLOAT * weights * chunk * steps),
        ],
        total_memory(),
    )
