"""CSV taken apart: however files are joined or cut, the rows are those of Python's csv."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import itertools

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.errors import UnreadableFile
from penstock.ingest import IngestReport, Source, ingest
from penstock.ingest import delimited as delimited_module
from penstock.ingest import read as read_module
from penstock.ingest import work as work_module
from penstock.ingest.delimited import header_of, parse, stream
from tests.conftest import ORDERS, S3Server, Shop, order

_SOURCE = Source("shop/orders_raw", "nowhere", ORDERS)
_HEADER = header_of(_SOURCE, b"id,product,units,price,at,email\n", "a.csv")
# Not empty, as an empty value is a null, and no carriage return, which Python's csv ends lines at.
_VALUES = st.text(
    st.one_of(st.sampled_from(',"\n '), st.characters(codec="utf-8", exclude_characters="\r\0")),
    min_size=1,
    max_size=8,
)
_ROWS = st.lists(st.tuples(*[_VALUES] * 6), max_size=6)
_SLOWLY = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _text(rows: list[tuple[str, ...]]) -> bytes:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue().encode()


@_SLOWLY
@given(st.lists(_ROWS, min_size=1, max_size=5))
def test_files_parsed_together_keep_to_themselves(files: list[list[tuple[str, ...]]]) -> None:
    found = parse(_HEADER, [_text(rows) for rows in files])

    assert found.counts.tolist() == [len(rows) for rows in files]
    assert [*zip(*found.table.to_pydict().values(), strict=True)] == [*itertools.chain(*files)]
    numbers = [
        (number, row) for number, rows in enumerate(files) for row in range(1, len(rows) + 1)
    ]
    assert [*zip(found.piece.tolist(), found.number.tolist(), strict=True)] == numbers


@_SLOWLY
@given(_ROWS, st.integers(16, 200))
def test_a_file_cut_into_pieces_is_the_same(rows: list[tuple[str, ...]], piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited_module, "PIECE_BYTES", piece)
        text = io.BytesIO(_text(rows))
        found, numbers = list[tuple[str, ...]](), list[int]()
        try:
            for some in stream(_SOURCE, _HEADER, text, "a.csv"):
                found += zip(*some.table.to_pydict().values(), strict=True)
                numbers += some.number.tolist()
        except UnreadableFile as error:
            assert max(len(_text([row])) for row in rows) > piece, error
            return

    assert found == rows
    assert numbers == [*range(1, len(rows) + 1)]


def test_values_of_many_lines_are_no_end_of_a_piece(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_module, "SMALL_BYTES", 0)
    monkeypatch.setattr(delimited_module, "PIECE_BYTES", 4096)
    log = "a line\n" * 500
    shop.write("a.csv", *(order(n).replace(f"p{n % 7}", f'"{log}"') for n in range(40)))

    assert _ingested(shop).rows_read == 40
    assert shop.rows("shop/orders_raw")["product"].unique().to_list() == [log]


@pytest.mark.parametrize("small_bytes", [1 << 30, 0])
def test_a_header_may_be_long(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, small_bytes: int
) -> None:
    monkeypatch.setattr(work_module, "SMALL_BYTES", small_bytes)
    more = [f"one_of_many_columns_{n}" for n in range(10_000)]
    header = f"id,product,units,price,at,email,{','.join(more)}\n"
    shop.write("a.csv", *(order(n) + ",1" * 10_000 for n in range(3)), header=header)

    assert _ingested(shop).rows_read == 3
    rows = shop.rows("shop/orders_raw")
    assert rows["_error"].null_count() == 3
    assert rows["product"].sort().to_list() == ["p0", "p1", "p2"]


def test_a_large_file_of_a_bucket_is_streamed(
    shop: Shop, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    monkeypatch.setattr(work_module, "SMALL_BYTES", 0)
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = boto3.resource("s3", endpoint_url=s3_server.endpoint).Bucket(s3_server.new_bucket())
    plain = shop.write_orders("a.csv", 500).read_bytes()
    bucket.put_object(Key="raw/a.csv", Body=plain)
    bucket.put_object(Key="raw/b.csv.gz", Body=gzip.compress(plain))
    shop = shop.with_source(uri=f"s3://{bucket.name}/raw", pattern="*")

    assert _ingested(shop).rows_read == 1000
    rows = shop.rows("shop/orders_raw").group_by("_source_file").agg("_source_row")
    assert {len(numbers) for numbers in rows["_source_row"]} == {500}


def test_a_quote_within_a_value_is_a_character(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    inches = [order(n).replace(f"p{n % 7}", f'{n}" nail') for n in range(300)]
    shop.write("a.csv", *inches)
    shop.write("b.csv", order(301), 'o302,"a,\nb",1,1.5,2024-03-01,x', inches[7])
    _ingested(shop)
    rows = shop.rows("shop/orders_raw").sort("_source_file", "_source_row")
    expected = [f'{n}" nail' for n in range(300)] + ["p0", "a,\nb", '7" nail']
    assert rows["product"].to_list() == expected

    monkeypatch.setattr(work_module, "SMALL_BYTES", 0)
    monkeypatch.setattr(delimited_module, "PIECE_BYTES", 512)
    again = dataclasses.replace(shop, source=dataclasses.replace(shop.source, table="shop/other"))
    _ingested(again)

    assert (
        shop.rows("shop/other")
        .sort("_source_file", "_source_row")
        .equals(rows.with_columns(shop.rows("shop/other")["_ingested_at"]))
    )


@pytest.mark.parametrize("small_bytes", [1 << 20, 0])
def test_a_quote_that_never_closes_is_found(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, small_bytes: int
) -> None:
    monkeypatch.setattr(work_module, "SMALL_BYTES", small_bytes)
    monkeypatch.setattr(delimited_module, "PIECE_BYTES", 4096)
    rows = [order(n) for n in range(2000)]
    rows[5] = 'o5,"two\nlines",2,1.5,2024-03-01,x'
    rows[300] = rows[300].replace("o300,", 'o300,"')
    shop.write("bad.csv", *rows)
    shop.write_orders("good.csv", 20, first=5000)

    report = _ingested(shop)

    (error,) = report.failed.values()
    assert error.startswith("bad.csv: a quote opens and does not close, about line 303: 'o300,")
    assert shop.rows("shop/orders_raw")["_source_file"].unique().to_list() == ["good.csv"]


def test_a_row_longer_than_memory_is_refused(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_module, "SMALL_BYTES", 0)
    monkeypatch.setattr(delimited_module, "PIECE_BYTES", 4096)
    shop.write("bad.csv", order(1) + "x" * 200_000)

    (error,) = _ingested(shop).failed.values()

    assert error.startswith("bad.csv: a row is longer than")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_kind_of_line_end(shop: Shop, end: str) -> None:
    text = end.join(["id,product,units,price,at,email", order(1), order(2), ""])
    (shop.raw / "a.csv").write_bytes(text.encode())
    mixed = f"id,product,units,price,at,email{end}{order(3)}\n{order(4)}\r\n{order(5)}"
    (shop.raw / "b.csv").write_bytes(mixed.encode())

    _ingested(shop)

    rows = shop.rows("shop/orders_raw").sort("id")
    assert rows["id"].to_list() == ["o1", "o2", "o3", "o4", "o5"]
    assert rows["email"].to_list()[1] == "a2@example.com"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("small_bytes", [1 << 20, 0])
def test_a_byte_order_mark_says_the_encoding(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, encoding: str, small_bytes: int
) -> None:
    monkeypatch.setattr(work_module, "SMALL_BYTES", small_bytes)
    text = "id,product,units,price,at,email\no1,Käse,1,1.0,2024-03-01,x\n"
    (shop.raw / "a.csv").write_bytes(text.encode(encoding))

    _ingested(shop)

    assert shop.rows("shop/orders_raw").select("id", "product").rows() == [("o1", "Käse")]


def test_a_nul_is_told_with_its_line(shop: Shop) -> None:
    (shop.raw / "a.csv").write_bytes(f"id\n{order(1)}\n".encode() + bytes(4096))
    text = "id,product,units,price,at,email\no1,Käse,1,1.0,2024-03-01,x\n"
    (shop.raw / "b.csv").write_bytes(text.encode("utf-16-le"))

    failed = _ingested(shop).failed

    assert failed["a.csv"].startswith("a.csv: line 3 holds a NUL byte: the file is damaged, or")
    assert failed["b.csv"].startswith("b.csv: line 1 holds a NUL byte")


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_the_delimiter_is_found_by_the_contracts_columns(shop: Shop, delimiter: str) -> None:
    header = "id,product,units,price,at,email\n".replace(",", delimiter)
    shop.write("a.tsv", order(1).replace(",", delimiter), header=header)
    shop.write_orders("b.csv", 1, first=2)

    _ingested(shop)

    assert sorted(shop.rows("shop/orders_raw")["email"]) == ["a1@example.com", "a2@example.com"]


def test_a_file_without_a_header_has_the_contracts_columns(shop: Shop) -> None:
    shop = shop.with_source(header=False)
    shop.write("a.csv", order(1), order(2), header="")

    _ingested(shop)

    rows = shop.rows("shop/orders_raw").sort("_source_row")
    assert rows.select("id", "_source_row").rows() == [("o1", 1), ("o2", 2)]


def test_values_escaped_with_a_backslash(shop: Shop) -> None:
    shop = shop.with_source(escape="\\")
    shop.write("a.csv", 'o1,"say \\"hi\\", twice",1,1.0,2024-03-01,x')

    _ingested(shop)

    assert shop.rows("shop/orders_raw")["product"].to_list() == ['say "hi", twice']


@pytest.mark.parametrize("small_bytes", [1 << 20, 0])
@pytest.mark.parametrize(
    ("header", "value", "read"),
    [
        ("", '"say \\"hi\\", twice"', 'say "hi", twice'),
        ("", '"C:\\"', "C:\\"),
        ("", '"{""a"": ""say \\""hi\\"" now""}"', '{"a": "say \\"hi\\" now"}'),
        ("", "'a, b'", "a, b"),
        ("", "'it''s a, b'", "it's a, b"),
        ("'id','product','units','price','at','email'\n", "'a, b'", "a, b"),
        ("", "'twas", "'twas"),
        ("", "\"it's, 'so'\"", "it's, 'so'"),
        ("", 'C:\\new 5\\" nail', 'C:\\new 5\\" nail'),
        ("", '"C:\\dir\\"', "C:\\dir\\"),
        ("", "'it's'", "'it's'"),
    ],
)
def test_the_quote_and_the_escape_are_found(
    shop: Shop,
    monkeypatch: pytest.MonkeyPatch,
    header: str,
    value: str,
    read: str,
    small_bytes: int,
) -> None:
    monkeypatch.setattr(work_module, "SMALL_BYTES", small_bytes)
    rows = [f"o{n},{value},1,1.0,2024-03-01,x" for n in range(3)]
    shop.write("a.csv", *rows, **({"header": header} if header else {}))
    shop.write_orders("b.csv", 1, first=7)

    assert _ingested(shop).failed == {}

    assert shop.rows("shop/orders_raw").sort("id")["product"].to_list()[:3] == [read] * 3


@pytest.mark.parametrize("small_bytes", [1 << 20, 0])
def test_a_later_line_that_is_quoted_in_another_way_is_an_error(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, small_bytes: int
) -> None:
    monkeypatch.setattr(work_module, "SMALL_BYTES", small_bytes)
    rows = [f"o{n},'p{n}',1,1.0,2024-03-01,x" for n in range(1000)]
    odd = [f"k{n},'tis{n},1,1.0,2024-03-01,x" for n in range(4)]
    shop.write("a.csv", *rows, *odd)
    shop.write("one.csv", "o1,'p1',1,1.0,2024-03-01,x")
    text = [f'o{n},"say \\"{n}\\"",1,1.0,2024-03-01,x' for n in range(1000)]
    shop.write("b.csv", *text, 'k,"C:\\dir\\",1,1.0,2024-03-01,x')

    failed = _ingested(shop).failed

    assert sorted(failed) == ["a.csv", "b.csv"]
    assert all("set the source's quote and escape" in each for each in failed.values())
    assert shop.rows("shop/orders_raw")["product"].to_list() == ["'p1'"]
    said = shop.with_source(quote='"', escape="", table="shop/said")
    assert _ingested(said).failed == {}
    assert shop.rows("shop/said").height == 2006


def test_ten_thousand_columns_two_of_a_name_and_some_without(shop: Shop) -> None:
    names = ["id,product,units,price,at,email", *(f"x{n}" for n in range(10_000)), "", "", "x7"]
    shop.write("a.csv", order(1) + ",v" * 10_003, header=",".join(names) + "\n")
    shop.write("b.csv", order(2) + ",o3", header="id,product,units,price,at,email,id\n")

    failed = _ingested(shop).failed

    (row,) = shop.rows("shop/orders_raw").rows(named=True)
    rescued = pl.Series([row["_rescued"]]).str.json_decode(infer_schema_length=1)[0]
    assert (row["id"], len(rescued)) == ("o1", 10_003)
    assert {"x9999", "x7", "x7_2", "column_10007", "column_10008"} <= rescued.keys()
    assert failed == {"b.csv": "b.csv: columns there twice: id"}


def test_a_zstandard_file_and_one_cut_short(shop: Shop) -> None:
    import pyarrow as pa

    text = ("id,product,units,price,at,email\n" + "\n".join(map(order, range(500)))).encode()
    whole = pa.compress(text, codec="zstd", asbytes=True)
    (shop.raw / "a.csv.zst").write_bytes(whole)
    (shop.raw / "b.csv.zst").write_bytes(whole[:-30])

    failed = _ingested(shop).failed

    assert shop.rows("shop/orders_raw").height == 500
    assert failed["b.csv.zst"].startswith("b.csv.zst: damaged archive, perhaps cut short")


def test_what_unfolds_past_memory_is_read_in_pieces(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gzip

    monkeypatch.setattr(read_module, "_PLAIN_BYTES", 10_000)
    text = "id,product,units,price,at,email\n" + "\n".join(map(order, range(2000)))
    (shop.raw / "a.csv.gz").write_bytes(gzip.compress(text.encode()))

    _ingested(shop)

    assert shop.rows("shop/orders_raw")["_source_row"].sort().to_list() == [*range(1, 2001)]


def _ingested(shop: Shop) -> IngestReport:
    return ingest(shop.lake, shop.source)


@given(st.lists(st.none() | st.sampled_from(["mark", "marl", "", "éé", "a mark", "m"])), st.data())
def test_marks_are_found_among_texts(texts: list[str | None], data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, len(texts)))
    array = pa.array(texts, pa.string())[begin:]
    if len(array):
        found = delimited_module.which_equal(array, b"mark")
        assert found.tolist() == [text == "mark" for text in texts[begin:]]
