"""A policy for others: the file, what it was trained on, and a card that says how good it is and how to load it.

The layout is that of model hubs::

    README.md             the card, with the front matter that hubs read
    policy.safetensors    the policy
    config.json           the run's description: configuration, seed, commit, machine, versions
    adaptation.json       what ``maml-rl evaluate`` measured, if it did
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from maml_rl.envs.naming import naming_options
from maml_rl.experiments.evaluation import AdaptationResult, markdown_table
from maml_rl.experiments.methods import METHODS
from maml_rl.experiments.run import Run
from maml_rl.policies.policy_file import POLICY, PolicyFile, save_policy
from maml_rl.tools.command_line import shell_line
from maml_rl.tools.files import write_atomically
from maml_rl.tools.run_directory import RunError

_NOT_OF_A_POLICY = ("policy", "training")
"""Of a checkpoint's description: what the policy's own form says, and what only training goes on from."""


def export(run: Run, which: str, folder: Path) -> list[Path]:
    """Write a policy of ``run`` and its card into a new folder; returns the files.

    Raises:
        RunError: the folder is not empty or cannot be written, or the run has no policy.
    """
    policy, description, measured = run.policy(which), run.description(), run.adaptation()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"to is {str(folder)!r}, which exists and is not an empty folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        info = {name: value for name, value in policy.info.items() if name not in _NOT_OF_A_POLICY}
        save_policy(folder / POLICY, policy.spec, policy.meta_params(), info)
        shutil.copyfile(run.path / "config.json", folder / "config.json")
        files = [POLICY, "config.json"]
        if measured:
            shutil.copyfile(run.path / "adaptation.json", folder / "adaptation.json")
            files.append("adaptation.json")
        card = "\n".join(_card(policy, description, measured)) + "\n"
        write_atomically(folder / "README.md", card.encode())
    except OSError as error:
        raise RunError(f"to is {str(folder)!r}, which cannot be written: {error.strerror}") from error
    return [folder / name for name in ("README.md", *files)]


def _card(
    policy: PolicyFile, description: Mapping[str, Any], measured: Mapping[str, Any] | None
) -> Iterator[str]:
    info = policy.info
    config, versions = description["config"], description.get("versions", {})
    yield "---"
    yield "library_name: maml_rl"
    yield "tags: [reinforcement-learning, meta-learning, maml]"
    yield "---"
    yield f"\n# {info['preset']}, {info['method']}\n"
    yield (
        f"A policy for tasks of `{info['env']}`, meta-trained with maml_rl by the method `{info['method']}` "
        f"({METHODS[info['method']].summary}); of iteration {info['iteration']}, seed {info.get('seed', '?')}."
    )
    yield "\n## Returns on held-out tasks\n"
    if measured is None:
        yield "Not measured."
    else:
        result = AdaptationResult(np.array(measured["returns"], np.float64), of_trials="episode" in measured)
        name = f"{info['method']}, iteration {measured['iteration']}"
        rows = {name: list(zip(result.mean.tolist(), result.interval.tolist(), strict=True))}
        yield markdown_table(rows, of_trials=result.of_trials)
        same = (
            "" if measured["iteration"] == info["iteration"] else "; measured of another iteration's policy"
        )
        yield (
            f"\n{measured['tasks']} tasks, {measured['episodes']} episodes per step, mean ± 95 % interval over "
            f"tasks{same}."
        )
    yield "\n## How to load it\n"
    options = naming_options(info["env"], config.get("module"))
    yield f"```bash\n{shell_line('maml-rl', 'evaluate', 'FOLDER', '--pretrained', *options)}\n```\n"
    yield "```python"
    yield "from pathlib import Path\n"
    yield "from maml_rl.experiments.held_out import HeldOut"
    yield "from maml_rl.policies.policy_file import load_policy\n"
    yield f'held_out = HeldOut(load_policy(Path("FOLDER/{POLICY}")), env={info["env"]!r})'
    yield "```\n"
    yield "The file is safetensors with a JSON header; nothing in it is executed."
    yield "\n## How it was trained\n"
    yield "| | |\n|---|---|"
    told = {"commit": description.get("commit"), "started": description.get("started"), **versions}
    for name, value in {**config, **told}.items():
        text = json.dumps(value).replace("|", "\\|")
        yield f"| `{name}` | `{text}` |"
