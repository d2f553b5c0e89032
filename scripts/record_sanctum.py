"""Record Sanctum over a finished run, as one animated SVG that plays wherever a picture does.

    uv run python scripts/record_sanctum.py RUN_DIRECTORY OUT.svg

The frames are the program's own. The Overview plays through the run and rests where its first
light comes on; then come Heads, Hosts and Decisions as the run ended, and all begins again. The
picture holds no script and asks for nothing from outside. Who wants no motion sees the frame
that rests longest, the light coming on.
"""

import argparse
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from esper.karn.sanctum.cockpit.capture import export_frame
from esper.karn.sanctum.cockpit.observer import read_view

SIZE: Final = (120, 40)
#: Updates that the Overview plays through at most; those of a longer run are spread evenly.
MOMENTS: Final = 12
STEP_SECONDS: Final = 0.6
LIGHT_SECONDS: Final = 2.5
END_SECONDS: Final = 1.2
SCREEN_SECONDS: Final = {"heads": 2.2, "hosts": 2.2, "decisions": 2.2}

_SVG: Final = "http://www.w3.org/2000/svg"
#: From one line to the next in the pictures that Rich draws.
_LINE_HEIGHT: Final = 24.4
_RULE: Final = re.compile(r"\.(?P<name>terminal-\d+-r\d+) *{(?P<body>[^}]*)}")
_STYLE: Final = """
text {{ font-family: Fira Code, monospace; font-size: 20px; white-space: pre;
font-variant-east-asian: full-width }}
.title {{ font: bold 18px arial, sans-serif }}
{rules}
.frame {{ visibility: hidden; animation: {seconds:g}s step-end infinite }}
#frame-{still} {{ visibility: visible }}
{moments}
@media (prefers-reduced-motion: reduce) {{ .frame {{ animation: none !important }} }}
"""


@dataclass(frozen=True)
class Moment:
    """What one frame shows, and for how long."""

    seconds: float
    screen: str = "overview"
    update: int | None = None  # None: as the run ended


