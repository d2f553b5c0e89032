"""Numbers as text: short, of a bounded width, with NaN and Inf written as such."""

from typing import Final

from esper.leyline.text.sighting_words import nonfinite_kind

#: Shown where there is no value.
ABSENT: Final = "–"

_UNITS: Final = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def figure(value: float | None, width: int = 5) -> str:
    """Return a number in at most `width` characters, as precisely as they allow.

    None becomes a dash; NaN and infinities become "NaN", "+Inf" and "-Inf". `width` is at least 5.
    """
    if value is None:
        return ABSENT
    kind = nonfinite_kind(value)
    if kind is not None:
        return {"nan": "NaN", "+inf": "+Inf", "-inf": "-Inf"}[kind]
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 10 ** (width - 1):
        for decimals in range(width - 2, -1, -1):
            fixed = f"{value:.{decimals}f}"
            if len(fixed) <= width:
                return fixed
    for decimals in range(width, -1, -1):
        mantissa, _, exponent = f"{value:.{decimals}e}".partition("e")
        short = f"{mantissa}e{int(exponent)}"
        if len(short) <= width:
            return short
    # A number that is cut without a sign would be another number.
    return short[: width - 1] + "…"


def count(value: float | None) -> str:
    """Return a quantity with a unit prefix: 950, 1.24k, 53.1k, 4.01M."""
    if value is None:
        return ABSENT
    if nonfinite_kind(value) is not None:
        return figure(value)
    for size, unit in _UNITS:
        if abs(value) >= size:
            scaled = value / size
            decimals = 2 if abs(scaled) < 10 else 1 if abs(scaled) < 100 else 0
            return f"{scaled:.{decimals}f}{unit}"
    return f"{value:.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.1f}"


def percentage(value: float | None) -> str:
    """Return a share, 0 to 1, as a percentage in at most six characters."""
    if value is None or nonfinite_kind(value) is not None:
        return figure(value)
    return f"{100 * value:.1f}%"


def duration(seconds: float | None) -> str:
    """Return a time span as h:mm:ss, preceded by days if there are any."""
    if seconds is None:
        return ABSENT
    whole = max(0, int(seconds))
    days, rest = divmod(whole, 86_400)
    clock = f"{rest // 3600}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days} d {clock}" if days else clock


def bytes_text(size: float) -> str:
    """Return a size in bytes with a decimal unit: 850 MB, 1.2 GB."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            scaled = size / unit
            return f"{scaled:.1f} {name}" if scaled < 10 else f"{scaled:.0f} {name}"
    return f"{size / 1e3:.0f} kB"


def span_text(seconds: float) -> str:
    """Return an approximate time span: 42 s, 26 min, 1 h 05 min, 2 d 3 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02} min"
    return f"{hours // 24} d {hours % 24} h"


def cut(text: str, width: int) -> str:
    """Return a text in at most `width` characters, with an ellipsis if it is cut."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"[:width]


def place_text(update: int, epoch: int, minibatch: int) -> str:
    """Return "2/1/3" for update 2, epoch 1, minibatch 3; parts that are 0 are left out."""
    return "/".join(str(part) for part in (update, epoch, minibatch) if part)
