"""Services return values and raise; only commands print and choose exit codes."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import esper

SOURCE = Path(esper.__file__).parent
#: Attributes of standard output that tell what it can show.
READ_ONLY = ("isatty", "encoding")


def printing(tree: ast.AST) -> Iterator[str]:
    """Yield each use of `print`, of standard output or error, or of an exit of the process."""
    read = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in READ_ONLY
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("print", "exit", "quit", "sys.exit", "os._exit"):
                yield f"line {node.lineno}: {called}()"
            elif called == "os.write" and isinstance(node.args[0], ast.Constant):
                yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Attribute):
            if ast.unparse(node) in ("sys.stdout", "sys.stderr") and id(node) not in read:
                yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Raise) and "SystemExit" in ast.unparse(node):
            yield f"line {node.lineno}: raise SystemExit"


@pytest.mark.parametrize(
    ("source", "is_printing"),
    [
        ("print('x')", True),
        ("sys.stderr.write('x')", True),
        ("handler = Handler(sys.stdout)", True),
        ("sys.exit(2)", True),
        ("os._exit(1)", True),
        ("raise SystemExit(1)", True),
        ("os.write(2, b'x')", True),
        ("os.write(descriptor, b'x')", False),
        ("console.print('x')", False),
        ("sys.stdout.isatty()", False),
    ],
)
def test_what_counts_as_printing(source: str, is_printing: bool) -> None:
    assert bool(list(printing(ast.parse(source)))) == is_printing


#: The cockpit ends its process at a signal, with the exit code that shells have for it.
EXEMPT = {
    *("karn/sanctum/cockpit/signal_exit.py", "karn/sanctum/cockpit/opening.py"),
    "watching/finding/child/forked.py",  # ends a forked child, without what is due at an end
}


def test_only_commands_print_or_exit() -> None:
    found = {
        name: uses
        for file in SOURCE.rglob("*.py")
        if (name := file.relative_to(SOURCE).as_posix()) not in EXEMPT
        and not name.startswith(("commands/", "cli.py"))
        and (uses := list(printing(ast.parse(file.read_text(encoding="utf-8")))))
    }
    assert found == {}
