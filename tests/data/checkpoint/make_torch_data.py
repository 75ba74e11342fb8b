#!/usr/bin/env python3
"""Makes torch/*.pth of this folder with torch.save, and the seeds in tests/fuzz/corpus/checkpoint_torch/.

Needs: pip install torch (2.15 wrote these). Element i of a tensor that starts at s is s + i / 4, bools aside, so that the
tests know the values. `hostile.pth` would run a command when a careless program loads it.
"""

import os
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch
from torch.serialization import set_crc32_options

FOLDER = Path(__file__).parent / "torch"
CORPUS = Path(__file__).parents[2] / "fuzz" / "corpus" / "checkpoint_torch"


def values(start, *shape):
    count = torch.Size(shape).numel()
    return (start + torch.arange(count, dtype=torch.float64) / 4).reshape(shape)


def kinds():
    base = values(100, 6, 4).float()
    return {
        "f32": values(-3, 3, 5).float(),
        "f16": values(1, 2, 3, 2).half(),
        "bf16": values(2, 7).bfloat16(),
        "f64": values(-1, 2, 2),
        "i64": torch.arange(-2, 3),
        "i32": torch.arange(4, dtype=torch.int32).reshape(2, 2),
        "u8": torch.arange(200, 203, dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]),
        "i16": torch.arange(3, dtype=torch.int16),
        "scalar": torch.tensor(7.5),
        "empty": torch.zeros(0, 3),
        "base": base,
        "rows": base[2:5],
        "row": base[3],
        "column_of_one": base[1:2].t()[:1],
    }


class Command:
    def __reduce__(self):
        return os.system, ("touch /tmp/weft_executed_a_checkpoint",)


class Evaluation:
    def __reduce__(self):
        return eval, ("1 + 1",)


def save(name, what, **options):
    torch.save(what, FOLDER / f"{name}.pth", **options)


def main():
    FOLDER.mkdir(exist_ok=True)
    CORPUS.mkdir(exist_ok=True)
    torch.manual_seed(0)
    save("kinds", kinds())
    module = torch.nn.Linear(3, 2)
    module.weight.data = values(0, 2, 3).float()
    module.bias.data = values(5, 2).float()
    save("module", module.state_dict())
    save("parameters", {"a": torch.nn.Parameter(values(0, 4).float()), "epoch": 3, "rate": 0.1, "far": 2**40,
                        "below": -(2**40), "huge": 2**80, "texts": ["x", None, True], "pair": (1, 2)}, pickle_protocol=4)
    optimizer = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": values(9, 4).float()}},
                 "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99), "params": [0]}]}
    weights = OrderedDict(a=values(0, 4).float(), b=values(1, 2, 2).float())
    save("nested", {"epoch": 3, "state_dict": weights, "optimizer": optimizer})
    save("several", {"model": weights, "average": weights})
    save("beside", {"model": weights, "random_state": torch.zeros(4, dtype=torch.uint8)})
    save("transposed", {"a": values(0, 4).float(), "turned": values(0, 3, 2).float().t()})
    save("every_second", {"a": values(0, 8).float()[::2]})
    save("float8", {"a": values(0, 4).to(torch.float8_e4m3fn)})
    save("conjugate", {"a": torch.zeros(2, dtype=torch.complex64).conj()})
    save("complex", {"a": torch.zeros(2, dtype=torch.complex64)})
    save("module_itself", module)
    save("tensor_itself", values(0, 4).float())
    save("list", [values(0, 4).float()])
    save("numbers", {"epoch": 3})
    save("seven_dimensions", {"a": torch.zeros(1, 1, 1, 1, 1, 1, 2)})
    save("hostile", {"a": values(0, 4).float(), "b": Command()})
    save("evaluation", {"b": Evaluation()}, pickle_protocol=4)
    save("legacy", weights, _use_new_zipfile_serialization=False)
    save("legacy_kinds", kinds(), _use_new_zipfile_serialization=False)
    save("legacy_nested", {"epoch": 3, "state_dict": weights, "optimizer": optimizer}, pickle_protocol=4,
         _use_new_zipfile_serialization=False)
    set_crc32_options(False)
    save("unchecked", weights)
    for name in ["module", "parameters", "nested", "transposed", "hostile"]:
        with zipfile.ZipFile(FOLDER / f"{name}.pth") as archive:
            (CORPUS / f"{name}.pkl").write_bytes(archive.read(f"{name}/data.pkl"))
    for name in ["unchecked", "module", "legacy", "legacy_nested"]:
        (CORPUS / f"{name}.pth").write_bytes((FOLDER / f"{name}.pth").read_bytes())


if __name__ == "__main__":
    main()
