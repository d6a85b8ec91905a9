"""Run by hand with `dadaptation` 3.2 on the path: its DAdaptAdam over some steps. The tests only read what it wrote.

It computes in float64: in float32 its own rounding, which d hands on from step to step, comes to 7e-7.

    pip install --no-deps --no-build-isolation --target FOLDER dadaptation==3.2
    PYTHONPATH=FOLDER python -m tests.golden.make_dadapt_adam
"""

import importlib.metadata
import pathlib

import numpy as np
import torch
from dadaptation import DAdaptAdam

# name: (shape, size of the gradients, decay, layer_scale); a rung of layer-wise decay has a layer_scale of its own
TENSORS = {
    "kernel": ((3, 4, 5), 1.0, 0.05, 1.0),
    "bias": ((5,), 1e-3, 0.0, 1.0),
    "slow": ((4, 6), 1e-2, 0.05, 0.5),
    "quiet": ((7,), 1e-8, 0.0, 0.25),  # epsilon matters
}
# A warm-up from 0, a step in between that does not move, and a fall.
RATES = (0.0, 0.25, 0.5, 0.75, *[1.0] * 5, 0.0, *np.linspace(1.0, 0.05, 11))
SILENT, AGREED = 2, 14  # no gradients at first; then they agree, so that d grows; then they are noise, and it stays
CLIP_NORM = 4.0

rng = np.random.default_rng(0)
golden = {"rates": np.array(RATES), "clip_norm": CLIP_NORM, "decay": 0.05}
for name, (shape, size, _, _) in TENSORS.items():
    gradients = rng.normal(size=(len(RATES), *shape)) * size
    gradients[:AGREED] += rng.normal(size=shape) * size
    gradients[:SILENT] = 0.0
    gradients[:, *np.zeros(len(shape), int)] = 0.0  # a weight that never hears anything
    golden[f"start/{name}"] = rng.normal(size=shape).astype("float32")
    golden[f"gradients/{name}"] = gradients.astype("float32")

for run, clip_norm in (("plain", None), ("clipped", CLIP_NORM)):
    weights = {name: torch.nn.Parameter(torch.tensor(golden[f"start/{name}"]).double()) for name in TENSORS}
    kinds = [{"weight_decay": decay, "layer_scale": scale} for _, _, decay, scale in TENSORS.values()]
    groups = [{"params": [weight], **kind} for weight, kind in zip(weights.values(), kinds, strict=True)]
    optimizer = DAdaptAdam(groups, lr=1.0, betas=(0.9, 0.999), eps=1e-8, decouple=True)
    found = []
    for step, rate in enumerate(RATES):
        for name, weight in weights.items():
            weight.grad = torch.tensor(golden[f"gradients/{name}"][step]).double()
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(weights.values(), clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        found.append([optimizer.param_groups[0][key] for key in ("d", "numerator_weighted")])
    golden[f"{run}/d"], golden[f"{run}/numerator"] = np.array(found).T
    for name, weight in weights.items():
        golden[f"{run}/weights/{name}"] = weight.detach().numpy()
        for ours, theirs in {"first": "exp_avg", "second": "exp_avg_sq", "s": "s"}.items():
            golden[f"{run}/{ours}/{name}"] = optimizer.state[weight][theirs].numpy()
version = importlib.metadata.version("dadaptation")
golden["source"] = f"dadaptation {version} DAdaptAdam(decouple=True), torch {torch.__version__}, float64, seed 0"
np.savez(pathlib.Path(__file__).with_name("dadapt_adam.npz"), **golden)
