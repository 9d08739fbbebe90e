"""The project folder that a command runs in: its domains, found by name.

A domain is a module in `schemas/` (its sources) and one of the same name in `pipelines/` (its
views, labels and training sets). They are loaded when a command needs them; the engine itself
depends on neither.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from penstock.errors import ProjectError, did_you_mean
from penstock.features import DailyTable, FeatureView
from penstock.ingest import Source
from penstock.labels import Outcome
from penstock.training import TrainingSet

T = TypeVar("T")


class Project:
    """A folder with `schemas/` and `pipelines/`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    def sources(self) -> list[Source]:
        """Every domain's sources."""
        return self._values("schemas", Source)

    def source_of(self, table: str) -> Source:
        """The source whose rows end in a table, by the name of its bronze or validated table.

        Raises
        ------
        ProjectError: there is none; names the near ones.
        """
        sources = self.sources()
        for source in sources:
            if table in (source.table, source.contract.table):
                return source
        known = [source.contract.table for source in sources]
        raise ProjectError(f"no source has the table {table}.{did_you_mean(table, known)}")

    def training_set(self, name: str) -> TrainingSet:
        """The training set of that name.

        Raises
        ------
        ProjectError: there is none; names the near ones.
        """
        found = {spec.name: spec for spec in self.training_sets()}
        if name not in found:
            raise ProjectError(f"no training set {name}.{did_you_mean(name, found)}")
        return found[name]

    def views(self) -> list[FeatureView]:
        """Every feature view, those that only read another's table left out."""
        found = dict[str, FeatureView]()
        for view in self._values("pipelines", FeatureView):
            if view.source == view.table:
                continue
            known = found.setdefault(view.table, view)  # of those alike but for their prefix
            if known.definition() != view.definition():
                raise ProjectError(
                    f"two different views are called {view.table}; give one of them another name"
                )
        return list(found.values())

    def outcomes(self) -> list[Outcome]:
        """Every label set that time gives."""
        return self._values("pipelines", Outcome)

    def training_sets(self) -> list[TrainingSet]:
        """Every training set."""
        return self._values("pipelines", TrainingSet)

    def definitions(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Name, kind and definition of every view, label set and training set."""
        return [
            *((view.table, "features", view.definition()) for view in self.views()),
            *((each.table, "labels", each.definition()) for each in self.outcomes()),
            *((spec.name, "training set", spec.definition()) for spec in self.training_sets()),
        ]

    def reads(self) -> dict[str, list[str]]:
        """The tables that each of them reads, by name."""
        found = {view.table: [view.source] for view in self.views()}
        found |= {each.table: [each.source] for each in self.outcomes()}
        for spec in self.training_sets():
            views = [view.table for view in spec.views]
            found[spec.name] = [*spec.inputs, *views, spec.labels.table]
        return found

    def daily_tables(self, names: Iterable[str]) -> list[DailyTable]:
        """How those of some tables are computed that are computed a day at a time."""
        known = {each.table: each for each in (*self.views(), *self.outcomes())}
        return [known[name].daily() for name in names if name in known]

    def _values(self, package: str, kind: type[T]) -> list[T]:
        found: list[T] = []
        for module in self._modules(package):
            values = [value for value in vars(module).values() if isinstance(value, kind)]
            found += [value for value in values if value not in found]
        return found

    def _modules(self, package: str) -> list[ModuleType]:
        folder = self.folder / package
        if not folder.is_dir():
            raise ProjectError(
                f"{self.folder} has no folder {package}/; run this in a Penstock project, or name "
                "one with --project"
            )
        if str(self.folder) not in sys.path:
            sys.path.insert(0, str(self.folder))
        names = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
        return [self._module(folder, f"{package}.{name}") for name in names]

    def _module(self, folder: Path, name: str) -> ModuleType:
        try:
            module = importlib.import_module(name)
        except (ImportError, SyntaxError) as error:
            where = f"line {error.lineno}: " if isinstance(error, SyntaxError) else ""
            raise ProjectError(
                f"{folder}: {name} can't be loaded: {where}{error}; where a package of the same "
                f"name is installed, give {folder.name}/ an __init__.py"
            ) from error
        where = Path(module.__file__ or "").resolve().parent
        if where != folder.resolve():
            raise ProjectError(
                f"{name} was loaded from {where} and not from {folder}; give that folder an "
                "__init__.py, or run this from outside the other project"
            )
        return module
