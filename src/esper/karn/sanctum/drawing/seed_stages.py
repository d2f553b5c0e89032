"""How the stages of a seed's life look: a sign and a colour each."""

from typing import Final

from esper.karn.sanctum.drawing.palette import Palette
from esper.leyline.heads import Stage

#: A sign for each stage of a seed's life; the more of it there is in the host, the fuller.
STAGE_SIGNS: Final = {
    Stage.DORMANT: "·",
    Stage.GERMINATED: "▫",
    Stage.TRAINING: "▪",
    Stage.BLENDING: "◧",
    Stage.HOLDING: "■",
    Stage.FOSSILIZED: "◆",
    Stage.PRUNED: "/",
    Stage.EMBARGOED: "−",
}


def stage_style(stage: int, palette: Palette) -> str:
    """Return the colour of a stage; none of them is an alert."""
    return {
        Stage.TRAINING: palette.accent,
        Stage.BLENDING: f"bold {palette.accent}",
        Stage.HOLDING: palette.ink,
        Stage.FOSSILIZED: f"bold {palette.good}",
        Stage.GERMINATED: palette.muted,
        Stage.PRUNED: palette.muted,
    }.get(Stage(stage) if stage in list(Stage) else Stage.DORMANT, palette.faint)


def stage_sign(stage: int) -> str:
    """Return the sign of a stage; one that a newer version has added is a question mark."""
    return STAGE_SIGNS[Stage(stage)] if stage in list(Stage) else "?"
