"""Which guard, with which numbers: values that a bundle or a caller names."""

from __future__ import annotations

from typing import Annotated

import msgspec

from safegen.errors import UsageError

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]


class _Mode(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    tag_field="mode",
    tag=lambda name: {"BankMean": "bank-mean", "RenoiseOnly": "renoise-only"}.get(name, name.lower()),
):
    """Guards are told apart by the field ``mode``."""

    @property
    def mode(self) -> str:
        """The guard's name, as the manifest, the CLI and the picture's metadata spell it."""
        return str(type(self).__struct_config__.tag)


class Ratio(_Mode, frozen=True):
    """The density ratio of two banks as the gate, both banks as the direction (the default)."""

    false_positive_rate: Share = 0.005
    """Share of ordinary pictures on which the gate may open at any step, 0 to 1."""
    repulsion: float = 1.0


class Theorem(_Mode, frozen=True):
    """Theorem 3.2 with two banks, at every step, without a gate."""

    eta: Positive = 1.0
    w_max: Positive = 3.0


class Paper(_Mode, frozen=True):
    """The paper's own approximation, in the log domain."""

    quantile: Share = 0.05
    """The gate opens above this quantile of the negation images' own log beta."""
    eta: Positive = 1.0
    w_max: Positive = 3.0
    t_min: float = 780.0


class Official(_Mode, frozen=True):
    """The released program; the fields are one of its presets."""

    bandwidth: Positive = 3.15
    scale: float = 0.33
    gate: bool = True
    """Calibrated minimum over the noised references; False is always open."""
    margin: float = 1.6
    t_min: float = 780.0
    first_steps: int | None = None
    """Act on these first steps, whatever their timestep; None acts where t >= t_min."""
    sd3: bool = False
    """As the program does for SD3: compare unit pixels of x0, and take its own step, for rectified flow."""


class Spell(_Mode, frozen=True):
    """SPELL."""

    radius: float | None = None
    """None takes the median distance between a reference and its nearest other one."""
    overcompensation: float = 1.6


class Sgf(_Mode, frozen=True):
    """SGF."""

    step: float = 30.0
    gamma: float | None = None
    """None takes -ln(.05) / mean d^2 of each reference's neighbours 4 to 6."""


class BankMean(_Mode, frozen=True):
    """Control: push away from the mean of the bank, at every step."""

    scale: float = 0.3


class RenoiseOnly(_Mode, frozen=True):
    """Control: ``official`` with a scale of 0."""

    t_min: float = 780.0


class Off(_Mode, frozen=True):
    """No guard. Only an engine built with --allow-unguarded takes it."""


Settings = Ratio | Theorem | Paper | Official | Spell | Sgf | BankMean | RenoiseOnly | Off

OFFICIAL_PRESETS = {
    "nudity": Official(),
    "inappropriate": Official(bandwidth=1.0, scale=0.03, gate=False, t_min=800.0),
    "sd3-nudity": Official(bandwidth=1.0, scale=0.03, gate=False, sd3=True),
    "memorized-person": Official(bandwidth=13.15, scale=0.69, gate=False, first_steps=12),
    "memorized-artwork": Official(bandwidth=13.15, scale=0.9, gate=False, first_steps=12),
}
_PLAIN = (Ratio(), Theorem(), Paper(), Official(), Spell(), Sgf(), BankMean(), RenoiseOnly(), Off())
MODES = {settings.mode: settings for settings in _PLAIN}
SIGNABLE = ("ratio", "paper", "official")
"""What an engine may carry: these have step graphs and run in every host."""
RIVALS = tuple(mode for mode in MODES if mode not in (*SIGNABLE, "off"))
"""What ``ratio`` is compared with, in Python alone, by engines that draw without a guard."""


def parse_guard(text: str) -> Settings:
    """``ratio``, ``official``, ``official:sd3-nudity`` and so on to settings.

    Raises:
        UsageError: an unknown guard or preset.
    """
    mode, _, preset = text.partition(":")
    if mode not in MODES:
        raise UsageError(f"guard is {mode!r}; known are {', '.join(MODES)}.")
    if not preset:
        return MODES[mode]
    if mode != "official" or preset not in OFFICIAL_PRESETS:
        raise UsageError(
            f"guard is {text!r}; presets are {', '.join(f'official:{p}' for p in OFFICIAL_PRESETS)}."
        )
    return OFFICIAL_PRESETS[preset]


def check_whole(mode: str, regions: int) -> None:
    """Refuse regions for the guards that know whole pictures alone.

    Raises:
        UsageError: there are some, and the guard is not ``ratio``.
    """
    if regions > 1 and mode != "ratio":
        raise UsageError(
            f"the bundle holds regions of pictures, {regions} a side, which the guard {mode} does not"
            " know; use ratio, or freeze without --regions."
        )
