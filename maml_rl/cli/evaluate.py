"""``maml-rl evaluate`` and ``maml-rl tune-inner-lr``."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional

from maml_rl.tools.command_line import print_json
from maml_rl.tools.time_limit import SAMPLE_TIMEOUT_S

if TYPE_CHECKING:
    from maml_rl.experiments.evaluation import AdaptationResult
    from maml_rl.experiments.held_out import HeldOut
    from maml_rl.experiments.run import Run
    from maml_rl.policies.policy_file import PolicyFile

_NAMED = 5
"""Tasks that diverged are named up to this number."""


def evaluate(
    run: Positional[str],
    *,
    steps: int | None = None,
    inner_lr: float | None = None,
    episodes: int | None = None,
    tasks: int | None = None,
    seed: int = 0,
    policy: Literal["best", "latest"] = "best",
    pretrained: FlagCreatePairsOff[bool] = False,
    env: str | None = None,
    module: str | None = None,
    sample_timeout_s: float = SAMPLE_TIMEOUT_S,
    deterministic: FlagCreatePairsOff[bool] = False,
    num_workers: int | None = None,
    address: str | None = None,
    publish: FlagCreatePairsOff[bool] = False,
    json: FlagCreatePairsOff[bool] = False,
) -> None:
    """Adapt a trained policy to held-out tasks and print returns after 0 .. STEPS gradient steps.

    Results are also written into the run directory, as adaptation.csv and adaptation.json.

    Args:
        run: a run directory; with --pretrained, the preset whose shipped policy is meant, or an exported folder.
        steps: gradient steps; 3 unless given, or 0 for a policy that is not adapted (oracle, RL2).
        inner_lr: step size of the first gradient step, of which later ones take half; by default the run's.
        episodes: episodes per task and step; by default as in the paper's protocol for the preset.
        tasks: number of held-out tasks, drawn with --seed; by default the paper's own 40 tasks.
        seed: of the rollouts.
        policy: the policy with the best return after adaptation, or the latest one.
        pretrained: evaluate a policy that comes with the package or was exported; nothing is written.
        env: the run's environment, where it is not the package's own: files do not choose what is imported.
        module: likewise the network of its policy, where it is one of your own.
        sample_timeout_s: longest time that the environment may take over one task's episodes.
        deterministic: measure mean actions, in episodes beside the sampled ones that are adapted to.
        num_workers: processes of a local Ray; 0 evaluates in this process. By default one per core.
        address: Ray cluster to connect to; by default RAY_ADDRESS, else a local Ray.
        publish: also write what was trained, how, and each task's returns into one file in the folder "results".
        json: print JSON instead of a table.
    """
    from maml_rl.experiments.held_out import HeldOut
    from maml_rl.experiments.run import trained_policy

    chosen = {
        "steps": steps,
        "inner_lr": inner_lr,
        "episodes": episodes,
        "tasks": tasks,
        "seed": seed or None,
        "policy": None if policy == "best" else policy,
        "deterministic": deterministic or None,
    }

    _check_workers(num_workers)
    folder, loaded = trained_policy(run, policy, pretrained)
    held_out = HeldOut(
        loaded,
        steps=steps,
        inner_lr=inner_lr,
        episodes=episodes,
        tasks=tasks,
        seed=seed,
        env=env,
        module=module,
        sample_timeout_s=sample_timeout_s,
        deterministic=deterministic,
    )
    result = replace(_measure(held_out, num_workers, address), groups=held_out.groups)
    description = held_out.description()
    if json:
        print_json({"run": run, "policy": policy, **description, **result.as_dict()})
    else:
        _print_table(held_out, description, result)
    if folder:  # after the result was shown: a full disk does not take it away
        with folder.stored():
            result.save(folder.path, description)
    if publish:
        _publish(loaded, held_out, result, folder, chosen)


def tune_inner_lr(
    run: Positional[str],
    *,
    inner_lr: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
    steps: int = 1,
    tasks: int = 20,
    seed: int = 1,
    policy: Literal["best", "latest"] = "best",
    env: str | None = None,
    module: str | None = None,
    sample_timeout_s: float = SAMPLE_TIMEOUT_S,
    num_workers: int | None = None,
    address: str | None = None,
    json: FlagCreatePairsOff[bool] = False,
) -> None:
    """Try step sizes for fine-tuning a run's policy, on tasks that are not the test tasks.

    Args:
        run: a run directory.
        inner_lr: the step sizes to try.
        steps: gradient steps after which the returns are compared.
        tasks: number of tasks, drawn from the environment's distribution.
        seed: of the tasks and the rollouts.
        policy: the policy with the best return after adaptation, or the latest one.
        env: the run's environment, where it is not the package's own: files do not choose what is imported.
        module: likewise the network of its policy, where it is one of your own.
        sample_timeout_s: longest time that the environment may take over one task's episodes.
        num_workers: processes of a local Ray; 0 evaluates in this process. By default one per core.
        address: Ray cluster to connect to; by default RAY_ADDRESS, else a local Ray.
        json: print JSON instead of a table.
    """
    from maml_rl.experiments.evaluation import markdown_table
    from maml_rl.experiments.held_out import HeldOut
    from maml_rl.experiments.run import Run

    _check_workers(num_workers)
    if not inner_lr:
        raise ValueError("inner_lr is empty; name at least one step size")
    if steps < 1:
        raise ValueError(
            f"steps is {steps}; it must be 1 or more: without a gradient step there is no step size"
        )
    loaded = Run.open(run).policy(policy)
    candidates = [
        HeldOut(
            loaded,
            steps=steps,
            inner_lr=lr,
            tasks=tasks,
            seed=seed,
            env=env,
            module=module,
            sample_timeout_s=sample_timeout_s,
        )
        for lr in inner_lr
    ]
    results = {c.inner_lr: _measure(c, num_workers, address) for c in candidates}
    finite = {lr: result.mean[-1] for lr, result in results.items() if math.isfinite(result.mean[-1])}
    best = max(finite, key=lambda lr: finite[lr], default=None)
    if json:
        print_json({"run": run, "best": best, "mean": {k: r.mean.tolist() for k, r in results.items()}})
    else:
        rows = {f"{lr:g}": list(zip(r.mean, r.interval, strict=True)) for lr, r in results.items()}
        print(markdown_table(rows))
        for lr, result in results.items():
            if result.diverged:
                print(f"{lr:g}: {_divergence(result)}")
    if best is None:
        raise ArithmeticError(
            "inner_lr: adaptation diverges with every step size that was tried; try smaller ones"
        )
    if not json:
        print(
            f"best step size after {steps} gradient step(s): {best:g}; use it with evaluate --inner-lr {best:g}"
        )


# --- steps


def _check_workers(num_workers: int | None) -> None:
    from maml_rl.tools.checks import COUNT_OR_ZERO, checked

    if num_workers is not None:
        checked("num_workers", num_workers, COUNT_OR_ZERO)


def _print_table(held_out: HeldOut, description: dict[str, Any], result: AdaptationResult) -> None:
    from maml_rl.envs.episode_info import SUCCESS_RATE
    from maml_rl.experiments.evaluation import AdaptationResult, markdown_table

    name = f"{description['method']}, iteration {description['iteration']}"
    rows: dict[str, Sequence[tuple[float, float | None]]] = {name: _row(result)}
    for group, part in {"": result, **result.by_group}.items():
        if group:
            rows[group] = _row(part)
        if SUCCESS_RATE in part.infos:
            percent = AdaptationResult(100 * part.infos[SUCCESS_RATE])
            rows[f"{group} success in percent".strip()] = _row(percent)
    if held_out.papers_row:
        rows[held_out.source] = held_out.papers_row
    print(markdown_table(rows, of_trials=result.of_trials))
    count = result.returns.shape[1]
    actions = " of mean actions" if description["deterministic"] else ""
    print(f"({count} tasks, {held_out.episodes} episodes per step{actions}, mean ± 95 % interval over tasks)")
    if result.diverged:
        print(_divergence(result))


def _publish(
    policy: PolicyFile, held_out: HeldOut, result: AdaptationResult, run: Run | None, options: dict[str, Any]
) -> None:
    from maml_rl.experiments.published import published

    given = {name: value for name, value in options.items() if value is not None}
    path = published(policy, held_out, result, run, given).save()
    print(f"published: {path}", file=sys.stderr)


def _row(result: AdaptationResult) -> list[tuple[float, float | None]]:
    return list(zip(result.mean.tolist(), result.interval.tolist(), strict=True))


def _divergence(result: AdaptationResult) -> str:
    """Which tasks left the finite numbers, the first few by name."""
    named = [f"{task} (after {step} gradient steps)" for task, step in result.diverged.items()]
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return (
        f"adaptation diverged on {len(named)} of {result.returns.shape[1]} tasks: parameters or episodes are not "
        f"finite numbers, of task {', '.join(named[:_NAMED])}{more}; try a smaller inner_lr"
    )


def _measure(held_out: HeldOut, num_workers: int | None, address: str | None) -> AdaptationResult:
    """Evaluate, with a line of progress: in this process, or on Ray."""
    from rich.console import Console

    from maml_rl.experiments.evaluation import evaluate as evaluate_here
    from maml_rl.tools.progress import counting_display

    tasks = held_out.tasks
    with counting_display(Console(stderr=True)) as display:

        def show(done: int) -> None:
            display("evaluating tasks", done, len(tasks))

        show(0)
        if num_workers == 0:
            return evaluate_here(held_out.make_env(), held_out.protocol, tasks, on_progress=show)
        from maml_rl.experiments.parallel_evaluation import evaluate_in_parallel
        from maml_rl.tools.ray_start import start_ray

        start_ray(address, num_workers)
        return evaluate_in_parallel(held_out.make_env, held_out.protocol, tasks, on_progress=show)
