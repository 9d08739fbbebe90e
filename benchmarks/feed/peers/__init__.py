"""Other loaders, each reading the same data in its own format, the way its documentation advises.

Every module has `NAME`, `version()`, `WORKS`, and

    prepare(work, data, folder)    write the data in the loader's format, once
    epoch(work, folder, ...)       one shuffled epoch from a standing start, as batches

A folder is a path, or `s3://bucket/prefix` for the `cold-*` works, whose endpoint and keys stand in
`AWS_*` variables. Batches are alike whatever made them: {"features", "label"} tensors for rows,
(8, 2048) int32 tensors for tokens, lists of bytes for files, (b, 224, 224, 3) uint8 for images.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import boto3
import numpy as np
import torch
from botocore.exceptions import ClientError
from numpy.typing import NDArray

from benchmarks.feed.data import BATCH, SEQUENCE

LOCAL = frozenset({"rows", "tokens", "jpegs", "images"})
COLD = frozenset({"cold-blobs", "cold-rows"})
RowBatch = dict[str, torch.Tensor]
Batch = RowBatch | torch.Tensor | list[bytes]

_MARKER = ".complete"


def write_once(folder: Path | str, contents: str, write: Callable[[Path], None]) -> None:
    """Have `write` fill a folder, local or in S3, unless it already holds these contents."""
    if isinstance(folder, str) and folder.startswith("s3://"):
        _upload_once(folder, contents, write)
        return
    marker = Path(folder) / _MARKER
    if marker.is_file() and marker.read_text() == contents:
        return
    shutil.rmtree(folder, ignore_errors=True)
    marker.parent.mkdir(parents=True)
    write(marker.parent)
    marker.write_text(contents)


def _upload_once(folder: str, contents: str, write: Callable[[Path], None]) -> None:
    """With boto3, as obstore's threads, once started, crash the workers that a loader forks."""
    name, prefix = folder.removeprefix("s3://").split("/", 1)
    bucket = boto3.resource("s3").Bucket(name)
    marker = bucket.Object(f"{prefix}/{_MARKER}")
    try:
        if marker.get()["Body"].read() == contents.encode():
            return
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchKey":
            raise
    bucket.objects.filter(Prefix=f"{prefix}/").delete()
    with tempfile.TemporaryDirectory() as scratch:
        write(Path(scratch))
        for file in sorted(Path(scratch).rglob("*")):
            if file.is_file():
                bucket.upload_file(str(file), f"{prefix}/{file.relative_to(scratch).as_posix()}")
    marker.put(Body=contents.encode())


def packed(
    pieces: Iterable[NDArray[np.int32]], count: int = BATCH["tokens"]
) -> Iterator[torch.Tensor]:
    """Runs of tokens joined and cut into (count, 2048) batches; the rest of the last is dropped."""
    whole = count * SEQUENCE
    waiting: list[NDArray[np.int32]] = []
    held = 0
    for piece in pieces:
        waiting.append(piece)
        held += len(piece)
        if held < whole:
            continue
        run = np.concatenate(waiting)
        end = held - held % whole
        for start in range(0, end, whole):
            yield torch.from_numpy(run[start : start + whole].reshape(count, SEQUENCE))
        waiting, held = [run[end:]], held - end
