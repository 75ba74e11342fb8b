#!/usr/bin/env python3
"""Holds what `weft train` and `weft merge` leave against PEFT and transformers; scripts/check_finetune.sh calls it."""

import argparse
import json
import pathlib
import subprocess
import sys

PROMPTS = ["A computer is", "The first law of", "Love is", "Never trust", "In the beginning the Universe was created"]
NEW_TOKENS = 32


def held_out_losses(run: str) -> list[float]:
    lines = [json.loads(line) for line in (pathlib.Path(run) / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["type"] == "evaluation"]


def check_loss(runs: list[str]) -> bool:
    passed = True
    for run in runs:
        losses = held_out_losses(run)
        passed &= len(losses) >= 2 and losses[-1] < losses[0]
        print(f"{pathlib.Path(run).name}: held-out loss {losses[0]:.4f} before, {losses[-1]:.4f} after")
    return passed


def weft_continuations(weft: str, prompts: list[list[int]], model: str, *more: str) -> list[list[int]]:
    command = [weft, "generate", "--model", model, "--dtype", "f32", "--ids", "--ignore-end", "--quiet", *more]
    command += ["--max-new-tokens", str(NEW_TOKENS)]
    for prompt in prompts:
        command += ["--prompt", " ".join(map(str, prompt))]
    answers = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [[int(word) for word in answer.split()] for answer in answers if answer.strip()]


def reference_continuations(model, prompts: list[list[int]]) -> list[list[int]]:
    import torch

    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS,
                                  min_new_tokens=NEW_TOKENS, do_sample=False, repetition_penalty=1.0, pad_token_id=0)
        answers.append(made[0, len(prompt):].tolist())
    return answers


def check_continuations(options: argparse.Namespace) -> bool:
    import peft
    import torch
    import transformers

    transformers.logging.set_verbosity_error()

    def load(folder: str):
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    tokenizer = transformers.AutoTokenizer.from_pretrained(options.base)
    prompts = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    cases = [
        ("adapter in PEFT", lambda: peft.PeftModel.from_pretrained(load(options.base), options.adapter).eval(),
         [options.base, "--adapter", options.adapter]),
        ("merged weights in transformers", lambda: load(options.merged), [options.merged]),
        ("fully tuned weights in transformers", lambda: load(options.full), [options.full]),
    ]
    passed = True
    for name, make, arguments in cases:
        theirs = reference_continuations(make(), prompts)
        ours = weft_continuations(options.weft, prompts, *arguments)
        equal = sum(a == b for a, b in zip(ours, theirs))
        passed &= len(ours) == len(theirs) == equal
        print(f"{name}: {equal} of {len(prompts)} continuations of {NEW_TOKENS} tokens are equal")
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("loss").add_argument("runs", nargs="+")
    continuations = commands.add_parser("continuations")
    for name in ("weft", "base", "adapter", "merged", "full"):
        continuations.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    return 0 if (check_loss(options.runs) if options.command == "loss" else check_continuations(options)) else 1


if __name__ == "__main__":
    sys.exit(main())
