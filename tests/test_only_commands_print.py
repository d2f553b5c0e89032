"""Only commands print and choose exit codes; libraries return values and raise."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "esper"
#: What prints, or chooses an exit code.
CALLS = {"print", "Console", "PlainConsole", "sys.exit", "os._exit"}
#: The first ends Sanctum if a signal finds its event loop stuck; the second ends a forked child.
EXCEPTIONS = {
    ("karn/sanctum/cockpit/signal_exit.py", "os._exit"),
    ("watching/finding/child/forked.py", "os._exit"),
}


def test_no_module_outside_the_commands_prints() -> None:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE).as_posix()
        if place == "cli.py" or place.startswith("commands/"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in CALLS:
                found.add((place, ast.unparse(node.func)))
    assert found == EXCEPTIONS
