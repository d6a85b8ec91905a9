"""Writes the golden arrays beside it: numbers of implementations that are not ours. Run by hand; tests only read them.

    python tests/golden/make_golden.py

GRN, block and network come from transformers in float64; GRN is also computed here with numpy. The FCMAE is computed
here twice in float64, with numpy and with torch, by its masked dense definition; torch gives the gradients. Arrays are
channels-last, weights lie under "weights/" and the paths of our variables, and everything that a model takes in is
representable in float16, so that the files stay small. This script imports nothing of the package.
"""

import math
import pathlib

import numpy as np
import torch
import transformers
from torch.nn import functional
from transformers import ConvNextV2Config, ConvNextV2ForImageClassification
from transformers.models.convnextv2.modeling_convnextv2 import ConvNextV2GRN, ConvNextV2Layer

HERE = pathlib.Path(__file__).parent
EPSILON = 1e-6
TORCH = f"torch {torch.__version__}, numpy {np.__version__}, float64"
SOURCE = f"transformers {transformers.__version__}, {TORCH}"


def half(array):
    """Rounded to what float16 can hold, in float64."""
    return np.asarray(array).astype("float16").astype("float64")


def write(name, weights, inputs, outputs, source):
    stored = {f"weights/{path}": w.astype("float16") for path, w in weights.items()}
    stored |= {key: x.astype("float16") for key, x in inputs.items()}
    stored |= {key: np.asarray(y).astype("float32") for key, y in outputs.items()}
    np.savez_compressed(HERE / f"{name}.npz", source=np.array(source), **stored)
    print(f"{name}.npz  {(HERE / f'{name}.npz').stat().st_size / 1024:.0f} KB  {source}")


def random_weights(rng, shapes):
    """Weights that keep activations near 1 and leave nothing at a neutral value (GRN, norms and biases included)."""
    weights = {}
    for path, shape in shapes.items():
        kind = path.rsplit("/", 1)[1]
        if kind == "kernel":
            fan_in = math.prod(shape) // shape[2] if "depthwise" in path else math.prod(shape[:-1])
            value = rng.normal(size=shape) / math.sqrt(fan_in)
        elif kind == "gamma" and "/grn/" not in path:
            value = 1 + 0.2 * rng.normal(size=shape)
        else:  # biases, betas, GRN's gamma, the mask token
            value = 0.3 * rng.normal(size=shape)
        weights[path] = half(value)
    return weights


def block_shapes(prefix, c):
    return {
        f"{prefix}depthwise/kernel": (7, 7, c, 1),
        f"{prefix}depthwise/bias": (c,),
        f"{prefix}norm/gamma": (c,),
        f"{prefix}norm/beta": (c,),
        f"{prefix}expand/kernel": (c, 4 * c),
        f"{prefix}expand/bias": (4 * c,),
        f"{prefix}grn/gamma": (4 * c,),
        f"{prefix}grn/beta": (4 * c,),
        f"{prefix}project/kernel": (4 * c, c),
        f"{prefix}project/bias": (c,),
    }


def encoder_shapes(depths, dims):
    shapes = {"stem/conv/kernel": (4, 4, 3, dims[0]), "stem/conv/bias": (dims[0],)}
    shapes |= {"stem/norm/gamma": (dims[0],), "stem/norm/beta": (dims[0],)}
    for s, (depth, c) in enumerate(zip(depths, dims, strict=True)):
        if s:
            down, before = f"stage_{s}/downsample", dims[s - 1]
            shapes |= {f"{down}/norm/gamma": (before,), f"{down}/norm/beta": (before,)}
            shapes |= {f"{down}/conv/kernel": (2, 2, before, c), f"{down}/conv/bias": (c,)}
        for b in range(depth):
            shapes |= block_shapes(f"stage_{s}/block_{b}/", c)
    return shapes


# transformers


