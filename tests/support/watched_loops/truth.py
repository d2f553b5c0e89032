"""What is true of a case, stated where the fault is made and without asking Esper."""

import ast
import inspect
from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType

LINEAR = ("addmm", "linear", "mm", "t", "view")
SHARED = "shared"
KINDS = ("nan", "+inf", "-inf")
ANY = ("*",)


@dataclass(frozen=True)
class Line:
    """A statement of source, found by how it begins."""

    module: ModuleType
    code: str

    @cached_property
    def places(self) -> frozenset[tuple[str, int]]:
        """File and number of every line of every statement that begins like this.

        Raises:
            LookupError: the module has no such statement.
        """
        source = inspect.getsource(self.module)
        lines = source.splitlines()
        found = {
            (str(self.module.__file__), number)
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.stmt) and not hasattr(node, "body")
            if lines[node.lineno - 1].strip().startswith(self.code)
            for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
        }
        if not found:
            raise LookupError(f"no statement of {self.module.__name__} begins with {self.code!r}")
        return frozenset(found)


@dataclass(frozen=True)
class Where:
    """Where something that a fault breaks is used first.

    Attributes:
        quantities: words, one of which must occur in the name of the quantity.
        operations: acceptable operations, without namespace and overload.
        lines: acceptable statements.
    """

    quantities: tuple[str, ...]
    operations: tuple[str, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Truth:
    """What a watch must say of a case.

    Attributes:
        owners: heads or groups that must be lit by the first incident, and only they.
        kinds: acceptable kinds; one of them must be named.
        where: quantity, operation and line of the first incident.
        phases: acceptable phases.
        is_certain: False where the fault may also stay without any effect; then the reference
            decides.
        has_incident: False where nothing may be lit.
        stalls: whether the run must be reported as standing still.
        can_skip: whether leaving steps out keeps the weights finite.
        needs_origin: whether an operation must be named; False where none made the fault.
    """

    owners: tuple[str, ...]
    kinds: tuple[str, ...]
    where: Where
    phases: tuple[str, ...] = ("update",)
    is_certain: bool = True
    has_incident: bool = True
    stalls: bool = False
    can_skip: bool = False
    needs_origin: bool = True


NOTHING = Where((), (), ())
CLEAN = Truth((), (), NOTHING, has_incident=False, can_skip=True)


def no_incident(*, stalls: bool = False) -> Truth:
    """Return the truth of a run in which nothing is to be lit."""
    return replace(CLEAN, stalls=stalls)
