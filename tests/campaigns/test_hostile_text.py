"""Campaign: hostile text in stores, names, notes and capsules; no control character is printed.

It checks what commands print and write, and every screen of the live cockpit.

    uv run pytest -m slow -n 0 -s tests/campaigns/test_hostile_text.py

`ESPER_CAMPAIGN` scales it (1.0 is 1,000 runs), `ESPER_SEED` repeats it.
"""

import asyncio
import os
import random
import shutil
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from esper.cli import main, sanctum_main
from esper.karn.sanctum.cockpit.app import SanctumApp
from esper.karn.sanctum.cockpit.screen_map import SCREENS
from esper.karn.sanctum.cockpit.settings import Settings
from esper.karn.store.run_store import RunWriter
from esper.leyline.telemetry import IncidentRecorded, Notice

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7_200)]
SCALE = float(os.environ.get("ESPER_CAMPAIGN", "1.0"))
OLD_RUN = Path(__file__).parents[1] / "support" / "data" / "format-2-run"
PIECES = (
    "\x1b]0;title\x07", "\x1b[2J", "\x9b31m", "\u202e", "\u2066", "\u200f", "\x00", "\x7f", "\x85",
    "\u2028", "\r", "\b", "\x1bP", "<script>alert(1)</script>", "[bold]", "[/]", "%s", "{0}",
    "\ud800", "\udcff", "\N{PILE OF POO}", "a\u0301", "\uffff", "\u3000", "name", " ", "'", '"',
)  # fmt: skip
#: Reports that are printed, and pictures that are written.
COMMANDS = (
    (main, ("health",)),
    (main, ("health", "--json")),
    (main, ("runs",)),
    (main, ("incidents",)),
    (main, ("incidents", "--json")),
    (sanctum_main, ("--once",)),
    (sanctum_main, ("--line",)),
)
PICTURES = ("svg", "html", "txt")
SIZES = ((80, 24), (120, 40), (200, 60))
#: What is pressed on each screen: another row, its details, an acknowledgement, a copy, help, and
#: why the run is judged so.
KEYS = ("down", "enter", "escape", "a", "end", "A", "y", "question_mark", "escape", "w", "escape")
#: How long a cockpit may take to show a run, in seconds.
PATIENCE = 30.0
#: Of these categories nothing may leave but line breaks: control, format and lone surrogates.
_BAD = ("Cc", "Cs")
_BIDI = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def hostile(chance: random.Random, longest: int = 6, *, encodable: bool = True) -> str:
    text = "".join(chance.choices(PIECES, k=chance.randint(1, longest)))
    return text.encode("utf-8", "replace").decode() if encodable else text


def bad_in(text: str) -> set[str]:
    """Return the characters of a text that no terminal should be given."""
    return {
        each for each in set(text) - {"\n"} if unicodedata.category(each) in _BAD or each in _BIDI
    }


def folder_of(chance: random.Random) -> str:
    name = hostile(chance, 4, encodable=False).replace("\x00", "").replace("/", "")
    name = name.replace("\ud800", "\udc80")  # what a name that is no UTF-8 is decoded to
    return f"20260101-000000-{name}"[:60]


def make(run: Path, payloads: Any, chance: random.Random) -> None:
    """Write a run whose every text is hostile."""
    shutil.copytree(OLD_RUN / "incidents", run / "incidents")
    summary = run / "incidents" / "0001" / "incident.json"
    text = hostile(chance).replace("\\", "").replace('"', "")
    escaped = "".join(f"\\u{ord(each) & 0xFFFF:04x}" for each in text)
    summary.write_text(summary.read_text().replace("logits", escaped))
    (run / "note.txt").write_bytes(hostile(chance, encodable=False).encode("utf-8", "replace"))
    names = [hostile(chance) for _ in range(chance.randint(1, 8))]
    heads = {name: [hostile(chance), hostile(chance)] for name in names}
    start = payloads.start(
        run_id=hostile(chance), name=hostile(chance), task=hostile(chance), device=hostile(chance),
        heads=heads, slots=[hostile(chance)], blueprints=[hostile(chance)],
    )  # fmt: skip
    head = chance.choice([*heads, "op"])
    seen = payloads.sighting(head=head, quantity=hostile(chance), part=hostile(chance))
    with RunWriter(run) as writer:
        writer.emit(start)
        writer.emit(Notice(level=chance.choice(("warning", hostile(chance))), text=hostile(chance)))
        writer.emit(payloads.update(1, head_nonfinite=[seen]))
        writer.emit(
            IncidentRecorded(
                number=1, update=1, path=hostile(chance), size=1,
                reason=hostile(chance),
            )
        )  # fmt: skip
        if chance.random() < 0.5:
            status = chance.choice(("failed", "halted"))
            writer.emit(payloads.finish(status, reason=hostile(chance)))


