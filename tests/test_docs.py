"""What the documents show works as shown."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import numpy as np
import polars as pl
import pytest
import yaml

from orch.cli import main
from orch_analysis.fitting.fit import FitOptions, fit
from orch_analysis.laws import LAWS
from orch_analysis.laws.law import load
from orch_core.grid.cells import enumerate_cells
from orch_core.grid.check import read_grid

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md"), *(ROOT / "experiments").rglob("*.md")])


def test_the_command_reference_is_the_help_of_the_commands():
    script = DOCS / "cli_reference.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def commands_of(page: Path) -> list[str]:
    """Every `orch ...` of a page's shell blocks, without comments, pipes and redirections."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)).replace("\\\n", " ")
    lines = [part.strip() for line in blocks.splitlines() for part in re.split(r"&&|\||>|  #", line)]
    return [line for line in lines if line.startswith("orch ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_of_the_documents_is_one_that_orch_reads(page: Path):
    for line in commands_of(page):
        command: click.Command = main
        words = shlex.split(line)[1:]
        while isinstance(command, click.Group):
            assert words[0] in command.commands, line
            command = command.commands[words.pop(0)]
        with command.make_context(line, words):  # raises what the command line would
            pass


def test_the_law_of_ones_own_fits(tmp_path: Path):
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "laws.md").read_text(), re.DOTALL)
    (tmp_path / "my_law.py").write_text(code)
    params = np.geomspace(1e6, 1e9, 24)
    found = fit(
        load(tmp_path / "my_law.py"),
        pl.DataFrame({"params": params, "loss": 1.7 + 400 * params**-0.34}),
        FitOptions(value="loss", bootstrap=0),
    )
    for name, value in (("E", 1.7), ("A", 400.0), ("k", 0.34)):
        np.testing.assert_allclose(found.estimates[name], value, rtol=1e-4)


def test_every_law_is_in_the_table():
    text = (DOCS / "laws.md").read_text()
    assert [name for name in LAWS if f"`{name}`" not in text] == []


def test_every_link_leads_somewhere():
    pages = [*DOCS.glob("*.md"), *(DOCS.parent / name for name in ("README.md", "CONTRIBUTING.md"))]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_grid_that_uses_most_of_the_language_is_a_grid(tmp_path: Path):
    blocks = re.findall(r"```yaml\n(.*?)```", (DOCS / "grid.md").read_text(), re.DOTALL)
    (tmp_path / "grid.yaml").write_text(next(block for block in blocks if block.startswith("study:")))
    checked = read_grid(tmp_path / "grid.yaml")
    assert checked.absent == {"ct", "us", "lung"}
    assert enumerate_cells(checked).height > 100


def test_the_citation_names_the_version_and_licence_of_the_package():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()  # what the format requires
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])


def test_every_block_of_the_python_page_runs_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for kind, text in re.findall(
        r"```(python|yaml|csv)\n(.*?)```", (DOCS / "python.md").read_text(), re.DOTALL
    ):
        if kind == "python":
            exec(compile(text, "docs/python.md", "exec"), namespace)
        else:
            name, _, content = text.partition("\n")
            (tmp_path / name.removeprefix("# ")).write_text(content)


def test_the_tutorial_notebook_runs():
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "experiments" / "tutorial.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)  # outputs are not committed
    folder = {"metadata": {"path": str(ROOT / "experiments")}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=folder).execute()
