"""A guard bound to a bundle and a plan, every threshold worked out beforehand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from safegen.device import Array, array_namespace
from safegen.errors import GuardError, UsageError
from safegen.format.bundle import Bundle
from safegen.guard import rivals
from safegen.guard.bandwidth import neighbours
from safegen.guard.bank import Bank, logsumexp
from safegen.guard.gate import density_curves, hurried, thresholds
from safegen.guard.official import official, official_log_kernel, unit_pixels
from safegen.guard.paper import paper
from safegen.guard.ratio import ratio_by_regions
from safegen.guard.regions import WHOLE, of_pictures
from safegen.guard.settings import (
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
)
from safegen.sampling import noise
from safegen.sampling.loop import Evidence, Guarded, OpenGuard, stateless, step_noise
from safegen.sampling.table import Row, Table


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
        return stateless(lambda x, x0, i: (x, x0, None))
    if bundle is None or bank is None:
        raise GuardError(f"the guard {settings.mode} needs a negation bundle.")
    if isinstance(settings, Ratio):
        return _open_ratio(settings, bundle, bank, table)
    check_whole(settings.mode, bundle.info.regions)
    if isinstance(settings, Theorem):
        return stateless(
            lambda x, x0, i: rivals.theorem(
                x,
                x0,
                table.rows[i],
                bank,
                tau=bundle.info.tau,
                log_eta=math.log(settings.eta),
                log_w_max=math.log(settings.w_max),
            )
        )
    if isinstance(settings, Paper):
        return _open_paper(settings, bundle, bank, table)
    if isinstance(settings, Official | RenoiseOnly):
        return _open_official(settings, bundle, bank, table)
    return _open_x0_guard(settings, bank, table)


def _log_snrs(table: Table) -> list[float]:
    return [row.log_snr for row in table.rows]


def _open_ratio(settings: Ratio, bundle: Bundle, bank: Bank, table: Table) -> OpenGuard:
    levels, layout = _log_snrs(table), bundle.info.layout
    curves = thresholds(bundle.calibration, settings.false_positive_rate, levels)
    whole = layout == WHOLE
    sharpness, doubts = hurried(bundle.calibration, levels) if whole else (1.0, [None] * len(levels))

    def shut(x: Array, seeds: Sequence[int]) -> Array:
        xp = array_namespace(x)
        return xp.zeros(x.shape[0] * layout.count(x.shape), dtype=xp.bool)

    def run(x: Array, x0: Array, i: int, latched: Array, plain: Array | None) -> Guarded:
        steered, evidence = ratio_by_regions(
            x,
            x0,
            table.rows[i],
            bank,
            latched,
            layout,
            opens=float(curves.opens[i]),
            sure=float(curves.sure[i]),
            releases=float(curves.releases[i]),
            tau=bundle.info.tau,
            repulsion=settings.repulsion,
            bandwidth=bundle.info.bandwidth,
            aim_bandwidth=bundle.info.aim_bandwidth,
            sharpness=sharpness,
            doubts=doubts[i],
            plain=plain,
        )
        seen = of_pictures(evidence, layout.count(x.shape), layout.rows)
        return x, steered, seen, latched | (evidence.value > 0)

    return OpenGuard(run, shut, latches=True)


def _open_paper(settings: Paper, bundle: Bundle, bank: Bank, table: Table) -> OpenGuard:
    low, usual = density_curves(bundle.calibration, settings.quantile, _log_snrs(table))

    def run(x: Array, x0: Array, i: int) -> tuple[Array, Array, Evidence | None]:
        if table.rows[i].timestep < settings.t_min:
            return x, x0, None
        return paper(
            x,
            x0,
            table.rows[i],
            bank,
            threshold=float(low[i]),
            usual=float(usual[i]),
            eta=settings.eta,
            log_cap=math.log(settings.w_max / settings.eta),
        )

    return stateless(run)


def _open_official(settings: Official | RenoiseOnly, bundle: Bundle, bank: Bank, table: Table) -> OpenGuard:
    _refuse_renoise(settings.mode, table)
    if isinstance(settings, RenoiseOnly):
        settings = Official(scale=0.0, gate=False, t_min=settings.t_min)
    xp = array_namespace(bank.refs)
    units = unit_pixels(bank.refs, bundle.info.latent_shape[0])
    units_sq = xp.sum(units**2, axis=1)
    threshold, margin = -1.0, 0.0
    if settings.gate:
        den = _lowest_den(units, units_sq, bundle.info.latent_shape, table.rows[-1], settings)
        threshold = margin = den - settings.margin

    def run(x: Array, x0: Array, i: int, seeds: Sequence[int], plain: Array | None) -> Guarded:
        early = i < settings.first_steps if settings.first_steps is not None else None
        if not (table.rows[i].timestep >= settings.t_min if early is None else early):
            return x, x0, None, seeds
        guarded = official(
            x,
            x0,
            table.rows[i],
            units,
            units_sq,
            step_noise(x, seeds, i, stream=1),
            bandwidth=settings.bandwidth,
            scale=settings.scale,
            threshold=threshold,
            margin=margin,
            unit_x0=settings.unit_x0,
        )
        return *guarded, seeds

    return OpenGuard(run, start=lambda x, seeds: seeds)


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
    kernels = official_log_kernel(x, units, units_sq, settings.bandwidth, unit_x0=settings.unit_x0)
    return float(xp.min(xp.exp(logsumexp(kernels)) + 1e-8))


def _open_x0_guard(settings: Spell | Sgf | BankMean, bank: Bank, table: Table) -> OpenGuard:
    if isinstance(settings, Spell):
        radius = settings.radius
        if radius is None:
            radius = neighbours(bank.refs, bank.refs_sq, 1, 1, np.median)
        return stateless(
            lambda x, x0, i: rivals.spell(
                x, x0, bank, radius=float(radius), overcompensation=settings.overcompensation
            )
        )
    if isinstance(settings, Sgf):
        gamma = settings.gamma
        if gamma is None:
            gamma = -np.log(0.05) / neighbours(bank.refs, bank.refs_sq, 4, 6, np.mean, power=2)
        return stateless(lambda x, x0, i: rivals.sgf(x, x0, bank, gamma=float(gamma), step=settings.step))
    return stateless(lambda x, x0, i: rivals.bank_mean(x, x0, bank, scale=settings.scale))
