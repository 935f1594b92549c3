"""How text guards enter the loop. If these fail, a team believes in a guard that is never asked."""

from __future__ import annotations

import numpy as np
import pytest

from safegen import Pipeline
from safegen.engine.text_states import text_guards_of
from safegen.errors import UsageError
from safegen.guard.text import SLD_PRESETS, Safree, Sld, parse_text_guard, switched
from safegen.sampling.table import noised


def test_filtered_states_serve_up_to_each_prompt_s_last_step_and_no_longer() -> None:
    """Of three prompts the first is never filtered, the second at step 0 alone, the third at 0 to 2."""
    plain, filtered = ({"text": np.full((3, 2, 1), value)} for value in (1.0, 5.0))
    seen = []

    def predict(x: np.ndarray, timestep: float, told: dict) -> np.ndarray:
        seen.append(told["text"][:, 0, 0])
        return told["text"][:, :1, :1, None]

    model = switched(predict, filtered, plain, np.array([-1, 0, 2]), None, 1.0)
    x, row = np.zeros((3, 1, 1, 1)), noised(0.0)
    outputs = [model(x, row, i, None).out[:, 0, 0, 0].tolist() for i in range(5)]
    assert outputs == [[1, 5, 5], [1, 1, 5], [1, 1, 5], [1, 1, 1], [1, 1, 1]]
    guided = switched(predict, filtered, plain, np.array([-1, 0, 2]), plain, 3.0)
    # 1 + 3 (5 - 1) where the filtered states serve
    assert guided(x, row, 0, None).out[:, 0, 0, 0].tolist() == [1, 13, 13]
    assert seen[-1].tolist() == [1, 1, 1, 1, 5, 5]


@pytest.mark.parametrize("text_guard", ["safree", "sld:max"])
def test_a_text_guard_changes_what_leads_to_its_concept(text_guard: str) -> None:
    pipeline = Pipeline.load()
    prompt, asked = "a photo of a running shoe", {"seed": 3, "steps": 6, "guard": "off"}
    plain = pipeline(prompt, **asked)[0]
    turned = pipeline(prompt, **asked, text_guard=text_guard, concepts=["sneaker", "a running shoe"])[0]
    # the same graphs on the same inputs would give the same bits
    assert (np.asarray(plain.image) != np.asarray(turned.image)).any()


def test_a_text_guard_s_concept_is_the_bundle_s_name_unless_told() -> None:
    settings = Pipeline.load()("a bag", steps=1, seed=1, text_guard="safree")[0].settings
    assert settings["text_guard"]["concepts"] == ("sneaker",)


def test_names_and_presets() -> None:
    assert parse_text_guard("sld", ["x"]) == Sld(("x",)) == parse_text_guard("sld:medium", ["x"])
    assert parse_text_guard("safree", ["x", "y"]) == Safree(("x", "y"))
    assert len({parse_text_guard(f"sld:{preset}", ["x"]) for preset in SLD_PRESETS}) == 4
    for wrong in ("sldx", "safree:max", "sld:least"):
        with pytest.raises(UsageError, match="known are"):
            parse_text_guard(wrong, ["x"])
    for concepts in ([], [" "]):
        with pytest.raises(UsageError, match="concepts"):
            parse_text_guard("safree", concepts)


def test_engines_say_which_text_guards_they_take() -> None:
    fashion, pixels = (Pipeline.load(name).engine.manifest for name in ("fashion", "pixels"))
    assert fashion.text_guards == {"negative-prompt": 0, "sld": 1, "safree": 0}
    assert pixels.text_guards == {}
    told = fashion.conditioning
    assert text_guards_of(type(told)(text=told.text, guidance="embedded")) == {"safree": 0}


def test_beside_a_text_guard_the_gate_still_sees_what_was_asked_for() -> None:
    """SLD hides it from a gate that looks at its output, and at few steps it is drawn all the same."""
    pipeline, seen = Pipeline.load(), {}
    for text_guard in (None, "sld:max"):
        values = seen.setdefault(text_guard, [])
        pipeline("a sneaker", seed=1, n=3, steps=4, text_guard=text_guard,
                 on_step=lambda step, values=values: values.append(step.evidence.value))  # fmt: skip
    # at the first step both walks are at the same noise; float32 sums in another order beside a third batch
    np.testing.assert_allclose(seen["sld:max"][0], seen[None][0], rtol=1e-3)
    assert (seen["sld:max"][0] > 0).all()
