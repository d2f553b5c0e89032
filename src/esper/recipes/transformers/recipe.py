"""transformers and PEFT: a model."""

import re
from typing import Any, Final

from torch import nn

from esper.recipes.recipe import Recipe, RecipeError, Subject
from esper.watching.model.heads import Head

#: Where models keep the layer that computes the logits of classes or tokens.
_OUTPUT_LAYERS: Final = ("score", "classifier", "qa_outputs", "lm_head")


def subject_of(thing: Any) -> Subject | None:
    """Return the watched parts of a model; None for another object of the library.

    Raises:
        RecipeError: the object is a Trainer; a callback must watch it.
    """
    if isinstance(thing, nn.Module):
        return of_model(thing)
    if hasattr(thing, "callback_handler"):
        raise RecipeError(
            "to watch a Trainer, give it a callback: callbacks=[EsperCallback()] from "
            "esper.integrations.transformers"
        )
    return None


RECIPE: Final = Recipe("transformers", subject_of)


def of_model(model: nn.Module) -> Subject:
    """Return the watched parts of a model: its output layer, heads and adapters."""
    with_adapters: Any = model
    base = with_adapters.get_base_model() if hasattr(model, "get_base_model") else model
    name, layer = _output_layer(base)
    width = getattr(layer, "out_features", None)
    heads = []
    if isinstance(width, int):
        kind: Any = "module" if name != "lm_head" and _is_regression(base) else "categorical"
        heads = [Head(name, kind, range(width))]
    config = getattr(base, "config", None)
    return Subject(
        models=[model],
        heads=heads,
        output_layer=layer if heads else None,
        library="transformers",
        task=getattr(config, "_name_or_path", "") or type(base).__name__,
        groups=_adapters(model),
    )


def _output_layer(model: Any) -> tuple[str, nn.Module | None]:
    """Return name and layer: the last linear layer of a classifier, or the output embeddings."""
    for name in _OUTPUT_LAYERS:
        part = getattr(model, name, None)
        named = part.named_modules() if isinstance(part, nn.Module) else ()
        layers = [m for path, m in named if isinstance(m, nn.Linear) and "lora_" not in path]
        if layers:
            return name, layers[-1]
    layer = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return "lm_head", layer if isinstance(layer, nn.Module) else None


def _is_regression(model: Any) -> bool:
    config = getattr(model, "config", None)
    has_one_label = getattr(config, "num_labels", 2) == 1
    return has_one_label or getattr(config, "problem_type", None) == "regression"


def _adapters(model: Any) -> dict[str, str]:
    """Return a group for each adapter of PEFT, by type and name."""
    return {
        f"{getattr(config.peft_type, 'value', config.peft_type).lower()}.{name}": (
            rf".*\.{re.escape(name)}(\.|$)"
        )
        for name, config in getattr(model, "peft_config", {}).items()
    }
