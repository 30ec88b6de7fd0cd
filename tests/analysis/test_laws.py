"""Each law against an independent writing of its published formula, and what a user's own law must hold."""

from __future__ import annotations

import pickle
from importlib import import_module
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from known_laws import TRUTH, scales

from orch_analysis import laws
from orch_analysis.fitting.fit import FitOptions, fit
from orch_analysis.laws import LAWS
from orch_analysis.laws.law import Law
from orch_core.errors import OrchError


@pytest.mark.parametrize("name", TRUTH)
def test_exact_points_give_back_their_parameters(name: str) -> None:
    law, x = LAWS[name], scales(name)
    found = fit(law, pl.DataFrame(x | {"y": law.value(x, TRUTH[name])}), FitOptions(value="y", bootstrap=0))
    for parameter, value in TRUTH[name].items():
        assert found.estimates[parameter] == pytest.approx(value, rel=1e-4), parameter
    assert found.start_agreement is None or found.start_agreement > 0.5


def one(name: str, p: dict[str, float], **x: float) -> float:
    return float(np.squeeze(LAWS[name].value({k: np.array([v]) for k, v in x.items()}, p)))


def test_chinchilla_printed_optimum() -> None:
    """Hoffmann et al. 2022, eq. 10: E = 1.69, A = 406.4, B = 410.7; Chinchilla (70B, 1.4T tokens) by hand."""
    p = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
    by_hand = 1.69 + 406.4 / 70e9**0.34 + 410.7 / 1.4e12**0.28
    assert one("chinchilla", p, params=70e9, samples=1.4e12) == pytest.approx(by_hand, rel=1e-12)


def test_kaplan_limits() -> None:
    """Kaplan et al. 2020: with infinite data eq. 1.5 is eq. 1.1, with an infinite model eq. 1.2."""
    p = TRUTH["kaplan"]
    assert one("kaplan", p, params=1e9, samples=1e30) == pytest.approx((6.4e13 / 1e9) ** 0.076, rel=1e-6)
    assert one("kaplan", p, params=1e30, samples=1e10) == pytest.approx((1.8e13 / 1e10) ** 0.103, rel=1e-6)


@given(
    alpha=st.floats(0.1, 8), beta=st.floats(1e-2, 1e6), c=st.floats(0.05, 1.5), samples=st.floats(10, 1e10)
)
def test_m4_solves_its_implicit_equation(alpha: float, beta: float, c: float, samples: float) -> None:
    p = {"eps_inf": 0.1, "eps_0": 0.9, "alpha": alpha, "beta": beta, "c": c}
    error = one("m4", p, samples=samples)
    assert 0.1 <= error <= 0.9
    if 0.1 + 1e-9 < error < 0.9 - 1e-9:
        left = np.log(error - 0.1) - alpha * np.log(0.9 - error)
        assert left == pytest.approx(np.log(beta) - c * np.log(samples), abs=1e-5)


def test_m4_with_alpha_one_is_the_auc_law() -> None:
    p = {"eps_inf": 0.02, "eps_0": 0.5, "alpha": 1.0, "beta": 3e5**0.5, "c": 0.5}
    for size in (1e3, 1e6, 1e9):
        metric = one("auc", TRUTH["auc"], params=size)
        assert 1 - metric == pytest.approx(one("m4", p, samples=size), rel=1e-9)


def test_broken_law_by_hand() -> None:
    """Caballero et al. 2023, eq. 1, at the break itself: (1 + 1)^(-c1 f1)."""
    by_hand = 0.1 + 5.0 * 3e6**-0.15 * 2 ** (-0.3 * 0.5)
    assert one("bnsl1", TRUTH["bnsl1"], samples=3e6) == pytest.approx(by_hand, rel=1e-12)
    two = {**TRUTH["bnsl1"], "c2": 0.0, "d2": 1e7, "f2": 0.3}
    assert one("bnsl2", two, samples=4e7) == pytest.approx(
        one("bnsl1", TRUTH["bnsl1"], samples=4e7), rel=1e-12
    )


