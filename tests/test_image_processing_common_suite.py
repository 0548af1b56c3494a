"""
transformers' own tests of image processors, on both backends, with whole images and windows (see
transformers_suite.py).
"""

import pickle
import tempfile
import unittest

import numpy as np
import pytest
import torch

from segmenter_hf import SegmenterImageProcessor, SegmenterImageProcessorPil
from segmenter_hf.modeling_segmenter import SegmenterSemanticSegmenterOutput

from .common import run_python
from .transformers_suite import suite_module


test_image_processing_common = suite_module("test_image_processing_common")


class SegmenterImageProcessingTester(test_image_processing_common.ImageProcessingTester):
    def __init__(self, parent, **settings):
        super().__init__(
            parent,
            **{
                "num_labels": 5,
                "size": {"height": 18, "width": 20},
                "image_mean": [0.4, 0.5, 0.6],
                "image_std": [0.2, 0.3, 0.4],
                **settings,
            },
        )

    def _get_image_processing_classes(self):
        # The suite would look them up among those of the library, find none, and pass over every test.
        return {"torchvision": SegmenterImageProcessor, "pil": SegmenterImageProcessorPil}


class SplittingSegmenterImageProcessingTester(SegmenterImageProcessingTester):
    """Windows of the size to which images are resized: one each, as the suite expects one row for each image."""

    def __init__(self, parent):
        super().__init__(parent, do_split_image=True, crop_size={"height": 18, "width": 20}, window_stride=16)

    def prepare_post_process_semantic_segmentation_inputs(self):
        """The suite's are logits without offsets, which are refused of windows."""
        logits = torch.randn(self.batch_size, self.num_labels, 2, 2)
        offsets = torch.tensor([[index, 0, 0, 18, 20, 18, 20] for index in range(self.batch_size)])
        outputs = SegmenterSemanticSegmenterOutput(logits=logits, window_offsets=offsets)
        return {"outputs": outputs}, {"num_labels": self.num_labels, "height": 18, "width": 20}


class SegmenterImageProcessingTest(
    test_image_processing_common.ImageProcessingTestMixin,
    test_image_processing_common.PostProcessSemanticSegmentationTestMixin,
    unittest.TestCase,
):
    image_processor_tester_class = SegmenterImageProcessingTester
    # Otherwise `test_cast_dtype_device` does nothing.
    test_cast_dtype = True

    def test_suite_runs_on_both_backends(self):
        self.assertEqual(
            self.image_processing_classes, {"torchvision": SegmenterImageProcessor, "pil": SegmenterImageProcessorPil}
        )
        for name, value in self.image_processor_tester.prepare_image_processor_dict().items():
            for image_processing_class in self.image_processing_classes.values():
                self.assertNotEqual(getattr(image_processing_class, name), value, f"{name} is the default")
        self.assertIn("size", self.image_processor_dict)

    @pytest.mark.slow
    def test_pil_can_run_without_torchvision(self):
        # The suite's own is for classes that transformers brings along: its interpreter never imports this package.
        image_processor = SegmenterImageProcessorPil(**self.image_processor_dict)
        images = self.image_processor_tester.prepare_image_inputs(equal_resolution=False)
        expected = image_processor(images)
        with tempfile.TemporaryDirectory() as folder:
            image_processor.save_pretrained(f"{folder}/processor")
            with open(f"{folder}/images.pkl", "wb") as file:
                pickle.dump(images, file)
            run_python(
                """
import pickle, sys
sys.modules["torchvision"] = None  # raises ImportError on `import torchvision`
import segmenter_hf
from transformers import AutoImageProcessor

image_processor = AutoImageProcessor.from_pretrained("processor")
assert type(image_processor) is segmenter_hf.SegmenterImageProcessorPil
with open("images.pkl", "rb") as file:
    outputs = image_processor(pickle.load(file))
with open("outputs.pkl", "wb") as file:
    pickle.dump(outputs.data, file)
""",
                cwd=folder,
            )
            with open(f"{folder}/outputs.pkl", "rb") as file:
                np.testing.assert_equal(pickle.load(file), expected.data)


class SplittingSegmenterImageProcessingTest(SegmenterImageProcessingTest):
    image_processor_tester_class = SplittingSegmenterImageProcessingTester
