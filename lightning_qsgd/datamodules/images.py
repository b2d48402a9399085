"""Images: pictures in a folder for each class, or arrays of them.

Shapes: B batch, N images, H, W height and width, C channels.
"""

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_qsgd.datamodules.arrays import ArrayDataModule, Rows, digest_of
from lightning_qsgd.datamodules.duplicates import equal_rows, stratified
from lightning_qsgd.datamodules.frames import Frame, check_labels, name_of, open_npz
from lightning_qsgd.datamodules.image_files import check_is_folder, class_folders, decoded, greyed, images_in, resized
from lightning_qsgd.datamodules.rows import check_is_file, first_three


class Pictures(NamedTuple):
    """Decoded images of one source.

    Attributes:
        pixels: (N, H, W, C): uint8, or float32 in [0, 1].
        names: class of each image; empty for those to predict.
        files: path of each image below its folder; empty for arrays.
    """

    pixels: np.ndarray
    names: list[str]
    files: list[str]


class Images(ArrayDataModule):
    """Images with class labels, from a folder for each class, a NumPy archive, or scikit-learn's digits.

    A folder holds one folder for each class, named by the class, with its images in it or in folders below:
    ``train/cat/1.png``. Formats are PNG, JPEG, BMP, GIF, TIFF and WebP. Hidden files are ignored. An archive (``.npz``)
    holds ``images`` (N, H, W) or (N, H, W, C), with 1 or 3 channels, uint8 or floats in [0, 1], and ``labels`` (N,),
    whole numbers or texts. Without a validation source, a share of the training images is set aside, stratified by
    class; likewise for test.

    Pixels mean what a viewer shows: images are turned upright by their EXIF data, palettes become colours, and
    transparent pixels are refused unless ``background`` is given. 16-bit grey keeps its 16 bits; 16-bit colours are
    read with 8. If some images have colours, grey ones get three equal channels. These are refused with their names:
    broken files, animations, other kinds of pixels, and images of another size than the first unless ``size`` is given.

    All images are decoded once and kept in memory with one byte for each channel of a pixel, or four for floats and
    16-bit images; fit prints how much that is. Inputs are standardized: each channel has mean 0 and standard deviation
    1 over the training images. What that takes is saved in checkpoints.

    Batches are dicts of ``inputs`` (B, C, H, W) float32, ``id`` (B,) int64, the number of the image in its source from
    0, a list ``file`` with its path in the folder, if there is one, and, except for predict, ``labels`` (B,) int64.

    Args:
        train_folder: folder of training images. One of ``train_folder``, ``train_file`` and ``dataset`` is required for
            fit.
        val_folder: folder of validation images. Default: None, ``val_share`` of the training images.
        test_folder: folder of test images. Default: None, ``test_share`` of the training images.
        predict_folder: folder of images to label, without class folders. Default: None, the test images.
        train_file, val_file, test_file, predict_file: archives (``.npz``) instead of these folders; the last one needs
            no ``labels``. Default: None.
        dataset: "digits", the 1797 digits of 8 x 8 pixels that come with scikit-learn. Default: None.
        size: height and width of inputs: a number for squares, or [height, width]. Images of another size are resized,
            whatever their proportions: bilinear, averaged where they shrink. Default: None, the size of all images.
        grey: whether to make images grey, with one channel. Default: False.
        background: grey value in [0, 255] behind transparent pixels: 255 for white. Default: None, which refuses them.
        val_share, test_share: shares of the training images to set aside if there is no source, in (0, 1). Default:
            0.1.
        split_seed: seed of that split, at least 0. Default: 0.
        batch_size: images per batch and process, at least 1; four times as many in evaluation. Default: 32.
        num_workers: processes that load batches, at least 0. Default: 0.

    Attributes:
        predicts: "classes".
        input_shape: (C, H, W), known after ``setup``.
        labels, class_counts: class names, sorted, and the number of training images of each, known after ``setup``.
        channel_mean, channel_scale: mean and standard deviation of each channel, of pixels in [0, 1], over the training
            images, known after ``setup``.

    Raises:
        ValueError: for an invalid argument; for an image that cannot be used, or an unknown class, with its name.
        FileNotFoundError: for a missing folder or file.
        NotADirectoryError: for a file that is given as a folder.
    """

    saved = ("channel_mean", "channel_scale")

    def __init__(
        self,
        train_folder: str | None = None,
        val_folder: str | None = None,
        test_folder: str | None = None,
        predict_folder: str | None = None,
        train_file: str | None = None,
        val_file: str | None = None,
        test_file: str | None = None,
        predict_file: str | None = None,
        dataset: Literal["digits"] | None = None,
        size: int | list[int] | None = None,
        grey: bool = False,
        background: int | None = None,
        val_share: float = 0.1,
        test_share: float = 0.1,
        split_seed: int = 0,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        folders = {"train": train_folder, "val": val_folder, "test": test_folder, "predict": predict_folder}
        files = {"train": train_file, "val": val_file, "test": test_file, "predict": predict_file}
        for split, file in files.items():
            if file is not None and folders[split] is not None:
                raise ValueError(
                    f"Invalid {split}_file: {file}; {split}_folder is {folders[split]}: give one of the two"
                )
        if dataset not in (None, "digits"):
            raise ValueError(
                f"Invalid dataset: {dataset}; use digits, or train_folder or train_file for images of yours"
            )
        if dataset is not None and (train_folder or train_file):
            raise ValueError(f"Invalid dataset: {dataset}; training images are given, too: give one of the two")
        sources = {split: folders[split] or files[split] for split in folders}
        super().__init__(sources | {"train": sources["train"] or dataset}, "folder", val_share, test_share, split_seed,
                         batch_size, num_workers)  # fmt: skip
        sides = [size, size] if isinstance(size, int) else size
        if sides is not None and (len(sides) != 2 or min(sides) < 1):
            raise ValueError(f"Invalid size: {size}; give a number of pixels, at least 1, or [height, width]")
        if background is not None and not 0 <= background <= 255:
            raise ValueError(f"Invalid background: {background}; it must be in [0, 255]: 0 is black, 255 white")
        self.size = None if sides is None else (sides[0], sides[1])
        self.folders, self.dataset, self.grey, self.background = folders, dataset, grey, background
        self.channel_mean: list[float] = []
        self.channel_scale: list[float] = []
        self._pictures_of: dict[str, Pictures] = {}

    # ---- learn from the training images

    def _learn(self) -> None:
        self._source_of("train")
        self._pictures_of.clear()
        self.__dict__.pop("_parts", None)
        places = {split: self._rows_of(split) for split in ("train", "val", "test")}
        names = {split: [found.names[i] for i in part] for split, (found, part) in places.items()}
        pictures, train = places["train"]
        mean, scale = _channel_statistics(pictures.pixels, train)
        if constant := [i for i, value in enumerate(scale) if value == 0]:
            rank_zero_warn(
                f"Channels with one value in all training images: {first_three(constant)}; they are not scaled"
            )
        self.channel_mean, self.channel_scale = mean.tolist(), np.where(scale == 0, 1.0, scale).tolist()
        height, width, channels = pictures.pixels.shape[1:]
        self.input_shape = (channels, height, width)
        self._learn_classes(names, train)
        memory = sum(found.pixels.nbytes for found in self._pictures_of.values()) / 2**20
        rank_zero_info(
            "{} images to train, {} to validate, {} to test; ".format(*(len(part) for _, part in places.values()))
            + f"{len(self.labels)} classes, {channels} x {height} x {width}, {memory:.1f} MiB in memory"
        )
        pairs = {
            split: [(digest_of([found.pixels[i]]), found.names[i]) for i in part]
            for split, (found, part) in places.items()
        }
        if found := equal_rows(pairs, "label", "Remove them from one of the splits", "images"):
            rank_zero_warn(found)

    # ---- read

    def _pictures(self, source: str) -> Pictures:
        if source not in self._pictures_of:
            path = self.sources[source]
            assert path is not None
            if source == "train" and self.dataset:
                self._pictures_of[source] = self._fitted("scikit-learn's digits", *_digits())
            elif self.folders[source]:
                self._pictures_of[source] = self._from_folder(Path(path), source != "predict")
            else:
                self._pictures_of[source] = self._from_archive(Path(path), source != "predict")
        return self._pictures_of[source]

    def _training_name(self) -> str:
        return "scikit-learn's digits" if self.dataset else str(self.sources["train"])

    @cached_property
    def _parts(self) -> dict[str, list[int]]:
        names, aside = self._pictures("train").names, self._aside()
        found = stratified(names, None, [*aside.values()], self.split_seed)
        parts = dict(zip([*aside, "train"], found, strict=True))
        self._check_parts(parts)
        return parts

    def _rows_of(self, split: str) -> tuple[Pictures, list[int]]:
        source = self._source_of(split)
        pictures = self._pictures(source)
        return pictures, self._part_of(split, source, len(pictures.pixels))

    def _digest(self) -> str:
        pictures, part = self._rows_of("train")
        return digest_of([[pictures.names[i] for i in part], *(pictures.pixels[i] for i in part)])

    def _read_split(self, split: str) -> Rows:
        pictures, part = self._rows_of(split)
        where = str(self.sources[self._source_of(split)])
        assert self.input_shape is not None
        channels, *size = self.input_shape
        pixels = pictures.pixels
        if pixels.shape[3] < channels:
            pixels = np.repeat(pixels, channels, axis=3)
        if pixels.shape[3] > channels:
            raise ValueError(
                f"{where} holds images with colours, and the training images are grey; set grey: true, or fit again"
            )
        if [*pixels.shape[1:3]] != size:
            height, width = pixels.shape[1:3]
            raise ValueError(
                f"{where} holds images of {height} x {width} pixels, and the training images have {size[0]} x "
                f"{size[1]}; set size: [{size[0]}, {size[1]}]"
            )
        columns: dict[str, Tensor | list[Any]] = {"id": torch.tensor(part)}
        if pictures.files:
            columns["file"] = [pictures.files[i] for i in part]
        if split != "predict":
            names = [pictures.names[i] for i in part]
            columns["labels"] = self._class_ids(names, lambda rows: f"{where}, {self._names(pictures, part, rows)}")
        mean, scale = torch.tensor(self.channel_mean), torch.tensor(self.channel_scale)
        return Rows(columns, partial(_with_inputs, torch.from_numpy(pixels), mean, scale))

    @staticmethod
    def _names(pictures: Pictures, part: Sequence[int], rows: Sequence[int]) -> str:
        return first_three(pictures.files[part[i]] if pictures.files else f"row {part[i]}" for i in rows)

    def _from_folder(self, folder: Path, labelled: bool) -> Pictures:
        if labelled:
            classes = {name: images_in(inside) for name, inside in class_folders(folder).items()}
            if empty := [name for name, files in classes.items() if not files]:
                raise ValueError(f"{folder}: there are no images in the folders of {first_three(empty)}; remove them")
        else:
            check_is_folder(folder)
            classes = {"": images_in(folder)}
            if not classes[""]:
                raise ValueError(f"{folder} holds no images")
        pairs = [(name, file) for name, files in classes.items() for file in files]
        files = [file.relative_to(folder).as_posix() for _, file in pairs]
        decode = (decoded(file, self.background) for _, file in pairs)
        images = [resized(greyed(p) if self.grey else p, self.size or p.shape[:2]) for p in decode]
        return self._checked(str(folder), images, [name for name, _ in pairs] if labelled else [], files)

    def _checked(self, where: str, images: list[np.ndarray], names: list[str], files: list[str]) -> Pictures:
        """Images of one size and type, stacked.

        Raises:
            ValueError: otherwise, with the names of the others.
        """
        height, width = images[0].shape[:2]
        if other := [file for file, image in zip(files, images, strict=True) if image.shape[:2] != (height, width)]:
            raise ValueError(
                f"{where}: images have different sizes: {files[0]} has {height} x {width} pixels (height x width), and "
                f"{len(other)} others have not: {first_three(other)}; set size, for example "
                f"--data.size {min(height, width)}"
            )
        if other := [file for file, image in zip(files, images, strict=True) if image.dtype != images[0].dtype]:
            kinds = ("8 bits", "16 bits") if images[0].dtype == np.uint8 else ("16 bits", "8 bits")
            raise ValueError(
                f"{where}: {files[0]} has {kinds[0]} for a pixel, and {first_three(other)} {kinds[1]}; save "
                "all with one"
            )
        channels = max(image.shape[2] for image in images)
        pixels = np.empty((len(images), height, width, channels), images[0].dtype)
        for i, image in enumerate(images):
            pixels[i] = image  # grey ones get equal channels
        return Pictures(pixels, names, files)

    def _from_archive(self, path: Path, labelled: bool) -> Pictures:
        check_is_file(path)
        arrays = open_npz(path)
        if missing := [name for name in ("images", "labels")[: 1 + labelled] if name not in arrays]:
            raise ValueError(f"{path}: array {missing[0]!r} is missing; there are: {', '.join(arrays) or 'none'}")
        images, names = arrays["images"], []
        if labelled:
            labels = arrays["labels"]
            if labels.shape != images.shape[:1]:
                raise ValueError(
                    f"{path}: labels have shape {labels.shape}; {len(images)} images need ({len(images)},)"
                )
            check_labels(Frame(str(path), {"labels": labels}), "labels")
            names = [name_of(label) for label in labels]
        return self._fitted(str(path), images, names)

    def _fitted(self, where: str, images: np.ndarray, names: list[str]) -> Pictures:
        """Images of an array, checked, grey if asked for, and resized."""
        images = images[..., None] if images.ndim == 3 else images
        if images.ndim != 4 or 0 in images.shape or images.shape[3] not in (1, 3):
            turn = images.ndim == 4 and images.shape[1] in (1, 3)
            way = "; put channels last: images.transpose(0, 2, 3, 1)" if turn else ""
            raise ValueError(
                f"{where}: images have shape {images.shape}; it must be (N, H, W), or (N, H, W, 1 or 3){way}"
            )
        if images.dtype == bool:
            images = images.astype(np.float32)
        if images.dtype != np.uint8:
            if images.dtype.kind != "f":
                raise ValueError(
                    f"{where}: images have type {images.dtype}; write uint8 in [0, 255], or floats in [0, 1]: "
                    "(images / images.max()).astype('float32')"
                )
            wrong = ~((images >= 0) & (images <= 1)).all((1, 2, 3))  # NaN, too
            if wrong.any():
                raise ValueError(
                    f"{where}, images {first_three(np.flatnonzero(wrong).tolist())} (from 0): floats must be in "
                    "[0, 1]; divide all images by their greatest possible value"
                )
            images = images.astype(np.float32)
        images = greyed(images) if self.grey else images
        if self.size is not None and images.shape[1:3] != self.size:
            images = np.stack([resized(image, self.size) for image in images])
        return Pictures(images, names, [])

    def pictures(self, inputs: Tensor) -> Tensor:
        """Undo the standardization of inputs, to show them.

        Args:
            inputs: (B, C, H, W).

        Returns:
            Pixels (B, H, W, C), float32 in [0, 1], on the CPU.
        """
        mean, scale = torch.tensor(self.channel_mean), torch.tensor(self.channel_scale)
        return (inputs.detach().float().cpu().permute(0, 2, 3, 1) * scale + mean).clamp(0, 1)


def _digits() -> tuple[np.ndarray, list[str]]:
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    return (found.images / 16).astype(np.float32), [str(label) for label in found.target]


def _channel_statistics(pixels: np.ndarray, part: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel of some images, of pixels in [0, 1]; a few at a time, for memory."""
    unit = 255.0 if pixels.dtype == np.uint8 else 1.0
    blocks = [part[i : i + 256] for i in range(0, len(part), 256)]

    def mean_of(power: int, shift: np.ndarray | float) -> np.ndarray:
        sums = [(((pixels[block] / unit) - shift) ** power).sum((0, 1, 2), dtype=np.float64) for block in blocks]
        return np.sum(sums, 0) / (len(part) * pixels.shape[1] * pixels.shape[2])

    mean = mean_of(1, 0.0)
    scale = np.sqrt(mean_of(2, mean))
    return mean, np.where(scale < 1e-7, 0.0, scale)


def _with_inputs(pixels: Tensor, mean: Tensor, scale: Tensor, batch: dict[str, Any]) -> dict[str, Any]:
    found = pixels[batch["id"]]
    unit = 255 if pixels.dtype == torch.uint8 else 1
    inputs = ((found.float() / unit - mean) / scale).permute(0, 3, 1, 2)  # (B, C, H, W)
    # contiguous() would keep the strides where C = 1; convolutions then take it for channels_last, and DDP warns.
    return {"inputs": inputs.clone(memory_format=torch.contiguous_format)} | batch
