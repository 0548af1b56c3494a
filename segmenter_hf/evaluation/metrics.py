"""Mean intersection over union from one confusion matrix."""

import torch


class MeanIoU:
    """
    Counts a confusion matrix over label maps of any and varying size, and divides once, at the end: constant memory,
    and the order and size of the batches change nothing.

    Args:
        num_labels (`int`): Number of classes.
        ignore_index (`int`, *optional*, defaults to 255): Reference label whose pixels do not count at all.
    """

    def __init__(self, num_labels: int, ignore_index: int = 255):
        self.num_labels = num_labels
        self.ignore_index = ignore_index
        self.confusion_matrix = torch.zeros(num_labels, num_labels, dtype=torch.int64)

    def add_batch(self, predictions, references):
        """
        Counts pairs of maps.

        Args:
            predictions (list of integer arrays or tensors of shape `(height, width)`): Predicted labels.
            references (list of the same shapes): True labels, `ignore_index` where there is none.

        Raises:
            ValueError: if a pair's shapes differ or a label is outside `[0, num_labels)`.
        """
        if len(predictions) != len(references):
            raise ValueError(
                f"Expected as many predictions as references, got {len(predictions)} and {len(references)}."
            )
        for prediction, reference in zip(predictions, references, strict=True):
            prediction = torch.as_tensor(prediction).cpu().long()
            reference = torch.as_tensor(reference).cpu().long()
            if prediction.shape != reference.shape:
                raise ValueError(
                    f"A prediction must have its reference's shape {tuple(reference.shape)}, got "
                    f"{tuple(prediction.shape)}. Pass `target_sizes` to the post-processing."
                )
            counted = reference != self.ignore_index
            prediction, reference = prediction[counted], reference[counted]
            for name, labels in (("prediction", prediction), ("reference", reference)):
                if labels.numel() and (labels.min() < 0 or labels.max() >= self.num_labels):
                    raise ValueError(
                        f"A {name} holds labels from {labels.min()} to {labels.max()}, expected 0 to "
                        f"{self.num_labels - 1} or, in references, {self.ignore_index}."
                    )
            counts = torch.bincount(reference * self.num_labels + prediction, minlength=self.num_labels**2)
            self.confusion_matrix += counts.view(self.num_labels, self.num_labels)

    def compute(self) -> dict:
        """
        `mean_iou`, `mean_accuracy` (means over the classes, NaN classes skipped), `overall_accuracy` (of pixels),
        `per_category_iou` and `per_category_accuracy`, all fractions. A class that neither occurs nor is predicted has
        IoU NaN, one that does not occur accuracy NaN. The keys are those of `evaluate`'s `mean_iou`.
        """
        matrix = self.confusion_matrix.double()
        correct, true, predicted = matrix.diag(), matrix.sum(1), matrix.sum(0)
        iou = correct / (true + predicted - correct)
        accuracy = correct / true
        return {
            "mean_iou": iou.nanmean().item(),
            "mean_accuracy": accuracy.nanmean().item(),
            "overall_accuracy": (correct.sum() / true.sum()).item(),
            "per_category_iou": iou.tolist(),
            "per_category_accuracy": accuracy.tolist(),
        }
