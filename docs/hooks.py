"""What of the documentation is made from the code: the configuration's fields and the help of every command."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "maml_rl": ("train", "evaluate", "plot", "video", "report", "search", "tune-inner-lr", "export"),
    "supervised": ("train", "evaluate", "plot", "compare", "table", "search", "download"),
}
_FIELD = re.compile(r"self\.(?P<name>\w+)(?:: .*?)? = .*?(?:\s+# (?P<source>.*))?$")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put in place of ``{{ name }}`` what is made here."""
    makers: dict[str, Callable[[], Iterator[str]]] = {
        "configuration": configuration,
        "command_line": command_line,
        "results": results,
    }
    return re.sub(r"^\{\{ (\w+) \}\}$", lambda m: "\n".join(makers[m[1]]()), markdown, flags=re.MULTILINE)


def on_page_content(html: str, **_: Any) -> str:
    """Formulas as MathML, which browsers show by themselves: no script is fetched from elsewhere."""
    from latex2mathml.converter import convert

    def formula(match: re.Match[str]) -> str:
        display = "block" if match["open"] == "[" else "inline"
        return convert(unescape(match["tex"]).strip(), display=display)

    pattern = r'<(?P<tag>span|div) class="arithmatex">\\(?P<open>[(\[])(?P<tex>.*?)\\[)\]]</(?P=tag)>'
    return re.sub(pattern, formula, html, flags=re.DOTALL)


def configuration() -> Iterator[str]:
    """A table per group of fields: default, source of the default, meaning."""
    from maml_rl.cli.train import GROUPS
    from maml_rl.rllib.config import MAMLConfig
    from maml_rl.tools.options import explanations

    config, texts, sources = MAMLConfig(), explanations(MAMLConfig.training), _sources(MAMLConfig)
    for title, names in GROUPS.items():
        yield f"\n## {title.capitalize()}\n"
        yield "| field | default | source of the default | meaning |"
        yield "|---|---|---|---|"
        for name in names:
            text = texts[name].replace("%%", "%").replace("|", "\\|")
            value = repr(getattr(config, name)).replace("|", "\\|")
            yield f"| `{name}` | `{value}` | {sources.get(name, '')} | {text} |"


def _sources(config: type) -> dict[str, str]:
    """What the comment beside each default says."""
    found = {}
    for line in inspect.getsource(config.__init__).splitlines():
        if (match := _FIELD.match(line.strip())) and match["source"]:
            found[match["name"]] = match["source"].replace("|", "\\|")
    return found


def command_line() -> Iterator[str]:
    """The help of every command."""
    environment = {**os.environ, "COLUMNS": "110", "NO_COLOR": "1", "TERM": "dumb", "PYTHONPATH": str(ROOT)}
    for program, commands in COMMANDS.items():
        for command in commands:
            arguments = [sys.executable, "-m", program, command, "--help"]
            told = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
            yield f"\n## {program.replace('_', '-')} {command}\n"
            yield f"```text\n{told.stdout.strip()}\n```"


def results() -> Iterator[str]:
    """The page of results, whose figures are beside this page."""
    text = (ROOT / "RESULTS.md").read_text()
    yield re.sub(r"\]\(docs/", "](", re.sub(r"\[([^]]+)\]\(results/[^)]+\)", r"`\1`", text)).partition("\n")[
        2
    ]
