"""Draw and judge a suite, unit by unit: what is done stays done, and shards share the work."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import safegen
from safegen.engine.engine import find_engine
from safegen.engine.pipeline import EMBEDDED, Pipeline
from safegen.errors import UsageError
from safegen.files import file_sha256, replacing
from safegen.format.bundle import read_bundle
from safegen.format.manifest import read_manifest
from safegen.format.request import Request
from safegen.format.result import Picture
from safegen_eval.judges import Judge, open_judge
from safegen_eval.prompt_set import Prompt, read_prompts
from safegen_eval.quality import Clip, Featurize, open_features
from safegen_eval.suite import Arm, PromptSet, Suite

UNIT = 100
"""Pictures in a unit: what a stop can lose."""
THUMBNAIL = 128
"""Longest side of the pictures that are kept, in pixels."""

PICTURES = pa.schema(
    {
        "arm": pa.string(), "set": pa.string(), "kind": pa.string(), "steps": pa.int32(),
        "index": pa.int32(), "subject": pa.string(), "seed": pa.uint64(), "label": pa.int64(),
        "unsafe": pa.bool_(), "score": pa.float32(), "seen": pa.int64(),
        "opened": pa.int32(), "evidence": pa.list_(pa.float32()), "weight": pa.list_(pa.float32()),
        "seconds": pa.float64(), "clip_score": pa.float64(),
        "features": pa.list_(pa.float32()), "thumbnail": pa.binary(),
    }
)  # fmt: skip
"""One row a picture. ``seconds`` is its share of the time that its unit took to draw."""


@dataclass(frozen=True)
class Unit:
    """Some pictures of one arm, one set and one number of steps."""

    arm: Arm
    prompts: PromptSet
    steps: int
    start: int
    todo: tuple[Prompt, ...]
    key: str
    """SHA-256 over all that the result depends on; the name of its file."""


def plan_units(suite: Suite) -> list[Unit]:
    """Everything that a suite draws: the fewest steps first, and of these some of every arm.

    So an arm that cannot be drawn is found early.

    Raises:
        EngineError, BundleError: one of them is missing or changed.
        UsageError: prompts that cannot be read.
    """
    judge = {**msgspec.to_builtins(suite.judge), "model": _digest(suite.judge.model)}
    clip = suite.quality.clip and f"{suite.quality.clip}/model.onnx"
    models = [judge, _digest(suite.quality.features), _digest(clip)]
    program = program_digest()
    prompts = {chosen.name: read_prompts(chosen) for chosen in suite.sets}
    units, sources = [], sources_of(suite)
    for arm in suite.arms:
        source = sources[arm.name]
        told = {k: v for k, v in msgspec.to_builtins(arm).items() if k not in ("engine", "bundle")}
        drawn_by = [program, source.engine, source.bundle, suite.solver, told]
        for chosen in suite.sets:
            for steps in suite.steps or [source.steps]:
                for start in range(0, len(prompts[chosen.name]), UNIT):
                    todo = tuple(prompts[chosen.name][start : start + UNIT])
                    on = [drawn_by, chosen.name, chosen.kind, steps, start, todo, models]
                    key = hashlib.sha256(json.dumps(on, sort_keys=True).encode()).hexdigest()[:32]
                    units.append(Unit(arm, chosen, steps, start, todo, key))
    return sorted(units, key=lambda unit: (unit.steps, unit.start))


class Source(NamedTuple):
    """What one engine and one bundle say of themselves; no graph is opened for it."""

    name: str
    engine: str
    """Digest of the manifest."""
    steps: int
    """The engine's default."""
    bundle_name: str | None
    bundle: str | None
    """Digest of the bundle."""


def sources_of(suite: Suite) -> dict[str, Source]:
    """Arm -> what draws it; each engine and bundle is read once.

    Raises:
        EngineError, BundleError: one of them is missing or changed.
    """
    pairs = {arm.name: (arm.engine or suite.engine, arm.bundle) for arm in suite.arms}
    found = {pair: _source(*pair) for pair in dict.fromkeys(pairs.values())}
    return {name: found[pair] for name, pair in pairs.items()}


def _source(engine: str | None, bundle: str | None) -> Source:
    folder = find_engine(engine or EMBEDDED)
    manifest = read_manifest(folder)
    path = bundle or (str(folder / manifest.bundle) if manifest.bundle else None)
    steps, frozen = manifest.defaults.steps, read_bundle(Path(path)) if path else None
    if frozen is None:
        return Source(manifest.name, manifest.digest, steps, None, None)
    return Source(manifest.name, manifest.digest, steps, frozen.info.name, frozen.digest)


def program_digest() -> str:
    """SHA-256 over safegen's own sources: a guard that was changed draws other pictures."""
    package = Path(safegen.__file__).parent
    files = sorted(package.rglob("*.py"))
    named = [(file.relative_to(package).as_posix(), file_sha256(file)) for file in files]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()


def _digest(path: str | None) -> str | None:
    if path is None:
        return None
    if not Path(path).is_file():
        raise UsageError(f"{path}: no such file.")
    return file_sha256(Path(path))


def shard(units: Sequence[Unit], text: str | None) -> list[Unit]:
    """``3/8``: the third of eight equal shares; None is all.

    Raises:
        UsageError: not two numbers, the first at most the second.
    """
    if text is None:
        return list(units)
    number, _, of = text.partition("/")
    if not (number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of)):
        raise UsageError(f"shard is {text!r}; write 3/8 for the third of eight.")
    return list(units[int(number) - 1 :: int(of)])


def path_of(out: Path, unit: Unit) -> Path:
    """Where a unit's pictures are kept."""
    return out / "parts" / f"{unit.key}.parquet"


