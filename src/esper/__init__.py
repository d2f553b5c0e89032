"""Esper: which action head of an agent produced an Inf or a NaN, when, where and why.

The names in `__all__` are the public API. They are imported when they are first used, so that
`import esper` is fast and loads neither torch nor Textual.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from esper.leyline.version import VERSION as __version__

if TYPE_CHECKING:
    from esper.growth.environment.env import GrowthVectorEnv
    from esper.karn.reports.run_catalogue import list_runs
    from esper.leyline.errors import EsperError
    from esper.services.opened_run import open_run
    from esper.services.policies import evaluate, grow
    from esper.services.watched_run import watch
    from esper.simic.telemetry.nonfinite import NonfiniteMonitor

__all__ = [
    "EsperError",
    "GrowthVectorEnv",
    "NonfiniteMonitor",
    "__version__",
    "evaluate",
    "grow",
    "list_runs",
    "open_run",
    "watch",
]

_MODULES = {
    "EsperError": "esper.leyline.errors",
    "GrowthVectorEnv": "esper.growth.environment.env",
    "NonfiniteMonitor": "esper.simic.telemetry.nonfinite",
    "evaluate": "esper.services.policies",
    "grow": "esper.services.policies",
    "list_runs": "esper.karn.reports.run_catalogue",
    "open_run": "esper.services.opened_run",
    "watch": "esper.services.watched_run",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'esper' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
