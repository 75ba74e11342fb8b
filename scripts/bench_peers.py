#!/usr/bin/env python3
"""Measures Weft and its peers in turns and prints a table of medians and ratios; scripts/bench_peers.sh prepares it."""

import argparse
import dataclasses
import json
import os
import pathlib
import pydoc_data.topics
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

PROMPT = "The capital of France is"
THREADS = 2
PROMPT_TOKENS = 16  # of random ids, before the tokens that decode measures
NEW_TOKENS = 128
SEQ2SEQ_TOKENS = 64  # of each source and of each answer


# --- Python peers: this file runs itself as `bench_peers.py worker …`, a process a measurement ---------------------


def transformers_model(folder: str):
    import torch
    import transformers

    torch.set_num_threads(THREADS)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return torch, transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()


def worker_prefill(folder: str, prompt_tokens: int) -> dict:
    torch, model = transformers_model(folder)
    ids = torch.randint(100, model.config.vocab_size, (1, prompt_tokens), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        model(ids[:, :64], logits_to_keep=1)
        begin = time.perf_counter()
        model(ids, use_cache=True, logits_to_keep=1).logits[0, -1].argmax().item()
        seconds = time.perf_counter() - begin
    return {"value": prompt_tokens / seconds, "unit": "tokens/s"}


def worker_decode(folder: str, batch: int) -> dict:
    torch, model = transformers_model(folder)
    ids = torch.randint(100, model.config.vocab_size, (batch, PROMPT_TOKENS), generator=torch.Generator().manual_seed(1))

    def run(num_steps: int) -> float:
        out = model(ids, use_cache=True, logits_to_keep=1)
        begin = time.perf_counter()
        for _ in range(num_steps):
            token = out.logits[:, -1:].argmax(-1)
            out = model(token, past_key_values=out.past_key_values, use_cache=True)
        return time.perf_counter() - begin

    with torch.inference_mode():
        run(8)
        seconds = run(NEW_TOKENS)
    return {"value": batch * NEW_TOKENS / seconds, "unit": "tokens/s"}


def worker_answer(folder: str, new_tokens: int) -> None:
    torch, model = transformers_model(folder)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    out = None
    with torch.inference_mode():
        ids = torch.tensor([tokenizer.encode(PROMPT).ids])
        for _ in range(new_tokens):
            out = model(ids, past_key_values=out.past_key_values if out else None, use_cache=True, logits_to_keep=1)
            ids = out.logits[:, -1:].argmax(-1)
            print(tokenizer.decode(ids[0].tolist()), end="", flush=True)


def worker_tokenize(folder: str, text_file: str) -> dict:
    """The better of the whole text at once and a line at a time, on one thread."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    text = pathlib.Path(text_file).read_text(encoding="utf-8")
    best = 0.0
    for pieces in ([text], text.splitlines(keepends=True)):
        for _ in range(3):
            begin = time.perf_counter()
            for piece in pieces:
                tokenizer.encode(piece, add_special_tokens=False)
            best = max(best, len(text.encode()) / 1e6 / (time.perf_counter() - begin))
    return {"value": best, "unit": "MB/s"}


def run_worker(arguments: list[str]) -> None:
    kind, folder, parameter = arguments
    if kind == "answer":
        worker_answer(folder, int(parameter))
        return
    workers = {"prefill": worker_prefill, "decode": worker_decode, "tokenize": worker_tokenize}
    print(json.dumps(workers[kind](folder, parameter if kind == "tokenize" else int(parameter))))


# --- Measuring ------------------------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1"}


def run(command: list[str]) -> subprocess.CompletedProcess:
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment(), timeout=900)
    if result.returncode != 0:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"exit code {result.returncode}: {last}")
    return result


def json_line(command: list[str]) -> dict:
    """The JSON line that the command prints."""
    return json.loads(run(command).stdout.strip().splitlines()[-1])


def json_value(command: list[str]) -> float:
    return float(json_line(command)["value"])


class TrainingRuns:
    """Speed and memory of the same runs: what one measure ran, the next one reads."""

    def __init__(self):
        self._latest: dict[tuple[str, ...], dict] = {}

    def tokens_per_second(self, command: list[str]) -> float:
        self._latest[tuple(command)] = json_line(command)
        return float(self._latest[tuple(command)]["value"])

    def resident_mb(self, command: list[str]) -> float:
        line = self._latest.pop(tuple(command), None) or json_line(command)
        return float(line["peak_resident_bytes"]) / 1e6


def first_byte_ms(command: list[str]) -> float:
    """From the start of the process to the first byte it prints."""
    begin = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env=environment()
    ) as process:
        first = process.stdout.read(1)
        elapsed = time.perf_counter() - begin
        process.stdout.read()
    if not first:
        raise RuntimeError("printed nothing")
    return elapsed * 1e3


def peak_resident_mb(command: list[str]) -> float:
    """Of one process, measured in a process of its own, since the kernel keeps the largest of all children."""
    code = (
        "import resource, subprocess, sys;"
        "p = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss if p.returncode == 0 else sys.exit(1))"
    )
    return int(run([sys.executable, "-c", code, *command]).stdout) * 1024 / 1e6  # ru_maxrss is in KiB


@dataclasses.dataclass
class Measure:
    name: str
    unit: str
    larger_is_better: bool
    target: str  # what Weft aims at, in words
    measure: Callable[[list[str]], float]
    commands: dict[str, list[str]]  # program → command line
    programs: tuple[str, ...] = ("weft", "llama.cpp", "transformers", "tokenizers")  # columns of its table


def make_measures(options: argparse.Namespace) -> list[Measure]:
    gguf = str(options.cache / "smollm2-bf16.gguf")
    folder = str(options.cache / "smollm2-bf16-hf")
    llama = str(options.cache / "peers" / "llama_peer")
    worker = [sys.executable, os.path.abspath(__file__), "worker"]
    weft_flags = ["--model", gguf, "--threads", str(THREADS), "--dtype", "bf16"]
    text_file = write_text(options.cache / "peers" / "text.txt")

    def bench(kind: str, *flags: str) -> list[str]:
        return [options.weft, "bench", kind, *weft_flags, *flags, "--repetitions", "1", "--json"]

    def decode(batch: int) -> dict[str, list[str]]:
        return {
            "weft": bench("decode", "--batch", str(batch), "--prompt-tokens", str(PROMPT_TOKENS), "--new-tokens", str(NEW_TOKENS)),
            "llama.cpp": [llama, "decode", gguf, str(THREADS), str(batch), str(PROMPT_TOKENS), str(NEW_TOKENS)],
            "transformers": [*worker, "decode", folder, str(batch)],
        }

    def prefill(length: int) -> dict[str, list[str]]:
        return {
            "weft": bench("prefill", "--prompt-tokens", str(length)),
            "llama.cpp": [llama, "prefill", gguf, str(THREADS), str(length)],
            "transformers": [*worker, "prefill", folder, str(length)],
        }

    def answer(new_tokens: int) -> dict[str, list[str]]:
        count = str(new_tokens)
        weft = [options.weft, "generate", *weft_flags, "--raw", "--greedy", "--ignore-end", "--max-new-tokens", count]
        return {
            "weft": [*weft, "--prompt", PROMPT],
            "llama.cpp": [llama, "answer", gguf, str(THREADS), count, PROMPT],
            "transformers": [*worker, "answer", folder, count],
        }

    tokenize = {
        "weft": [options.weft, "bench", "tokenize", "--model", folder, "--text", text_file, "--repetitions", "3", "--json"],
        "tokenizers": [*worker, "tokenize", folder, text_file],
    }
    rate = "tokens/s"
    return [
        Measure("decode, batch 1", rate, True, ">= llama.cpp", json_value, decode(1)),
        Measure("decode, batch 8", rate, True, ">= 1.3 x llama.cpp", json_value, decode(8)),
        Measure("prefill, 512 tokens", rate, True, ">= the faster peer", json_value, prefill(512)),
        Measure("prefill, 2048 tokens", rate, True, ">= the faster peer", json_value, prefill(2048)),
        Measure("peak resident memory", "MB", False, "<= 1.2 x llama.cpp", peak_resident_mb, answer(NEW_TOKENS)),
        Measure("first token from process start", "ms", False, "<= 1.5 x llama.cpp", first_byte_ms, answer(1)),
        Measure("tokenize, one thread", "MB/s", True, ">= 8 x tokenizers", json_value, tokenize),
    ]


TRAINING_PROGRAMS = ("weft", "torch eager", "torch compiled")
# Name, flags of weft bench train, flags of train_peer.py. With masters: f32 weights beside bf16 products.
TRAINING_KINDS = [
    ("full, bf16, f32 masters", ["--dtype", "bf16"], ["--precision", "autocast"]),
    ("full, bf16, no masters", ["--dtype", "bf16", "--no-masters"], ["--precision", "bf16"]),
    ("full, f32", ["--dtype", "f32"], ["--precision", "f32"]),
    ("LoRA, bf16", ["--dtype", "bf16", "--lora", "8"], ["--precision", "bf16", "--lora", "8"]),
    ("LoRA, f32", ["--dtype", "f32", "--lora", "8"], ["--precision", "f32", "--lora", "8"]),
]


def make_training_measures(options: argparse.Namespace) -> list[Measure]:
    """Steps of 4 x 256 random tokens, and the largest resident memory of the same runs."""
    folder = str(options.cache / "smollm2-bf16-hf")
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers", "train_peer.py")
    shape = ["--model", folder, "--batch", "4", "--sequence", "256", "--threads", str(THREADS)]
    runs = TrainingRuns()
    measures = []
    for kind, weft_flags, torch_flags in TRAINING_KINDS:
        torch = [sys.executable, script, *shape, *torch_flags]
        programs = {
            "weft": [options.weft, "bench", "train", *shape, *weft_flags, "--json"],
            "torch eager": torch,
            "torch compiled": [*torch, "--compile"],
        }
        name = f"train, {kind}"
        speed_aim, memory_aim = ">= 1.2 x the faster peer", "< either peer"
        measures += [
            Measure(name, "tokens/s", True, speed_aim, runs.tokens_per_second, programs, TRAINING_PROGRAMS),
            Measure(f"{name}: memory", "MB", False, memory_aim, runs.resident_mb, programs, TRAINING_PROGRAMS),
        ]
    return measures


ENCODING_PROGRAMS = ("weft", "torch eager", "torch compiled", "onnxruntime", "openvino", "ctranslate2")
BF16_ENCODING_PROGRAMS = ("weft", "torch eager", "torch compiled", "openvino")  # the others compute in f32 on processors


ENCODING_SHAPES = ((256, 32), (64, 256))  # texts, tokens of each


def write_texts(cache: pathlib.Path) -> dict[int, str]:
    """Length → file with those aphorisms of Debian's package fortunes whose lengths in tokens are nearest to it, a line each."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(cache / "minilm" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    files = sorted((cache / "fortunes-labelled").glob("fortunes-*.jsonl"))
    texts = list(dict.fromkeys(json.loads(line)["text"] for file in files for line in file.open(encoding="utf-8")))
    lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch(texts)]
    written = {}
    for count, length in ENCODING_SHAPES:
        # Every second of twice as many: their lengths spread as those of sentences do.
        nearest = sorted(range(len(texts)), key=lambda i: abs(lengths[i] - length))[: 2 * count : 2]
        path = cache / "peers" / f"texts_{length}.txt"
        path.write_text("".join(texts[i] + "\n" for i in sorted(nearest)), encoding="utf-8")
        written[length] = str(path)
    return written


