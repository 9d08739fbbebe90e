"""JPEG bytes to RGB arrays with each of the decoders that loaders use, and the quickest of them."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import cv2
import imagecodecs
import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.feed.data import SIDE

Pixels = NDArray[np.uint8]
cv2.setNumThreads(1)  # loaders bring their own threads or processes


def with_simplejpeg(jpeg: bytes, size: int | None = None) -> Pixels:
    """libjpeg-turbo; with a size it decodes at the smallest scale that still covers it."""
    if size is None:
        return simplejpeg.decode_jpeg(jpeg, "RGB")
    return resized(simplejpeg.decode_jpeg(jpeg, "RGB", min_height=size, min_width=size), size)


def with_cv2(jpeg: bytes, size: int | None = None) -> Pixels:
    """OpenCV's own libjpeg-turbo, at full scale."""
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert image is not None
    return resized(image, size) if size else image


def with_imagecodecs(jpeg: bytes, size: int | None = None) -> Pixels:
    """imagecodecs' libjpeg-turbo, at full scale."""
    image = imagecodecs.jpeg8_decode(jpeg, outcolorspace="RGB")
    return resized(image, size) if size else image


def with_pil(jpeg: bytes, size: int | None = None) -> Pixels:
    """Pillow, with `draft` to decode at a smaller scale where a size allows it."""
    with Image.open(BytesIO(jpeg)) as image:
        if size is None:
            return np.asarray(image.convert("RGB"))
        image.draft("RGB", (size, size))
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


DECODERS = {
    "simplejpeg": with_simplejpeg,
    "cv2": with_cv2,
    "imagecodecs": with_imagecodecs,
    "PIL": with_pil,
}


def resized(image: Pixels, size: int) -> Pixels:
    """A `size` x `size` image, bilinear."""
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)  # pyright: ignore


def image(jpeg: bytes) -> Pixels:
    """(224, 224, 3), by the quickest decoder here: every loader that takes a function gets this."""
    return with_cv2(jpeg, SIDE)


def stacked(images: Sequence[Pixels]) -> torch.Tensor:
    """Images as one (b, 224, 224, 3) tensor."""
    return torch.from_numpy(np.stack(images))
