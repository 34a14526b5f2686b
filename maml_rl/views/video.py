"""A policy before and after adaptation, side by side, as MP4 or GIF; needs no display.

One that remembers is shown in the first and in the last episode of a trial, one that does neither in an episode.
"""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from maml_rl.envs import make_task_env
from maml_rl.envs.base import TaskVectorEnv
from maml_rl.envs.offscreen import wanted_backend
from maml_rl.envs.rollout import Phase, State, rollout, stream
from maml_rl.envs.spaces import misfit
from maml_rl.experiments.evaluation import adaptation
from maml_rl.experiments.held_out import HeldOut
from maml_rl.experiments.methods import METHODS
from maml_rl.learning.meta_learner import Params
from maml_rl.policies.normalizer import Normalizer
from maml_rl.policies.policy import Policy
from maml_rl.tools.progress import Show, unseen
from maml_rl.tools.run_directory import check_output
from maml_rl.tools.time_limit import time_limit

MAX_FPS = {".mp4": 240, ".gif": 50}
"""Formats, and their highest frame rates: browsers slow a GIF that asks for more than 50 down to 10."""
MAX_REAL_TIME_FPS = 50
"""Where time steps are shorter than 1/50 s, real time shows every second, third, ... state."""
SIZES = range(64, 2049)
"""Allowed widths and heights of each of the two pictures."""
_GAP = 8  # pixels between the two pictures


class VideoError(ValueError):
    """A video cannot be made as asked."""


@dataclass(frozen=True)
class Episode:
    """A filmed episode: pictures of states 0, stride, 2 stride, ... and of the last one; all the rewards."""

    pictures: Sequence[np.ndarray]
    rewards: np.ndarray
    stride: int

    def picture(self, frame: int) -> np.ndarray:
        """What a frame of the video shows; after the episode's end its last picture."""
        return self.pictures[min(frame, len(self.pictures) - 1)]

    @property
    def frames(self) -> int:
        """Until all steps are taken."""
        return 1 + math.ceil(len(self.rewards) / self.stride)

    def steps(self, frame: int) -> int:
        """Steps taken by a frame."""
        return min(frame * self.stride, len(self.rewards))

    def return_at(self, frame: int) -> float:
        """Undiscounted return by a frame."""
        return float(self.rewards[: self.steps(frame)].sum())


@dataclass(frozen=True)
class Video:
    """What ``make_video`` wrote: the file, its frames and rate, and the return of each episode by its caption."""

    path: Path
    frames: int
    fps: float
    returns: Mapping[str, float]


def make_video(
    held_out: HeldOut,
    output: Path,
    *,
    task: Sequence[float] | None = None,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    show: Show = unseen,
) -> Video:
    """Adapt to a task as the evaluation does, film one episode before and one after, and write the video.

    Both episodes start from the same state and see the same noise. Of a policy that is not adapted a trial is
    filmed, and its first and last episode shown. The file appears whole or not at all.

    Args:
        held_out: policy, number of gradient steps, seed.
        output: ``*.mp4`` or ``*.gif``; an existing file is replaced.
        task: the task's numbers; None is the first held-out task.
        fps: frames per second; by default what shows the environment in real time.
        size: width and height of each picture; by default the environment's.
        show: told the progress of adaptation, filming and writing.

    Raises:
        ValueError: wrong input, an environment that cannot be rendered, no OpenGL; before the work begins.
    """
    wanted_backend()  # MuJoCo refuses what it does not know as soon as it is imported
    check_output(output, tuple(MAX_FPS))
    protocol, name = held_out.protocol, held_out.info["env"]
    if protocol.steps < METHODS[held_out.info["method"]].adapts or protocol.seed < 0:
        raise VideoError(f"steps is {protocol.steps}, seed is {protocol.seed}; they must be at least 1 and 0")
    with closing(_camera_env(held_out, size)) as camera:
        chosen = held_out.tasks[0] if task is None else task_from_numbers(camera, task, name)
        stride, fps = frame_rate(camera.metadata.get("render_fps") or 30, fps, output.suffix.lower())
        camera.set_task(chosen)
        camera.reset(seed=protocol.seed)
        camera.render()  # what keeps it from being rendered shows here
        header = f"{name.rpartition('/')[2]}: {camera.describe_task()}"
        episodes = _film(held_out, camera, chosen, stride, show)
    frames = max(episode.frames for episode in episodes.values())
    write_video(_counted(side_by_side(episodes, header), frames, show), output, fps)
    returns = {caption: float(episode.rewards.sum()) for caption, episode in episodes.items()}
    return Video(output, frames, fps, returns)


