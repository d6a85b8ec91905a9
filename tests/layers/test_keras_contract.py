"""Every public layer passes what Keras asks of its own: building, shapes, training, precision, serialisation."""

import pytest
from keras.src import testing

import keras_convnextv2 as kc

LAYERS = [
    (kc.GRN, {"epsilon": 1e-3}, (2, 4, 6, 5), (2, 4, 6, 5), 2, 0),
    (kc.GRN, {}, (2, 7, 5), (2, 7, 5), 2, 0),
    (kc.DepthwiseConv2D, {"kernel_size": 3}, (2, 4, 6, 5), (2, 4, 6, 5), 2, 0),
    (kc.DropPath, {"rate": 0.5, "seed": 1}, (2, 4, 6, 5), (2, 4, 6, 5), 0, 1),
    (kc.ConvNeXtV2Block, {"dim": 5, "drop_path": 0.5, "seed": 1}, (2, 4, 6, 5), (2, 4, 6, 5), 10, 1),
]


@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights:UserWarning")  # of DropPath
class TestLayers(testing.TestCase):
    def test_public_layers(self):
        for layer, arguments, shape, output, weights, seeds in LAYERS:
            with self.subTest(layer.__name__, shape=shape):
                self.run_layer_test(
                    layer,
                    init_kwargs=arguments,
                    input_shape=shape,
                    expected_output_shape=output,
                    expected_num_trainable_weights=weights,
                    expected_num_non_trainable_weights=0,
                    expected_num_seed_generators=seeds,
                    expected_num_losses=0,
                    supports_masking=False,
                    run_training_check=True,
                    run_mixed_precision_check=True,
                )
