"""Help reads like a page that someone wrote: whole explanations, a preset's own defaults, no noise."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from maml_rl.cli import app
from maml_rl.cli.train import GROUPS
from maml_rl.experiments.methods import configure
from maml_rl.experiments.presets import EXPERIMENTS, get_experiment
from maml_rl.rllib.config import MAMLConfig
from maml_rl.rllib.rules import TRAINING_FIELDS
from maml_rl.tools.options import explanations
from supervised.cli import app as supervised_app
from supervised.cli.train import GROUPS as SUPERVISED_GROUPS
from supervised.experiments.config import ExperimentConfig
from supervised.experiments.presets import PRESETS, get_preset
from supervised.learning.settings import TrainingSettings

MAML_RL = ("train", "search", "evaluate", "tune-inner-lr", "plot", "video", "report", "export")
SUPERVISED = ("train", "evaluate", "plot", "compare", "table", "search", "download")
COMMANDS = [*((app.main, name) for name in MAML_RL), *((supervised_app.main, name) for name in SUPERVISED)]


@pytest.fixture
def page(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The help of a command without its frames, its lines joined. (The terminal wraps what is outside of them.)"""

    def show(main: Callable[[list[str]], int], *arguments: str, width: int = 100) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--help"])
        assert ended.value.code == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        assert all(len(line) <= width for line in captured.out.splitlines() if line[:1] in "│╭╰")
        return " ".join(re.sub("[│╭╮╰╯─]", " ", captured.out).split())

    return show


@pytest.mark.parametrize(
    ("main", "command"), COMMANDS, ids=lambda x: x if isinstance(x, str) else x.__module__
)
@pytest.mark.parametrize("width", [80, 120])
def test_no_noise_on_any_page(
    page: Callable[..., str], main: Callable[..., int], command: str, width: int
) -> None:
    text = page(main, command, width=width)
    assert "None" not in text
    assert "``" not in text
    assert "%%" not in text
    assert "fields." not in text
    for explanation in re.split(r" --(?=[a-z])", text):
        assert explanation.count("(default:") <= 1, explanation
        assert not ("by default" in explanation and "(default:" in explanation), explanation
        assert "default: the preset" not in explanation


def test_the_programs_list_their_commands(page: Callable[..., str]) -> None:
    for main, names in ((app.main, MAML_RL), (supervised_app.main, SUPERVISED)):
        text = page(main)
        assert all(f"• {name} " in text for name in names)


def test_every_field_is_explained_in_full(page: Callable[..., str]) -> None:
    text, texts = page(app.main, "train"), explanations(MAMLConfig.training)
    for name in TRAINING_FIELDS:
        assert f"--{name.replace('_', '-')} " in text
        assert texts[name].replace("%%", "%") in text, name
        assert len(texts[name]) > 10
    text, texts = page(supervised_app.main, "train"), explanations(TrainingSettings, ExperimentConfig)
    for field in dataclasses.fields(ExperimentConfig):
        if field.name not in ("problem", "method"):
            assert f"--{field.name.replace('_', '-')} " in text
            assert texts[field.name].replace("%%", "%") in text, field.name


def test_every_field_belongs_to_one_group() -> None:
    assert sorted(name for group in GROUPS.values() for name in group) == sorted(TRAINING_FIELDS)
    fields = {field.name for field in dataclasses.fields(ExperimentConfig)} - {"problem", "method"}
    grouped = [name for group in SUPERVISED_GROUPS.values() for name in group]
    assert sorted(grouped) == sorted(fields)


def shown_default(text: str, name: str) -> str | None:
    found = re.search(rf"--{name.replace('_', '-')} .*?(?:\(default: ([^)]*)\)|(?= --|$))", text)
    assert found, name
    return found[1]


@pytest.mark.parametrize("preset", EXPERIMENTS)
@pytest.mark.parametrize("method", ["maml", "oracle"])
def test_a_presets_own_defaults_are_shown(page: Callable[..., str], preset: str, method: str) -> None:
    text = page(app.main, "train", preset, "--method", method)
    config, _ = configure(get_experiment(preset), method)  # type: ignore[arg-type]
    for name in ("inner_lr", "gae_lambda", "baseline_ridge", "max_kl"):
        assert float(shown_default(text, name) or "nan") == getattr(config, name), name
    for name in ("inner_steps", "episodes_per_task", "meta_batch_size", "horizon"):
        assert shown_default(text, name) == str(getattr(config, name)), name
    assert shown_default(text, "hidden_sizes") == " ".join(map(str, config.hidden_sizes))
    assert shown_default(text, "first_order") == str(config.first_order)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_presets_own_defaults_are_shown_by_supervised(page: Callable[..., str], preset: str) -> None:
    text, config = page(supervised_app.main, "train", preset), get_preset(preset)
    for name in ("inner_lr", "meta_lr", "gradient_clip"):
        assert float(shown_default(text, name) or "nan") == pytest.approx(getattr(config, name), rel=1e-5), (
            name
        )
    for name in ("inner_steps", "ways", "shots", "iterations", "test_steps"):
        assert shown_default(text, name) == str(getattr(config, name)), name


def test_without_a_preset_the_defaults_are_the_configurations(page: Callable[..., str]) -> None:
    text = page(app.main, "train")
    assert float(shown_default(text, "gae_lambda") or "nan") == MAMLConfig().gae_lambda
    assert shown_default(text, "expert") is None


@pytest.mark.parametrize("command", ["train", "search"])
def test_the_page_of_all_commands_says_of_each_what_its_own_page_says(
    page: Callable[..., str], command: str
) -> None:
    """The two are told apart: a command that trains is imported only where it is named."""
    (summary,) = re.findall(rf"• {command} +(.*?)(?= •)", page(app.main))
    assert summary.strip() in page(app.main, command)


def test_the_page_of_all_commands_imports_neither_torch_nor_ray() -> None:
    program = (
        "import sys; from maml_rl.cli.app import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print('LOADED', {'torch', 'ray', 'gymnasium', 'mujoco'} & sys.modules.keys())"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert result.stdout.splitlines()[-1] == "LOADED set()", result.stderr
