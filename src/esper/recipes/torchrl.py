"""TorchRL: a loss module. The training loop is the user's own."""

from typing import Any, Final

from torch import nn

from esper.recipes.recipe import Recipe, Subject

#: Where loss modules keep the network that chooses actions.
_ACTORS: Final = ("actor_network", "actor", "value_network", "qvalue_network")


def subject_of(loss: Any) -> Subject | None:
    """Return what is watched of a loss module; None for another object."""
    if not isinstance(loss, nn.Module) or not hasattr(loss, "set_keys"):
        return None
    actor = next((getattr(loss, name) for name in _ACTORS if hasattr(loss, name)), None)
    return Subject(
        models=[loss],
        output_layer=_output_layer(actor),
        library="torchrl",
        config={"loss": type(loss).__name__},
    )


RECIPE: Final = Recipe("torchrl", subject_of)


def _output_layer(actor: Any) -> nn.Module | None:
    """Return the last linear layer of the network; its parameters are those of the loss module."""
    modules = actor.modules() if isinstance(actor, nn.Module) else ()
    layers = [module for module in modules if isinstance(module, nn.Linear)]
    return layers[-1] if layers else None
