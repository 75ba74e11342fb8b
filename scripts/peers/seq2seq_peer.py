#!/usr/bin/env python3
"""Times T5's generation, encoder included, in another program: ctranslate2 or torch (eager), greedy or with beams.

All sources have one length, and exactly so many tokens are generated: no end is taken before. Prints one JSON object: new
tokens a second (median), of each answer one beam's.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable


# Each gives a function from sources (rows of ids) to the ids of the answers.


def torch_way(options: argparse.Namespace) -> Callable:
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    dtype = torch.bfloat16 if options.dtype == "bf16" else torch.float32
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(options.model, dtype=dtype).eval()

    def generate(sources) -> list[list[int]]:
        ids = torch.from_numpy(sources)
        with torch.inference_mode():
            answers = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                num_beams=options.beams,
                do_sample=False,
                min_new_tokens=options.new_tokens,
                max_new_tokens=options.new_tokens,
            )
        return answers[:, 1:].tolist()  # without the start

    return generate


def ctranslate2_way(options: argparse.Namespace) -> Callable:
    import ctranslate2

    folder = pathlib.Path(options.model) / "peers" / "ctranslate2"
    if not folder.exists():
        ctranslate2.converters.TransformersConverter(options.model).convert(str(folder))
    kind = options.compute_type or {"f32": "float32", "bf16": "bfloat16"}[options.dtype]
    if kind not in ctranslate2.get_supported_compute_types("cpu"):
        raise SystemExit(f"ctranslate2 does not compute in {kind} on this processor")
    translator = ctranslate2.Translator(str(folder), compute_type=kind, inter_threads=1, intra_threads=options.threads)
    words = json.loads((folder / "shared_vocabulary.json").read_text(encoding="utf-8"))
    index = {word: id_ for id_, word in enumerate(words)}

    def generate(sources) -> list[list[int]]:
        results = translator.translate_batch(
            [[words[id_] for id_ in row] for row in sources],
            beam_size=options.beams,
            min_decoding_length=options.new_tokens,
            max_decoding_length=options.new_tokens,
            return_end_token=False,
        )
        return [[index[word] for word in result.hypotheses[0]] for result in results]

    return generate


PROGRAMS = {"torch-eager": torch_way, "ctranslate2": ctranslate2_way}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("--model", required=True, help="a folder of scripts/make_random_t5.py")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--compute-type", default="", help="ctranslate2's, where it is not the dtype's")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--source", type=int, default=64, help="tokens")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--beams", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--show", action="store_true", help="prints the ids of the first answer as well")
    options = parser.parse_args()

    import numpy

    generate = PROGRAMS[options.program](options)
    random = numpy.random.default_rng(1)
    tokens = options.batch * options.new_tokens
    speeds = []
    for repetition in range(options.repetitions + 2):
        sources = random.integers(1000, 30000, (options.batch, options.source))
        begin = time.perf_counter()
        answers = generate(sources)
        seconds = time.perf_counter() - begin
        lengths = {len(answer) for answer in answers}
        if lengths != {options.new_tokens}:
            raise SystemExit(f"answers of {sorted(lengths)} tokens instead of {options.new_tokens}")
        if repetition >= 2:  # those before fill caches
            speeds.append(tokens / seconds)
    result = {"value": statistics.median(speeds), "unit": "tokens/s", "values": speeds}
    if options.show:
        result["source"] = sources[0].tolist()
        result["answer"] = answers[0]
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
