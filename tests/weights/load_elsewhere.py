"""Files that this package wrote, loaded by the library they were written for, for test_writing.

python -m tests.weights.load_elsewhere timm|transformers FOLDER

FOLDER holds what `written` in test_writing makes, and images.npy (B, H, W, 3). The answers go to FOLDER/<library>.npz.
Exit code 3: the library cannot be imported.
"""

import importlib
import pathlib
import sys

import numpy as np
import torch

from keras_convnextv2.convert.libraries import NOT_HERE, import_torchvision


def main(library, folder):
    try:
        import_torchvision()
        importlib.import_module(library)
    except ImportError as error:
        print(f"{library} cannot be imported ({error})", file=sys.stderr)
        return NOT_HERE
    images = torch.from_numpy(np.load(folder / "images.npy")).permute(0, 3, 1, 2)
    with torch.inference_mode():
        answers = {"timm": by_timm, "transformers": by_transformers}[library](folder, images)
    np.savez(folder / f"{library}.npz", **{name: tensor.numpy() for name, tensor in answers.items()})
    return 0


def by_timm(folder, images):
    import timm
    from timm.data import resolve_data_config

    by_config = timm.create_model(f"local-dir:{folder / 'timm'}", pretrained=True).eval()
    atto = timm.create_model("convnextv2_atto", num_classes=7, checkpoint_path=folder / "atto.safetensors").eval()
    official = timm.create_model(
        "convnextv2_atto", num_classes=7, pretrained=True, pretrained_cfg_overlay=official_file(folder)
    ).eval()
    encoder = timm.create_model(f"local-dir:{folder / 'timm_encoder'}", pretrained=True).eval()
    data = resolve_data_config({}, model=by_config)
    return {
        "logits": by_config(images),
        "atto": atto(images),
        "official": official(images),
        "features": encoder.forward_features(images).permute(0, 2, 3, 1),
        "mean": torch.tensor(data["mean"]),
        "input_size": torch.tensor(data["input_size"]),
        "classes": torch.tensor([by_config.num_classes, encoder.num_classes]),
    }


def official_file(folder):
    return {"file": str(folder / "official" / "model.pt"), "num_classes": 7}


def by_transformers(folder, images):
    from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification

    model, loading = AutoModelForImageClassification.from_pretrained(folder / "huggingface", output_loading_info=True)
    encoder, loading_encoder = AutoModel.from_pretrained(folder / "huggingface_encoder", output_loading_info=True)
    for info in (loading, loading_encoder):
        assert not any(info.values()), info  # nothing missing, unexpected or of another shape
    processor = AutoImageProcessor.from_pretrained(folder / "huggingface")
    picture = np.zeros((300, 400, 3), "uint8")
    return {
        "logits": model.eval()(images).logits,
        "features": encoder.eval()(images).last_hidden_state.permute(0, 2, 3, 1),
        "mean": torch.tensor(processor.image_mean),
        "processed": torch.tensor(processor(picture, return_tensors="np")["pixel_values"].shape),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], pathlib.Path(sys.argv[2])))