def test_no_control_character_leaves(
    tmp_path: Path, payloads: Any, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    seed = int(os.environ.get("ESPER_SEED", time.time_ns() % 2**32))
    number = max(1, int(1_000 * SCALE))
    chance = random.Random(seed)
    looked = 0
    for case in range(number):
        runs = tmp_path / f"runs{case}"
        run = runs / folder_of(chance)
        run.mkdir(parents=True)
        make(run, payloads, chance)
        place = (seed, case)
        options = ("--run-dir", str(runs))
        for command, arguments in COMMANDS:
            check(command, (*arguments, *options), capfdbinary, place)
            looked += 1
        if case % 10 == 0:
            suffix = chance.choice(PICTURES)
            picture = tmp_path / f"picture.{suffix}"
            check(sanctum_main, ("--export", str(picture), *options), capfdbinary, place)
            text = picture.read_text(encoding="utf-8")
            assert not bad_in(text), (place, suffix, bad_in(text))
            assert "<script>" not in text or suffix == "txt", place
            page = tmp_path / "page.html"
            check(main, ("replay", "--html", str(page), *options), capfdbinary, place)
            if page.exists():
                assert not bad_in(page.read_text()), place
                assert "<script>alert" not in page.read_text(), place
                page.unlink()
            looked += 2
        if case % 20 == 0:
            looked += asyncio.run(look_at_cockpit(run, chance.choice(SIZES), place))
        shutil.rmtree(runs)
    with capfdbinary.disabled():
        print(f"\nESPER_SEED={seed} ESPER_CAMPAIGN={SCALE}: {number} runs, {looked} looks")


def check(command: Any, arguments: tuple[str, ...], captured: Any, place: tuple[int, int]) -> None:
    """Run a command; what it prints is plain text, and it ends with a verdict or one sentence."""
    with pytest.raises(SystemExit) as ended:
        command(arguments)
    out, err = (each.decode("utf-8") for each in captured.readouterr())
    assert ended.value.code in (0, 1, 2), (place, arguments, err)
    assert "Traceback" not in err, (place, arguments, err)
    messages = "\n".join(line.rsplit("\r", 1)[-1] for line in err.splitlines())  # progress
    assert not bad_in(out) | bad_in(messages), (place, arguments, bad_in(out) | bad_in(messages))


async def look_at_cockpit(run: Path, size: tuple[int, int], place: tuple[int, int]) -> int:
    """Open every screen of the live cockpit; return at how many pictures was looked."""
    app = SanctumApp(run, run.parent, settings=Settings(reduced_motion=True, closing=False))
    looked = 0
    async with app.run_test(size=size) as pilot:
        end = time.monotonic() + PATIENCE
        while app.view is None or not app.view.snapshot.last_event_id:
            assert time.monotonic() < end, (place, "the cockpit never showed the run")
            await pilot.pause(0.01)
        for key in [pressed for screen in SCREENS for pressed in (screen, *KEYS)]:
            await pilot.press(key)
            await pilot.pause()
            drawn = "\n".join(strip.text for strip in app.screen._compositor.render_strips())
            assert drawn.strip(), (place, size, key)
            assert not bad_in(drawn), (place, size, app.current_mode, key, bad_in(drawn))
            looked += 1
        assert not bad_in(app.clipboard), (place, bad_in(app.clipboard))
    assert app.return_code in (None, 0), place
    return looked
