#!/usr/bin/env python3
"""Beam searches by Hugging Face transformers, for beam_golden_test.cpp: its generate(num_beams=…, do_sample=False) on the
tiny checkpoints of the golden files, decoders and encoder-decoders.

    python3 make_beam_golden.py --decoders ../data/hf --encoder-decoders GOLDEN/hf > ../data/beam/golden.json

Needs numpy, torch, h5py and transformers 5. Each prompt is searched alone, and again in f64: a case whose answers f32
decides by rounding ends the program. Every model's logits are compared with its golden file first. That matters for
untied T5 checkpoints: transformers 5.23 multiplied the decoder's output of umt5 by d_model**-0.5 (hf5_logit_factor of the
golden file); where a config says tie_word_embeddings false, scale_decoder_outputs is set false here.
"""
import argparse
import json
import pathlib
import re
import sys

import h5py
import numpy as np
import torch
import transformers

DECODERS = ["llama_gqa", "llama31_rope", "qwen2", "gemma", "gemma2"]
ENCODER_DECODERS = ["t5_v10", "t5_v11", "mt5", "umt5"]
PROMPT_LENGTHS = [7, 1, 19]
NEW_TOKENS = 14

# num_ends: how many ids of the case's list end an answer.
SETTINGS = [
    {"num_beams": 4, "length_penalty": 1.0, "early_stopping": False, "num_results": 4, "num_ends": 2},
    {"num_beams": 4, "length_penalty": 1.0, "early_stopping": True, "num_results": 2, "num_ends": 2},
    {"num_beams": 4, "length_penalty": 2.0, "early_stopping": "never", "num_results": 4, "num_ends": 3},
    {"num_beams": 3, "length_penalty": 0.0, "early_stopping": "never", "num_results": 3, "num_ends": 1},
    {"num_beams": 3, "length_penalty": -1.0, "early_stopping": False, "num_results": 3, "num_ends": 3},
    {"num_beams": 2, "length_penalty": 0.5, "early_stopping": True, "num_results": 1, "num_ends": 4},
    {"num_beams": 6, "length_penalty": 1.0, "early_stopping": False, "num_results": 6, "num_ends": 0},
    {"num_beams": 4, "length_penalty": 1.0, "early_stopping": False, "num_results": 3, "num_ends": 3,
     "min_new_tokens": 6, "penalty": 1.3, "forbidden_ids": [5, 9]},
]


def load(folder, dtype):
    config = transformers.AutoConfig.from_pretrained(folder)
    stored = json.loads((folder / "config.json").read_text())
    if stored.get("is_encoder_decoder") and stored["tie_word_embeddings"] is False:
        config.scale_decoder_outputs = False
    kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    model = kind.from_pretrained(folder, config=config, dtype=torch.float32, attn_implementation="eager").eval()
    model.generation_config = transformers.GenerationConfig(
        pad_token_id=0, decoder_start_token_id=0 if config.is_encoder_decoder else None)
    return model.to(dtype)


def check_logits(model, folder):
    with h5py.File(folder / "golden.h5") as golden:
        inputs = {name: torch.tensor(np.asarray(golden["inputs"][name]).astype(np.int64))
                  for name in ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")
                  if name in golden["inputs"]}
        expected = np.asarray(golden["outputs/logits"])
    with torch.no_grad():
        logits = model(**inputs).logits.numpy()
    mask = inputs.get("decoder_attention_mask", inputs["attention_mask"]).numpy().astype(bool)
    difference = np.abs(logits - expected)[mask].max()
    assert difference < 1e-3, f"{folder}: logits differ from the golden file's by {difference}"


def search(model, prompt, setting, end_ids, new_tokens=NEW_TOKENS):
    ids = torch.tensor([prompt])
    arguments = {
        "num_beams": setting["num_beams"],
        "length_penalty": setting["length_penalty"],
        "early_stopping": setting["early_stopping"],
        "num_return_sequences": setting["num_results"],
        "max_new_tokens": new_tokens,
        "eos_token_id": end_ids or None,
    }
    if "min_new_tokens" in setting:
        arguments["min_new_tokens"] = setting["min_new_tokens"]
    if "penalty" in setting:
        arguments["repetition_penalty"] = setting["penalty"]
    if "forbidden_ids" in setting:
        arguments["suppress_tokens"] = setting["forbidden_ids"]
    with torch.no_grad():
        found = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, output_scores=True,
                               return_dict_in_generate=True, **arguments)
    begin = 1 if model.config.is_encoder_decoder else len(prompt)
    results = []
    for row, score in zip(found.sequences[:, begin:].tolist(), found.sequences_scores.tolist()):
        end = next((place + 1 for place, token in enumerate(row) if token in end_ids), len(row))
        results.append({"ids": row[:end], "score": score})
    return results


def end_candidates(model, prompts):
    """Ids that come up on the way, so that answers end early, late and not at all."""
    seen = []
    for prompt in prompts:
        for result in search(model, prompt, SETTINGS[6], []):
            seen += [result["ids"][3], result["ids"][6], result["ids"][9]]
    order = sorted(set(seen), key=lambda token: (seen.count(token), token))
    return [order[i * (len(order) - 1) // 3] for i in range(4)]


def case_of(root, name, generator):
    folder = root / name
    model, precise = load(folder, torch.float32), load(folder, torch.float64)
    check_logits(model, folder)
    prompts = [generator.integers(10, model.config.vocab_size, length).tolist() for length in PROMPT_LENGTHS]
    ends = end_candidates(model, prompts)
    searches = []
    for setting in SETTINGS:
        end_ids = ends[:setting["num_ends"]]
        results = [search(model, prompt, setting, end_ids) for prompt in prompts]
        again = [search(precise, prompt, setting, end_ids) for prompt in prompts]
        for mine, other in zip(results, again):
            assert [r["ids"] for r in mine] == [r["ids"] for r in other], f"{name}: decided by rounding"
        stored = {key: value for key, value in setting.items() if key != "num_ends"}
        stored["early_stopping"] = {False: "no", True: "yes", "never": "never"}[setting["early_stopping"]]
        searches.append({**stored, "end_ids": end_ids, "results": results})
        lengths = [len(result["ids"]) for row in results for result in row]
        print(f"{name}: {stored} lengths {lengths}", file=sys.stderr)
    return {"model": name, "max_new_tokens": NEW_TOKENS, "prompts": prompts, "searches": searches}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decoders", type=pathlib.Path, required=True)
    parser.add_argument("--encoder-decoders", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = np.random.default_rng(20240)
    result = {
        "transformers": transformers.__version__,
        "decoders": [case_of(arguments.decoders, name, generator) for name in DECODERS],
        "encoder_decoders": [case_of(arguments.encoder_decoders, name, generator) for name in ENCODER_DECODERS],
    }
    text = json.dumps(result, indent=1)
    print(compact(text))


def compact(text):
    """Lists of numbers on one line."""
    return re.sub(r"\[[\s\d,.-]*\]", lambda match: " ".join(match.group().split()), text)


if __name__ == "__main__":
    main()
