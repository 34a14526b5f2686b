"""Image data sets, few-shot tasks and downloads, on generated files of the real data sets' form."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from supervised_helpers import draw_glyph, encoded, glyph, write_miniimagenet, write_omniglot, write_zip

from supervised.data.download import DownloadError, fetch
from supervised.data.image_data import (
    ImageClasses,
    ImageSplits,
    load_folder,
    load_miniimagenet,
    load_omniglot,
)
from supervised.data.image_files import ImageDataError, decode, read_images
from supervised.data.image_tasks import ClassificationSampler, FewShotSampler


@pytest.fixture(scope="module")
def omniglot(tmp_path_factory: pytest.TempPathFactory) -> ImageSplits:
    return load_omniglot(write_omniglot(tmp_path_factory.mktemp("omniglot")))


@pytest.fixture(scope="module")
def miniimagenet(tmp_path_factory: pytest.TempPathFactory) -> ImageSplits:
    return load_miniimagenet(write_miniimagenet(tmp_path_factory.mktemp("mini") / "mini.zip"))


# --- data sets


def test_omniglot_splits(omniglot: ImageSplits) -> None:
    assert (len(omniglot.train), len(omniglot.validation), len(omniglot.test)) == (1100, 100, 423)
    names = [set(part.names) for part in (omniglot.train, omniglot.validation, omniglot.test)]
    assert len(set.union(*names)) == 1623  # disjoint
    images = omniglot.train.images[0]
    assert images.shape == (2, 28, 28, 1)
    assert images.dtype == np.uint8
    assert np.median(images) == 0  # paper black, ink white
    assert images.max() > 200


def test_miniimagenet_splits(miniimagenet: ImageSplits) -> None:
    parts = (miniimagenet.train, miniimagenet.validation, miniimagenet.test)
    assert [len(part) for part in parts] == [64, 16, 20]
    assert len(set.union(*(set(part.names) for part in parts))) == 100
    assert miniimagenet.test.images[0].shape == (3, 84, 84, 3)


def test_splits_with_a_common_class_are_refused() -> None:
    part = labelled_classes(2, 2)
    with pytest.raises(ImageDataError, match="class c0 is in more than one"):
        ImageSplits(part, part, part)


def test_a_folder_reads_like_a_zip_file(tmp_path: Path) -> None:
    files = {}
    for c in range(2):
        points = glyph(np.random.default_rng(c), 20)
        for i in range(3):
            files[f"a/c{c}/{i}.png"] = encoded(draw_glyph(points, 20, "L", np.zeros_like(points) + i))
    files["a/readme.txt"] = b"not an image"
    for name, data in files.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(data)
    zipped = read_images(write_zip(tmp_path / "images.zip", files), 20, "L")
    folder = read_images(tmp_path / "folder", 20, "L")
    assert list(zipped) == list(folder) == ["a/c0", "a/c1"]
    for a, b in zip(zipped.values(), folder.values(), strict=True):
        assert np.array_equal(a, b)


LEFT_BEHIND = (
    *("__MACOSX/c0/._0.png", "c0/._0.png", "c0/.ipynb_checkpoints/0-checkpoint.png", ".git/logo.png"),
    *("c0/Thumbs.db", "c0/notes.txt", "labels.csv", "c0/README", "c1/features.h5", "__pycache__/a.png"),
)


@pytest.mark.parametrize("zipped", [False, True])
def test_what_is_no_image_is_skipped_and_counted(
    zipped: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = {
        f"c{c}/{i}.png": encoded(Image.new("L", (20, 20), 10 * c + i)) for c in range(2) for i in range(2)
    }
    files |= dict.fromkeys(LEFT_BEHIND, b"no image")
    for name, data in files.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(data)
    path = write_zip(tmp_path / "images.zip", files) if zipped else tmp_path / "folder"
    found = read_images(path, 20, "L")
    assert {name: len(images) for name, images in found.items()} == {"c0": 2, "c1": 2}
    assert f"skipped {len(LEFT_BEHIND)} file(s) that are no images" in caplog.text


# --- modes and sizes

COLOUR = (200, 100, 50)


def of_mode(mode: str, size: tuple[int, int] = (30, 30)) -> Image.Image:
    """A picture of one colour, or of a grey of 128 of 255 where there are no colours."""
    if mode == "I;16":
        return Image.fromarray(np.full(size[::-1], 128 * 257, np.uint16))
    if mode in ("I", "F"):  # half of it black, half white
        values = np.zeros(size[::-1], np.int32 if mode == "I" else np.float32)
        values[:, size[0] // 2 :] = 70_000 if mode == "I" else 0.5
        return Image.fromarray(values)
    if mode in ("1", "L", "LA"):
        return Image.new("L", size, 255 if mode == "1" else 128).convert(mode)
    if mode == "LAB":
        return Image.new("LAB", size, (255, 128, 128))  # white
    colour = Image.new("RGB", size, COLOUR)
    return colour.quantize(4) if mode == "P" else colour.convert(mode)


@pytest.mark.parametrize(
    ("mode", "file_format", "expected"),
    [
        ("1", "PNG", (255, 255, 255)),
        *(("L", file_format, (128, 128, 128)) for file_format in ("PNG", "BMP", "GIF", "TIFF", "PPM")),
        ("LA", "PNG", (128, 128, 128)),
        *(("P", file_format, None) for file_format in ("PNG", "GIF")),
        *(("RGB", file_format, COLOUR) for file_format in ("PNG", "BMP", "TIFF", "WEBP", "TGA", "PPM")),
        ("RGBA", "PNG", COLOUR),
        ("CMYK", "TIFF", None),
        ("YCbCr", "TIFF", None),
        ("LAB", "TIFF", (255, 255, 255)),
        ("I;16", "PNG", (128, 128, 128)),
        ("I;16", "TIFF", (128, 128, 128)),
    ],
)
@pytest.mark.parametrize("size", [(20, 20), (7, 7), (50, 30), (1, 90)])
def test_every_mode_and_size_becomes_the_stated_one(
    mode: str, file_format: str, expected: tuple[int, int, int] | None, size: tuple[int, int]
) -> None:
    image = of_mode(mode, size)
    options = {"lossless": True} if file_format == "WEBP" else {}
    colour = decode(encoded(image, file_format, **options), 20, "RGB")
    grey = decode(encoded(image, file_format, **options), 20, "L")
    assert colour.shape == (20, 20, 3)
    assert grey.shape == (20, 20, 1)
    wanted = np.broadcast_to(np.array(expected or COLOUR), colour.shape)
    np.testing.assert_allclose(colour, wanted, atol=30 if expected is None else 2)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_wide_numbers_run_from_their_least_to_their_largest(mode: str) -> None:
    found = decode(encoded(of_mode(mode), "TIFF"), 30, "L")[..., 0]
    assert (found[:, :15] == 0).all()
    assert (found[:, 15:] == 255).all()
    assert not decode(encoded(Image.new(mode, (9, 9), 7), "TIFF"), 9, "L").any()


def test_the_middle_of_the_longer_side_is_kept() -> None:
    image = Image.new("L", (90, 30))
    image.paste(255, (30, 0, 60, 30))
    assert (decode(encoded(image), 30, "L") == 255).all()
    assert decode(encoded(image.rotate(90, expand=True)), 15, "L").min() > 200


def test_transparency_is_white_in_every_mode() -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert (decode(encoded(clear), 8, "RGB") == 255).all()
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([10, 20, 30] * 256)
    assert (decode(encoded(palette), 8, "RGB") == (10, 20, 30)).all()
    assert (decode(encoded(palette, "PNG", transparency=0), 8, "RGB") == 255).all()
    grey = Image.new("LA", (8, 8), (0, 0))
    assert (decode(encoded(grey), 8, "L") == 255).all()


def test_cameras_say_which_side_is_up() -> None:
    image = Image.new("L", (40, 40))
    image.paste(255, (0, 0, 40, 20))  # the upper half
    exif = Image.Exif()
    exif[0x0112] = 3  # taken upside down
    turned = decode(encoded(image, "JPEG", exif=exif), 40, "L")[..., 0]
    assert turned[25:].min() > 240
    assert turned[:15].max() < 15


def test_of_an_animation_the_first_picture_counts() -> None:
    frames = [Image.new("L", (8, 8), value) for value in (10, 250)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode(data, 8, "L") == 10).all()


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"c/a.png": encoded(Image.new("1", (20_000, 20_000)))}
    with pytest.raises(ImageDataError, match=r"image c/a.png: .*decompression bomb"):
        read_images(write_zip(tmp_path / "wide.zip", files), 28, "L")
    monkeypatch.setattr("supervised.data.image_files.LARGEST_FILE", 1000)
    with pytest.raises(ImageDataError, match=r"image c/a.png: it has 4.88 KiB when unpacked"):
        read_images(write_zip(tmp_path / "long.zip", {"c/a.png": bytes(5000)}), 28, "L")
    monkeypatch.setattr("supervised.data.image_files.total_memory", lambda: 1000)
    with pytest.raises(ImageDataError, match=r"its 1 images of 28 x 28 pixels need 2.3 KiB of memory"):
        read_images(write_zip(tmp_path / "many.zip", files), 28, "RGB")


# --- any folder


def folder_of(path: Path, names: list[str], images: int = 3) -> Path:
    for i, name in enumerate(names):
        (path / name).mkdir(parents=True)
        for j in range(images):
            Image.new("RGB", (20, 16), (i, j, 0)).save(path / name / f"{j}.png")
    return path


def names_of(splits: ImageSplits) -> list[tuple[str, ...]]:
    return [splits.train.names, splits.validation.names, splits.test.names]


@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
def test_splits_by_folder(validation: str, tmp_path: Path) -> None:
    names = ["train/cat", "train/dog", f"{validation}/emu", "Test/fox"]
    splits = load_folder(folder_of(tmp_path / "data", names), 16, 0.5, 0.4)
    assert names_of(splits) == [("cat", "dog"), ("emu",), ("fox",)]
    assert splits.test.images[0].shape == (3, 16, 16, 3)


def test_splits_by_fraction_are_always_the_same(tmp_path: Path) -> None:
    path = folder_of(tmp_path / "data", [f"c{i}" for i in range(10)])
    first, again = (load_folder(path, 16, 0.2, 0.3) for _ in range(2))
    assert names_of(first) == names_of(again)
    assert [len(names) for names in names_of(first)] == [5, 2, 3]
    assert set().union(*names_of(first)) == {f"c{i}" for i in range(10)}
    assert names_of(first)[0] != tuple(f"c{i}" for i in range(5))  # not in the order of names


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/a", "train/b", "test/c"], "but none for validation, which would be named val or valid"),
        (["train/a", "val/b", "test/a"], "class a is in more than one of train, validation and test"),
        (["a", "b"], "2 classes; 1 for validation and 1 for tests leave none to train on"),
    ],
)
def test_folders_that_cannot_be_split_say_why(names: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ImageDataError, match=message):
        load_folder(folder_of(tmp_path / "data", names), 16, 0.2, 0.2)


def test_an_image_of_no_class_is_named(tmp_path: Path) -> None:
    folder_of(tmp_path, ["a", "b", "c"])
    Image.new("L", (4, 4)).save(tmp_path / "lost.png")
    with pytest.raises(ImageDataError, match=r"image lost.png lies in no folder"):
        load_folder(tmp_path, 16, 0.2, 0.2)


def mini_with(tmp_path: Path, data: bytes) -> Path:
    good = encoded(Image.new("RGB", (84, 84)), "JPEG")
    return write_zip(tmp_path / "mini.zip", {"train/n1/good.jpg": good, "train/n1/other.jpg": data})


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"this is no image", "image train/n1/other.jpg: cannot identify image file"),
        (encoded(Image.effect_noise((84, 84), 50).convert("RGB"), "JPEG")[:1500], "truncated"),
        (encoded(Image.new("L", (84, 84)))[:60], "image train/n1/other.jpg"),
        (b"", "cannot identify image file"),
    ],
)
def test_bad_images_are_named(tmp_path: Path, image: bytes, message: str) -> None:
    with pytest.raises(ImageDataError, match=message) as error:
        load_miniimagenet(mini_with(tmp_path, image))
    assert "train/n1/other.jpg" in str(error.value)


def test_missing_and_damaged_data_sets(tmp_path: Path) -> None:
    with pytest.raises(ImageDataError, match="does not exist"):
        load_miniimagenet(tmp_path / "nothing.zip")
    with pytest.raises(ImageDataError, match="holds neither images_background nor"):
        load_omniglot(tmp_path)
    broken = tmp_path / "broken.zip"
    broken.write_bytes(mini_with(tmp_path, b"").read_bytes()[:200])
    with pytest.raises(ImageDataError, match="not a zip file"):
        load_miniimagenet(broken)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageDataError, match="no images"):
        load_miniimagenet(tmp_path / "empty")
    with pytest.raises(ImageDataError, match="train holds 1 classes; it must hold 64"):
        load_miniimagenet(mini_with(tmp_path, encoded(Image.new("RGB", (84, 84)), "JPEG")))


# --- tasks


def labelled_classes(classes: int, count: int) -> ImageClasses:
    """4x4 images whose first pixels say class and number."""
    images = np.zeros((classes, count, 4, 4, 1), np.uint8)
    images[:, :, 0, 0, 0] = np.arange(classes)[:, None]
    images[:, :, 0, 1, 0] = np.arange(count)
    return ImageClasses(tuple(f"c{i}" for i in range(classes)), tuple(images))


def test_a_task_holds_no_image_twice_and_labels_are_its_classes() -> None:
    sampler = FewShotSampler(labelled_classes(12, 7), ways=5, shots=2, query=3)
    episodes = sampler(np.random.default_rng(0), 40)
    assert episodes.support.inputs.shape == (40, 10, 4, 4, 1)
    assert episodes.query.targets.shape == (40, 15)
    inputs = torch.cat([episodes.support.inputs, episodes.query.inputs], 1)
    labels = torch.cat([episodes.support.targets, episodes.query.targets], 1)
    orders = set()
    for task in range(40):
        classes, numbers = inputs[task, :, 0, 0, 0].tolist(), inputs[task, :, 0, 1, 0].tolist()
        assert len(set(zip(classes, numbers, strict=True))) == 25
        assert len(set(classes)) == 5
        pairs = set(zip(classes, labels[task].tolist(), strict=True))
        assert len(pairs) == 5  # one label per class
        orders.add(tuple(sorted(pairs)))
    assert len(orders) == 40  # labels do not go with classes from task to task


def test_tasks_are_a_function_of_the_seed() -> None:
    sampler = FewShotSampler(labelled_classes(12, 7), 5, 1, 1, rotate=True)
    one, same, other = (sampler(np.random.default_rng(seed), 3) for seed in (0, 0, 1))
    assert torch.equal(one.query.inputs, same.query.inputs)
    assert not torch.equal(one.query.inputs, other.query.inputs)


def test_rotations_are_quarter_turns_of_a_whole_class() -> None:
    sampler = FewShotSampler(labelled_classes(9, 4), 3, 2, 2, rotate=True)
    episodes = sampler(np.random.default_rng(0), 50)
    inputs = torch.cat([episodes.support.inputs, episodes.query.inputs], 1)
    labels = torch.cat([episodes.support.targets, episodes.query.targets], 1)
    corners = inputs[..., 0][:, :, [0, 0, 3, 3], [0, 3, 3, 0]].amax(-1)  # the class, wherever it turned to
    seen = set()
    for task in range(50):
        for label in range(3):
            mine = labels[task] == label
            assert len(set(corners[task, mine].tolist())) == 1
            places = inputs[task, mine][..., 0].flatten(1).count_nonzero(0).nonzero().flatten().tolist()
            seen.add(frozenset(places))
            assert len(places) <= 2  # the same turn for support and query
        assert len(set(corners[task].tolist())) == 3
    assert {frozenset({0, 1}), frozenset({3, 7}), frozenset({14, 15}), frozenset({8, 12})} <= seen


def test_impossible_tasks_are_refused() -> None:
    with pytest.raises(ImageDataError, match="ways is 13, but there are only 12 classes"):
        FewShotSampler(labelled_classes(12, 7), 13, 1, 1)
    with pytest.raises(ImageDataError, match=r"class c0 has 7 images; shots 5 \+ query 3 need 8"):
        FewShotSampler(labelled_classes(12, 7), 5, 5, 3)


def test_classification_labels_name_class_and_turn() -> None:
    sampler = ClassificationSampler(labelled_classes(5, 3), batch=200, rotate=True)
    assert sampler.labels == 20
    images, labels = sampler(np.random.default_rng(0), 1).query
    for image, label in zip(images[0].numpy(), labels[0].tolist(), strict=True):
        assert np.rot90(image, -(label % 4))[0, 0, 0] == label // 4
    assert len(set(labels[0].tolist())) == 20


# --- download


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, bytes]]:
    """A real HTTP server of one file."""
    data = os.urandom(50_000)
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "file.zip").write_bytes(data)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}/file.zip", data
        httpd.shutdown()


def test_download_checks_and_keeps(tmp_path: Path, server: tuple[str, bytes]) -> None:
    url, data = server
    checksum, target = hashlib.sha256(data).hexdigest(), tmp_path / "target.zip"
    assert fetch(url, target, checksum).endswith("fetched")
    assert target.read_bytes() == data
    assert fetch("http://127.0.0.1:9/gone", target, checksum).endswith("already there")


def test_a_wrong_checksum_leaves_nothing_behind(tmp_path: Path, server: tuple[str, bytes]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(DownloadError, match="it must be 0000"):
        fetch(server[0], folder / "target.zip", "0" * 64)
    assert list(folder.iterdir()) == []
    (folder / "target.zip").write_bytes(b"something else")
    with pytest.raises(DownloadError, match="with another checksum"):
        fetch(server[0], folder / "target.zip", "0" * 64)
    assert (folder / "target.zip").read_bytes() == b"something else"


def test_an_unreachable_server_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="cannot be fetched"):
        fetch("http://127.0.0.1:9/file.zip", tmp_path / "file.zip", "0" * 64)
    assert list(tmp_path.iterdir()) == []
