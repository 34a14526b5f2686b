"""The rooms of the house and who may import whom, read from the source; and what an import really loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT

ROOMS = ("policies", "learning", "envs", "rllib", "experiments", "views", "cli", "tools")
MAY_IMPORT = {
    "tools": (),
    "policies": ("tools",),
    "learning": ("policies", "tools"),
    "envs": ("learning", "policies", "tools"),
    "rllib": ("envs", "learning", "policies", "tools"),
    "experiments": ("rllib", "envs", "learning", "policies", "tools"),
    "views": ("experiments", "envs", "learning", "policies", "tools"),
    "cli": ROOMS,
}
"""Beside itself; nothing imports ``cli``."""
SUPERVISED_MAY_IMPORT = {
    "data": ("data",),
    "models": ("models",),
    "learning": ("data", "models", "learning"),
    "experiments": ("data", "models", "learning", "experiments"),
    "views": ("data", "models", "learning", "experiments", "views"),
}
OF_MAML_RL = ("maml_rl.learning.meta_learner", "maml_rl.tools.")
"""What ``supervised`` may import of ``maml_rl``."""


def modules(package: str) -> dict[str, Path]:
    """Dotted name -> file of every module of a package."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / package).rglob("*.py")
    }


FILES = modules("maml_rl") | modules("supervised")


def imports(module: str) -> Iterator[str]:
    """Our own modules that a module imports anywhere in its source, also inside functions and for types only."""
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports here are absolute"
            base = node.module or ""
            names = [f"{base}.{a.name}" if f"{base}.{a.name}" in FILES else base for a in node.names]
        yield from (name for name in names if name.partition(".")[0] in ("maml_rl", "supervised"))


def room(module: str) -> str:
    """The folder below the package; empty for what lies beside the folders."""
    parts = module.split(".")
    return parts[1] if len(parts) > 2 or (len(parts) == 2 and FILES[module].name == "__init__.py") else ""


def test_there_are_no_other_rooms() -> None:
    found = {room(module) for module in FILES if module.startswith("maml_rl.")}
    assert found - {""} == set(ROOMS)
    beside = {module for module in FILES if module.startswith("maml_rl.") and not room(module)}
    assert beside == {"maml_rl.__main__"}


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_of_maml_rl_imports_only_those_below(name: str) -> None:
    allowed = {name, *MAY_IMPORT[name]}
    for module in FILES:
        if module.startswith("maml_rl.") and room(module) == name:
            for imported in imports(module):
                assert imported.startswith("maml_rl."), f"{module} imports {imported}"
                assert room(imported) in allowed, f"{module} imports {imported}"


@pytest.mark.parametrize("name", SUPERVISED_MAY_IMPORT)
def test_a_room_of_supervised_imports_only_those_below(name: str) -> None:
    for module in FILES:
        if module.startswith("supervised.") and room(module) == name:
            for imported in imports(module):
                own = imported.startswith("supervised.") and room(imported) in SUPERVISED_MAY_IMPORT[name]
                assert own or imported.startswith(OF_MAML_RL), f"{module} imports {imported}"


def test_supervised_uses_the_meta_learner_and_tools_alone() -> None:
    for module in FILES:
        if module.partition(".")[0] == "supervised":
            for imported in imports(module):
                of_maml_rl = imported.partition(".")[0] == "maml_rl"
                assert not of_maml_rl or imported.startswith(OF_MAML_RL), f"{module} imports {imported}"


def test_nothing_imports_a_command_line() -> None:
    for module in FILES:
        if room(module) != "cli" and not module.endswith("__main__"):
            for imported in imports(module):
                assert not imported.startswith(("maml_rl.cli", "supervised.cli")), module


def test_there_are_no_import_cycles() -> None:
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a cycle: {' -> '.join((*path, module))}"
        if module in finished:
            return
        for imported in imports(module):
            if imported != module:
                visit(imported, (*path, module))
        finished.add(module)

    for module in FILES:
        visit(module, ())


# --- what is loaded, in fresh interpreters


def loaded_by(names: list[str]) -> set[str]:
    code = f"import sys, importlib; [importlib.import_module(n) for n in {names!r}]; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in result.stdout.split()}


FOR_RAY = (
    "maml_rl.tools.ray_start",
    "maml_rl.tools.search.trial",
    "maml_rl.tools.search.search",
    "maml_rl.tools.search.display",
)
"""And what asks for them."""


def of_rooms(*names: str) -> list[str]:
    return [
        module
        for module in FILES
        if module.startswith("maml_rl.")
        and room(module) in names
        and module not in FOR_RAY
        and module != "maml_rl.envs.metaworld"  # an extra
    ]


def test_runners_of_numpy_policies_load_neither_ray_nor_torch() -> None:
    loaded = loaded_by(["maml_rl.envs.runner", "maml_rl.policies.numpy_mlp", "maml_rl.envs.locomotion"])
    assert "mujoco" in loaded
    assert not loaded & {"ray", "torch", "matplotlib", "pandas"}


def test_below_rllib_nothing_loads_ray() -> None:
    assert "ray" not in loaded_by(of_rooms("policies", "learning", "envs", "tools"))


def test_policies_and_mathematics_load_no_environments() -> None:
    assert not loaded_by(of_rooms("policies", "learning", "tools")) & {"gymnasium", "mujoco"}


def test_trajectories_load_no_torch() -> None:
    assert "torch" not in loaded_by(["maml_rl.learning.trajectories"])


def test_importing_the_package_is_light() -> None:
    assert not loaded_by(["maml_rl"]) & {"ray", "torch", "matplotlib"}


def test_meta_learner_knows_no_rl() -> None:
    assert not loaded_by(["maml_rl.learning.meta_learner"]) & {"gymnasium", "ray", "mujoco"}


def test_supervised_loads_neither_ray_nor_rl() -> None:
    names = [module for module in FILES if module.startswith("supervised.") and "__main__" not in module]
    names = [name for name in names if not name.startswith("supervised.examples")]
    assert "supervised.cli.search" in names  # imports Ray in its one function
    assert not loaded_by(names) & {"ray", "gymnasium", "mujoco"}