def to_transformers(path, w):
    """Our path and array -> theirs, for the block and the network."""
    parts = path.split("/")
    leaf = {"kernel": "weight", "gamma": "weight", "bias": "bias", "beta": "bias"}[parts[-1]]
    names = {"depthwise": "dwconv", "norm": "layernorm", "expand": "pwconv1", "grn": "grn", "project": "pwconv2"}
    if parts[0] == "stem":
        name = "convnextv2.embeddings." + {"conv": "patch_embeddings", "norm": "layernorm"}[parts[1]]
    elif parts[0].startswith("stage_"):
        stage = f"convnextv2.encoder.stages.{parts[0][6:]}"
        if parts[1] == "downsample":
            name = f"{stage}.downsampling_layer.{0 if parts[2] == 'norm' else 1}"
        else:
            name = f"{stage}.layers.{parts[1][6:]}.{names[parts[2]]}"
    elif len(parts) == 2 and parts[0] in ("norm", "head"):
        name = {"norm": "convnextv2.layernorm", "head": "classifier"}[parts[0]]
    if parts[-1] == "kernel":
        axes = {2: (1, 0), 4: (2, 3, 0, 1) if "depthwise" in path else (3, 2, 0, 1)}[w.ndim]
        w = w.transpose(axes)
    elif "/grn/" in path:
        w = w.reshape(1, 1, 1, -1)
    return f"{name}.{leaf}", torch.from_numpy(np.ascontiguousarray(w))


def channels_last(tensor):
    return tensor.detach().permute(0, 2, 3, 1).numpy()


def make_grn():
    rng = np.random.default_rng(0)
    x, gamma, beta = half(rng.normal(size=(2, 5, 7, 8))), half(rng.normal(size=8)), half(rng.normal(size=8))
    x[1, :, :, 3] = 0.0  # a silent channel belongs in the golden file of every norm
    theirs = ConvNextV2GRN(8).double()
    theirs.load_state_dict(
        {"weight": torch.from_numpy(gamma.reshape(1, 1, 1, 8)), "bias": torch.from_numpy(beta.reshape(1, 1, 1, 8))}
    )
    y = theirs(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(y, grn(x, gamma, beta), rtol=0, atol=1e-12)
    write("grn", {"gamma": gamma, "beta": beta}, {"x": x}, {"y": y}, f"{SOURCE}, ConvNextV2GRN, seed 0")


def make_block():
    rng = np.random.default_rng(1)
    weights, x = random_weights(rng, block_shapes("", 12)), half(rng.normal(size=(2, 6, 9, 12)))
    theirs = ConvNextV2Layer(ConvNextV2Config(hidden_act="gelu"), dim=12, drop_path=0.0).double().eval()
    state = dict(to_transformers(f"stage_0/block_0/{path}", w) for path, w in weights.items())
    theirs.load_state_dict({name.removeprefix("convnextv2.encoder.stages.0.layers.0."): w for name, w in state.items()})
    y = channels_last(theirs(torch.from_numpy(x).permute(0, 3, 1, 2)))
    np.testing.assert_allclose(y, block(x, 1.0, weights, ""), rtol=0, atol=1e-12)
    write("block", weights, {"x": x}, {"y": y}, f"{SOURCE}, ConvNextV2Layer, seed 1")


def make_network():
    depths, dims, classes = (1, 1, 2, 1), (8, 16, 24, 32), 7
    rng = np.random.default_rng(2)
    head = {
        "norm/gamma": (dims[-1],),
        "norm/beta": (dims[-1],),
        "head/kernel": (dims[-1], classes),
        "head/bias": (classes,),
    }
    weights = random_weights(rng, encoder_shapes(depths, dims) | head)
    images = half(rng.normal(size=(2, 44, 72, 3)))  # neither side is a multiple of 32: remainders are dropped
    config = ConvNextV2Config(
        depths=list(depths), hidden_sizes=list(dims), num_labels=classes, hidden_act="gelu", layer_norm_eps=EPSILON
    )
    theirs = ConvNextV2ForImageClassification(config).double().eval()
    theirs.load_state_dict(dict(to_transformers(path, w) for path, w in weights.items()))
    with torch.no_grad():
        x = torch.from_numpy(images).permute(0, 3, 1, 2)
        outputs = theirs(x, output_hidden_states=True)
        pooled = theirs.convnextv2(x).pooler_output
    maps = {f"stage_{s}": channels_last(y) for s, y in enumerate(outputs.hidden_states[1:])}
    results = {"logits": outputs.logits.numpy(), "pooled": pooled.numpy(), **maps}
    source = f"{SOURCE}, ConvNextV2ForImageClassification, depths {depths}, dims {dims}, layer_norm_eps 1e-6, seed 2"
    write("network", weights, {"images": images}, results, source)


# FCMAE, numpy


def layer_norm(x, weights, prefix):
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + EPSILON) * weights[f"{prefix}norm/gamma"] + weights[f"{prefix}norm/beta"]


