"""What a request may hold. If these fail, a wrong value draws another picture in silence, or a traceback."""

from dataclasses import fields

import numpy as np
import pytest

from safegen import Request, Solver
from safegen.errors import UsageError
from safegen.format.request import Common, requests_of


def test_the_fields_are_those_of_every_host() -> None:
    names = [field.name for field in fields(Request)]
    assert names == [
        "prompt", "class_label", "negative_prompt", "seed", "n", "steps", "solver", "guidance_scale", "size",
        "guard", "text_guard", "concepts", "init", "strength", "mask", "batch_size",
    ]  # fmt: skip
    assert set(Common.__annotations__) == set(names) - {"prompt", "class_label", "seed"}


def test_numpy_s_numbers_are_taken_for_python_s() -> None:
    """So that they can be written as JSON."""
    request = Request(
        class_label=np.int8(3), seed=np.uint64(2**63), n=np.int64(2), steps=np.int32(5),
        batch_size=np.int64(1), size=np.array([32, 16]), guidance_scale=np.float32(2),
        strength=np.float64(0.5), concepts=["a", "b"],
    )  # fmt: skip
    assert request == Request(
        class_label=3, seed=2**63, n=2, steps=5, batch_size=1, size=(32, 16), guidance_scale=2.0,
        strength=0.5, concepts=("a", "b"),
    )  # fmt: skip
    numbers = (request.class_label, request.seed, request.n, request.steps, *request.size)
    assert {type(number) for number in numbers} == {int}
    assert {type(request.guidance_scale), type(request.strength)} == {float}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *((name, wrong) for name in ("seed", "n", "steps", "class_label", "batch_size")
          for wrong in (True, 1.0, "1", b"1", np.float32(1), np.bool_(True), [1])),
        *((name, None) for name in ("seed", "n", "batch_size", "negative_prompt", "concepts")),
        *((name, wrong) for name in ("prompt", "negative_prompt") for wrong in (b"a coat", b"", 3, ["a"])),
        *((name, wrong) for name in ("guidance_scale", "strength") for wrong in (True, "3", 1j)),
        *(("size", wrong) for wrong in ((32,), "3232", 32, (32.0, 32), (True, 32), (32, 32, 3))),
        *(("concepts", wrong) for wrong in ("nudity", b"x", ("a", b"b"))),
    ],
)  # fmt: skip
def test_values_of_another_type_are_refused_in_one_line(name: str, wrong: object) -> None:
    with pytest.raises(UsageError, match=name) as error:
        Request(**{name: wrong})
    assert len(str(error.value).splitlines()) == 1


def test_a_long_value_is_repeated_in_one_line_all_the_same() -> None:
    with pytest.raises(UsageError) as error:
        Request(seed=np.ones((9, 9)))
    assert len(str(error.value)) < 100 and "\n" not in str(error.value)


def test_lists_become_requests_one_by_one() -> None:
    common = {"steps": 3, "solver": Solver()}
    two = requests_of(["a", "b"], None, 7, common)
    assert two == [Request(prompt=p, seed=7, **common) for p in ("a", "b")]
    assert requests_of(None, [4, np.int64(5)], [1, 2], {}) == [
        Request(class_label=4, seed=1), Request(class_label=5, seed=2),
    ]  # fmt: skip
    assert requests_of(None, None, range(3), {}) == [Request(seed=i) for i in range(3)]
    assert requests_of("a", None, [1, 2], {}) == [Request(prompt="a", seed=i) for i in (1, 2)]
    assert requests_of("a", None, np.int64(1), {}) == [Request(prompt="a", seed=1)]
    assert requests_of([], None, 0, {}) == []


@pytest.mark.parametrize(
    ("prompt", "label", "seed", "word"),
    [
        (b"a coat", None, 0, "prompt is b'a coat'; give a text"),  # was a picture a byte
        (["a coat", b"a bag"], None, 0, "prompt is b'a bag'"),
        (["a coat", "a bag"], None, [1], "2 of prompt, 1 of seed"),
        (["a coat", "a bag"], None, [1, 2, 3], "2 of prompt, 3 of seed"),
        (None, [1, 2], [1], "2 of class_label, 1 of seed"),
        ("a coat", None, "12", "seed is '12'; give a whole number"),
        ("a coat", None, [1, 2.5], "seed is 2.5"),
    ],
)
def test_lists_without_meaning_are_refused(prompt, label, seed, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        requests_of(prompt, label, seed, {})


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(TypeError, match="guidence"):
        requests_of("a coat", None, 0, {"guidence": 3.0})
