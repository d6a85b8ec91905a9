"""Layer normalisation over channels, and Global Response Normalization with and without the GELU before it.

All statistics run in float32 at least, whatever comes in; the result has the type of the input.
"""

import functools

import keras
from keras import ops

from keras_convnextv2.kernels.table import choose, transforming
from keras_convnextv2.kernels.wall import behind_wall

ENERGY_FLOOR = 1e-24  # sqrt has no slope at 0: one silent channel would turn every gradient into NaN
SQRT_HALF = 0.7071067811865476
INVERSE_SQRT_2PI = 0.3989422804014327


def layer_norm(x, gamma, beta, epsilon):
    """(..., C) -> (..., C), each position by its own mean and variance."""
    gamma, beta = _at_least_float32(gamma), _at_least_float32(beta)
    return choose({"plain": _layer_norm, "torch": _layer_norm_torch})(x, gamma, beta, epsilon)


def grn(x, gamma, beta, epsilon):
    """(B, N, C) -> (B, N, C): `gamma * x * response + beta + x` with the response of `_response`."""
    exact, gamma, beta = (_at_least_float32(tensor) for tensor in (x, gamma, beta))
    return ops.cast(exact * (gamma * _response(exact, epsilon) + 1) + beta, x.dtype)


def gelu_grn(x, gamma, beta, epsilon):
    """(B, N, C) -> (B, N, C): the exact GELU, then GRN."""
    forms = {
        "plain": _gelu_grn,
        "xla": _gelu_grn_behind_walls,
        "tensorflow": _gelu_grn_in_passes,
        "torch": _gelu_grn_torch,
    }
    return choose(forms)(x, _at_least_float32(gamma), _at_least_float32(beta), epsilon)


def _at_least_float32(x):
    return ops.cast(x, keras.backend.result_type(x.dtype, "float32"))


def _layer_norm(x, gamma, beta, epsilon):
    exact = _at_least_float32(x)
    centred = exact - ops.mean(exact, axis=-1, keepdims=True)
    variance = ops.mean(ops.square(centred), axis=-1, keepdims=True)
    return ops.cast(centred * ops.rsqrt(variance + epsilon) * gamma + beta, x.dtype)


def _layer_norm_torch(x, gamma, beta, epsilon):
    import torch.nn.functional as F

    if transforming():
        return _layer_norm(x, gamma, beta, epsilon)
    exact = _at_least_float32(x)
    y = F.layer_norm(exact, (x.shape[-1],), gamma, beta, epsilon)
    return y.to(x.dtype)


def _response(x, epsilon):
    """Each channel's norm over the positions, relative to the channels' mean: (B, N, C) -> (B, 1, C)."""
    norm = ops.sqrt(ops.maximum(ops.sum(ops.square(x), axis=1, keepdims=True), ENERGY_FLOOR))
    return norm / (ops.mean(norm, axis=-1, keepdims=True) + epsilon)


def _gelu(x):
    # Written with erf: TensorFlow's own gelu becomes Erfc, which ONNX does not have.
    return 0.5 * x * (1 + ops.erf(x * SQRT_HALF))


def _gelu_slope(x):
    return 0.5 * (1 + ops.erf(x * SQRT_HALF)) + x * INVERSE_SQRT_2PI * ops.exp(-0.5 * x * x)


def _gelu_grn(x, gamma, beta, epsilon):
    return ops.cast(grn(_gelu(_at_least_float32(x)), gamma, beta, epsilon), x.dtype)


def _as_it_is(function, like, *tensors):
    return function(*tensors)


def _gelu_grn_behind_walls(x, gamma, beta, epsilon):
    return _gelu_grn_in_passes(x, gamma, beta, epsilon, run=behind_wall)


def _gelu_grn_in_passes(x, gamma, beta, epsilon, run=_as_it_is):
    """One pass over the large tensors forward for GELU and one for GRN, two backward; keeps x, GELU(x), the norms.

    Each pass goes through `run`, which has the signature of `behind_wall`.
    """

    @ops.custom_gradient
    def fused(x, gamma, beta):
        activated, energy = run(_activate, (x, _per_channel(x)), x)
        norm = ops.sqrt(energy)[:, None]  # (B, 1, C); its slope at 0 is set below, no floor is needed
        mean = ops.mean(norm, axis=-1, keepdims=True) + epsilon
        scale = gamma * (norm / mean) + 1

        def grad(*args, upstream=None):
            dy = args[0] if upstream is None else upstream
            return _gelu_grn_gradient(dy, x, activated, norm, mean, gamma, run)

        return ops.cast(_at_least_float32(activated) * scale + beta, x.dtype), grad

    return fused(x, gamma, beta)


