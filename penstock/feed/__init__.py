"""`load_dataset` and all behind it.

    load.py           a name ─▶ manifest and index ─▶ Dataset
    where_it_lies.py  a URI ─▶ footers, or the Delta log ─▶ Dataset; transcoded.py makes its blocks
    dataset.py        Dataset: what to read and how, an immutable value to chain; iterating it feeds
    mixing.py         interleave: several datasets in exact proportions; turns.py

    order.py          the function from (seed, epoch, step) to sample numbers; permutation.py
    samples.py        a sample made of rows; filtering.py, windows.py, packed.py, images.py
    engine.py         what is open in a process
    feeding.py        chunks of steps: plan, want blocks, wait, gather; feeder.py is the thread
    ahead.py          blocks brought before their turn, into the next epoch
    blocks.py         blocks in one stretch of address space (arena.py), from disk, cache or storage
    behind.py         fetched blocks written to the cache later; workers.py are threads for it
    source.py         where blocks come from; fetch.py asks storage: retries, hedges, gives up
    cache.py          a node's folder of verified blocks, shared by its processes, within a budget
    gather.py         rows out of blocks into a batch's buffers, by address
    stages.py         the caller's functions on batches; randomness.py their random numbers
    convert.py        a batch as numpy, torch, jax, tf, Arrow or polars; ragged.py
    state.py, world.py, metrics.py, describe.py, shuffling.py

It needs numpy and pyarrow; torch, jax and tensorflow only when asked for.
"""

from penstock.feed.blocks import MemoryOptions
from penstock.feed.cache import CacheOptions
from penstock.feed.dataset import Dataset
from penstock.feed.fetch import FetchOptions
from penstock.feed.load import load_dataset
from penstock.feed.mixing import Mixture, interleave
from penstock.feed.order import Full, Sequential, Windowed

__all__ = [
    "CacheOptions",
    "Dataset",
    "FetchOptions",
    "Full",
    "MemoryOptions",
    "Mixture",
    "Sequential",
    "Windowed",
    "interleave",
    "load_dataset",
]
