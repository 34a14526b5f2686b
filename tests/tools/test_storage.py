"""Runs and files at URIs, on a real S3 server."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from maml_rl.tools import run_directory, storage
from maml_rl.tools.run_directory import RunDirectory, RunError, RunFailedError
from maml_rl.tools.storage import (
    Mirror,
    StorageError,
    child,
    fetched_file,
    is_uri,
    local_path,
    writable_file,
    writable_folder,
)

Uri = Callable[[str], str]


@pytest.mark.parametrize("place", ["s3://b/x", "gs://b", "file:///x", "HDFS://x/y"])
def test_a_uri_has_a_scheme(place: str) -> None:
    assert is_uri(place)


@pytest.mark.parametrize("place", ["runs/a", "/a:b//c", "C://x", "a b://x", "://x", Path("s3://b/x")])
def test_everything_else_is_a_path(place: str | Path) -> None:
    assert not is_uri(place)
    assert local_path(place) == Path(place)


@pytest.mark.parametrize(
    ("uri", "path"), [("file:///a/b%20c", "/a/b c"), ("file://localhost/a", "/a"), ("FILE:///a", "/a")]
)
def test_a_file_uri_is_its_path(uri: str, path: str) -> None:
    assert local_path(uri) == Path(path)


def test_a_file_of_another_host_is_refused() -> None:
    with pytest.raises(StorageError, match=r"host 'there'; a file is at file:///PATH"):
        local_path("file://there/a")


def test_a_childs_name_goes_before_the_query() -> None:
    assert child("s3://b/a?x=1&y=2", "c", "d.txt") == "s3://b/a/c/d.txt?x=1&y=2"
    assert child("s3://b", "c") == "s3://b/c"
    assert child("a", "b") == Path("a/b")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("nothing://b/x", "nothing://b/x cannot be used: Unrecognized filesystem"),
        ("s3://key:word@b/x", "s3:// with a password in it would be printed"),
    ],
)
def test_what_is_no_store_is_refused(uri: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=message) as caught:
        Mirror(uri)
    assert "word@" not in str(caught.value)
    with pytest.raises(RunError, match=message):
        RunDirectory.free(uri)


def test_a_store_that_does_not_answer_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "ANSWER_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"s3://b/x?endpoint_override=127.0.0.1:{silent.getsockname()[1]}&scheme=http&region=us-east-1"
        with pytest.raises(RunError, match=r"s3://b/x.* cannot be used: no answer within 1 s"):
            RunDirectory.free(uri)


def test_a_missing_bucket_is_refused_before_anything_is_written(s3: Uri) -> None:
    with pytest.raises(RunError, match=r"s3://missing/run\?.* cannot be used: .*[Bb]ucket"):
        RunDirectory.free(s3("missing/run"))


def test_a_run_is_where_another_process_finds_it(s3: Uri) -> None:
    place = s3("bucket/there.and/back")
    run = RunDirectory.free(place)
    run.begin({"config": {"a": 1}})
    with run.stored():
        run.append_progress({"iteration": 1, "x": 2.0})
    (run.path / ".hidden").write_text("stays here")
    (run.path / "part").mkdir()
    (run.path / "part" / "file.bin").write_bytes(bytes(range(256)) * 5000)
    run.store()
    other = RunDirectory.open(place)
    assert other.description()["config"] == {"a": 1}
    assert other.progress() == [{"iteration": 1, "x": 2.0}]
    assert (other.path / "part" / "file.bin").read_bytes() == bytes(range(256)) * 5000
    assert sorted(Mirror(place).names()) == ["config.json", "part/file.bin", "progress.csv"]
    with pytest.raises(RunError, match=r"exists and is not empty; .*--resume 's3://bucket/there.and/back\?"):
        RunDirectory.free(place)


def test_what_is_no_run_says_so_by_its_uri(s3: Uri) -> None:
    with pytest.raises(RunError, match=r"s3://bucket/nothing\?.* is not a run: config.json: No such file"):
        RunDirectory.open(s3("bucket/nothing"))
    with writable_file(s3("bucket/damaged/config.json")) as file:
        file.write_text("{")
    with pytest.raises(RunError, match=r"s3://bucket/damaged/config.json\?.* is damaged"):
        RunDirectory.open(s3("bucket/damaged"))


def test_only_what_changed_is_stored_again(s3: Uri) -> None:
    first, second = Mirror(s3("bucket/two")), Mirror(s3("bucket/two"))
    (first.local / "a").write_text("a")
    (first.local / "b").write_text("b")
    first.store()
    second.fetch()
    (second.local / "b").write_text("changed")
    second.store()
    (first.local / "c").write_text("c")
    first.store()  # `b` is old here, and is not brought back
    third = Mirror(s3("bucket/two"))
    third.fetch()
    assert {file.name: file.read_text() for file in third.local.iterdir()} == {
        "a": "a",
        "b": "changed",
        "c": "c",
    }


def test_two_writers_of_a_run_are_told_apart(s3: Uri, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_directory, "RETRIES_S", ())
    place = s3("bucket/contested")
    RunDirectory.create(place, {"config": {}})
    first, second = RunDirectory.open(place), RunDirectory.open(place)
    with first.stored():
        first.append_progress({"iteration": 1})
    second.append_progress({"iteration": 1})
    changed = r"progress.csv.* was changed by another writer; the run is kept"
    with pytest.raises(RunFailedError, match=changed), second.stored():
        pass
    assert (second.path / "progress.csv").exists()


def test_a_run_whose_store_went_away_is_kept_here(
    s3: Uri, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run_directory, "RETRIES_S", (0.01,))
    run = RunDirectory.create(s3("bucket/lost"), {"config": {}})
    store = Mirror._store
    failures = 1

    def failing(mirror: Mirror) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError("the network is down")
        store(mirror)

    monkeypatch.setattr(Mirror, "_store", failing)
    with run.stored():
        run.append_progress({"iteration": 1})
        run.store()
        assert "the network is down; it is tried again with the next checkpoint" in caplog.text
        failures = 1
    assert RunDirectory.open(run.place).progress() == [{"iteration": 1}]  # at the second attempt
    failures = 2
    run.append_progress({"iteration": 2})
    with (
        pytest.raises(RunFailedError, match=r"the network is down; the run is kept in ") as caught,
        run.stored(),
    ):
        pass
    kept = Path(str(caught.value).rpartition(" ")[2])
    assert len(RunDirectory(kept).progress()) == 2


def test_a_run_that_raises_is_stored_all_the_same(s3: Uri) -> None:
    run = RunDirectory.create(s3("bucket/raises"), {"config": {}})
    run.append_progress({"iteration": 1})
    with pytest.raises(ZeroDivisionError), run.stored():
        raise ZeroDivisionError
    assert RunDirectory.open(run.place).progress() == [{"iteration": 1}]


def test_files_and_folders_are_replaced(s3: Uri, tmp_path: Path) -> None:
    for text in ("old", "new"):
        with writable_file(s3("bucket/files/a.txt")) as file:
            file.write_text(text)
        with writable_folder(s3("bucket/files")) as folder:
            (folder / "b.txt").write_text(text)
    assert fetched_file(s3("bucket/files/a.txt")).read_text() == "new"
    assert fetched_file(s3("bucket/files/b.txt")).read_text() == "new"
    assert fetched_file(tmp_path / "x") == tmp_path / "x"
    with pytest.raises(StorageError, match=r"there is no file s3://bucket/files/c.txt\?"):
        fetched_file(s3("bucket/files/c.txt"))


def test_a_name_cannot_lead_out_of_the_mirror(s3: Uri, monkeypatch: pytest.MonkeyPatch) -> None:
    with writable_file(s3("bucket/out/a.txt")) as file:
        file.write_text("a")
    listing = Mirror._listing
    monkeypatch.setattr(Mirror, "_listing", lambda self: {f"../{k}": v for k, v in listing(self).items()})
    with pytest.raises(StorageError, match=r"holds '\.\./a.txt', which leads out of it"):
        Mirror(s3("bucket/out")).fetch()


@pytest.mark.parametrize("output", ["runs/a", None])
def test_a_jobs_copy_of_the_working_directory_is_no_place_for_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str | None
) -> None:
    folder = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    place = output or str(folder / "runs" / "a")
    with pytest.raises(RunError, match=r"copy of the working directory, .* choose an --output that lasts"):
        RunDirectory.free(place)
    RunDirectory.free(tmp_path / "lasting")
