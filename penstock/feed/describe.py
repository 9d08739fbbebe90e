"""A dataset told to people: its name and contents, and the plan by which it will be fed."""

from __future__ import annotations

import html
from dataclasses import dataclass

import numpy as np

from penstock.feed.cache import cached_bytes
from penstock.feed.opened import Opened
from penstock.feed.order import Full, Order, Windowed
from penstock.feed.settings import Settings
from penstock.feed.world import World

_SHOWN_FEATURES = 24


@dataclass(frozen=True, slots=True)
class Explanation:
    """A plan as lines of (what, how); `str` and notebooks show it."""

    title: str
    lines: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.lines)
        body = "\n".join(f"  {name:<{width}}  {text}" for name, text in self.lines)
        return f"{self.title}\n{body}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return _table(self.title, self.lines)


def text_of(opened: Opened, settings: Settings, samples: int | None) -> str:
    """The `repr` of a dataset."""
    return str(_described(opened, settings, samples))


def html_of(opened: Opened, settings: Settings, samples: int | None) -> str:
    """The same as a table, for notebooks."""
    described = _described(opened, settings, samples)
    return _table(described.title, described.lines)


def explained(opened: Opened, settings: Settings, order: Order | None, world: World) -> Explanation:
    """By which plan an epoch will be fed."""
    source = opened.source
    blocks, rows = len(source.rows), source.rows
    room = source.block_bytes
    lines = [
        (
            "samples",
            f"{opened.rows:,} rows in {blocks:,} blocks of {len(np.unique(source.file_of))} files",
        ),
        (
            "block",
            f"{int(np.median(rows)):,} rows, {_bytes(float(room.mean()))}" if blocks else "none",
        ),
        ("columns", ", ".join(settings.columns)),
    ]
    if settings.makes_samples:
        lines.append(("made into", settings.samples))
    if settings.filter is not None:
        lines.append(("filter", str(settings.filter)))
    if settings.images is not None:
        kept = ", kept decoded in the cache" if settings.images.is_cached else ""
        height, width, _ = settings.images.shape
        lines.append(("images", f"{settings.images.column} to {height} x {width}{kept}"))
    if order is not None:
        lines += _order_lines(order, world, opened)
    is_here = source.local_path(0) is not None
    if is_here:
        lines.append(("blocks from", "this machine's disk, mapped where they lie"))
    else:
        kept = cached_bytes(opened.cache, source.fingerprint, len(source.layout.offset))
        lines += [
            ("blocks from", f"{opened.uri}, {opened.fetch.in_flight} requests in flight"),
            ("to be fetched", _bytes(max(0, int(source.block_bytes.sum()) - kept))),
            ("cache", f"{opened.cache.folder}, {_bytes(opened.cache.budget_bytes)} at most"),
        ]
    memory = 0 if is_here else opened.memory.held_bytes + opened.memory.ahead_bytes
    lines.append(("memory", f"at most {_bytes(memory + (64 << 20))} beside the mapped files"))
    return Explanation(f"{opened.name} {opened.split}", tuple(lines))


def _order_lines(order: Order, world: World, opened: Opened) -> list[tuple[str, str]]:
    shuffle = order.shuffle
    if isinstance(shuffle, Full):
        how = f"full: one permutation of all samples, seed {shuffle.seed}"
    elif isinstance(shuffle, Windowed):
        how = (
            f"windowed: {shuffle.window} blocks open at once in {order.lanes} lanes, seed "
            f"{shuffle.seed}; each block is read once an epoch"
        )
    else:
        how = "as stored"
    each = order.global_batch // max(1, world.size)
    return [
        ("order", how),
        ("epoch", f"{order.epoch}: {order.steps:,} steps of {order.global_batch:,} samples"),
        ("this rank", f"{world.rank} of {world.size}: {each:,} samples of each step"),
    ]


def _described(opened: Opened, settings: Settings, samples: int | None) -> Explanation:
    splits = ", ".join(f"{name}: {rows:,}" for name, rows in opened.splits.items())
    count = "not counted yet" if samples is None else f"{samples:,}"
    features = list(opened.features[:_SHOWN_FEATURES])
    if len(opened.features) > len(features):
        features.append(f"... {len(opened.features) - len(features)} more")
    lines = [
        ("rows", f"{count} of {{{splits}}}"),
        ("bytes", f"{opened.size_bytes:,} in {_files(opened)}"),
        ("columns", ", ".join(settings.columns)),
    ]
    if features:
        lines.append(("features", ", ".join(features)))
    if opened.source.local_path(0) is None:
        whole = max(1, opened.size_bytes)
        blocks = len(opened.source.layout.offset)
        share = min(1.0, cached_bytes(opened.cache, opened.fingerprint, blocks) / whole)
        lines.append(("cached", f"{share:.0%} in {opened.cache.folder}"))
    else:
        lines.append(("cached", "on this machine's disk already"))
    lines.append(("lake", opened.uri))
    if opened.published is not None:
        lines += [("look at", w["message"]) for w in opened.published.details.get("warnings", ())]
    title = f"Dataset({opened.name!r}, split={opened.split!r}, version={opened.fingerprint!r})"
    return Explanation(title, tuple(lines))


def _files(opened: Opened) -> str:
    if opened.published is not None:
        return f"{len(opened.published.shards)} shards"
    return f"{len(np.unique(opened.source.file_of))} files"


def _table(title: str, lines: tuple[tuple[str, str], ...]) -> str:
    rows = "".join(
        f'<tr><th style="text-align:left">{html.escape(name)}</th>'
        f'<td style="text-align:left">{html.escape(text)}</td></tr>'
        for name, text in lines
    )
    return f"<table><caption>{html.escape(title)}</caption>{rows}</table>"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
