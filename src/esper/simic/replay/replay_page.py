"""The report of a replay as one self-contained HTML page with a light and a dark theme."""

from collections.abc import Iterable
from html import escape

from esper.leyline.text.origin_words import cause_words
from esper.leyline.text.plain_text import printable
from esper.leyline.text.sighting_words import sighting_words
from esper.leyline.text.source_paths import short_path
from esper.simic.replay.replay_report import (
    kind_of,
    moment,
    name_of,
    number_name,
    seen_line,
    steps_of,
    unconnected,
    values_of,
)
from esper.simic.replay.replaying import Replay
from esper.simic.replay.verdict import REPRODUCED
from esper.tracing.operations import Scalar, TensorRange
from esper.tracing.origin import Origin

_STYLE = """
:root { color-scheme: light dark; --ground: #fbfaf7; --panel: #ffffff; --text: #1d1f22;
  --dim: #63676d; --line: #dcd9d1; --red: #b3261e; --green: #1b6e3c; --amber: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --ground: #15171a; --panel: #1d2024;
  --text: #e6e4df; --dim: #9a9ea5; --line: #33373d; --red: #ff8a80; --green: #7fd69b;
  --amber: #f0c060; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.25rem 4rem; background: var(--ground);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.35rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
code, pre { font: .9em/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
td code { overflow-wrap: normal; }
pre { background: var(--ground); border: 1px solid var(--line); border-radius: 4px;
  padding: .6rem .8rem; margin: .5rem 0 0; white-space: pre-wrap; }
.verdict { font-weight: 650; color: var(--amber); text-transform: uppercase; }
.verdict.good { color: var(--green); }
.panel { background: var(--panel); border: 1px solid var(--line); border-radius: 6px;
  padding: 1rem 1.25rem; }
.cause { font-size: 1.1rem; color: var(--red); margin: 0 0 .75rem; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 0; }
dt, .dim { color: var(--dim); } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem .9rem .35rem 0;
  border-bottom: 1px solid var(--line); }
th { color: var(--dim); font-weight: 500; } ol { padding-left: 1.5rem; margin: 0; }
li { margin: .35rem 0; } .seen { color: var(--red); font-weight: 600; }
"""


def replay_page(replay: Replay, run: str, number: int, per_epoch: int) -> str:
    """Return the page."""
    title = f"Incident {number} of {run}"
    good = " good" if replay.verdict == REPRODUCED else ""
    notes = "".join(f"<li>{_safe(text)}</li>" for text in (*replay.differences, *replay.remarks))
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_safe(title)}</title><style>{_STYLE}</style></head><body>",
            f'<h1>{_safe(title)}</h1><p class="dim">update {_safe(replay.update)}, '
            f"recorded with {_safe(replay.recorded_with)}</p>",
            f'<p class="verdict{good}">{_safe(replay.verdict)}</p>',
            f"<ul>{notes}</ul>" if notes else "",
            _origin(replay, replay.origin, per_epoch) if replay.origin else _no_origin(replay),
            "<h2>What was seen</h2>",
            '<div class="panel"><dl>',
            _rows("recorded", (sighting_words(one) for one in replay.recorded)),
            _rows("now", (sighting_words(one) for one in replay.seen)),
            _rows("given", (f"{one} is {one.kind}" for one in replay.poisons)),
            "</dl></div></body></html>\n",
        )
    )


def _no_origin(replay: Replay) -> str:
    if not replay.seen:
        return ""
    return f"<p>{_safe(unconnected(replay))}</p>"


def _origin(replay: Replay, origin: Origin, per_epoch: int) -> str:
    operation, place = origin.operation, origin.operation.place
    facts = {
        "operation": operation.name,
        "when": moment(replay, operation, per_epoch),
        "module": operation.module or "outside any module",
        "derivative": operation.autograd,
        "line": f"{short_path(place.file)}:{place.line}, {place.function}",
    }
    listed = "".join(_rows(name, (text,)) for name, text in facts.items() if text)
    seen = replay.seen[0]
    chain = "".join(
        f"<li><code>{_safe(step.names)}</code>{_safe(step.count)}<br>"
        f'<span class="dim">{_safe(step.first.module or step.first.place.function)} · '
        f"{_safe(short_path(step.first.place.file))}:{step.first.place.line}"
        f"{_safe(' · ' + step.first.autograd) if step.first.autograd else ''}</span></li>"
        for step in steps_of(origin)
    )
    cause = _safe(cause_words(origin.cause))
    return (
        f'<h2>Where it began</h2><div class="panel"><p class="cause">{cause}</p>'
        f"<dl>{listed}</dl><pre>{_safe(place.code)}</pre></div>"
        f'<h2>Its values</h2><div class="panel wide"><table><tr><th></th><th>tensor</th>'
        f"<th>shape</th><th>values</th><th>first</th></tr>"
        f"{_tensors('in', operation.inputs)}{_numbers(operation.scalars)}"
        f"{_tensors('out', operation.outputs)}</table></div>"
        f'<h2>How it spread</h2><div class="panel"><ol>{chain}<li class="seen">'
        f"{_safe(seen_line(origin, seen))}</li></ol></div>"
    )


def _tensors(side: str, parts: Iterable[TensorRange]) -> str:
    rows = []
    for part in parts:
        first = str(list(part.first)) if part.first else ""
        cells = "".join(
            f"<td><code>{_safe(text)}</code></td>"
            for text in (name_of(part), kind_of(part), values_of(part), first)
        )
        rows.append(f'<tr><td class="dim">{side}</td>{cells}</tr>')
    return "".join(rows)


def _numbers(scalars: Iterable[Scalar]) -> str:
    return "".join(
        f'<tr><td class="dim">in</td><td><code>{_safe(number_name(number))}</code></td>'
        f"<td><code>number</code></td><td><code>{number.value:.4g}</code></td><td></td></tr>"
        for number in scalars
    )


def _rows(name: str, texts: Iterable[str]) -> str:
    return "".join(
        f"<dt>{_safe(name) if position == 0 else ''}</dt><dd>{_safe(text)}</dd>"
        for position, text in enumerate(texts)
    )


def _safe(value: object) -> str:
    """Return a value as escaped HTML text, since a capsule can come from anyone."""
    return escape(printable(str(value)))
