"""The step on torch: eager (torch.compile gained nothing on CPUs)."""

import math

import torch
from keras import ops, tree

from training.optimizers import AdamW
from training.steps.step import BaseStep, exact


def jit_pays():
    return False  # there is no XLA here


class Step(BaseStep):
    @torch.no_grad()
    def run(self, state, batch, rate):
        return state, self.one(self.read(), batch, rate)[1]

    @torch.enable_grad()
    def gradients(self, weights, fixed, batch, size):
        loss, fixed = self.loss(weights, fixed, batch, size)
        gradients = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        return loss.detach(), fixed, list(gradients)

    def norm(self, gradients):
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))

    def scaled(self, gradients, factor):
        return list(torch._foreach_mul(gradients, factor))  # not in place: two weights may share a gradient

    def averaged(self, average, weights):
        torch._foreach_lerp_(average, weights, 1.0 - self.ema_decay)
        return average

    def adamw(self, values, gradients, rate):
        """In place over lists of tensors: a few calls instead of a dozen small ones for each weight."""
        adamw, t = self.optimizer, int(values["counters"][0]) + 1
        weights, first, second = (values[name] for name in ("weights", "first", "second"))
        rates = [rate * multiplier for multiplier in adamw.multipliers]
        torch._foreach_lerp_(first, gradients, 1.0 - adamw.beta_1)
        torch._foreach_mul_(second, adamw.beta_2)
        torch._foreach_addcmul_(second, gradients, gradients, 1.0 - adamw.beta_2)
        roots = torch._foreach_sqrt(second)
        torch._foreach_div_(roots, math.sqrt(1.0 - adamw.beta_2**t))
        torch._foreach_add_(roots, adamw.epsilon)
        torch._foreach_mul_(weights, [1.0 - r * decay for r, decay in zip(rates, adamw.decays, strict=True)])
        torch._foreach_addcdiv_(weights, first, roots, [-r / (1.0 - adamw.beta_1**t) for r in rates])
        return {"weights": weights, "first": first, "second": second}

    fused = {AdamW: adamw}

    def choose(self, applied, values, updated, skipped):
        new = updated() if bool(applied) else skipped()  # one wait for the device a step
        self.write(new)
        return new


def make_predict(model, jit, devices):  # jit: eager, as the step is; devices: one
    @torch.no_grad()
    def predict(images, weights=None):
        weights = model.trainable_variables if weights is None else weights
        values, fixed = [v.value for v in weights], [v.value for v in model.non_trainable_variables]
        images = tree.map_structure(ops.convert_to_tensor, images)
        return exact(model.stateless_call(values, fixed, images, training=False)[0])

    return predict
