"""Failed downloads are reported at once, and leave no partial data set."""

import gzip
import hashlib
import io
import socket
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest
from torchvision import datasets

from gr_cli.benchmarks import Torchvision
from gr_cli.benchmarks.sources.load import load_dataset
from helpers import small_mnist
from helpers.small_mnist import FILES, IMAGES, PIXELS

ARCHIVES = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in FILES.items()}
LAST = list(ARCHIVES)[-1]
FETCHED = ("benchmark=split_mnist", "data_root=data", "download=true", "strategy=finetune", "train.iterations=1")


class Server:
    """Stands in for the network: serves the small data set, gzipped, except archives in `lacks`."""

    def __init__(self, lacks: tuple[str, ...] = (), broken: Exception | None = None) -> None:
        self.lacks, self.broken, self.timeouts = lacks, broken, []
        self.asked: list[str] = []

    def urlopen(self, request, *_, **__):
        self.timeouts.append(socket.getdefaulttimeout())
        name = request.full_url.rpartition("/")[2]
        self.asked.append(name)
        if name in self.lacks and self.broken is None:
            raise URLError("there is no network")
        response = io.BytesIO(ARCHIVES[name])
        response.url, response.length = request.full_url, len(ARCHIVES[name])
        if name in self.lacks and request.get_header("Method") is None:
            read, rest = response.read, iter([20])

            def breaks_off(_):
                for size in rest:
                    return read(size)
                raise self.broken

            response.read = breaks_off
        return response


@pytest.fixture
def online(monkeypatch):
    """Replaces the network by a server, whose checksums torchvision expects."""
    sums = [(name, hashlib.md5(content).hexdigest()) for name, content in ARCHIVES.items()]
    monkeypatch.setattr(datasets.MNIST, "resources", sums)

    def put(server: Server) -> Server:
        monkeypatch.setattr(urllib.request, "urlopen", server.urlopen)
        return server

    return put


def there() -> set[str]:
    return {path.name for path in Path("data").rglob("*") if path.is_file() or path.name.startswith(".")}


def test_failed_download_is_one_line_and_leaves_nothing(gr_run, online):
    server = online(Server(lacks=tuple(ARCHIVES)))
    code, _, line = gr_run(*FETCHED)
    assert code == 2 and line.count("\n") == 1
    assert "MNIST is not there and could not be downloaded (<urlopen error there is no network>)" in line
    assert "set data_root or GR_DATA_ROOT" in line
    assert there() == set()
    assert not Path("outputs").exists()
    # The timeout of silent servers is short, and applies to the download alone.
    assert all(0 < seconds <= 20 for seconds in server.timeouts)
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize(
    "broken", [None, TimeoutError("timed out"), ConnectionResetError(104, "reset"), OSError(28, "full")]
)
def test_interrupted_download_can_be_repeated(gr_run, online, broken):
    online(Server(lacks=(LAST,), broken=broken))
    code, _, err = gr_run(*FETCHED)
    assert code == 2 and "could not be downloaded" in err.splitlines()[-1]
    assert there() == set()
    assert not Path("outputs").exists()
    online(Server())
    data = load_dataset(Torchvision("MNIST", "data"))
    assert data.train.x.numpy().tobytes() == PIXELS
    assert there() == {*FILES, *ARCHIVES}


def test_interruption_while_extracting_leaves_nothing(online, monkeypatch):
    online(Server())
    opened = gzip.open

    def stopped(path, *mode):
        if str(path).endswith(LAST):
            raise KeyboardInterrupt
        return opened(path, *mode)

    monkeypatch.setattr("torchvision.datasets.utils._COMPRESSED_FILE_OPENERS", {".gz": stopped})
    with pytest.raises(KeyboardInterrupt):
        Torchvision("MNIST", "data").load()
    assert there() == set()


def test_present_archives_are_extracted_without_network(online):
    raw = small_mnist.write(Path("data"))
    for name in FILES:
        (raw / name).unlink()
        (raw / f"{name}.gz").write_bytes(ARCHIVES[f"{name}.gz"])
    server = online(Server(lacks=tuple(ARCHIVES)))
    assert len(load_dataset(Torchvision("MNIST", "data")).train) == 40
    assert server.asked == []


def test_damaged_archive_is_downloaded_again(online):
    raw = small_mnist.write(Path("data"))
    for name in FILES:
        (raw / name).unlink()
        (raw / f"{name}.gz").write_bytes(ARCHIVES[f"{name}.gz"][:30])
    online(Server())
    assert len(load_dataset(Torchvision("MNIST", "data")).train) == 40
    assert (raw / LAST).read_bytes() == ARCHIVES[LAST]


def test_incomplete_set_is_completed(online):
    raw = small_mnist.write(Path("data"))
    (raw / IMAGES).write_bytes(b"unpacking was broken off here")
    (raw / LAST.removesuffix(".gz")).unlink()
    online(Server())
    assert load_dataset(Torchvision("MNIST", "data")).train.x.numpy().tobytes() == PIXELS