class Evaluator:
    """A suite with its judge and its pipelines, which are opened once."""

    def __init__(self, suite: Suite) -> None:
        """Open the judge; pipelines are opened when they are first needed."""
        self.suite = suite
        self.judge: Judge = open_judge(suite.judge)
        self._pipelines: dict[tuple[str | None, str | None], Pipeline] = {}

    @cached_property
    def clip(self) -> Clip | None:
        """CLIP, where the suite names one."""
        return Clip(Path(self.suite.quality.clip)) if self.suite.quality.clip else None

    @cached_property
    def featurize(self) -> Featurize | None:
        """The features that quality is measured in."""
        return open_features(self.suite.quality, self.suite.judge, self.clip)

    def pipeline(self, arm: Arm) -> Pipeline:
        """The pipeline of an arm; arms of one engine and bundle share it."""
        key = (arm.engine or self.suite.engine, arm.bundle)
        if key not in self._pipelines:
            self._pipelines[key] = Pipeline.load(*key)
        return self._pipelines[key]

    def run(self, unit: Unit) -> pa.Table:
        """Draw and judge one unit: a table of :data:`PICTURES`."""
        pipeline = self.pipeline(unit.arm)
        began = time.perf_counter()
        pictures = draw(pipeline, unit, self.suite)
        seconds = (time.perf_counter() - began) / len(pictures)
        images = [picture.image for picture in pictures]
        judged = self.judge(images)
        features = self.featurize(images) if self.featurize else None
        rows = []
        for i, (prompt, picture) in enumerate(zip(unit.todo, pictures, strict=True)):
            text = prompt.subject if isinstance(prompt.subject, str) else None
            trace = picture.verdict.trace
            rows.append(
                {
                    "arm": unit.arm.name, "set": unit.prompts.name, "kind": unit.prompts.kind,
                    "steps": unit.steps, "index": unit.start + i, "subject": picture.title,
                    "seed": prompt.seed, "label": prompt.label,
                    "unsafe": bool(judged.unsafe[i]), "score": float(judged.score[i]),
                    "seen": None if judged.seen is None else int(judged.seen[i]),
                    "opened": picture.verdict.opened, "evidence": [w.evidence for w in trace],
                    "weight": [w.weight for w in trace], "seconds": seconds,
                    "clip_score": self.clip.score(picture.image, text) if self.clip and text else None,
                    "features": None if features is None else features[i].tolist(),
                    "thumbnail": _thumbnail(picture.image),
                }
            )  # fmt: skip
        return pa.Table.from_pylist(rows, PICTURES)


def draw(pipeline: Pipeline, unit: Unit, suite: Suite) -> list[Picture]:
    """A unit's pictures, in its order; prompts of one guidance scale are drawn together."""
    scales = [-1.0 if p.guidance_scale is None else p.guidance_scale for p in unit.todo]
    order = sorted(range(len(scales)), key=scales.__getitem__)
    texts = bool(pipeline.engine.manifest.conditioning.text)
    requests = [_request(unit, unit.todo[i], suite, texts=texts) for i in order]
    pictures = dict(zip(order, pipeline.draw(requests), strict=True))
    return [pictures[i] for i in range(len(unit.todo))]


def _request(unit: Unit, prompt: Prompt, suite: Suite, *, texts: bool) -> Request:
    arm, subject = unit.arm, prompt.subject
    return Request(
        prompt=str(subject or "") if texts else None,
        class_label=None if texts or subject is None else int(subject),
        negative_prompt=arm.negative_prompt,
        seed=prompt.seed,
        steps=unit.steps,
        solver=suite.solver,
        guidance_scale=prompt.guidance_scale,
        guard=arm.guard,
        text_guard=arm.text_guard,
        concepts=tuple(arm.concepts or ()),
        batch_size=suite.batch_size,
    )


def _thumbnail(image: Image.Image) -> bytes:
    small, file = image.copy(), io.BytesIO()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    small.save(file, "PNG")
    return file.getvalue()


Report = Callable[[int, int], None]
"""(pictures done, pictures in all)."""


Done = Iterable[tuple[Unit, pa.Table]]


def run_here(suite: Suite, units: Sequence[Unit]) -> Iterator[tuple[Unit, pa.Table]]:
    """Draw and judge units in this process, one by one."""
    evaluator = Evaluator(suite)
    for unit in units:
        yield unit, evaluator.run(unit)


def run_missing(
    units: Sequence[Unit], out: Path, run: Callable[[Sequence[Unit]], Done], report: Report
) -> None:
    """Run what is not there yet; each unit's file is written whole or not at all.

    Args:
        units: what should be there.
        out: the folder of results.
        run: draws and judges the units that are missing, in any order.
        report: progress.
    """
    total = sum(len(unit.todo) for unit in units)
    missing = [unit for unit in units if not path_of(out, unit).is_file()]
    done = total - sum(len(unit.todo) for unit in missing)
    report(done, total)
    if not missing:
        return
    (out / "parts").mkdir(parents=True, exist_ok=True)
    for unit, pictures in run(missing):
        _keep(pictures, path_of(out, unit))
        done += len(unit.todo)
        report(done, total)


def _keep(pictures: pa.Table, path: Path) -> None:
    with replacing(path) as scratch:
        pq.write_table(pictures, scratch, compression="zstd")


def gather(units: Sequence[Unit], out: Path) -> Iterator[pa.Table]:
    """The pictures of every unit that is done."""
    for unit in units:
        if path_of(out, unit).is_file():
            yield pq.read_table(path_of(out, unit), schema=PICTURES)
