"""Images decoded and resized in threads; kept decoded in the cache where that is asked for."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from penstock.errors import MissingExtra, OrderError, SampleError
from penstock.feed.arena import Arena, page_up
from penstock.feed.cache import CacheOptions, Layout, ShardCache
from penstock.feed.gather import Gatherer, numpy_take
from penstock.feed.samples import Plan, Samples
from penstock.feed.slabs import SLABS
from penstock.feed.variable import row_buffers

Decode = Callable[[memoryview, NDArray[np.uint8]], None]
"""Decodes an image's bytes into a (height, width, 3) array."""


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """What becomes of a column of encoded images."""

    column: str
    height: int
    width: int
    fit: Literal["crop", "stretch"]
    """`crop` keeps the proportions and cuts what stands over, evenly; `stretch` keeps all of it."""
    is_cached: bool
    threads: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise OrderError(f"an image has at least 1 pixel, got {self.height} x {self.width}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image: height, width, RGB."""
        return self.height, self.width, 3


class Images:
    """Samples whose column of encoded images comes as (samples, height, width, 3) uint8.

    Parameters
    ----------
    rest: gathers the other columns.
    encoded: gathers the encoded images alone.
    """

    def __init__(
        self,
        rest: Samples,
        encoded: Gatherer,
        options: ImageOptions,
        pixels: PixelCache | None,
        place: int,
    ) -> None:
        self._rest, self._encoded, self._options, self._pixels = rest, encoded, options, pixels
        self.counts = rest.counts
        fields = list(rest.schema)
        fields.insert(place, pa.field(options.column, _pixel_type(options)))
        self.schema = pa.schema(fields)
        self._decode = decoder(options.fit)
        self._pool = ThreadPoolExecutor(options.threads, thread_name_prefix="penstock-image")

    @property
    def bytes_a_sample(self) -> int:
        """The pixels and the rest."""
        return self._rest.bytes_a_sample + int(np.prod(self._options.shape))

    def begin(self, epoch: int) -> Samples:
        """The same images in every epoch."""
        return self

    def open(self, blocks: NDArray[np.int64]) -> None:
        """As the rest, and the encoded images."""
        self._rest.open(blocks)
        self._encoded.open(blocks)

    def plan(self, samples: NDArray[np.int64]) -> Plan:
        """As the rest."""
        return self._rest.plan(samples)

    def rows_of(self, samples: NDArray[np.int64], block_of: NDArray[np.int64]) -> NDArray[np.int64]:
        """As the rest."""
        return self._rest.rows_of(samples, block_of)

    def gather(self, samples: NDArray[np.int64], block_of: NDArray[np.int64]) -> dict[str, Any]:
        """The rest, and the images: from the cache, or decoded."""
        rows = self._rest.rows_of(samples, block_of)
        columns = self._rest.gather(samples, block_of)
        size = len(rows) * int(np.prod(self._options.shape))
        pixels = SLABS.take(size).reshape(len(rows), *self._options.shape)
        missing = np.arange(len(rows))
        if self._pixels is not None:
            missing = self._pixels.read(rows, pixels)
        if len(missing):
            self._decode_into(pixels, missing, rows[missing], block_of[missing])
            if self._pixels is not None:
                self._pixels.write(rows[missing], pixels, missing)
        columns[self._options.column] = pixels
        return {name: columns[name] for name in self.schema.names}

    def _decode_into(
        self,
        pixels: NDArray[np.uint8],
        places: NDArray[np.int64],
        rows: NDArray[np.int64],
        block_of: NDArray[np.int64],
    ) -> None:
        images = row_buffers(self._encoded.gather(rows, block_of)[self._options.column])

        def one(number: int) -> None:
            image = images[number]
            try:
                self._decode(image, pixels[places[number]])
            except Exception as error:  # whatever the decoder raises, the row is what matters
                raise SampleError(
                    f"row {rows[number]:,}: {self._options.column} is no image that can be decoded "
                    f"({len(image):,} bytes): {error}. Leave the row out with filter(), or mend it"
                ) from error

        for _ in self._pool.map(one, range(len(rows))):
            pass

    def close(self) -> None:
        """Give threads and files back; twice does no harm."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._pixels is not None:
            self._pixels.close()


class PixelCache:
    """Decoded images in a node's cache, one file, a slot a row."""

    def __init__(self, options: CacheOptions, of: str, rows: int, images: ImageOptions) -> None:
        self._size = int(np.prod(images.shape))
        slot = page_up(self._size)
        file = (("pixels", rows * slot),)
        offset = np.arange(rows, dtype=np.int64) * slot
        room = np.full(rows, self._size, np.int64)
        self._layout = Layout(file, np.zeros(rows, np.int32), offset, room)
        name = f"{of}/{images.column}/{images.shape}/{images.fit}"
        self._cache = ShardCache(options, xxhash.xxh3_128_hexdigest(name.encode()), self._layout)
        self._arena = Arena(rows * slot)
        self._arena.map_file(0, self._cache.descriptor(0), rows * slot)
        self.owner = os.getpid()

    def read(self, rows: NDArray[np.int64], pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Copy the images that are here; the places of those that are not."""
        here = np.array([self._cache.pin(row) for row in rows.tolist()], np.bool_)
        found = np.flatnonzero(here)
        try:
            addresses = self._layout.offset[rows[found]]
            flat = pixels.reshape(len(rows), -1)
            flat[found] = numpy_take(self._arena.bytes, addresses, self._size)
        finally:
            self._cache.unpin(rows[found].tolist())
        return np.flatnonzero(~here)

    def write(
        self, rows: NDArray[np.int64], pixels: NDArray[np.uint8], places: NDArray[np.int64]
    ) -> None:
        """Keep images, as far as there is room."""
        claimed = [n for n, row in enumerate(rows.tolist()) if self._cache.claim(row)]
        try:
            absent = [n for n in claimed if not self._cache.recall(int(rows[n]))]
            if not absent or not self._cache.take_rooms(rows[absent].tolist(), self._size):
                return
            for n in absent:
                data = memoryview(cast("Any", pixels[places[n]])).cast("B")
                self._cache.write(int(rows[n]), data, xxhash.xxh3_64_intdigest(data))
        finally:
            self._cache.unpin(rows[claimed].tolist())

    def close(self) -> None:
        """Give the cache's files back."""
        self._cache.close()


@cache
def decoder(fit: Literal["crop", "stretch"]) -> Decode:
    """The quickest decoder that is installed.

    Raises
    ------
    MissingExtra: there is none.
    """
    for make in (_opencv, _pillow):
        try:
            return make(fit == "crop")
        except ImportError:
            continue
    raise MissingExtra("an image decoder (opencv-python-headless or pillow)", "images")


def _opencv(crops: bool) -> Decode:
    cv2 = importlib.import_module("cv2")
    cv2.setNumThreads(0)  # images are decoded at the same time; each has one thread

    def decode(data: memoryview, out: NDArray[np.uint8]) -> None:
        height, width = out.shape[:2]
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        if image is None:
            raise ValueError("neither JPEG, PNG nor another format that OpenCV reads")
        if crops:
            image = _covering(image, height, width)
        # Over an area where much is made smaller, so that no detail turns into noise.
        shrinks = min(image.shape[0] / height, image.shape[1] / width) >= 2
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        cv2.resize(image, (width, height), dst=out, interpolation=how)

    return decode


def _pillow(crops: bool) -> Decode:
    pillow = importlib.import_module("PIL.Image")
    io = importlib.import_module("io")

    def decode(data: memoryview, out: NDArray[np.uint8]) -> None:
        height, width = out.shape[:2]
        with pillow.open(io.BytesIO(data)) as image:
            image.draft("RGB", (width, height))  # JPEG: at the least scale that is large enough
            image = image.convert("RGB")
            box = None
            if crops:
                box = _covered(image.height, image.width, height, width)
            out[:] = np.asarray(image.resize((width, height), box=box))

    return decode


def _covered(height: int, width: int, to_height: int, to_width: int) -> tuple[int, int, int, int]:
    """The middle of an image that has the wanted proportions: left, top, right, bottom."""
    scale = min(height / to_height, width / to_width)
    kept_height = max(1, round(scale * to_height))
    kept_width = max(1, round(scale * to_width))
    top, left = (height - kept_height) // 2, (width - kept_width) // 2
    return left, top, left + kept_width, top + kept_height


def _covering(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    left, top, right, bottom = _covered(image.shape[0], image.shape[1], height, width)
    return image[top:bottom, left:right]


def _pixel_type(options: ImageOptions) -> pa.DataType:
    return pa.fixed_shape_tensor(pa.uint8(), options.shape)
