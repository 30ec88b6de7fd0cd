"""The dependency rule: imports point down, and every heavy package has exactly one door."""

import ast
import graphlib
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = {"orch_core": ROOT / "core", "orch_analysis": ROOT / "analysis", "orch": ROOT / "orchestrator"}
DOORS = {
    "torch": ("orch_core.learn",),
    "torchvision": ("orch_core.learn",),
    "timm": ("orch_core.learn",),
    "submitit": ("orch.launching.submit",),
    "mlflow": ("orch.tracking.track",),
    "optuna": ("orch.tune",),  # not built yet; the extra `tune` declares it
    "scipy": ("orch_analysis",),
    "statsmodels": ("orch_analysis",),
    "sklearn": ("orch_analysis",),
    "seaborn": ("orch_analysis.figures",),
    "matplotlib": ("orch_analysis.figures",),
}
HEAVY = (
    "torch",
    "timm",
    "mlflow",
    "optuna",
    "submitit",
    "seaborn",
    "matplotlib",
    "statsmodels",
    "scipy",
    "sklearn",
)


def modules() -> list[tuple[str, Path]]:
    found = []
    for package, folder in LAYERS.items():
        for path in sorted((folder / package).rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found.append((".".join(part for part in parts if part != "__init__"), path))
    return found


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize(
    ("name", "path"), modules(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_heavy_packages_are_imported_only_at_their_door(name: str, path: Path):
    for package in imports(path) & DOORS.keys():
        inside = any(name == door or name.startswith(f"{door}.") for door in DOORS[package])
        assert inside, f"{name} imports {package}; its door is {' or '.join(DOORS[package])}"


@pytest.mark.parametrize(
    ("name", "path"), modules(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_imports_point_down(name: str, path: Path):
    order = list(LAYERS)
    above = order[order.index(name.split(".", maxsplit=1)[0]) + 1 :]
    assert not imports(path) & set(above)


def inside_imports(path: Path, known: set[str]) -> set[str]:
    """Our modules that a file imports, those inside its functions too; not those for type checkers alone."""
    found, unseen = set(), set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            unseen |= {id(one) for one in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in unseen:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & known or {node.module} & known
        elif isinstance(node, ast.Import) and id(node) not in unseen:
            found |= {alias.name for alias in node.names} & known
    return found


@pytest.mark.parametrize("layer", ["orch_core"])
def test_no_import_cycle_even_through_imports_inside_functions(layer: str):
    files = {name: path for name, path in modules() if name.split(".")[0] == layer}
    graph = {name: inside_imports(path, set(files)) - {name} for name, path in files.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


WITHOUT_PILLOW = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "PIL":
            raise ModuleNotFoundError("No module named 'PIL'")
sys.meta_path.insert(0, Blocker())
import orch.cli
try:
    orch.cli.main(sys.argv[1:])
except SystemExit as end:
    sys.exit(end.code)
"""


def test_planning_and_reading_a_study_need_no_image_library(tmp_path: Path):
    study = str(tmp_path / "study")
    target = ["--target", "params=1e7,samples=1e5", "--budget", "2"]
    for command, *arguments in (
        ["plan", str(ROOT / "experiments/demo.yaml"), "--study", study],
        ["status", study],
        ["map", study],
        ["suggest", study, *target],
    ):
        run = subprocess.run(
            [sys.executable, "-c", WITHOUT_PILLOW, command, *arguments],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        untrained = command == "suggest" and "Traceback" not in run.stderr  # there is nothing to suggest from
        assert run.returncode == 0 or untrained, run.stderr


def test_a_layer_folder_contains_only_its_package():
    for package, folder in LAYERS.items():
        assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {package}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["plan", "experiments/demo.yaml", "--study", "{tmp}", "--json"]]
)
def test_the_commands_that_must_answer_at_once_import_nothing_heavy(arguments: list[str], tmp_path: Path):
    script = (
        "import sys, orch.cli\n"
        "try:\n"
        f"    orch.cli.main({[argument.format(tmp=tmp_path / 'study') for argument in arguments]!r})\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_fitting_a_table_of_points_loads_neither_the_planner_nor_image_packs(tmp_path: Path):
    table = tmp_path / "points.csv"
    table.write_text("params,loss\n1e6,3.0\n1e7,2.5\n1e8,2.1\n1e9,1.8\n", encoding="utf-8")
    script = (
        "import sys, orch.cli\n"
        "try:\n"
        f"    orch.cli.main(['fit-laws', {str(table)!r}, '--out', {str(tmp_path / 'laws')!r}])\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "rooms = ('orch.planning', 'orch.launching', 'orch_core.grid', 'orch_core.packs.')\n"
        "loaded = [name for name in sys.modules if name.startswith(rooms)]\n"
        "assert set(loaded) <= {'orch_core.packs.layout'}, loaded\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_a_report_that_draws_nothing_imports_no_plotting_library_and_nothing_of_studies(tmp_path: Path):
    table = ROOT / "tests" / "data" / "laws" / "epoch_chinchilla_svg_extracted_data.csv"
    command = [
        "fit-laws",
        str(table),
        "--law",
        "chinchilla",
        "--bootstrap",
        "20",
        "--out",
        str(tmp_path / "laws"),
    ]
    mapping = ["--map", "params=Model Size", "samples=Training FLOP", "value=loss"]
    # scipy.special has the F distribution of the test of misfit; the rest of scipy costs more than the fit
    script = (
        "import sys, orch.cli\n"
        "from orch_analysis.reports import points_figures\n"
        "points_figures.FIGURES = ()\n"
        "try:\n"
        f"    orch.cli.main({[*command, *mapping]!r})\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "rooms = ('matplotlib', 'seaborn', 'pandas', 'scipy.stats', 'scipy.optimize',\n"
        "         'scipy.linalg', 'scipy.sparse', 'statsmodels', 'mlflow', 'pydantic',\n"
        "         'orch.studies', 'orch_core.study.', 'orch_core.images.', 'orch_core.recipes',\n"
        "         'orch_analysis.frontiers.', 'orch_analysis.reports.study', 'orch_analysis.forecast.auto')\n"
        "loaded = [name for name in sys.modules if name.startswith(rooms)]\n"
        "assert not loaded, loaded\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "laws" / "report.html").is_file()


def test_no_library_reads_the_process_arguments():
    names = ("main", "node_check", "ranks", "staging")  # `python -m` of a node
    entries = {f"orch.launching.worker.{name}" for name in names}
    readers = {
        name
        for name, path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in {"argv", "orig_argv"}
    }
    assert readers <= entries


@pytest.mark.parametrize("package", ["orch_core", "orch_analysis", "orch"])
def test_importing_a_package_imports_its_public_names_only_when_they_are_used(package: str):
    script = (
        f"import sys, {package} as face\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'numpy', 'polars', 'pydantic', 'yaml', 'click', *HEAVY}, loaded\n"
        "assert [name for name in face.__all__ if getattr(face, name, None) is None] == []\n"
    ).replace("HEAVY", repr(HEAVY))
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


PAIRS = ("orch_core.recipes", "orch_core.learn.objectives"), ("orch_core.protocols", "orch_core.learn.probes")
WIDE = {"orch", "orch_core", "orch_core.learn"}  # packages with more than a dozen subjects, each a module


def test_a_module_has_its_name_alone_but_for_what_torch_adds_to_a_recipe_or_a_protocol():
    packages: dict[str, set[str]] = {}
    for name, _ in modules():
        package, _, own = name.rpartition(".")
        packages.setdefault(own, set()).add(package)
    shared = {name: where for name, where in packages.items() if len(where) > 1}
    assert all(where in map(set, PAIRS) for where in shared.values()), shared


def test_a_package_has_few_enough_modules_to_take_in_at_once():
    children: dict[str, set[str]] = {}
    for name, _ in modules():
        parent, _, child = name.rpartition(".")
        if parent:
            children.setdefault(parent, set()).add(child)
    crowded = {name: len(found) for name, found in children.items() if len(found) > 14}
    assert set(crowded) <= WIDE, crowded
    assert all(count <= 20 for count in crowded.values()), crowded


def test_no_module_imports_itself_through_others_not_even_inside_a_function():
    known = dict(modules())

    def module_of(name: str) -> str:
        while name and name not in known:
            name = name.rpartition(".")[0]
        return name

    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        targets = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets |= {module_of(alias.name) for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                targets |= {module_of(f"{node.module}.{alias.name}") for alias in node.names}
        graph[name] = targets - {"", name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
