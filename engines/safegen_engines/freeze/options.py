"""What may be chosen of a freeze, and what of it is refused before any image is encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safegen.engine.engine import Engine
from safegen.errors import UsageError
from safegen.files import check_place
from safegen.guard.regions import SIDES, WHOLE, Regions
from safegen.guard.settings import Ratio, Settings, check_whole
from safegen_engines.freeze.ordinary import Setup, check_subjects
from safegen_engines.freeze.rate import check_rate

MIN_BENIGN = 6


@dataclass(frozen=True)
class Options:
    """What goes into a bundle besides the negation images."""

    name: str
    """What is negated, for people."""
    benign: Sequence[Path] | None = None
    """Ordinary images; None draws ``benign_count`` from the engine, of no prompt."""
    benign_count: int = 600
    """How many to draw."""
    benign_prompts: Sequence[str] = ()
    """What ordinary users ask for: the gate's rate is set on what the model foresees for them, else on what
    it foresees in noised images of the benign side, made as plain as a prompt would
    (:func:`safegen_engines.freeze.ordinary.plainer`)."""
    benign_labels: Sequence[int] = ()
    """The same for a model of classes, ``benign_count`` pictures in all; beside the images, since such a
    model also draws of no class."""
    size: tuple[int, int] | None = None
    """(width, height) of the pictures to guard; None is the engine's default."""
    regions: int = 1
    """A side, that ``ratio`` judges one by one (:mod:`safegen.guard.regions`): for pictures of several
    things. Nobody need say which regions of the images show what must never be drawn."""
    anywhere: bool = False
    """The regions overlap, and find it wherever it lies; the images then show it alone, and are taken for
    as large as a region."""
    guard: Settings | None = None
    """The bundle's default guard; None is ``ratio`` at :func:`safegen_engines.freeze.rate.rate_for`."""
    skip_bad: bool = False
    """Leave out unreadable images instead of stopping."""
    batch_size: int = 8
    """Images encoded at a time."""

    def subjects(self) -> Sequence[str | int]:
        """The ordinary prompts, or a label for each picture that is drawn of one."""
        if self.benign_prompts or not self.benign_labels:
            return self.benign_prompts
        return [self.benign_labels[i % len(self.benign_labels)] for i in range(self.benign_count)]

    @property
    def layout(self) -> Regions:
        """How pictures are cut."""
        return Regions(self.regions, self.anywhere)


def check_request(setup: Setup, out: Path, options: Options) -> None:
    """Refuse what a look at the request tells, before any image is encoded."""
    check_place(out)
    check_subjects(setup.engine, options.benign_prompts, options.benign_labels)
    latent_shape = setup.engine.latent_shape(*setup.size)
    _check_regions(options.layout, latent_shape, options.guard, drawn=options.benign is None)
    _check_encoder(setup.engine, options.layout, setup.size)
    if isinstance(options.guard, Ratio) and options.benign_prompts:
        check_rate(len(options.benign_prompts), options.guard.false_positive_rate)


def check_counts(negation: int, benign: int) -> None:
    """Refuse too few readable images."""
    if negation < 2 or benign < MIN_BENIGN:
        raise UsageError(
            f"{negation} negation and {benign} benign images are too few; at least 2 and"
            f" {MIN_BENIGN} are needed, and some hundred of each do better."
        )


def _check_regions(
    regions: Regions, latent_shape: tuple[int, int, int], guard: Settings | None, *, drawn: bool
) -> None:
    if regions == WHOLE:
        return
    if regions.sides == 1:
        raise UsageError("a thing is looked for anywhere in regions of 2 or 4 a side; name --regions, too.")
    if not regions.fits(latent_shape):
        raise UsageError(
            f"{regions.sides} regions a side do not fit latents of {latent_shape[1]}x{latent_shape[2]};"
            f" known are {', '.join(map(str, SIDES))}, where they divide both sides."
        )
    if guard:
        check_whole(guard.mode, regions.sides)
    if drawn:
        raise UsageError(
            "with regions the engine cannot draw the benign pictures itself: most regions of the negation"
            " images are ordinary, so nothing tells which drawn ones are. Give --benign."
        )


def _check_encoder(engine: Engine, regions: Regions, size: tuple[int, int]) -> None:
    """Things that are looked for anywhere are encoded as large as a region."""
    encoder = engine.manifest.components.get("vae_encoder")
    if not regions.anywhere or encoder is None:
        return
    height, width = next(iter(encoder.inputs.values())).shape[2:]
    if any(
        isinstance(known, int) and known * regions.sides != side
        for known, side in zip((width, height), size, strict=True)
    ):
        raise UsageError(
            f"this engine's encoder takes {width}x{height} pictures alone, and a thing that is looked for"
            " anywhere is smaller. Freeze with an engine of the same checkpoint for the target cpu."
        )
