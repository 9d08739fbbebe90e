"""SQL over the lake's tables, by their names, in DuckDB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.errors import LakeError, TableNotFound, did_you_mean
from penstock.lake import Lake, with_tables
from penstock.tables import sql
from penstock.tables.table import Snapshot, Table

if TYPE_CHECKING:
    import duckdb


def query(lake: Lake, text: str, *, limit: int | None = None) -> list[dict[str, Any]]:
    """The rows of a SQL query over tables written `domain.table`, `domain.table@v12`, `...@tag`,
    `...@2024-03-01` or `...@2024-03-01T12:00:00Z` (as of that time).

    Read through the lake's own storage, with what the query filters and names pushed down.

    Raises
    ------
    LakeError: the query can't be run; says why.
    TableNotFound: there is no such table, version or tag.
    """
    import duckdb

    with sql.connect() as connection:
        bound = Bound(connection, lake, text)
        try:
            found: Any = connection.sql(bound.text)
            if found is None:  # a statement without a result
                return []
            return found.limit(limit or 1 << 62).to_arrow_table().to_pylist()
        except duckdb.Error as error:
            raise bound.explained(error) from error


class Bound:
    """A query whose tables a connection has as views.

    Raises
    ------
    TableNotFound: there is no such table, version or tag.
    """

    text: str
    """As the connection runs it."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, lake: Lake, text: str) -> None:
        self._lake, self._known = lake, set(lake.table_names())
        self._unknown = list[str]()
        self.tables = dict[str, Snapshot]()
        """By the view's name."""
        views = dict[str, str]()

        def named(name: str, at: str | None) -> str | None:
            if name not in self._known:
                if at is not None:
                    raise self._no_table(name)
                self._unknown.append(name)
                return None  # a column of an alias, a function of a schema
            reference = f"{name}@{at}" if at else name
            if reference not in views:
                view = name.split("/")[1]
                while view in self.tables:
                    view += "_"
                self.tables[view] = Table(lake, name).snapshot(at)
                connection.register(view, self.tables[view].relation())
                views[reference] = view
            return f'"{views[reference]}"'  # a table may be called order

        self.text = with_tables(text, named)

    def explained(self, error: duckdb.Error) -> LakeError:
        """Why DuckDB could not run it, in terms of the lake."""
        for name in self._unknown:
            if f'schema "{name.split("/")[0]}" does not exist' in str(error):
                return self._no_table(name)
        return LakeError(f"the query can't be run: {str(error).splitlines()[0]}")

    def _no_table(self, name: str) -> TableNotFound:
        near = did_you_mean(name, self._known)
        return TableNotFound(f"{self._lake.uri} has no table {name}.{near}")
