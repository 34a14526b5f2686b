"""Pages equal the files that their tables are made from, and what is wrong with either is noticed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from paths import ROOT

from maml_rl.tools.published import Published


def script(folder: Path) -> Any:
    """The module that makes the pages of this folder; it finds its neighbours as a script does."""
    if (beside := str(ROOT / "results")) not in sys.path:
        sys.path.append(beside)
    spec = spec_from_file_location("render", folder / "results" / "render.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def render(folder: Path, *arguments: str, draw: bool = False) -> str:
    """What the script of this folder says when it fails; nothing when all is well. Drawing takes the most time."""
    made = script(folder)
    if not draw:
        made.draw_all = lambda *_: None
    try:
        made.main(arguments)
    except SystemExit as end:
        return str(end)
    return ""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Pages and results, apart from the originals."""
    for name in ("README.md", "RESULTS.md"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "results", tmp_path / "results")
    return tmp_path


def test_every_table_equals_its_files() -> None:
    command = [sys.executable, str(ROOT / "results" / "render.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_every_result_has_what_it_takes_to_repeat_it() -> None:
    for path in (ROOT / "results").glob("*.json"):
        found = Published.load(path)
        assert path.stem == found.name
        assert found.evaluation["commit"], path
        assert not found.evaluation["commit"].endswith("-dirty"), path
        assert found.commands, path
        assert all(np.ndim(values) == 2 for values in found.rows.values())


def test_the_page_shows_every_figure() -> None:
    shown = re.findall(r"!\[[^]]+\]\(docs/figures/([^)]+)\)", (ROOT / "RESULTS.md").read_text())
    assert sorted(shown) == sorted(path.name for path in (ROOT / "docs" / "figures").iterdir())
    assert len(set(shown)) == len(shown)


def test_figures_are_of_whole_runs_by_their_own_protocol(copy: Path) -> None:
    template = Published.load(copy / "results" / "metaworld-ml10.maml.seed0.json")
    variants = [
        replace(template, settings={"max_kl": 0.03}),
        template,
        replace(template, seed=1),
        replace(template, protocol={"deterministic": True}),
    ]
    found = script(copy).of_preset("metaworld-ml10", variants)
    drawn = {name: make() for name, (_, make) in found.items()}
    assert set(drawn) == {
        "metaworld-ml10-adaptation",
        "metaworld-ml10-return-learning",
        "metaworld-ml10-success-learning",
        "metaworld-ml10-maml-families",
    }
    for name in ("adaptation", "return-learning", "success-learning"):
        labels = [line.get_label() for line in drawn[f"metaworld-ml10-{name}"].axes[0].lines]
        assert labels == ["maml (2 runs)", "maml (max_kl 0.03)"]
    (families,) = drawn["metaworld-ml10-maml-families"].axes
    assert families.get_title() == "metaworld-ml10, maml (2 runs)"
    of_families = template.rows["success_rate"].reshape(2, 5, 10).mean(-1)
    heights = np.array([bar.get_height() for bar in families.patches]).reshape(2, 5)
    np.testing.assert_allclose(heights, 100 * of_families)
    for figure in drawn.values():
        plt.close(figure)


def test_methods_of_a_supervised_preset_are_drawn_beside_each_other(copy: Path) -> None:
    template = Published.load(copy / "results" / "sinusoid.maml.seed0.json")
    oracle = replace(
        template, method="oracle", rows={name: values + 1 for name, values in template.rows.items()}
    )
    found = script(copy).of_supervised([template, oracle, replace(template, preset="sinusoid-best")])
    assert list(found) == ["sinusoid-comparison"]
    figure = found["sinusoid-comparison"][1]()
    assert (
        [axes.get_title() for axes in figure.axes] == list(template.rows) == ["5-shot", "10-shot", "20-shot"]
    )
    for axes, values in zip(figure.axes, template.rows.values(), strict=True):
        drawn = {line.get_label(): line.get_ydata() for line in axes.lines}
        np.testing.assert_allclose(drawn["maml"], values.mean(1))
        np.testing.assert_allclose(drawn["oracle"], values.mean(1) + 1)
    plt.close(figure)


@pytest.mark.system
def test_a_changed_table_and_a_changed_file_are_noticed(copy: Path) -> None:
    page = copy / "RESULTS.md"
    text = page.read_text()
    start = text.index("<!-- results: point-nav -->")
    digit = next(i for i in range(text.index("±", start), len(text)) if text[i].isdigit())
    page.write_text(text[:digit] + str(9 - int(text[digit])) + text[digit + 1 :])
    assert "RESULTS.md: tables differ" in render(copy, "--check")
    assert not render(copy)
    assert page.read_text() == text
    path = next((copy / "results").glob("point-nav.maml*.json"))
    found = Published.load(path)
    found.rows["return"][1] += 1
    found.save(copy / "results")
    assert "RESULTS.md" in render(copy, "--check")


def test_worse_than_the_paper_is_marked_and_seeds_are_joined(copy: Path) -> None:
    for path in (copy / "results").glob("*.json"):
        if path.name.startswith("point-nav"):
            template = Published.load(path)
            path.unlink()
    for seed, offset in ((0, 0.0), (1, 2.0)):
        values = np.array([[-41.0] * 4, [-20.0, -20.0, -20.0, 36.0]]) + offset
        plain = replace(template, method="maml", settings={}, protocol={}, seed=seed)
        plain.training["env_steps"] = 159.6e6
        replace(plain, rows={"return": values}).save(copy / "results")
    assert not render(copy)
    text = (copy / "RESULTS.md").read_text()
    # Means of two seeds; the paper's are -40.41 and -11.68; the middle four of eight are -20, -18, -18, -18.
    overview = (copy / "README.md").read_text()
    assert "| point-nav: 2 seeds | -40.0 [" in overview
    assert "| ant-vel: shipped policy |" in overview
    line = next(line for line in text.splitlines() if line.startswith("| maml | 2 | 160 |"))
    assert "| -40.00 [" in line
    assert "| -5.00 [" in line
    assert "▼" not in line
    iqm = text.splitlines()[text.splitlines().index(line) + 1]
    assert "| -40.00 [" in iqm
    assert "| -18.50 [" in iqm
    found = Published.load(copy / "results" / "point-nav.maml.seed1.json")
    found.rows["return"][1] -= 100
    found.save(copy / "results")
    stale = copy / "docs" / "figures" / "point-nav-of-before.svg"
    stale.parent.mkdir(parents=True)
    stale.touch()
    assert not render(copy, draw=True)
    assert "-55.00 [" in (copy / "RESULTS.md").read_text()
    line = next(
        line for line in (copy / "RESULTS.md").read_text().splitlines() if line.startswith("| maml | 2 |")
    )
    assert line.count("▼") == 1
    drawn = {path.name for path in (copy / "docs" / "figures").iterdir()}
    assert {f"docs/figures/{name}" for name in drawn} == set(
        re.findall(r"docs/figures/[^)]+", (copy / "RESULTS.md").read_text())
    )
    assert "point-nav-adaptation.svg" in drawn


def test_a_page_that_asks_for_what_is_not_there_is_an_error(copy: Path) -> None:
    with (copy / "RESULTS.md").open("a") as page:
        page.write("<!-- results: nothing -->\n<!-- /results -->\n")
    assert "'nothing' names no preset" in render(copy, "--check")


def test_what_is_worse_than_the_papers_is_marked_in_the_readme() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    papers = [k for k, line in enumerate(lines) if line.startswith("| &nbsp; Finn et al. 2017 |")]
    marked = []
    for k in papers:
        ours, paper = ([cell.split() for cell in lines[n].split("|")[2:-1]] for n in (k - 1, k))
        for mine, published in zip(ours, paper, strict=True):
            worse = float(mine[0]) < float(published[0])
            marked.append("▼" in mine)
            assert marked[-1] or not worse, lines[k - 1]
            assert float(mine[0]) < float(published[0]) + 0.05 or not marked[-1]  # rounded to a tenth
    assert {True, False} == set(marked)


def test_the_readme_marks_success_that_is_worse_than_published_of_the_same_method(copy: Path) -> None:
    template = Published.load(copy / "results" / "metaworld-ml10.maml.seed0.json")
    for path in (copy / "results").glob("metaworld-*.json"):
        path.unlink()
    for preset, method, success in (
        ("metaworld-ml1-reach", "maml", 0.99),
        ("metaworld-ml1-push", "maml", 0.01),
        ("metaworld-ml10", "maml", 0.32),
        ("metaworld-ml10", "rl2", 0.32),
    ):
        rows = {name: np.full_like(values, success) for name, values in template.rows.items()}
        replace(template, preset=preset, method=method, rows=rows).save(copy / "results")
    made = script(copy)
    table = made.block("success", made.load_all())
    assert "| metaworld-ml1-reach | 1 | 20 | 99.0 ± 0.0 | 99.0 ± 0.0 ▼ | MAML 100 |" in table
    assert "| metaworld-ml1-push | 1 | 20 | 1.0 ± 0.0 | 1.0 ± 0.0 |  |" in table
    assert "| metaworld-ml10 | 1 | 20 | 32.0 ± 0.0 | 32.0 ± 0.0 | MAML 31.6, RL2 35.8 |" in table
    assert "| metaworld-ml10, rl2 | 1 | 20 | 32.0 ± 0.0 | 32.0 ± 0.0 ▼ | MAML 31.6, RL2 35.8 |" in table


def test_of_rl2_episodes_of_a_trial_are_told(copy: Path) -> None:
    """Before adaptation is the first, after it the last; columns of gradient steps hold the episodes before."""
    template = Published.load(copy / "results" / "metaworld-ml10.maml.seed0.json")
    tasks = len(template.groups)
    rows = {
        "return": np.arange(5.0)[:, None].repeat(tasks, 1),
        "success_rate": np.array([0.1, 0.2, 0.3, 0.4, 0.5])[:, None].repeat(tasks, 1),
    }
    assert template.rows.keys() >= rows.keys()
    for path in (copy / "results").glob("*.rl2.*"):
        path.unlink()
    replace(template, method="rl2", rows=rows).save(copy / "results")
    assert not render(copy)
    readme, results = ((copy / page).read_text().splitlines() for page in ("README.md", "RESULTS.md"))
    (row,) = [line for line in readme if line.startswith("| metaworld-ml10, rl2 |")]
    assert "| 10.0 ± 0.0 | 50.0 ± 0.0 |" in row
    returns, success = [line for line in results if line.startswith("| rl2: after episodes of a trial |")]
    cells = " | ".join(f"{k}.00 ± 0.00" for k in range(5))
    assert returns.endswith(f"| {cells} |")
    assert success.endswith("| 10.0 ± 0.0 | 20.0 ± 0.0 | 30.0 ± 0.0 | 40.0 ± 0.0 | 50.0 ± 0.0 |")
    assert "| rl2 | 10 -> 50 | 10 -> 50 | 10 -> 50 | 10 -> 50 | 10 -> 50 |" in results


def test_few_shot_tables_tell_the_paper_and_what_is_worse(copy: Path) -> None:
    for path in (copy / "results").glob("*.json"):
        template = Published.load(path)
        if template.program == "supervised":
            path.unlink()
    images = np.array([[20.0, 20.0], [99.0, 98.0], [99.0, 98.5], [99.0, 98.5]])
    errors = np.full((11, 3), 2.0)
    errors[5], errors[10] = 0.37, 0.4
    for preset, name, values in (("omniglot-5w1s", "maml", images), ("sinusoid", "5-shot", errors)):
        plain = replace(template, method="maml", settings={}, protocol={}, groups=())
        replace(plain, program="supervised", preset=preset, rows={name: values}).save(copy / "results")
    for page, blocks in (("README.md", "few-shot"), ("RESULTS.md", "supervised")):
        text = (copy / page).read_text()
        if f"results: {blocks} " not in text:
            text += f"<!-- results: {blocks} -->\n<!-- /results -->\n"
        (copy / page).write_text(text)
    assert not render(copy)
    readme, results = ((copy / page).read_text() for page in ("README.md", "RESULTS.md"))
    assert "| omniglot-5w1s: accuracy in percent | 3 | 98.75 ± " in readme
    cells = ("1 / 5 / 10", "2.00 ± 0.00 ▼ / 0.37 ± 0.00 / 0.40 ± 0.00 ▼", "0.67 / 0.38 / 0.35")
    assert f"| sinusoid: squared error | {' | '.join(cells)} |" in readme
    lines = [line for line in results.splitlines() if line.startswith("| sinusoid |")]
    assert ["▼" in line for line in lines] == [True, False, True]
