"""Every code block of the docs runs, and every link leads somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^( *)```python\n(.*?)^ *```", re.M | re.S)
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with `retail/demand` published, as the demo leaves it."""
    from penstock import Lake, freeze, publish, validate
    from penstock.features import materialize, stale_days
    from penstock.ingest import Source, ingest
    from pipelines.retail import DEMAND, DEMAND_LABELS, PRODUCT_FEATURES
    from pipelines.retail_sample import write_sample
    from schemas.retail import SALES

    folder = tmp_path_factory.mktemp("docs")
    write_sample(folder / "raw", rows=12_000, days=30)
    lake, source = Lake(folder / "lake"), Source("retail/sales_raw", str(folder / "raw"), SALES)
    ingest(lake, source)
    validate(lake, source)
    for definition in (PRODUCT_FEATURES.daily(), DEMAND_LABELS.daily()):
        materialize(lake, definition, stale_days(lake, definition))
    publish(lake, DEMAND, freeze(lake, DEMAND))
    return folder / "lake"


def _blocks() -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for page in PAGES:
        for number, (indent, code) in enumerate(_BLOCK.findall(page.read_text())):
            lines = [line.removeprefix(indent) for line in code.splitlines()]
            found.append((f"{page.name} {number + 1}", "\n".join(lines)))
    return found


@pytest.mark.parametrize("code", [c for _, c in _blocks()], ids=[n for n, _ in _blocks()])
def test_a_code_block_runs(code: str, published: Path, tmp_path: Path) -> None:
    if "schemas.news" in code:  # the module that the block before it is
        (schema,) = (other for _, other in _blocks() if "news/articles_raw" in other)
        code = (
            "import sys, types\nmodule = types.ModuleType('schemas.news')\n"
            f"exec({schema!r}, module.__dict__)\nsys.modules['schemas.news'] = module\n{code}"
        )
    environment = {**os.environ, "PENSTOCK_LAKE": str(published), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(page.read_text()):
        assert (page.parent / link).exists(), link


def test_the_docs_name_every_expectation() -> None:
    from penstock import contracts

    text = (ROOT / "docs" / "contracts.md").read_text()
    named = text.replace("..._to_not_be_in_set", "expect_column_values_to_not_be_in_set")
    for name in contracts.__all__:
        if name.startswith("expect_"):
            assert name in named
