"""The two convolutions of the network: depthwise with zero padding that keeps the size, and patch by patch."""

from keras import ops

from keras_convnextv2.kernels.table import choose
from keras_convnextv2.kernels.wall import behind_wall

# The kernel gradient unrolls this many columns of a map into one fused expression; twice as many compiles far slower.
UNROLLED_COLUMNS = 16


def depthwise(x, kernel, bias):
    """Stride 1, zero padding that keeps the size, odd kernels: (B, H, W, C), (k, k, C, 1), (C,) -> (B, H, W, C)."""
    static = None not in x.shape[1:3]
    return choose({"plain": _depthwise_plain, "xla": _depthwise_xla, "torch": _depthwise_torch}, static)(
        x, kernel, bias
    )


def _depthwise_plain(x, kernel, bias):
    return ops.depthwise_conv(x, kernel, padding="same", data_format="channels_last") + bias


def _depthwise_torch(x, kernel, bias):
    import torch.nn.functional as F

    # (B, C, H, W) views of (B, H, W, C) memory are torch's channels-last format: no copy, and its fastest route.
    image = x.permute(0, 3, 1, 2)
    if _slow_gradient(x):
        image = image.contiguous()
    y = F.conv2d(image, kernel.permute(2, 3, 0, 1), bias, padding=kernel.shape[0] // 2, groups=x.shape[-1])
    return y.permute(0, 2, 3, 1).contiguous()


def _slow_gradient(x):
    """On CUDA cuDNN's float32 gradient of it in channels-last memory takes 1.7 times that with both copies."""
    import torch

    return x.is_cuda and x.dtype == torch.float32 and torch.is_grad_enabled()


def _depthwise_xla(x, kernel, bias):
    @ops.custom_gradient
    def convolve(x, kernel, bias):
        def grad(*args, upstream=None):
            dy = args[0] if upstream is None else upstream
            dx = behind_wall(_shifted_sum, dy, dy, kernel, ops.zeros_like(bias))
            dkernel = _kernel_gradient(x, dy, kernel.shape[0])
            dbias = ops.sum(ops.cast(dy, "float32"), axis=(0, 1, 2))
            return dx, ops.cast(dkernel[..., None], kernel.dtype), ops.cast(dbias, bias.dtype)

        return behind_wall(_shifted_sum, x, x, ops.flip(kernel, (0, 1)), bias), grad

    return convolve(x, kernel, bias)


def _shifted_sum(x, kernel, bias):
    """The convolution with the flipped kernel as a sum of k*k shifted maps: one vectorised expression under XLA.

    The flip stands here since a branch without such an operation counts as cheap: XLA would compute both, and no wall
    would be left.
    """
    side, (height, width) = kernel.shape[0], x.shape[1:3]
    kernel, total = ops.cast(ops.flip(kernel, (0, 1))[..., 0], "float32"), ops.cast(bias, "float32")
    margin = (side // 2, side // 2)
    padded = ops.pad(ops.cast(x, "float32"), ((0, 0), margin, margin, (0, 0)))
    for i in range(side):
        for j in range(side):
            total = total + padded[:, i : i + height, j : j + width] * kernel[i, j]
    return ops.cast(total, x.dtype)


def _kernel_gradient(x, dy, side):
    """(B, H, W, C) twice -> (k, k, C): a window of x for each position of dy, added up in the order of the memory."""
    batch, (height, width, channels) = ops.shape(x)[0], x.shape[1:]
    pieces = -(-width // UNROLLED_COLUMNS)  # of a row
    columns = -(-width // pieces)
    rows = max(1, min(height, UNROLLED_COLUMNS // columns))
    bands = -(-height // rows)
    # Zeros beyond the map complete the last band and piece; they add nothing.
    more_rows, more_columns = bands * rows - height, pieces * columns - width
    dy = ops.pad(ops.cast(dy, "float32"), ((0, 0), (0, more_rows), (0, more_columns), (0, 0)))
    before = side // 2
    x = ops.cast(x, "float32")
    x = ops.pad(x, ((0, 0), (before, before + more_rows), (before, before + more_columns), (0, 0)))

    def add_band(step, total):  # total (B, k, k, C)
        top, left = (step // pieces) * rows, (step % pieces) * columns
        for row in range(rows):
            for column in range(columns):
                # A slice of its own for each position: one slice of the whole band would be copied first.
                place = (0, top + row, left + column, 0)
                window = ops.slice(x, place, (batch, side, side, channels))
                total = total + window * ops.slice(dy, place, (batch, 1, 1, channels))
        return total

    start = ops.zeros((batch, side, side, channels), "float32")
    return ops.sum(ops.fori_loop(0, bands * pieces, add_band, start), axis=0)


def patch_conv(x, kernel, bias):
    """Convolution whose stride is its kernel size, without padding: the remainder of a size is dropped.

    (B, H, W, C), (k, k, C, D), (D,) -> (B, H // k, W // k, D)
    """
    forms = {"plain": _patch_conv_plain, "xla": _matrix_product, "torch": _patch_conv_torch}
    return choose(forms)(x, kernel, bias)


def _patch_conv_plain(x, kernel, bias):
    return ops.conv(x, kernel, strides=kernel.shape[0], padding="valid", data_format="channels_last") + bias


def _patch_conv_torch(x, kernel, bias):
    import torch.nn.functional as F

    # Keras' own asks for a memory format, which neither vmap nor ONNX takes.
    y = F.conv2d(x.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), bias, stride=kernel.shape[0])
    return y.permute(0, 2, 3, 1).contiguous()


def _matrix_product(x, kernel, bias):
    # Cut into patches, then one product: XLA's strided convolution on a CPU is far slower.
    k, _, channels, dim = kernel.shape
    height, breadth = (size // k for size in ops.shape(x)[1:3])
    x = ops.reshape(x[:, : height * k, : breadth * k], (-1, height, k, breadth, k, channels))
    x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, height, breadth, k * k * channels))
    return ops.matmul(x, ops.reshape(kernel, (k * k * channels, dim))) + bias
