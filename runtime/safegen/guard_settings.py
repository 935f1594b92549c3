"""Which guard, with which numbers: values that a bundle or a caller names, bound here to a plan."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import msgspec
import numpy as np

from safegen import guard, noise, regions
from safegen.calibration import density_curves, hurried, neighbours, thresholds
from safegen.device import array_namespace
from safegen.errors import GuardError, UsageError
from safegen.guard import Bank, Evidence
from safegen.solver import Row, Table

if TYPE_CHECKING:
    from safegen.bundle import Bundle

Array = Any
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
    unit_x0: bool = False
    """Compare unit pixels of x0, as the program does for SD3."""


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
    "sd3-nudity": Official(bandwidth=1.0, scale=0.03, gate=False, unit_x0=True),
    "memorized-person": Official(bandwidth=13.15, scale=0.69, gate=False, first_steps=12),
    "memorized-artwork": Official(bandwidth=13.15, scale=0.9, gate=False, first_steps=12),
}
_PLAIN = (Ratio(), Theorem(), Paper(), Official(), Spell(), Sgf(), BankMean(), RenoiseOnly(), Off())
MODES = {settings.mode: settings for settings in _PLAIN}
GUARDS = tuple(mode for mode in MODES if mode != "off")


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


Draw = Callable[[int], Array]
"""Step index -> fresh noise (B, C, H, W)."""


class OpenGuard(Protocol):
    """A guard in the plan that it was opened for; no evidence where it does not look."""

    def __call__(
        self, x: Array, x0: Array, i: int, draw: Draw, plain: Array | None = None
    ) -> tuple[Array, Array, Evidence | None]:
        """(x, x0, step index, draw) -> (x, x0, evidence); ``plain`` is x0 without a text guard."""


def open_guard(settings: Settings, bundle: Bundle | None, bank: Bank | None, table: Table) -> OpenGuard:
    """Bind a guard to a bundle and a plan, working out every threshold beforehand.

    Args:
        settings: which guard.
        bundle: its calibration; may be None for ``Off`` alone.
        bank: the bundle's banks, on the device that draws.
        table: the plan that the guard will run in.

    Raises:
        GuardError: a guard that needs a bundle has none.
        UsageError: the solver gives the guard no meaning, or the bundle's regions are not for it.
    """
    if isinstance(settings, Off):
        return lambda x, x0, i, draw, plain=None: (x, x0, None)
    if bundle is None or bank is None:
        raise GuardError(f"the guard {settings.mode} needs a negation bundle.")
    if isinstance(settings, Ratio):
        return _open_ratio(settings, bundle, bank, table)
    check_whole(settings.mode, bundle.info.regions)
    if isinstance(settings, Theorem):
        return lambda x, x0, i, draw, plain=None: guard.theorem(
            x, x0, table.rows[i], bank, tau=bundle.info.tau, log_eta=math.log(settings.eta),
            log_w_max=math.log(settings.w_max),
        )  # fmt: skip
    if isinstance(settings, Paper):
        return _open_paper(settings, bundle, bank, table)
    if isinstance(settings, Official | RenoiseOnly):
        return _open_official(settings, bundle, bank, table)
    return _open_x0_guard(settings, bank, table)


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


def _log_snrs(table: Table) -> list[float]:
    return [row.log_snr for row in table.rows]


def _open_ratio(settings: Ratio, bundle: Bundle, bank: Bank, table: Table) -> OpenGuard:
    levels, layout = _log_snrs(table), bundle.info.layout
    curves = thresholds(bundle.calibration, settings.false_positive_rate, levels)
    whole = layout == regions.WHOLE
    sharpness, doubts = hurried(bundle.calibration, levels) if whole else (1.0, [None] * len(levels))
    latched: Array = None

    def run(
        x: Array, x0: Array, i: int, draw: Draw, plain: Array | None = None
    ) -> tuple[Array, Array, Evidence | None]:
        nonlocal latched
        xp = array_namespace(x)
        if i == 0:
            latched = xp.zeros(x.shape[0] * layout.count(x.shape), dtype=xp.bool)
        steered, evidence = regions.ratio(
            x, x0, table.rows[i], bank, latched, layout, opens=float(curves.opens[i]),
            sure=float(curves.sure[i]), releases=float(curves.releases[i]), tau=bundle.info.tau,
            repulsion=settings.repulsion, bandwidth=bundle.info.bandwidth,
            aim_bandwidth=bundle.info.aim_bandwidth, sharpness=sharpness, doubts=doubts[i],
            plain=plain,
        )  # fmt: skip
        latched = latched | (evidence.value > 0)
        return x, steered, regions.of_pictures(evidence, layout.count(x.shape), layout.rows)

    return run


def _open_paper(settings: Paper, bundle: Bundle, bank: Bank, table: Table) -> OpenGuard:
    low, usual = density_curves(bundle.calibration, settings.quantile, _log_snrs(table))

    def run(
        x: Array, x0: Array, i: int, draw: Draw, plain: Array | None = None
    ) -> tuple[Array, Array, Evidence | None]:
        if table.rows[i].timestep < settings.t_min:
            return x, x0, None
        return guard.paper(
            x, x0, table.rows[i], bank, threshold=float(low[i]), usual=float(usual[i]),
            eta=settings.eta, log_cap=math.log(settings.w_max / settings.eta),
        )  # fmt: skip

    return run


def _open_official(settings: Official | RenoiseOnly, bundle: Bundle, bank: Bank, table: Table) -> OpenGuard:
    _refuse_renoise(settings.mode, table)
    if isinstance(settings, RenoiseOnly):
        settings = Official(scale=0.0, gate=False, t_min=settings.t_min)
    xp = array_namespace(bank.refs)
    units = guard.unit_pixels(bank.refs, bundle.info.latent_shape[0])
    units_sq = xp.sum(units**2, axis=1)
    threshold, margin = -1.0, 0.0
    if settings.gate:
        den = _lowest_den(units, units_sq, bundle.info.latent_shape, table.rows[-1], settings)
        threshold = margin = den - settings.margin

    def run(
        x: Array, x0: Array, i: int, draw: Draw, plain: Array | None = None
    ) -> tuple[Array, Array, Evidence | None]:
        early = i < settings.first_steps if settings.first_steps is not None else None
        if not (table.rows[i].timestep >= settings.t_min if early is None else early):
            return x, x0, None
        return guard.official(
            x, x0, table.rows[i], units, units_sq, draw(i), bandwidth=settings.bandwidth,
            scale=settings.scale, threshold=threshold, margin=margin, unit_x0=settings.unit_x0,
        )  # fmt: skip

    return run


def _refuse_renoise(mode: str, table: Table) -> None:
    """A guard that re-noises x breaks what a multistep solver remembers and needs alpha > 0."""
    if any(row.c for row in table.rows):
        raise UsageError(f"the guard {mode} re-noises x, which dpm++2m cannot follow; use ddim.")
    if any(row.alpha == 0.0 for row in table.rows):
        raise UsageError(f"the guard {mode} divides by alpha, 0 at zero terminal SNR; use leading.")


def _lowest_den(
    units: Array, units_sq: Array, latent_shape: tuple[int, int, int], last: Row, settings: Official
) -> float:
    """The released program's calibration: den of the noised references at the last timestep."""
    xp, shape = array_namespace(units), (units.shape[0], *latent_shape)
    scale = 1 / math.hypot(last.alpha, last.sigma)
    z = xp.asarray(noise.normal(0, 0, shape, stream=3))
    x = last.alpha * scale * xp.reshape(units, shape) + last.sigma * scale * z
    kernels = guard.official_log_kernel(x, units, units_sq, settings.bandwidth, unit_x0=settings.unit_x0)
    return float(xp.min(xp.exp(guard.logsumexp(kernels)) + 1e-8))


def _open_x0_guard(settings: Spell | Sgf | BankMean, bank: Bank, table: Table) -> OpenGuard:
    if isinstance(settings, Spell):
        radius = settings.radius
        if radius is None:
            radius = neighbours(bank.refs, bank.refs_sq, 1, 1, np.median)
        return lambda x, x0, i, draw, plain=None: guard.spell(
            x, x0, bank, radius=float(radius), overcompensation=settings.overcompensation
        )
    if isinstance(settings, Sgf):
        gamma = settings.gamma
        if gamma is None:
            gamma = -np.log(0.05) / neighbours(bank.refs, bank.refs_sq, 4, 6, np.mean, power=2)
        return lambda x, x0, i, draw, plain=None: guard.sgf(
            x, x0, bank, gamma=float(gamma), step=settings.step
        )
    return lambda x, x0, i, draw, plain=None: guard.bank_mean(x, x0, bank, scale=settings.scale)
