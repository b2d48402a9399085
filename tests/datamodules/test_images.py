import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from lightning_qsgd.datamodules import Images
from lightning_qsgd.datamodules.image_files import resized

RANDOM = np.random.default_rng(0)


def picture(shade=0, size=(4, 6), mode="RGB"):
    """An image of (height, width) whose pixels are near a shade."""
    channels = (3,) if mode == "RGB" else ()
    return Image.fromarray((RANDOM.integers(0, 56, (*size, *channels)) + shade).astype(np.uint8))


@pytest.fixture
def folder(tmp_path):
    """Writes 10 images of each class; then those given by name."""

    def write(name="train", classes=("cat", "dog"), number=10, mode="RGB", size=(4, 6), **files):
        for i, label in enumerate(classes):
            (tmp_path / name / label).mkdir(parents=True, exist_ok=True)
            for j in range(number):
                picture(100 * i, size, mode).save(tmp_path / name / label / f"{j}.png")
        for place, content in files.items():
            path = tmp_path / name / place.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content) if isinstance(content, bytes) else content.save(path)
        return str(tmp_path / name)

    return write


def ready(**options):
    data = Images(**options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.setup("fit")
    return data


def all_rows(data, split="train"):
    rows = data.rows(split)
    return rows.__getitems__(range(len(rows)))


def png(bits, kind, *values):
    """A PNG file of one row of pixels, which Pillow cannot write; kind 0 is grey, 2 colour."""
    width = len(values) // {0: 1, 2: 3}[kind]

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, 1, bits, kind, 0, 0, 0)
    data = b"\0" + struct.pack(f">{len(values)}{'H' if bits == 16 else 'B'}", *values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


# ---- what a batch holds


def test_digits_are_those_of_scikit_learn():
    data = ready(dataset="digits")
    assert data.predicts == "classes"
    assert data.labels == [str(i) for i in range(10)]
    assert data.input_shape == (1, 8, 8)
    batch = all_rows(data)
    assert batch["inputs"].dtype == torch.float32
    assert batch["labels"].dtype == torch.int64
    assert batch["inputs"].stride() == (64, 64, 8, 1)
    assert batch["inputs"].mean() == pytest.approx(0, abs=1e-5)
    assert batch["inputs"].std() == pytest.approx(1, abs=1e-3)
    found = load_digits()
    np.testing.assert_allclose(data.pictures(batch["inputs"])[..., 0], found.images[batch["id"]] / 16, atol=1e-6)
    assert (found.target[batch["id"]] == batch["labels"].numpy()).all()
    ids = [all_rows(data, split)["id"] for split in ("train", "val", "test")]
    assert sorted(torch.cat(ids).tolist()) == list(range(1797))
    assert "labels" not in all_rows(data, "predict")


def test_folders_are_classes_and_batches_hold_pixels_and_files(folder):
    data = ready(train_folder=folder())
    assert data.labels == ["cat", "dog"]
    assert data.class_counts == [8, 8]
    assert data.input_shape == (3, 4, 6)
    batch = all_rows(data)
    np.testing.assert_allclose(batch["inputs"].mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(batch["inputs"].std((0, 2, 3), correction=0), 1, atol=1e-5)
    for pixels, file, label in zip(data.pictures(batch["inputs"]), batch["file"], batch["labels"]):
        assert file.split("/")[0] == data.labels[label]
        with Image.open(f"{data.sources['train']}/{file}") as image:
            np.testing.assert_allclose(pixels * 255, np.asarray(image), atol=1e-3)
    (first, *_) = data.train_dataloader()
    assert set(first) == {"inputs", "labels", "id", "file"}
    assert first["inputs"].shape == (16, 3, 4, 6)


def test_archives_are_read_as_folders_are(folder, tmp_path):
    reference = ready(train_folder=folder())
    images = [all_rows(reference, split) for split in ("train", "val", "test")]
    order = np.argsort(np.concatenate([batch["id"] for batch in images]))
    pixels = np.concatenate([reference.pictures(batch["inputs"]) for batch in images])[order]
    labels = np.concatenate([[batch["file"][i].split("/")[0] for i in range(len(batch["id"]))] for batch in images])
    for name, array in {"bytes": np.rint(255 * pixels).astype(np.uint8), "floats": pixels}.items():
        np.savez(tmp_path / f"{name}.npz", images=array, labels=labels[order])
        data = ready(train_file=str(tmp_path / f"{name}.npz"))
        for split in ("train", "val", "test"):
            found, expected = all_rows(data, split), all_rows(reference, split)
            torch.testing.assert_close(found["inputs"], expected["inputs"], atol=1e-4, rtol=0)
            assert torch.equal(found["labels"], expected["labels"])


def test_a_checkpoint_brings_normalization_and_classes(folder):
    data = ready(train_folder=folder())
    other = folder("new", number=2)
    new = Images(test_folder=other, predict_folder=other, num_workers=1, batch_size=1)
    new.load_state_dict(data.state_dict())
    assert new.input_shape == (3, 4, 6)
    (test,), (predict,) = new.test_dataloader(), new.predict_dataloader()
    assert test["file"] == predict["file"] == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]
    assert test["labels"].tolist() == [0, 0, 1, 1]
    assert "labels" not in predict
    expected = np.stack([np.asarray(Image.open(f"{other}/{file}")) for file in test["file"]]) / 255
    expected = (expected - data.channel_mean) / data.channel_scale
    np.testing.assert_allclose(test["inputs"].permute(0, 2, 3, 1), expected, atol=1e-5)


# ---- what pixels mean


def pixels_of(folder, name, content, **options):
    """Pixels (H, W, C) of one image to predict, in [0, 255]."""
    path = folder(f"one{len(list(folder.__closure__[0].cell_contents.iterdir()))}", (), **{name: content})
    data = Images(predict_folder=path, **options)
    pixels = data._pictures("predict").pixels[0]
    return (255 * pixels.astype(float) if pixels.dtype == np.float32 else pixels).round(2).tolist()


def test_pixels_are_what_a_viewer_shows(folder):
    grey = Image.fromarray(np.array([[10, 200]], dtype=np.uint8))
    assert pixels_of(folder, "a_dot_png", grey) == [[[10], [200]]]
    assert pixels_of(folder, "a_dot_gif", grey) == [[[10], [200]]]  # GIF keeps a palette of greys
    assert pixels_of(folder, "a_dot_bmp", grey.convert("1", dither=Image.Dither.NONE)) == [[[0], [255]]]
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((0, 0), 0)
    assert pixels_of(folder, "a_dot_png", palette) == [[[255, 0, 0], [0, 0, 255]]]
    assert pixels_of(folder, "a_dot_png", palette, grey=True) == [[[76], [29]]]
    opaque = palette.convert("RGBA")
    assert pixels_of(folder, "a_dot_webp", encoded(opaque, "WEBP", lossless=True)) == [[[255, 0, 0], [0, 0, 255]]]
    assert pixels_of(folder, "a_dot_png", png(16, 2, 65535, 0, 256, 0, 0, 0)) == [[[255, 0, 1], [0, 0, 0]]]
    assert pixels_of(folder, "a_dot_jpg", encoded(Image.new("CMYK", (1, 1), (0, 0, 0, 255)), "JPEG")) == [[[0, 0, 0]]]
    two_views = encoded(Image.new("L", (1, 1), 50), "MPO", save_all=True, append_images=[Image.new("L", (1, 1), 90)])
    assert pixels_of(folder, "a_dot_jpg", two_views) == [[[50]]]


def test_16_bit_grey_is_not_clipped(folder):
    """Pillow's own conversion makes 300 of 65535 white."""
    assert pixels_of(folder, "a_dot_png", png(16, 0, 0, 300, 65535)) == [[[0], [1.17], [255]]]
    tiff = encoded(Image.fromarray(np.array([[0, 300, 65535]], dtype=np.uint16)), "TIFF")
    assert pixels_of(folder, "a_dot_tif", tiff) == [[[0], [1.17], [255]]]


def test_images_stand_upright_as_their_exif_data_say(folder):
    image = Image.fromarray(np.array([[0, 255]], dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    assert pixels_of(folder, "a_dot_png", encoded(image, "PNG", exif=exif)) == [[[0]], [[255]]]


def test_transparent_pixels_need_a_background(folder):
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    with pytest.raises(ValueError, match=r"a.png is transparent in places; set background, .*: 255 for white"):
        pixels_of(folder, "a_dot_png", image)
    assert pixels_of(folder, "a_dot_png", image, background=255) == [[[255, 255, 255], [255, 0, 0]]]
    grey = Image.new("LA", (2, 1), (100, 255))
    grey.putpixel((0, 0), (0, 0))
    assert pixels_of(folder, "a_dot_png", grey, background=7) == [[[7], [100]]]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 255))
def test_resizing_keeps_a_plain_colour(height, width, shade):
    found = resized(np.full((5, 4, 3), shade, np.uint8), (height, width))
    assert found.shape == (height, width, 3)
    assert (found == shade).all()


def test_size_resizes_and_grey_needs_one_channel(folder):
    path = folder(cat__b_dot_png=picture(size=(9, 5)))
    data = ready(train_folder=path, size=[3, 2], grey=True)
    assert data.input_shape == (1, 3, 2)
    averaged = Image.fromarray(np.array([[0, 100], [50, 250]], dtype=np.uint8))
    assert pixels_of(folder, "a_dot_png", averaged, size=1) == [[[100]]]


def test_grey_and_coloured_images_mix_to_colours(folder):
    data = ready(train_folder=folder(cat__grey_dot_png=picture(mode="L")))
    assert data.input_shape == (3, 4, 6)
    pixels = data._pictures("train").pixels[data._pictures("train").files.index("cat/grey.png")]
    assert (pixels == pixels[..., :1]).all()
    grey = ready(train_folder=folder("grey", mode="L"))
    assert grey.input_shape == (1, 4, 6)
    new = Images(test_folder=data.sources["train"])
    new.load_state_dict(grey.state_dict())
    with pytest.raises(ValueError, match="holds images with colours, and the training images are grey; set grey: true"):
        new.test_dataloader()


# ---- what is refused, ignored, warned of


def test_what_systems_write_is_ignored(folder, recwarn):
    path = folder(
        _dot_DS_Store=b"x", cat__Thumbs_dot_db=b"x", cat___dot_cat_dot_png=b"x", __MACOSX__cat__a_dot_png=b"x"
    )
    data = Images(train_folder=path)
    data.setup("fit")
    assert data.labels == ["cat", "dog"]
    assert len(data._pictures("train").files) == 20
    assert not recwarn.list


def test_files_that_are_no_images_by_name_are_warned_of(folder):
    data = Images(train_folder=folder(cat__notes_dot_txt=b"x", cat__a_dot_heic=b"x"))
    with pytest.warns(UserWarning, match=r"cat: 2 files are not read: a.heic, notes.txt; images are .png, .jpg"):
        data.setup("fit")


BROKEN = encoded(picture(size=(40, 40)), "JPEG")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cat__a_dot_jpg", BROKEN[:-200], r"cat/a.jpg is not an image that can be read: image file is truncated"),
        ("cat__a_dot_png", b"", r"cat/a.png is not an image that can be read: cannot identify"),
        ("cat__a_dot_png", b"<html>", r"cat/a.png is not an image that can be read: cannot identify image file it;"),
        (
            "cat__a_dot_png",
            picture(size=(5, 6)),
            r"train: images have different sizes: cat/0.png has 4 x 6 .* cat/a.png",
        ),
        ("cat__a_dot_png", png(16, 0, 1, 2), r"different sizes"),
        ("a_dot_png", picture(), r"train holds images beside folders: a.png; it must have a folder for each class"),
        ("bird__x_dot_txt", b"x", r"there are no images in the folders of bird; remove them"),
        (
            "cat__a_dot_gif",
            encoded(picture(), "GIF", save_all=True, append_images=[picture(90)]),
            r"cat/a.gif holds 2 pictures; save the one that you mean",
        ),
        (
            "cat__a_dot_tif",
            encoded(Image.new("F", (6, 4)), "TIFF"),
            r"a.tif has pixels of Pillow's mode F; save it with 8",
        ),
        (
            "cat__a_dot_tif",
            encoded(Image.new("I;16", (6, 4)), "TIFF"),
            r"cat/0.png has 8 bits .* cat/a.tif 16 bits; save",
        ),
    ],
)
def test_images_are_refused_with_their_names(folder, name, content, message):
    with pytest.raises(ValueError, match=message):
        ready(train_folder=folder(**{name: content}))


