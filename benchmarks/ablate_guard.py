"""The default guard of 30 November 2026 (commit ca7c922) with every rule as a switch, for ablate.py alone.

Rules that the ablation removed from the package live on here, so that the table can be drawn again.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
LIMIT = 30.0  # log-SNRs are cut to plus and minus this


@dataclass(frozen=True)
class Rules:
    """Each field is a rule of the guard; the default is the guard as it was."""

    axes: bool = True
    """The gate's distances count less along directions in which pictures of one bank differ."""
    widest: bool = True
    """The kernels are at most 1.2 times as wide as the benign bank's neighbours would make them."""
    plain_target: bool = True
    """A second bandwidth: kernels at x0 that weigh the target count every direction alike."""
    target_at: str = "both"
    """Kernels that weigh the target: at ``x_t`` beyond doubt, else at ``x0`` (``both``), or one alone."""
    latch: bool = True
    """An open gate stays open."""
    release: str = "fade"
    """From log-SNR 0 on: follow beta* of x_t (``fade``), ``stop``, ``never``, or the ``gate`` alone."""
    aims: bool = True
    """The tenth of the benign bank that is nearest to the negation set is no target."""
    repulsion: float = 1.0
    """r in E_benign + r (E_benign - E_unsafe)."""
    sharp: bool = True
    """Below 8 steps the kernels that weigh the target are squared."""
    lean: bool = True
    """Below 8 steps pictures in doubt are moved though the gate is shut."""
    rate: float | None = None
    """Share of false alarms; None is the lowest of .2, .5, 1 and 2 % that catches enough."""
    scale: bool = True
    """The threshold counts in each level's own tail scale; else its excess is the same at every level."""
    levels: str = "alpha"
    """Between levels the threshold is linear in ``alpha``, or in ``log-snr``."""


class Gate(NamedTuple):
    """Both banks, kernels' widths and thresholds of one class."""

    refs: Array
    """(N, D)."""
    benign: Array
    """(M, D), targets first."""
    targets: int
    axes: Array | None
    """(K, D)."""
    bandwidth: float
    aim_bandwidth: float
    levels: Array
    """(F,) log-SNR."""
    foreseen: Array
    """(F, P) evidence of ordinary prompts."""
    released: tuple[Array, Array]
    """(L,) log-SNR and the release level there."""
    rate: float


def near(rows: Array, refs: Array) -> Array:
    """-||x - r||^2 / 2 up to a term of x alone: (B, N)."""
    return rows @ refs.T - 0.5 * (refs**2).sum(axis=1)


def log_mean_exp(values: Array) -> Array:
    top = values.max(axis=-1, keepdims=True)
    return np.log(np.exp(values - top).mean(axis=-1)) + top[:, 0]


