"""The skill for coding agents refers only to commands and keys that exist."""

import re
import shlex
from collections.abc import Callable

from json_forms import documented_forms

from esper.cli import esper_parser

Run = Callable[..., tuple[int, str, str]]


def test_the_skill_names_commands_and_keys_that_exist(run: Run) -> None:
    code, text, errors = run("skill")
    assert (code, errors) == (0, "")
    assert text.startswith("---\nname: esper\ndescription: ")
    commands = [
        shlex.split(line)[1:]
        for block in re.findall(r"```\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
    ]
    assert len(commands) >= 6
    for words in commands:
        known = ["1" if word == "N" else word for word in words]
        assert esper_parser().parse_args(known).verb is not None
    forms = documented_forms()
    keys = {key for form in forms.values() if isinstance(form, dict) for key in form}
    named = set(re.findall(r"`(first|incidents|stalled)(?:\[\])?\.(\w+)`", text))
    assert {part for pair in named for part in pair} <= keys
    for word in ("origin", "poisons", "why_not_repeated", "planted", "loop", "code", "cause"):
        assert f"`{word}`" in text or f".{word}`" in text
        assert word in keys
