#!/usr/bin/env python3
"""Times torch + transformers (+ peft) on a GPU: the peer of `weft bench --device cuda`. One JSON object a line.

    gpu_peer.py decode --config gemma2-2b.json [--compile]   greedy answers of one request: eager, CUDA graph, compiled
    gpu_peer.py lora|full --config llama3-8b.json            steps of adapters on all linear layers, or of all weights
    gpu_peer.py attention|matmul                             scaled_dot_product_attention both ways, matrix products
    gpu_peer.py all --configs DIR [--limit 95]               all of these in one process, within so many seconds

scripts/gpu_check.sh calls `all` in its part `peers`, behind Weft's own benchmarks of the same run. Weights are random,
nothing is fetched. A part that fails prints an object with "error" and the others go on. --dry-run checks this file on
a machine without a GPU: sizes are small and the numbers mean nothing. Operations are counted as weft bench does: a
token of training 6 N + 6 L H T, or 4 N + 6 A + 6 L H T with adapters (N weights of products, the head's too but not the
input embedding; A weights of adapters; L layers; H heads x head_dim; T the sequence); causal attention 2 H T T, and 2.5
times as many backward.
"""

import argparse
import functools
import gc
import json
import os
import pathlib
import signal
import statistics
import time

START = time.monotonic()
COMPILE_SECONDS, PROMPT = 40, 32


def report(peer: str, **fields) -> None:
    rounded = {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in fields.items()}
    print(json.dumps({"peer": peer, **rounded}), flush=True)


def attempt(options, peer: str, seconds: float, run, **fields) -> bool:
    """One measurement within so many seconds and within --limit; what goes wrong becomes a line of its own."""
    message = None
    seconds = max(0.1, min(seconds, options.limit - (time.monotonic() - START)))
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        run()
    except KeyboardInterrupt:  # by the timer; not an Exception, so the compiler's own handlers let it through
        message = f"not done within {seconds:.1f} s"
    except Exception as error:  # out of memory, a missing backend, a failed compilation
        message = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    signal.setitimer(signal.ITIMER_REAL, 0)
    if message is not None:
        report(peer, **fields, error=message)
    gc.collect()
    if HAS_GPU:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return message is None


def clock():
    if not HAS_GPU:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_of(run, repetitions: int) -> float:
    """Median of three rounds of the mean seconds of one call."""
    values = []
    for count in [2, repetitions, repetitions, repetitions]:  # 2 warm-ups
        first = clock()
        for _ in range(count):
            run()
        last = clock()
        synchronize()
        values.append((first.elapsed_time(last) / 1e3 if HAS_GPU else last - first) / count)
    return statistics.median(values[1:])


def make_model(options):
    """Random weights, made on the device; transformers' own initialisation would take longer than the measurement."""
    values = json.loads(pathlib.Path(options.config).read_text())
    if not HAS_GPU:
        values |= {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "head_dim": 16}
    config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
    attention = "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"  # sdpa cannot cap scores
    make = transformers.AutoModelForCausalLM.from_config
    with torch.device(options.device), transformers.initialization.no_init_weights(), torch.no_grad():
        model = make(config, dtype=torch.bfloat16, attn_implementation=attention)
        model.tie_weights()
        for name, parameter in model.named_parameters():
            one = 0 if name.endswith("bias") or "gemma" in config.model_type else 1
            parameter.normal_(0, 0.02) if parameter.dim() > 1 else parameter.fill_(one)
    return model


class Decoder:
    """Greedy answers of one request; no step waits for the host, as no end of the answer is looked for."""

    def __init__(self, options, model):
        self.model, length = model, PROMPT + options.new_tokens
        self.prompt = torch.randint(100, model.config.vocab_size, (1, PROMPT), device=options.device)
        self.slots = torch.arange(length, device=options.device)[None]
        self.ids, self.position = self.prompt[:, :1].clone(), self.prompt[:, :1].clone()
        self.static = transformers.StaticCache(config=model.config, max_cache_len=length)

    def forward(self, ids, position, mask=None):
        inputs = {"input_ids": ids, "position_ids": position, "attention_mask": mask, "past_key_values": self.cache}
        return self.model(**inputs, use_cache=True, logits_to_keep=1).logits[:, -1].argmax(-1, keepdim=True)

    def static_step(self, ids, position):
        """The mask is made here: transformers' own copies a scalar from the host, which no graph may hold."""
        mask = torch.zeros(self.slots.shape, dtype=torch.bfloat16, device=ids.device)
        mask = mask.masked_fill(self.slots > position, torch.finfo(torch.bfloat16).min)
        return self.forward(ids, position, mask[None, None])

    def advance(self, step) -> None:
        """In place, as a graph needs it; a compiled step's output is copied before the next call overwrites it."""
        self.ids.copy_(step(self.ids, self.position))
        self.position.add_(1)

    def captured(self):
        with torch.cuda.stream(torch.cuda.Stream()):
            self.answer(2, True, lambda: self.advance(self.static_step))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.advance(self.static_step)
        return graph.replay

    def answer(self, count: int, is_static: bool, advance):
        """The tokens, and the seconds of all but the first."""
        self.static.reset()
        self.cache = self.static if is_static else transformers.DynamicCache(config=self.model.config)
        self.ids.copy_(self.forward(self.prompt, self.slots[:, :PROMPT]))
        self.position.fill_(PROMPT)
        tokens = [self.ids.clone()]
        synchronize()
        start = time.perf_counter()
        for _ in range(count - 1):
            advance()
            tokens.append(self.ids.clone())
        synchronize()
        return torch.cat(tokens, 1), time.perf_counter() - start


