"""Near-duplicates: texts by MinHash, images by a difference hash, found by equal bands of either.

- MinHash: of each text's 5-byte shingles the least hash under 64 permutations; two texts agree in
  a place as often as their shingles overlap (Broder, "On the resemblance and containment of
  documents", 1997). 16 bands of 4 places meet at a similarity of about 0.5 (Leskovec, Rajaraman
  and Ullman, "Mining of Massive Datasets", 3.4).
- Difference hash: 64 bits of whether each of 9 x 8 grey pixels is brighter than its neighbour
  (Krawetz, "Kind of like that", 2013). Of two that differ in 3 bits at most, one of 4 bands is
  equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Iterable

PLACES = 64
SIMILAR = 0.8
"""Of two texts' shingles, the share that both have, from which on they are near-duplicates."""
BITS = 3
"""In which two images' hashes may differ."""
_SHINGLE = 5
_BANDS = 16
_AT_ONCE = 1 << 20
"""Shingles hashed at once: 64 hashes of 4 bytes each."""
_MOST_IN_BAND = 50
"""Rows of one band that are compared pair by pair; of more, each with the first."""
_PRIME = np.uint64((1 << 61) - 1)
UInt32s = NDArray[np.uint32]


def signatures(texts: pl.Series) -> UInt32s:
    """(texts, 64) MinHash signatures; white space and case are passed over.

    Texts shorter than a shingle are hashed whole; of nulls and empty ones each has its own.
    """
    plain = texts.fill_null("").str.to_lowercase().str.replace_all(r"\s+", " ")
    plain = plain.str.strip_chars().str.pad_end(_SHINGLE, "\0")
    lengths = plain.str.len_bytes().to_numpy().astype(np.int64)
    found = np.empty((len(plain), PLACES), np.uint32)
    ends = np.cumsum(lengths)
    first = 0
    while first < len(plain):
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + _AT_ONCE, side="right")))
        found[first:last] = _signed(plain[first:last], lengths[first:last])
        first = last
    nothing = (plain == "\0" * _SHINGLE).to_numpy()
    own = np.arange(len(plain), dtype=np.uint32)[nothing, None] * np.uint32(PLACES)
    found[nothing] = own + np.arange(PLACES, dtype=np.uint32)
    return found


def difference_hashes(images: Sequence[bytes | None]) -> NDArray[np.uint64]:
    """(images,) A 64-bit hash each; of what is no image, or of one colour, one of its own.

    Raises
    ------
    MissingExtra: neither OpenCV nor Pillow is installed.
    """
    read = _reader()

    def one(place_and_data: tuple[int, bytes | None]) -> int:
        place, data = place_and_data
        grey = read(data) if data else None
        if grey is None or grey.max() == grey.min():
            return (place * 0x9E3779B97F4A7C15 + 1) & 0xFFFFFFFFFFFFFFFF
        bits = (grey[:, 1:] > grey[:, :-1]).ravel()
        return int(np.packbits(bits).view(">u8")[0])

    with ThreadPoolExecutor(thread_name_prefix="penstock-hash") as pool:
        return np.fromiter(pool.map(one, enumerate(images)), np.uint64, len(images))


def similar_texts(signed: UInt32s, least: float = SIMILAR) -> NDArray[np.int64]:
    """(pairs, 2) Rows whose texts are near-duplicates, the lower one first."""
    width = PLACES // _BANDS
    bands = [
        np.ascontiguousarray(signed[:, band * width : (band + 1) * width]) for band in range(_BANDS)
    ]
    pairs = _meeting(pl.DataFrame(band).hash_rows().to_numpy() for band in bands)
    if not len(pairs):
        return pairs
    agree = (signed[pairs[:, 0]] == signed[pairs[:, 1]]).mean(axis=1)
    return pairs[agree >= least]


def similar_images(hashes: NDArray[np.uint64], bits: int = BITS) -> NDArray[np.int64]:
    """(pairs, 2) Rows whose images are near-duplicates, the lower one first."""
    pairs = _meeting((hashes >> np.uint64(16 * band)).astype(np.uint16) for band in range(4))
    if not len(pairs):
        return pairs
    apart = np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])
    return pairs[apart <= bits]


def _signed(texts: pl.Series, lengths: NDArray[np.int64]) -> UInt32s:
    joined = np.frombuffer("".join(texts.to_list()).encode(), np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(joined, _SHINGLE)
    owner = np.repeat(np.arange(len(lengths)), lengths)[: len(windows)]
    left = np.cumsum(lengths)[owner] - np.arange(len(windows))  # bytes to the text's end
    powers = np.uint64(257) ** np.arange(_SHINGLE, dtype=np.uint64)
    hashed = (windows.astype(np.uint64) * powers).sum(axis=1)
    hashed = (hashed * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(29)
    whole = left >= _SHINGLE  # and not into the next text
    hashed, owner = hashed[whole], owner[whole]
    begins = np.searchsorted(owner, np.arange(len(lengths)))
    rng = np.random.default_rng(20_240_301)
    factors = rng.integers(1, int(_PRIME), PLACES, dtype=np.uint64) | np.uint64(1)
    found = np.empty((len(lengths), PLACES), np.uint32)
    for number, factor in enumerate(factors):  # places, not rows
        mixed = ((hashed * factor) >> np.uint64(32)).astype(np.uint32)
        found[:, number] = np.minimum.reduceat(mixed, begins)
    return found


def _meeting(bands: Iterable[NDArray[Any]]) -> NDArray[np.int64]:
    """(pairs, 2) Rows that are equal in any band."""
    found = list[pl.DataFrame]()
    for band in bands:
        rows = pl.DataFrame({"key": band}).with_row_index("row")
        count = pl.len().over("key")
        few = rows.filter(count.is_between(2, _MOST_IN_BAND))
        pairs = few.join(few, on="key", suffix="_other").filter(pl.col("row") < pl.col("row_other"))
        # Of many, each beside the first.
        many = rows.filter(count > _MOST_IN_BAND).select(
            pl.col("row").min().over("key"), row_other=pl.col("row")
        )
        found += [
            pairs.select("row", "row_other"),
            many.filter(pl.col("row") < pl.col("row_other")),
        ]
    return pl.concat(found).unique().sort("row", "row_other").to_numpy().astype(np.int64)


def _reader() -> Any:
    """What makes 8 x 9 grey pixels of an image's bytes; None of what is none."""
    try:
        import cv2  # pyright: ignore[reportMissingImports]
    except ImportError:
        return _pillow()

    def read(data: bytes) -> Any:
        grey = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        return None if grey is None else cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)

    return read


def _pillow() -> Any:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingExtra("cv2", "images") from error
    import io

    def read(data: bytes) -> Any:
        try:
            with Image.open(io.BytesIO(data)) as image:
                return np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
        except (UnidentifiedImageError, OSError):
            return None

    return read
