"""Train the small BPE vocabulary of the embedded model and write it in CLIP's file format."""

import json
import tempfile
from pathlib import Path

from tokenizers import models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from prompts import GARMENTS, TEMPLATES, all_prompts
from run import WORK
from safegen.format.tokenizer import END, START, clip_tokenizer

MERGES = 250
MAX_LENGTH = 24
FOLDER = WORK / "tokenizer"


def learn_merges() -> list[tuple[str, str]]:
    """The most useful merges of the prompts' words, every word weighted by its use."""
    start = clip_tokenizer({START: 0, END: 1}, [])
    start.model = models.BPE(end_of_word_suffix="</w>")
    words = [w for g in GARMENTS for w in g.words]
    start.train_from_iterator(
        [prompt for _, _, prompt in all_prompts()] + words * 10 + list(TEMPLATES),
        trainers.BpeTrainer(
            vocab_size=4000,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    with tempfile.TemporaryDirectory() as scratch:
        start.model.save(scratch)
        lines = (Path(scratch) / "merges.txt").read_text("utf-8").splitlines()
    pairs = [tuple(line.split()) for line in lines if not line.startswith("#version")]
    return pairs[:MERGES]  # type: ignore[return-value]


def main() -> None:
    merges = learn_merges()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(c + "</w>" for c in alphabet), *("".join(m) for m in merges), START, END]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), "utf-8")
    text = "#version: 0.2\n" + "".join(" ".join(m) + "\n" for m in merges)
    (FOLDER / "merges.txt").write_text(text, "utf-8")
    tokenizer = CLIPTokenizer(
        vocab=str(FOLDER / "vocab.json"),
        merges=str(FOLDER / "merges.txt"),
        model_max_length=MAX_LENGTH,
    )
    tokenizer.save_pretrained(FOLDER)
    print(
        f"{len(vocab)} tokens in {FOLDER}; longest prompt",
        max(len(tokenizer(p)["input_ids"]) for _, _, p in all_prompts()),
        "tokens",
    )


if __name__ == "__main__":
    main()
