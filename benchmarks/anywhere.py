"""The guard on things that lie anywhere: pictures of one garment, or of two; sneakers are negated.

A garment's latents (4x8x8) are repeated k x k times, as in tiled.py, and laid at a place drawn by lot on
black of twice the side: one anywhere, or two side by side (or one above the other), each anywhere along its
half.
Guards: none; ``ratio`` on whole pictures and on quarters, with a bank of such pictures; and ``ratio`` by
regions that overlap, with a bank of sneakers alone, as ``freeze --regions 2 --anywhere`` makes it.
Writes benchmarks/anywhere.json and a picture of each kind.
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from high_dimension import enlarge
from safegen.engine.engine import Engine
from safegen.guard.regions import WHOLE, Regions, cut
from scenes import BANK, BENIGN, QUARTERS, SNEAKER, Array, Frozen, fashion, make_gate
from tiled import GARMENT, ORDINARY, Asked, Tiled, ask, tabulate

OUT = Path(__file__).parent / "anywhere.json"
COUNT = {"one": 1, "two": 2}
"""Garments of a picture."""
SMALL = 8
"""A garment's latents a side before they are repeated."""
ANYWHERE = Regions(2, anywhere=True)
Places = NDArray[np.int64]
"""(N, M, 2): the first row and column of each garment, in latents."""


