"""What the tests share: a lake on disk, an S3 server, raw files, the sample."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import settings

# No run reaches past loopback: no credentials of this machine, no metadata service, no telemetry.
for name in [name for name in os.environ if name.startswith(("AWS_", "PENSTOCK_LAKE"))]:
    del os.environ[name]
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
os.environ["DAGSTER_DISABLE_TELEMETRY"] = "yes"
os.environ["PENSTOCK_RETAIL_EVERY_DAY"] = "yes"
os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = "/dev/null"
# Run in the background of a script, neither this process nor what it starts would hear Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

from penstock import Column, Contract, Lake, Source
from penstock.contracts import (
    expect_column_values_to_be_between,
    expect_column_values_to_not_be_null,
    expect_compound_columns_to_be_unique,
)

ROOT = Path(__file__).parent.parent

# The same examples at every run, so that a run that fails has found what a change broke. To look
# for new ones: HYPOTHESIS_PROFILE=default.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """An empty lake on disk."""
    return Lake(tmp_path / "lake")


ORDERS = Contract(
    table="shop/orders",
    event_time="at",
    columns=(
        Column("order_id", "string", source_name="id", nullable=False),
        Column("product", "string", nullable=False),
        Column("units", "int32", nullable=False),
        Column("price", "float64"),
        Column("at", "timestamp", nullable=False),
        Column("email", "string", personal=True),
    ),
    expectations=(
        expect_column_values_to_be_between("units", 1, 1000),
        expect_column_values_to_be_between("price", 0, strict_min=True),
        expect_compound_columns_to_be_unique(("order_id", "product")),
        expect_column_values_to_not_be_null("email", severity="warn", mostly=0.5),
    ),
)

HEADER = "id,product,units,price,at,email\n"


@dataclass
class Shop:
    """A source of orders over a folder of raw files, and a lake beside it."""

    lake: Lake
    raw: Path
    source: Source

    def write(self, name: str, *rows: str, header: str = HEADER) -> Path:
        """Write a CSV file of raw lines."""
        path = self.raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(header + "".join(f"{row}\n" for row in rows))
        return path

    def write_orders(self, name: str, count: int, first: int = 0) -> Path:
        """Write a CSV file of so many good orders, numbered from `first`."""
        numbers = range(first, first + count)
        return self.write(name, *(order(number) for number in numbers))

    def rows(self, table: str) -> pl.DataFrame:
        """All rows of a table."""
        from penstock import Table

        return Table(self.lake, table).snapshot().scan().collect()

    def with_source(self, **changes: object) -> Shop:
        """The same with another source."""
        return dataclasses.replace(self, source=dataclasses.replace(self.source, **changes))


def order(number: int, *, units: object = 2, at: str = "2024-03-01 10:00:00") -> str:
    """A raw line of a good order."""
    return f"o{number},p{number % 7},{units},{1 + number % 5}.5,{at},a{number}@example.com"


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A shop with no raw file yet, and an empty lake."""
    raw = tmp_path / "raw"
    raw.mkdir()
    source = Source("shop/orders_raw", str(raw), ORDERS)
    return Shop(Lake(tmp_path / "lake"), raw, source)


def utc(text: str) -> datetime:
    """A time in UTC, from ISO format."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# A real S3 server where one is installed, moto's where not.


@dataclass(frozen=True)
class S3Server:
    """A running S3 server."""

    kind: str
    endpoint: str
    key: str
    secret: str

    @property
    def options(self) -> dict[str, str]:
        """Storage options of a lake on it."""
        return {
            "aws_endpoint_url": self.endpoint,
            "aws_access_key_id": self.key,
            "aws_secret_access_key": self.secret,
            "aws_region": "us-east-1",
        }

    @property
    def environment(self) -> dict[str, str]:
        """The same for a process."""
        return {name.upper(): value for name, value in self.options.items()}

    def new_bucket(self) -> str:
        """Make an empty bucket; its name."""
        import boto3

        name = f"penstock-{uuid.uuid4().hex[:12]}"
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
        )
        client.create_bucket(Bucket=name)
        return name


_SERVERS = list[str]()
LEFT_OUT = list[str]()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """Ceph's gateway, if `PENSTOCK_S3SERVER` names its launcher and it starts; else moto."""
    launcher = os.environ.get("PENSTOCK_S3SERVER")
    if launcher and shutil.which("radosgw"):
        was_running = _listens(7480)
        started = subprocess.run([launcher, "start"], capture_output=True, text=True, check=False)
        if started.returncode == 0:
            lines = [line.removeprefix("export ") for line in started.stdout.splitlines()]
            values = dict(line.split("=", 1) for line in lines if "=" in line)
            _SERVERS.append("ceph")
            yield S3Server(
                "ceph",
                values["AWS_ENDPOINT_URL"],
                values["AWS_ACCESS_KEY_ID"],
                values["AWS_SECRET_ACCESS_KEY"],
            )
            if not was_running:
                subprocess.run([launcher, "stop"], capture_output=True, check=False)
            return
    with moto() as server:
        _SERVERS.append("moto")
        yield server


@contextmanager
def moto() -> Iterator[S3Server]:
    """Moto's server, of S3 and other services."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        endpoint = f"http://127.0.0.1:{port}"
        wait_for(lambda: _answers(endpoint), seconds=30)
        yield S3Server("moto", endpoint, "penstock", "penstock-secret")
        server.terminate()


@pytest.fixture
def gateway(s3_server: S3Server) -> str:
    """The launcher of the real S3 server, which can be frozen and crashed."""
    launcher = os.environ.get("PENSTOCK_S3SERVER")
    if not launcher or s3_server.kind == "moto":
        pytest.skip("only the real S3 server can be frozen and crashed")
    return launcher


def order_server(launcher: str, verb: str) -> None:
    """Freeze, thaw, crash or restart it."""
    subprocess.run([launcher, verb], check=True, timeout=60, stdout=subprocess.DEVNULL)


@pytest.fixture
def s3_lake(s3_server: S3Server) -> Lake:
    """An empty lake in a bucket of its own."""
    return Lake(f"s3://{s3_server.new_bucket()}/lake", storage_options=s3_server.options)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of an empty PostgreSQL database, where the server is installed."""
    tools = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [
        Path(found).parent for found in [shutil.which("initdb")] if found
    ]
    if not tools:
        LEFT_OUT.append("tests on PostgreSQL (it is not installed)")
        pytest.skip("PostgreSQL is not installed")
    folder = Path(tempfile.mkdtemp(prefix="penstock-postgres-", dir="/tmp"))
    user: Any = {"user": "postgres"} if os.geteuid() == 0 else {}
    if user:
        shutil.chown(folder, "postgres")
    port = free_port()

    def run(tool: str, *arguments: str) -> None:
        command = [str(tools[-1] / tool), "-D", str(folder / "data"), *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd=folder, **user)

    run("initdb", "-A", "trust", "-U", "penstock", "--no-sync", "-E", "UTF8")
    settings = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder} -c fsync=off"
    run("pg_ctl", "-w", "-o", settings, "-l", str(folder / "log"), "start")
    try:
        yield f"postgresql://penstock@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until it holds.

    Raises
    ------
    TimeoutError: it didn't in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(0.05)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except OSError:
        return False


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which S3 server the suite ran against, and what was left out for want of it."""
    said = {
        "ceph": "Ceph's gateway",
        "moto": "moto (tests of wrong keys and of a server that hangs are left out)",
    }
    for kind in _SERVERS:
        terminalreporter.write_line(f"S3 server: {said[kind]}")
    for what in LEFT_OUT:
        terminalreporter.write_line(f"Left out: {what}")
