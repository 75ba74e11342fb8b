#!/usr/bin/env python3
"""Times sentence vectors (mean pooling, length 1) of random ids in another program: torch, onnxruntime, openvino, ctranslate2.

All texts have one length and nothing is padded, so that no program needs a mask: the best case for each. Texts per batch, and
how threads are shared among batches where the program lets one choose, are tried out first; the fastest is timed. Prints one
JSON object: tokens a second (median) and the way that was chosen.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable

BATCHES = (4, 16, 32)  # of 1 to 64 the fastest were among these


def sentence_model(folder: str):
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    class SentenceModel(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = transformers.AutoModel.from_pretrained(folder, attn_implementation="sdpa", add_pooling_layer=False)

        def forward(self, input_ids):
            hidden = self.encoder(input_ids=input_ids).last_hidden_state
            return torch.nn.functional.normalize(hidden.mean(1), dim=-1)

    return SentenceModel().eval()


def onnx_file(folder: str) -> str:
    """The model in ONNX, exported at the first call and kept beside the weights."""
    path = pathlib.Path(folder) / "peers" / "model.onnx"
    if not path.exists():
        import torch

        path.parent.mkdir(exist_ok=True)
        dims = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens")}
        ids = torch.zeros((2, 16), dtype=torch.int64)
        program = torch.onnx.export(
            sentence_model(folder), (ids,), input_names=["input_ids"], dynamic_shapes=({**dims},), dynamo=True, optimize=True
        )
        program.save(str(path), external_data=False)
    return str(path)


def batches_of(ids, size: int) -> list:
    return [ids[begin : begin + size] for begin in range(0, len(ids), size)]


# Each gives its ways to encode: name → function from all ids to their vectors.


def torch_ways(options: argparse.Namespace) -> dict[str, Callable]:
    import numpy
    import torch

    torch.set_num_threads(options.threads)
    model = sentence_model(options.model).to(torch.bfloat16 if options.dtype == "bf16" else torch.float32)
    if options.program == "torch-compiled":
        model = torch.compile(model)

    def encode(ids, size):
        with torch.inference_mode():
            return numpy.concatenate([model(torch.from_numpy(batch)).float().numpy() for batch in batches_of(ids, size)])

    return {f"batches of {size}": lambda ids, size=size: encode(ids, size) for size in BATCHES}


def onnxruntime_ways(options: argparse.Namespace) -> dict[str, Callable]:
    import numpy
    import onnxruntime

    if options.dtype != "f32":
        raise SystemExit("onnxruntime computes in f32 on processors")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    session = onnxruntime.InferenceSession(onnx_file(options.model), settings, providers=["CPUExecutionProvider"])

    def encode(ids, size):
        return numpy.concatenate([session.run(None, {"input_ids": batch})[0] for batch in batches_of(ids, size)])

    return {f"batches of {size}": lambda ids, size=size: encode(ids, size) for size in BATCHES}


def openvino_ways(options: argparse.Namespace) -> dict[str, Callable]:
    import numpy
    import openvino

    core = openvino.Core()

    def way(num_streams: int, size: int) -> Callable:
        model = core.read_model(onnx_file(options.model))
        model.reshape([size, options.length])  # fixed shapes are its fastest
        settings = {
            "INFERENCE_PRECISION_HINT": options.dtype,
            "INFERENCE_NUM_THREADS": options.threads,
            "NUM_STREAMS": num_streams,
        }
        queue = openvino.AsyncInferQueue(core.compile_model(model, "CPU", settings), num_streams)
        vectors = {}
        queue.set_callback(lambda request, index: vectors.__setitem__(index, request.get_output_tensor().data.copy()))

        def encode(ids):
            for index, batch in enumerate(batches_of(ids, size)):
                queue.start_async({0: batch}, index)
            queue.wait_all()
            return numpy.concatenate([vectors[index] for index in sorted(vectors)])

        return encode

    return {
        f"batches of {size}, {num_streams} streams": way(num_streams, size)
        for size in BATCHES
        for num_streams in (1, options.threads)
    }


def ctranslate2_ways(options: argparse.Namespace) -> dict[str, Callable]:
    import ctranslate2
    import numpy

    folder = pathlib.Path(options.model) / "peers" / "ctranslate2"
    if not folder.exists():
        ctranslate2.converters.TransformersConverter(options.model).convert(str(folder))
    kind = {"f32": "float32", "bf16": "bfloat16"}[options.dtype]

    def way(workers: int, size: int) -> Callable:
        encoder = ctranslate2.Encoder(str(folder), compute_type=kind, inter_threads=workers, intra_threads=options.threads // workers)

        def vectors_of(batch):
            output = encoder.forward_batch(batch.tolist())
            hidden = numpy.array(output.last_hidden_state.to(ctranslate2.DataType.float32)).mean(1)
            return hidden / numpy.linalg.norm(hidden, axis=-1, keepdims=True)

        def encode(ids):
            if workers == 1:
                return numpy.concatenate([vectors_of(batch) for batch in batches_of(ids, size)])
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(workers) as pool:
                return numpy.concatenate(list(pool.map(vectors_of, batches_of(ids, size))))

        return encode

    return {f"batches of {size}, {workers} workers": way(workers, size) for size in BATCHES for workers in (1, options.threads)}


PROGRAMS = {
    "torch-eager": torch_ways,
    "torch-compiled": torch_ways,
    "onnxruntime": onnxruntime_ways,
    "openvino": openvino_ways,
    "ctranslate2": ctranslate2_ways,
}


def seconds_of(way: Callable, ids) -> float:
    begin = time.perf_counter()
    way(ids)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("--model", required=True, help="a folder with config.json and model.safetensors")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--check", action="store_true", help="compares the vectors with torch's in f32 as well")
    options = parser.parse_args()

    import numpy

    ids = numpy.random.default_rng(1).integers(1000, 30000, (options.texts, options.length))
    ways = PROGRAMS[options.program](options)
    tried = {}
    for name, way in ways.items():
        way(ids)  # compiles, fills caches
        tried[name] = min(seconds_of(way, ids) for _ in range(2))
    best = min(tried, key=tried.get)
    median = statistics.median(seconds_of(ways[best], ids) for _ in range(options.repetitions))
    result = {"value": options.texts * options.length / median, "unit": "tokens/s", "way": best}
    if options.check:
        import torch

        with torch.inference_mode():
            expected = sentence_model(options.model)(torch.from_numpy(ids)).numpy()
        result["largest_difference"] = float(numpy.abs(ways[best](ids) - expected).max())
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
