"""Recipes by name: an algorithm's hyperparameters as functions of the cell, each with its source."""

from __future__ import annotations

import importlib
import pkgutil

from orch_core.cell import Cell, algorithm_of
from orch_core.errors import OrchError
from orch_core.identity import digest
from orch_core.recipes.base import Constant, Recipe, Value
from orch_core.yaml import did_you_mean

__all__ = [
    "RECIPES",
    "Constant",
    "Recipe",
    "Value",
    "constants",
    "recipe_named",
    "recipe_of",
    "recipe_of_algorithm",
]


def _found() -> dict[str, Recipe]:
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"orch_core.recipes.{name}") for name in names]
    return {module.RECIPE.id: module.RECIPE for module in modules if hasattr(module, "RECIPE")}


RECIPES: dict[str, Recipe] = _found()


def recipe_named(name: str) -> Recipe:
    """The recipe called `mae@1`; raises OrchError with the nearest names for an unknown one."""
    if name not in RECIPES:
        message = f"no recipe is called `{name}`{did_you_mean(name, RECIPES)}"
        raise OrchError(message, hint="use a version of orch that has it, or another algorithm")
    return RECIPES[name]


def recipe_of_algorithm(algorithm: str) -> Recipe | None:
    """The recipe of an algorithm's label in a table (`mae`, see `algorithm_of`); None if it is unknown."""
    return next((recipe for recipe in RECIPES.values() if algorithm_of(recipe.id) == algorithm), None)


def recipe_of(cell: Cell) -> Recipe:
    """The recipe of a cell; raises OrchError for an unknown one."""
    return recipe_named(cell.recipe)


def constants(cell: Cell) -> dict[str, Value]:
    """Every constant of the cell's recipe, with the cell's overrides.

    Raises OrchError for an override that the recipe does not have, of another type, or out of its range.
    """
    recipe = recipe_of(cell)
    values = {name: constant.of(cell) for name, constant in recipe.constants.items()}
    for name, value in cell.overrides:
        if name not in values:
            message = f"{recipe.id} has no constant `{name}`{did_you_mean(name, values)}"
            raise OrchError(message, hint="correct `overrides` in the grid")
        values[name] = _checked(recipe, name, value, values[name])
    return values


def trunk(cell: Cell) -> str:
    """Identity of the part that runs of other lengths share with this cell's; empty if they share nothing."""
    if not recipe_of(cell).uses_data:
        return ""
    values = constants(cell)
    if not (values["cooldown"] and values["warmup_samples"]):
        return ""
    return digest({**cell.identity(), "samples_seen": 0, "overrides": {**values, "cooldown": 0}})


def _checked(recipe: Recipe, name: str, value: Value, default: Value) -> Value:
    constant = recipe.constants[name]
    wanted = type(default)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if wanted is float and number:
        value = float(value)
    if type(value) is not wanted:
        message = f"{recipe.id}: `{name}` is {value!r}, expected {wanted.__name__}"
        raise OrchError(message, hint=f"its value here is {default!r}")
    if number and not constant.low <= float(value) <= constant.high:
        message = f"{recipe.id}: `{name}` is {value!r}, allowed are {constant.low:g} to {constant.high:g}"
        raise OrchError(message, hint=f"its value here is {default!r}")
    return value
