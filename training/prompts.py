"""The words of the embedded model: ten classes, their synonyms, and the templates around them."""

import json
import random
from pathlib import Path
from typing import NamedTuple

TABLE = json.loads((Path(__file__).parent / "prompts.json").read_text())
TEMPLATES: list[str] = TABLE["templates"]


class Garment(NamedTuple):
    """One class of Fashion-MNIST."""

    label: int
    name: str
    synonyms: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """The plain name first, then its synonyms."""
        return (self.name, *self.synonyms)


GARMENTS = [Garment(g["label"], g["name"], tuple(g["synonyms"])) for g in TABLE["classes"]]


def misspell(word: str, rng: random.Random) -> str:
    """Swap two neighbouring letters or drop one, as a hurried typist does."""
    i = rng.randrange(len(word) - 1)
    return word[:i] + (word[i + 1] + word[i] if rng.random() < 0.5 else word[i + 1]) + word[i + 2 :]


def sample_prompt(label: int, rng: random.Random, typos: float = 0.0) -> str:
    """Draw a prompt for a class: a word of it, misspelt with probability ``typos``, in a template."""
    garment = GARMENTS[label]
    word = garment.name if rng.random() < 0.4 else rng.choice(garment.synonyms)
    if rng.random() < typos:
        word = misspell(word, rng)
    return rng.choice(TEMPLATES).format(word)


def all_prompts() -> list[tuple[int, str, str]]:
    """Every (label, word, prompt) over all classes, words and templates, in a fixed order."""
    return [
        (g.label, word, template.format(word)) for g in GARMENTS for word in g.words for template in TEMPLATES
    ]