def run_decode(options) -> None:
    source, target = torch.ones((2, 2**30 // options.divisor**2), device=options.device)
    copy = 8 * source.numel() / seconds_of(lambda: target.copy_(source), 3)
    read = 4 * source.numel() / seconds_of(lambda: source.sum(), 3)
    report("bandwidth", copy_bytes_per_second=copy, read_bytes_per_second=read)
    bandwidth, source, target = max(copy, read), None, None
    model = make_model(options).eval().requires_grad_(False)
    if PROMPT + options.new_tokens <= (getattr(model.config, "sliding_window", None) or 0):
        model.config.layer_types = ["full_attention"] * model.config.num_hidden_layers  # no window is ever reached
    weight_bytes = 2 * sum(parameter.numel() for parameter in model.parameters())
    if not model.config.tie_word_embeddings:
        weight_bytes -= 2 * model.get_input_embeddings().weight.numel()
    decoder, expected = Decoder(options, model), []

    def measure(engine: str, make) -> None:
        advance, is_static = make(), engine != "eager"
        decoder.answer(4, is_static, advance)
        runs = [decoder.answer(options.new_tokens, is_static, advance) for _ in range(2)]
        expected.append(runs[0][0])
        rate = (options.new_tokens - 1) / statistics.median(seconds for _, seconds in runs)
        report("decode", model=options.name, engine=engine, tokens_per_second=rate, weight_bytes=weight_bytes,
               percent_of_bandwidth=100 * rate * weight_bytes / bandwidth, new_tokens=options.new_tokens,
               same_tokens_as_first_engine=int((expected[0] == runs[0][0]).sum()))  # fmt: skip

    with torch.no_grad():
        attempt(options, "decode", 25, lambda: measure("eager", lambda: lambda: decoder.advance(decoder.forward)))
        if HAS_GPU:
            attempt(options, "decode", 20, lambda: measure("cuda graph", decoder.captured), engine="cuda graph")
        if options.compile:
            step = torch.compile(decoder.static_step, mode="reduce-overhead", fullgraph=True)
            run = functools.partial(measure, "torch.compile", lambda: lambda: decoder.advance(step))
            attempt(options, "decode", COMPILE_SECONDS, run, engine="torch.compile")


def train(options, rank: int, recompute: bool) -> None:
    """No clipping and no padding: the peer's best case."""
    model = make_model(options).train()
    config = model.config
    weights = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, torch.nn.Linear))
    if rank > 0:
        import peft
        settings = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
        model = peft.get_peft_model(model, settings, autocast_adapter_dtype=False)
    if recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-5, fused=True)
    tokens = options.batch * options.sequence
    ids = torch.randint(100, config.vocab_size, (options.batch, options.sequence), device=options.device)
    losses, seconds = [], []
    for _ in range(5):  # 2 warm-ups
        begin = time.perf_counter()
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        synchronize()
        seconds.append(time.perf_counter() - begin)
    step = statistics.median(seconds[2:])
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    operations = 6 * config.num_hidden_layers * config.num_attention_heads * head_dim * options.sequence
    operations += 4 * weights + 6 * sum(weight.numel() for weight in trained) if rank > 0 else 6 * weights
    report(options.peer, model=options.name, tokens_per_second=tokens / step, seconds_per_step=step,
           tflops=operations * tokens / step / 1e12, flops_per_token=operations, batch=options.batch,
           sequence=options.sequence, rank=rank, recompute=recompute, losses=losses,
           peak_bytes=torch.cuda.max_memory_allocated() if HAS_GPU else 0)  # fmt: skip


