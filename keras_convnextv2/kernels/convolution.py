"""Convolutions: the network's, depthwise with zero padding that keeps the size and patch by patch, and the heads'."""

from keras import ops

from keras_convnextv2.kernels.pointwise import rows_of, summed_products
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


def patch_conv_transpose(x, kernel, bias):
    """The other way, each position to a patch of its own: (B, H, W, C), (k, k, D, C), (D,) -> (B, k * H, k * W, D)"""
    forms = {
        "plain": _patch_conv_transpose_plain,
        "xla": _patches_of_positions,
        "torch": _patch_conv_transpose_torch,
    }
    return choose(forms)(x, kernel, bias)


def _patch_conv_transpose_plain(x, kernel, bias):
    strides = kernel.shape[0]
    return ops.conv_transpose(x, kernel, strides=strides, padding="valid", data_format="channels_last") + bias


def _patch_conv_transpose_torch(x, kernel, bias):
    import torch.nn.functional as F

    y = F.conv_transpose2d(x.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), bias, stride=kernel.shape[0])
    return y.permute(0, 2, 3, 1).contiguous()


def _patches_of_positions(x, kernel, bias):
    # One product: XLA on a CPU takes 50 times as long for the kernel's gradient of the transposed convolution.
    k, _, dim, channels = kernel.shape
    height, width = ops.shape(x)[1:3]
    x = ops.matmul(x, ops.reshape(ops.transpose(kernel, (3, 0, 1, 2)), (channels, k * k * dim)))
    x = ops.transpose(ops.reshape(x, (-1, height, width, k, k, dim)), (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, height * k, width * k, dim)) + bias


def same_conv(x, kernel):
    """Stride 1, zero padding that keeps the size, odd kernels: (B, H, W, C), (k, k, C, D) -> (B, H, W, D)."""
    static = None not in x.shape
    forms = {"plain": _same_conv_plain, "xla": _same_conv_xla, "torch": _same_conv_torch}
    return choose(forms, static)(x, kernel)


def _same_conv_plain(x, kernel):
    return ops.conv(x, kernel, padding="same", data_format="channels_last")


def _same_conv_torch(x, kernel):
    import torch.nn.functional as F

    # Keras' own copies the input into the other memory format and back.
    y = F.conv2d(x.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), padding=kernel.shape[0] // 2)
    return y.permute(0, 2, 3, 1).contiguous()


def _same_conv_xla(x, kernel):
    """The kernel's gradient is a product for each of its positions: XLA's own on a CPU takes 2 to 3 times that."""
    convolve = _same_conv_plain if kernel.shape[0] > 1 else lambda x, kernel: ops.matmul(x, kernel[0, 0])

    @ops.custom_gradient
    def with_gradient(x, kernel):
        def grad(*args, upstream=None):
            dy = args[0] if upstream is None else upstream
            dx = convolve(dy, ops.transpose(ops.flip(kernel, (0, 1)), (0, 1, 3, 2)))
            return dx, _products_of_shifts(x, dy, kernel.shape[0])

        return convolve(x, kernel), grad

    return with_gradient(x, kernel)


def _products_of_shifts(x, dy, side):
    height, width = x.shape[1:3]
    margin = (side // 2, side // 2)
    padded, dy = ops.pad(x, ((0, 0), margin, margin, (0, 0))), rows_of(dy)
    shifts = [padded[:, i : i + height, j : j + width] for i in range(side) for j in range(side)]
    found = ops.stack([summed_products(rows_of(shift), dy) for shift in shifts])
    return ops.reshape(found, (side, side, *found.shape[1:]))
