"""Learning curves: against iterations or environment steps, of returns and success rates, a colour per method."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from run_helpers import make_run

from maml_rl.cli.app import main
from maml_rl.experiments.methods import METHODS
from maml_rl.experiments.run import Run
from maml_rl.views.figures import draw_learning, group_runs, with_total_steps
from maml_rl.views.plots import Panel, adaptation_curves, learning_curve, learning_curves

ROWS = [
    {"iteration": i, "env_steps": 10.0, "return_pre": -i, "return_post": i, "success_rate_post": i / 10}
    for i in (1, 2, 3)
]


def test_steps_are_counted_up() -> None:
    assert [row["env_steps"] for row in with_total_steps(ROWS)] == [10, 20, 30]
    assert [row["return_post"] for row in with_total_steps(ROWS)] == [1, 2, 3]
    assert [row["env_steps"] for row in ROWS] == [10, 10, 10]


def test_a_curve_shows_what_was_asked_for() -> None:
    figure = learning_curves({"maml": [with_total_steps(ROWS)]}, against="env_steps", measure="success_rate")
    (axes,) = figure.axes
    (line,) = axes.lines
    assert list(line.get_xdata()) == [10, 20, 30]
    assert list(line.get_ydata()) == [0.1, 0.2, 0.3]
    assert axes.get_xlabel() == "environment steps"
    assert "success rate" in axes.get_ylabel()
    plt.close(figure)
    figure = learning_curve(ROWS)
    (axes,) = figure.axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[-1, -2, -3], [1, 2, 3]]
    assert list(axes.lines[0].get_xdata()) == [1, 2, 3]
    assert axes.get_xlabel() == "iteration"
    plt.close(figure)


def test_a_method_has_the_same_colour_in_every_figure() -> None:
    colors: dict[str, set[object]] = {method: set() for method in METHODS}
    names = list(METHODS)
    for order in (names, names[::-1], names[3:]):
        learning = learning_curves({name: [ROWS] for name in order})
        adaptation = adaptation_curves([Panel("p", {name: [(1.0, 0.1), (2.0, 0.1)] for name in order})])
        for figure in (learning, adaptation):
            handles, labels = figure.axes[0].get_legend_handles_labels()
            for handle, label in zip(handles, labels, strict=True):
                line = handle if hasattr(handle, "get_color") else handle[0]
                colors[label].add(line.get_color())
            plt.close(figure)
    assert all(len(found) == 1 for found in colors.values()), colors
    assert len({next(iter(found)) for found in colors.values()}) == len(METHODS)


def test_runs_of_a_method_with_other_settings_differ_by_their_lines() -> None:
    names = ["maml", "maml (max_kl 0.03)", "rl2", "maml (policy shipped)"]
    curve = [(1.0, 0.1), (2.0, 0.1)]
    panel = Panel("p", dict.fromkeys(names, curve), {"maml": curve})
    learning, adaptation = learning_curves({name: [ROWS] for name in names}), adaptation_curves([panel])
    for figure in (learning, adaptation):
        looks = {
            line.get_label(): (line.get_color(), line.get_linestyle(), line.get_alpha())
            for line in figure.axes[0].lines
        }
        assert len(set(looks.values())) == len(looks) == len(figure.axes[0].lines)
        assert {color for label, (color, *_) in looks.items() if label.startswith("maml")} == {"C0"}
        assert looks["maml"][1] == looks["rl2"][1] == "-"
        plt.close(figure)
    assert looks["maml (paper)"][1:] == ("--", 0.5)
    assert adaptation.axes[0].get_xlabel() == "gradient steps; of rl2 episodes before"


def test_success_is_drawn_where_the_environment_tells_it(tmp_path: Path) -> None:
    without, told = make_run(tmp_path / "without"), make_run(tmp_path / "told", iterations=0)
    for i in range(1, 4):
        row = {"iteration": i, "return_pre": 0.0, "return_post": 1.0, "env_steps": 5}
        told.append_progress(row | {"success_rate_pre": 0.1, "success_rate_post": 0.2})

    def names(*runs: Run) -> set[str]:
        return {path.name for path in draw_learning(group_runs(runs), tmp_path)}

    learning = {"learning_curve.png", "learning_curve.svg", "learning_curve.pdf"}
    success = {"success_curve.png", "success_curve.svg", "success_curve.pdf"}
    assert names(without) == learning
    assert names(told) == learning | success
    assert names(without, told) == learning  # of one it is not known


def test_plot_takes_what_to_draw_against(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "run")
    assert main(["plot", str(tmp_path / "run"), "--against", "env_steps"]) == 0
    drawn = (tmp_path / "run" / "learning_curve.svg").read_text()
    assert "environment steps" in drawn
    assert main(["plot", str(tmp_path / "run")]) == 0
    assert "environment steps" not in (tmp_path / "run" / "learning_curve.svg").read_text()
    with pytest.raises(SystemExit, match="2"):
        main(["plot", str(tmp_path / "run"), "--against", "hours"])
    assert "invalid choice 'hours'" in capsys.readouterr().err
