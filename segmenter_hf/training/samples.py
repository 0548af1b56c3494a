"""Training samples that depend on seed, epoch and index alone, not on workers, processes, or a run being resumed."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import TrainerCallback

from ..data.augmentation import SegmentationAugmentation, random_state_of
from ..data.examples import ExampleReader


class Draw(NamedTuple):
    """
    What a sampler asks a dataset for. That the epoch comes along with the index, rather than being set in the dataset,
    is what makes it reach workers that live on from epoch to epoch.
    """

    epoch: int
    index: int


class EpochSampler(Sampler[Draw]):
    """
    Each index once, in an order that depends on the seed and the epoch alone.

    Args:
        num_examples (`int`): Size of the dataset.
        seed (`int`): That of the run.
    """

    def __init__(self, num_examples: int, seed: int):
        self.num_examples = num_examples
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int):
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_examples

    def __iter__(self) -> Iterator[Draw]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_examples)
        return (Draw(self.epoch, int(index)) for index in order)


class SetEpoch(TrainerCallback):
    """
    Tells the sampler the epoch. `Trainer` and accelerate do so too, but not through all of the wrappers that the
    dataloader of a resumed run has on several processes.
    """

    def __init__(self, sampler: EpochSampler):
        self.sampler = sampler

    def on_epoch_begin(self, args, state, control, **kwargs):
        # It has a fraction where a run is resumed within an epoch.
        self.sampler.set_epoch(int(state.epoch))


def iterate_epoch(
    accelerator: Accelerator, loader: DataLoader, sampler: EpochSampler, epoch: int, first_batch: int = 0
) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """
    The batches of an epoch for a loop on accelerate, each with its index.

    Args:
        accelerator (`Accelerator`): The run's.
        loader (`DataLoader`): Prepared by it.
        sampler ([`EpochSampler`]): That of the loader.
        epoch (`int`): The epoch.
        first_batch (`int`, *optional*, defaults to 0): Where a run goes on within the epoch.
    """
    loader = accelerator.skip_first_batches(loader, first_batch) if first_batch else loader
    # accelerate does not tell the sampler through all of its wrappers.
    loader.set_epoch(epoch)
    sampler.set_epoch(epoch)
    # Iterating draws a seed for workers, which within an epoch was drawn before the checkpoint.
    state = torch.get_rng_state() if first_batch else None
    for index, batch in enumerate(loader, first_batch):
        if state is not None:
            torch.set_rng_state(state)
            state = None
        yield index, batch


class TrainingDataset(Dataset):
    """
    Augmented pairs of image and label map.

    Args:
        examples (`Sequence[dict]`): With an `image` and an `annotation` each, such as a `datasets.Dataset`.
        augmentation ([`SegmentationAugmentation`]): Makes each of them a sample.
        seed (`int`): That of the run.

    Raises:
        ValueError: for streaming datasets.
    """

    def __init__(self, examples: Sequence[dict[str, Any]], augmentation: SegmentationAugmentation, seed: int):
        self.examples = examples
        self.reader = ExampleReader(examples)
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, draw: Draw | int) -> dict[str, torch.Tensor]:
        """
        `pixel_values` of shape `(num_channels, crop_height, crop_width)` and `labels` of shape `(crop_height,
        crop_width)`; of a plain index, those of epoch 0.

        Raises:
            ExampleError: if an image or a label map cannot be read, or they do not fit each other; in one line, with
                their files, which is all that the process has to say to which a worker passes it on.
        """
        epoch, index = draw if isinstance(draw, tuple) else (0, draw)
        with self.reader.naming(index, "Training example"), random_state_of(self.seed, epoch, index):
            return self.augmentation(*self.reader[index])


__all__ = ["Draw", "EpochSampler", "SetEpoch", "TrainingDataset", "iterate_epoch"]