def run_train(options) -> None:
    rank = options.rank if options.peer == "lora" else 0
    for recompute in [True] if options.recompute else [False, True]:  # without, unless memory runs out
        if attempt(options, options.peer, 40, lambda: train(options, rank, recompute), recompute=recompute):
            return


def run_attention(options) -> None:
    def measure(backend, length: int, heads: int, kv_heads: int, head_dim: int) -> None:
        shapes = [(1, count, length, head_dim) for count in (heads, kv_heads, kv_heads, heads)]
        make = functools.partial(torch.randn, dtype=torch.bfloat16, device=options.device)
        *inputs, gradient = (make(shape, requires_grad=True) for shape in shapes)
        attend = functools.partial(torch.nn.functional.scaled_dot_product_attention, is_causal=True, enable_gqa=True)
        with torch.nn.attention.sdpa_kernel(backend):
            out = attend(*inputs)
            ahead = seconds_of(lambda: attend(*inputs), 20)
            back = seconds_of(lambda: torch.autograd.grad(out, inputs, gradient, retain_graph=True), 10)
        operations = 2 * heads * length * length * head_dim
        report("attention", backend=backend.name, sequence=length, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
               forward_seconds=ahead, forward_tflops=operations / ahead / 1e12, backward_seconds=back,
               backward_tflops=2.5 * operations / back / 1e12)  # fmt: skip
    backends = torch.nn.attention.SDPBackend
    for length, *shape in [(4096, 32, 8, 128), (8192, 16, 16, 64)]:
        for backend in [backends.FLASH_ATTENTION, backends.CUDNN_ATTENTION]:
            run = functools.partial(measure, backend, length // options.divisor, *shape)
            attempt(options, "attention", 15, run, backend=backend.name, sequence=length)


def run_matmul(options) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    def measure(dtype, m: int, n: int, k: int) -> None:
        a, weight = (torch.randn(rows, k, dtype=dtype, device=options.device) for rows in (m, n))
        seconds = seconds_of(lambda: torch.nn.functional.linear(a, weight), 10 if dtype == torch.float32 else 30)
        report("matmul", dtype=str(dtype), m=m, n=n, k=k, seconds=seconds, tflops=2 * m * n * k / seconds / 1e12)
    for m, n, k in [(4096, 4096, 4096), (8192, 8192, 8192), (4096, 14336, 4096)]:
        sizes = m // options.divisor, n // options.divisor, k // options.divisor
        attempt(options, "matmul", 15, lambda: measure(torch.bfloat16, *sizes), shape=sizes)
    attempt(options, "matmul", 15, lambda: measure(torch.float32, *[4096 // options.divisor] * 3), dtype="f32")


def run_all(options) -> None:
    """The compiler comes last, with the seconds that the others left."""
    report("machine", device=torch.cuda.get_device_name() if HAS_GPU else "cpu", torch=torch.__version__,
           transformers=transformers.__version__, seconds_until_imported=time.monotonic() - START)  # fmt: skip
    run_matmul(options)
    run_attention(options)
    for peer, name in [("full", "qwen2-1.5b"), ("lora", "llama3-8b"), ("decode", "gemma2-2b")]:
        options.peer, options.name, options.config, options.compile = peer, name, f"{options.configs}/{name}.json", True
        run_train(options) if peer != "decode" else attempt(options, peer, 90, lambda: run_decode(options))
    report("end", seconds=time.monotonic() - START)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=["decode", "lora", "full", "attention", "matmul", "all"])
    parser.add_argument("--config", default="", help="decode, lora and full: a Hugging Face config.json")
    parser.add_argument("--configs", default="configs/models", help="all: the folder of configs")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--sequence", type=int, default=4096)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--recompute", action="store_true", help="gradient checkpointing of every layer")
    parser.add_argument("--compile", action="store_true", help=f"decode: compiled too, if done in {COMPILE_SECONDS} s")
    parser.add_argument("--limit", type=float, default=95, help="seconds of everything")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, small sizes")
    options = parser.parse_args()
    options.divisor, options.device = (16, "cpu") if options.dry_run else (1, "cuda")
    options.sequence //= options.divisor
    options.name = pathlib.Path(options.config).stem
    return options


if __name__ == "__main__":
    chosen = parse_options()
    import torch
    import torch.nn.attention
    import transformers
    import transformers.initialization

    HAS_GPU = chosen.device == "cuda"
    synchronize = torch.cuda.synchronize if HAS_GPU else lambda: None
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    torch.manual_seed(1)
    transformers.logging.set_verbosity_error()
    runs = {"lora": run_train, "full": run_train, "attention": run_attention, "matmul": run_matmul, "all": run_all}
    runs.get(chosen.peer, run_decode)(chosen)
    os._exit(0)  # workers of an abandoned compilation are not waited for
