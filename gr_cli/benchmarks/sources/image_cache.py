"""Decoding of all images of a folder into one array of the cache."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from gr_cli.benchmarks.sources.image_decoding import (
    StoredValues,
    ValueType,
    check_truncation,
    common_bit_depth,
    decode_image,
    read_header,
    scale_to_unit_range,
)
from gr_cli.benchmarks.sources.image_listing import ImageListing
from gr_cli.benchmarks.sources.validation import join_names
from gr_cli.errors import DataError
from gr_cli.system.array_files import ArrayFile, ArrayPlan, BlockWriter, cached_array
from gr_cli.system.mapping import Storage
from gr_cli.system.messages import print_status, with_progress

Mode = Literal["auto", "grey", "rgb"]
T = TypeVar("T")

_FILES_PER_CHUNK = 64  # files per task of a thread
_MAX_FILES_PER_BLOCK = 4096  # images between two records of the progress


@dataclass(frozen=True)
class DecodingSettings:
    """What determines the pixels of decoded images.

    Attributes:
        size: (height, width) of all images; None: the most frequent size.
        mode: Colour mode; `auto`: grey if all images are.
        bits: Bit depth of grey values of more than 8 bits; None: derived from the highest value.
    """

    size: tuple[int, int] | None
    mode: Mode
    bits: int | None


class _Result(NamedTuple):
    """What is known of an image after decoding.

    Attributes:
        problem: Why it can't be decoded; "" if it can.
        value_type: How its values are stored.
        low: Lowest stored value.
        high: Highest stored value.
    """

    problem: str
    value_type: int = ValueType.BYTES
    low: float = 0.0
    high: float = 255.0


def decoded_images(
    listing: ImageListing, settings: DecodingSettings, path: Path, storage: Storage, location: str
) -> ArrayFile:
    """The images that can be decoded (N, C, H, W), from the cache if possible.

    Args:
        listing: The image files.
        settings: Size, colour mode and bit depth.
        path: File of the cache.
        storage: Whether the images are read into memory or memory-mapped.
        location: Start of messages.

    Returns:
        The images, with the facts `broken`, indices of the files that can't be decoded, `problem`, why the first of
        them can't, and `bits`, the bit depth of grey values of more than 8 bits, else 0.

    Raises:
        ConfigError: The images fit neither into memory nor on the disk.
        DataError: No image can be decoded, or their values have no common scale.
    """

    def plan() -> ArrayPlan:
        print_status(
            f"{len(listing.files):,} images of {len(listing.classes)} classes in {listing.root} are decoded "
            f"and cached in {path.parent}{_ignored_note(listing)}"
        )
        shape, high_bit_depth = _common_shape(listing, settings)
        dtype = np.dtype(np.float32 if high_bit_depth else np.uint8)
        contents = f"{len(listing.files):,} images of {shape[1]}x{shape[2]} pixels"
        return ArrayPlan((len(listing.files), *shape), dtype, contents, "try benchmark.source.size=64")

    def write(writer: BlockWriter) -> ArrayFile:
        _decode_blocks(listing, writer)
        return _finish(listing, settings, writer, location)

    return cached_array(path, storage, plan, write)


def broken_images_error(
    location: str, num_broken: int, num_files: int, first: str, problem: str, remedy: str = "repair or remove them"
) -> DataError:
    """The error for images that can't be decoded."""
    return DataError(
        f"{location}: {num_broken:,} of {num_files:,} images can't be decoded, the first is {first} ({problem}); "
        f"{remedy}"
    )


def _ignored_note(listing: ImageListing) -> str:
    """The files and folders that are ignored, as the end of a status line; empty if there are none."""
    ignored = []
    if listing.num_other_files:
        ignored.append(f"{listing.num_other_files:,} other file{'s' if listing.num_other_files > 1 else ''}")
    if listing.empty_folders:
        ignored.append(f"folders without images ({join_names(listing.empty_folders)})")
    if listing.ignored_folders:
        ignored.append(f"folders of neither split ({join_names(listing.ignored_folders)})")
    return f"; ignored: {', '.join(ignored)}" if ignored else ""


def _map_in_threads(function: Callable[[Any], T], items: Sequence[Any], pool: ThreadPoolExecutor) -> Iterator[T]:
    """`function` of each item, in order; decoders release the interpreter lock."""
    chunks = [items[start : start + _FILES_PER_CHUNK] for start in range(0, len(items), _FILES_PER_CHUNK)]
    for results in pool.map(lambda chunk: [function(item) for item in chunk], chunks):
        yield from results


