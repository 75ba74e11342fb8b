#!/usr/bin/env python3
"""GPLinker by bert4keras3, for relations_test.cpp: scores, loss and its gradient of two texts' pointers, and the
relations that they mark.

    KERAS_BACKEND=torch python3 make_relation_golden.py > ../data/tasks/gplinker.json

Needs numpy, torch, keras 3.6 and bert4keras3.
"""
import json
import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
import torch
from bert4keras3.backend import multilabel_categorical_crossentropy
from bert4keras3.layers import GlobalPointer

PREDICATES, SIZE, LENGTHS = 3, 4, [7, 5]
# subject first, last, predicate, object first, last
RELATIONS = [[[1, 2, 0, 4, 4], [1, 2, 2, 4, 4], [3, 5, 1, 1, 2]], [[3, 3, 2, 1, 1]]]


def pointer(outputs, begin, heads, is_ordered):
    """The layer's own dense layer passes on the columns that it is given."""
    width = heads * 2 * SIZE
    layer = GlobalPointer(heads, SIZE, RoPE=is_ordered, use_bias=False, tril_mask=is_ordered)
    layer.build((None, None, width))
    layer.dense.build((None, None, width))
    layer.dense.kernel.assign(np.eye(width, dtype="float32"))
    mask = torch.tensor([[t < length for t in range(max(LENGTHS))] for length in LENGTHS])
    return layer.call(outputs[..., begin : begin + width], mask=mask)


def loss_of(scores, pairs):
    """As its sparse form, in which (0, 0) stands for no pair, but that one is NaN under torch for heads without a pair."""
    marked = torch.zeros_like(scores)
    for t, of_text in enumerate(pairs):
        for h, of_head in enumerate(of_text):
            for first, last in of_head:
                marked[t, h, first, last] = 1
    flat = scores.reshape(scores.shape[0], scores.shape[1], -1)
    flat = torch.cat([torch.full_like(flat[..., :1], -np.inf), flat[..., 1:]], -1)
    return torch.mean(torch.sum(multilabel_categorical_crossentropy(marked.reshape(flat.shape), flat), 1))


def extract(scores, length):
    entities, heads, tails = scores
    found = []
    inside = range(1, length - 1)
    spans = [[(a, b) for a in inside for b in inside if entities[kind, a, b] > 0] for kind in (0, 1)]
    for subject in spans[0]:
        for object_ in spans[1]:
            for p in range(PREDICATES):
                if heads[p, subject[0], object_[0]] > 0 and tails[p, subject[1], object_[1]] > 0:
                    found.append([*subject, p, *object_])
    return sorted(found)


def main():
    generator = np.random.default_rng(7)
    width = (2 + 2 * PREDICATES) * 2 * SIZE
    values = generator.standard_normal((2, max(LENGTHS), width)).astype("float32").round(3)
    outputs = torch.tensor(values, requires_grad=True)
    scores = [
        pointer(outputs, 0, 2, True),
        pointer(outputs, 2 * 2 * SIZE, PREDICATES, False),
        pointer(outputs, (2 + PREDICATES) * 2 * SIZE, PREDICATES, False),
    ]
    entities = [[{(r[0], r[1]) for r in text}, {(r[3], r[4]) for r in text}] for text in RELATIONS]
    heads = [[{(r[0], r[3]) for r in text if r[2] == p} for p in range(PREDICATES)] for text in RELATIONS]
    tails = [[{(r[1], r[4]) for r in text if r[2] == p} for p in range(PREDICATES)] for text in RELATIONS]
    loss = loss_of(scores[0], entities) + loss_of(scores[1], heads) + loss_of(scores[2], tails)
    loss.backward()
    texts = []
    for t, length in enumerate(LENGTHS):
        of_text = [s[t, :, :length, :length].detach().numpy() for s in scores]
        texts.append(
            {
                "outputs": [float(v) for v in values[t, :length].ravel()],
                "gradient": [round(float(v), 7) for v in outputs.grad[t, :length].numpy().ravel()],
                "length": length,
                "relations": RELATIONS[t],
                "marked": extract(of_text, length),
            }
        )
    print(json.dumps({"predicates": PREDICATES, "size": SIZE, "loss": float(loss.detach()), "texts": texts}))


main()
