#!/usr/bin/env python3
"""Makes BF16 versions of SmolLM2-135M-Instruct from its Q4_1 GGUF file, for comparing programs on equal weights.

    make_smollm2_bf16.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf --out-gguf smollm2-bf16.gguf --out-hf smollm2-bf16-hf

Every matrix is dequantised to float32 and rounded to bfloat16, once, so that the two outputs hold the same numbers.
The GGUF keeps llama.cpp's order of the rows of q and k (its rotary form turns neighbours); the Hugging Face folder has
them put back (its rotary form turns halves). The folder gets config.json, model.safetensors and the tokenizer.

Needs: numpy, gguf, tokenizers.
"""

import argparse
import json
import os
import struct

import gguf
import numpy as np
from gguf.quants import dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

HF_LEAF = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL_TOKEN = 3


def round_to_bf16(values: np.ndarray) -> np.ndarray:
    """float32 → bfloat16 bits, to nearest, ties to even (no NaN in trained weights)."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def hf_name(name: str) -> str:
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    _, layer, leaf, kind = name.split(".")
    return f"model.layers.{layer}.{HF_LEAF[leaf]}.{kind}"


def unpermute(rows: np.ndarray, num_heads: int) -> np.ndarray:
    half = rows.shape[0] // num_heads // 2
    return rows.reshape(num_heads, half, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def write_gguf(reader: gguf.GGUFReader, fields: dict, path: str) -> None:
    writer = gguf.GGUFWriter(path, arch=fields["general.architecture"])
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in ("general.architecture", "general.file_type"):
            continue
        element = field.types[1] if len(field.types) > 1 else None
        writer.add_key_value(key, field.contents(), field.types[0], sub_type=element)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if values.ndim == 1:  # llama.cpp's converter keeps norms in F32
            writer.add_tensor(tensor.name, values)
        else:
            bits = round_to_bf16(values)
            writer.add_tensor(tensor.name, bits.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_safetensors(reader: gguf.GGUFReader, fields: dict, path: str) -> None:
    heads = {"attn_q": fields["llama.attention.head_count"], "attn_k": fields["llama.attention.head_count_kv"]}
    tensors = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        leaf = tensor.name.split(".")[2] if tensor.name.startswith("blk.") else ""
        if leaf in heads:
            values = unpermute(values, heads[leaf])
        tensors[hf_name(tensor.name)] = round_to_bf16(values)
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, bits in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(bits.shape), "data_offsets": [end, end + bits.nbytes]}
        end += bits.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for bits in tensors.values():
            out.write(bits.tobytes())


def write_config(fields: dict, folder: str) -> None:
    heads = fields["llama.attention.head_count"]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": fields["llama.vocab_size"],
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "head_dim": fields["llama.embedding_length"] // heads,
        "hidden_act": "silu",
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": round(float(fields["llama.attention.layer_norm_rms_epsilon"]), 10),
        "rope_theta": float(fields["llama.rope.freq_base"]),
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
        "torch_dtype": "bfloat16",
    }
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as out:
        json.dump(config, out, indent=2)


def write_tokenizer(fields: dict, folder: str) -> None:
    """The pre-tokenizer that GGUF calls `smollm`: every digit alone, then GPT-2's splits."""
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, fuse_unk=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[fields["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[fields["tokenizer.ggml.eos_token_id"]],
        "pad_token": tokens[fields["tokenizer.ggml.padding_token_id"]],
        "unk_token": tokens[fields["tokenizer.ggml.unknown_token_id"]],
        "chat_template": fields["tokenizer.chat_template"],
        "model_max_length": fields["llama.context_length"],
    }
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as out:
        json.dump(tokenizer_config, out, indent=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--out-gguf", required=True)
    parser.add_argument("--out-hf", required=True)
    arguments = parser.parse_args()
    reader = gguf.GGUFReader(arguments.gguf)
    fields = {key: field.contents() for key, field in reader.fields.items()}
    # Last renamed, so that an interrupted run leaves nothing that looks finished.
    write_gguf(reader, fields, arguments.out_gguf + ".part")
    os.replace(arguments.out_gguf + ".part", arguments.out_gguf)
    os.makedirs(arguments.out_hf, exist_ok=True)
    write_config(fields, arguments.out_hf)
    write_tokenizer(fields, arguments.out_hf)
    weights = os.path.join(arguments.out_hf, "model.safetensors")
    write_safetensors(reader, fields, weights + ".part")
    os.replace(weights + ".part", weights)
    print(f"{arguments.out_gguf}: {os.path.getsize(arguments.out_gguf) / 1e6:.1f} MB")
    print(f"{weights}: {os.path.getsize(weights) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
