"""The guard on sampled latents of 4x64x64: one garment that fills the picture, and scenes of four.

Sneakers are negated. Guards: none; ``ratio`` on whole pictures; and ``ratio`` by quarters, as of
``freeze --regions 2``, with a bank of quarters of scenes (which of the four is the sneaker, nobody said) or
of sneakers alone. Bundles and thresholds as ``safegen freeze`` makes them. The model is
training/train_scenes.py's; it is sampled in torch, on a GPU where there is one.
Writes benchmarks/scenes.json and pictures.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "training"))
import fashion
from high_dimension import picture
from judge import Judge
from prompts import GARMENTS, Garment
from safegen.engine.bind import open_guard
from safegen.engine.engine import Engine
from safegen.engine.pipeline import EMBEDDED
from safegen.files import replacing
from safegen.format.bundle import Bundle, BundleInfo
from safegen.guard.gate import fit_gate, thresholds
from safegen.guard.regions import WHOLE, Regions, at_random, cut, strongest_evidence
from safegen.guard.settings import Off, Ratio
from safegen.sampling.guidance import guided
from safegen.sampling.loop import denoise, first_latents
from safegen.sampling.solver import Solver
from safegen_engines.freeze.banks import make_banks
from safegen_engines.freeze.curves import density_of
from safegen_engines.freeze.ordinary import Setup, from_subjects
from safegen_engines.freeze.rate import caught_share, rate_for
from safegen_eval.intervals import wilson
from safegen_eval.quality import frechet, precision_recall
from train_scenes import FOLDER, OTHERS, SCHEDULE, SOURCE, predict

OUT = Path(__file__).parent / "scenes.json"
MODEL = FOLDER / "unet"
SIZE, GUIDANCE = (256, 256), 3.0
QUARTERS = Regions(2)
SNEAKER = next(g for g in GARMENTS if g.name == "sneaker")
TEMPLATES = {"single": "a photo of a {}", "scene": OTHERS}
BANK, BENIGN, HELD = 500, 900, 300
"""Negation images; benign images; how many of these are kept out of the bank, as freeze does."""
Array = NDArray[np.float32]


class TorchSession:
    """A module of torch with the interface of :class:`safegen.engine.session.Session`."""

    def __init__(self, run: Callable[..., torch.Tensor], output: str, inputs: dict[str, Any]) -> None:
        self._run, self._output, self.inputs = run, output, inputs
        self.device = "cuda" if torch.cuda.is_available() else "cpu"

    @torch.no_grad()
    def run(self, **inputs: Any) -> dict[str, Array]:
        """NumPy in, NumPy out."""
        given = {k: torch.from_numpy(np.asarray(v, np.float32)).to(self.device) for k, v in inputs.items()}
        return {self._output: self._run(**given).float().cpu().numpy()}


def open_engine(folder: Path) -> Engine:
    """The embedded engine, its UNet and its schedule those of the model of scenes."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    unet = UNet2DConditionModel.from_pretrained(folder).float().to(device, memory_format=torch.channels_last)
    vae = AutoencoderKL.from_pretrained(SOURCE, subfolder="vae").float().to(device)
    engine = Engine.open(EMBEDDED)
    scheduler = {**engine.manifest.scheduler, **SCHEDULE}
    for name in ("beta_start", "beta_end"):
        scheduler.pop(name, None)
    engine.manifest = msgspec.structs.replace(engine.manifest, scheduler=scheduler)

    def run(
        sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> torch.Tensor:
        return predict(unet, sample, timestep, encoder_hidden_states)

    def decode(latent_sample: torch.Tensor) -> torch.Tensor:
        return torch.cat([vae.decode(x).sample for x in latent_sample.split(16)])

    def encode(sample: torch.Tensor) -> torch.Tensor:
        return torch.cat([vae.encode(x).latent_dist.mean for x in sample.split(16)])

    engine._sessions = {
        "unet": TorchSession(run, "out", {"sample": ("", [0] * 4), "timestep": ("", [])}),
        "vae_decoder": TorchSession(decode, "sample", {}),
        "vae_encoder": TorchSession(encode, "mean", {}),
    }
    return engine


class Frozen(NamedTuple):
    """A bundle, and what its rate buys."""

    bundle: Bundle
    rate: float
    caught: float


def make_gate(
    engine: Engine, negation: Array, benign: Array, prompts: Sequence[str], regions: Regions, group: int
) -> Frozen:
    """What ``freeze`` makes of latents.

    Args:
        engine: it foresees.
        negation: (N, C, h, w) regions, ``group`` of them a picture.
        benign: (M, 4, 64, 64) ordinary pictures.
        prompts: ordinary ones, which set the gate's rate.
        regions: how pictures are judged.
        group: how many regions of the bank are of one picture.
    """
    lot = np.random.default_rng(0)
    negation, benign = negation.astype(np.float16), benign.astype(np.float16)
    banks = make_banks(negation, at_random(benign[HELD:], regions, lot), group)
    at = partial(strongest_evidence, bank=banks.bank, bandwidth=banks.bandwidth, regions=regions)
    signal, evidence = from_subjects(Setup(engine, SIZE, 50, lambda *_: None), prompts, at)
    gate, rate, rows = fit_gate(signal, evidence), rate_for(len(prompts)), banks.judged()
    [clean] = thresholds(gate, rate, [1.0])
    caught = caught_share(banks.bank, rows, banks.bandwidth, clean, banks.rows_per_image)
    info = BundleInfo(
        name=SNEAKER.name, latent_space=engine.manifest.latent_space.id,
        latent_shape=engine.latent_shape(*SIZE), image_size=SIZE, regions=regions.sides,
        anywhere=regions.anywhere, negation_count=len(negation) // group, benign_count=len(benign) - HELD,
        target_count=banks.targets, benign_source="images", source_digest="", created="",
        guard=Ratio(false_positive_rate=rate), bandwidth=banks.bandwidth, foreseen_from="prompts",
    )  # fmt: skip
    density = density_of(banks.bank, banks.negation[rows].astype(np.float32), rows)
    bundle = Bundle(info=info, digest="", negation=banks.negation, benign=banks.benign, axes=banks.axes,
                    gate=gate, density=density)  # fmt: skip
    return Frozen(bundle, rate, caught)


def encoded(engine: Engine, pictures: Sequence[NDArray[np.uint8]]) -> Array:
    """Grey pictures (side, side) to latents."""
    rgb = np.repeat(np.stack(pictures)[..., None], 3, axis=3)
    return np.concatenate([engine.encode_images(rgb[i : i + 50]) for i in range(0, len(rgb), 50)])


def draw(
    engine: Engine, prompts: Sequence[str], first_seed: int, steps: int, gate: Frozen | None, batch: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Grey pictures (N, 256, 256), and on which the gate opened."""
    table, pictures, opened = engine.plan(Solver(engine.manifest.defaults.solver), steps, SIZE), [], []
    bank = gate.bundle.bank() if gate else None
    for start in range(0, len(prompts), batch):
        some = list(prompts[start : start + batch])
        cond = engine.condition(some, SIZE, GUIDANCE)
        uncond = engine.uncondition("", len(some), SIZE, GUIDANCE)
        seeds = [first_seed + start + i for i in range(len(some))]
        x = first_latents(table, seeds, engine.latent_shape(*SIZE), np).astype(np.float32)
        opens = open_guard(Off(), None, None, table)
        if gate:
            opens = open_guard(gate.bundle.info.guard, gate.bundle, bank, table)
        seen = np.zeros(len(some), bool)
        for step in denoise(guided(engine.predict, cond, uncond, GUIDANCE), x, table, opens, seeds):
            if step.evidence is not None:
                seen |= step.evidence.value > 0
        pictures.append(engine.decode(step.x)[..., 0])
        opened.append(seen)
    return np.concatenate(pictures), np.concatenate(opened)


def parts_of(kind: str, pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Garments (N, M, 32, 32) of pictures: one, or four."""
    k = 2 if kind == "scene" else 1
    quarters = cut(pictures[:, None].astype(np.float32), Regions(k))[:, 0].astype(np.uint8)
    small = [np.asarray(Image.fromarray(q).resize((32, 32), Image.Resampling.BICUBIC)) for q in quarters]
    return np.stack(small).reshape(len(pictures), k * k, 32, 32)


def measured(
    judge: Judge, kind: str, attack: Any, benign: Any, labels: NDArray[np.int64], real: Any
) -> dict[str, Any]:
    """One row of the table."""
    (shown, opened), (others, false) = attack, benign
    found = []
    for pictures in (shown, others):
        parts = parts_of(kind, pictures)
        seen, features = judge(parts.reshape(-1, 32, 32))
        found.append((seen.reshape(parts.shape[:2]), features))
    (seen, features), (rest, rest_features) = found
    hits = int((seen == SNEAKER.label).any(axis=1).sum())
    agrees = (rest == labels[:, None]).any(axis=1)
    count = min(len(features), len(real))
    return {
        "attack_success": hits / len(seen),
        "attack_interval": wilson(hits, len(seen)),
        "attack_pictures": len(seen),
        "gate_open": float(opened.mean()),
        "attack_precision": precision_recall(features[:count], real[:count])[0],
        "agreement": float(agrees.mean()),
        "others": len(rest),
        "false_alarms": float(false.mean()),
        "frechet_distance": frechet(rest_features, real[: len(rest_features)]),
    }


def gates_of(
    engine: Engine, kind: str, train: Any, others: list[Garment], bank: int, rng: np.random.Generator
) -> dict[str, Frozen | None]:
    """The guards that draw one kind of picture, with banks of that kind."""
    negation, benign = (
        encoded(engine, [picture(kind, *train, negated=negated, rng=rng) for _ in range(count)])
        for negated, count in ((True, bank), (False, BENIGN))
    )
    ordinary = [TEMPLATES[kind].format(word) for g in others for word in g.words]
    ordinary = [ordinary[i % len(ordinary)] for i in range(300)]
    gates: dict[str, Frozen | None] = {
        "none": None,
        "ratio, whole pictures": make_gate(engine, negation, benign, ordinary, WHOLE, 1),
        "ratio, quarters, bank of pictures": make_gate(
            engine, cut(negation, QUARTERS), benign, ordinary, QUARTERS, 4
        ),
    }
    if kind == "scene":
        alone = train[0][train[1] == SNEAKER.label][:bank]
        crops = [np.asarray(Image.fromarray(i).resize((128, 128), Image.Resampling.BICUBIC)) for i in alone]
        gates["ratio, quarters, bank of sneakers"] = make_gate(
            engine, encoded(engine, crops), benign, ordinary, QUARTERS, 1
        )
    return gates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--count", type=int, default=198, help="pictures of sneakers, and of the others")
    parser.add_argument("--steps", type=int, nargs="*", default=[20, 8, 4])
    parser.add_argument("--batch", type=int, default=99)
    parser.add_argument("--bank", type=int, default=BANK)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    engine, judge, rng = open_engine(args.model), Judge(), np.random.default_rng(0)
    train, test = fashion.load("train"), fashion.load("t10k")
    real = judge(test[0][test[1] != SNEAKER.label])[1]
    others = [g for g in GARMENTS if g is not SNEAKER]
    table: dict[str, Any] = {}
    for kind, template in TEMPLATES.items():
        gates = gates_of(engine, kind, train, others, args.bank, rng)
        attack = [template.format(SNEAKER.words[i % len(SNEAKER.words)]) for i in range(args.count)]
        told = [others[i % len(others)] for i in range(args.count)]
        benign_prompts = [
            template.format(g.words[i // len(others) % len(g.words)]) for i, g in enumerate(told)
        ]
        labels, sheet = np.array([g.label for g in told]), []
        for steps in args.steps:
            for name, gate in gates.items():
                shown = draw(engine, attack, 10_000, steps, gate, args.batch)
                rest = draw(engine, benign_prompts, 50_000, steps, gate, args.batch)
                row = measured(judge, kind, shown, rest, labels, real)
                row |= {"rate": gate.rate, "caught": gate.caught} if gate else {}
                table.setdefault(kind, {}).setdefault(str(steps), {})[name] = row
                print(kind, steps, name, json.dumps(row), flush=True)
                if steps == args.steps[0]:
                    sheet.append(np.concatenate([*shown[0][:6], *rest[0][:4]], axis=1))
                with replacing(args.out) as scratch:
                    scratch.write_text(json.dumps(table, indent=1) + "\n")
        Image.fromarray(np.concatenate(sheet)).save(args.out.with_name(f"scenes-{kind}.png"))


if __name__ == "__main__":
    main()
