"""Gaussian noise that depends on the seed and the draw, and on nothing else.

Philox 4x32-10 (Salmon et al., SC 2011) keyed by the seed, then Box-Muller in float64, rounded to
float32: the same numbers on every platform, at every batch size, and in the C++ host.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
MAX_SEED = 2**64 - 1


def philox(counter: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Philox 4x32-10: counters (N, 4) and a key of two words give (N, 4) random words."""
    c = [counter[:, i].astype(np.uint64) for i in range(4)]
    k = list(key)
    for _ in range(10):
        high = [(m * c[2 * i]) >> _SHIFT for i, m in enumerate(_MULTIPLIERS)]
        low = [(m * c[2 * i]) & _LOW for i, m in enumerate(_MULTIPLIERS)]
        c = [high[1] ^ c[1] ^ np.uint64(k[0]), low[1], high[0] ^ c[3] ^ np.uint64(k[1]), low[0]]
        k = [(word + weyl) & 0xFFFFFFFF for word, weyl in zip(k, _WEYL, strict=True)]
    return np.stack(c, axis=1).astype(np.uint32)


def normal(seed: int, draw: int, shape: Sequence[int], *, stream: int = 0) -> NDArray[np.float32]:
    """Standard normal noise of a shape.

    Args:
        seed: 0 to 2^64 - 1.
        draw: which draw of the picture, from 0: the initial latents are draw 0, step i is i + 1.
        shape: shape of one sample, for example (C, H, W).
        stream: 0 for the sampler, 1 for the guards that draw, so that neither moves the other.
    """
    size = int(np.prod(shape))
    blocks = -(-size // 4)
    counter = np.zeros((blocks, 4), np.uint32)
    counter[:, 0] = np.arange(blocks, dtype=np.uint32)
    counter[:, 1] = draw
    counter[:, 2] = stream
    words = philox(counter, (seed & 0xFFFFFFFF, seed >> 32)).astype(np.float64)
    # (0, 1]: the logarithm needs u1 > 0
    radius = np.sqrt(-2.0 * np.log((words[:, 0::2] + 1.0) * 2.0**-32))
    angle = 2.0 * np.pi * (words[:, 1::2] * 2.0**-32)
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2)
    return pairs.reshape(-1)[:size].astype(np.float32).reshape(shape)


def normal_batch(
    seeds: Sequence[int], draw: int, shape: Sequence[int], *, stream: int = 0
) -> NDArray[np.float32]:
    """Stack :func:`normal` over seeds: (B, *shape). Each row equals the same seed drawn alone."""
    return np.stack([normal(seed, draw, shape, stream=stream) for seed in seeds])
