#!/usr/bin/env python3
"""Times torch + transformers (+ peft) on a GPU: the peer of `weft bench --device cuda`. One JSON object a line.

    gpu_peer.py decode --config gemma2-2b.json [--compile]   greedy answers of one request: eager, CUDA graph, compiled
    gpu_peer.py lora --config llama3-8b.json                 steps of adapters on all linear layers
    gpu_peer.py full --config qwen2-1.5b.json                steps of all weights
    gpu_peer.py attention                                    scaled_dot_product_attention, forward and backward
    gpu_peer.py matmul                                       matrix products
    gpu_peer.py all --configs DIR [--limit 95]               all of these in one process, within so many seconds

scripts/gpu_check.sh calls `all` in its part `peers`, behind Weft's own benchmarks of the same run. Weights are random,
nothing is fetched. A part that fails prints an object with "error" and the others go on. --dry-run checks this file on
a machine without a GPU: sizes are divided by 16 and the numbers mean nothing.
"""

import argparse
import gc
import json
import math
import os
import pathlib
import signal
import statistics
import sys
import time

START = time.monotonic()
COMPILE_SECONDS = 40


class TimeUp(BaseException):
    """Not an Exception: the compiler's own handlers must not catch it."""


def raise_time_up(*_) -> None:
    raise TimeUp


def report(peer: str, **fields) -> None:
    rounded = {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in fields.items()}
    print(json.dumps({"peer": peer, **rounded}), flush=True)


def attempt(peer: str, seconds: float, run, **fields) -> bool:
    """Runs one measurement within so many seconds; what goes wrong becomes a line of its own."""
    message = None
    try:
        signal.setitimer(signal.ITIMER_REAL, max(1.0, seconds))
        run()
    except TimeUp:
        message = f"not done within {seconds:.0f} s"
    except Exception as error:  # noqa: BLE001: out of memory, a missing backend, a failed compilation
        message = f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if message is not None:
        report(peer, **fields, error=message)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return message is None


def left(options, most: float) -> float:
    return min(most, options.limit - (time.monotonic() - START))


def name_of(options) -> str:
    return pathlib.Path(options.config).stem


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(run, repetitions: int, rounds: int = 3) -> float:
    """Median over rounds of the mean seconds of one call, by events around all calls of a round."""
    run()
    run()
    values = []
    for _ in range(rounds):
        synchronize()
        begin = time.perf_counter()
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if torch.cuda.is_available() else []
        for event in events[:1]:
            event.record()
        for _ in range(repetitions):
            run()
        for event in events[1:]:
            event.record()
        synchronize()
        seconds = events[0].elapsed_time(events[1]) / 1e3 if events else time.perf_counter() - begin
        values.append(seconds / repetitions)
    return statistics.median(values)


def measure_bandwidth(options) -> float:
    """Bytes a second of the faster of a copy (read and written bytes) and a read (a sum)."""
    source = torch.ones(2**30 // options.divisor**2, dtype=torch.float32, device=options.device)
    target = torch.empty_like(source)
    size = source.numel() * source.element_size()
    copy = 2 * size / seconds_of(lambda: target.copy_(source), 3)
    read = size / seconds_of(lambda: source.sum(), 3)
    report("bandwidth", copy_bytes_per_second=copy, read_bytes_per_second=read)
    return max(copy, read)


def read_config(options, path: str):
    values = json.loads(pathlib.Path(path).read_text())
    if options.divisor > 1:
        values["num_hidden_layers"] = 2
        for key in ("hidden_size", "intermediate_size", "vocab_size", "head_dim", "query_pre_attn_scalar"):
            if key in values:
                values[key] //= options.divisor
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            values.pop(key, None)
    return transformers.AutoConfig.for_model(values.pop("model_type"), **values)


def make_model(options, config):
    """Random weights, made on the device; its own initialisation would take longer than the measurement."""
    attention = "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"  # sdpa cannot cap scores
    with torch.device(options.device), no_init_weights():
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation=attention
        )
    model.tie_weights()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.02)
            else:
                parameter.fill_(0.0 if name.endswith("bias") or "gemma" in config.model_type else 1.0)
    return model


