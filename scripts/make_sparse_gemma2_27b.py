#!/usr/bin/env python3
"""Makes a sparse checkpoint of Gemma2-27B's exact shape: 54 GB that take a few MB of disk.

    scripts/make_sparse_gemma2_27b.py FOLDER [--layers 46] [--shards 12]

For measuring how a model of that size is loaded (weft bench load --as-rank 3/8): names, shapes, shards, index and
config.json are those of the real one, in BF16 safetensors; the values are holes in the files and read as zeros.
"""

import argparse
import json
import struct
from pathlib import Path

HIDDEN_SIZE = 4608
NUM_HEADS = 32
NUM_KV_HEADS = 16
HEAD_DIM = 128
INTERMEDIATE_SIZE = 36864
VOCAB_SIZE = 256000
BYTES_OF_BF16 = 2


def layer_tensors(layer):
    """The (name, shape) pairs of one layer; linear weights are [out, in]."""
    attention, mlp = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
    yield f"{attention}.q_proj.weight", [NUM_HEADS * HEAD_DIM, HIDDEN_SIZE]
    yield f"{attention}.k_proj.weight", [NUM_KV_HEADS * HEAD_DIM, HIDDEN_SIZE]
    yield f"{attention}.v_proj.weight", [NUM_KV_HEADS * HEAD_DIM, HIDDEN_SIZE]
    yield f"{attention}.o_proj.weight", [HIDDEN_SIZE, NUM_HEADS * HEAD_DIM]
    yield f"{mlp}.gate_proj.weight", [INTERMEDIATE_SIZE, HIDDEN_SIZE]
    yield f"{mlp}.up_proj.weight", [INTERMEDIATE_SIZE, HIDDEN_SIZE]
    yield f"{mlp}.down_proj.weight", [HIDDEN_SIZE, INTERMEDIATE_SIZE]
    for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
        yield f"model.layers.{layer}.{norm}_layernorm.weight", [HIDDEN_SIZE]


def model_tensors(num_layers):
    yield "model.embed_tokens.weight", [VOCAB_SIZE, HIDDEN_SIZE]
    for layer in range(num_layers):
        yield from layer_tensors(layer)
    yield "model.norm.weight", [HIDDEN_SIZE]


def num_bytes(shape):
    count = BYTES_OF_BF16
    for size in shape:
        count *= size
    return count


def split_into_shards(tensors, num_shards):
    """Consecutive tensors, each shard closed once its share of the bytes is reached."""
    total = sum(num_bytes(shape) for _, shape in tensors)
    shards, done = [[]], 0
    for name, shape in tensors:
        if done >= total * len(shards) / num_shards:
            shards.append([])
        shards[-1].append((name, shape))
        done += num_bytes(shape)
    return shards


def write_shard(path, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors:
        end = offset + num_bytes(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)


def write_config(path, num_layers):
    config = {
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": 50.0,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "final_logit_softcapping": 30.0,
        "head_dim": HEAD_DIM,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": HIDDEN_SIZE,
        "initializer_range": 0.02,
        "intermediate_size": INTERMEDIATE_SIZE,
        "max_position_embeddings": 8192,
        "num_attention_heads": NUM_HEADS,
        "num_hidden_layers": num_layers,
        "num_key_value_heads": NUM_KV_HEADS,
        "pad_token_id": 0,
        "query_pre_attn_scalar": 144,
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": VOCAB_SIZE,
    }
    path.write_text(json.dumps(config, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=46)
    parser.add_argument("--shards", type=int, default=12)
    arguments = parser.parse_args()
    if arguments.layers < 1 or arguments.shards < 1:
        parser.error("--layers and --shards are at least 1")

    arguments.folder.mkdir(parents=True, exist_ok=True)
    tensors = list(model_tensors(arguments.layers))
    shards = split_into_shards(tensors, arguments.shards)
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_shard(arguments.folder / name, shard)
        weight_map.update((tensor, name) for tensor, _ in shard)
    total = sum(num_bytes(shape) for _, shape in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (arguments.folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    write_config(arguments.folder / "config.json", arguments.layers)
    print(f"{arguments.folder}: {len(tensors)} tensors, {total / 1e9:.1f} GB in {len(shards)} sparse files")


if __name__ == "__main__":
    main()