class Placed(Tiled):
    """The exact model of garments on black, told where each lies: ``"a coat @ 3,20 | a bag @ 32,7"``."""

    def __init__(self, count: int, repeats: int) -> None:
        super().__init__(SMALL // repeats, 0)
        self.count, self.side = count, SMALL * repeats
        self.places: Places = np.zeros((1, count, 2), np.int64)
        black = Engine.encode_images(self, np.zeros((1, GARMENT, GARMENT, 3), np.uint8))
        self._black: Array = black.mean(axis=(0, 2, 3))

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(4, 16 k, 16 k), whatever the size."""
        return len(self._black), 2 * self.side, 2 * self.side

    def encode_prompts(self, prompts: Sequence[str], chunks: int = 1) -> dict[str, Array]:
        """Text states (B, M L, E); where things lie is kept for the pictures that are drawn next."""
        asked = [prompt.split(" | ") if prompt else [""] * self.count for prompt in prompts]
        if prompts[0]:
            told = [[text.split(" @ ")[1].split(",") for text in texts] for texts in asked]
            self.places = np.array(told).astype(np.int64)
        each = [text.split(" @ ")[0] for texts in asked for text in texts]
        states = Engine.encode_prompts(self, each, chunks)
        return {name: x.reshape(len(prompts), -1, x.shape[-1]) for name, x in states.items()}

    def predict(self, x: Array, timestep: float, given: Mapping[str, Array]) -> Array:
        """x0 (B, 4, 16 k, 16 k)."""
        of_garments = {name: v.reshape(len(x) * self.count, -1, v.shape[-1]) for name, v in given.items()}
        return self.laid(self.x0_of(self._garments(x), timestep, of_garments), self._places(len(x)))

    def decode(self, latents: Array) -> NDArray[np.uint8]:
        """RGB (B, 64, 64, 3): every garment at its own size, where it lies; nothing else is looked at."""
        pictures = np.zeros((len(latents), 2 * GARMENT, 2 * GARMENT, 3), np.uint8)
        garments = iter(Engine.decode(self, self._garments(latents)))
        for picture, places in zip(pictures, self._places(len(latents)), strict=True):
            for row, column in pixels(places, self.side):
                picture[row : row + GARMENT, column : column + GARMENT] = next(garments)
        return pictures

    def encoded(self, garments: NDArray[np.uint8]) -> Array:
        """Grey garments (N, 32, 32) alone, as large as a region: (N, 4, 8 k, 8 k)."""
        rgb = np.repeat(garments[..., None], 3, axis=3)
        parts = [Engine.encode_images(self, rgb[i : i + 100]) for i in range(0, len(rgb), 100)]
        return self._enlarged(np.concatenate(parts))

    def laid(self, z: Array, places: Places) -> Array:
        """Garments (B M, 4, 8, 8), or as large as regions, laid on black: (B, 4, 16 k, 16 k)."""
        if z.shape[-1] == SMALL:
            z = self._enlarged(z)
        x = np.empty((len(places), *self.latent_shape(0, 0)), np.float32)
        x[:] = self._black[:, None, None]
        for picture, garments, spots in zip(x, z.reshape(len(places), -1, *z.shape[1:]), places, strict=True):
            for garment, (row, column) in zip(garments, spots, strict=True):
                picture[:, row : row + self.side, column : column + self.side] = garment
        return x

    def _enlarged(self, z: Array) -> Array:
        return z.repeat(self.repeats, axis=2).repeat(self.repeats, axis=3)

    def _places(self, count: int) -> Places:
        """Of so many pictures: with guidance each is asked about twice."""
        return np.concatenate([self.places] * (count // len(self.places)))

    def _garments(self, x: Array) -> Array:
        """The inverse of :meth:`laid`, means over k x k: (B M, 4, 8, 8)."""
        where = [(one, *spot) for one, spots in zip(x, self._places(len(x)), strict=True) for spot in spots]
        z = np.stack(
            [one[:, row : row + self.side, column : column + self.side] for one, row, column in where]
        )
        return z.reshape(len(z), z.shape[1], SMALL, self.repeats, SMALL, self.repeats).mean(axis=(3, 5))


def pixels(places: Places, side: int) -> Places:
    """Places in pictures, whose garments have :data:`GARMENT` pixels a side for so many latents."""
    return places * GARMENT // side


def places_of(count: int, garments: int, side: int, rng: np.random.Generator) -> Places:
    """Drawn by lot, for garments of so many latents a side."""
    free = rng.integers(0, side + 1, (count, garments, 2))
    if garments == 2:
        across = rng.integers(0, 2, count)
        free[np.arange(count), :, across] = [0, side]
    return free


def asked_of(engine: Placed, count: int, rng: np.random.Generator, *, negated: bool) -> tuple[Asked, Places]:
    """:func:`tiled.ask` with places."""
    asked = ask(count, engine.count, rng, negated=negated)
    places = places_of(count, engine.count, engine.side, rng)
    prompts = [
        " | ".join(
            f"{text} @ {row},{column}" for text, (row, column) in zip(p.split(" | "), spots, strict=True)
        )
        for p, spots in zip(asked.prompts, places, strict=True)
    ]
    return asked._replace(prompts=prompts), places


def pictures_of(engine: Placed, count: int, rng: np.random.Generator, *, negated: bool) -> Array:
    """Training garments laid on black; with ``negated`` one of each picture's is a sneaker."""
    images, labels = fashion.load("train")
    wanted = np.zeros((count, engine.count), bool)
    wanted[np.arange(count), rng.integers(engine.count, size=count)] = negated
    kinds = [np.flatnonzero(labels != SNEAKER.label), np.flatnonzero(labels == SNEAKER.label)]
    chosen = [enlarge(images[rng.choice(kinds[int(hit)])], GARMENT) for hit in wanted.ravel()]
    return engine.laid(engine.encoded(np.stack(chosen)), places_of(count, engine.count, engine.side, rng))


def make_gates(engine: Placed, rng: np.random.Generator) -> dict[str, Frozen | None]:
    """The guards by name, frozen."""
    negation = pictures_of(engine, BANK, rng, negated=True)
    benign = pictures_of(engine, BENIGN, rng, negated=False)
    ordinary = asked_of(engine, ORDINARY, rng, negated=False)[0].prompts
    images, labels = fashion.load("train")
    sneakers = np.stack([enlarge(i, GARMENT) for i in images[labels == SNEAKER.label][:BANK]])
    frozen = {
        "ratio, whole pictures": (negation, WHOLE, 1),
        "ratio, quarters, bank of pictures": (cut(negation, QUARTERS), QUARTERS, 4),
        "ratio, anywhere, bank of sneakers": (engine.encoded(sneakers), ANYWHERE, 1),
    }
    gates = {name: make_gate(engine, rows, benign, ordinary, *how) for name, (rows, *how) in frozen.items()}
    return {"none": None, **gates}


def garments_of(pictures: NDArray[np.uint8], places: Places) -> NDArray[np.uint8]:
    """(N, M, 32, 32) of pictures with garments at places in pixels."""
    return np.stack(
        [
            [one[row : row + GARMENT, column : column + GARMENT] for row, column in spots]
            for one, spots in zip(pictures, places, strict=True)
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="*", default=list(COUNT), choices=list(COUNT))
    parser.add_argument("--count", type=int, default=99, help="pictures with a sneaker, and of the others")
    parser.add_argument("--steps", type=int, nargs="*", default=[20, 8, 4])
    parser.add_argument("--repeats", type=int, default=2, choices=[1, 2, 4], help="k")
    parser.add_argument("--batch", type=int, default=33)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    for kind in args.kinds:
        engine, rng = Placed(COUNT[kind], args.repeats), np.random.default_rng(0)
        gates = make_gates(engine, rng)
        asked, places = zip(
            *(asked_of(engine, args.count, rng, negated=negated) for negated in (True, False)),
            strict=True,
        )
        garments = [partial(garments_of, places=pixels(spots, engine.side)) for spots in places]
        called = "{}, {}x{}x{}".format(kind, *engine.latent_shape(0, 0))
        tabulate(engine, called, gates, asked, garments, args, shown=8)


if __name__ == "__main__":
    main()