def test_folders_that_are_no_classes_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"holds splits, not classes: test, train; name them by train_folder: "):
        ready(train_folder=folder(classes=("train", "test")))
    with pytest.raises(FileNotFoundError, match=r"Folder not found: nowhere"):
        ready(train_folder="nowhere")
    with pytest.raises(
        NotADirectoryError, match=r"is a file; name a folder with images, or an .npz file by train_file"
    ):
        ready(train_folder=__file__)
    with pytest.raises(ValueError, match=r"has no folders; it must have one for each class"):
        ready(train_folder=folder("empty", (), a_dot_txt=b""))
    with pytest.raises(
        ValueError, match=r"new, bird/0.png, bird/1.png: label 'bird' is not a label of the training data"
    ):
        ready(train_folder=folder("good"), val_folder=folder("new", ("cat", "bird"), 2))
    with pytest.raises(
        ValueError, match=r"new2 holds images of 9 x 9 pixels, and the training images have 4 x 6; set si"
    ):
        ready(train_folder=folder("good"), test_folder=folder("new2", size=(9, 9)))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"images": np.zeros((4, 3, 8, 8), np.uint8)},
            r"shape \(4, 3, 8, 8\); .*; put channels last: images.transpose",
        ),
        ({"images": np.zeros((4, 64), np.uint8)}, r"images have shape \(4, 64\); it must be \(N, H, W\), or"),
        ({"images": np.full((4, 8, 8), 16.0)}, r"images 0, 1, 2 and 1 more \(from 0\): floats must be in \[0, 1\]"),
        ({"images": np.full((4, 8, 8), np.nan)}, r"floats must be in \[0, 1\]"),
        ({"images": np.zeros((4, 8, 8), np.int64)}, r"images have type int64; write uint8 in \[0, 255\], or floats"),
        ({"X": np.zeros((4, 8, 8))}, r"array 'images' is missing; there are: X, labels"),
        ({"images": np.zeros((5, 8, 8))}, r"labels have shape \(4,\); 5 images need \(5,\)"),
    ],
)
def test_archives_are_refused_with_a_way_out(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays, labels=np.array([0, 1, 0, 1]))
    with pytest.raises(ValueError, match=message):
        ready(train_file=str(tmp_path / "a.npz"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": [8]}, r"Invalid size: \[8\]; give a number of pixels, at least 1, or \[height, width\]"),
        ({"size": 0}, "Invalid size: 0"),
        ({"background": 256}, r"Invalid background: 256; it must be in \[0, 255\]"),
        ({"dataset": "mnist"}, "Invalid dataset: mnist; use digits"),
        ({"dataset": "digits", "train_folder": "a"}, "Invalid dataset: digits; training images are given, too"),
        ({"val_folder": "a", "val_file": "b"}, "Invalid val_file: b; val_folder is a: give one of the two"),
    ],
)
def test_invalid_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        Images(**options)


def test_fit_says_what_goes_where_and_counts_equal_images(folder, caplog):
    caplog.set_level("INFO")
    same = picture()
    data = Images(train_folder=folder(**{f"cat__same{i}_dot_png": same for i in range(10)}))
    with pytest.warns(
        UserWarning, match=r"Some images are also in an earlier split .*Remove them from one of the splits"
    ):
        data.setup("fit")
    assert "24 images to train, 3 to validate, 3 to test; 2 classes, 3 x 4 x 6, 0.0 MiB in memory" in caplog.text
