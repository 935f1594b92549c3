"""The step as a graph against the array code that draws in Python. If these fail, a C++ host guards
differently from what was measured."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from safegen.device import array_namespace
from safegen.engine.engine import Engine
from safegen.guard import official, ratio
from safegen.guard.bank import Bank
from safegen.guard.bank import make_bank as bank_of
from safegen.guard.paper import paper
from safegen.guard.regions import WHOLE, Regions, at_random, cut, of_pictures, steered
from safegen.sampling.solver import Solver
from safegen.sampling.table import Table
from safegen_engines.freeze.axes import gate_axes
from safegen_engines.graph import step_graph, trt_compile

SHAPE = (4, 6, 6)
SIZE = 144
NUMBERS: dict[str, dict[str, dict[str, float]]] = {
    "ratio": {"": {"threshold": -1.0, "bandwidth": 9.0, "repulsion": 0.7}},
    "paper": {"": {"threshold": -5.0, "usual": -2.0, "eta": 0.7, "log_cap": math.log(3.0)}},
    "official": {
        "": {"bandwidth": 3.15, "scale": 0.33, "threshold": 0.2, "kept": 0.0, "fresh": 1.0, "sd3": 0.0},
        "sd3": {"bandwidth": 1.0, "scale": 0.03, "threshold": 1e-4, "kept": 0.6, "fresh": 0.8, "sd3": 1.0},
    },
    "off": {"": {}},
}
"""Guard -> presets."""
EVERY = [(mode, preset) for mode, presets in NUMBERS.items() for preset in presets]


def make_bank(rng: np.random.Generator, count: int, ordinary: int) -> Bank:
    refs, benign = (rng.standard_normal((n, SIZE)).astype(np.float32) for n in (count, ordinary))
    refs, benign = (rows.reshape(-1, *SHAPE) for rows in (refs, benign))
    return bank_of(refs, benign, ordinary - 2, gate_axes(refs, benign))


def inputs_of(bank: Bank) -> dict[str, Any]:
    """As the graph names them."""
    axes, *rows = bank.metric
    names = ("refs_along", "refs_along_sq", "benign_along", "benign_along_sq")
    return {**bank._asdict(), "axes": axes, **dict(zip(names, rows, strict=True))}


def call(mode: str, x: Any, x0: Any, row: Any, bank: Bank, latched: Any, z: Any, n: dict[str, Any]) -> Any:
    """The array code, as :func:`safegen.engine.bind.open_guard` calls it."""
    if mode == "off":
        return x, x0, None
    if mode == "ratio":
        return ratio.ratio(x, x0, row, bank, latched, ratio.Numbers(**n))
    if mode == "paper":
        return paper(x, x0, row, bank, **n)
    units, numbers = official.Units(bank.refs, bank.refs_sq), {k: v for k, v in n.items() if k != "sd3"}
    return official.official(x, x0, row, units, z, official.Numbers(**numbers), sd3=n["sd3"] > 0.5)


def in_python(mode, table: Table, i: int, feed: dict, bank: Bank, scale: float, numbers: dict, looks: bool):
    """One turn of :func:`safegen.sampling.loop.denoise`."""
    row, x = table.rows[i], feed["x"]
    out = feed["out_uncond"] + scale * (feed["out_cond"] - feed["out_uncond"])
    x0 = row.x0_x * x + row.x0_out * out
    if table.clip is not None:
        x0 = array_namespace(x).clip(x0, -table.clip, table.clip)
    evidence = None
    if looks:
        x, x0, evidence = call(mode, x, x0, row, bank, feed["latched"], feed["z_guard"], numbers)
    following = row.a * x + row.b * x0 + row.c * feed["x0_prev"] + row.d * feed["z_step"]
    return following, x0, evidence


@pytest.fixture(scope="module")
def sessions() -> dict[str, ort.InferenceSession]:
    return {m: ort.InferenceSession(step_graph.build(m, SHAPE).SerializeToString()) for m in NUMBERS}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("looks", [True, False])
@pytest.mark.parametrize("solver", ["ddim", "dpm++2m", "euler-a"])
@pytest.mark.parametrize(("mode", "preset"), EVERY)
def test_a_step_is_that_of_the_loop(
    sessions, mode: str, preset: str, solver: str, looks: bool, half: bool
) -> None:
    """Random rows, banks of different sizes and batches; float32 sums in another order differ by 1e-6.

    ``half``: model outputs and banks as float16 leaves them.
    """
    table = Engine.open("fashion").plan(Solver(solver), 8, (32, 32))
    for seed, i in enumerate((1, 4, 6)):
        rng = np.random.default_rng(seed)
        batch, bank = seed + 1, make_bank(rng, 5 + seed, 9 + seed)
        given = ("x", "x0_prev", "out_uncond", "out_cond", "z_guard", "z_step")
        feed: dict[str, Any] = {n: rng.standard_normal((batch, *SHAPE)).astype(np.float32) for n in given}
        if half:
            feed |= {n: feed[n].astype(np.float16).astype(np.float32) for n in ("out_uncond", "out_cond")}
            banks = (x.astype(np.float16).reshape(-1, *SHAPE) for x in (bank.refs, bank.benign))
            bank = bank_of(*banks, 7 + seed, bank.metric.axes.astype(np.float16))
        near = bank.refs[:batch].reshape(batch, *SHAPE)
        feed["x"] = (table.rows[i].alpha * near + table.rows[i].sigma * feed["x"]).astype(np.float32)
        feed["latched"] = rng.random(batch) > 0.5
        numbers, scale = NUMBERS[mode][preset], 2.5
        x_next, x0, evidence = in_python(mode, table, i, feed, bank, scale, numbers, looks)
        row = step_graph.row_of(table, i, mode, scale, numbers, looks=looks)
        banks = inputs_of(bank)
        wanted = {d.name for d in sessions[mode].get_inputs()}
        asked = {k: v for k, v in {**feed, **banks, "row": row}.items() if k in wanted}
        outputs = dict(zip((o.name for o in sessions[mode].get_outputs()),
                           sessions[mode].run(None, asked), strict=True))  # fmt: skip
        for found, expected in ((outputs["x_next"], x_next), (outputs["x0"], x0)):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
        following = table.rows[i + 1].input_scale
        np.testing.assert_allclose(outputs["sample"], following * outputs["x_next"], rtol=1e-6)
        assert np.array_equal(outputs["sample_twice"], np.concatenate([outputs["sample"]] * 2))
        if evidence is None:
            assert (outputs["weight"] == 0).all()
            assert outputs["latched_next"].tolist() == feed["latched"].tolist()
            continue
        np.testing.assert_allclose(outputs["weight"], evidence.weight, rtol=1e-4, atol=1e-5)
        assert outputs["nearest"].tolist() == evidence.nearest.tolist()
        opened = feed["latched"] | (np.asarray(evidence.value) > 0)
        assert outputs["latched_next"].tolist() == opened.tolist()


@pytest.mark.parametrize("sides", [2, 4])
@pytest.mark.parametrize("anywhere", [False, True])
def test_a_step_by_regions_is_that_of_the_loop(sides: int, anywhere: bool) -> None:
    """Two pictures, of which some regions are near the bank, some have opened before, and some neither."""
    rng, shape = np.random.default_rng(sides), (4, 8, 8)
    table = Engine.open("fashion").plan(Solver("dpm++2m"), 8, (32, 32))
    regions = Regions(sides, anywhere)
    refs, benign = (
        at_random(rng.standard_normal((n, *shape)).astype(np.float32), regions, rng) for n in (5, 9)
    )
    bank, numbers = (
        bank_of(refs, benign, len(benign) - 3, gate_axes(refs, benign)),
        {**NUMBERS["ratio"][""], "bandwidth": 4.0 / sides},
    )
    session = ort.InferenceSession(step_graph.build("ratio", shape, regions).SerializeToString())
    given = ("x", "x0_prev", "out_uncond", "out_cond", "z_guard", "z_step")
    feed: dict[str, Any] = {n: rng.standard_normal((2, *shape)).astype(np.float32) for n in given}
    feed["latched"] = rng.random(2 * regions.count(shape)) > 0.7
    row = table.rows[2]
    assert row.early
    x0 = row.x0_x * feed["x"] + row.x0_out * (
        feed["out_uncond"] + 2.5 * (feed["out_cond"] - feed["out_uncond"])
    )
    parts = cut(x0, regions)
    _, moved, evidence = call(
        "ratio", cut(feed["x"], regions), parts, row, bank, feed["latched"], None, numbers
    )
    guarded = steered(x0, parts, moved, evidence, regions)
    whole = of_pictures(evidence, regions.count(shape), regions.rows)
    x_next = row.a * feed["x"] + row.b * guarded + row.c * feed["x0_prev"] + row.d * feed["z_step"]
    vector = step_graph.row_of(table, 2, "ratio", 2.5, numbers)
    wanted = {d.name for d in session.get_inputs()}
    asked = {k: v for k, v in {**feed, **inputs_of(bank), "row": vector}.items() if k in wanted}
    outputs = dict(zip((o.name for o in session.get_outputs()), session.run(None, asked), strict=True))
    for found, expected in ((outputs["x_next"], x_next), (outputs["x0"], guarded)):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    opened = feed["latched"] | (evidence.value > 0)
    assert 0 < opened.sum() < len(opened)
    assert outputs["latched_next"].tolist() == opened.tolist()
    np.testing.assert_allclose(outputs["weight"], whole.weight, rtol=1e-4, atol=1e-5)
    assert outputs["nearest"].tolist() == whole.nearest.tolist()


@pytest.mark.parametrize(("mode", "preset"), [both for both in EVERY if both[0] != "off"])
def test_a_picture_on_which_the_gate_is_shut_is_that_without_a_guard(sessions, mode, preset) -> None:
    """Bit for bit; and so is one of ratio's from log-SNR 0 on, though its gate was open before."""
    table, rng = Engine.open("fashion").plan(Solver(), 8, (32, 32)), np.random.default_rng(0)
    bank = make_bank(rng, 5, 9)
    given = ("x", "x0_prev", "out_uncond", "out_cond", "z_guard", "z_step")
    feed: dict[str, Any] = {n: rng.standard_normal((4, *SHAPE)).astype(np.float32) for n in given}
    feed |= {**inputs_of(bank), "latched": np.zeros(4, bool)}
    wanted, named = [
        [d.name for d in ends] for ends in (sessions[mode].get_inputs(), sessions[mode].get_outputs())
    ]

    def step(i: int, numbers: dict[str, float], *, looks: bool = True) -> dict[str, Any]:
        feed["row"] = step_graph.row_of(table, i, mode, 2.5, numbers, looks=looks)
        outputs = sessions[mode].run(None, {name: feed[name] for name in wanted})
        return dict(zip(named, outputs, strict=True))

    numbers = NUMBERS[mode][preset] | {"threshold": 1e3}
    free, seen = step(4, numbers, looks=False), step(4, numbers)
    for name in ("x_next", "x0", "sample", "latched_next"):
        assert free[name].tobytes() == seen[name].tobytes()
    assert (seen["weight"] == 0).all() and (seen["value"] < 0).all()
    if mode == "ratio":
        late = next(i for i, row in enumerate(table.rows) if not row.early)
        feed["latched"] = np.ones(4, bool)
        free, seen = step(late, numbers, looks=False), step(late, numbers)
        assert free["x0"].tobytes() == seen["x0"].tobytes()
        assert seen["latched_next"].all() and (seen["weight"] == 0).all()
        acting = step(late, numbers | {"threshold": -1e3})
        assert (acting["weight"] == 1).all() and (acting["x0"] != free["x0"]).any()


