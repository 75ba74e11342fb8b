#!/usr/bin/env python3
"""Makes quantised.gguf, *.h5 and expected.txt of this folder with the reference implementations.

Needs: pip install numpy h5py gguf. The other files (hf-*, seed-*) were written by transformers and by Keras; expected.txt
holds one line a tensor: file, tensor, CRC-32 of its values as little-endian float32.
"""

import json
import struct
import zlib
from pathlib import Path

import gguf
import h5py
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import quants

FOLDER = Path(__file__).parent
QUANTISED = [Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.Q4_K, Type.Q5_K, Type.Q6_K]
# Byte positions of the half-precision scales in a block.
SCALES = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0],
    Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208],
}


def random_blocks(rng, kind, rows, columns):
    """Random bytes with finite scales: every bit of a block takes both values."""
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows * columns // block, block_bytes), dtype=np.uint8)
    for position in SCALES[kind]:
        scales = rng.normal(0, 0.1, len(blocks)).astype(np.float16)
        blocks[:, position:position + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)


def gguf_tensors(rng):
    """Name -> (stored array, type, float32 values)."""
    tensors = {}
    values = rng.normal(0, 1, (3, 512)).astype(np.float32)
    tensors["plain.f32"] = (values, None, values)
    tensors["plain.f16"] = (values.astype(np.float16), None, values.astype(np.float16).astype(np.float32))
    tensors["plain.f64"] = (values.astype(np.float64), None, values)
    bf16 = quants.quantize(values, Type.BF16)
    tensors["plain.bf16"] = (bf16, Type.BF16, quants.dequantize(bf16, Type.BF16))
    tensors["plain.vector"] = (values[0, :7].copy(), None, values[0, :7])
    cube = rng.normal(0, 1, (2, 3, 4, 5)).astype(np.float32)
    tensors["plain.cube"] = (cube, None, cube)
    for kind in QUANTISED:
        stored = {"random": random_blocks(rng, kind, 3, 512)}
        try:
            stored["real"] = quants.quantize(values, kind)
        except NotImplementedError:
            pass
        for name, data in stored.items():
            tensors[f"{name}.{kind.name}"] = (data, kind, quants.dequantize(data, kind))
    return tensors


def write_gguf(tensors):
    writer = gguf.GGUFWriter(str(FOLDER / "quantised.gguf"), "llama")
    writer.add_uint8("test.u8", 200)
    writer.add_int8("test.i8", -5)
    writer.add_uint16("test.u16", 60000)
    writer.add_int16("test.i16", -300)
    writer.add_uint32("test.u32", 4000000000)
    writer.add_int32("test.i32", -70000)
    writer.add_uint64("test.u64", 1 << 40)
    writer.add_int64("test.i64", -(1 << 40))
    writer.add_float32("test.f32", 0.5)
    writer.add_float64("test.f64", 0.1)
    writer.add_bool("test.bool", True)
    writer.add_string("test.string", "grüße")
    writer.add_array("test.strings", ["a", "", "ccc"])
    writer.add_array("test.ints", [1, -2, 3])
    writer.add_array("test.floats", [0.25, -4.0])
    writer.add_array("test.bools", [True, False, True])
    for name, (data, kind, _) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_hdf5():
    with h5py.File(FOLDER / "kinds.h5", "w") as file:
        file.attrs["text"] = "variable grüße"
        file.attrs["fixed"] = np.bytes_("fixed")
        file.attrs["integer"] = -7
        file.attrs["fraction"] = 0.25
        file.attrs["integers"] = np.array([1, 2, 3], np.int32)
        file.attrs["fractions"] = np.array([0.5, 1.5], np.float32)
        file.attrs["flag"] = True
        file.attrs["texts"] = ["left", "out"]
        group = file.create_group("deep/deeper")
        group.attrs["name"] = "group attribute"
        values = np.arange(-3, 9).reshape(3, 4)
        for kind in ("f2", "f4", "f8", "i4", "i8"):
            group[kind] = values.astype("<" + kind)
        group["u1"] = np.arange(5, dtype=np.uint8)
        group["flags"] = np.array([True, False, True])
        group["scalar"] = np.float32(2.5)
        group["empty"] = np.zeros((0, 3), np.float32)
        group.create_dataset("unwritten", (4,), "<f4")
        bf16 = group.create_dataset("bf16", (2, 2), np.dtype("V2"))
        bf16[...] = np.frombuffer(struct.pack("<4H", 0x3F80, 0xBF80, 0x4000, 0x3E80), "V2").reshape(2, 2)
        bf16.attrs["dtype"] = "bfloat16"
        group["opaque"] = np.frombuffer(b"abcd", "V2")
        group["left_out_i2"] = np.zeros(3, "<i2")
        group["left_out_big_endian"] = np.zeros(3, ">f4")
        group["left_out_text"] = "text"
        file["soft"] = h5py.SoftLink("/deep/deeper/f4")
        file["external"] = h5py.ExternalLink("other.h5", "/x")
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_layout(h5py.h5d.COMPACT)
        compact = h5py.h5d.create(group.id, b"compact", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((3,)), properties)
        compact.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array([1, 2, 3], np.float32))
    with h5py.File(FOLDER / "chunked.h5", "w") as file:
        file.create_dataset("layers/dense/vars/0", data=np.zeros((64, 64), np.float32), chunks=(8, 8), compression="gzip")
    with h5py.File(FOLDER / "cycle.h5", "w") as file:
        file.create_group("a")["again"] = file["/"]
        file["a"]["once_more"] = file["/a"]
    with h5py.File(FOLDER / "keras2.weights.h5", "w") as file:
        file["_layer_checkpoint_dependencies/dense/vars/0"] = np.arange(6, dtype=np.float32).reshape(2, 3)
        file["_layer_checkpoint_dependencies/dense/vars/1"] = np.arange(3, dtype=np.float32)


def safetensors_values(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    for name, entry in json.loads(data[8:8 + length]).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(data[begin:end], "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(data[begin:end], {"F32": "<f4", "F16": "<f2", "I64": "<i8"}[entry["dtype"]])
        yield name, values


def hdf5_values(path):
    found = []

    def visit(name, dataset):
        if not isinstance(dataset, h5py.Dataset):
            return
        values = dataset[()]
        if dataset.attrs.get("dtype") == "bfloat16":
            values = (np.frombuffer(values.tobytes(), "<u2").astype(np.uint32) << 16).view(np.float32)
        found.append((name, values))

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def main():
    tensors = gguf_tensors(np.random.default_rng(3))
    write_gguf(tensors)
    write_hdf5()
    lines = [("quantised.gguf", name, values) for name, (_, _, values) in tensors.items()]
    for path in sorted(FOLDER.glob("hf-*/*.safetensors")):
        lines += [(path.parent.name, *pair) for pair in safetensors_values(path)]
    for path in sorted(FOLDER.glob("seed-*/*.weights.h5")):
        lines += [(path.parent.name, *pair) for pair in hdf5_values(path)]
    with open(FOLDER / "expected.txt", "w") as out:
        for file, name, values in lines:
            crc = zlib.crc32(np.ascontiguousarray(values, "<f4").tobytes())
            out.write(f"{file} {name} {crc:08x}\n")


if __name__ == "__main__":
    main()