def _film(
    held_out: HeldOut,
    camera: TaskVectorEnv,
    task: Any,
    stride: int,
    show: Show,
) -> dict[str, Episode]:
    """By caption the episodes that are shown."""
    protocol = held_out.protocol

    def film(stacked: Params, what: str) -> dict[int, Episode]:
        def on_step(step: int) -> None:
            show(what, step, camera.max_episode_steps)

        seed = stream(protocol.seed, Phase.VIDEO)
        policy = {name: value[0].detach().numpy() for name, value in stacked.items()}
        limit_s = protocol.sample_timeout_s
        with time_limit(limit_s, f"filming took longer than sample_timeout_s={limit_s:g} s"):
            return film_episodes(
                camera, task, protocol.spec, policy, seed, stride, on_step, protocol.normalizer
            )

    if protocol.steps == 0:
        episodes = film(protocol.initial_params(0, 1)[0], "filming")
        if len(episodes) == 1:
            return {"without adaptation": episodes[0]}
        return {f"in episode {number + 1}": episode for number, episode in episodes.items()}

    after = f"after {protocol.steps} gradient step{'s' if protocol.steps > 1 else ''}"
    params: list[Params] = []
    with closing(held_out.make_env()) as env:
        for stacked, (trajectories,), *_ in adaptation(env, protocol, [task]):
            if fault := trajectories.fault():
                raise VideoError(f"adaptation diverged after {len(params)} gradient step(s): {fault}")
            params.append(stacked)
            show("adapting", len(params), protocol.steps + 1)
    return {
        "before adaptation": film(params[0], "filming before adaptation")[0],
        after: film(params[-1], "filming after adaptation")[0],
    }


def _camera_env(held_out: HeldOut, size: tuple[int, int] | None) -> TaskVectorEnv:
    """One copy of the policy's environment, ready to draw pictures of ``size``."""
    info, spec = held_out.info, held_out.protocol.spec
    if size is not None and not all(length in SIZES for length in size):
        raise VideoError(f"size is {size[0]} x {size[1]}; both must be from {SIZES[0]} to {SIZES[-1]} pixels")
    env = make_task_env(info["env"], 1, info["horizon"], info["env_config"], render_mode="rgb_array")
    if size is not None:
        env.render_size = size
    if why := misfit(spec, env):
        raise VideoError(f"{info['env']}: {why}")
    return env


# --- checks


def task_from_numbers(env: TaskVectorEnv, numbers: Sequence[float], name: str) -> np.ndarray:
    """The task that ``numbers`` describe, in the shape of the environment's own tasks.

    Raises:
        ValueError: not as many numbers as a task has, or not a task of the environment.
    """
    example = env.sample_tasks(1, np.random.default_rng(0))[0]
    if np.asarray(example).dtype.kind not in "fiu":
        raise VideoError(
            f"task is {list(numbers)}, but a task of {name} is no numbers, for example {example!r}"
        )
    shape = np.shape(example)
    if len(numbers) != math.prod(shape):
        raise VideoError(f"task is {list(numbers)}; a task of {name} has {math.prod(shape)} number(s)")
    task = np.array(numbers, np.float64).reshape(shape)
    env.set_task(task)
    return task


def frame_rate(real_time: float, fps: float | None, suffix: str) -> tuple[int, float]:
    """Steps per frame and frames per second, for an environment with ``real_time`` steps per second.

    Which states are shown does not depend on ``fps``: a lower rate is slow motion.
    """
    stride = max(1, math.ceil(real_time / MAX_REAL_TIME_FPS))
    rate = real_time / stride if fps is None else fps
    if not 0 < rate <= MAX_FPS[suffix]:
        raise VideoError(f"fps is {rate:g}; for {suffix} it must be above 0 and at most {MAX_FPS[suffix]}")
    return stride, rate


# --- pictures