class Decoder:
    """Greedy answers of one request; no step waits for the host, as no end of the answer is looked for."""

    def __init__(self, options, model):
        def zeros():
            return torch.zeros((1, 1), dtype=torch.long, device=options.device)

        self.model, length = model, options.prompt + options.new_tokens
        self.prompt = torch.randint(100, model.config.vocab_size, (1, options.prompt), device=options.device)
        self.slots = torch.arange(length, device=options.device).view(1, 1, 1, -1)
        self.ids, self.position = zeros(), zeros()
        self.cache = transformers.StaticCache(config=model.config, max_cache_len=length)
        self.grown = None

    def forward(self, ids, cache, **inputs):
        out = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1, **inputs)
        return out.logits[:, -1].argmax(-1, keepdim=True)

    def begin_eager(self) -> None:
        self.grown = transformers.DynamicCache(config=self.model.config)
        self.ids = self.forward(self.prompt, self.grown)

    def advance_eager(self) -> None:
        self.ids = self.forward(self.ids, self.grown)

    def static_step(self, ids, position):
        """The mask is made here: transformers' own copies a scalar from the host, which no graph may hold."""
        mask = torch.zeros(self.slots.shape, dtype=torch.bfloat16, device=ids.device)
        mask = mask.masked_fill(self.slots > position, torch.finfo(torch.bfloat16).min)
        return self.forward(ids, self.cache, attention_mask=mask, position_ids=position)

    def begin_static(self) -> None:
        self.cache.reset()
        self.ids.copy_(self.forward(self.prompt, self.cache))
        self.position.fill_(self.prompt.shape[1])

    def advance_static(self, step) -> None:
        """In place, as a graph needs it; a compiled step's output is copied before the next call overwrites it."""
        self.ids.copy_(step(self.ids, self.position))
        self.position.add_(1)

    def captured(self):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.begin_static()
            self.advance_static(self.static_step)
        synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.advance_static(self.static_step)
        return lambda: graph.replay()  # the function keeps the graph

    def compiled(self):
        step = torch.compile(self.static_step, mode="reduce-overhead", fullgraph=True)
        return lambda: self.advance_static(step)

    def answer(self, count: int, begin, advance):
        """The tokens and the seconds of all but the first."""
        begin()
        tokens = [self.ids.clone()]
        synchronize()
        start = time.perf_counter()
        for _ in range(count - 1):
            advance()
            tokens.append(self.ids.clone())
        synchronize()
        return torch.cat(tokens, 1), time.perf_counter() - start


def run_decode(options) -> None:
    config = read_config(options, options.config)
    if getattr(config, "layer_types", None) and options.prompt + options.new_tokens <= (config.sliding_window or 0):
        config.layer_types = ["full_attention"] * config.num_hidden_layers  # no window is reached: the same answers
    bandwidth = measure_bandwidth(options)
    model = make_model(options, config).eval().requires_grad_(False)
    weight_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    if not config.tie_word_embeddings:
        weight_bytes -= model.get_input_embeddings().weight.numel() * 2
    decoder = Decoder(options, model)
    expected = []

    def measure(engine: str, begin, make) -> None:
        start, advance = time.perf_counter(), make()
        decoder.answer(4, begin, advance)
        runs = [decoder.answer(options.new_tokens, begin, advance) for _ in range(2)]
        expected.append(runs[0][0])
        rate = (options.new_tokens - 1) / statistics.median(seconds for _, seconds in runs)
        report("decode", model=name_of(options), engine=engine, tokens_per_second=rate,
               percent_of_bandwidth=100 * rate * weight_bytes / bandwidth, weight_bytes=weight_bytes,
               prompt_tokens=options.prompt, new_tokens=options.new_tokens,
               same_tokens_as_first_engine=int((expected[0] == runs[0][0]).sum()),
               seconds_in_all=time.perf_counter() - start)  # fmt: skip

    engines = [("eager", 25, decoder.begin_eager, lambda: decoder.advance_eager),
               ("cuda graph", 20, decoder.begin_static, decoder.captured),
               ("torch.compile", COMPILE_SECONDS, decoder.begin_static, decoder.compiled)]  # fmt: skip
    with torch.no_grad():
        for engine, seconds, begin, make in engines:
            if (engine != "cuda graph" or options.device == "cuda") and (engine != "torch.compile" or options.compile):
                attempt("decode", left(options, seconds), lambda: measure(engine, begin, make), engine=engine)


