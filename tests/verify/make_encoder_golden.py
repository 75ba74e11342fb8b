#!/usr/bin/env python3
"""Makes tests/data/hf/{roberta,xlm_roberta_reranker,distilbert,distilbert_classifier,mpnet,mpnet_classifier}: small
random models of transformers with what it computes from them (docs/golden-files.md).

    pip install torch transformers h5py
    python3 tests/verify/make_encoder_golden.py [CASE ...]
"""
import pathlib
import sys

import h5py
import torch
import transformers

OUT = pathlib.Path(__file__).resolve().parents[1] / "data" / "hf"
VOCABULARY, LENGTHS = 96, (18, 11, 6)

SIZES = dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
             max_position_embeddings=42, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=1,
             bos_token_id=0, eos_token_id=2)
DISTILBERT = dict(vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=40,
                  dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0, pad_token_id=0)
LABELS = dict(id2label={0: "no", 1: "yes", 2: "perhaps"}, label2id={"no": 0, "yes": 1, "perhaps": 2})

# transformers' class and its config
CASES = {
    "roberta": ("RobertaForMaskedLM", dict(SIZES, type_vocab_size=1, layer_norm_eps=1e-5)),
    # As bge-reranker-v2-m3; a loss of its own is not Weft's.
    "xlm_roberta_reranker": ("XLMRobertaForSequenceClassification",
                             dict(SIZES, type_vocab_size=1, layer_norm_eps=1e-5, hidden_act="gelu_new",
                                  id2label={0: "LABEL_0"}, label2id={"LABEL_0": 0})),
    "distilbert": ("DistilBertForMaskedLM", DISTILBERT),
    "distilbert_classifier": ("DistilBertForSequenceClassification", dict(DISTILBERT, activation="relu", **LABELS)),
    "mpnet": ("MPNetForMaskedLM", dict(SIZES, max_position_embeddings=162, layer_norm_eps=1e-12)),
    "mpnet_classifier": ("MPNetForSequenceClassification", dict(SIZES, layer_norm_eps=1e-12, **LABELS)),
}


def randomize(model, generator):
    """Values of which none is 0 or 1, large enough that scores of attention differ."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            elif parameter.ndim == 1:
                parameter.copy_(0.15 * noise)
            elif "relative_attention_bias" in name:
                parameter.copy_(noise)
            elif "embeddings" in name:
                parameter.copy_(0.6 * noise)
            else:
                parameter.copy_(1.1 / parameter.shape[1] ** 0.5 * noise)


def make_inputs(config, lengths, is_classifier, generator):
    ids = torch.full((len(lengths), max(lengths)), config.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(4, config.vocab_size, (length,), generator=generator)
        mask[row, :length] = 1
    if is_classifier:
        labels = torch.tensor([2, 0, 1])
    else:
        is_scored = (torch.rand(ids.shape, generator=generator) < 0.3) & (mask == 1)
        is_scored[:, 1] = True
        labels = torch.where(is_scored, torch.randint(4, config.vocab_size, ids.shape, generator=generator), -100)
    return ids, mask, labels


def make(name):
    cls, settings = CASES[name]
    generator = torch.Generator().manual_seed(sum(name.encode()))
    model = getattr(transformers, cls)
    model = model._from_config(model.config_class(**settings), attn_implementation="eager").float().eval()
    randomize(model, generator)
    folder = OUT / name
    model.save_pretrained(folder)
    is_classifier = cls.endswith("ForSequenceClassification")
    # Of MPNet's distances all buckets occur.
    lengths = (150, 11) if name == "mpnet" else LENGTHS
    ids, mask, labels = make_inputs(model.config, lengths, is_classifier, generator)
    has_loss = model.config.num_labels != 1
    out = model(input_ids=ids, attention_mask=mask, labels=labels if has_loss else None, output_hidden_states=True)
    keep = mask[..., None]
    with h5py.File(folder / "golden.h5", "w", libver=("earliest", "v110")) as file:
        file.attrs.update({"model_class": cls, "transformers": transformers.__version__, "torch": str(torch.__version__)})
        file["inputs/input_ids"] = ids.numpy()
        file["inputs/attention_mask"] = mask.numpy()
        for i, hidden in enumerate(out.hidden_states[:-1]):
            file[f"outputs/hidden/{i}"] = (hidden * keep).detach().numpy()
        file["outputs/final"] = (out.hidden_states[-1] * keep).detach().numpy()
        file["outputs/logits"] = (out.logits if is_classifier else out.logits * keep).detach().numpy()
        if not has_loss:
            return
        out.loss.backward()
        file["inputs/labels"] = labels.numpy()
        file["train/loss"] = out.loss.item()
        for weight, parameter in model.named_parameters():
            file[f"train/grads/{weight}"] = parameter.grad.numpy()
    print(name, f"loss {out.loss.item():.5f}")


for case in sys.argv[1:] or CASES:
    make(case)