def make_encoding_measures(options: argparse.Namespace) -> list[Measure]:
    """Sentence vectors by all-MiniLM-L6-v2: of texts with their tokenisation, and of random ids that all have one length."""
    folder = str(options.cache / "minilm")
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers", "encode_peer.py")
    files = write_texts(options.cache)
    measures = []
    for dtype, columns in (("f32", ENCODING_PROGRAMS), ("bf16", BF16_ENCODING_PROGRAMS)):
        for texts, length in ENCODING_SHAPES:
            kinds = {
                f"encode, {texts} texts of about {length} tokens, {dtype}": ["--text", files[length]],
                f"encode, {texts} x {length} ids, {dtype}": ["--batch", str(texts), "--sequence", str(length)],
            }
            for name, work in kinds.items():
                flags = ["--model", folder, "--dtype", dtype, "--threads", str(THREADS), *work]
                programs = {name: [sys.executable, script, name.replace(" ", "-"), *flags] for name in columns if name != "weft"}
                programs["weft"] = [options.weft, "bench", "encode", *flags, "--json"]
                measures.append(Measure(name, "tokens/s", True, ">= the fastest peer", json_value, programs, columns))
    return measures


SEQ2SEQ_PROGRAMS = ("weft", "torch eager", "ctranslate2")


