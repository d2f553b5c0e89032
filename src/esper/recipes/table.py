"""The recipes of all libraries, found by the class of an object."""

from importlib import import_module
from typing import Any, Final

from esper.recipes.recipe import Recipe, Subject

#: Modules with a `RECIPE`, by top-level package. A module is imported when it is needed.
RECIPES: Final = {
    "stable_baselines3": "esper.recipes.sb3.recipe",
    "sb3_contrib": "esper.recipes.sb3.recipe",
    "rsl_rl": "esper.recipes.rsl_rl",
    "skrl": "esper.recipes.skrl",
    "tianshou": "esper.recipes.tianshou",
    "torchrl": "esper.recipes.torchrl",
    "transformers": "esper.recipes.transformers.recipe",
    "peft": "esper.recipes.transformers.recipe",
}


def subject_of(thing: Any) -> Subject | None:
    """Return the watched parts of an object of a known library; None for any other object.

    A subclass belongs to the library of its first known base class.
    """
    for cls in type(thing).__mro__:
        module = RECIPES.get(cls.__module__.partition(".")[0])
        if module is not None:
            recipe: Recipe = import_module(module).RECIPE
            if (subject := recipe.subject_of(thing)) is not None:
                return subject
    return None
