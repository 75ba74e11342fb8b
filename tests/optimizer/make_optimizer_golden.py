#!/usr/bin/env python3
"""Updates by other programs, for optimizer_golden_test.cpp: a few steps of PyTorch's and Keras 3's optimizers on three
small parameters, and learning rates of transformers' schedules.

    KERAS_BACKEND=torch python3 make_optimizer_golden.py > ../data/optimizer/golden.json

Needs numpy, torch, keras 3 and transformers.
"""
import json
import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import torch
import transformers

SHAPES = {"block.weight": (6, 5), "block.bias": (5,), "cube": (2, 4, 3)}
STEPS = 6


def draw(generator, scale):
    return {name: (scale * generator.standard_normal(shape)).astype(np.float32) for name, shape in SHAPES.items()}


def flat(arrays):
    return {name: [float(value) for value in np.asarray(array).ravel()] for name, array in arrays.items()}


def run_torch(make, start, gradients):
    weights = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in start.items()}
    optimizer = make(list(weights.values()))
    for gradient in gradients:
        for name, weight in weights.items():
            weight.grad = torch.tensor(gradient[name])
        optimizer.step()
    return {"weights": flat({name: weight.detach().numpy() for name, weight in weights.items()})}


def run_keras(optimizer, start, gradients):
    weights = {name: keras.Variable(value, name=name.replace(".", "_")) for name, value in start.items()}
    optimizer.build(list(weights.values()))
    for gradient in gradients:
        pairs = [(keras.ops.convert_to_tensor(gradient[name]), weight) for name, weight in weights.items()]
        optimizer.apply_gradients(pairs)
    numpy = keras.ops.convert_to_numpy
    result = {"weights": flat({name: numpy(weight.value) for name, weight in weights.items()})}
    if optimizer.use_ema:
        averages = optimizer._model_variables_moving_average
        result["averages"] = flat({name: numpy(average.value) for name, average in zip(weights, averages)})
    return result


def optimizer_cases(start, gradients):
    rates = {"betas": (0.9, 0.95), "eps": 1e-6}
    keras_optimizers = keras.optimizers
    return {
        "torch_adamw": run_torch(
            lambda weights: torch.optim.AdamW(weights, lr=0.01, weight_decay=0.1, **rates), start, gradients),
        "torch_sgd": run_torch(
            lambda weights: torch.optim.SGD(weights, lr=0.01, momentum=0.9), start, gradients),
        "keras_adam": run_keras(keras_optimizers.Adam(0.01, epsilon=1e-4), start, gradients),
        "keras_adamw": run_keras(
            keras_optimizers.AdamW(0.01, weight_decay=0.1, epsilon=1e-4, use_ema=True, ema_momentum=0.9), start, gradients),
        "keras_lamb": run_keras(keras_optimizers.Lamb(0.01, weight_decay=0.1, epsilon=1e-6), start, gradients),
        "keras_lion": run_keras(keras_optimizers.Lion(0.01, weight_decay=0.1), start, gradients),
        "keras_adafactor": run_keras(keras_optimizers.Adafactor(0.5, weight_decay=0.01), start, gradients),
    }


# Up to the end of training: beyond it transformers' cosine rises again, ours stays.
def schedule_cases():
    def rates(make, steps):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
        schedule = make(optimizer)
        result = []
        for _ in range(steps):
            result.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return result

    return {
        "cosine": rates(lambda o: transformers.get_cosine_schedule_with_warmup(o, 5, 40), 41),
        "linear": rates(lambda o: transformers.get_linear_schedule_with_warmup(o, 5, 40), 41),
        "polynomial": rates(
            lambda o: transformers.get_polynomial_decay_schedule_with_warmup(o, 5, 40, lr_end=0.05, power=2.0), 41),
        "constant": rates(lambda o: transformers.get_constant_schedule_with_warmup(o, 5), 41),
    }


def main():
    generator = np.random.default_rng(4)
    start = draw(generator, 0.5)
    gradients = [draw(generator, 0.3) for _ in range(STEPS)]
    print(json.dumps({
        "made_with": {"torch": torch.__version__, "keras": keras.__version__, "transformers": transformers.__version__},
        "shapes": {name: list(shape) for name, shape in SHAPES.items()},
        "start": flat(start),
        "gradients": [flat(gradient) for gradient in gradients],
        "optimizers": optimizer_cases(start, gradients),
        "schedules": schedule_cases(),
    }))


if __name__ == "__main__":
    main()
