#!/usr/bin/env bash
# Fetches pairs of English words and their pronunciations, made of Debian's package dict-freedict-eng-deu, with what a
# small T5 that learns them from random weights needs:
#   train.jsonl, test.jsonl     every twentieth word is for the test
#   config.json, spiece.model   the model's shape and a tokenizer of single characters (by pip's sentencepiece)
# Writes them to ${XDG_CACHE_HOME:-~/.cache}/weft/pronunciations/ and prints that folder. A second run does nothing.
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/weft
out=$cache/pronunciations

mkdir -p "$cache"
if [[ ! -s $out/config.json ]]; then
  scratch=$(mktemp -d "$cache/fetch.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  (cd "$scratch" && apt-get download dict-freedict-eng-deu >&2 && dpkg-deb -x dict-freedict-eng-deu_*.deb .)
  python3 -m venv "$scratch/venv" >&2
  "$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check sentencepiece >&2
  mkdir -p "$scratch/out"
  "$scratch/venv/bin/python" - "$scratch/usr/share/dictd/freedict-eng-deu.dict.dz" "$scratch/out" <<'PYTHON'
import gzip, json, pathlib, random, re, sys

import sentencepiece

out = pathlib.Path(sys.argv[2])
text = gzip.open(sys.argv[1]).read().decode("utf-8")
found = re.findall(r"^([a-z]{2,20}) /([^/\s]+)/", text, re.MULTILINE)
words = sorted(dict(reversed(found)).items())
random.Random(0).shuffle(words)
for part, chosen in (("train", [w for i, w in enumerate(words) if i % 20]), ("test", words[::20])):
    with open(out / f"{part}.jsonl", "w", encoding="utf-8") as file:
        for word, sounds in chosen:
            print(json.dumps({"prompt": word, "completion": sounds}, ensure_ascii=False), file=file)
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter([part for pair in words for part in pair]),
    model_prefix=str(out / "spiece"), model_type="char", vocab_size=128, hard_vocab_limit=False, character_coverage=1.0,
    pad_id=0, eos_id=1, unk_id=2, bos_id=-1, add_dummy_prefix=False, minloglevel=2)
(out / "spiece.vocab").unlink()
config = {
    "model_type": "t5", "vocab_size": 128, "d_model": 192, "d_kv": 32, "num_heads": 6, "d_ff": 512, "num_layers": 3,
    "num_decoder_layers": 3, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-6, "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
    "decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0, "architectures": ["T5ForConditionalGeneration"]}
(out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
print(f"{len(words)} words", file=sys.stderr)
PYTHON
  mkdir -p "$out"
  mv "$scratch"/out/* "$out"/
fi
echo "$out"
