"""Run by hand: torch.optim.AdamW over a few steps. The tests only read what it wrote."""

import pathlib

import numpy as np
import torch

STEPS, SIZE = 12, 16
SCALES = (1.0, 1e-4, 1e-7, 1e-10)  # where epsilon is nothing, where it matters, where it rules
RATE, DECAY = 1e-2, 0.05

rng = np.random.default_rng(0)
start = rng.normal(size=(len(SCALES), SIZE)).astype("float32")
gradients = (rng.normal(size=(STEPS, len(SCALES), SIZE)) * np.array(SCALES)[None, :, None]).astype("float32")
gradients[:, 1, 3] = 0.0  # a weight that never hears anything
golden = {"start": start, "gradients": gradients, "rate": RATE, "decay": DECAY}
for name, betas in (("finetune", (0.9, 0.999)), ("pretrain", (0.9, 0.95))):
    weights = [torch.nn.Parameter(torch.tensor(row)) for row in start]
    optimizer = torch.optim.AdamW(weights, lr=RATE, betas=betas, eps=1e-8, weight_decay=DECAY)
    for step in gradients:
        for weight, gradient in zip(weights, step, strict=True):
            weight.grad = torch.tensor(gradient)
        optimizer.step()
    golden[f"{name}_weights"] = np.stack([w.detach().numpy() for w in weights])
    for slot in ("exp_avg", "exp_avg_sq"):
        golden[f"{name}_{slot}"] = np.stack([optimizer.state[w][slot].numpy() for w in weights])
golden["source"] = f"torch {torch.__version__} torch.optim.AdamW, float32, seed 0"
np.savez(pathlib.Path(__file__).with_name("adamw.npz"), **golden)