def make_seq2seq_measures(options: argparse.Namespace) -> list[Measure]:
    """Answers of a T5 of Flan-T5-small's shape to random ids, the encoder included. On processors ctranslate2 has no bf16: there
    it computes in f32."""
    folder = str(options.cache / "flan-t5-small-random")
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers", "seq2seq_peer.py")
    measures = []
    for dtype in ("f32", "bf16"):
        for batch in (1, 8):
            for beams in (1, 4):
                shape = ["--model", folder, "--batch", str(batch), "--beams", str(beams), "--new-tokens", str(SEQ2SEQ_TOKENS)]
                shape += ["--source", str(SEQ2SEQ_TOKENS), "--threads", str(THREADS)]
                programs = {
                    "weft": [options.weft, "bench", "seq2seq", *shape, "--dtype", dtype, "--json"],
                    "torch eager": [sys.executable, script, "torch-eager", *shape, "--dtype", dtype],
                    "ctranslate2": [sys.executable, script, "ctranslate2", *shape],
                }
                kind = "greedy" if beams == 1 else f"{beams} beams"
                name = f"seq2seq, {kind}, batch {batch}, {dtype}"
                measures.append(Measure(name, "tokens/s", True, ">= ctranslate2", json_value, programs, SEQ2SEQ_PROGRAMS))
    return measures


