"""The report page: its numbers, that it is whole and harmless, and how a real browser sees it."""

from __future__ import annotations

import base64
import csv
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image
from run_helpers import add_adaptation, make_run

from maml_rl.cli.app import main
from maml_rl.experiments.run import Run
from maml_rl.policies.policy_file import PolicyFileError
from maml_rl.tools.run_directory import RunError
from maml_rl.views.report import MAX_EMBEDDED, write_report

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """A page taken apart; it refuses tags that do not match and identifiers used twice."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.tables: list[list[list[str]]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open
        identifiers = self.attributes("id")
        assert len(identifiers) == len(set(identifiers))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if self._open and data.strip():
            self.texts.append((self._open[-1], data.strip()))

    def attributes(self, name: str) -> list[str]:
        return [value or "" for _, found in self.tags if (value := found.get(name)) is not None]

    def text(self, *tags: str) -> list[str]:
        return [text for tag, text in self.texts if tag in tags]

    def table(self, corner: str) -> list[list[str]]:
        """Rows of the first table whose top left cell reads ``corner``."""
        return next(rows for rows in self.tables if rows[0][0] == corner)


def report(*runs: Run, output: Path) -> Page:
    write_report(runs, output)
    return Page(output.read_text())


def test_every_run_that_is_read_is_counted(runs: list[Run], tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    write_report(runs, tmp_path / "page.html", lambda *progress: told.append(progress))
    assert told == [("runs", k + 1, len(runs)) for k in range(len(runs))]


def csv_cells(run: Run) -> list[str]:
    """The cells the adaptation table should have, from ``adaptation.csv``."""
    with (run.path / "adaptation.csv").open(newline="") as file:
        return [f"{float(r['mean']):.2f} ± {float(r['interval_95']):.2f}" for r in csv.DictReader(file)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """An evaluated and filmed run of MAML, an evaluated one of the oracle, and one not evaluated."""
    folder = tmp_path_factory.mktemp("report")
    found = [
        make_run(folder / "first"),
        make_run(folder / "second", method="oracle"),
        make_run(folder / "third", inner_lr=0.25),
    ]
    add_adaptation(found[0])
    add_adaptation(found[1], seed=1)
    assert main(["video", str(found[0].path), "--size", "64", "64"]) == 0
    Image.new("RGB", (8, 8), "red").save(found[0].path / "my_picture.png")
    return found


@pytest.fixture(scope="module")
def one(runs: list[Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the first run."""
    output = tmp_path_factory.mktemp("one") / "report.html"
    assert main(["report", str(runs[0].path), "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def all_three(runs: list[Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of all runs."""
    output = tmp_path_factory.mktemp("all") / "report.html"
    write_report(runs, output)
    return output


# --- content


def test_one_run(runs: list[Run], one: Path) -> None:
    page = Page(one.read_text())
    assert page.text("title") == page.text("h1") == ["maml_rl: first"]
    assert page.text("h2") == [str(runs[0].path)]
    assert {"Run", "Adaptation", "Pictures", "Settings", "Versions"} <= set(page.text("h3"))
    head, ours, papers = page.table("policy")
    assert head[1:] == ["0 steps", "1 step", "2 steps", "3 steps"]
    assert ours == ["maml", *csv_cells(runs[0])]
    assert papers == [
        "Finn et al. 2017, maml",
        *("-40.41 ± 4.00", "-11.68 ± 2.20", "-3.33 ± 0.55", "-3.23 ± 0.58"),
    ]
    facts = dict(page.table("property")[1:])
    assert facts["iterations"] == "5 of 9"
    assert facts["environment steps"] == "5,000"
    assert facts["best policy"] == "of iteration 5"
    settings = dict(page.table("setting")[1:])
    assert settings["inner_lr"] == "0.1"
    assert settings["hidden_sizes"] == "8, 8"
    assert settings["env_config"] == "reward: distance"
    assert dict(page.table("package")[1:])["python"]
    captions = page.text("figcaption")
    assert [c.partition(":")[0] for c in captions] == [
        "Learning curve",
        "Adaptation",
        "Trajectories before and after one gradient step",
        "my picture",
        "video.mp4",
    ]
    assert not page.text("code")


def test_several_runs_are_compared_first(runs: list[Run], all_three: Path) -> None:
    page = Page(all_three.read_text())
    paths = [str(run.path) for run in runs]
    assert page.text("h2") == ["Comparison", *paths]
    assert page.text("a") == ["Comparison", *paths]
    anchors = [address.removeprefix("#") for address in page.attributes("href") if address.startswith("#")]
    assert anchors == ["comparison", "run-1", "run-2", "run-3"]
    assert set(anchors) <= set(page.attributes("id"))
    _, first, second, third, paper, papers_oracle = page.table("run")
    assert first == [paths[0], "point-nav", "maml", "3", "5", *csv_cells(runs[0])]
    assert second == [paths[1], "point-nav", "oracle", "3", "5", *csv_cells(runs[1]), "", "", ""]
    assert third[5] == "not evaluated"
    assert paper[:3] == ["Finn et al. 2017", "point-nav", "maml"]
    assert papers_oracle[2:6] == ["oracle", "", "", "-2.29 ± 0.14"]
    head, *rows = page.table("setting")
    assert head[1:] == paths
    differences = {row[0]: row[1:] for row in rows}
    assert differences["inner_lr"] == ["0.1", "0.1", "0.25"]
    assert "horizon" not in differences
    assert all(len(set(values)) > 1 for values in differences.values())


def test_seeds_of_a_method_are_joined(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"run{seed}", seed=seed) for seed in range(3)]
    scores = np.array([add_adaptation(run, seed).returns for seed, run in enumerate(runs)])
    path = tmp_path / "page.html"
    write_report(runs, path)
    head, mean, middle = Page(path.read_text()).table("runs")
    assert head == ["runs", "seeds", "0 steps", "1 step", "2 steps", "3 steps"]
    assert mean[:2] == ["point-nav, maml: mean", "3"]
    assert middle[:2] == ["point-nav, maml: interquartile mean", "3"]
    for step in range(4):
        values = np.sort(scores[:, step].ravel())
        assert mean[2 + step].startswith(f"{values.mean():.2f} [")
        assert middle[2 + step].startswith(f"{values[30:90].mean():.2f} [")  # the middle half of 120
        low, high = map(float, mean[2 + step].partition("[")[2].strip("]").split(", "))
        assert low < values.mean() < high


def test_a_single_seed_has_no_table_of_seeds(all_three: Path) -> None:
    assert "interquartile" not in all_three.read_text()


def test_a_search_is_shown_with_its_best_trials(tmp_path: Path) -> None:
    search = make_run(tmp_path / "search", iterations=0)
    search.describe_again({**search.description(), "space": ["inner_lr=choice(0.1,0.2)"]})
    with pytest.raises(RunError, match=r"has not ended; go on with it: maml-rl search --resume"):
        write_report([search], tmp_path / "page.html")
    order = [3, 0, 6, 1, 2, 5]
    for number in order:
        make_run(tmp_path / "search" / f"trial-{number:05d}", inner_lr=0.1 + number / 10)
    lines = [f"{number},{-number},5,{0.1 + number / 10:g}," for number in order] + ["4,nan,0,0.5,it <failed>"]
    (tmp_path / "search" / "results.csv").write_text(
        "\n".join(["trial,score,iteration,inner_lr,error", *lines])
    )
    (tmp_path / "search" / "search.svg").write_text("<svg/>")
    page = report(search, output=tmp_path / "page.html")
    head, *rows = page.table("trial")
    assert head == ["trial", "score", "iteration", "inner_lr", "error"]
    assert [row[0] for row in rows] == ["3", "0", "6", "1", "2", "5", "4"]
    assert rows[-1][-1] == "it <failed>"
    shown = [str(tmp_path / "search" / f"trial-{number:05d}") for number in order[:5]]
    assert page.text("h2") == [f"Search {search.place}", "Comparison", *shown]


def test_what_is_missing_is_named_with_its_command(tmp_path: Path) -> None:
    new, trained = make_run(tmp_path / "new", iterations=0), make_run(tmp_path / "trained")
    page = report(new, output=tmp_path / "new.html")
    assert page.text("code") == [f"maml-rl train --resume {new.path}"]
    page = report(trained, output=tmp_path / "trained.html")
    assert page.text("code") == [f"maml-rl evaluate {trained.path}", f"maml-rl video {trained.path}"]
    oracle = make_run(tmp_path / "oracle", method="oracle")
    page = report(oracle, output=tmp_path / "oracle.html")
    assert page.text("code") == [f"maml-rl evaluate {oracle.path}", f"maml-rl video {oracle.path}"]


def test_nothing_the_user_named_becomes_markup(tmp_path: Path) -> None:
    evil = "runs:<script>alert('1')</script>\"&"
    run = make_run(tmp_path / "a<b>&'\"c")
    config = run.path / "config.json"
    config.write_text(config.read_text().replace('"point-nav"', json.dumps(evil)))
    Image.new("RGB", (8, 8)).save(run.path / 'x" onload="y.png')
    page = report(run, output=tmp_path / "report.html")
    assert dict(page.table("property")[1:])["preset"] == evil
    assert page.text("h2") == [str(run.path)]
    assert not {"script", "b"} & {tag for tag, _ in page.tags}
    assert not page.attributes("onload")
    assert 'x" onload="y' in page.text("figcaption")


# --- self-contained


def test_everything_is_inside(runs: list[Run], all_three: Path) -> None:
    page = Page(all_three.read_text())
    addresses = [a for name in ("src", "href", "srcset", "poster", "data") for a in page.attributes(name)]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"url\(|@import|<script|<iframe|<object", all_three.read_text())
    (video,) = [a for tag, found in page.tags if tag == "video" and (a := found["src"])]
    head, _, content = video.partition(",")
    assert head == "data:video/mp4;base64"
    assert base64.b64decode(content) == (runs[0].path / "video.mp4").read_bytes()