def grn(x, gamma, beta, stays=1.0):
    norm = np.sqrt(((x * stays) ** 2).sum((1, 2), keepdims=True))
    return gamma * (x * norm / (norm.mean(-1, keepdims=True) + EPSILON)) + beta + x


def patch_convolution(x, kernel, bias):
    """An unpadded convolution whose stride is its size."""
    k = kernel.shape[0]
    b, h, w, c = x.shape
    pieces = x.reshape(b, h // k, k, w // k, k, c)
    return np.einsum("bhpwqc,pqcd->bhwd", pieces, kernel) + bias


def block(x, stays, weights, prefix):
    """A block of the masked dense network; `stays` is (B, H, W, 1), or 1.0 for a whole picture."""
    w = {name: weights[f"{prefix}{name}"] for name in block_shapes("", 1)}
    height, width = x.shape[1:3]
    padded = np.pad(x * stays, ((0, 0), (3, 3), (3, 3), (0, 0)))
    y = np.zeros_like(x)
    for i in range(7):
        for j in range(7):
            y += padded[:, i : i + height, j : j + width] * w["depthwise/kernel"][i, j, :, 0]
    y = layer_norm((y + w["depthwise/bias"]) * stays, weights, prefix) @ w["expand/kernel"] + w["expand/bias"]
    y = y * 0.5 * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))
    y = grn(y, w["grn/gamma"], w["grn/beta"], stays)
    return (x + y @ w["project/kernel"] + w["project/bias"]) * stays


