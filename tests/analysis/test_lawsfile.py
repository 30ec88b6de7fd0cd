"""laws.json: the schema holds, and what is read back predicts what was written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from orch_analysis.fitting.fit import FitOptions, Outcome, fit
from orch_analysis.forecast.groups import fit_groups
from orch_analysis.laws import LAWS
from orch_analysis.saved import laws_json
from orch_analysis.tables.points_file import Points, load_points
from orch_core.errors import OrchError

SCHEMA = json.loads((Path(laws_json.__file__).with_name("laws.schema.json")).read_text(encoding="utf-8"))
KINDS = {
    "string": str, "number": (int, float), "integer": int, "boolean": bool, "object": dict, "array": list,
    "null": type(None),
}  # fmt: skip


def violations(value: Any, schema: dict[str, Any], at: str = "$") -> list[str]:
    """The keywords of JSON Schema that laws.schema.json uses, checked by a dozen lines of our own."""
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(isinstance(value, KINDS[kind]) for kind in kinds):
        return [f"{at}: {type(value).__name__} is not {kinds}"]
    found = [f"{at}: {value!r} not allowed"] if value not in schema.get("enum", [value]) else []
    found += [f"{at}: not {schema['const']}"] if schema.get("const", value) != value else []
    if isinstance(value, dict):
        known, other = schema.get("properties", {}), schema.get("additionalProperties", True)
        found += [f"{at}: {name} is missing" for name in schema.get("required", []) if name not in value]
        for name, item in value.items():
            rule = known.get(name, other)
            found += [f"{at}.{name}: unknown"] if rule is False else []
            found += violations(item, rule, f"{at}.{name}") if isinstance(rule, dict) else []
    if isinstance(value, list):
        low, high = schema.get("minItems", 0), schema.get("maxItems", len(value))
        found += [] if low <= len(value) <= high else [f"{at}: {len(value)} items"]
        for i, item in enumerate(value):
            found += violations(item, schema.get("items", {}), f"{at}[{i}]")
    return found


@pytest.fixture
def points(tmp_path: Path) -> Points:
    rng = np.random.default_rng(0)
    x = np.tile(np.geomspace(1e6, 1e9, 12), 2)
    data = np.repeat(["a", "b"], 12)
    y = np.where(data == "a", 0.05, 0.2) + 20 * x**-0.3
    table = pl.DataFrame({"N": x, "data": data, "err": y * np.exp(0.01 * rng.standard_normal(24))})
    text = table.write_csv() + "1e9,a\n"
    (tmp_path / "points.csv").write_text(text, encoding="utf-8")
    return load_points(tmp_path / "points.csv")


def test_one_fit_per_group_in_order(points: Points) -> None:
    found = fit_groups(
        "power_offset", points, FitOptions(value="err", x={"params": "N"}, bootstrap=50), by=["data"]
    )
    assert [item.group for item in found] == [{"data": "a"}, {"data": "b"}]
    for item, floor in zip(found, (0.05, 0.2), strict=True):
        assert item.estimates["E"] == pytest.approx(floor, rel=0.15)
        assert item.n == 12
        assert [row.row for row in item.dropped] == [26]
    with pytest.raises(OrchError, match="did you mean 'data'"):
        fit_groups("power", points, FitOptions(value="err", x={"params": "N"}), by=["dat"])


@pytest.mark.parametrize("law", ["power", "power_offset", "auto"])
def test_what_is_read_back_is_what_was_written(points: Points, law: str, tmp_path: Path) -> None:
    found = fit_groups(law, points, FitOptions(value="err", x={"params": "N"}, bootstrap=50), by=["data"])
    path = laws_json.write(found, tmp_path / "out", {"source": points.source, "sha256": points.sha256})
    content = json.loads(path.read_text(encoding="utf-8"))
    assert violations(content, SCHEMA) == []
    assert content["schema_version"] == 2
    again = laws_json.load_laws(tmp_path / "out")
    assert again == found
    for before, after in zip(found, again, strict=True):
        assert type(after) is type(before)
        assert np.array_equal(before.draws, after.draws)
        assert after.predict(params=1e10).equals(before.predict(params=1e10))


def test_files_of_the_first_version_predict_what_they_predicted_then() -> None:
    """Written by the code of 547fd88, with the predictions that it made: its own numbers, band and all."""
    folder = Path(__file__).parents[1] / "data" / "laws_version_1"
    fits = laws_json.load_laws(folder)
    expected = json.loads((folder / "predictions.json").read_text(encoding="utf-8"))
    assert [found.law.name for found in fits[4:6]] == ["bnsl1", "power_offset"]
    for found, then in zip(fits, expected, strict=True):
        if then is None:
            assert not found.estimates
            continue
        variable, at, *numbers = then
        row = found.predict(**{variable: at}).row(0, named=True)
        assert [row["value"], row["lo"], row["hi"]] == pytest.approx(numbers, rel=1e-12)
    assert fits[2].options.cluster == "run"
    assert fits[5].options.ceiling == 1.0


def test_a_fit_without_estimates_is_written_too(points: Points, tmp_path: Path) -> None:
    found = fit_groups(
        "chinchilla", points, FitOptions(value="err", x={"params": "N", "samples": 1e9}, bootstrap=20)
    )
    path = laws_json.write(found, tmp_path, {})
    assert violations(json.loads(path.read_text(encoding="utf-8")), SCHEMA) == []
    again = laws_json.load_laws(tmp_path)[0]
    assert again.outcome is Outcome.ONE_SCALE
    assert again.estimates == {}


def test_fixed_and_renamed_laws_come_back(points: Points, tmp_path: Path) -> None:
    law = LAWS["power_offset"].fix(alpha=0.3)
    found = fit_groups(law, points, FitOptions(value="err", x={"compute": "N"}, bootstrap=20))
    laws_json.write(found, tmp_path, {})
    again = laws_json.load_laws(tmp_path)[0]
    assert again.law.fixed == {"alpha": 0.3}
    assert again.predict(compute=1e10).equals(found[0].predict(compute=1e10))


def test_the_schema_describes_every_key() -> None:
    fit_schema = SCHEMA["properties"]["fits"]["items"]
    assert all(item["description"] for item in fit_schema["properties"].values())
    assert violations({"schema_version": 2, "fits": [{"law": 1}]}, SCHEMA)
    written = {"card", *fit("power", pl.DataFrame({"params": [1.0], "loss": [2.0]})).to_json(draws=False)}
    assert written == set(fit_schema["required"])
    assert set(fit_schema["properties"]) - written == {"choice"}


@pytest.mark.parametrize(
    ("text", "says"),
    [(None, "no laws.json"), ("{", "is not a laws file"), ("[]", "is not a laws file"),
     ('{"schema_version": 9, "fits": []}', "schema version 9")],
)  # fmt: skip
def test_other_folders(tmp_path: Path, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / "laws.json").write_text(text, encoding="utf-8")
    with pytest.raises(OrchError, match=says):
        laws_json.load_laws(tmp_path)