def _common_shape(listing: ImageListing, settings: DecodingSettings) -> tuple[tuple[int, int, int], bool]:
    """The shape (C, H, W) that all images get, and whether any has more than 8 bits per grey value."""
    names = [file.name for file in listing.files]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = _map_in_threads(lambda name: read_header(f"{listing.root}/{name}"), names, pool)
        headers = Counter(with_progress(found, len(names), "image headers read"))
    del headers[None]
    grey = settings.mode == "grey" or (settings.mode == "auto" and all(header.grey for header in headers if header))
    sizes: Counter[tuple[int, int]] = Counter()
    for header, count in headers.items():
        if header is not None:
            sizes[header.size] += count
    size = settings.size or (sizes.most_common(1)[0][0] if sizes else (1, 1))
    high_bit_depth = {ValueType.INTEGERS, ValueType.FLOATS} & {header.value_type for header in headers if header}
    return (1 if grey else 3, *size), bool(high_bit_depth)


def _decode_blocks(listing: ImageListing, writer: BlockWriter) -> None:
    """Append all images to `writer`, after those that it has; each block with the results of its images."""
    shape, dtype = writer.plan.shape[1:], writer.plan.dtype
    block_size, total = min(_MAX_FILES_PER_BLOCK, writer.rows_per_block), len(listing.files)
    if writer.num_rows:
        print_status(f"{writer.num_rows:,} of {total:,} images were decoded before an interruption")
    with ThreadPoolExecutor(os.cpu_count()) as pool:

        def blocks() -> Iterator[None]:
            for start in range(writer.num_rows, total, block_size):
                paths = [f"{listing.root}/{file.name}" for file in listing.files[start : start + block_size]]
                pixels, results = np.zeros((len(paths), *shape), dtype), []

                def decode(i: int, paths: list[str] = paths, pixels: np.ndarray[Any, Any] = pixels) -> _Result:
                    return _decode_into(pixels[i], paths[i])

                for result in _map_in_threads(decode, range(len(paths)), pool):
                    results.append(result)
                    yield
                writer.append(pixels, _as_record(results))

        try:
            for _ in with_progress(blocks(), total - writer.num_rows, "images decoded"):
                pass
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _decode_into(pixels: np.ndarray[Any, Any], path: str) -> _Result:
    """Decode an image into `pixels` (C, H, W)."""
    try:
        image = decode_image(path, pixels.shape)
        pixels[:] = image.values
        return _Result("", int(image.value_type), image.low, image.high)
    except Exception as error:  # each decoder raises its own types
        return _Result(" ".join(str(error).replace(repr(path), "it").split())[:120] or type(error).__name__)


def _as_record(results: list[_Result]) -> list[tuple[int, _Result]]:
    """The results that are not those of a usual image, with their positions."""
    usual = _Result("")
    return [(i, result) for i, result in enumerate(results) if result != usual]


def _finish(listing: ImageListing, settings: DecodingSettings, writer: BlockWriter, location: str) -> ArrayFile:
    """Leave out broken images, and give all others one scale."""
    total = writer.num_rows
    stored = StoredValues(np.zeros(total, np.uint8), np.zeros(total), np.full(total, 255.0))
    problems: dict[int, str] = {}
    for start, record in zip(writer.starts, writer.records, strict=True):
        for i, (problem, value_type, low, high) in record:
            stored.value_type[start + i], stored.low[start + i], stored.high[start + i] = value_type, low, high
            if problem:
                problems[start + i] = problem
    broken = sorted(problems)
    facts: dict[str, Any] = {"broken": broken, "problem": problems[broken[0]] if broken else "", "bits": 0}
    if len(broken) == total:
        raise broken_images_error(location, total, total, listing.files[0].name, problems[0])
    check_truncation(stored, settings.bits, location)
    high_bit_depth = writer.plan.dtype == np.float32
    if high_bit_depth:
        facts["bits"] = common_bit_depth(stored, [file.name for file in listing.files], settings.bits, location)
    if not broken and not high_bit_depth:
        return writer.finish(facts)
    writer.begin_rewriting()
    valid, num_kept = np.ones(total, bool), 0
    valid[broken] = False
    for start, block in writer.blocks():
        rows = np.flatnonzero(valid[start : start + len(block)])
        kept = block[rows]
        if high_bit_depth:
            scale_to_unit_range(kept, stored.value_type[start + rows], facts["bits"])
        writer.write(num_kept, kept)
        num_kept += len(kept)
    return writer.finish(facts, num_kept)
