#!/usr/bin/env python3
"""RWKV-6 of random weights in the `rwkv` package (strategy 'cpu fp32' or 'cpu bf16'): `make FILE` writes the checkpoint,
`prefill` and `decode` time one sequence of random ids. Prints one JSON object.
"""

import argparse
import json
import os
import time

LAYERS, WIDTH, HEAD, FFN, VOCABULARY, MIX_RANK, DECAY_RANK = 24, 1024, 64, 3584, 65536, 32, 64  # about 0.46 B weights
WARM_UP_TOKENS = 8


def make(path: str) -> None:
    """Official names and shapes (BlinkDL/rwkv-6-world) in BF16, as those files are."""
    import torch

    generator = torch.Generator().manual_seed(1)
    weights = {}

    def add(name: str, *shape: int, scale: float, offset: float = 0.0) -> None:
        weights[name] = (offset + scale * torch.randn(*shape, generator=generator)).to(torch.bfloat16)

    def add_norm(name: str) -> None:
        add(name + ".weight", WIDTH, scale=0.1, offset=1.0)
        add(name + ".bias", WIDTH, scale=0.1)

    add("emb.weight", VOCABULARY, WIDTH, scale=0.5)
    for layer in range(LAYERS):
        block = f"blocks.{layer}."
        for norm in (["ln0"] if layer == 0 else []) + ["ln1", "ln2", "att.ln_x"]:
            add_norm(block + norm)
        for name in ("att.time_maa_x", *(f"att.time_maa_{part}" for part in "wkvrg"), "ffn.time_maa_k", "ffn.time_maa_r"):
            add(block + name, 1, 1, WIDTH, scale=0.2, offset=0.5)
        add(block + "att.time_maa_w1", WIDTH, 5 * MIX_RANK, scale=0.01)
        add(block + "att.time_maa_w2", 5, MIX_RANK, WIDTH, scale=0.1)
        add(block + "att.time_decay", 1, 1, WIDTH, scale=1.0, offset=-3.0)
        add(block + "att.time_decay_w1", WIDTH, DECAY_RANK, scale=0.01)
        add(block + "att.time_decay_w2", DECAY_RANK, WIDTH, scale=0.1)
        add(block + "att.time_faaaa", WIDTH // HEAD, HEAD, scale=0.5)
        for name in ("receptance", "key", "value", "gate", "output"):
            add(block + f"att.{name}.weight", WIDTH, WIDTH, scale=WIDTH**-0.5)
        add(block + "ffn.key.weight", FFN, WIDTH, scale=WIDTH**-0.5)
        add(block + "ffn.receptance.weight", WIDTH, WIDTH, scale=WIDTH**-0.5)
        add(block + "ffn.value.weight", WIDTH, FFN, scale=FFN**-0.5)
    add_norm("ln_out")
    add("head.weight", VOCABULARY, WIDTH, scale=WIDTH**-0.5)
    torch.save(weights, path + ".part")
    os.replace(path + ".part", path)


def load(options: argparse.Namespace):
    os.environ["RWKV_JIT_ON"] = "1"
    os.environ["RWKV_CUDA_ON"] = "0"
    import torch
    from rwkv.model import RWKV

    torch.set_num_threads(options.threads)
    strategy = {"f32": "cpu fp32", "bf16": "cpu bf16"}[options.dtype]
    model = RWKV(options.model, strategy, verbose=False)
    generator = torch.Generator().manual_seed(1)
    return model, torch.randint(1, VOCABULARY, (options.prompt_tokens,), generator=generator).tolist()


def prefill_seconds(options: argparse.Namespace) -> float:
    model, ids = load(options)
    model.forward(ids[:64], None)
    begin = time.perf_counter()
    logits, _ = model.forward(ids, None)
    logits.argmax().item()
    return time.perf_counter() - begin


def decode_seconds(options: argparse.Namespace) -> float:
    model, ids = load(options)

    def run(num_steps: int) -> float:
        logits, state = model.forward(ids, None)
        begin = time.perf_counter()
        for _ in range(num_steps):
            logits, state = model.forward([logits.argmax().item()], state)
        return time.perf_counter() - begin

    run(WARM_UP_TOKENS)
    return run(options.new_tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["make", "prefill", "decode"])
    parser.add_argument("model", help="the .pth file")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=128)
    options = parser.parse_args()
    if options.kind == "make":
        make(options.model)
        return
    import torch

    with torch.inference_mode():
        if options.kind == "prefill":
            tokens, seconds = options.prompt_tokens, prefill_seconds(options)
        else:
            tokens, seconds = options.new_tokens, decode_seconds(options)
    print(json.dumps({"value": tokens / seconds, "unit": "tokens/s"}))


if __name__ == "__main__":
    main()
