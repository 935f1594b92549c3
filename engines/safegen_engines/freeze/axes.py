"""Directions in which pictures of one kind differ among themselves: they count less for the gate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST = 128
"""Axes kept at most."""
ROWS = 2048
"""At most so many latents are asked."""


def gate_axes(negation: NDArray[np.float16], benign: NDArray[np.float16]) -> NDArray[np.float16]:
    """The axes of :class:`safegen.guard.bank.Metric` for two banks, (K, D), K at most :data:`MOST`.

    The banks' pooled covariance C, each bank about its own mean, has eigenvectors v_k with eigenvalues
    l_k. Distances by the inverse of C (Mahalanobis; Fisher's discriminant) would divide by l_k; shrunk
    halfway towards the mean eigenvalue l they divide by 1 + l_k / l, which is what
    ||d||^2 - sum_k l_k / (l_k + l) (v_k . d)^2 does. Beyond the first :data:`MOST` they count in full.

    Args:
        negation: (N, C, H, W).
        benign: (M, C, H, W).
    """
    rows = np.concatenate([_centred(bank) for bank in (negation, benign)])
    rows = rows[:: -(-len(rows) // ROWS)]
    # the smaller of both products has the same eigenvalues other than 0
    wide = rows.shape[1] > rows.shape[0]
    values, vectors = np.linalg.eigh((rows @ rows.T if wide else rows.T @ rows) / len(rows))
    kept = values > max(values[-1], 1e-9) * 1e-6
    if not kept.any():
        return no_axes(negation)
    values, vectors = values[kept][::-1], vectors[:, kept][:, ::-1]
    shares = values / (values + values.mean())
    if wide:
        vectors = rows.T @ vectors / np.sqrt(values * len(rows))
    axes: NDArray[np.float16] = (vectors * np.sqrt(shares)).T[:MOST].astype(np.float16)
    return axes


def no_axes(negation: NDArray[np.float16]) -> NDArray[np.float16]:
    """One axis of zeros, (1, D): every direction counts alike."""
    return np.zeros((1, negation[0].size), np.float16)


def _centred(latents: NDArray[np.float16]) -> NDArray[np.float64]:
    flat = latents.reshape(len(latents), -1).astype(np.float64)
    return np.asarray(flat - flat.mean(axis=0))
