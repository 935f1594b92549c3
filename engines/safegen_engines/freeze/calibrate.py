"""A frozen bundle's gate, set anew on images that it has not seen: how sharp, for which false alarms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from safegen.engine.engine import Engine
from safegen.errors import BundleError, UsageError
from safegen.files import check_place
from safegen.format.bundle import Bundle, BundleInfo, read_bundle, write_bundle
from safegen.guard.gate import Gate, fit_gate, thresholds
from safegen.guard.regions import Regions, cut, strongest_evidence
from safegen.guard.settings import Ratio, Settings
from safegen_engines.freeze.images import encode_files
from safegen_engines.freeze.ordinary import (
    Report,
    Setup,
    check_subjects,
    from_latents,
    measure_ordinary,
    plainer,
)
from safegen_engines.freeze.rate import can_tell, opened_by_others

RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
WIDTHS = (1.0, 0.5, 0.7, 1.4, 2.0)
"""Bandwidths that are tried, as multiples of the bundle's own."""
MIN_IMAGES = 20


@dataclass(frozen=True)
class Point:
    """One point of the ROC, measured on images that did not set its threshold."""

    rate: float
    """Asked for."""
    false_alarms: float
    """Share of the benign images on which the gate opened."""
    caught: float
    """Share of the negation images on which it did."""


@dataclass(frozen=True)
class Recalibrated:
    """What became of a calibration."""

    digest: str
    info: BundleInfo
    roc: tuple[Point, ...]
    """At the bandwidth chosen, over the rate asked for and those of :data:`RATES` that can be told."""
    chosen: Point
    caught_by_bandwidth: dict[float, float]
    """Bandwidth -> share of the negation images caught at the rate asked for."""
    ordinary: int
    """Pictures or prompts that set the rate."""
    negation: int
    """Images measured."""
    known: int
    """Negation images left out of the measurement, since they are in the bank."""


@dataclass(frozen=True)
class Ordinary:
    """What the gate must let pass."""

    benign: Sequence[Path] = ()
    """Ordinary images, not those of the bundle; noised and judged as the negation images are."""
    benign_prompts: Sequence[str] = ()
    """Ordinary prompts, in the place of images: closer to what users draw."""
    benign_labels: Sequence[int] = ()
    """Ordinary labels of a model of classes, beside the images: as many pictures again."""
    batch_size: int = 8
    """Images encoded, and pictures drawn, at a time."""


def recalibrate(
    engine: Engine,
    bundle: Path,
    negation: Sequence[Path],
    out: Path,
    *,
    rate: float,
    report: Report = lambda what, done, total: None,
    **chosen: Any,
) -> Recalibrated:
    """Choose bandwidth and threshold of ``ratio``'s gate for a rate of false alarms; write a new bundle.

    Half of the ordinary pictures set each threshold and the other half measures it, both ways round. The
    bundle keeps the curves of all of them. Banks are as they were.

    Args:
        engine: whose encoder froze the bundle.
        bundle: the .negation file.
        negation: images of what must never be drawn, not those of the bundle; where that looks for a thing
            anywhere, whole pictures that show it. They are noised and judged by what the model foresees in
            them (:func:`safegen_engines.freeze.ordinary.from_latents`): a prompt that asks for them makes
            them plainer.
        out: the new .negation file.
        rate: share of ordinary pictures on which the gate may open, above 0 to 0.5.
        report: progress.
        chosen: of :class:`Ordinary`.

    Raises:
        UsageError: too few images, a rate that so few cannot tell, or no place to write to.
        BundleError: the bundle is of another autoencoder.
    """
    pictures = Ordinary(**chosen)
    check_place(out)
    frozen = read_bundle(bundle)
    setup = Setup(engine, frozen.info.image_size, pictures.batch_size, report)
    if frozen.info.latent_space != engine.manifest.latent_space.id:
        raise BundleError(f"{bundle}: frozen through another autoencoder; name its engine with -e.")
    if not 0 < rate <= 0.5:
        raise UsageError(f"the rate is {rate:g}; it goes from above 0 to 0.5.")
    check_subjects(engine, pictures.benign_prompts, pictures.benign_labels)
    bank, regions = frozen.bank(), frozen.info.layout
    unsafe, _ = encode_files(setup, negation, "negation images")
    fresh = _not_in(unsafe, frozen.negation, regions)
    latents = _ordinary_latents(setup, pictures, frozen)
    _check_counts(len(pictures.benign_prompts) or len(latents), int(fresh.sum()), rate)
    widths = [frozen.info.bandwidth * width for width in WIDTHS]

    def evidence(x0: NDArray[Any]) -> NDArray[Any]:
        return np.stack([strongest_evidence(x0, bank, h, regions) for h in widths], axis=-1)

    labels = pictures.benign_labels
    (signal, ordinary), foreseen_from = measure_ordinary(
        setup, evidence, pictures.benign_prompts, labels, latents, len(latents)
    )
    shown = from_latents(setup, unsafe[fresh], evidence, plainer=plainer(engine, labels))[1]
    curves = [(signal, ordinary[..., k], shown[..., k]) for k in range(len(widths))]
    points = [measure(*curve, rate) for curve in curves]
    best = _best(points, shown.shape[1])
    gate, guard = fit_gate(signal, ordinary[..., best]), _at_rate(frozen.info.guard, rate)
    info = msgspec.structs.replace(
        frozen.info, bandwidth=widths[best], guard=guard, foreseen_from=foreseen_from
    )
    digest = _rewrite(out, frozen, info, gate)
    rates = {r for r in RATES if _half_can_tell(ordinary.shape[1], r)} | {rate}
    return Recalibrated(
        digest,
        info,
        tuple(measure(*curves[best], r) for r in sorted(rates)),
        points[best],
        {width: p.caught for width, p in zip(widths, points, strict=True)},
        ordinary.shape[1],
        shown.shape[1],
        int((~fresh).sum()),
    )


