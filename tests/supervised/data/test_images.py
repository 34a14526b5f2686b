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
    ImageDataError,
    ImageSplits,
    load_miniimagenet,
    load_omniglot,
    read_classes,
)
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


def decode_grey(data: bytes) -> np.ndarray:
    import io

    return np.asarray(Image.open(io.BytesIO(data)))[..., None]


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
    zipped = read_classes(write_zip(tmp_path / "images.zip", files), decode_grey)
    folder = read_classes(tmp_path / "folder", decode_grey)
    assert zipped.names == folder.names == ("a/c0", "a/c1")
    for a, b in zip(zipped.images, folder.images, strict=True):
        assert np.array_equal(a, b)


def mini_with(tmp_path: Path, data: bytes) -> Path:
    good = encoded(Image.new("RGB", (84, 84)), "JPEG")
    return write_zip(tmp_path / "mini.zip", {"train/n1/good.jpg": good, "train/n1/other.jpg": data})


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"this is no image", "image train/n1/other.jpg: cannot identify image file"),
        (encoded(Image.effect_noise((84, 84), 50).convert("RGB"), "JPEG")[:1500], "truncated"),
        (encoded(Image.new("RGB", (64, 84)), "JPEG"), "it has 64x84 pixels; it must have 84x84"),
        (encoded(Image.new("L", (84, 84)), "JPEG"), "its mode is L; it must be RGB"),
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
