"""Pictures and tables of evaluated runs: ``supervised plot | compare | table``."""

from __future__ import annotations

import json

from tyro.conf import Positional

from maml_rl.tools.run_directory import RunDirectory
from maml_rl.tools.storage import writable_file
from supervised.experiments.stored import load_model, stored_evaluations, stored_experiment


def plot(run: Positional[str]) -> None:
    """Draw a run's learning curve, its evaluation and, for sinusoids, fits, as PNG, SVG and PDF in its directory.

    Args:
        run: a run directory.
    """
    from maml_rl.tools.pictures import save
    from supervised.views.plots import draw_adaptation, draw_fits, draw_learning_curve

    directory = RunDirectory.open(run)
    with directory.stored():
        files = save(draw_learning_curve(directory.progress()), directory.path / "learning_curve")
        results = directory.path / "evaluation.json"
        experiment = stored_experiment(directory, None)
        if results.exists():
            rows = json.loads(results.read_text())
            regression = experiment.config.problem == "sinusoid"
            curve = draw_adaptation(rows, regression=regression)
            files += save(curve, directory.path / "adaptation_curve")
            if regression:
                fits = draw_fits(experiment.learner, load_model(directory, "best")[0], rows)
                files += save(fits, directory.path / "fits")
    print("\n".join(directory.shown(file.name) for file in files))


def compare(runs: Positional[tuple[str, ...]], *, output: str = "comparison.png") -> None:
    """Draw the evaluations of several runs into one figure per row, as the paper's Figures 3 and 6.

    Args:
        runs: run directories, all evaluated.
        output: the file: .png, .svg or .pdf.
    """
    from maml_rl.tools.pictures import SUFFIXES, save_as
    from maml_rl.tools.run_directory import check_output
    from supervised.views.plots import draw_comparison

    curves = {description["config"]["method"]: rows for description, rows in stored_evaluations(runs)}
    with writable_file(output) as file:
        check_output(file, SUFFIXES)
        save_as(draw_comparison(curves), file)
    print(output)


def table(runs: Positional[tuple[str, ...]], *, output: str | None = None) -> None:
    """Print the evaluations of several runs beside the paper's values, as its Tables 1, 2 and 3.

    Args:
        runs: run directories, all evaluated.
        output: a CSV file to write, too.
    """
    from supervised.views.tables import entries, markdown, save_csv

    content = [
        entry
        for description, rows in stored_evaluations(runs)
        for entry in entries(description["preset"], description["config"]["method"], rows)
    ]
    print(markdown(content))
    if output is not None:
        with writable_file(output) as file:
            save_csv(content, file)
