#!/usr/bin/env python3
"""bert4keras3 itself loads what `weft convert` writes for it, and computes the same.

    scripts/check_bert4keras.py                          the cases of tests/data/seed
    scripts/check_bert4keras.py FOLDER …                 a case each: config.json, model.weights.h5, golden.h5

Each model goes .weights.h5 -> safetensors -> .weights.h5 (straight, where transformers has no such model); bert4keras3 loads
the first file and the last one, and its outputs for the same inputs are compared. Run it with a Python that has bert4keras3 1.6.6, keras 3.6 and torch.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.setdefault("KERAS_BACKEND", "torch")

import h5py  # noqa: E402  (the backend is chosen before)
import numpy  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
WEFT = os.environ.get("WEFT", str(ROOT / "build/release/weft"))
# `weft convert` writes these families, and those of T5, for bert4keras3; it reads all.
FAMILIES = ("albert", "albert_unshared", "bert", "deberta", "electra", "gau", "gemma", "gemma2", "gpt", "gpt2", "gpt2_ml", "llama",
            "misakat5", "nezha", "qwen", "roberta", "roformer", "roformer_v2", "yi")


def convert(*arguments: str) -> None:
    subprocess.run([WEFT, "convert", "--quiet", *arguments], check=True, capture_output=True, text=True)


def outputs(call: str, folder: pathlib.Path, weights: pathlib.Path) -> list[numpy.ndarray]:
    from bert4keras3.models import build_transformer_model

    os.chdir(folder)
    built = eval(call, {"build_transformer_model": build_transformer_model})  # noqa: S307 (our own case files)
    model = getattr(built, "model", built)
    model.load_weights(str(weights))
    random = numpy.random.default_rng(1)
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    inputs = []
    for one in model.inputs:
        is_segment = "egment" in one.name
        inputs.append(random.integers(1, 2 if is_segment else vocabulary, (2, 9)).astype("int32") - int(is_segment))
    given = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    if isinstance(given, dict):
        given = list(given.values())
    given = given if isinstance(given, (list, tuple)) else [given]
    return [one.detach().cpu().numpy() for one in given]


def check(folder: pathlib.Path) -> float:
    """The largest difference of an output."""
    with h5py.File(folder / "golden.h5") as golden:
        call, options = golden.attrs["seed_call"], json.loads(golden.attrs["options"])
    family = call.split("model='")[1].split("'")[0]
    if not family.startswith(("t5", "mt5")) and family not in FAMILIES:
        raise NotImplementedError(f"weft convert does not write {family} for bert4keras3")
    with tempfile.TemporaryDirectory() as scratch:
        # What the call says beside the config is part of Weft's config.
        first, middle, last = f"{scratch}/first", f"{scratch}/safetensors", f"{scratch}/keras"
        os.mkdir(first)
        os.symlink(folder / "model.weights.h5", f"{first}/model.weights.h5")
        config = json.loads((folder / "config.json").read_text())
        pathlib.Path(first, "config.json").write_text(json.dumps(config | options))
        try:
            before = outputs(call, folder, folder / "model.weights.h5")
        except Exception as reason:  # noqa: BLE001
            raise NotImplementedError(f"bert4keras3 does not run it: {str(reason).strip().splitlines()[0]}") from reason
        try:
            convert("--model", first, "--family", family, "--to", "safetensors", "--out", middle)
            convert("--model", middle, "--to", "keras", "--out", last)
        except subprocess.CalledProcessError:
            convert("--model", first, "--family", family, "--to", "keras", "--out", last)
        written = next(pathlib.Path(last).glob("*.weights.h5"))
        after = outputs(call, folder, written)
    return max(float(numpy.abs(a - b).max()) for a, b in zip(before, after, strict=True))


def main() -> int:
    folders = [pathlib.Path(name).resolve() for name in sys.argv[1:]]
    bad = 0
    for folder in folders or sorted(path.parent for path in (ROOT / "tests/data/seed").glob("*/golden.h5")):
        try:
            difference = check(folder)
            bad += difference > 1e-5
            print(f"{folder.name}: {difference:.1e}", flush=True)
        except NotImplementedError as reason:
            print(f"{folder.name}: not checked, {reason}", flush=True)
        except subprocess.CalledProcessError as error:
            bad += 1
            print(f"{folder.name}: {error.stderr.strip()}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