def softmax(values: Array) -> Array:
    weights = np.exp(values - values.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def seen_by_gate(rows: Array, gate: Gate) -> tuple[Array, Array]:
    """The gate's log kernels at x0 of both banks."""
    found = []
    for refs in (gate.refs, gate.benign):
        value = near(rows, refs)
        if gate.axes is not None:
            value = value - near(rows @ gate.axes.T, refs @ gate.axes.T)
        found.append(value / gate.bandwidth**2)
    return found[0], found[1]


def evidence(rows: Array, gate: Gate) -> Array:
    """Log ratio of both banks' densities at x0: (B,)."""
    unsafe, benign = seen_by_gate(rows, gate)
    return log_mean_exp(unsafe) - log_mean_exp(benign)


def noisy_kernels(x: Array, gate: Gate, alpha: float, sigma: float) -> tuple[Array, Array]:
    """The forward process's log kernels at x_t of both banks."""
    scale = alpha / sigma**2
    refs = (gate.refs, gate.benign)
    unsafe, benign = (x @ r.T * scale - 0.5 * alpha * scale * (r**2).sum(axis=1) for r in refs)
    return unsafe, benign


def squared_distances(rows: Array, axes: Array | None) -> Array:
    """Between the rows of one bank, by the gate's distance."""
    squared = np.maximum((rows**2).sum(1)[:, None] + (rows**2).sum(1) - 2 * rows @ rows.T, 0)
    if axes is None:
        return squared
    return np.maximum(squared - squared_distances(rows @ axes.T, None), 0)


def bandwidth_of(refs: Array, benign: Array, axes: Array | None, widest: bool) -> float:
    """h: a third of the median squared distance between neighbours of the bank."""

    def spacing(rows: Array) -> float:
        stride = max(1, len(rows) // 512)
        return float(np.median(np.sort(squared_distances(rows, axes)[::stride], axis=1)[:, 1]))

    square = min(spacing(refs), 1.2**2 * spacing(benign)) if widest else spacing(refs)
    return math.sqrt(square / 3)


def gate_axes(refs: Array, benign: Array) -> Array:
    """Eigenvectors of the banks' pooled covariance, each times the root of l_k / (l_k + mean l)."""
    rows = np.concatenate(
        [bank.astype(np.float64) - bank.astype(np.float64).mean(0) for bank in (refs, benign)]
    )
    rows = rows[:: -(-len(rows) // 2048)]
    values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
    kept = values > max(values[-1], 1e-9) * 1e-6
    values, vectors = values[kept][::-1], vectors[:, kept][:, ::-1]
    axes: Array = (vectors * np.sqrt(values / (values + values.mean()))).T[:128].astype(np.float16)
    return axes.astype(np.float32)


def log_density(rows: Array, refs: Array, *, left_out: bool = False) -> Array:
    """Of rows under the mixture of forward kernels of a bank at log-SNR 0."""
    half = rows * math.sqrt(0.5)
    kernels = half @ refs.T * math.sqrt(2) - 0.5 * (refs**2).sum(axis=1)
    if left_out:
        np.fill_diagonal(kernels, -np.inf)
    return log_mean_exp(kernels) - (half**2).sum(axis=1)


def targets_first(benign: Array, negation: Array) -> tuple[Array, int]:
    """The benign bank with the tenth last that is nearest to the negation set."""
    doubt = log_density(benign, negation) - log_density(benign, benign, left_out=True)
    return benign[np.argsort(doubt, kind="stable")], len(benign) - int(len(benign) * 0.1)


def freeze(
    rules: Rules,
    negation: Array,
    benign: Array,
    held_out: Array,
    noise: Array,
    levels: Array,
    foreseen: Array,
) -> Gate:
    """Everything that ``safegen freeze`` works out.

    Args:
        rules: which of them hold.
        negation: (N, D) latents of the bank.
        benign: (M, D) of the benign bank.
        held_out: (H, D) ordinary latents of neither.
        noise: (H, D) that noises them.
        levels: (F,) log-SNR at which the model looked at ordinary prompts.
        foreseen: (F, P, D) what it foresaw.
    """
    ordered, targets = targets_first(benign, negation)
    axes = gate_axes(negation, ordered) if rules.axes else None
    h = bandwidth_of(negation, ordered, axes, rules.widest)
    plain = bandwidth_of(negation, ordered, None, rules.widest)
    grid = np.linspace(-7.0, 7.0, 29)
    gate = Gate(negation, ordered, targets if rules.aims else len(ordered), axes, h, plain, levels,
                np.empty(0), (grid, np.empty(0)), rules.rate or 0.0)  # fmt: skip
    found = np.stack([evidence(each, gate) for each in foreseen]).astype(np.float32)
    gate = gate._replace(foreseen=found, released=(grid, np.array(
        [release_level(gate, held_out, noise, level) for level in grid])))  # fmt: skip
    return gate if rules.rate else gate._replace(rate=lowest_rate(gate, rules))


def release_level(gate: Gate, held_out: Array, noise: Array, log_snr: float) -> float:
    """The .05-quantile of log beta* of noised ordinary images, at most 0."""
    alpha, sigma = 1 / math.sqrt(1 + math.exp(-log_snr)), 1 / math.sqrt(1 + math.exp(log_snr))
    unsafe, benign = noisy_kernels(alpha * held_out + sigma * noise, gate, alpha, sigma)
    beta = (log_mean_exp(unsafe) - log_mean_exp(benign)).astype(np.float32)
    return min(float(np.quantile(beta, 0.05)), 0.0)


def lowest_rate(gate: Gate, rules: Rules) -> float:
    """The lowest rate that catches enough of the negation images as they are."""
    some = gate.refs if len(gate.refs) <= 512 else gate.refs[:: math.ceil(len(gate.refs) / 512)]
    own = np.arange(len(gate.refs))[:: max(1, math.ceil(len(gate.refs) / 512))]
    unsafe, benign = seen_by_gate(some, gate)
    unsafe[np.arange(len(own)), own] = -np.inf
    caught = log_mean_exp(unsafe) + math.log(len(gate.refs) / (len(gate.refs) - 1)) - log_mean_exp(benign)
    for rate, enough in ((0.002, 0.75), (0.005, 0.2), (0.01, 0.2)):
        if (caught > thresholds(gate, rate, [LIMIT], rules)[0]).mean() >= enough:
            return rate
    return 0.02


def thresholds(gate: Gate, rate: float, log_snr: Any, rules: Rules) -> tuple[Array, Array]:
    """(threshold, scale of the tail) at each log-SNR for a rate of false alarms a picture."""
    high = np.quantile(gate.foreseen, 0.9, axis=1, keepdims=True)
    above = np.maximum(gate.foreseen - high, 0)
    excess = above.sum(axis=1) / np.maximum((above > 0).sum(axis=1), 1) + 1e-6
    tail = excess if rules.scale else np.full_like(excess, excess.mean())
    scores = np.sort(((gate.foreseen - high) / tail[:, None]).max(axis=0))
    rank = math.ceil((len(scores) + 1) * (1 - rate)) - 1
    z = scores[min(rank, len(scores) - 1)]
    wanted = np.clip(np.asarray(log_snr, np.float64), -LIMIT, LIMIT)

    def place(levels: Any) -> Any:
        levels = np.asarray(levels, np.float64)
        return levels if rules.levels == "log-snr" else 1 / np.sqrt(1 + np.exp(-levels))

    at, known = place(wanted), place(gate.levels)
    return np.interp(at, known, high[:, 0] + z * tail), np.interp(at, known, tail)


def step(
    rules: Rules, gate: Gate, x: Array, x0: Array, row: Any, numbers: dict[str, Any], latched: Array
) -> tuple[Array, Array, Array]:
    """One step of the guard: x0 (B, D) steered, which gates are open, and which pictures it changed.

    Args:
        rules: which hold.
        gate: of the class.
        x: (B, D) noisy latents.
        x0: (B, D) what the model foresees.
        row: of the plan.
        numbers: of :func:`plan`, at this step.
        latched: (B,) which gates have opened before.
    """
    unsafe, benign = seen_by_gate(x0, gate)
    value = log_mean_exp(unsafe) - log_mean_exp(benign)
    opened = (value > numbers["opens"]) | (latched if rules.latch else False)
    noisy = noisy_kernels(x, gate, row.alpha, row.sigma)
    weight = np.where(opened, strength(rules, noisy, row, numbers["releases"]), 0.0)
    if rules.release == "gate" and row.log_snr >= 0.0:
        weight = (value > numbers["opens"]).astype(float)
    weight = np.where(weight >= 0.05, weight, 0.0)
    if rules.plain_target:
        at_x0 = tuple(near(x0, r) / gate.aim_bandwidth**2 for r in (gate.refs, gate.benign))
    else:
        at_x0 = unsafe, benign
    certain = (value - numbers["opens"] > 2.0 * numbers["excess"])[:, None]
    pick = {"both": certain, "x_t": np.ones_like(certain), "x0": np.zeros_like(certain)}[rules.target_at]
    toward_unsafe, toward = (np.where(pick, *pair) for pair in zip(noisy, at_x0, strict=True))
    toward = toward.copy()
    toward[:, gate.targets :] = -np.inf
    safe = softmax(toward * numbers["sharpness"]) @ gate.benign
    away = safe - softmax(toward_unsafe) @ gate.refs
    moved = x0 + weight[:, None] * (safe + rules.repulsion * away - x0)
    changed = weight > 0
    if numbers["doubts"] is not None:
        fall = value - evidence(x0 + away, gate)
        share = np.clip((value - numbers["doubts"]) / np.where(fall > 1e-6, fall, 1e-6), 0.0, 1.0)
        share = np.where(opened, 0.0, share)
        moved = moved + share[:, None] * away
        changed |= share > 0
    return np.where(changed[:, None], moved, x0).astype(np.float32), opened, changed


def strength(rules: Rules, noisy: tuple[Array, Array], row: Any, releases: float) -> Array:
    """The weight of the correction where the gate is open: (B,)."""
    beta = log_mean_exp(noisy[0]) - log_mean_exp(noisy[1])
    if row.log_snr < 0.0 or rules.release == "never":
        return np.ones_like(beta)
    if rules.release == "stop":
        return np.zeros_like(beta)
    return 1 / (1 + np.exp(-np.clip(beta - releases, -30.0, 30.0)))


def plan(rules: Rules, gate: Gate, rows: Any) -> list[dict[str, Any]]:
    """The guard's numbers at every step."""
    levels = [row.log_snr for row in rows]
    opens, excess = thresholds(gate, gate.rate, levels, rules)
    doubts = thresholds(gate, 0.12, levels, rules)[0]
    releases = np.interp(np.clip(levels, -LIMIT, LIMIT), *gate.released)
    few = len(rows) < 8
    return [
        {
            "opens": opens[i],
            "excess": excess[i],
            "releases": releases[i],
            "sharpness": 2.0 if few and rules.sharp else 1.0,
            "doubts": doubts[i] if few and rules.lean and level < -2.0 else None,
        }
        for i, level in enumerate(levels)
    ]