RWKV_PROGRAMS = ("weft", "rwkv")


def make_rwkv_measures(options: argparse.Namespace) -> list[Measure]:
    """RWKV-6 of random weights in the shape of a model of 0.4 B."""
    checkpoint = str(options.cache / "rwkv6.pth")
    peer = [sys.executable, "-W", "ignore", os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers", "rwkv_peer.py")]
    measures = []
    for dtype in ("f32", "bf16"):
        flags = ["--dtype", dtype, "--threads", str(THREADS)]
        weft = [options.weft, "bench"]
        runs = ["--model", checkpoint, *flags, "--repetitions", "1", "--json"]
        decoded = ["--prompt-tokens", str(PROMPT_TOKENS), "--new-tokens", str(NEW_TOKENS)]
        prompt = ["--prompt-tokens", "1024"]
        for kind, name, shape in (("decode", "decode", decoded), ("prefill", "prefill, 1024 tokens", prompt)):
            commands = {
                "weft": [*weft, kind, *runs, *shape],
                "rwkv": [*peer, kind, checkpoint, *flags, *shape],
            }
            measures.append(Measure(f"rwkv6 {name}, {dtype}", "tokens/s", True, ">= rwkv", json_value, commands, RWKV_PROGRAMS))
    return measures


def write_text(path: pathlib.Path) -> str:
    """English prose with some code, about 0.7 MB, nothing repeated: the language reference that Python carries."""
    path.write_text("\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)), encoding="utf-8")
    return str(path)


def run_rounds(measures: list[Measure], rounds: int) -> tuple[dict, dict]:
    values: dict[tuple[str, str], list[float]] = {}
    failures: dict[tuple[str, str], str] = {}
    total = rounds * sum(len(measure.commands) for measure in measures)
    done = 0
    for _ in range(rounds):
        for measure in measures:
            for program, command in measure.commands.items():
                done += 1
                show_progress(done, total, f"{measure.name}: {program}")
                if (measure.name, program) in failures:
                    continue
                try:
                    values.setdefault((measure.name, program), []).append(measure.measure(command))
                except (RuntimeError, OSError, ValueError, KeyError, IndexError, subprocess.TimeoutExpired) as error:
                    failures[measure.name, program] = str(error)
    show_progress(total, total, "done")
    return values, failures


def show_progress(done: int, total: int, what: str) -> None:
    if sys.stderr.isatty():
        bar = "#" * (20 * done // total)
        print(f"\r\033[K[{done}/{total}] {bar:<20} {what}", end="\n" if what == "done" else "", file=sys.stderr, flush=True)


# --- Report ---------------------------------------------------------------------------------------------------------


def ratio_to_best_peer(measure: Measure, medians: dict[str, float]) -> str:
    peers = {program: value for program, value in medians.items() if program != "weft"}
    if "weft" not in medians or not peers:
        return "-"
    best = (max if measure.larger_is_better else min)(peers, key=peers.get)
    return f"{medians['weft'] / peers[best]:.2f} x {best}"


def make_report(measures: list[Measure], values: dict, failures: dict, rounds: int) -> dict:
    rows = []
    for measure in measures:
        programs = {}
        for program, command in measure.commands.items():
            found = values.get((measure.name, program), [])
            programs[program] = {"values": found, "command": " ".join(command)}
            if found:
                programs[program]["median"] = statistics.median(found)
            if (measure.name, program) in failures:
                programs[program]["error"] = failures[measure.name, program]
        rows.append({"name": measure.name, "unit": measure.unit, "target": measure.target, "programs": programs})
    return {"machine": machine(), "versions": versions(), "threads": THREADS, "rounds": rounds, "rows": rows}


def machine() -> dict:
    processor = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    return {"processor": processor, "cores": os.cpu_count(), "kernel": platform.release(), "load_before": os.getloadavg()[0]}


def versions() -> dict[str, str]:
    import importlib.metadata

    names = ("llama-cpp-python", "torch", "transformers", "tokenizers", "peft", "onnxruntime", "openvino", "ctranslate2", "rwkv")
    return {name: importlib.metadata.version(name) for name in names}


def table(measures: list[Measure], rows: list[dict]) -> list[str]:
    programs = measures[0].programs
    lines = [
        "| | unit | " + " | ".join(programs) + " | Weft to the best peer | aim |",
        "| --- | --- |" + " ---: |" * len(programs) + " ---: | --- |",
    ]
    for measure, row in zip(measures, rows):
        medians = {program: entry["median"] for program, entry in row["programs"].items() if "median" in entry}
        cells = [f"{medians[program]:.4g}" if program in medians else "-" for program in programs]
        cells = [row["name"], row["unit"], *cells, ratio_to_best_peer(measure, medians), row["target"]]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def markdown(report: dict, measures: list[Measure]) -> str:
    lines = [
        f"{report['machine']['processor']}, {THREADS} threads, SmolLM2-135M-Instruct in BF16 (encode:",
        "all-MiniLM-L6-v2; seq2seq: Flan-T5-small's shape; rwkv6: random weights), medians",
        f"of {report['rounds']} rounds taking turns; load before: {report['machine']['load_before']:.1f};",
        ", ".join(f"{name} {version}" for name, version in report["versions"].items()) + ".",
    ]
    for programs in dict.fromkeys(measure.programs for measure in measures):
        chosen = [index for index, measure in enumerate(measures) if measure.programs == programs]
        lines += ["", *table([measures[index] for index in chosen], [report["rows"][index] for index in chosen])]
    for row in report["rows"]:
        for program, entry in row["programs"].items():
            if "error" in entry:
                lines.append(f"\n{row['name']}, {program}: {entry['error']}")
    return "\n".join(lines) + "\n"


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        run_worker(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weft", required=True)
    parser.add_argument("--cache", type=pathlib.Path, required=True)
    parser.add_argument("--out", help="writes NAME.json and NAME.md")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="measures whose name contains this")
    parser.add_argument("--peers-only", action="store_true", help="leaves Weft out")
    options = parser.parse_args()
    measures = [*make_measures(options), *make_training_measures(options), *make_encoding_measures(options)]
    measures += [*make_seq2seq_measures(options), *make_rwkv_measures(options)]
    measures = [measure for measure in measures if options.only in measure.name]
    if options.peers_only:
        for measure in measures:
            del measure.commands["weft"]
    values, failures = run_rounds(measures, options.rounds)
    report = make_report(measures, values, failures, options.rounds)
    text = markdown(report, measures)
    print(text, end="")
    if options.out:
        pathlib.Path(options.out + ".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        pathlib.Path(options.out + ".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
