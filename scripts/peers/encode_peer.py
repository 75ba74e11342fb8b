#!/usr/bin/env python3
"""Times sentence vectors (mean pooling, length 1) in another program: torch, onnxruntime, openvino, ctranslate2.

With --text of the texts of a file, a text a line, tokenised as part of the run; batches are of like length and padded. Else of
random ids: all texts have one length and nothing is padded, so that no program needs a mask, the best case for each. Texts per
batch, and how threads are shared among batches where the program lets one choose, are tried out first; the fastest is timed.
Prints one JSON object: tokens a second (median, padding not counted) and the way that was chosen.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable

import numpy

BATCHES = (4, 16, 32)  # of 1 to 64 the fastest were among these


@dataclasses.dataclass
class Batch:
    rows: numpy.ndarray  # places of its texts in the file
    ids: numpy.ndarray  # [texts, tokens]
    mask: numpy.ndarray | None  # 1: a token, 0: padding; None: no padding anywhere
    lengths: list[int]


class RandomTexts:
    """Texts of random ids, all of one length."""

    is_padded = False

    def __init__(self, texts: int, length: int):
        self.ids = numpy.random.default_rng(1).integers(1000, 30000, (texts, length))
        self.longest = length
        self.num_tokens = texts * length

    def batches(self, size: int, length: int | None = None) -> list[Batch]:
        places = numpy.arange(len(self.ids))
        cut = [places[begin : begin + size] for begin in range(0, len(places), size)]
        return [Batch(rows, self.ids[rows], None, [self.longest] * len(rows)) for rows in cut]


class TextFile:
    """Texts of a file, a text a line; tokenised anew by every call of batches()."""

    is_padded = True

    def __init__(self, path: str, folder: str):
        import tokenizers

        self.lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
        self.tokenizer = tokenizers.Tokenizer.from_file(str(pathlib.Path(folder) / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        lengths = [len(ids) for ids in self.token_ids()]
        self.longest, self.num_tokens = max(lengths), sum(lengths)

    def token_ids(self) -> list[list[int]]:
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(self.lines)]

    def batches(self, size: int, length: int | None = None) -> list[Batch]:
        """Of texts of like length, padded to the longest of the batch, or all to `length`."""
        ids = self.token_ids()
        order = sorted(range(len(ids)), key=lambda place: -len(ids[place]))
        made = []
        for begin in range(0, len(order), size):
            rows = order[begin : begin + size]
            lengths = [len(ids[row]) for row in rows]
            padded = numpy.zeros((len(rows), length or max(lengths)), dtype=numpy.int64)
            for i, row in enumerate(rows):
                padded[i, : lengths[i]] = ids[row]
            mask = (numpy.arange(padded.shape[1])[None, :] < numpy.array(lengths)[:, None]).astype(numpy.int64)
            made.append(Batch(numpy.array(rows), padded, mask, lengths))
        return made


Texts = RandomTexts | TextFile


def in_order(batches: list[Batch], vectors: list[numpy.ndarray]) -> numpy.ndarray:
    result = numpy.empty((sum(len(batch.rows) for batch in batches), vectors[0].shape[1]), dtype=numpy.float32)
    for batch, values in zip(batches, vectors):
        result[batch.rows] = values
    return result


def sentence_model(folder: str):
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    class SentenceModel(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = transformers.AutoModel.from_pretrained(folder, attn_implementation="sdpa", add_pooling_layer=False)

        def forward(self, input_ids, attention_mask=None):
            hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            if attention_mask is None:
                return torch.nn.functional.normalize(hidden.mean(1), dim=-1)
            weights = attention_mask[:, :, None].to(hidden.dtype)
            return torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)

    return SentenceModel().eval()


def torch_vectors(model, batch: Batch) -> numpy.ndarray:
    import torch

    mask = None if batch.mask is None else torch.from_numpy(batch.mask)
    with torch.inference_mode():
        return model(torch.from_numpy(batch.ids), mask).float().numpy()


def input_names(is_padded: bool) -> list[str]:
    return ["input_ids", "attention_mask"] if is_padded else ["input_ids"]


def onnx_file(folder: str, is_padded: bool) -> str:
    """The model in ONNX, exported at the first call and kept beside the weights."""
    path = pathlib.Path(folder) / "peers" / ("model_with_mask.onnx" if is_padded else "model.onnx")
    if not path.exists():
        import torch

        path.parent.mkdir(exist_ok=True)
        dims = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens")}
        names = input_names(is_padded)
        inputs = tuple(torch.ones((2, 16), dtype=torch.int64) for _ in names)
        program = torch.onnx.export(
            sentence_model(folder), inputs, input_names=names, dynamic_shapes=tuple({**dims} for _ in names), dynamo=True, optimize=True
        )
        program.save(str(path), external_data=False)
    return str(path)


def onnx_inputs(batch: Batch) -> dict[str, numpy.ndarray]:
    return dict(zip(input_names(batch.mask is not None), (batch.ids, batch.mask)))


# Each gives its ways to encode: name → function that gives the vectors of all texts.


def torch_ways(options: argparse.Namespace, texts: Texts) -> dict[str, Callable]:
    import torch

    torch.set_num_threads(options.threads)
    model = sentence_model(options.model).to(torch.bfloat16 if options.dtype == "bf16" else torch.float32)
    if options.program == "torch-compiled":
        model = torch.compile(model, dynamic=texts.is_padded)

    def encode(size):
        batches = texts.batches(size)
        return in_order(batches, [torch_vectors(model, batch) for batch in batches])

    return {f"batches of {size}": lambda size=size: encode(size) for size in BATCHES}


def onnxruntime_ways(options: argparse.Namespace, texts: Texts) -> dict[str, Callable]:
    import onnxruntime

    if options.dtype != "f32":
        raise SystemExit("onnxruntime computes in f32 on processors")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    model = onnx_file(options.model, texts.is_padded)
    session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])

    def encode(size):
        batches = texts.batches(size)
        return in_order(batches, [session.run(None, onnx_inputs(batch))[0] for batch in batches])

    return {f"batches of {size}": lambda size=size: encode(size) for size in BATCHES}


def openvino_ways(options: argparse.Namespace, texts: Texts) -> dict[str, Callable]:
    import openvino

    core = openvino.Core()

    def way(num_streams: int, size: int, length: int | None) -> Callable:
        """With a length every batch is padded to it: fixed shapes are its fastest."""
        model = core.read_model(onnx_file(options.model, texts.is_padded))
        if length is not None:
            model.reshape({name: [size, length] for name in input_names(texts.is_padded)})
        settings = {
            "INFERENCE_PRECISION_HINT": options.dtype,
            "INFERENCE_NUM_THREADS": options.threads,
            "NUM_STREAMS": num_streams,
        }
        queue = openvino.AsyncInferQueue(core.compile_model(model, "CPU", settings), num_streams)
        vectors = {}
        queue.set_callback(lambda request, index: vectors.__setitem__(index, request.get_output_tensor().data.copy()))

        def encode():
            batches = texts.batches(size, length)
            for index, batch in enumerate(batches):
                queue.start_async(onnx_inputs(batch), index)
            queue.wait_all()
            return in_order(batches, [vectors[index] for index in range(len(batches))])

        return encode

    ways = {}
    for size in BATCHES:
        for num_streams in (1, options.threads):
            for length in (texts.longest, None) if texts.is_padded else (texts.longest,):
                shape = f"{size} x {length}" if length else f"{size}"
                ways[f"batches of {shape}, {num_streams} streams"] = way(num_streams, size, length)
    return ways


def ctranslate2_ways(options: argparse.Namespace, texts: Texts) -> dict[str, Callable]:
    import ctranslate2

    folder = pathlib.Path(options.model) / "peers" / "ctranslate2"
    if not folder.exists():
        ctranslate2.converters.TransformersConverter(options.model).convert(str(folder))
    kind = {"f32": "float32", "bf16": "bfloat16"}[options.dtype]

    def way(workers: int, size: int) -> Callable:
        encoder = ctranslate2.Encoder(str(folder), compute_type=kind, inter_threads=workers, intra_threads=options.threads // workers)

        def vectors_of(batch: Batch):
            rows = [ids[:length] for ids, length in zip(batch.ids.tolist(), batch.lengths)]
            hidden = numpy.array(encoder.forward_batch(rows).last_hidden_state.to(ctranslate2.DataType.float32))
            if batch.mask is None:
                hidden = hidden.mean(1)
            else:
                hidden = numpy.einsum("btw,bt->bw", hidden, batch.mask.astype(numpy.float32))
            return hidden / numpy.linalg.norm(hidden, axis=-1, keepdims=True)

        def encode():
            batches = texts.batches(size)
            if workers == 1:
                return in_order(batches, [vectors_of(batch) for batch in batches])
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(workers) as pool:
                return in_order(batches, list(pool.map(vectors_of, batches)))

        return encode

    return {f"batches of {size}, {workers} workers": way(workers, size) for size in BATCHES for workers in (1, options.threads)}


PROGRAMS = {
    "torch-eager": torch_ways,
    "torch-compiled": torch_ways,
    "onnxruntime": onnxruntime_ways,
    "openvino": openvino_ways,
    "ctranslate2": ctranslate2_ways,
}


def seconds_of(way: Callable) -> float:
    begin = time.perf_counter()
    way()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("--model", required=True, help="a folder with config.json, tokenizer.json and model.safetensors")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--text", help="a file with a text a line")
    parser.add_argument("--batch", type=int, default=256, help="texts of random ids")
    parser.add_argument("--sequence", type=int, default=32, help="ids of each of them")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--check", action="store_true", help="compares the vectors with torch's in f32 as well")
    options = parser.parse_args()

    texts = TextFile(options.text, options.model) if options.text else RandomTexts(options.batch, options.sequence)
    ways = PROGRAMS[options.program](options, texts)
    tried = {}
    for name, way in ways.items():
        way()  # compiles, fills caches
        tried[name] = min(seconds_of(way) for _ in range(2))
    best = min(tried, key=tried.get)
    median = statistics.median(seconds_of(ways[best]) for _ in range(options.repetitions))
    result = {"value": texts.num_tokens / median, "unit": "tokens/s", "way": best}
    if options.check:
        model = sentence_model(options.model)
        batches = texts.batches(16)
        expected = in_order(batches, [torch_vectors(model, batch) for batch in batches])
        result["largest_difference"] = float(numpy.abs(ways[best]() - expected).max())
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
