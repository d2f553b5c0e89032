"""Capsules without tensors, for tests that only list incidents."""

import json
from pathlib import Path
from typing import Any

from esper.leyline.files.incident_files import CAPSULE_NAME, INCIDENTS_NAME, SUMMARY_NAME


def write_empty_capsule(run: Path, number: int, update: int, *sightings: Any) -> Path:
    """Put a capsule into a run; return its folder."""
    folder = run / INCIDENTS_NAME / f"{number:04}"
    folder.mkdir(parents=True)
    (folder / CAPSULE_NAME).write_bytes(b"tensors")
    seen = [{name: getattr(one, name) for name in one.__struct_fields__} for one in sightings]
    summary = {"number": number, "update": update, "sightings": seen}
    (folder / SUMMARY_NAME).write_text(json.dumps(summary))
    return folder
