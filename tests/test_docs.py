"""What the documents show works as shown."""

import re
from pathlib import Path

import numpy as np
import polars as pl

from orch_analysis.fitting.fit import fit
from orch_analysis.laws import LAWS
from orch_analysis.laws.law import load
from orch_core.grid.cells import enumerate_cells
from orch_core.grid.check import read_grid

DOCS = Path(__file__).parents[1] / "docs"


def test_the_law_of_ones_own_fits(tmp_path: Path):
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "laws.md").read_text(), re.DOTALL)
    (tmp_path / "my_law.py").write_text(code)
    params = np.geomspace(1e6, 1e9, 24)
    found = fit(
        load(tmp_path / "my_law.py"),
        pl.DataFrame({"params": params, "loss": 1.7 + 400 * params**-0.34}),
        value="loss",
        bootstrap=0,
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
