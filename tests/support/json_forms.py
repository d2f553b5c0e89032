"""The documented forms of JSON output, and a check of real output against them."""

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "json.md"
ROW = re.compile(r"\| `(\w+)` \| ([^|]+) \|")
SPECIAL_NUMBERS = ("NaN", "Infinity", "-Infinity")


def documented_forms() -> dict[str, Any]:
    """Return each form by name: types by key, or one type for a form that is no object."""
    forms: dict[str, Any] = {}
    for section in re.split(r"^### ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        name, _, text = section.partition("\n")
        text = text.partition("\n## ")[0].partition("\nWith `")[0]
        rows = {key: kind.strip() for key, kind in ROW.findall(text)}
        forms[name] = rows or text.strip().partition(":")[0]
        if based := re.search(r"All keys of (?:an? )?(\w+)", text):
            forms[name] = forms[based[1]] | rows
    return forms


def faults_of(value: Any, kind: str, forms: dict[str, Any], place: str = "") -> list[str]:
    """Return where a value departs from its documented type; empty if it does not."""
    alternatives = kind.split(" or ")
    if len(alternatives) > 1:
        found = [faults_of(value, one, forms, place) for one in alternatives]
        return [] if [] in found else max(found, key=len)
    if kind in forms:
        form = forms[kind]
        if isinstance(form, str):
            return faults_of(value, form, forms, place)
        if not isinstance(value, dict):
            return [f"{place} is {value!r}, not {kind}"]
        odd = [f"{place}.{key}" for key in {*form} ^ {*value}]
        return odd + [
            fault
            for key in {*form} & {*value}
            for fault in faults_of(value[key], form[key], forms, f"{place}.{key}")
        ]
    many, _, one = kind.partition(" of ")
    if one:
        if type(value) is not {"list": list, "map": dict}[many]:
            return [f"{place} is {value!r}, not a {many}"]
        parts = value.values() if isinstance(value, dict) else value
        return [fault for part in parts for fault in faults_of(part, one, forms, f"{place}[]")]
    is_right = {
        "string": type(value) is str,
        "integer": type(value) is int,
        "boolean": type(value) is bool,
        "null": value is None,
        "anything": True,
        "number": type(value) in (int, float) or value in SPECIAL_NUMBERS,
    }[kind]
    return [] if is_right else [f"{place} is {value!r}, not {kind}"]
