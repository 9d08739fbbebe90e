"""One static page a table: what is expected of it and how that came to be over its batches, why
rows were rejected, what is in its columns, what moved.

It is one file without scripts: it opens from a mail, and is kept with a release.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from itertools import islice
from typing import Any, cast

import numpy as np

from penstock.errors import ContractError
from penstock.lake import Lake
from penstock.quality import svg
from penstock.quality.data import personal_of
from penstock.quality.drifting import Drift, distribution, drift, shown
from penstock.quality.history import Validated, contract_of, validations
from penstock.quality.profiling import (
    ColumnProfile,
    Profile,
    batch_profiles,
    profile_of,
)
from penstock.quality.refusals import Refusal, refused_batches
from penstock.tables import Table

_BATCHES = 50
_BINS = 24
_EXAMPLES = 5
_STYLE = """
:root{--ink:#1c2733;--soft:#62717f;--line:#dde4ea;--page:#fff;--card:#f6f8fa;--teal:#0f7b8a;
--bad:#c4452d;--good:#2c7a4b}
@media(prefers-color-scheme:dark){:root{--ink:#e4eaf0;--soft:#93a2b0;--line:#2e3b47;--page:#12181e;
--card:#1a222a;--teal:#3fb1c1;--bad:#ef7b63;--good:#6cc08b}}
body{font:14px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--page);margin:2rem auto;
max-width:1080px;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2.2rem 0 .6rem}
p.about{color:var(--soft);margin:.2rem 0 1rem}
dl{display:flex;flex-wrap:wrap;gap:.4rem 2rem;margin:0}dt{color:var(--soft);font-size:.8rem}
dd{margin:0;font-weight:600}
table{border-collapse:collapse;width:100%}th{text-align:left;color:var(--soft);font-weight:500;
font-size:.8rem}td,th{padding:.3rem .6rem .3rem 0;border-bottom:1px solid var(--line);
vertical-align:middle}td.n{text-align:right;font-variant-numeric:tabular-nums}
code{font-size:.85em}small{color:var(--soft)}
.good{color:var(--good)}.badge{font-weight:600}.broken{color:var(--bad)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(250px,1fr));gap:.8rem}
.card{background:var(--card);border-radius:6px;padding:.7rem .9rem}
.card h3{font-size:.95rem;margin:0 0 .1rem}.card svg{margin:.4rem 0;max-width:100%}
svg rect{fill:var(--teal)}svg rect.bad{fill:var(--bad)}svg text{font-size:9px;fill:var(--soft)}
svg polyline{fill:none;stroke:var(--teal);stroke-width:1.3}svg circle{fill:var(--teal)}
"""


@dataclass(frozen=True, slots=True)
class _Run:
    """One validated batch, as its commit tells."""

    version: int
    at: datetime
    accepted: int
    rejected: int
    reasons: Mapping[str, int]
    results: Sequence[Mapping[str, Any]]


def report(lake: Lake, table: str) -> str:
    """The page of a validated table, as HTML.

    Values of personal columns are not on it.

    Raises
    ------
    TableNotFound: there is no such table.
    ContractError: nothing of it was validated yet.
    """
    snapshot = Table(lake, table).snapshot()
    runs = [_run(batch) for batch in islice(validations(snapshot), _BATCHES)][::-1]
    if not runs:
        raise ContractError(
            f"{table}: nothing was validated yet, so there is nothing to report; `penstock profile "
            f"{table}` shows what is in it"
        )
    personal = personal_of(snapshot)
    profiles = batch_profiles(lake, table, _BATCHES)
    whole = profile_of(lake, table)
    try:
        contract = contract_of(lake, table)
        about, owner = contract.description, contract.owner
        units = {column.name: column.unit for column in contract.columns}
        said = {column.name: column.description for column in contract.columns}
    except ContractError:  # validated before contracts were kept
        about, owner, units, said = "", "", dict[str, str](), dict[str, str]()
    facts = {
        "rows": f"{snapshot.rows:,}",
        "version": str(snapshot.version),
        "size": f"{snapshot.size_bytes / 1e6:,.1f} MB",
        "newest batch": f"{runs[-1].at:%Y-%m-%d %H:%M} UTC",
        "its rejects": _share(runs[-1].rejected, runs[-1].accepted + runs[-1].rejected),
        "owner": owner or "nobody named",
    }
    sections = [
        _section("Refused", _refused(refused_batches(lake, table))),
        _section("Batches", _batches(runs)),
        _section("Expectations", _expectations(runs, personal)),
        _section("Why rows were rejected", _reasons(runs)),
        _section("What moved", _moved(profiles)),
        _section("Columns", _columns(whole, profiles, units, said)),
    ]
    listed = "".join(f"<div><dt>{k}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
    title = escape(table)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>"
        f'<p class="about">{escape(about)}</p><dl>{listed}</dl>{"".join(sections)}'
        f"<p><small>Made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by Penstock.</small></p>"
        "</body></html>\n"
    )


def _run(batch: Validated) -> _Run:
    note = batch.note
    return _Run(
        version=batch.version,
        at=batch.at,
        accepted=int(note.get("rows_accepted", 0)),
        rejected=int(note.get("rows_rejected", 0)),
        reasons=note.get("reasons", {}),
        results=note.get("results", []),
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def _refused(batches: Sequence[Refusal]) -> str:
    return "".join(
        f'<p class="broken">{each.at:%Y-%m-%d %H:%M} UTC, from {escape(each.source)}: '
        f"{escape(each.why)}</p>"
        for each in batches
    )


def _batches(runs: Sequence[_Run]) -> str:
    titles = [
        f"version {run.version}, {run.at:%Y-%m-%d %H:%M}: {run.accepted:,} accepted, "
        f"{run.rejected:,} rejected"
        for run in runs
    ]
    good, bad = sum(run.accepted for run in runs), sum(run.rejected for run in runs)
    count = "1 batch" if len(runs) == 1 else f"{len(runs)} batches, oldest first"
    drawn = svg.stacked([(run.accepted, run.rejected) for run in runs], titles)
    return (
        f"{drawn}<p><small>{count}: {good:,} rows accepted, {bad:,} rejected "
        f"({_share(bad, good + bad)}).</small></p>"
    )


def _expectations(runs: Sequence[_Run], personal: set[str]) -> str:
    rows = list[tuple[tuple[bool, float], str]]()
    for result in runs[-1].results:
        config = result["expectation_config"]
        name = _described(config)
        hidden = personal & _columns_of(config["kwargs"])
        severity = config.get("meta", {}).get("penstock", {}).get("severity", "")
        trend, titles = list[float | None](), list[str]()
        for run in runs:
            same = [
                each for each in run.results if _which(each["expectation_config"]) == _which(config)
            ]
            share = _broken(same[0]) if same else None
            trend.append(share)
            titles.append(f"{run.at:%Y-%m-%d}: {0 if share is None else share:.3%} broken")
        last = trend[-1] or 0.0
        badge = (
            '<span class="badge good">holds</span>'
            if result["success"]
            else '<span class="badge broken">broken</span>'
        )
        top = max([0.001, *(share for share in trend if share is not None)])
        rows.append(
            (
                (bool(result["success"]), -last),
                f"<tr><td>{badge}</td><td><code>{escape(name)}</code></td><td>{severity}</td>"
                f'<td class="n">{_found(result["result"], is_hidden=bool(hidden))}</td>'
                f"<td>{svg.line(trend, titles, top=top)}</td>"
                f"<td><small>{'' if hidden else _examples(result['result'])}</small></td></tr>",
            )
        )
    body = "".join(row for _, row in sorted(rows, key=lambda item: item[0]))
    return (
        "<table><thead><tr><th></th><th>expected</th><th>severity</th><th>last batch</th>"
        f"<th>share broken, by batch</th><th>such as</th></tr></thead><tbody>{body}</tbody></table>"
    )


def _described(config: Mapping[str, Any]) -> str:
    told = {key: value for key, value in config["kwargs"].items() if value is not None}
    columns = told.pop("column", None) or ", ".join(told.pop("column_list", []))
    pair = [told.pop(key) for key in ("column_A", "column_B") if key in told]
    given = [columns or ", ".join(pair), *(f"{key}={value}" for key, value in told.items())]
    said = config.get("meta", {}).get("penstock", {}).get("row_condition")
    condition = f" where {said}" if said else ""
    return f"{config['type']}({', '.join(each for each in given if each)}){condition}"


def _which(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """What stays the same of an expectation when its bounds change."""
    told = config.get("meta", {}).get("penstock", {})
    columns = sorted(_columns_of(config["kwargs"]))
    return config["type"], columns, told.get("label"), told.get("row_condition")


def _broken(result: Mapping[str, Any]) -> float:
    found = result["result"]
    if "unexpected_count" not in found or not found.get("element_count"):
        return 0.0 if result["success"] else 1.0
    return found["unexpected_count"] / found["element_count"]


def _columns_of(kwargs: Mapping[str, Any]) -> set[str]:
    named = [kwargs.get(key) for key in ("column", "column_A", "column_B")]
    return {name for name in (*named, *kwargs.get("column_list", ())) if name}


def _found(found: Mapping[str, Any], *, is_hidden: bool) -> str:
    if "element_count" in found:
        return f"{found['unexpected_count']:,} of {found['element_count']:,}"
    if is_hidden:
        return "•••"
    observed = found.get("observed_value")
    if isinstance(observed, dict):
        values = cast("dict[str, Any]", observed).items()
        return escape(", ".join(f"{k} {_rounded(v)}" for k, v in values if v is not None)[:200])
    return escape(json.dumps(observed, ensure_ascii=False)[:60])


def _rounded(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _examples(found: Mapping[str, Any]) -> str:
    counts = Counter(
        json.dumps(value, ensure_ascii=False, default=str)
        for value in found.get("partial_unexpected_list") or ()
        if value is not None
    )
    return escape(", ".join(text[:40] for text, _ in counts.most_common(_EXAMPLES)))


def _reasons(runs: Sequence[_Run]) -> str:
    total = Counter[str]()
    for run in runs:
        total.update(run.reasons)
    most = max(total.values(), default=0)
    rows = "".join(
        f'<tr><td>{escape(reason)}</td><td class="n">{count:,}</td><td><svg width="300" '
        f'height="12"><rect width="{300 * count / most:.0f}" height="12"/></svg></td></tr>'
        for reason, count in total.most_common()
    )
    return f"<table><tbody>{rows}</tbody></table>" if rows else "<p>No row was.</p>"


def _moved(profiles: Sequence[Profile]) -> str:
    filled = [profile for profile in profiles if profile.rows]
    if len(filled) < 2:
        return "<p><small>There is one batch only; there is nothing to compare it with.</small></p>"
    return drift_table(drift(filled[-2], filled[-1]))


def drift_table(found: Drift) -> str:
    """What moved, as an HTML table."""
    rows = "".join(
        f'<tr><td class="{"broken" if each.has_drifted else "good"}">'
        f"{'moved' if each.has_drifted else 'still'}</td><td>{escape(each.column)}</td>"
        f'<td class="n">{each.psi:.3f}</td><td class="n">{each.js:.3f}</td>'
        f'<td class="n">{"" if each.ks is None else f"{each.ks:.3f}"}</td>'
        f'<td class="n">{each.nulls[0]:.1%} → {each.nulls[1]:.1%}</td>'
        f"<td>{escape(each.middle[0])} → {escape(each.middle[1])}</td></tr>"
        for each in found.columns
    )
    return (
        f"<p><small>{escape(found.before)} ({found.rows[0]:,} rows) against {escape(found.after)} "
        f"({found.rows[1]:,} rows)</small></p><table><thead><tr><th></th><th>column</th>"
        "<th>PSI</th><th>Jensen-Shannon</th><th>Kolmogorov-Smirnov</th><th>nulls</th>"
        f"<th>middle</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _columns(
    whole: Profile,
    profiles: Sequence[Profile],
    units: Mapping[str, str],
    said: Mapping[str, str],
) -> str:
    cards = list[str]()
    for name, column in whole.columns.items():
        unit = f" <small>{escape(units.get(name, ''))}</small>" if units.get(name) else ""
        missing: list[float | None] = [
            _missing(each.columns[name], each.rows) if name in each.columns else None
            for each in profiles
        ]
        titles = [f"version {each.version}" for each in profiles]
        has_trend = len(missing) > 1 and any(missing)
        trend = svg.line(missing, titles, top=max([0.01, *(m or 0 for m in missing)]))
        cards.append(
            f'<div class="card"><h3>{escape(name)}{unit}</h3><small>{escape(column.type)}'
            f"{' · ' + escape(said[name]) if said.get(name) else ''}</small>"
            f"{_picture(column, whole.rows)}{_numbers(column, whole.rows)}"
            f"{f'<div><small>missing, by batch</small> {trend}</div>' if has_trend else ''}"
            "</div>"
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def _picture(column: ColumnProfile, rows: int) -> str:
    if column.quantiles:
        low, high = column.quantiles[0], column.quantiles[-1]
        # Without the outermost values, which would press all others into one bar.
        inner = column.quantiles[1], column.quantiles[-2]
        if inner[1] > inner[0] and (high - low) > 3 * (inner[1] - inner[0]):
            low, high = inner
        edges = np.linspace(low, high, _BINS + 1)
        below = distribution(column, edges)
        below[0] = 0.0
        ends = shown(float(low), column.kind), shown(float(high), column.kind)
        lengths = "<small>lengths</small>" if column.lengths is not None else ""
        return lengths + svg.histogram(np.diff(below).tolist(), *ends)
    if column.frequent:
        return svg.bars(column.frequent, column.count(rows))
    return "<p><small>values are not shown</small></p>" if column.is_masked else ""


def _numbers(column: ColumnProfile, rows: int) -> str:
    facts = [f"{_share(column.nulls, rows)} null"]
    if column.distinct:
        facts.append(f"about {column.distinct:,} values")
    if column.nan:
        facts.append(f"{column.nan:,} not finite")
    if column.quantiles and column.lengths is None:
        names = ("least", "median", "greatest")
        places = (0, 50, 100)
        facts += [
            f"{name} {shown(column.quantiles[place], column.kind)}"
            for name, place in zip(names, places, strict=True)
        ]
    if column.mean is not None and column.kind == "number":
        facts.append(f"mean {column.mean:,.4g} ± {column.std or 0:,.4g}")
    if column.lengths is not None and column.kind != "flag":
        facts.append(f"lengths {column.lengths[0]:,} to {column.lengths[2]:,}")
    return f"<small>{' · '.join(escape(fact) for fact in facts)}</small>"


def _missing(column: ColumnProfile, rows: int) -> float:
    return 1 - column.count(rows) / rows if rows else 0.0


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else "0%"
