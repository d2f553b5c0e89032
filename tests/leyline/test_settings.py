"""Settings declared by a struct: names in files, ranges, choices and help texts come from it."""

from typing import Annotated, Literal

import msgspec
import pytest

from esper.leyline.settings import (
    Count,
    SettingError,
    checked_settings,
    declared_settings,
    read_toml,
)


class Sample(msgspec.Struct, kw_only=True):
    rng_seed: Annotated[Count, msgspec.Meta(description="random seed")] = msgspec.field(
        name="seed", default=7
    )
    mode: Literal["off", "bf16"] = "off"


def test_a_setting_has_its_name_in_files_and_its_attribute():
    seed, mode = declared_settings(Sample).values()
    assert (seed.name, seed.attribute, seed.default) == ("seed", "rng_seed", 7)
    assert (seed.help, seed.choices) == ("random seed", ())
    assert (mode.help, mode.choices) == ("", ("off", "bf16"))
    assert checked_settings(Sample, {"seed": 3}) == {"rng_seed": 3}
    assert Sample(**checked_settings(Sample, {"seed": 3})).rng_seed == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": -1}, "seed must be at least 0, not -1"),
        ({"seed": 2**63}, f"seed must be at most {2**63 - 1}, not {2**63}"),
        ({"seed": 1.5}, "seed must be a whole number, not 1.5"),
        ({"mode": "on"}, "mode must be one of off, bf16, not 'on'"),
        ({"rng_seed": 1}, "'rng_seed' is not a setting; did you mean 'seed'?"),
    ],
)
def test_a_wrong_value_is_one_sentence_with_the_name_in_the_file(values, message):
    with pytest.raises(SettingError) as caught:
        checked_settings(Sample, values)
    assert str(caught.value) == message


def test_a_file_that_is_too_long_is_not_read(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text("seed = 1\n")
    assert read_toml(path, 9) == {"seed": 1}
    with pytest.raises(SettingError, match="it is longer than 8 bytes"):
        read_toml(path, 8)
