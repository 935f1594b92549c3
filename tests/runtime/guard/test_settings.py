"""What a bundle or a caller names. If these fail, a preset is not the one that was published, or a rate that
nobody asked for is used."""

import msgspec
import pytest

from safegen.errors import UsageError
from safegen.guard.settings import (
    MODES,
    OFFICIAL_PRESETS,
    RIVALS,
    SIGNABLE,
    BankMean,
    Off,
    Official,
    Paper,
    Ratio,
    RenoiseOnly,
    Settings,
    Sgf,
    Spell,
    Theorem,
    check_whole,
    parse_guard,
)

ALWAYS = float("-inf")
PUBLISHED = {
    # s, scale, calibrated gate, margin, from timestep, first steps, as for SD3
    "nudity": (3.15, 0.33, True, 1.6, 780.0, None, False),
    "inappropriate": (1.0, 0.03, False, 1.6, 800.0, None, False),
    "sd3-nudity": (1.0, 0.03, False, 1.6, 780.0, None, True),
    "memorized-person": (13.15, 0.69, False, 1.6, 780.0, 12, False),
    "memorized-artwork": (13.15, 0.9, False, 1.6, 780.0, 12, False),
}
USUAL: dict[Settings, dict[str, object]] = {
    Ratio(): {"mode": "ratio", "false_positive_rate": 0.005, "repulsion": 1.0},
    Theorem(): {"mode": "theorem", "eta": 1.0, "w_max": 3.0},
    Paper(): {"mode": "paper", "quantile": 0.05, "eta": 1.0, "w_max": 3.0, "t_min": 780.0},
    Spell(): {"mode": "spell", "radius": None, "overcompensation": 1.6},
    Sgf(): {"mode": "sgf", "step": 30.0, "gamma": None},
    BankMean(): {"mode": "bank-mean", "scale": 0.3},
    RenoiseOnly(): {"mode": "renoise-only", "t_min": 780.0},
    Off(): {"mode": "off"},
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_presets_are_the_published_configurations(preset: str) -> None:
    found = parse_guard(f"official:{preset}")
    assert found == OFFICIAL_PRESETS[preset]
    fields = ("bandwidth", "scale", "gate", "margin", "t_min", "first_steps", "sd3")
    assert tuple(getattr(found, name) for name in fields) == PUBLISHED[preset]
    assert set(OFFICIAL_PRESETS) == set(PUBLISHED)


@pytest.mark.parametrize("settings", USUAL)
def test_a_guard_named_alone_has_its_usual_numbers(settings: Settings) -> None:
    builtins = msgspec.to_builtins(settings)
    assert builtins == USUAL[settings]
    assert parse_guard(str(builtins["mode"])) == settings
    assert msgspec.convert(builtins, Settings) == settings


def test_an_engine_carries_three_guards_and_the_rest_are_rivals() -> None:
    assert SIGNABLE == ("ratio", "paper", "official")
    assert set(RIVALS) == {"theorem", "spell", "sgf", "bank-mean", "renoise-only"}
    assert set(MODES) == {*SIGNABLE, *RIVALS, "off"}
    assert MODES["official"] == Official() == OFFICIAL_PRESETS["nudity"]


@pytest.mark.parametrize("mode", MODES)
def test_an_unknown_setting_is_refused(mode: str) -> None:
    """A setting that nobody reads is a setting that somebody believes in."""
    with pytest.raises(msgspec.ValidationError, match="strength"):
        msgspec.convert({"mode": mode, "strength": 3.0}, Settings)
    with pytest.raises(msgspec.ValidationError, match="sharper"):
        msgspec.convert({"mode": "sharper"}, Settings)


RANGES = {
    ("ratio", "false_positive_rate"): "share",
    ("paper", "quantile"): "share",
    ("paper", "eta"): "positive",
    ("paper", "w_max"): "positive",
    ("theorem", "eta"): "positive",
    ("theorem", "w_max"): "positive",
    ("official", "bandwidth"): "positive",
}


@pytest.mark.parametrize(("mode", "field"), RANGES)
def test_numbers_have_their_ranges(mode: str, field: str) -> None:
    share = RANGES[mode, field] == "share"
    for value in (0.0, 0.3, 1.0) if share else (1e-6, 0.5, 1.0, 1e6):
        assert getattr(msgspec.convert({"mode": mode, field: value}, Settings), field) == value
    for value in (-1e-6, 1.000001) if share else (0.0, -1.0):
        with pytest.raises(msgspec.ValidationError, match=field):
            msgspec.convert({"mode": mode, field: value}, Settings)


@pytest.mark.parametrize(
    ("text", "word"),
    [("magic", "known are ratio"), ("", "known are ratio"), ("official:none", "official:nudity"),
     ("ratio:nudity", "presets"), ("official:ratio", "presets")],
)  # fmt: skip
def test_unknown_names_are_refused(text: str, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        parse_guard(text)


def test_regions_are_for_ratio_alone() -> None:
    check_whole("ratio", 2)
    check_whole("paper", 1)
    with pytest.raises(UsageError, match="regions of pictures, 2 a side, which the guard paper"):
        check_whole("paper", 2)
