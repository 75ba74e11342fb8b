"""Log likelihoods of choices by transformers, against those that `weft evaluate --task choices` wrote.

  weft evaluate --model MODEL --task choices --data questions.jsonl --dtype f32 --predictions out.jsonl
  python3 scripts/check_choices.py MODEL out.jsonl [--raw]
"""
import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def log_likelihood(model, tokenizer, prompt, choice, special):
    """As lm-evaluation-harness cuts them: white space at the prompt's end is the choice's."""
    head = prompt.rstrip()
    whole = tokenizer(prompt + " " + choice, add_special_tokens=special).input_ids
    begin = len(tokenizer(head, add_special_tokens=special).input_ids)
    with torch.no_grad():
        logits = model(torch.tensor([whole])).logits[0].float()
    of_tokens = torch.log_softmax(logits, -1)
    return sum(of_tokens[i - 1, whole[i]].item() for i in range(begin, len(whole)))


def main():
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    worst, right, right_by_bytes, count = 0, 0, 0, 0
    for line in open(sys.argv[2]):
        question = json.loads(line)
        scores = [log_likelihood(model, tokenizer, question["prompt"], choice, "--raw" not in sys.argv)
                  for choice in question["choices"]]
        by_bytes = [score / len(choice.encode()) for score, choice in zip(scores, question["choices"])]
        worst = max(worst, *(abs(a - b) for a, b in zip(scores, question["scores"])))
        right += scores.index(max(scores)) == question["label"]
        right_by_bytes += by_bytes.index(max(by_bytes)) == question["label"]
        count += 1
    print(f"{count} questions, acc {right / count}, acc_norm {right_by_bytes / count}; largest difference {worst:.2g}")


main()
