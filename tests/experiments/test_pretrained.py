"""The policies that come with the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maml_rl.cli.app import main
from maml_rl.experiments.evaluation import evaluate
from maml_rl.experiments.held_out import HeldOut
from maml_rl.experiments.presets import get_experiment
from maml_rl.policies.policy_file import PolicyFileError, load_policy, pretrained_policy, shipped_policies

SHIPPED = shipped_policies()


def test_there_are_some() -> None:
    assert "half-cheetah-dir" in SHIPPED


@pytest.mark.parametrize("preset", SHIPPED)
def test_a_shipped_policy_is_that_of_its_preset_and_adapts(preset: str) -> None:
    if preset.startswith("metaworld"):
        pytest.importorskip("metaworld", reason="an optional package")
    path = pretrained_policy(preset)
    assert path.stat().st_size < 200 * 1024
    policy = load_policy(path)
    config = get_experiment(preset).make_config()
    assert policy.info["preset"] == preset
    assert policy.info["method"] == ("guided" if preset == "ant-dir" else "maml")
    assert (policy.info["env"], policy.info["env_config"]) == (config.env, config.env_config)
    assert policy.info["inner_lr"] == config.inner_lr
    held_out = HeldOut(policy, tasks=4, episodes=10, steps=1, seed=1)
    before, after = evaluate(held_out.make_env(), held_out.protocol, held_out.tasks).mean
    assert after > before


def test_evaluate_pretrained_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    size = ["--tasks", "2", "--episodes", "2", "--steps", "1", "--num-workers", "0", "--json"]
    assert main(["evaluate", "half-cheetah-dir", "--pretrained", *size]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["preset"], result["tasks"], len(result["mean"])) == ("half-cheetah-dir", 2, 2)
    assert list(tmp_path.iterdir()) == []
    assert main(["evaluate", "half-cheetah", "--pretrained"]) == 2
    told = capsys.readouterr().err
    assert "no policy of 'half-cheetah' comes with the package" in told
    assert "there are: ant-dir, " in told


def test_what_is_not_shipped() -> None:
    with pytest.raises(PolicyFileError, match=r"no policy of '\.\./x'"):
        pretrained_policy("../x")