def _per_channel(x):
    """Shape and type of a sum over the positions."""
    return _at_least_float32(x[:, 0])


def _activate(x):
    activated = _gelu(_at_least_float32(x))
    return ops.cast(activated, x.dtype), ops.sum(ops.square(activated), axis=1)


def _gelu_grn_gradient(dy, x, activated, norm, mean, gamma, run):
    response = norm / mean
    along, total = run(_project, (_per_channel(dy), _per_channel(dy)), dy, activated)
    along = along[:, None]  # (B, 1, C): sum over the positions of dy * a
    dresponse = along * gamma
    dnorm = dresponse / mean - ops.mean(dresponse * norm, axis=-1, keepdims=True) / ops.square(mean)
    # d norm / d a = a / norm; a silent channel (norm 0) gets slope 0.
    pull = ops.where(norm > 0, dnorm / ops.maximum(norm, 1e-30), 0.0)
    dx = run(_through_gelu, x, dy, activated, x, gamma * response + 1, pull)
    return dx, ops.sum(along * response, axis=(0, 1)), ops.sum(total, axis=0)


def _project(dy, activated):
    dy = _at_least_float32(dy)
    return ops.sum(dy * _at_least_float32(activated), axis=1), ops.sum(dy, axis=1)


def _through_gelu(dy, activated, x, scale, pull):
    slope = _at_least_float32(dy) * scale + _at_least_float32(activated) * pull
    return ops.cast(slope * _gelu_slope(_at_least_float32(x)), x.dtype)


def _gelu_grn_torch(x, gamma, beta, epsilon):
    if transforming():
        return _gelu_grn(x, gamma, beta, epsilon)
    return _torch_function().apply(x, gamma, beta, epsilon)


@functools.cache
def _torch_function():
    import torch
    import torch.nn.functional as F

    class GeluGRN(torch.autograd.Function):
        # Each pass writes over what the one before it left: a fresh large tensor costs as much as filling it.

        @staticmethod
        def forward(ctx, x, gamma, beta, epsilon):
            activated = F.gelu(x)
            exact = _at_least_float32(activated)
            y = exact.square()
            norm = y.sum(1, keepdim=True).sqrt_()  # (B, 1, C); vector_norm is far slower along this axis
            mean = norm.mean(-1, keepdim=True) + epsilon
            ctx.save_for_backward(x, activated, norm, mean, gamma, beta)
            ctx.epsilon = epsilon
            return torch.addcmul(beta, exact, gamma * (norm / mean) + 1, out=y).to(x.dtype)

        @staticmethod
        def backward(ctx, dy):
            x, activated, norm, mean, gamma, beta = ctx.saved_tensors
            if torch.is_grad_enabled():  # somebody differentiates the gradient: by the definition, from what came in
                inputs = [x, gamma, beta]
                wanted = [tensor for tensor, needed in zip(inputs, ctx.needs_input_grad[:3], strict=True) if needed]
                y = _gelu_grn(*inputs, ctx.epsilon)
                found = iter(torch.autograd.grad(y, wanted, dy, create_graph=True))
                return *(next(found) if needed else None for needed in ctx.needs_input_grad[:3]), None
            slope, exact, response = _at_least_float32(dy), _at_least_float32(activated), norm / mean
            product = slope * exact
            along = product.sum(1, keepdim=True)  # (B, 1, C)
            dresponse = along * gamma
            dnorm = dresponse / mean - (dresponse * norm).mean(-1, keepdim=True) / mean**2
            pull = torch.where(norm > 0, dnorm / norm.clamp_min(1e-30), 0.0)  # a silent channel gets slope 0
            dactivated = torch.mul(exact, pull, out=product).addcmul_(slope, gamma * response + 1).to(x.dtype)
            dx = torch.ops.aten.gelu_backward.grad_input(dactivated, x, grad_input=dactivated)
            return dx, (along * response).sum((0, 1)), slope.sum((0, 1)), None

    return GeluGRN
