"""A guard bound to a bundle and a plan, every threshold worked out beforehand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from safegen.device import Array, array_namespace
from safegen.errors import GuardError, UsageError
from safegen.format.bundle import Bundle
from safegen.guard import ratio, rivals
from safegen.guard.bandwidth import neighbours
from safegen.guard.bank import Bank, logsumexp
from safegen.guard.gate import density_curves, thresholds
from safegen.guard.official import (
    Numbers,
    Units,
    noise_shares,
    official,
    official_log_kernel,
    unit_pixels,
)
from safegen.guard.paper import paper
from safegen.guard.regions import of_pictures
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
        bundle: its gate; may be None for ``Off`` alone.
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
                log_eta=math.log(settings.eta),
                log_w_max=math.log(settings.w_max),
            )
        )
    if isinstance(settings, Paper):
        return _open_paper(settings, bundle, bank, table)
    if isinstance(settings, Official | RenoiseOnly):
        return _open_official(settings, bundle, bank, table)
    return _open_x0_guard(settings, bank, table)


def _open_ratio(settings: Ratio, bundle: Bundle, bank: Bank, table: Table) -> OpenGuard:
    layout, info = bundle.info.layout, bundle.info
    opens = thresholds(bundle.gate, settings.false_positive_rate, [row.signal for row in table.rows])
    steps = [ratio.Numbers(float(at), info.bandwidth, settings.repulsion) for at in opens]

    def shut(x: Array, seeds: Sequence[int]) -> Array:
        xp = array_namespace(x)
        return xp.zeros(x.shape[0] * layout.count(x.shape), dtype=xp.bool)

    def run(x: Array, x0: Array, i: int, latched: Array, plain: Array | None) -> Guarded:
        moved, evidence = ratio.ratio_by_regions(x, x0, table.rows[i], bank, latched, steps[i], layout, plain)
        seen = of_pictures(evidence, layout.count(x.shape), layout.rows)
        return x, moved, seen, latched | (evidence.value > 0)

    return OpenGuard(run, shut, latches=True)


def _open_paper(settings: Paper, bundle: Bundle, bank: Bank, table: Table) -> OpenGuard:
    levels = [row.log_snr for row in table.rows]
    low, usual = density_curves(bundle.density, settings.quantile, levels)

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
    if isinstance(settings, RenoiseOnly):
        settings = Official(scale=0.0, gate=False, t_min=settings.t_min)
    _check_renoise(settings, table)
    xp = array_namespace(bank.refs)
    refs = unit_pixels(bank.refs, bundle.info.latent_shape[0])
    units = Units(refs, xp.sum(refs**2, axis=1))
    threshold = 0.0
    if settings.gate:
        threshold = _lowest_den(units, bundle.info.latent_shape, table.rows[-1], settings) - settings.margin

    def run(x: Array, x0: Array, i: int, seeds: Sequence[int], plain: Array | None) -> Guarded:
        early = i < settings.first_steps if settings.first_steps is not None else None
        if not (table.rows[i].timestep >= settings.t_min if early is None else early):
            return x, x0, None, seeds
        row, z = table.rows[i], step_noise(x, seeds, i, stream=1)
        shares = noise_shares(row, sd3=settings.sd3)
        numbers = Numbers(settings.bandwidth, settings.scale, threshold, *shares)
        return *official(x, x0, row, units, z, numbers, sd3=settings.sd3), seeds

    return OpenGuard(run, start=lambda x, seeds: seeds)


def _check_renoise(settings: Official, table: Table) -> None:
    """Refuse a plan that cannot follow a guard which makes x anew."""
    if any(row.c for row in table.rows):
        raise UsageError("the guard official re-noises x, which dpm++2m cannot follow; use ddim.")
    if settings.sd3 and any(abs(row.alpha + row.sigma - 1) > 1e-6 or row.d for row in table.rows):
        raise UsageError(
            "the guard official for SD3 takes a step of rectified flow, which this model and solver do not;"
            " take another preset, official:nudity."
        )
    if not settings.sd3 and any(row.alpha == 0.0 for row in table.rows):
        raise UsageError("the guard official divides by alpha, 0 at zero terminal SNR; use leading.")


def _lowest_den(units: Units, latent_shape: tuple[int, int, int], last: Row, settings: Official) -> float:
    """The released program's calibration: den of the noised references at the last timestep."""
    xp, shape = array_namespace(units.refs), (units.refs.shape[0], *latent_shape)
    scale = 1 / math.hypot(last.alpha, last.sigma)
    z = xp.asarray(noise.normal(0, 0, shape, stream=3))
    x = last.alpha * scale * xp.reshape(units.refs, shape) + last.sigma * scale * z
    kernels = official_log_kernel(x, units, settings.bandwidth, sd3=settings.sd3)
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
