"""The signs of the lights: they carry the meaning without colour and in a pipe."""

from typing import Final

LIT: Final = "●"
LIT_BY_DRILL: Final = "◉"  # only drills lit it
UNLIT: Final = "○"
UNKNOWN: Final = "?"
FIRST_OUT_MARK: Final = "¹"  # behind the sign of the light that came on first
