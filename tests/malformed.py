"""Variants of the golden bundle, sealed again: what every host must refuse, and what every host must read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from safegen.format.seal import ZEROS, seal

GOLDEN = Path(__file__).parent / "golden"
Tensors = dict[str, Any]
Description = dict[str, Any]
Change = Callable[[Tensors, Description], object]
"""(tensors, description) -> changed in place; a text takes the place of the description."""


def write_changed(path: Path, change: Change) -> Path:
    """The golden bundle with a change, under a seal that holds."""
    with safe_open(GOLDEN / "golden.negation", framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        description = json.loads(file.metadata()["safegen"])
    said = change(tensors, description)
    text = said if isinstance(said, str) else json.dumps(description)
    save_file(
        {name: np.ascontiguousarray(values) for name, values in tensors.items()},
        path,
        {"digest": ZEROS, "safegen": text},
    )
    seal(path)
    return path


def tensor(name: str, make: Callable[[Any], Any]) -> Change:
    return lambda tensors, description: tensors.update({name: make(tensors[name])})


def dtype(name: str, kind: str) -> Change:
    return tensor(name, lambda values: values.astype(kind))


def first(name: str, value: float) -> Change:
    """The tensor with this as its first number."""

    def make(values: Any) -> Any:
        values = values.copy()
        values.flat[0] = value
        return values

    return tensor(name, make)


def no_tensor(name: str) -> Change:
    return lambda tensors, description: tensors.pop(name)


def key(name: str, value: Any) -> Change:
    return lambda tensors, description: description.update({name: value})


def no_key(name: str) -> Change:
    return lambda tensors, description: description.pop(name)


def guard(**settings: Any) -> Change:
    return lambda tensors, description: description.update(guard={"mode": "ratio", **settings})


def text(make: Callable[[str], str]) -> Change:
    """The description as another text."""
    return lambda tensors, description: make(json.dumps(description))


def both(*changes: Change) -> Change:
    def change(tensors: Tensors, description: Description) -> None:
        for one in changes:
            one(tensors, description)

    return change


F16 = ("negation", "benign", "axes")
F64 = ("gate_signal", "gate_location", "gate_scores", "paper_log_snr", "paper_quantiles")
KEYS = (
    *("name", "latent_space", "latent_shape", "image_size", "negation_count", "benign_count", "target_count"),
    *("benign_source", "source_digest", "created", "bandwidth", "foreseen_from"),
)
"""Those without a default."""
TARGETS = (0, 6, -1, 4.0, True, None, 2**70)
REFUSED: Mapping[str, Change] = {
    **{f"no {name}": no_tensor(name) for name in (*F16, *F64)},
    **{f"{name} in float32": dtype(name, "float32") for name in (*F16, *F64)},
    "scores of whole numbers": dtype("gate_scores", "int64"),
    "negation of whole numbers": dtype("negation", "int16"),
    **{f"{name} is NaN": first(name, np.nan) for name in (*F16, *F64)},
    **{f"{name} is infinite": first(name, -np.inf) for name in (*F16, *F64)},
    "unsorted scores": tensor("gate_scores", lambda s: s[::-1]),
    "two scores in the other order": tensor("gate_scores", lambda s: s[[1, 0, *range(2, len(s))]]),
    "no score": tensor("gate_scores", lambda s: s[:0]),
    "scores in rows": tensor("gate_scores", lambda s: s[None]),
    "a falling signal": tensor("gate_signal", lambda s: s[::-1]),
    "a level twice": tensor("gate_signal", lambda s: s[[0, 1, 1, 2, 3]]),
    "a signal below 0": first("gate_signal", -1e-9),
    "a signal above 1": tensor("gate_signal", lambda s: s * 1.03),
    "signals in rows": tensor("gate_signal", lambda s: s[None]),
    "no level": both(*(tensor(name, lambda s: s[:0]) for name in ("gate_signal", "gate_location"))),
    "a level without its location": tensor("gate_location", lambda s: s[1:]),
    "locations in rows": tensor("gate_location", lambda s: s[None]),
    "a falling log-SNR": tensor("paper_log_snr", lambda s: s[::-1]),
    "a log-SNR twice": tensor("paper_log_snr", lambda s: s[[0, 1, 1, 2]]),
    "no log-SNR": both(*(tensor(n, lambda s: s[:0]) for n in ("paper_log_snr", "paper_quantiles"))),
    "quantiles of too few levels": tensor("paper_quantiles", lambda q: q[1:]),
    "one quantile": tensor("paper_quantiles", lambda q: q[:, :1]),
    "no quantile": tensor("paper_quantiles", lambda q: q[:, :0]),
    "falling quantiles": tensor("paper_quantiles", lambda q: q[:, ::-1]),
    "falling quantiles at last": tensor("paper_quantiles", lambda q: np.vstack([q[:3], q[3:, ::-1]])),
    "quantiles in a line": tensor("paper_quantiles", np.ravel),
    "negation in a line": tensor("negation", np.ravel),
    "negation of another shape": tensor("negation", lambda x: x.reshape(3, 4, 2, 4)),
    "negation of more images": tensor("negation", lambda x: np.concatenate([x, x])),
    "benign of another shape": tensor("benign", lambda x: x[:, :1]),
    "benign of fewer images": tensor("benign", lambda x: x[1:]),
    "no image": both(tensor("negation", lambda x: x[:0]), key("negation_count", 0)),
    "axes of another width": tensor("axes", lambda a: a[:, 1:]),
    "no axis": tensor("axes", lambda a: a[:0]),
    "axes in a line": tensor("axes", lambda a: a[0]),
    "schema 4": key("schema_version", 4),
    "schema 6": key("schema_version", 6),
    "a schema in words": key("schema_version", "5"),
    "no schema": no_key("schema_version"),
    "tau": key("tau", 1.0),
    "aim_bandwidth": key("aim_bandwidth", 3.0),
    "a key from nowhere": key("strength", None),
    "an unknown setting": guard(strength=2.0),
    "a rate below 0": guard(false_positive_rate=-0.1),
    "a rate above 1": guard(false_positive_rate=1.5),
    "a rate in words": guard(false_positive_rate="0.005"),
    "no rate": guard(false_positive_rate=None),
    "a rate that is true": guard(false_positive_rate=True),
    "no repulsion": guard(repulsion=None),
    "an unknown guard": guard(mode="stronger"),
    "a guard without its name": key("guard", {"repulsion": 1.0}),
    "a guard of another kind": key("guard", "ratio"),
    "null for a guard": key("guard", None),
    "official as it was": guard(mode="official", unit_x0=True),
    "official without a bandwidth": guard(mode="official", bandwidth=0),
    "official for half a step": guard(mode="official", first_steps=1.5),
    "official with a gate of 1": guard(mode="official", gate=1),
    "paper beyond its quantiles": guard(mode="paper", quantile=1.1),
    "paper with a cap of 0": guard(mode="paper", w_max=0.0),
    "off with a setting": guard(mode="off", strength=2.0),
    **{f"bandwidth is {value}": key("bandwidth", value) for value in (0, -1.0, True, "2", None)},
    **{f"target_count is {value}": key("target_count", value) for value in TARGETS},
    "a negation_count of more": key("negation_count", 4),
    "a benign_count of fewer": key("benign_count", 4),
    "a benign_count of half an image": key("benign_count", 5.5),
    "latents of two sides": key("latent_shape", [2, 16]),
    "latents of four sides": key("latent_shape", [2, 4, 4, 1]),
    "latents below 0": key("latent_shape", [2, -4, -4]),
    "an image of three sides": key("image_size", [32, 32, 3]),
    **{f"regions is {value}": key("regions", value) for value in (0, 3, 2, -1, None, True)},
    "anywhere in whole pictures": key("anywhere", True),
    "null for anywhere": key("anywhere", None),
    "anywhere is 0": key("anywhere", 0),
    "a name of another kind": key("name", 5),
    "a latent_space of another kind": key("latent_space", None),
    **{f"no {name}": no_key(name) for name in KEYS},
    "a list for a description": text(lambda said: "[]"),
    "a number for a description": text(lambda said: "5"),
    "no JSON": text(lambda said: said[:-1]),
    "a bandwidth that is no number": text(lambda said: said.replace('"bandwidth": 2.5', '"bandwidth": NaN')),
    "a bandwidth too large": text(lambda said: said.replace('"bandwidth": 2.5', '"bandwidth": 1e400')),
    "half a character": text(lambda said: said.replace("golden", "\\ud800")),
}  # fmt: skip
READ: Mapping[str, Change] = {
    "as it is": lambda tensors, description: None,
    "whole numbers for others": both(key("bandwidth", 2), guard(false_positive_rate=1, repulsion=-2)),
    "what has a default": both(no_key("guard"), no_key("regions"), no_key("anywhere")),
    "a guard by its name": guard(),
    "no guard": key("guard", {"mode": "off"}),
    "every step that is early": guard(mode="official", first_steps=None, sd3=True),
    "equal scores": tensor("gate_scores", np.zeros_like),
    "one score": tensor("gate_scores", lambda s: s[:1]),
    "equal quantiles": tensor("paper_quantiles", np.zeros_like),
    "the whole of a signal": tensor("gate_signal", lambda s: np.linspace(0, 1, len(s))),
    "one level": both(*(tensor(name, lambda s: s[:1]) for name in ("gate_signal", "gate_location"))),
    "another tensor": lambda tensors, description: tensors.update(more=np.zeros(3, np.int32)),
    "every benign latent": key("target_count", 5),
    "another language": key("name", "кроссовки 👟"),
}


def write_all(folder: Path, changes: Mapping[str, Change]) -> list[Path]:
    """A file for each change, by its name."""
    return [write_changed(folder / f"{name}.negation", change) for name, change in changes.items()]
