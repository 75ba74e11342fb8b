"""Makes tests/data/tokenizers/unigram.json.xz: tokenizer.json files of type Unigram as transformers saves them, made from
tests/data/tokenizers/spm_unigram/spm.model, and the ids, texts and offsets that Hugging Face's `tokenizers` gives for strings of
tests/data/tokenizers/strings.jsonl. All tables are the model's, so that the file has it once, as `charsmap`.

    python3 -m venv venv && venv/bin/pip install tokenizers transformers protobuf
    venv/bin/python tests/tokenizer/make_unigram_golden.py
"""
import base64
import json
import lzma
import pathlib
import re
import tempfile

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.implementations import SentencePieceUnigramTokenizer
from transformers import AlbertTokenizer, T5Tokenizer, XLMRobertaTokenizer
from transformers.utils import sentencepiece_model_pb2_new as model_pb2

DATA = pathlib.Path(__file__).resolve().parents[1] / "data" / "tokenizers"
TEXTS = [bytes.fromhex(json.loads(line)["hex"]).decode() for line in open(DATA / "strings.jsonl")]
EXTRA = ["", " ", "   ", "\t", "\n", "\r\n", "a\r\nb \r c", " the  people ", "the\u00a0people\u3000of\u2003the", "\u2581the \u2581 of\u2581\u2581", "x\u200by\ufeffz",
         # Graphemes of up to 5 bytes, whose first replacement stands for all of them, and longer ones.
         "\u00bd\u0301", "\u00bd\u200d", "\u00bd\u200d\u200d", "\ufb01\u0301", "\ufb01\u0301\u0301", "e\u0301 o\u0308 n\u0303\u0323", "\u00e9\u0323",
         "\u2460\u0308", "\u1e9b\u0323", "\u0958\u0301", "\uff76\uff9e", "\u30ab\u3099", "\u0e33\u0e33", "\u0e01\u0e33", "\u1100\u1161\u11a8", "\u3131\u314f",
         "\u00a8", "\u0344", "\u2126\u212b", "\u0600\u00bd", "\u00ad", "\u0001\u0002", "\u00bd\r\n\u00bd", "\u2122\u001eg",
         "\uff21\uff22\uff23 \uff11\uff12 \uff5f", "\uff1c/s\uff1e", "\u338f \u33c2 \ufdfa", "\u4e09\u6c34 \u6771\u4eac\u2e85", "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea\U0001f1eb",
         "\U0001f600\U0001f600 \u2603\u2603the\u2603", "<unk>", "\u2603<unk>\u2603", "the<unk>", "<0x41><0xFF>", "``the'' people''", "H\u0130 \u01c5 \u00df \u1e9e",
         "a<extra_id_0>b <extra_id_1> ", "<pad></s><s>[CLS][SEP][MASK]<mask>", "the </s> people", "the<mask> people", "  <mask>  the", "\u0000the\u0000",
         "\ud7b0\u1112", "caf\u00e9 na\u00efve CAF\u00c9", "1,234.56", "a" * 40, "the " * 30, " \u0301", "\u0301", "<sep>the<sep>people", "people<sep>"]
# A digit that `tokenizers` does not know yet is left out.
STRINGS = EXTRA + [text for text in TEXTS if len(text) < 80 and "\U0001fbf9" not in text][::4]
PAIRS = [("the people", "of the world"), ("", "the"), ("\u2603", ""), ("a </s> b", "\u00bd\u0301"), (" one", "two ")]

spm = model_pb2.ModelProto()
spm.ParseFromString((DATA / "spm_unigram" / "spm.model").read_bytes())
CHARSMAP = spm.normalizer_spec.precompiled_charsmap
PIECES = [(piece.piece, piece.score) for piece in spm.pieces if piece.type == 1]
TABLE = normalizers.Precompiled(CHARSMAP)
KEPT_TABLE = "charsmap"


def described(tokenizer):
    description = json.loads(tokenizer.to_str())
    normalizer = description["normalizer"] or {}
    for stage in normalizer.get("normalizers", [normalizer]):
        if stage.get("type") == "Precompiled":
            assert base64.b64decode(stage["precompiled_charsmap"]) == CHARSMAP
            stage["precompiled_charsmap"] = KEPT_TABLE
    return description


