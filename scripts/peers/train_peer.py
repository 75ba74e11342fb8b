#!/usr/bin/env python3
"""Times training steps of torch + transformers (+ peft): forward, loss, backward, clipping and AdamW on random ids.

Prints one JSON object: tokens a second and seconds a step (medians), peak resident memory of the process.
"""

import argparse
import json
import resource
import statistics
import time


def make_model(options: argparse.Namespace, torch, transformers):
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype, attn_implementation="sdpa")
    model.config.use_cache = False
    if options.lora > 0:
        import peft

        config = peft.LoraConfig(r=options.lora, lora_alpha=2 * options.lora, target_modules="all-linear", task_type="CAUSAL_LM")
        # peft keeps adapters of a bf16 model in f32 unless told otherwise; pure bf16 is the faster one.
        model = peft.get_peft_model(model, config, autocast_adapter_dtype=options.precision != "bf16")
    if options.recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if options.lora > 0:
            model.enable_input_require_grads()
    return model.train()


def make_step(options: argparse.Namespace, torch, model):
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=1e-5, weight_decay=0.01, fused=options.optimizer == "fused", foreach=options.optimizer == "foreach"
    )
    forward = torch.compile(model) if options.compile else model

    def step(ids) -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.precision == "autocast"):
            loss = forward(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a folder with config.json and model.safetensors")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--sequence", type=int, default=256)
    parser.add_argument(
        "--precision", choices=["f32", "bf16", "autocast"], default="f32", help="autocast: f32 weights, products in bf16"
    )
    parser.add_argument("--lora", type=int, default=0, help="rank of adapters on all linear projections; 0: full training")
    parser.add_argument("--optimizer", choices=["fused", "foreach"], default="fused")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--recompute", action="store_true", help="gradient checkpointing of every layer")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    import torch
    import transformers

    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model = make_model(options, torch, transformers)
    step = make_step(options, torch, model)
    generator = torch.Generator().manual_seed(1)
    shape = (options.batch, options.sequence)
    seconds, losses = [], []
    for _ in range(options.warmup + options.steps):
        ids = torch.randint(100, model.config.vocab_size, shape, generator=generator)
        begin = time.perf_counter()
        losses.append(step(ids))
        seconds.append(time.perf_counter() - begin)
    median = statistics.median(seconds[options.warmup :])
    result = {
        "value": options.batch * options.sequence / median,
        "unit": "tokens/s",
        "seconds_per_step": median,
        "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "first_loss": losses[0],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