def test_repeating_data_once_is_chinchilla() -> None:
    """Muennighoff et al. 2023, eq. 5: without repetition and excess parameters D' = D and N' = N."""
    p = {"E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.35, "beta": 0.35, "R_D": 15.0, "R_N": 5.0}
    plain = {k: v for k, v in p.items() if not k.startswith("R")}
    repeated = one("data_constrained_full", p, params=1e8, samples=1e10, unique_samples=1e10)
    assert repeated == pytest.approx(one("chinchilla", plain, params=1e8, samples=1e10), rel=1e-12)
    # Their summary: the value of repeated tokens has decayed to 1/e after R_D repetitions.
    often = one("data_constrained_full", p, params=1e8, samples=16e10, unique_samples=1e10)
    effective = 1e10 * (1 + 15 * (1 - np.exp(-1)))
    assert often == pytest.approx(one("chinchilla", plain, params=1e8, samples=effective), rel=1e-12)


@pytest.mark.parametrize(("name", "low", "high"), [("auc", 0.5, 1.0), ("accuracy", 1 / 8, 1.0)])
def test_metrics_stay_between_chance_and_ceiling(name: str, low: float, high: float) -> None:
    sizes = np.geomspace(1, 1e15, 30)
    metric = LAWS[name].value({"params": sizes, "classes": np.full(30, 8.0)}, TRUTH[name])
    assert np.all((metric >= low) & (metric <= high))
    assert metric[0] == pytest.approx(low, abs=2e-3)
    assert metric[-1] == pytest.approx(1 - TRUTH[name]["E"], abs=1e-3)


OWN = """
import numpy as np
from orch_analysis.laws.law import Law

LAW = Law(
    name="half_life", formula="loss = E + A * exp(-samples / tau)", params=("E", "A", "tau"), x=("samples",),
    f=lambda x, p: p["E"] + p["A"] * np.exp(-x["samples"] / p["tau"]),
    linear=("E", "A"), bounds={"tau": (10.0, 1e4)}, source="made for this test",
)
"""


def test_a_user_adds_a_law_in_ten_lines(tmp_path: Path) -> None:
    file = tmp_path / "half_life.py"
    file.write_text(OWN, encoding="utf-8")
    assert len(OWN.strip().splitlines()) <= 10
    law = laws.get(str(file))
    samples = np.linspace(10, 900, 30)
    noise = np.exp(0.002 * np.random.default_rng(1).standard_normal(30))
    table = pl.DataFrame({"samples": samples, "loss": (0.5 + 2 * np.exp(-samples / 200)) * noise})
    found = fit(law, table, FitOptions(value="loss", bootstrap=50))
    assert found.estimates == pytest.approx({"E": 0.5, "A": 2.0, "tau": 200.0}, rel=0.02)
    assert found.start_agreement == 1.0
    assert found.intervals["tau"][0] < 200 < found.intervals["tau"][1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1", "does not set LAW"),
        ("1 / 0", "ZeroDivisionError"),
        (OWN.replace('("E", "A"),', '("Q",),'), "'Q'"),
        (OWN.replace('p["tau"]', 'p["tou"]'), "KeyError: 'tou'"),
        (OWN.replace('p["E"] +', 'float(p["E"]) +'), "TypeError"),
        (OWN.replace('x["samples"] /', "[1.0, 2.0] /"), "shape"),
        (OWN.replace('("samples",)', '"samples"'), "tuples"),
        (OWN.replace('("E", "A", "tau")', '("E", "A", "tau", "E")'), "'E' is named twice"),
        (OWN.replace("source=", 'link="logs", source='), "link 'logs' is none of log, linear, log_error"),
    ],
)
def test_a_broken_law_file_says_what_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "law.py"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(OrchError, match=says):
        laws.load(file)


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(OrchError, match="did you mean 'chinchilla'"):
        laws.get("chinchila")
    with pytest.raises(OrchError, match="no parameter gamma"):
        LAWS["chinchilla"].fix(gamma=1.0)


def test_a_law_of_one_size_can_be_read_along_another() -> None:
    x = np.geomspace(1e15, 1e20, 12)
    table = pl.DataFrame({"C": x, "y": 3 * x**-0.1})
    found = fit("power", table, FitOptions(value="y", x={"compute": "C"}))
    assert found.law.x == ("compute",)
    assert "compute" in found.law.formula
    assert found.predict(compute=1e21)["value"][0] == pytest.approx(3 * 1e21**-0.1, rel=1e-9)
    with pytest.raises(OrchError, match="needs params and samples"):
        LAWS["chinchilla"].along("compute")


def test_the_laws_are_all_the_laws_of_the_modules_of_the_package_under_names_of_their_own() -> None:
    modules = [
        import_module(f"orch_analysis.laws.{path.stem}")
        for path in Path(laws.__file__).parent.glob("[a-z]*.py")
    ]
    values = [value for module in modules for value in vars(module).values() if isinstance(value, Law)]
    assert {id(law) for law in values} == {id(law) for law in LAWS.values()}
    assert len({law.name for law in values}) == len(LAWS) >= 15


@pytest.mark.parametrize("name", TRUTH)
def test_a_law_pickles_with_its_functions(name: str) -> None:
    law, x = LAWS[name], scales(name)
    every = [law] if len(law.x) > 1 else [law, law.along("compute")]
    for one in every:
        again = pickle.loads(pickle.dumps(one))
        there = {variable: x[own] for variable, own in zip(one.x, law.x, strict=True)}
        assert again == one
        assert (again.value(there, TRUTH[name]) == one.value(there, TRUTH[name])).all()
        if one.starts is not None:
            first, second = (kind.starts(there, np.linspace(0.1, 0.9, 40)) for kind in (one, again))
            assert all((first[key] == second[key]).all() for key in first)


def test_a_law_of_a_file_pickles_by_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from orch_analysis.laws.law import Law\n"
        "LAW = Law(name='mine', formula='a * params^b', params=('a', 'b'), x=('params',), source='me',\n"
        "          bounds={'b': (-2.0, 2.0)}, f=lambda x, p: p['a'] * x['params'] ** p['b'])\n"
    )
    law = laws.load(file).along("flops").fix(b=0.5)
    again = pickle.loads(pickle.dumps(law))
    assert again == law
    assert again.value({"flops": np.array([4.0])}, {"a": 3.0}) == pytest.approx(6.0)


def test_a_law_of_a_file_is_not_executed_without_trust(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("raise SystemExit('executed')\n")
    with pytest.raises(OrchError, match="not executed unless it is trusted"):
        laws.restored({"law": "mine", "file": str(file), "fixed": {}}, ("params",))