def film_episodes(
    env: TaskVectorEnv,
    task: Any,
    spec: Policy,
    params: Mapping[str, np.ndarray],
    seed: np.random.SeedSequence,
    stride: int = 1,
    on_step: Callable[[int], None] = lambda step: None,
    normalizer: Normalizer | None = None,
) -> dict[int, Episode]:
    """An episode of the environment's first copy, by its number 0; of a trial the first one and the last.

    There is a picture of every ``stride``-th state and of the last; where a trial goes on there is no last one, but
    the first of the next episode.
    """
    last = env.trial_episodes - 1
    pictures: dict[int, list[np.ndarray]] = {0: [], last: []}
    begun = dict.fromkeys(pictures, 0)
    numbers: list[int] = []  # of the episode of each step

    def take(number: int) -> None:
        frames: Any = env.render()
        pictures[number].append(frames[0])

    def on_state(state: State) -> None:
        if state.steps:
            numbers.append(int(env.episode_numbers[0]))
        number = min(int(env.running_episodes[0]), last)
        if number in pictures:
            if not pictures[number]:
                begun[number] = state.steps
            if (state.steps - begun[number]) % stride == 0:
                take(number)
        on_step(state.steps)

    trajectories = rollout(env, task, spec, params, seed, on_state, normalizer=normalizer)
    length = int(trajectories.lengths[0])
    if (length - begun[last]) % stride:
        take(last)
    rewards, of_step = trajectories.rewards[0, :length], np.array(numbers)
    return {number: Episode(pictures[number], rewards[of_step == number], stride) for number in pictures}


def side_by_side(episodes: Mapping[str, Episode], header: str) -> Iterator[Image.Image]:
    """The video's frames: the episodes' pictures with captions. Width and height are even, as H.264 needs."""
    height, width, _ = next(iter(episodes.values())).pictures[0].shape
    font_size = max(11, width // 28)
    font, line = ImageFont.load_default(font_size), round(1.4 * font_size)
    size = (len(episodes) * (width + _GAP) - _GAP, height + 3 * line + line // 2)
    for frame in range(max(episode.frames for episode in episodes.values())):
        image = Image.new("RGB", (size[0] + size[0] % 2, size[1] + size[1] % 2), "white")
        draw = ImageDraw.Draw(image)
        draw.text((_GAP, line // 8), header, fill="black", font=font)
        for place, (caption, episode) in enumerate(episodes.items()):
            left = place * (width + _GAP)
            image.paste(Image.fromarray(episode.picture(frame)), (left, line + line // 4))
            numbers = f"step {episode.steps(frame)}, return {episode.return_at(frame):.1f}"
            text = f"{caption}\n{numbers}"
            draw.multiline_text((left + _GAP, height + line * 1.25), text, fill="black", font=font)
        yield image


def _counted(frames: Iterator[Image.Image], count: int, show: Show) -> Iterator[Image.Image]:
    for number, frame in enumerate(frames, 1):
        yield frame
        show("writing", number, count)


# --- files


def write_video(frames: Iterator[Image.Image], output: Path, fps: float) -> None:
    """Write MP4 or GIF, by the suffix, so that the file appears whole or not at all."""
    temporary = output.with_name(f".{output.stem}.{os.getpid()}.tmp{output.suffix}")
    write = _write_gif if output.suffix.lower() == ".gif" else _write_mp4
    try:
        write(frames, temporary, fps)
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)


def _write_gif(frames: Iterator[Image.Image], path: Path, fps: float) -> None:
    palette = (frame.quantize(64, dither=Image.Dither.NONE) for frame in frames)
    first = next(palette)
    first.save(path, save_all=True, append_images=palette, duration=round(1000 / fps), loop=0)


def _write_mp4(frames: Iterator[Image.Image], path: Path, fps: float) -> None:
    """H.264 with 4:2:0 colours and the index in front: what browsers play, while still loading."""
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        ffmpeg = get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise VideoError(
            f"MP4 needs ffmpeg, from the package imageio-ffmpeg ({error}); or write a GIF"
        ) from error
    first = next(frames)
    source = f"-f rawvideo -pix_fmt rgb24 -s {first.width}x{first.height} -r {fps:g} -i -"
    target = "-c:v libx264 -preset veryfast -crf 23 -pix_fmt yuv420p -movflags +faststart"
    command = [ffmpeg, "-v", "error", "-y", *source.split(), *target.split(), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        try:
            for frame in chain([first], frames):
                process.stdin.write(frame.tobytes())
            process.stdin.close()
        except BrokenPipeError:  # ffmpeg says why
            pass
        message = process.stderr.read().decode(errors="replace").strip()
    if process.returncode:
        raise OSError(f"ffmpeg ended with status {process.returncode}: {message}")
