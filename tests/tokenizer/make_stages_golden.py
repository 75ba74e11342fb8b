"""Makes tests/data/tokenizers/stages.json: small tokenizers with every stage type, and the ids and texts that Hugging Face's
`tokenizers` gives for the strings of tests/data/tokenizers/strings.jsonl.

    python3 -m venv venv && venv/bin/pip install tokenizers
    venv/bin/python tests/tokenizer/make_stages_golden.py
"""
import json
import pathlib

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Regex

DATA = pathlib.Path(__file__).resolve().parents[1] / "data" / "tokenizers"
TEXTS = [bytes.fromhex(json.loads(line)["hex"]).decode() for line in open(DATA / "strings.jsonl")]
EXTRA = ["a<s> b", "x<s>y <s>  z", "word<w>word <w> <w>word", " <w>", "<n>É e\u0301 <N>", "the  <r>   end", "  <l> <l>",
         "It's a we'LL \u017f '\u017f", "12,345.67 ½ Ⅷ ٣", "snake_case and-dash…", "ＡＢＣ ｶﾞ ﬁ", "İstanbul ǅ ß", "\t\n\r\n  mixed \u3000 spaces\u00a0"]
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN = LLAMA3.replace("{1,3}", "")
GPT4O = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
ADDED = [AddedToken("<s>", special=True, normalized=False), AddedToken("<w>", single_word=True, normalized=False),
         AddedToken("<l>", lstrip=True, normalized=False), AddedToken("<r>", rstrip=True, normalized=False),
         AddedToken("<n>e", normalized=True)]


def build(name, normalizer=None, pre=None, decoder=None, post=None, byte_level=False, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre:
        tokenizer.pre_tokenizer = pre
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else []
    trainer = trainers.BpeTrainer(vocab_size=600 if byte_level else 500, initial_alphabet=alphabet, show_progress=False,
                                  special_tokens=[model["unk_token"]] if model.get("unk_token") else [],
                                  **{k: model[k] for k in ("continuing_subword_prefix", "end_of_word_suffix") if k in model})
    tokenizer.train_from_iterator([t for t in TEXTS if len(t) < 500], trainer)
    if model.get("byte_fallback"):
        description = json.loads(tokenizer.to_str())
        vocab = description["model"]["vocab"]
        for byte in range(256):
            vocab.setdefault(f"<0x{byte:02X}>", len(vocab))
        tokenizer = Tokenizer.from_str(json.dumps(description))
    tokenizer.add_tokens(ADDED)
    tokenizer.add_special_tokens([ADDED[0]])
    if decoder:
        tokenizer.decoder = decoder
    if post:
        tokenizer.post_processor = post(tokenizer)
    rows = []
    for text in EXTRA + [t for t in TEXTS if len(t) < 80][::5]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        special = tokenizer.encode(text).ids
        rows.append({"text": text, "ids": ids, "ids_special": special, "decode": tokenizer.decode(ids, skip_special_tokens=False),
                     "decode_skip": tokenizer.decode(special, skip_special_tokens=True)})
    return {"name": name, "tokenizer": json.loads(tokenizer.to_str()), "rows": rows}


def byte_split(pattern, behavior="isolated"):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), behavior),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def template(tokenizer):
    return processors.TemplateProcessing(single="<s> $A <s>", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])


def bert(tokenizer):
    pair = ("<s>", tokenizer.token_to_id("<s>"))
    return processors.BertProcessing(pair, pair)


P, N, D = pre_tokenizers, normalizers, decoders
SENTENCEPIECE = D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)])
CASES = [
    build("gpt2", pre=P.ByteLevel(add_prefix_space=True), decoder=D.ByteLevel(), post=template, byte_level=True),
    build("llama3", N.NFC(), byte_split(LLAMA3), D.ByteLevel(), byte_level=True, ignore_merges=True),
    build("qwen", N.NFC(), byte_split(QWEN), D.ByteLevel(), byte_level=True),
    build("gpt4o", N.NFKC(), byte_split(GPT4O), D.ByteLevel(), byte_level=True),
    build("smollm", pre=P.Sequence([P.Digits(individual_digits=True), P.ByteLevel(add_prefix_space=False)]), decoder=D.ByteLevel(),
          byte_level=True),
    build("deepseek", pre=P.Sequence([P.Split(Regex(r"[\r\n]"), "isolated"), P.Split(Regex(r"\s?\p{L}+"), "isolated"),
                                      P.Split(Regex(r"\s?\p{P}+"), "isolated"), P.Split(Regex("[一-龥ࠀ-一가-퟿]+"), "isolated"),
                                      P.Digits(individual_digits=True), P.ByteLevel(add_prefix_space=False, use_regex=False)]),
          decoder=D.ByteLevel(), byte_level=True),
    build("llama2", N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁")]), decoder=SENTENCEPIECE, post=template, byte_fallback=True,
          fuse_unk=True, unk_token="<unk>"),
    build("metaspace_always", N.NFKC(), P.Metaspace(), D.Metaspace(), bert, unk_token="<unk>", fuse_unk=True),
    build("metaspace_first", N.NFD(), P.Metaspace(prepend_scheme="first", split=False), D.Metaspace(prepend_scheme="first"),
          unk_token="<unk>"),
    build("metaspace_never", N.NFKD(), P.Metaspace(prepend_scheme="never"), D.Metaspace(prepend_scheme="never")),
    build("suffix", N.Sequence([N.Lowercase(), N.NFD(), N.StripAccents(), N.Strip()]), P.Sequence([P.WhitespaceSplit(), P.Punctuation()]),
          D.BPEDecoder("</w>"), unk_token="<unk>", end_of_word_suffix="</w>"),
    build("prefix", N.Sequence([N.Nmt(), N.Replace(Regex(r"[aeiou]+"), "a")]), P.Whitespace(), None, unk_token="<unk>",
          continuing_subword_prefix="##"),
    build("bert_pre", N.Strip(), P.BertPreTokenizer(), None, unk_token="<unk>"),
    build("delimiter", pre=P.CharDelimiterSplit("a"), unk_token="<unk>"),
    build("digits", pre=P.Digits(individual_digits=False), unk_token="<unk>"),
] + [build("split_" + behavior + ("_inverted" if invert else ""), pre=P.Split(Regex(r"\s|[.,]"), behavior, invert),
           unk_token="<unk>")
     for behavior in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous") for invert in (False, True)]

with open(DATA / "stages.json", "w", encoding="utf-8") as file:
    json.dump(CASES, file, ensure_ascii=True, separators=(",", ":"))
print(len(CASES), "tokenizers")
