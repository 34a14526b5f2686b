"""Images: boxes of bytes get convolutions by themselves.

A walker is seen from above and moves in four directions to a place that only the reward reveals: the environment
that the package calls ``maml_rl/VisualNav-v0``. Expect, in about a minute: the return after one gradient step rises
from about -12 to above -8 in 15 iterations, that before it stays near -12.

    python examples/image_observation.py
"""

from __future__ import annotations

import argparse

from maml_rl import MAMLConfig


def main(iterations: int) -> None:
    config = (
        MAMLConfig()
        .environment("maml_rl/VisualNav-v0")
        .training(
            conv_filters=(
                (16, 3, 2),
                (32, 3, 2),
            ),  # channels, kernel size, stride: also what is chosen by itself
            hidden_sizes=(64,),
            inner_lr=0.5,
            horizon=20,
            gae_lambda=0.8,
            hvp="exact",
        )
    )
    algo = config.build_algo()
    for i in range(iterations):
        result = algo.train()
        print(f"{i + 1}: return {result['return_pre']:.2f} -> {result['return_post']:.2f}")
    algo.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=15)
    main(parser.parse_args().iterations)
