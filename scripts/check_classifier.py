#!/usr/bin/env python3
"""Accuracy of the classifier that `weft train` left, and of torch's by the same recipe; scripts/check_classifier.sh calls it."""

import argparse
import json
import math
import pathlib
import random
import sys

import torch
import transformers

EPOCHS, BATCH, LENGTH, LEARNING_RATE, WARMUP, WEIGHT_DECAY = 3, 32, 128, 1e-4, 20, 0.01


def read(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def tokenise(tokenizer, rows: list[dict]):
    texts = [row["text"] for row in rows]
    return tokenizer(texts, truncation=True, max_length=LENGTH, padding=True, return_tensors="pt")


def accuracy(model, tokenizer, rows: list[dict], labels: list[str]) -> float:
    model.eval()
    right = 0
    with torch.inference_mode():
        for begin in range(0, len(rows), 64):
            some = rows[begin : begin + 64]
            best = model(**tokenise(tokenizer, some)).logits.argmax(-1).tolist()
            right += sum(labels[index] == row["label"] for index, row in zip(best, some))
    return right / len(rows)


def train(folder: str, tokenizer, rows: list[dict], labels: list[str], seed: int):
    torch.manual_seed(seed)
    order = random.Random(seed)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=len(labels), classifier_dropout=0.1
    )
    steps = math.ceil(len(rows) * EPOCHS / BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, WARMUP, steps)
    indices = [index for _ in range(EPOCHS) for index in order.sample(range(len(rows)), len(rows))]
    model.train()
    for step in range(steps):
        some = [rows[index] for index in indices[step * BATCH : (step + 1) * BATCH]]
        targets = torch.tensor([labels.index(row["label"]) for row in some])
        model(**tokenise(tokenizer, some), labels=targets).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "data", "run"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1], help="of torch's runs")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(2)
    data, run = pathlib.Path(options.data), pathlib.Path(options.run)
    rows, held_out = read(data / "fortunes-train.jsonl"), read(data / "fortunes-test.jsonl")
    labels = sorted({row["label"] for row in rows})
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    evaluations = [line for line in read(run / "metrics.jsonl") if line["type"] == "evaluation"]
    ours = evaluations[-1]["metrics"]["accuracy"]
    saved = max((run / "checkpoints").glob("step-*"))
    reread = accuracy(transformers.AutoModelForSequenceClassification.from_pretrained(saved), tokenizer, held_out, labels)
    print(f"Weft: {ours:.4f}; the folder that it saved, in transformers: {reread:.4f}", flush=True)
    theirs = []
    for seed in options.seeds:
        theirs.append(accuracy(train(options.model, tokenizer, rows, labels, seed), tokenizer, held_out, labels))
        print(f"torch, seed {seed}: {theirs[-1]:.4f}", flush=True)
    # A text more or less is chance: a standard deviation is 1.6 % here.
    return 0 if ours >= min(theirs) - 0.016 and abs(ours - reread) < 2 / len(held_out) else 1


if __name__ == "__main__":
    sys.exit(main())
