"""Mistakes in a grid that is correctly written but cannot be run: lengths, shapes, patches, batches."""

from __future__ import annotations

from collections.abc import Mapping

from orch_core.cell import Cell, Override
from orch_core.cost import encoder_shape
from orch_core.errors import Problem
from orch_core.grid.language import LENGTHS, PARAMS_TOLERANCE, Axes, Family, Grid, Include, IsoFlop, Shape
from orch_core.grid.resources import unshareable
from orch_core.images.npz import NpzFacts
from orch_core.recipes import RECIPES, constants
from orch_core.vit import encoder_params, named_model, shape_of
from orch_core.yaml import Document, Loc


def infeasible(document: Document, grid: Grid, tasks: Mapping[str, NpzFacts]) -> list[Problem]:
    """Mistakes of all blocks of axes: lengths, impossible shapes, indivisible batches, kinds of task."""
    problems = _lengths(document, grid) + _shares(document, grid) + _lonely(document, grid)
    problems += _kinds(document, grid, tasks)
    blocks: list[tuple[Loc, Axes | Include | IsoFlop]] = [(("axes",), grid.axes)]
    blocks += [(("include", index), block) for index, block in enumerate(grid.include)]
    blocks += [(("isoflop", index), block) for index, block in enumerate(grid.isoflop)]
    for loc, block in blocks:
        patches, resolutions = block.patch or grid.axes.patch, block.resolution or grid.axes.resolution
        where = (*loc, "resolution") if block.resolution or not block.patch else (*loc, "patch")
        wrong = (
            [(r, p) for r in resolutions for p in patches if r % p] if block.patch or block.resolution else []
        )
        for resolution, patch in wrong:
            message = f"patch {patch} does not divide resolution {resolution}"
            index = resolutions.index(resolution) if where[-1] == "resolution" else patches.index(patch)
            problems.append(document.problem((*where, index), message))
        for index, model in enumerate(block.model or ()):
            for message in [] if isinstance(model, str) else _model_problems(model, grid):
                problems.append(document.problem((*loc, "model", index), message))
    return problems


def _shares(document: Document, grid: Grid) -> list[Problem]:
    """Size classes whose GPUs cannot share the batch equally."""
    classes = grid.cluster.resource_classes()
    places: dict[str, Loc] = {
        name: ("cluster", "classes", index - 1) if index else ("cluster", "gpus_per_node")
        for index, name in enumerate(classes)
    }
    wrong = unshareable(classes, grid.training.batch)
    return [document.problem(places[name], message) for name, message in wrong.items()]


def _lonely(document: Document, grid: Grid) -> list[Problem]:
    """A batch of one image for a loss that compares the images of a batch."""
    blocks: list[Axes | Include | IsoFlop] = [grid.axes, *grid.include, *grid.isoflop]
    names = [name for block in blocks for name in block.algorithm or ()]
    coupled = [name for name in dict.fromkeys(names) if _is_coupled(name)]
    if grid.training.batch > 1 or not coupled:
        return []
    message = f"{', '.join(coupled)} compares the images of a batch, which needs at least 2 of them"
    return [document.problem(("training", "batch"), message)]


def _is_coupled(name: str) -> bool:
    recipe, cell = RECIPES[name], plain_cell(name)
    trains = recipe.uses_model and recipe.uses_data
    return trains and recipe.training_cost(cell, encoder_shape(cell), constants(cell)).coupled


def plain_cell(recipe: str, *overrides: Override) -> Cell:
    """A cell of a recipe with arbitrary other fields."""
    return Cell(
        model=named_model("ViT-Ti"),
        recipe=recipe,
        overrides=overrides,
        resolution=224,
        patch=16,
        channels=3,
        samples_seen=1024,
        batch=1024,
    )


def _kinds(document: Document, grid: Grid, tasks: Mapping[str, NpzFacts]) -> list[Problem]:
    """Tasks whose labels are not of the declared kind."""
    problems = []
    for name, task in grid.tasks.items():
        fault = _kind_fault(task.kind, tasks[name]) if name in tasks and task.kind else ""
        if fault:
            problems.append(document.problem(("tasks", name, "kind"), f"{name} is not {task.kind}: {fault}"))
    return problems


def _kind_fault(kind: str, facts: NpzFacts) -> str:
    if kind != "multi-label" and facts.labels > 1:
        return f"it has {facts.labels} label columns: use multi-label, or one column with the class number"
    if kind == "binary-class" and facts.classes > 2:
        return f"it has {facts.classes} classes: use multi-class or ordinal-regression"
    if kind == "multi-label" and facts.labels == 1 and facts.classes > 2:
        return f"it has one label column with {facts.classes} classes: use multi-class"
    return ""


def _lengths(document: Document, grid: Grid) -> list[Problem]:
    problems: list[Problem] = []
    given = [name for name in LENGTHS if getattr(grid.axes, name) is not None]
    spans = not (grid.include or grid.isoflop)
    if len(given) > 1 or (spans and not given):
        said = f"got {' and '.join(given)}" if given else "got none"
        message = f"axes: give the training length once, as samples_seen, epochs or flops: {said}"
        problems.append(document.problem(("axes", *given[1:2]), message, at_key=True))
    if given and grid.axes.images is None:
        problems.append(document.problem(("axes",), "`images` is missing", at_key=True))
    for index, isoflop in enumerate(grid.isoflop):
        if {"images", "epochs"} <= isoflop.model_fields_set:
            message = "isoflop: with `images` given, budgets determine the epochs: remove `epochs`"
            problems.append(document.problem(("isoflop", index, "epochs"), message, at_key=True))
    for index, include in enumerate(grid.include):
        own = [name for name in LENGTHS if getattr(include, name) is not None]
        if len(own) > 1 or not (own or given):
            message = "give the training length once, as samples_seen, epochs or flops"
            problems.append(
                document.problem(("include", index, *own[1:2]), f"include: {message}", at_key=bool(own))
            )
        if not (include.images or grid.axes.images):
            problems.append(
                document.problem(("include", index), "include: `images` is missing here and in axes")
            )
    return problems


def _model_problems(model: Shape | Family, grid: Grid) -> list[str]:
    shapes = model.shapes() if isinstance(model, Family) else [model]
    return [message for message in (_shape_problem(shape, grid) for shape in shapes) if message]


def _shape_problem(shape: Shape, grid: Grid) -> str:
    try:
        model = shape.model()
    except Exception as error:  # noqa: BLE001 - pydantic's error contains the message
        return str(error)
    if not shape.params:
        return ""
    real = encoder_params(
        shape_of(
            width=model.width,
            depth=model.depth,
            mlp_ratio=model.mlp_ratio,
            resolution=grid.axes.resolution[0],
            patch=grid.axes.patch[0],
            channels=grid.training.channels,
        ),
        learned_positions=True,
    )
    if abs(real / shape.params - 1) <= PARAMS_TOLERANCE:
        return ""
    got, declared = f"{real:,}", f"{shape.params:,.0f}"
    return f"{shape.name} has {got} parameters, not {declared} (more than 2% off): correct one of them"
