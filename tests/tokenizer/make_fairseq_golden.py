#!/usr/bin/env python3
"""Makes tests/data/tokenizers/fairseq: a small sentencepiece model as XLM-RoBERTa's checkpoints have it, and what
transformers' XLMRobertaTokenizer makes of texts and pairs with it.

    pip install sentencepiece transformers
    python3 tests/tokenizer/make_fairseq_golden.py
"""
import json
import pathlib

import sentencepiece
from transformers import XLMRobertaTokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "tests/data/tokenizers/fairseq"
MODEL = OUT / "sentencepiece.bpe.model"
TEXTS = ["the model", " two  spaces ", "", "Größe in 漢字", "a <mask> here", "unknown \U0001f642!", "weights, tokens; weights"]
PAIRS = [("the model", "its weights"), ("a text of words", "漢")]

OUT.mkdir(exist_ok=True)
sentencepiece.SentencePieceTrainer.train(input=str(ROOT / "docs/encoders.md"), model_prefix=str(OUT / "model"), vocab_size=300,
                                         normalization_rule_name="identity", character_coverage=0.98, num_threads=1)
(OUT / "model.vocab").unlink()
(OUT / "model.model").rename(MODEL)
pieces = sentencepiece.SentencePieceProcessor(str(MODEL))
first = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
vocabulary = first + [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(3, len(pieces))] + [("<mask>", 0.0)]
tokenizer = XLMRobertaTokenizer(vocab=vocabulary)
with open(OUT / "golden.json", "w", encoding="utf-8") as file:
    texts = [{"text": text, "ids": tokenizer(text)["input_ids"]} for text in TEXTS]
    pairs = [{"first": a, "second": b, "ids": tokenizer(a, b)["input_ids"]} for a, b in PAIRS]
    json.dump({"texts": texts, "pairs": pairs}, file, ensure_ascii=False)