def fcmae_numpy(images, stays, weights, depths):
    """Encoder output, prediction (B, h, w, P * P * C)."""

    def grown(x):  # the mask at the size of a map
        return stays.repeat(x.shape[1] // stays.shape[1], 1).repeat(x.shape[2] // stays.shape[2], 2)

    x = patch_convolution(images, weights["stem/conv/kernel"], weights["stem/conv/bias"])
    x = layer_norm(x, weights, "stem/")
    x = x * grown(x)
    for s, depth in enumerate(depths):
        if s:
            down = f"stage_{s}/downsample/"
            x = layer_norm(x, weights, down)
            x = patch_convolution(x, weights[f"{down}conv/kernel"], weights[f"{down}conv/bias"])
            x = x * grown(x)
        for b in range(depth):
            x = block(x, grown(x), weights, f"stage_{s}/block_{b}/")
    encoded = x
    x = x @ weights["decoder/proj/kernel"] + weights["decoder/proj/bias"]
    x = x * stays + weights["decoder/mask_token"] * (1 - stays)
    x = block(x, 1.0, weights, "decoder/block_0/")
    return encoded, x @ weights["decoder/pred/kernel"] + weights["decoder/pred/bias"]


def loss_numpy(images, prediction, stays, norm_pix_loss):
    b, h, w, f = prediction.shape
    p = math.isqrt(f // images.shape[-1])
    target = images.reshape(b, h, p, w, p, -1).transpose(0, 1, 3, 2, 4, 5).reshape(b, h, w, f)
    if norm_pix_loss:
        target = (target - target.mean(-1, keepdims=True)) / np.sqrt(target.var(-1, ddof=1, keepdims=True) + EPSILON)
    hidden = 1 - stays[..., 0]
    return (((prediction - target) ** 2).mean(-1) * hidden).sum() / hidden.sum()


# FCMAE, torch: the same definition in torch's own operations and layout (B, C, H, W), for the gradients


def torch_norm(x, weights, prefix):
    gamma, beta = weights[f"{prefix}norm/gamma"], weights[f"{prefix}norm/beta"]
    return functional.layer_norm(x.permute(0, 2, 3, 1), gamma.shape, gamma, beta, EPSILON).permute(0, 3, 1, 2)


def torch_linear(x, weights, name):
    kernel = weights[f"{name}/kernel"].T[:, :, None, None]
    return functional.conv2d(x, kernel, weights[f"{name}/bias"])


def torch_block(x, stays, weights, prefix):
    kernel = weights[f"{prefix}depthwise/kernel"].permute(2, 3, 0, 1)
    y = functional.conv2d(x * stays, kernel, weights[f"{prefix}depthwise/bias"], padding=3, groups=x.shape[1])
    y = functional.gelu(torch_linear(torch_norm(y, weights, prefix), weights, f"{prefix}expand"))
    norm = torch.linalg.vector_norm(y * stays, dim=(2, 3), keepdim=True)
    response = norm / (norm.mean(1, keepdim=True) + EPSILON)
    gamma, beta = (weights[f"{prefix}grn/{name}"][:, None, None] for name in ("gamma", "beta"))
    return (x + torch_linear(gamma * y * response + beta + y, weights, f"{prefix}project")) * stays


def torch_loss(images, stays, weights, depths):
    """The loss with normalised targets."""

    def conv(x, name):
        kernel = weights[f"{name}/kernel"].permute(3, 2, 0, 1)
        return functional.conv2d(x, kernel, weights[f"{name}/bias"], stride=kernel.shape[-1])

    def grown(x):
        return functional.interpolate(stays, x.shape[2:], mode="nearest")

    x = torch_norm(conv(images, "stem/conv"), weights, "stem/")
    x = x * grown(x)
    for s, depth in enumerate(depths):
        if s:
            x = conv(torch_norm(x, weights, f"stage_{s}/downsample/"), f"stage_{s}/downsample/conv")
        for b in range(depth):
            x = torch_block(x, grown(x), weights, f"stage_{s}/block_{b}/")
    x = torch_linear(x, weights, "decoder/proj") * stays + weights["decoder/mask_token"][:, None, None] * (1 - stays)
    prediction = torch_linear(torch_block(x, 1.0, weights, "decoder/block_0/"), weights, "decoder/pred")
    p = images.shape[2] // stays.shape[2]
    # unfold lists (channel, row, column); the prediction's channels are (row, column, channel)
    target = functional.unfold(images, p, stride=p).unflatten(1, (images.shape[1], p * p)).transpose(1, 2).flatten(1, 2)
    target = (target - target.mean(1, keepdim=True)) / (target.var(1, keepdim=True, correction=1) + EPSILON).sqrt()
    hidden = 1 - stays.flatten(1)
    return (((prediction.flatten(2) - target) ** 2).mean(1) * hidden).sum() / hidden.sum()


def make_fcmae():
    depths, dims, width, grid, patch = (1, 2, 1), (8, 12, 16), 8, (2, 5), 16
    rng = np.random.default_rng(3)
    shapes = encoder_shapes(depths, dims) | {"decoder/proj/kernel": (dims[-1], width), "decoder/proj/bias": (width,)}
    shapes |= {"decoder/mask_token": (width,)} | block_shapes("decoder/block_0/", width)
    shapes |= {"decoder/pred/kernel": (width, patch * patch * 3), "decoder/pred/bias": (patch * patch * 3,)}
    weights = random_weights(rng, shapes)
    images = half(rng.normal(size=(2, grid[0] * patch, grid[1] * patch, 3)))
    visible = np.sort(np.stack([rng.permutation(10)[:4] for _ in range(2)]), axis=1)
    stays = np.zeros((2, 10))
    np.put_along_axis(stays, visible, 1.0, axis=1)
    stays = stays.reshape(2, *grid, 1)
    encoded, prediction = fcmae_numpy(images, stays, weights, depths)
    losses = {
        name: loss_numpy(images, prediction, stays, name == "loss_norm_pix") for name in ("loss_norm_pix", "loss_plain")
    }
    leaves = {path: torch.from_numpy(w).requires_grad_() for path, w in weights.items()}
    loss = torch_loss(*(torch.from_numpy(a).permute(0, 3, 1, 2) for a in (images, stays)), leaves, depths)
    np.testing.assert_allclose(loss.item(), losses["loss_norm_pix"], rtol=1e-12)
    loss.backward()
    outputs = {"encoded": encoded, "prediction": prediction.reshape(2, 10, -1), **losses}
    outputs |= {f"gradients/{path}": leaf.grad.numpy() for path, leaf in leaves.items()}
    source = f"{TORCH}, masked dense definition, depths {depths}, dims {dims}, decoder {width}, mask ratio 0.6, seed 3"
    write("fcmae", weights, {"images": images, "visible": visible}, outputs, source)


if __name__ == "__main__":
    make_grn()
    make_block()
    make_network()
    make_fcmae()