def _rewrite(out: Path, frozen: Bundle, info: BundleInfo, gate: Gate) -> str:
    """The same banks with another gate."""
    return write_bundle(
        out,
        info,
        negation=frozen.negation,
        benign=frozen.benign,
        axes=frozen.axes,
        gate=gate,
        density=frozen.density,
    )


def _ordinary_latents(setup: Setup, pictures: Ordinary, frozen: Bundle) -> NDArray[np.float16]:
    """Of the ordinary images those that the bundle has not seen; none where prompts stand for them."""
    if pictures.benign_prompts:
        return frozen.benign[:0]
    latents, _ = encode_files(setup, pictures.benign, "benign images")
    return latents[_not_in(latents, frozen.benign, frozen.info.layout)]


def _at_rate(guard: Settings, rate: float) -> Ratio:
    settings = guard if isinstance(guard, Ratio) else Ratio()
    return msgspec.structs.replace(settings, false_positive_rate=rate)


def _best(points: Sequence[Point], negation: int) -> int:
    """Which bandwidth: the first, unless another catches more by over the share's standard error."""
    error = (0.25 / negation) ** 0.5
    best = max(range(len(points)), key=lambda k: points[k].caught)
    return best if points[best].caught > points[0].caught + error else 0


def measure(signal: NDArray[np.float64], ordinary: NDArray[Any], shown: NDArray[Any], rate: float) -> Point:
    """Both shares at a rate: every other picture sets the threshold for the rest, and the other way round.

    Args:
        signal: (F,) levels.
        ordinary: (F, P) evidence of ordinary pictures.
        shown: (F, K) evidence of negation images.
        rate: wanted.
    """
    caught = []
    for half in (0, 1):
        limit = thresholds(fit_gate(signal, ordinary[:, half::2]), rate, signal)[:, None]
        caught.append((shown > limit).any(axis=0))
    alarms = opened_by_others(signal, ordinary, rate)
    return Point(rate, float(alarms.mean()), float(np.concatenate(caught).mean()))


def _not_in(latents: NDArray[np.float16], bank: NDArray[np.float16], regions: Regions) -> NDArray[np.bool_]:
    """Of which latents no region is, bit for bit, in a bank: (N,)."""
    held = {row.tobytes() for row in bank}
    # one by one: regions that overlap hold each picture many times over
    each = (cut(latents[i : i + 1], regions) for i in range(len(latents)))
    return np.array([not any(row.tobytes() in held for row in parts) for parts in each], bool)


def _half_can_tell(benign: int, rate: float) -> bool:
    """:func:`measure` sets a threshold on half of the images."""
    return can_tell(benign // 2, rate)


def _check_counts(benign: int, negation: int, rate: float) -> None:
    if min(benign, negation) < MIN_IMAGES:
        raise UsageError(
            f"{benign} ordinary pictures and {negation} negation images are left that the bundle has not"
            f" seen; at least {MIN_IMAGES} of each are needed, and some hundred do better."
        )
    if not _half_can_tell(benign, rate):
        raise UsageError(
            f"{benign} ordinary pictures cannot tell a rate of {rate:g}; give {int(2 / rate)}, or ask for"
            f" {2 / benign:.3f} or more."
        )
