#!/usr/bin/env python3
"""Makes tests/data/train/preference: pairs of answers, and what training on them by each preference loss gives in torch.

    pip install torch transformers peft
    tests/train/make_preference_golden.py

The losses are written out here from their papers; nothing of TRL's is used.
"""

import copy
import json
import pathlib

import peft
import torch
import transformers

DATA = pathlib.Path(__file__).resolve().parent.parent / "data"
MODEL = DATA / "train" / "text_lm"
OUT = DATA / "train" / "preference"
BATCH, STEPS, RATE = 4, 6, 3e-4

SUBJECTS = ["the lamp", "a river", "our house", "the old road", "bread", "that bird", "the sea", "a name"]
VERBS = ["is", "was", "stands", "goes", "falls", "returns"]


def make_pairs() -> list[dict]:
    """Texts; every third pair is two conversations."""
    pairs = []
    for i in range(12):
        subject, verb = SUBJECTS[i % 8], VERBS[i % 6]
        chosen = f" {verb} where {SUBJECTS[(3 * i + 1) % 8]} {VERBS[(i + 2) % 6]}."
        rejected = f" {VERBS[(i + 1) % 6]} not for {SUBJECTS[(5 * i + 2) % 8]}" + " at all" * (i % 3) + "."
        if i % 3 < 2:
            pairs.append({"prompt": f"And {subject}", "chosen": chosen, "rejected": rejected})
            continue
        prompt = [{"role": "user", "content": f"What of {subject}?"}]
        answer = lambda text: [{"role": "assistant", "content": subject + text}]
        if i == 2:
            pairs.append({"chosen": prompt + answer(chosen), "rejected": prompt + answer(rejected)})
        else:
            pairs.append({"prompt": prompt, "chosen": answer(chosen), "rejected": answer(rejected)})
    return pairs


def tokens_of(tokenizer, pair: dict, key: str) -> tuple[list[int], int]:
    """The ids of prompt and answer, and where the answer begins."""
    if isinstance(pair[key], list):
        messages = pair.get("prompt", []) + pair[key]
        ids = tokenizer.apply_chat_template(messages, return_dict=False)
        head = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
        # What stands behind the last special token is no part of the answer.
        while ids[-1] != tokenizer.eos_token_id:
            ids = ids[:-1]
        return ids, len(head)
    begin = [tokenizer.bos_token_id]
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
    prompt, whole = encode(pair["prompt"]), encode(pair["prompt"] + pair[key])
    common = 0
    while common < len(prompt) and prompt[common] == whole[common]:
        common += 1
    return begin + whole + [tokenizer.eos_token_id], 1 + common


def answer_log_probs(model, answer: tuple[list[int], int]) -> torch.Tensor:
    ids, begin = answer
    logits = model(torch.tensor([ids])).logits[0]
    rows = torch.log_softmax(logits[:-1].float(), dim=-1)
    return rows[torch.arange(len(ids) - 1), torch.tensor(ids[1:])][begin - 1 :]


def pair_loss(margin: torch.Tensor, case: dict) -> torch.Tensor:
    beta, smoothing = case["beta"], case.get("label_smoothing", 0.0)
    log_sigmoid = torch.nn.functional.logsigmoid
    if case["loss"] == "SIGMOID":
        return -(1 - smoothing) * log_sigmoid(beta * margin) - smoothing * log_sigmoid(-beta * margin)
    if case["loss"] == "HINGE":
        return torch.relu(1 - beta * margin)
    return (margin - 1 / (2 * beta)) ** 2


def train(case: dict, answers: list) -> list[dict]:
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    if case.get("adapter"):
        model = peft.PeftModel.from_pretrained(model, MODEL / "lora" / "before", is_trainable=True)
    reference = copy.deepcopy(model).eval()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, eps=1e-6, weight_decay=0.01)
    score = (lambda values: values.mean()) if case["loss"] == "IPO" else (lambda values: values.sum())
    steps = []
    for step in range(STEPS):
        batch = [answers[(step * BATCH + i) % len(answers)] for i in range(BATCH)]
        losses, gains = [], []
        for pair in batch:
            log_probs = [answer_log_probs(model, one) for one in pair]
            with torch.no_grad():
                anchors = [score(answer_log_probs(reference, one)) for one in pair]
            chosen, rejected = (score(values) - anchor for values, anchor in zip(log_probs, anchors))
            losses.append(pair_loss(chosen - rejected, case) - case.get("sft_weight", 0.0) * log_probs[0].mean())
            gains.append((chosen.item(), rejected.item()))
        loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        mean = lambda values: sum(values) / len(gains)
        steps.append(
            {
                "loss": loss.item(),
                "grad_norm": norm.item(),
                "accuracy": mean([float(c > r) for c, r in gains]),
                "margin": case["beta"] * mean([c - r for c, r in gains]),
                "chosen_reward": case["beta"] * mean([c for c, _ in gains]),
                "rejected_reward": case["beta"] * mean([r for _, r in gains]),
            }
        )
    return steps


def main() -> None:
    torch.manual_seed(0)
    OUT.mkdir(parents=True, exist_ok=True)
    pairs = make_pairs()
    (OUT / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    tokenizer = transformers.AutoTokenizer.from_pretrained(DATA / "tiny_tokenizer")
    answers = [tuple(tokens_of(tokenizer, pair, key) for key in ("chosen", "rejected")) for pair in pairs]
    cases = [
        {"name": "sigmoid", "loss": "SIGMOID", "beta": 0.1},
        {"name": "conservative", "loss": "SIGMOID", "beta": 0.2, "label_smoothing": 0.2},
        {"name": "hinge", "loss": "HINGE", "beta": 0.02},
        {"name": "ipo", "loss": "IPO", "beta": 0.3},
        {"name": "with_sft", "loss": "SIGMOID", "beta": 0.1, "sft_weight": 0.7},
        {"name": "adapter", "loss": "SIGMOID", "beta": 0.5, "adapter": True},
    ]
    for case in cases:
        case["steps"] = train(case, answers)
    golden = {"batch_size": BATCH, "steps": STEPS, "learning_rate": RATE, "cases": cases}
    (OUT / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
