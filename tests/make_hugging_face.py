"""A Hugging Face ConvNextV2 (Femto, 11 classes) with random weights, its file and its answers, for test_parity.

python make_hugging_face.py FOLDER
"""

import pathlib
import sys

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import ConvNextV2Config, ConvNextV2ForImageClassification


def main(folder):
    torch.set_num_threads(2)
    generator = torch.Generator().manual_seed(0)
    config = ConvNextV2Config(
        depths=[2, 2, 6, 2], hidden_sizes=[48, 96, 192, 384], num_labels=11, hidden_act="gelu", layer_norm_eps=1e-6
    )
    model = ConvNextV2ForImageClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # a network at its initialisation hides mistakes: biases are 0, norms are 1, GRN does nothing
            noise = torch.randn(parameter.shape, generator=generator)
            fan_in = parameter[0].numel() if parameter.ndim > 1 and parameter.shape[0] > 1 else 0
            parameter.copy_(noise / fan_in**0.5 if fan_in else parameter + 0.2 * noise)
        images = torch.randn((2, 3, 96, 160), generator=generator)
        logits, pooled = model(images).logits, model.convnextv2(images).pooler_output
    save_file(model.state_dict(), folder / "femto.safetensors", metadata={"format": "pt"})
    np.savez(
        folder / "expected.npz",
        images=images.permute(0, 2, 3, 1).numpy(),
        logits=logits.numpy(),
        pooled=pooled.numpy(),
    )


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
