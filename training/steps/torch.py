"""The step on torch: eager (torch.compile gained nothing on CPUs), with an update over all weights at once."""

import math

import torch
from keras import ops

from training.steps.step import BaseStep


def jit_pays():
    return False  # there is no XLA here


class Step(BaseStep):
    def start(self):
        return None

    def put(self, rows):
        return {key: ops.convert_to_tensor(value) for key, value in rows.items()}

    def store(self, state):
        """Nothing: the variables always hold the newest values."""

    def run(self, state, batch, rate):
        size = self.check(batch)
        values = [v.value for v in self.groups["weights"]]
        seeds = [v.value.detach().clone() for v in self.groups["fixed"]]
        for value in values:
            value.grad = None
        loss = 0.0
        for part in range(self.accumulation):
            rows = slice(part * size // self.accumulation, (part + 1) * size // self.accumulation)
            part_loss = ops.sum(self.sample_losses(self.model, {key: v[rows] for key, v in batch.items()})) / size
            part_loss.backward()
            loss = loss + part_loss.detach()
        with torch.no_grad():
            return state, self._update_in_place(values, seeds, loss, rate)

    def _update_in_place(self, values, seeds, loss, rate):
        gradients = [torch.zeros_like(value) if value.grad is None else value.grad for value in values]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        applied = bool(torch.isfinite(norm) & torch.isfinite(loss))  # one wait for the device a step
        iterations, skipped, streak = self.groups["counters"]
        if applied:
            if self.clip_norm is not None:
                torch._foreach_mul_(gradients, torch.clamp(self.clip_norm / (norm + 1e-6), max=1.0))
            self._adamw(values, gradients, int(iterations.value) + 1, rate)
            if self.average:
                torch._foreach_lerp_([v.value for v in self.average], values, 1.0 - self.ema_decay)
            iterations.assign(iterations.value + 1)
            streak.assign(0)
        else:
            for variable, seed in zip(self.groups["fixed"], seeds, strict=True):
                variable.assign(seed)
            skipped.assign(skipped.value + 1)
            streak.assign(streak.value + 1)
        counts = {"skipped": int(skipped.value), "streak": int(streak.value)}
        return {"loss": loss, "grad_norm": norm, "applied": applied, **counts}

    def _adamw(self, values, gradients, t, rate):
        """AdamW.updated over lists of tensors: a few calls instead of a dozen small ones for each weight."""
        adamw = self.optimizer
        first, second = [v.value for v in adamw.first], [v.value for v in adamw.second]
        rates = [rate * multiplier for multiplier in adamw.multipliers]
        torch._foreach_lerp_(first, gradients, 1.0 - adamw.beta_1)
        torch._foreach_mul_(second, adamw.beta_2)
        torch._foreach_addcmul_(second, gradients, gradients, 1.0 - adamw.beta_2)
        roots = torch._foreach_sqrt(second)
        torch._foreach_div_(roots, math.sqrt(1.0 - adamw.beta_2**t))
        torch._foreach_add_(roots, adamw.epsilon)
        torch._foreach_mul_(values, [1.0 - r * decay for r, decay in zip(rates, adamw.decays, strict=True)])
        torch._foreach_addcdiv_(values, first, roots, [-r / (1.0 - adamw.beta_1**t) for r in rates])


def make_predict(model, jit):  # jit: eager, as the step is
    @torch.no_grad()
    def predict(images, weights=None):
        weights = model.trainable_variables if weights is None else weights
        values, fixed = [v.value for v in weights], [v.value for v in model.non_trainable_variables]
        outputs, _ = model.stateless_call(values, fixed, ops.convert_to_tensor(images), training=False)
        return ops.cast(outputs, "float32")

    return predict
