"""What a name may mean as an environment, and that files do not choose code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from maml_rl.envs import check_env_name, make_task_env
from maml_rl.envs.naming import UntrustedEnvError, check_may_import, find_target
from maml_rl.envs.point_nav import PointNav
from maml_rl.tools.user_folder import USER_FOLDER

MODULE = """
import gymnasium

class Env(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, **kwargs):
        self.kwargs = kwargs

    def sample_tasks(self, n, rng):
        return rng.uniform(size=n)

    def set_task(self, task):
        pass

class OfRLlib(Env):
    def __init__(self, config):
        self.kwargs = config

class Ends(Env):
    def __init__(self):
        raise SystemExit(0)

def make(**kwargs):
    return Env(**kwargs)

class NotAnEnv:
    pass
"""


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not started Ray, which would remember its folder."""
    monkeypatch.delenv(USER_FOLDER, raising=False)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the present folder."""
    name = f"users_module_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return name


@pytest.mark.parametrize(
    "name", ["os:system", "os:remove", "subprocess:Popen", "builtins:exec", "shutil:nothing", "builtins:eval"]
)
def test_what_is_no_environment_is_refused_before_it_is_called(name: str) -> None:
    with pytest.raises(ValueError, match="environment is"):
        find_target(name)
    with pytest.raises(ValueError, match="environment is"):
        make_task_env(name, 1, 5, {"command": "touch owned"})


@pytest.mark.parametrize(
    "stored", ["os:system", "my_tasks:Env", "Pendulum-v1", "x:maml_rl/PointNav-v0", None, 3]
)
def test_a_file_does_not_choose_what_is_imported(stored: Any) -> None:
    with pytest.raises(UntrustedEnvError, match=r"name it yourself: --env"):
        check_may_import(stored, None)
    with pytest.raises(UntrustedEnvError):
        check_may_import(stored, "my_tasks:Other")
    if isinstance(stored, str):
        check_may_import(stored, stored)


def test_own_task_families_may_be_named_by_files() -> None:
    check_may_import("maml_rl/PointNav-v0", None)


def test_classes_functions_and_ids(module: str) -> None:
    assert find_target(f"{module}:Env").__name__ == "Env"
    assert find_target(f"{module}:make").__name__ == "make"
    assert find_target(PointNav) is PointNav
    assert find_target("Pendulum-v1") == "Pendulum-v1"
    assert check_env_name("maml_rl/PointNav-v0") is PointNav
    with pytest.raises(ValueError, match=r"NotAnEnv.*must be a gymnasium\.Env class"):
        find_target(f"{module}:NotAnEnv")
    with pytest.raises(ValueError, match="has no 'Missing'"):
        find_target(f"{module}:Missing")


@pytest.mark.parametrize("attribute", ["Env", "make", "OfRLlib"])
def test_arguments_reach_every_kind_of_constructor(module: str, attribute: str) -> None:
    env = make_task_env(f"{module}:{attribute}", 2, 5, {"mass": 3})
    assert env._envs[0].unwrapped.kwargs == {"mass": 3}  # type: ignore[attr-defined]


def test_an_environment_that_ends_the_process_has_failed(module: str) -> None:
    with pytest.raises(RuntimeError, match="SystemExit"):
        make_task_env(f"{module}:Ends", 1, 5)


@pytest.mark.parametrize("name", [".relative:Env", "two words:Env", "a..b:Env", "-c:Env"])
def test_names_of_modules_are_full_names(name: str) -> None:
    with pytest.raises(ValueError, match="not the full name of a module"):
        find_target(name)


@pytest.mark.parametrize(
    ("content", "what"),
    [("def f(:\n", "SyntaxError"), ("raise SystemExit(0)\n", "SystemExit"), ("1 / 0\n", "ZeroDivisionError")],
)
def test_a_module_that_cannot_be_imported_is_one_error(
    content: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"broken_{what.lower()}.py").write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(ValueError, match=f"cannot be imported: {what}"):
        find_target(f"broken_{what.lower()}:Env")


def test_the_present_folder_comes_last(module: str, tmp_path: Path) -> None:
    (tmp_path / "colorsys.py").write_text("raise RuntimeError('from the present folder')\n")
    find_target(f"{module}:Env")
    import colorsys

    assert sys.path[-1] == str(tmp_path)
    assert not Path(colorsys.__file__).is_relative_to(tmp_path)


def test_a_class_given_in_a_program_needs_no_name() -> None:
    class Local(gymnasium.Wrapper):  # type: ignore[type-arg]
        def __init__(self) -> None:
            super().__init__(gymnasium.make("Pendulum-v1"))

        def sample_tasks(self, n: int, rng: Any) -> Any:
            return rng.uniform(size=n)

        def set_task(self, task: Any) -> None:
            pass

    assert make_task_env(Local, 2, 5).num_envs == 2
