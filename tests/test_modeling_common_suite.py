"""
transformers' own tests of models and configurations, on both models and with both decoders (see
transformers_suite.py).
"""

import unittest
from unittest.mock import patch

import torch
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_MAPPING, MODEL_MAPPING_NAMES

from segmenter_hf import SegmenterConfig, SegmenterForSemanticSegmentation, SegmenterModel

from .common import tiny_config
from .transformers_suite import suite_module


test_configuration_common = suite_module("test_configuration_common")
test_modeling_common = suite_module("test_modeling_common")


class SegmenterModelTester:
    """
    Supplies the suite with a tiny configuration and inputs for it, and with the numbers that it should find. The
    images are no multiple of the patch size, and of another size than the position embeddings.
    """

    is_training = True
    batch_size = 3
    image_height, image_width = 30, 41

    def __init__(self, parent: unittest.TestCase, **config_overrides):
        self.parent = parent
        self.config_overrides = config_overrides
        config = self.get_config()
        self.hidden_size = config.hidden_size
        self.num_hidden_layers = config.num_hidden_layers
        self.num_attention_heads = config.num_attention_heads
        grid = (-(-self.image_height // config.patch_size), -(-self.image_width // config.patch_size))
        self.seq_length = grid[0] * grid[1] + 1

    def get_config(self) -> SegmenterConfig:
        return tiny_config(
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.1,
            drop_path_rate=0.1,
            decoder_dropout_prob=0.1,
            decoder_drop_path_rate=0.1,
            **self.config_overrides,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[SegmenterConfig, dict[str, torch.Tensor]]:
        shape = [self.batch_size, 3, self.image_height, self.image_width]
        return self.get_config(), {"pixel_values": test_modeling_common.floats_tensor(shape)}


class SegmenterModelTest(test_modeling_common.ModelTesterMixin, unittest.TestCase):
    all_model_classes = (SegmenterModel, SegmenterForSemanticSegmentation)
    config_overrides = {}

    # Tests of the suite that skip themselves where the tester or the library's tables tell them too little: here they
    # know all, and to skip is an error.
    never_skipped = frozenset(
        f"test_{name}"
        for name in (
            "attention_outputs",
            "batching_equivalence",
            "can_be_initialized_on_meta",
            "can_init_all_missing_weights",  # of models whose configuration file has a copyright of 2023 or later
            "can_set_attention_dynamically",
            "capture_outputs_decorator",
            "correct_missing_keys",
            "hidden_states_output",
            "retain_grad_hidden_states_attentions",
            "sdpa_can_dispatch_non_composite_models",
            "torch_save_load",
            "training",
            "training_gradient_checkpointing",
        )
    )

    # Images have no vocabulary to resize.
    test_resize_embeddings = False

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # Models in the library are in this table, which the suite tells base models by; registered ones are not.
        cls.enterClassContext(patch.dict(MODEL_MAPPING_NAMES, segmenter="SegmenterModel"))

    def setUp(self):
        self.model_tester = SegmenterModelTester(self, **self.config_overrides)

    def skipTest(self, reason):
        self.assertNotIn(self._testMethodName, self.never_skipped, f"skipped: {reason}")
        super().skipTest(reason)

    def test_suite_is_all_there_and_knows_our_models(self):
        # It passes over models that its tables lack, with nothing to show for it.
        tests = set(unittest.TestLoader().getTestCaseNames(type(self)))
        self.assertGreaterEqual(tests, self.never_skipped)
        self.assertGreater(len(tests), 100)
        self.assertIs(MODEL_MAPPING[SegmenterConfig], SegmenterModel)
        self.assertEqual(MODEL_MAPPING_NAMES["segmenter"], SegmenterModel.__name__)
        _, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        inputs = self._prepare_for_class(inputs, SegmenterForSemanticSegmentation, return_labels=True)
        self.assertEqual(inputs["labels"].shape, (self.model_tester.batch_size, *inputs["pixel_values"].shape[-2:]))

    def test_attention_outputs(self):
        # The suite takes all models to have as many kinds of hidden states. Here they are the encoder's, or those of
        # the encoder and the mask transformer.
        for model_class in type(self).all_model_classes:
            with self.subTest(model_class.__name__):
                has_two_kinds = (
                    model_class is SegmenterForSemanticSegmentation
                    and self.model_tester.get_config().decoder_type == "mask_transformer"
                )
                self.model_tester.num_hidden_states_types = 2 if has_two_kinds else 1
                self.all_model_classes = (model_class,)
                super().test_attention_outputs()

    def test_model_get_set_embeddings(self):
        # The suite expects an `nn.Embedding`; the input embeddings of images are those of the patches.
        config = self.model_tester.get_config()
        for model_class in self.all_model_classes:
            with self.subTest(model_class.__name__):
                model = model_class(config)
                self.assertIs(model.get_input_embeddings(), model.base_model.embeddings.patch_embeddings)
                replacement = nn.Identity()
                model.set_input_embeddings(replacement)
                self.assertIs(model.base_model.embeddings.patch_embeddings, replacement)
                self.assertIsNone(model.get_output_embeddings())


class SegmenterLinearDecoderModelTest(SegmenterModelTest):
    """The same on the linear decoder, which concerns only the segmentation model."""

    all_model_classes = (SegmenterForSemanticSegmentation,)
    config_overrides = {"decoder_type": "linear", "use_distillation_token": True}

    def setUp(self):
        super().setUp()
        self.model_tester.seq_length += 1


class SegmenterConfigTest(unittest.TestCase):
    def test_config(self):
        config_tester = test_configuration_common.ConfigTester(
            self,
            config_class=SegmenterConfig,
            has_text_modality=False,
            common_properties=["hidden_size", "num_attention_heads", "num_hidden_layers", "image_size", "patch_size"],
            hidden_size=48,
            num_attention_heads=3,
            decoder_hidden_size=64,
            decoder_type="linear",
        )
        config_tester.run_common_tests()
