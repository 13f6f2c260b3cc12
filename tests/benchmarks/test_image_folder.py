"""Image folders: their layout, and the cache of decoded images."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from gr_cli.benchmarks import ImageFolder, split
from gr_cli.errors import ConfigError, DataError
from helpers.image_files import folder, pixels, put, read


def test_split_and_class_folders():
    folder(each=2)
    first = put("images/train/cat/0.png", pixels(6, 5, 3))
    last = put("images/test/dog/nested/deeper/9.png", pixels(6, 5, 3))
    data = read()
    assert data.classes == ("cat", "dog")
    assert data.train.x.dtype == torch.uint8 and data.train.x.shape == (4, 3, 6, 5)
    assert data.train.y.tolist() == [0, 0, 1, 1] and data.test.y.tolist() == [0, 0, 1, 1, 1]
    assert np.array_equal(data.train.x[0].permute(1, 2, 0), first)
    assert np.array_equal(data.test.x[-1].permute(1, 2, 0), last)
    assert data.spec.value_range == (0.0, 1.0)


def test_val_folder_is_the_test_set_and_a_class_may_be_named_train():
    folder(("train", "val"))
    assert len(read().test) == 6
    os.rename("images", "other")
    folder(("",), ("train", "car"))
    assert read().classes == ("car", "train")


@pytest.mark.parametrize("part", ["", "train"])
def test_without_a_test_folder_a_share_of_each_class_is_the_test_set(part):
    folder((part,), each=10)
    data = read(test_share=0.3)
    assert torch.bincount(data.test.y).tolist() == [3, 3] and torch.bincount(data.train.y).tolist() == [7, 7]
    rows = [{x.numpy().tobytes() for x in samples.x} for samples in (data.train, data.test)]
    assert len(rows[0]) == 14 and not rows[0] & rows[1]
    again, other = read(test_share=0.3), read(test_share=0.3, test_seed=1)
    assert torch.equal(again.test.x, data.test.x) and not torch.equal(other.test.x, data.test.x)
    assert torch.bincount(read(test_share=0.01).test.y).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("training", "testing"), [("Train", "Test"), ("TRAIN", "valid"), ("training", "validation"), ("train", "testing")]
)
def test_common_names_of_split_folders(training, testing):
    folder((training,), each=3)
    folder((testing,), each=1)
    data = read()
    assert data.classes == ("cat", "dog") and (len(data.train), len(data.test)) == (6, 2)


def test_first_matching_test_folder_is_used(capsys):
    folder(("train", "val", "test", "more"), each=2)
    mark = put("images/test/cat/0.png", pixels(6, 5, 3))
    assert np.array_equal(read().test.x[0].permute(1, 2, 0), mark)
    assert "ignored: folders of neither split (more/, val/)\n" in capsys.readouterr().err


def test_folders_without_images_are_not_classes(capsys):
    folder()
    for name in ("images/train/zebra", "images/test/zebra/deeper", "images/test/__MACOSX"):
        Path(name).mkdir(parents=True)
    Path("images/train/zebra/notes.txt").write_text("none yet")
    assert read().classes == ("cat", "dog")
    stderr = capsys.readouterr().err
    assert "ignored: 1 other file, folders without images (__MACOSX, zebra)\n" in stderr


def test_links_to_classes_and_images():
    folder(("",), each=4)
    os.symlink(Path("images/cat").absolute(), "images/lynx")
    os.symlink(Path("images/cat/0.png").absolute(), "images/dog/linked.png")
    os.symlink(Path("images/cat").absolute(), "images/dog/all")
    assert read().classes == ("cat", "dog", "lynx")
    assert torch.bincount(torch.cat([read().train.y, read().test.y])).tolist() == [4, 5, 4]
    os.symlink("nowhere.png", "images/dog/dangling.png")
    with pytest.raises(DataError, match=r"1 of 14 images can't be decoded, the first is dog/dangling.png"):
        read()
    assert len(read(skip_broken=True).train) + len(read(skip_broken=True).test) == 13


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path), lambda path: os.symlink("x.png", path)]
)
def test_pipes_devices_and_link_loops_are_broken_images(make):
    folder()
    make("images/train/dog/x.png")
    with pytest.raises(DataError, match=r"1 of 13 images can't be decoded, the first is train/dog/x.png"):
        read()
    assert len(read(skip_broken=True).train) == 6


def nothing_is_decoded(monkeypatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("decoded before it was found that this set can't be learnt from")

    monkeypatch.setattr("gr_cli.benchmarks.sources.image_cache.decode_image", never)


def test_class_with_too_few_images_is_refused_before_decoding(monkeypatch):
    nothing_is_decoded(monkeypatch)
    folder()
    put("images/test/zebra/x.png", pixels(6, 5, 3))
    with pytest.raises(DataError, match=r"class zebra has no image in train/, and needs 1 at least; add some"):
        read()
    os.rename("images", "others")
    folder(("",))
    put("images/zebra/x.png", pixels(6, 5, 3))
    with pytest.raises(DataError, match=r"class zebra has 1 image, and needs 2 at least"):
        read()


def test_single_class_is_refused_with_the_folder_below(monkeypatch):
    nothing_is_decoded(monkeypatch)
    folder(("cifar/train", "cifar/test"))
    with pytest.raises(
        DataError, match=r"images of one class only, cifar, .*set benchmark.source.path=.*images/cifar$"
    ):
        read()


def test_training_folder_beside_an_unknown_one_is_refused(monkeypatch):
    nothing_is_decoded(monkeypatch)
    folder(("train", "holdout"))
    with pytest.raises(DataError, match=r"holds train/ beside holdout, and none of these is called test or val"):
        read()


def test_classes_are_in_natural_order():
    folder(classes=("class10", "class2", "class1"), each=1)
    assert read().classes == ("class1", "class2", "class10")


def test_unicode_normal_forms_are_one_class():
    folder(("train",), ("caf\u00e9", "dog"))
    folder(("test",), ("cafe\u0301", "dog"), each=2)
    data = read()
    assert data.classes == ("caf\u00e9", "dog") and torch.bincount(data.test.y).tolist() == [2, 2]
    folder(("test",), ("caf\u00e9",))
    with pytest.raises(
        DataError, match="test holds two folders called caf\u00e9, which are stored in two Unicode normal"
    ):
        read()


def test_names_of_any_bytes(gr_run):
    odd, broken = os.fsdecode(b"images/%s/c\xff\x1b[31m/\xe9.png"), os.fsdecode(b"images/train/dog/\xff.png")
    folder(each=1)
    for part in ("train", "test"):
        put(odd % part, pixels(6, 5, 3))
    words = ("benchmark=image_folder", "benchmark.source.path=images", "benchmark.classes_per_task=1", "threads=1")
    code, out, err = gr_run(*words, "strategy=finetune", "train.iterations=1", "model.hidden_sizes=[4]")
    assert code == 0 and r"c\udcff\x1b[31m" in out and "\x1b" not in out + err
    Path(broken).write_bytes(b"no image")
    code, _, err = gr_run(*words, "strategy=finetune")
    assert code == 2 and err.splitlines()[-1].encode("ascii") and r"the first is train/dog/\udcff.png" in err


def test_hidden_and_other_files_are_ignored_and_reported(capsys):
    folder(each=1)
    for name in (".hidden.png", "notes.txt", "Thumbs.db", ".cache/x.png", "page.eps"):
        path = Path("images/train/cat", name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"no image")
    Path("images/train/.git").mkdir()
    assert len(read().train) == 2
    stderr = capsys.readouterr().err
    assert "4 images of 2 classes" in stderr and "ignored: 3 other files\n" in stderr


def test_broken_images_are_named_and_may_be_skipped(capsys):
    folder()
    content = Path("images/train/dog/1.png").read_bytes()
    Path("images/train/dog/1.png").write_bytes(content[:60])
    Path("images/test/cat/0.png").write_bytes(b"")
    with pytest.raises(DataError) as error:
        read()
    line = str(error.value)
    assert "2 of 12 images can't be decoded, the first is train/dog/1.png (" in line and "\n" not in line
    assert "skip_broken=true" in line
    for _ in range(2):  # decoded, then cached
        data = read(skip_broken=True)
        assert data.train.y.tolist() == [0, 0, 0, 1, 1] and data.test.y.tolist() == [0, 0, 1, 1, 1]
    assert (
        "images that can't be decoded are left out, 2 in all, the first is train/dog/1.png" in capsys.readouterr().err
    )
    Path("images/train/dog/1.png").write_bytes(content)
    put("images/test/cat/0.png", pixels(6, 5, 3))
    assert len(read().train) == 6


def test_decoded_images_are_cached_until_a_file_changes(monkeypatch):
    from gr_cli.benchmarks.sources import image_cache, image_folder
    from gr_cli.system import cache

    def afresh() -> None:
        """Clear all caches of this process."""
        cache._recent.clear()
        image_folder._recent.clear()

    decoded = []
    original = image_cache.decode_image
    monkeypatch.setattr(image_cache, "decode_image", lambda *given: decoded.append(given) or original(*given))

    def times() -> int:
        afresh()
        decoded.clear()
        read()
        return len(decoded)

    folder()
    assert times() == 12
    cached = read().train.x.clone()
    assert times() == 0
    assert torch.equal(read().train.x, cached)
    changed = put("images/train/cat/0.png", pixels(6, 5, 3))
    assert times() == 12
    assert np.array_equal(read().train.x[0].permute(1, 2, 0), changed)
    os.utime("images/test/dog/2.png", ns=(0, 0))
    assert times() == 12
    os.rename("images/test/dog/2.png", "images/test/dog/3.png")
    assert times() == 12
    Path("images/test/dog/3.png").unlink()
    assert times() == 11
    for file in Path("cache/images").iterdir():
        file.write_bytes(b"cut short")
    assert times() == 11


def bitmaps(*parts: str) -> None:
    """Grey images of equal file size and time, bright ones in `b`."""
    for part in parts:
        for name, shade in (("a", 20), ("b", 200)):
            for i in range(2):
                put(f"images/{part}/{name}/{i}.bmp", np.full((4, 4), shade + i, np.uint8))
                os.utime(f"images/{part}/{name}/{i}.bmp", ns=(0, 0))


def exchange(first: str, second: str) -> None:
    os.rename(first, "aside")
    os.rename(second, first)
    os.rename("aside", second)


def overwrite(path: str, shade: int) -> None:
    """Replace the pixels in place, with the same size and time of modification."""
    with Path(path).open("r+b") as file:
        file.seek(-16, os.SEEK_END)
        file.write(bytes([shade] * 16))
    os.utime(path, ns=(0, 0))


def shades() -> list[int]:
    """The training images, in order, that a new process would load."""
    from gr_cli.benchmarks.sources import image_folder
    from gr_cli.system import cache

    cache._recent.clear()
    image_folder._recent.clear()
    return read().train.x[:, 0, 0, 0].tolist()


def test_images_changed_with_the_same_name_size_and_time_are_decoded_again():
    bitmaps("train", "test")
    assert shades() == [20, 21, 200, 201]
    for i in range(2):
        exchange(f"images/train/a/{i}.bmp", f"images/train/b/{i}.bmp")
    assert shades() == [200, 201, 20, 21]
    exchange("images/train/a", "images/train/b")
    assert shades() == [20, 21, 200, 201]
    os.link("images/train/a/0.bmp", "images/train/a/2.bmp")
    assert shades() == [20, 21, 20, 200, 201]
    for shade in range(60, 70):  # within one tick of the clock of a file system, too
        overwrite("images/train/b/0.bmp", shade)
        assert shades() == [20, 21, 20, shade, 201]


def test_runs_share_the_stored_images():
    folder()
    first, second = (split(ImageFolder("images", cache_root="cache"), seed=seed) for seed in (0, 1))
    assert first.tasks[0].train.store is second.tasks[0].train.store


def test_unsuitable_folders_are_refused():
    with pytest.raises(ConfigError, match=r"benchmark.source.path=null: must be a folder .*set benchmark.source.path="):
        ImageFolder()
    with pytest.raises(DataError, match=r"benchmark.source.path=images: .*/images is not there; name a folder"):
        read()
    Path("images").mkdir()
    with pytest.raises(DataError, match="holds no images in folders of classes; put them into"):
        read()
    put("images/x.png", pixels(4, 4))
    with pytest.raises(DataError, match="holds no images in folders of classes"):
        read()
    folder(("train",))
    put("images/test/cat/x.png", pixels(6, 5, 3))
    with pytest.raises(DataError, match="class dog has no image in test/, and needs 1 at least"):
        read()


def test_images_beyond_memory_are_refused():
    folder()
    needed = "12 images of 1000000x1000000 pixels take 33,527.6 GiB"
    with pytest.raises(ConfigError, match=rf"^storage=memory: {needed}, and there is less; try storage=auto"):
        read(size=1_000_000, storage="memory")
    with pytest.raises(ConfigError, match=rf"^cache_root=cache: {needed} in cache/images, and [\d.,]+ GiB are free"):
        read(size=1_000_000)
    assert not list(Path("cache/images").glob(".*.part"))


def test_progress_is_shown_on_a_terminal_only(monkeypatch, capsys):
    from gr_cli.system import messages

    clock = iter(range(100))
    monkeypatch.setattr(messages, "monotonic", lambda: next(clock))
    assert list(messages.with_progress("abc", 3, "letters")) == list("abc")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert list(messages.with_progress("abc", 3, "letters")) == list("abc")
    shown = capsys.readouterr().err
    assert "letters: 2 of 3" in shown and shown.endswith("\r\x1b[K") and "\n" not in shown


@pytest.mark.usefixtures("pictures")
def test_a_run_from_the_command_line(gr_run):
    folder(each=4, classes=("a", "b", "c", "d"))
    words = ("benchmark=image_folder", "benchmark.source.path=images", "train.iterations=2", "threads=1")
    code, _, err = gr_run(*words)
    assert code == 0, err
    (pictures,) = Path("outputs/image_folder").glob("*/*/figures")
    assert (pictures / "samples_task_1.png").is_file()
    assert {file.suffix for file in Path("cache/images").iterdir()} == {".bin", ".json"}


@pytest.mark.parametrize("strategy", [(), ("strategy=dgr",), ("strategy=er",), ("strategy=joint",)], ids=str)
def test_preset_works_with_any_strategy(gr_run, strategy):
    folder(each=10, classes=("a", "b", "c", "d"))
    words = ("preset=best_image_folder", "benchmark.source.path=images", "benchmark.source.size=8", *strategy)
    code, _, err = gr_run(*words, "train.iterations=2", "evaluate.generated_samples=0", "threads=1")
    assert code == 0, err
    (status,) = Path("outputs/image_folder").rglob("status.json")
    assert json.loads(status.read_text())["stores_raw_samples"] == (strategy in {("strategy=er",), ("strategy=joint",)})