def test_pictures_and_tables_are_accessible(all_three: Path) -> None:
    page = Page(all_three.read_text())
    assert all(found.get("alt") for tag, found in page.tags if tag == "img")
    assert all(found.get("aria-label") for tag, found in page.tags if tag == "video")
    assert all(found.get("scope") in ("row", "col") for tag, found in page.tags if tag == "th")
    assert len(page.text("caption")) == len(page.tables)
    assert all(cell for table in page.tables for cell in table[0])
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert ("html", {"lang": "en"}) in page.tags


def test_a_large_video_is_linked(tmp_path: Path) -> None:
    run = make_run(tmp_path / "my runs" / "a")
    for name, size in (("large one.mp4", MAX_EMBEDDED + 1), ("small.mp4", MAX_EMBEDDED)):
        with (run.path / name).open("wb") as file:
            file.truncate(size)
    (tmp_path / "pages").mkdir()
    page = report(run, output=tmp_path / "pages" / "report.html")
    assert quote("../my runs/a/large one.mp4") in page.attributes("href")
    (video,) = [found for tag, found in page.tags if tag == "video"]
    assert "small.mp4" in str(video["aria-label"])


# --- wrong input


def test_runs_that_do_not_belong_together(
    runs: list[Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_run(tmp_path / "other", horizon=7)
    output = tmp_path / "report.html"
    assert main(["report", str(runs[0].path), str(other.path), "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert "do not belong together: horizon of their settings is 7 and 12" in error
    assert error.count("\n") == 1
    assert not output.exists()


def test_wrong_arguments(runs: list[Run], tmp_path: Path) -> None:
    with pytest.raises(RunError, match="runs is empty"):
        write_report([], tmp_path / "report.html")
    with pytest.raises(RunError, match=r"runs holds .*first twice"):
        write_report([runs[0], Run(runs[0].path / ".." / "first")], tmp_path / "report.html")
    with pytest.raises(RunError, match=r"output is '.*report.pdf'; it must end in .html or .htm"):
        write_report(runs, tmp_path / "report.pdf")
    with pytest.raises(RunError, match="there is no folder"):
        write_report(runs, tmp_path / "no" / "report.html")


def test_damaged_runs(runs: list[Run], tmp_path: Path) -> None:
    def damaged(name: str) -> Run:
        copy = tmp_path / name.replace(".", "-")
        shutil.copytree(runs[0].path, copy)
        (copy / name).write_bytes((copy / name).read_bytes()[:-20])
        return Run(copy)

    output = tmp_path / "report.html"
    with pytest.raises(PolicyFileError, match=r"policy\.safetensors: truncated"):
        write_report([damaged("policy.safetensors")], output)
    with pytest.raises(RunError, match=r"adaptation\.json is damaged"):
        write_report([damaged("adaptation.json")], output)
    with pytest.raises(RunError, match=r"config\.json is damaged"):
        write_report([damaged("config.json")], output)
    assert not output.exists()


# --- in a real browser

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on the PATH")


def browse(page: Path, *arguments: str) -> tuple[str, list[str]]:
    """What headless Chromium prints, and the messages of its console."""
    profile = page.parent / f"profile-{os.urandom(4).hex()}"
    unwanted = ("gpu", "quic", "background-networking", "component-update", "sync")
    result = subprocess.run(
        [
            *(str(BROWSER), "--headless", "--no-sandbox", "--no-first-run"),
            *(f"--disable-{name}" for name in unwanted),
            *("--enable-logging=stderr", f"--user-data-dir={profile}", "--virtual-time-budget=2000"),
            *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", *arguments, page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout, [line for line in result.stderr.splitlines() if ":CONSOLE" in line]


@pytest.fixture
def requests() -> Iterator[tuple[str, list[str]]]:
    """The address of a local server, and the paths that were asked of it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


@needs_browser
def test_a_browser_shows_the_page(runs: list[Run], all_three: Path, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    html, console = browse(all_three, "--dump-dom")
    assert console == []
    page = Page(html)
    assert page.text("h1") == ["maml_rl: 3 runs"]
    assert page.table("run")[1][5:] == csv_cells(runs[0])
    assert page.table("policy")[1][1:] == csv_cells(runs[0])
    browse(all_three, f"--screenshot={picture}", "--window-size=500,2000")
    with Image.open(picture) as image:
        colors = image.convert("RGB").getcolors(1 << 24)
    assert colors is not None
    assert len(colors) > 50


@needs_browser
def test_the_page_cannot_load_anything(one: Path, tmp_path: Path, requests: tuple[str, list[str]]) -> None:
    """The page's policy stops what a picture or script smuggled into it would load; without it, it would."""
    server, asked = requests
    html = one.read_text()
    smuggled = f'<img src="{server}/x.png" alt="x"><script>document.title = "changed"</script>'
    guarded, open_ = tmp_path / "guarded.html", tmp_path / "open.html"
    guarded.write_text(html.replace("</main>", smuggled + "</main>"))
    policy = re.search(r"<meta http-equiv=.*>", html)
    assert policy
    open_.write_text(guarded.read_text().replace(policy.group(), ""))

    dom, console = browse(guarded, "--dump-dom")
    assert asked == []
    assert len([line for line in console if "Content Security Policy" in line]) == 2
    assert "<title>maml_rl: first</title>" in dom
    dom, console = browse(open_, "--dump-dom")
    assert asked == ["/x.png"]
    assert "<title>changed</title>" in dom
