"""transformers' UPerNet with random weights: its file, one training step's loss, gradients and statistics.

python make_upernet.py FOLDER
"""

import pathlib
import sys

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import ConvNextV2Config, UperNetConfig, UperNetForSemanticSegmentation


def main(folder):
    torch.set_num_threads(2)
    generator = torch.Generator().manual_seed(0)
    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = ConvNextV2Config(
        depths=[1, 1, 2, 1], hidden_sizes=[8, 12, 16, 20], hidden_act="gelu", out_features=stages
    )
    config = UperNetConfig(
        backbone_config=backbone, hidden_size=24, auxiliary_in_channels=16, auxiliary_channels=12, num_labels=7
    )
    model = UperNetForSemanticSegmentation(config).train()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            fan_in = parameter[0].numel() if parameter.ndim > 1 and parameter.shape[0] > 1 else 0
            parameter.copy_(noise / fan_in**0.5 if fan_in else parameter + 0.2 * noise)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    images = torch.randn((2, 3, 96, 160), generator=generator)
    labels = torch.randint(0, 7, (2, 96, 160), generator=generator)
    labels[0, :30] = labels[1, 70:, 50:] = 255
    outputs = model(images, labels=labels)
    outputs.loss.backward()
    gradients = {f"gradient/{name}": p.grad.norm().numpy() for name, p in model.named_parameters()}
    moving = {f"moving/{name}": b.numpy() for name, b in model.named_buffers() if "running" in name}
    np.savez(
        folder / "expected.npz",
        images=images.permute(0, 2, 3, 1).numpy(),
        labels=labels.numpy().astype("uint8"),
        loss=outputs.loss.item(),
        logits=outputs.logits.detach().permute(0, 2, 3, 1).numpy(),
        **gradients,
        **moving,
    )


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