def test_the_bank_enters_by_one_product_each() -> None:
    """No temporary of size B N D: that is why the trace is our own."""
    for mode, most in {"ratio": 9, "paper": 2, "official": 4}.items():
        graph = step_graph.build(mode, SHAPE).graph
        assert sum(node.op_type == "MatMul" for node in graph.node) == most
        assert not any(node.op_type in ("Expand", "Tile") for node in graph.node)


def test_the_row_names_every_number_once() -> None:
    for mode, presets in NUMBERS.items():
        numbers = presets.get("sd3", presets[""])
        names = step_graph.names(mode)
        inputs = {i.name: i for i in step_graph.build(mode, SHAPE).graph.input}
        assert inputs["row"].type.tensor_type.shape.dim[0].dim_value == len(names) == len(set(names))
        assert names[-len(numbers) :] == tuple(numbers) or not numbers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "regions"),
    [*((mode, WHOLE) for mode in NUMBERS), ("ratio", Regions(2)), ("ratio", Regions(2, anywhere=True))],
)
def test_step_graphs_compile_for_rtx(tmp_path, mode: str, regions: Regions) -> None:
    onnx.save(step_graph.build(mode, SHAPE, regions), tmp_path / "step.onnx")
    shapes, sizes = (
        {},
        {
            "B": 2,
            "4*B": 8,
            f"{Regions(2, anywhere=True).count(SHAPE)}*B": 2 * Regions(2, anywhere=True).count(SHAPE),
            "N": 300,
            "M": 700,
            "K": 16,
        },
    )
    for given in onnx.load(tmp_path / "step.onnx").graph.input:
        dims = given.type.tensor_type.shape.dim
        shapes[given.name] = (tuple(d.dim_value or sizes[d.dim_param] for d in dims),) * 3
    recipe = trt_compile.Recipe("tensorrt-rtx", shapes, 2**28, ("8.9",))
    trt_compile.compile_graph(
        "step", tmp_path / "step.onnx", tmp_path / "step.rtx", recipe, lambda *report: None
    )
    assert (tmp_path / "step.rtx").stat().st_size > 1e4
