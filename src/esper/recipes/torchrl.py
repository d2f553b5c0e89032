"""TorchRL: a loss module. The training loop is the user's own."""

from typing import Any, Final

from torch import nn

from esper.recipes.recipe import Recipe, Subject, last_linear

#: Where loss modules keep the network that chooses actions.
_ACTORS: Final = ("actor_network", "actor", "value_network", "qvalue_network")


def subject_of(loss: Any) -> Subject | None:
    """Return the watched parts of a loss module; None for another object."""
    if not isinstance(loss, nn.Module) or not hasattr(loss, "set_keys"):
        return None
    actor = next((getattr(loss, name) for name in _ACTORS if hasattr(loss, name)), None)
    return Subject(
        models=[loss],
        output_layer=last_linear(actor),  # its parameters are those of the loss module
        library="torchrl",
        config={"loss": type(loss).__name__},
    )


RECIPE: Final = Recipe("torchrl", subject_of)
