"""The signs and colours of a seed's stages, and of its alpha."""

from typing import Final

from esper.karn.sanctum.drawing.charts import BLOCKS, NONFINITE_SIGNS
from esper.karn.text.palette import Palette
from esper.leyline.heads import Stage
from esper.leyline.text.sighting_words import nonfinite_kind

#: A sign for each stage of a seed: the more it affects the host, the fuller the sign.
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
    """Return the sign of a stage; a question mark for a stage of a newer version."""
    return STAGE_SIGNS[Stage(stage)] if stage in list(Stage) else "?"


def alpha_sign(alpha: float) -> str:
    """Return alpha as a block of that height; a blank at 0; a special sign for NaN and Inf."""
    kind = nonfinite_kind(alpha)
    if kind is not None:
        return NONFINITE_SIGNS[kind]
    if alpha <= 0:
        return " "
    return BLOCKS[round(min(1.0, alpha) * (len(BLOCKS) - 1))]