def matrix_weights(model) -> int:
    return sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, torch.nn.Linear))


def train(options, peer: str, rank: int, recompute: bool) -> None:
    """No clipping and no padding: the peer's best case."""
    config = read_config(options, options.config)
    config.use_cache = False
    model = make_model(options, config)
    weights, adapter_weights = matrix_weights(model), 0
    if rank > 0:
        import peft

        adapter = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
        model = peft.get_peft_model(model, adapter, autocast_adapter_dtype=False).to(torch.bfloat16)
        adapter_weights = matrix_weights(model) - weights
    if recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if rank > 0:
            model.enable_input_require_grads()
    model.train()
    forward = torch.compile(model) if options.compile else model
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], 1e-5, fused=True)
    ids = torch.randint(100, config.vocab_size, (options.batch, options.sequence), device=options.device)
    losses, seconds = [], []
    for _ in range(5):  # 2 warm-ups
        synchronize()
        begin = time.perf_counter()
        loss = forward(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        synchronize()
        seconds.append(time.perf_counter() - begin)
    rate = options.batch * options.sequence / statistics.median(seconds[2:])
    width = config.num_attention_heads * (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    products = 4 * weights + 6 * adapter_weights if rank > 0 else 6 * weights
    report(
        peer, model=pathlib.Path(options.config).stem, tokens_per_second=rate, seconds_per_step=options.batch * options.sequence / rate,
        tflops=rate * (products + 6 * config.num_hidden_layers * width * options.sequence) / 1e12,
        formula=("4 N + 6 A" if rank > 0 else "6 N") + " + 6 L H T operations a token; N weights of products (the head is one), H heads x head_dim",
        batch=options.batch, sequence=options.sequence, rank=rank, recompute=recompute, losses=[losses[0], losses[-1]],
        peak_bytes=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
    )  # fmt: skip


def run_train(options, peer: str) -> None:
    """Without recomputation unless it was asked for or memory runs out."""
    rank = options.rank if peer == "lora" else 0
    options.sequence //= options.divisor
    for recompute in [True] if options.recompute else [False, True]:
        if attempt(peer, 45, lambda: train(options, peer, rank, recompute), recompute=recompute):
            return


def run_attention(options) -> None:
    backends = torch.nn.attention.SDPBackend
    choices = [backends.MATH] if options.divisor > 1 else [backends.FLASH_ATTENTION, backends.CUDNN_ATTENTION]

    def measure(backend, shape) -> None:
        length, heads, kv_heads, head_dim = shape
        length //= options.divisor

        def random(count: int, grad: bool = True):
            tensor = torch.randn(1, count, length, head_dim, dtype=torch.bfloat16, device=options.device)
            return tensor.requires_grad_(grad)

        q, k, v, gradient = random(heads), random(kv_heads), random(kv_heads), random(heads, False)
        with torch.nn.attention.sdpa_kernel(backend):
            attend = torch.nn.functional.scaled_dot_product_attention

            def forward():
                return attend(q, k, v, is_causal=True, enable_gqa=heads != kv_heads)

            out = forward()
            ahead = seconds_of(forward, 10)
            back = seconds_of(lambda: torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True), 5)
        operations = 2 * heads * length * length * head_dim
        report(
            "attention", backend=backend.name, sequence=length, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
            forward_seconds=ahead, forward_tflops=operations / ahead / 1e12, backward_seconds=back,
            backward_tflops=2.5 * operations / back / 1e12, formula="causal: 2 H T T D ahead, 2.5 times as many back",
        )  # fmt: skip

    for shape in [(4096, 32, 8, 128), (8192, 16, 16, 64)]:
        for backend in choices:
            attempt("attention", 15, lambda: measure(backend, shape), backend=backend.name, shape=shape)


def run_matmul(options) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False

    def measure(name: str, dtype, m: int, n: int, k: int) -> None:
        m, n, k = m // options.divisor, n // options.divisor, k // options.divisor
        a = torch.randn(m, k, dtype=dtype, device=options.device)
        weight = torch.randn(n, k, dtype=dtype, device=options.device)
        seconds = seconds_of(lambda: torch.nn.functional.linear(a, weight), math.ceil(6e12 / (m * n * k)) if options.divisor == 1 else 1)
        report("matmul", name=name, m=m, n=n, k=k, seconds=seconds, tflops=2 * m * n * k / seconds / 1e12)

    cases = [("bf16", 4096, 4096, 4096), ("bf16", 8192, 8192, 8192), ("bf16", 4096, 14336, 4096), ("f32", 4096, 4096, 4096)]
    for name, m, n, k in cases:
        dtype = torch.float32 if name == "f32" else torch.bfloat16
        attempt("matmul", 15, lambda: measure(name, dtype, m, n, k), name=name, m=m, n=n, k=k)


def run_all(options) -> None:
    """The compiler comes last, with the seconds that the others left."""
    report("machine", torch=torch.__version__, transformers=transformers.__version__, seconds_of_imports=time.monotonic() - START,
           device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu")  # fmt: skip
    run_matmul(options)
    run_attention(options)
    for peer, name in [("full", "qwen2-1.5b"), ("lora", "llama3-8b"), ("decode", "gemma2-2b")]:
        if time.monotonic() - START > options.limit - 10:
            report(peer, error=f"skipped: {options.limit} s are over")
            continue
        mine = argparse.Namespace(**vars(options))
        mine.config, mine.compile = str(pathlib.Path(options.configs) / f"{name}.json"), peer == "decode"
        attempt(peer, 90, lambda: run_decode(mine)) if peer == "decode" else run_train(mine, peer)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=["decode", "lora", "full", "attention", "matmul", "all"])
    parser.add_argument("--config", help="a Hugging Face config.json, of decode, lora and full")
    parser.add_argument("--configs", default="configs/models", help="the folder of configs, of all")
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--sequence", type=int, default=4096)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--recompute", action="store_true", help="gradient checkpointing of every layer")
    parser.add_argument("--compile", action="store_true", help=f"decode: torch.compile too, if done in {COMPILE_SECONDS} s")
    parser.add_argument("--limit", type=float, default=95, help="seconds of everything, of all")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, sizes divided by 16")
    options = parser.parse_args()
    options.divisor, options.device = (16, "cpu") if options.dry_run else (1, "cuda")
    if options.peer in ("decode", "lora", "full") and options.config is None:
        parser.error(f"{options.peer} needs --config")
    return options


def main() -> None:
    options = parse_options()
    signal.signal(signal.SIGALRM, raise_time_up)
    torch.manual_seed(1)
    transformers.logging.set_verbosity_error()
    if options.peer in ("lora", "full"):
        run_train(options, options.peer)
    else:
        {"decode": run_decode, "attention": run_attention, "matmul": run_matmul, "all": run_all}[options.peer](options)
    sys.stdout.flush()
    os._exit(0)  # workers of an abandoned compilation are not waited for


if __name__ == "__main__":
    import torch
    import torch.nn.attention
    import transformers
    from transformers.initialization import no_init_weights

    main()
