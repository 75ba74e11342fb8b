"""Makes tests/data/tokenizers/minilm_wordpiece/bert4keras.jsonl: what the Tokenizer of bert4keras3 makes of strings and pairs.

    python3 -m venv venv && venv/bin/pip install bert4keras3 keras==3.6 six
    venv/bin/python tests/tokenizer/make_bert4keras_golden.py [OUTPUT NUM_RANDOM]

A line: `text` (hex), `lower` (bool), `ids` with [CLS] and [SEP], `decoded` (hex), `spans` (characters, of ids without [CLS] and [SEP]; null
where the tokenizer's own rules shift them); or `first`, `second` (hex, null), `max_length`, `from` (right, left or an index), `ids`,
`segment_ids`.
"""
import importlib.util
import json
import pathlib
import random
import sys
import types
from unittest.mock import MagicMock

# The tokenizers need none of the package's layers, which want a deep learning framework.
package = types.ModuleType("bert4keras3")
package.__path__ = [str(pathlib.Path(importlib.util.find_spec("bert4keras3").origin).parent)]
sys.modules["bert4keras3"] = package
sys.modules["bert4keras3.backend"] = MagicMock()
from bert4keras3.tokenizers import Tokenizer  # noqa: E402

DATA = pathlib.Path(__file__).resolve().parents[1] / "data" / "tokenizers"
OUTPUT = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else DATA / "minilm_wordpiece" / "bert4keras.jsonl"
NUM_RANDOM = int(sys.argv[2]) if len(sys.argv) > 2 else 150
RANDOM = random.Random(5)
ALPHABETS = ["abcdeistn ", "ABCdeÉéİıßΣσΩΟ' .", "0123456789.,-+ ", "'remstvedll ", "中文字漢字カナ한글、。「」 ab", "()[]{}<>+-/=_&^% a1",
             "e\u0301a\u0308\u0327\u200b\u00ad\ufeff n", "\t\n\r\v\f\x00\x1c\x85\u2028\u2029\u3000\u00a0 x"]

EXTRA = ["i'll he'd they're it's 'm", "ab" * 50 + "c", "ab" * 100, "ab" * 100 + "c", "\U0002b850a\U0002b950b",
         "a".join(chr(point) for point in [*range(0x2010, 0x2030), *range(0x3000, 0x3040)]),
         "a".join(chr(point) for point in [0xB7, *range(0xFE4F, 0xFE57), *range(0xFF01, 0xFF10), *range(0xFF1A, 0xFF21)]),
         "a".join(chr(point) for point in [*range(0xFF3B, 0xFF41), *range(0xFF5B, 0xFF66)])]


def random_text():
    letters = RANDOM.choice(ALPHABETS + ["".join(ALPHABETS), None])
    length = RANDOM.randint(1, 40)
    if letters is None:
        points = [RANDOM.choice([RANDOM.randint(0, 0x2FF), RANDOM.randint(0, 0xFFFF), RANDOM.randint(0, 0x2FFFF)]) for _ in range(length)]
        return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)
    return "".join(RANDOM.choice(letters) for _ in range(length))


def to_hex(text):
    return text.encode().hex()


def spans(tokenizer, text, tokens):
    if "\u0130" in text:  # two characters in lower case, in which the tokenizer counts
        return None
    try:
        found = tokenizer.rematch(text, tokens)
    except ValueError:
        return None
    return [[piece[0], piece[-1] + 1] for piece in found] if all(found) else None


rows = []
strings = [bytes.fromhex(json.loads(line)["hex"]).decode() for line in open(DATA / "strings.jsonl")]
strings = [text for text in strings if len(text) < 120][:: 1 if len(sys.argv) > 2 else 3] + EXTRA + [random_text() for _ in range(NUM_RANDOM)]
for lower in (True, False):
    tokenizer = Tokenizer(str(DATA / "minilm_wordpiece" / "vocab.txt"), do_lower_case=lower)
    for text in strings:
        ids = tokenizer.encode(text)[0]
        rows.append({"text": to_hex(text), "lower": lower, "ids": ids, "decoded": to_hex(tokenizer.decode(ids)),
                     "spans": spans(tokenizer, text, tokenizer.tokenize(text)[1:-1])})
    if lower:
        texts = [text for text in strings if text.isascii()]
        for _ in range(NUM_RANDOM // 2):
            first, second = RANDOM.choice(texts), RANDOM.choice([None, RANDOM.choice(texts)])
            max_length = RANDOM.randint(3, 20)
            if len(tokenizer.encode(first, second)[0]) - max_length > 12:
                max_length = 0
            side = RANDOM.choice(["right", "left", 2, -3])
            try:
                ids, segments = tokenizer.encode(first, second, maxlen=max_length or None, truncate_from=side)
            except IndexError:  # the list is shorter than the index
                continue
            if ids[0] == 101 and ids[-1] == 102 and ids.count(102) == (1 if second is None else 2):
                rows.append({"first": to_hex(first), "second": None if second is None else to_hex(second), "max_length": max_length,
                             "from": side, "ids": ids, "segment_ids": segments})

OUTPUT.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))
print(len(rows), "rows")
