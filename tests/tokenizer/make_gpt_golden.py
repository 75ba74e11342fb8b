"""Makes tests/data/tokenizers/{gpt2,roberta,openai_gpt}: small vocabularies (vocab.json, merges.txt) trained here, and what
transformers' GPT2Tokenizer, RobertaTokenizer and OpenAIGPTTokenizer make of strings.jsonl with them.

    python tests/tokenizer/make_gpt_golden.py TEXT…      (tokenizers 0.23.3, transformers 5.24.0)
"""
import json
import pathlib
import sys

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

DATA = pathlib.Path(__file__).parent.parent / "data" / "tokenizers"
NUM_TOKENS = 2000


def train(texts, suffix, special_tokens):
    tokenizer = tokenizers.Tokenizer(models.BPE(end_of_word_suffix=suffix, unk_token="<unk>") if suffix else models.BPE())
    options = {"vocab_size": NUM_TOKENS, "special_tokens": special_tokens, "show_progress": False}
    if suffix:
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.BpeTrainer(end_of_word_suffix=suffix, limit_alphabet=150, **options)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **options)
    tokenizer.decoder = decoders.BPEDecoder(suffix=suffix) if suffix else decoders.ByteLevel()
    tokenizer.train(texts, trainer)
    return tokenizer


def hex_of(text):
    return text.encode("utf-8", "surrogatepass").hex()


def make(folder, reference, texts, suffix, special_tokens, pairs):
    target = DATA / folder
    target.mkdir(exist_ok=True)
    train(texts, suffix, special_tokens).model.save(str(target))
    merges = [tuple(line.split(" ")) for line in (target / "merges.txt").read_text().splitlines()[1:]]
    tokenizer = reference(vocab=json.loads((target / "vocab.json").read_text()), merges=merges)
    backend = tokenizer.backend_tokenizer
    strings = [bytes.fromhex(json.loads(line)["hex"]).decode() for line in (DATA / "strings.jsonl").open()]
    with (target / "golden.jsonl").open("w") as out:
        for i, text in enumerate(strings):
            ids = backend.encode(text, add_special_tokens=False).ids
            special = backend.encode(text).ids
            row = {"i": i, "ids": ids, "ids_special": special, "decode": hex_of(backend.decode(ids, False)),
                   "decode_skip": hex_of(backend.decode(special, True))}
            print(json.dumps(row, separators=(",", ":")), file=out)
    if pairs:
        with (target / "golden_pairs.jsonl").open("w") as out:
            for a, b in ((20, 21), (0, 30), (30, 0), (40, 41), (100, 200)):
                encoding = backend.encode(strings[a], strings[b])
                row = {"a": a, "b": b, "ids": encoding.ids, "type_ids": encoding.type_ids}
                print(json.dumps(row, separators=(",", ":")), file=out)


def main():
    import transformers
    texts = sys.argv[1:]
    make("gpt2", transformers.GPT2Tokenizer, texts, None, ["<|endoftext|>"], False)
    make("roberta", transformers.RobertaTokenizer, texts, None, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], True)
    make("openai_gpt", transformers.OpenAIGPTTokenizer, texts, "</w>", ["<unk>"], False)


main()
