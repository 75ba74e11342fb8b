#!/usr/bin/env python3
"""Writes a T5 of Flan-T5-small's shape with random weights, and a tokenizer of as many words, which ctranslate2's converter needs.

The output layer has a matrix of its own, as Flan-T5's; transformers keeps it where the checkpoint has one.
"""

import argparse
import json
import pathlib

WORDS = 32100  # the vocabulary is rounded up to 32128


def write_model(folder: pathlib.Path) -> None:
    import torch
    import transformers

    torch.manual_seed(1)
    shape = json.loads((pathlib.Path(__file__).parent.parent / "configs" / "models" / "flan-t5-small.json").read_text())
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**shape))
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight) * shape["d_model"] ** -0.5)
    model.config.tie_word_embeddings = False
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(shape, indent=2) + "\n")


def write_tokenizer(folder: pathlib.Path) -> None:
    import tokenizers
    import transformers

    words = ["<pad>", "</s>", "<unk>"]
    words += [f"w{index}" for index in range(len(words), WORDS)]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    write_model(folder)


if __name__ == "__main__":
    main()
