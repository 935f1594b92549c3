"""The C++ tokenizer against the library `tokenizers`. If these fail, a prompt means another thing in C++."""

from __future__ import annotations

import io
import json
import random
import subprocess
import unicodedata
from pathlib import Path

import pytest
import sentencepiece
import tiny
from sentencepiece import sentencepiece_model_pb2 as proto
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from safegen.format.tokenizer import open_tokenizer

pytestmark = pytest.mark.slow
WORDS = [
    "a photo of", "sneaker", "T-SHIRT", "don't", "I'll", "we've", "it's", "Straße",
    "naïve café", "Ǆ", "İstanbul", "ΣΊΣΥΦΟΣ", "Москва", "東京 タワー", "한국어", "مرحبا", "हिन्दी",
    "ไทย", "👩‍👩‍👧‍👦", "🏳️‍🌈", "e\u0301", "ﬁ", "Ａｂｃ", "½", "²", "x²", "1234567", "3.14",
    "#$%&", "''", "…", "“quoted”", "<|endoftext|>", "<|ENDOFTEXT|>", "</s>", "<pad>", "\t",
    "\n", "\u3000", "\u00a0", "\u200b", "\u0000", "\ufeff", "  ", "", "▁", " ▁ ", "-", "_",
    "a" * 300,
]  # fmt: skip


def prompts(count: int) -> list[str]:
    """Words of many scripts, random characters that Unicode 14 has, numbers, nothing, and very long texts."""
    rng = random.Random(0)
    known = [chr(c) for c in range(0x30000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    found = ["", " ", *WORDS]
    while len(found) < count:
        kind = rng.random()
        if kind < 0.5:
            found.append(rng.choice(["", " ", "  "]).join(rng.choices(WORDS, k=rng.randrange(1, 12))))
        elif kind < 0.8:
            found.append("".join(rng.choices(known, k=rng.randrange(1, 40))))
        elif kind < 0.95:
            found.append("".join(rng.choice("abc XYZ0189'.,!-\n") for _ in range(rng.randrange(1, 60))))
        else:
            found.append(" ".join(rng.choices(WORDS, k=200)))
    return found


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer.json as transformers writes T5's: SentencePiece's own normalization, Unigram pieces."""
    rng = random.Random(1)
    lines = [" ".join(rng.choices([w for w in WORDS if w.strip()], k=8)) for _ in range(2000)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=300, model_type="unigram",
        normalization_rule_name="nmt_nfkc", character_coverage=0.98, minloglevel=2, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, num_threads=1,
    )  # fmt: skip
    spec = proto.ModelProto.FromString(model.getvalue())
    tokens = Tokenizer(models.Unigram([(p.piece, p.score) for p in spec.pieces], unk_id=2))
    tokens.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(spec.normalizer_spec.precompiled_charsmap),
            normalizers.Strip(left=False, right=True),
            normalizers.Replace(Regex(" {2,}"), "▁"),
        ]
    )
    tokens.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokens.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokens.add_special_tokens(["<pad>", "</s>", "<unk>"])
    path = tmp_path_factory.mktemp("t5") / "tokenizer.json"
    tokens.save(str(path))
    return path


def lowercased(path: Path, out: Path) -> Path:
    """As the export does for PixArt's tokenizers, with words split at spaces, as older files have it."""
    tokens = Tokenizer.from_file(str(path))
    tokens.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Strip()])
    tokens.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokens.save(str(out))
    return out


@pytest.mark.parametrize("kind", ["clip", "t5", "t5-lowercase"])
def test_ten_thousand_prompts(sanitized: Path, t5: Path, tmp_path: Path, kind: str) -> None:
    """Every window of every prompt, id for id."""
    path, pad, length = {
        "clip": lambda: (tiny.EMBEDDED / "tokenizer.json", "<|endoftext|>", 24),
        "t5": lambda: (t5, "<pad>", 20),
        "t5-lowercase": lambda: (lowercased(t5, tmp_path / "tokenizer.json"), "<pad>", 20),
    }[kind]()
    texts = prompts(10_000)
    given = "".join(json.dumps(text) + "\n" for text in texts)
    said = subprocess.run([sanitized / "tests" / "tokenize", path, str(length), pad], input=given,
                          capture_output=True, text=True)  # fmt: skip
    assert said.returncode == 0, said.stderr[-2000:]
    theirs = open_tokenizer(path, length, pad).encode_batch(texts)
    for text, line, encoding in zip(texts, said.stdout.splitlines(), theirs, strict=True):
        wanted = [encoding.ids, *(more.ids for more in encoding.overflowing)]
        assert json.loads(line) == wanted, repr(text)


def test_a_tokenizer_of_another_kind_is_refused(sanitized: Path, tmp_path: Path) -> None:
    """Never approximated: GPT-2's splits numbers otherwise."""
    tokens = Tokenizer.from_file(str(tiny.EMBEDDED / "tokenizer.json"))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.save(str(tmp_path / "tokenizer.json"))
    asked = [sanitized / "tests" / "tokenize", tmp_path / "tokenizer.json", "24", "<|endoftext|>"]
    said = subprocess.run(asked, input="", capture_output=True, text=True)
    assert "pre_tokenizer ByteLevel" in said.stderr