def case(name, tokenizer, has_offsets=False):
    rows = []
    for text in STRINGS:
        encoding = tokenizer.encode(text, add_special_tokens=False)
        special = tokenizer.encode(text).ids
        rows.append({"text": text, "ids": encoding.ids, "ids_special": special,
                     "decode": tokenizer.decode(encoding.ids, skip_special_tokens=False),
                     "decode_skip": tokenizer.decode(special, skip_special_tokens=True)})
        # Where the table removes a character, the reference's offsets slip.
        if has_offsets and all(TABLE.normalize_str(character) for character in text):
            rows[-1]["offsets"] = encoding.offsets
    pairs = []
    for first, second in PAIRS:
        encoding = tokenizer.encode(first, second)
        pairs.append({"first": first, "second": second, "ids": encoding.ids, "type_ids": encoding.type_ids})
    return {"name": name, "tokenizer": described(tokenizer), "rows": rows, "pairs": pairs}


def saved(tokenizer):
    """What save_pretrained writes."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return Tokenizer.from_file(folder + "/tokenizer.json")


def t5():
    extra = [(f"<extra_id_{i}>", 0.0) for i in range(2, -1, -1)]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)] + PIECES + extra
    return saved(T5Tokenizer(vocab=vocab, _spm_precompiled_charsmap=CHARSMAP, extra_ids=3))


def with_duplicates():
    """As one becomes whose sentencepiece model has the extra tokens already."""
    extra = [(f"<extra_id_{i}>", 0.0) for i in range(2, -1, -1)]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)] + PIECES[:400] + extra + PIECES[300:] + extra
    return saved(T5Tokenizer(vocab=vocab, _spm_precompiled_charsmap=CHARSMAP, extra_ids=3))


def xlm_roberta():
    vocab = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)] + PIECES + [("<mask>", 0.0)]
    return saved(XLMRobertaTokenizer(vocab=vocab, _spm_precompiled_charsmap=CHARSMAP))


def albert(**options):
    vocab = [(token, 0.0) for token in ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")] + PIECES
    return saved(AlbertTokenizer(vocab=vocab, _spm_precompiled_charsmap=CHARSMAP, **options))


def converted(scheme):
    """As convert_slow_tokenizer makes them of most sentencepiece models."""
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)] + PIECES, 0, False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Precompiled(CHARSMAP), normalizers.Strip(left=False, right=True),
                                                 normalizers.Replace(Regex(" {2,}"), "\u2581")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    tokenizer.add_tokens([AddedToken("<s>", normalized=False, special=True), AddedToken("</s>", normalized=False, special=True)])
    return tokenizer


def like_sentencepiece(without_byte=None):
    """As transformers makes them of a model with byte fallback and pieces of the user's."""
    vocab = [("<unk>", 0.0)] + [(f"<0x{byte:02X}>", 0.0) for byte in range(256) if byte != without_byte] + PIECES + [("<sep>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(vocab, 0, True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Precompiled(CHARSMAP), normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " "),
         normalizers.Replace(" ", "\u2581"), normalizers.Replace(Regex("\\A\u2581"), "\u2581\u2581")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always", split=False), pre_tokenizers.Split(Regex(re.escape("<sep>")), "isolated")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer


def trained():
    """By `tokenizers` itself: scores are doubles, and there is no table."""
    tokenizer = SentencePieceUnigramTokenizer()
    tokenizer.train_from_iterator([text for text in TEXTS if len(text) < 500 and max(text, default="") < "\u0250"], vocab_size=500, show_progress=False, unk_token="<unk>",
                                  special_tokens=["<unk>", "<s>"])
    return Tokenizer.from_str(tokenizer.to_str())


def byte_level():
    tokenizer = Tokenizer(models.Unigram([("<unk>", -1.0), ("\u0120the", -1.5)] + [(c, -3.0) for c in pre_tokenizers.ByteLevel.alphabet()], 0))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


CASES = [case("t5", t5(), True), case("with_duplicates", with_duplicates()), case("xlm_roberta", xlm_roberta(), True), case("albert", albert(), True),
         case("albert_keeping_accents", albert(keep_accents=True, do_lower_case=False), True),
         case("converted_first", converted("first"), True), case("converted_always", converted("always")),
         case("like_sentencepiece", like_sentencepiece()), case("without_a_byte", like_sentencepiece(0x98)), case("trained", trained()),
         case("byte_level", byte_level())]
with lzma.open(DATA / "unigram.json.xz", "wt", preset=9 | lzma.PRESET_EXTREME, encoding="ascii") as file:
    json.dump({KEPT_TABLE: base64.b64encode(CHARSMAP).decode(), "cases": CASES}, file, separators=(",", ":"))
print(len(CASES), "tokenizers,", len(STRINGS), "strings")