@dataclass
class Sharing:
    """What frames have in common, each once: styles, and lines of the terminal."""

    styles: dict[str, str] = field(default_factory=dict)  # name by declarations
    lines: dict[str, str] = field(default_factory=dict)  # id by content

    def style(self, declarations: str) -> str:
        """Return the name of a style."""
        return self.styles.setdefault(declarations, f"s{len(self.styles)}")

    def line(self, content: str) -> str:
        """Return the id of a line."""
        return self.lines.setdefault(content, f"line-{len(self.lines)}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the recording of a run."""
    parser = argparse.ArgumentParser(description="Record Sanctum over a finished run.")
    parser.add_argument("run", type=Path, metavar="RUN_DIRECTORY")
    parser.add_argument("out", type=Path, metavar="OUT.svg")
    options = parser.parse_args(arguments)
    try:
        moments = walk(options.run)
    except ValueError as error:
        parser.error(str(error))
    recording = animated(frames_of(options.run, moments), [moment.seconds for moment in moments])
    options.out.write_text(recording, encoding="utf-8")
    seconds = sum(moment.seconds for moment in moments)
    size = len(recording.encode()) / 1e6
    sys.stdout.write(f"{options.out}: {len(moments)} frames, {seconds:.1f} s, {size:.2f} MB\n")


def walk(run: Path) -> list[Moment]:
    """Return the moments of a run that are recorded.

    Raises:
        ValueError: the run cannot be read, or has not finished an update.
    """
    view = read_view(run)
    if view.doubt.error is not None:
        raise ValueError(view.doubt.error)
    updates = view.snapshot.run.update
    if not updates:
        raise ValueError(f"{run} has completed no update: record a run that has")
    light = min((first.update for first in view.snapshot.tamiyo.first), default=None)
    apart = max(1, MOMENTS - 1)
    shown = {round(1 + (updates - 1) * place / apart) for place in range(MOMENTS)}
    if light is not None:
        shown.add(light)
    shown.discard(updates)
    playing = [
        Moment(LIGHT_SECONDS if update == light else STEP_SECONDS, update=update)
        for update in sorted(shown)
    ]
    end = Moment(LIGHT_SECONDS if light == updates else END_SECONDS)
    return [*playing, end, *(Moment(rest, screen) for screen, rest in SCREEN_SECONDS.items())]


def frames_of(run: Path, moments: Iterable[Moment]) -> list[str]:
    """Return the program's own picture of each moment, as SVG."""
    frames = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.svg"
        for moment in moments:
            export_frame(run, path, SIZE, at=moment.update, screen=moment.screen)
            frames.append(path.read_text(encoding="utf-8"))
    return frames


def animated(frames: Sequence[str], seconds: Sequence[float]) -> str:
    """Return pictures of one size as a single one that shows each for its time, again and again.

    Args:
        frames: pictures that Textual made of a screen, as SVG.
        seconds: how long each is shown.
    """
    roots = [_parsed(frame) for frame in frames]
    screen, clip = _screen_of(roots[0]), roots[0].find("defs/clipPath/rect")
    assert clip is not None
    width, height = clip.get("width", ""), clip.get("height", "")
    ground = _ground(screen)
    sharing = Sharing()
    shown = [
        f'<g class="frame" id="frame-{number}">{_frame(root, ground, sharing)}</g>'
        for number, root in enumerate(roots)
    ]
    style = _STYLE.format(
        rules="\n".join(f".{name} {{ {body} }}" for body, name in sharing.styles.items()),
        seconds=sum(seconds),
        still=max(range(len(seconds)), key=seconds.__getitem__),
        moments="\n".join(_keyframes(seconds)),
    )
    lines = "\n".join(f'<g id="{name}">{content}</g>' for content, name in sharing.lines.items())
    body = "\n".join(shown)
    return f"""\
<svg xmlns="{_SVG}" viewBox="{roots[0].get("viewBox")}">
<title>Sanctum: a run played through, then its heads, hosts and decisions</title>
<style>{style}</style>
<defs>
<clipPath id="screen"><rect width="{width}" height="{height}"/></clipPath>
<clipPath id="line"><rect y="1.5" width="{width}" height="{_LINE_HEIGHT + 0.25:g}"/></clipPath>
{lines}
</defs>
{_window(roots[0])}
<g transform="{screen.get("transform")}" clip-path="url(#screen)">
<rect fill="{ground}" width="{width}" height="{height}"/>
{body}
</g>
</svg>
"""


def _parsed(frame: str) -> ElementTree.Element:
    """Return a picture's elements without their namespace, which is the same for all."""
    root = ElementTree.fromstring(frame)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def _screen_of(root: ElementTree.Element) -> ElementTree.Element:
    """Return the group with what is on the terminal: the last one."""
    return root.findall("g")[-1]


def _ground(screen: ElementTree.Element) -> str:
    """Return the colour that most of a screen has."""
    areas: Counter[str] = Counter()
    for rect in screen.findall("rect"):
        areas[rect.get("fill", "")] += round(float(rect.get("width", 0)))
    return areas.most_common(1)[0][0]


def _window(root: ElementTree.Element) -> str:
    """Return the window around a terminal: its frame, title and buttons."""
    for title in root.findall("text"):
        title.set("class", "title")
    parts = [part for part in root if part.tag in ("rect", "text")]
    parts += root.findall("g")[:-1]
    return "".join(map(_as_markup, parts))


def _frame(root: ElementTree.Element, ground: str, sharing: Sharing) -> str:
    """Return a frame as references to its lines."""
    sheet = "".join(style.text or "" for style in root.findall("style"))
    styles = {rule["name"]: sharing.style(rule["body"].strip()) for rule in _RULE.finditer(sheet)}
    screen = _screen_of(root)
    # Text alone is clipped: clipped grounds would leave seams between lines that are scaled.
    grounds: dict[int, str] = {}
    texts: dict[int, str] = {}
    for rect in _joined(screen.findall("rect")):
        if rect.get("fill") != ground:
            line = _to_line(rect)
            grounds[line] = grounds.get(line, "") + _as_markup(rect)
    for text in screen.findall("g/text"):
        if (text.text or "").strip():
            del text.attrib["clip-path"]
            text.set("class", styles[text.get("class", "")])
            line = _to_line(text)
            texts[line] = texts.get(line, "") + _as_markup(text)
    uses = []
    for line in sorted(grounds.keys() | texts.keys()):
        text_part = f'<g clip-path="url(#line)">{texts[line]}</g>' if line in texts else ""
        name = sharing.line(grounds.get(line, "") + text_part)
        uses.append(f'<use href="#{name}" y="{line * _LINE_HEIGHT:.1f}"/>')
    return "".join(uses)


def _to_line(element: ElementTree.Element) -> int:
    """Return the line that something is on, and place it within the line alone."""
    y = float(element.get("y", 0))
    line = int(y // _LINE_HEIGHT)
    element.set("y", f"{y - line * _LINE_HEIGHT:.1f}")
    return line


def _joined(rects: Iterable[ElementTree.Element]) -> list[ElementTree.Element]:
    """Return rectangles, those of one colour that touch on a line as one."""
    joined: list[ElementTree.Element] = []
    for rect in rects:
        last = joined[-1] if joined else None
        if last is not None and all(last.get(key) == rect.get(key) for key in ("y", "fill")):
            end = float(rect.get("x", 0)) + float(rect.get("width", 0))
            last.set("width", f"{end - float(last.get('x', 0)):.1f}")
        else:
            joined.append(rect)
    return joined


def _as_markup(element: ElementTree.Element) -> str:
    element.tail = None
    return ElementTree.tostring(element, encoding="unicode")


def _keyframes(seconds: Sequence[float]) -> list[str]:
    """Return what shows each frame in its turn, as CSS."""
    whole, begin = sum(seconds), 0.0
    rules = []
    for number, rest in enumerate(seconds):
        start, end = 100 * begin / whole, 100 * (begin + rest) / whole
        steps = ["0% { visibility: hidden }"] if number else []
        steps += [f"{start:.3f}% {{ visibility: visible }}"]
        steps += [f"{end:.3f}% {{ visibility: hidden }}"] if number + 1 < len(seconds) else []
        rules.append(f"@keyframes show-{number} {{ {' '.join(steps)} }}")
        rules.append(f"#frame-{number} {{ animation-name: show-{number} }}")
        begin += rest
    return rules


if __name__ == "__main__":
    main()
