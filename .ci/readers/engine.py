#!/usr/bin/env python3
"""Writes what other engines write: Parquet files of many shapes, and changes of a Delta table by delta-rs.

    engine.py files DIR             Parquet files by pyarrow and DuckDB that hold the same rows; files.json lists them
    engine.py create DIR            a Delta table of delta-rs, partitioned by "month", in several commits, with an old txn and tags
    engine.py append DIR            two rows more, in a commit of its own
    engine.py checkpoint DIR        a checkpoint of the newest version
    engine.py compact DIR           OPTIMIZE: small files become one in each partition, dataChange=false

Exit codes: 0 done, else an error.
"""

import datetime
import decimal
import json
import os
import sys

import deltalake
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

UTC = datetime.timezone.utc


def rows(count):
    """Columns of every type that tablexport publishes, with nulls, extremes and repeats."""
    def some(make):
        return [None if i % 7 == 3 else make(i) for i in range(count)]

    return pa.table({
        "id": pa.array(range(count), pa.int64()),
        "flag": pa.array(some(lambda i: i % 3 == 0), pa.bool_()),
        "tiny": pa.array(some(lambda i: i % 256 - 128), pa.int8()),
        "small": pa.array(some(lambda i: i % 65536 - 32768), pa.int16()),
        "whole": pa.array(some(lambda i: (i * 2654435761) % 2**32 - 2**31), pa.int32()),
        "long": pa.array(some(lambda i: (-1)**i * (2**63 - 1 - i)), pa.int64()),
        "ratio": pa.array(some(lambda i: i / 8 - 3), pa.float64()),
        "text": pa.array(some(lambda i: ["", "Größe ☃", "Oslo"][i % 3] if i % 2 else f"row {i}"), pa.string()),
        "raw": pa.array(some(lambda i: bytes([0, i % 256, 255])[:i % 4]), pa.binary()),
        "day": pa.array(some(lambda i: datetime.date(1, 1, 1) + datetime.timedelta(days=i * 97)), pa.date32()),
        "at": pa.array(some(lambda i: datetime.datetime(1, 1, 1, tzinfo=UTC) + datetime.timedelta(days=i * 89, microseconds=i)),
                       pa.timestamp("us", tz="UTC")),
        "dec9": pa.array(some(lambda i: decimal.Decimal((-1)**i * (999999999 - i)).scaleb(-2)), pa.decimal128(9, 2)),
        "dec18": pa.array(some(lambda i: decimal.Decimal(i * 10**12 - 5).scaleb(-6)), pa.decimal128(18, 6)),
        "dec38": pa.array(some(lambda i: decimal.Decimal((-1)**i * (10**38 - 1 - i)).scaleb(-10, decimal.Context(prec=60))),
                          pa.decimal128(38, 10)),
    })


def files(directory):
    """name → whether it can be read exactly."""
    table = rows(2500)
    listed = {}

    def write(name, good=True, data=table, **options):
        pq.write_table(data, os.path.join(directory, name), **options)
        listed[name] = good

    write("snappy.parquet", compression="snappy", row_group_size=1000)
    write("gzip-v2-pages.parquet", compression="gzip", data_page_version="2.0", row_group_size=1000)
    write("brotli.parquet", compression="brotli")
    write("plain-uncompressed.parquet", compression="none", use_dictionary=False, data_page_size=4096)
    write("zstd-v2-pages.parquet", compression="zstd", data_page_version="2.0", data_page_size=4096, dictionary_pagesize_limit=2048)
    write("decimals-as-integers.parquet", store_decimal_as_integer=True)
    delta = {"id": "DELTA_BINARY_PACKED", "long": "DELTA_BINARY_PACKED", "text": "DELTA_LENGTH_BYTE_ARRAY", "raw": "DELTA_BYTE_ARRAY"}
    write("delta-encodings.parquet", use_dictionary=False, column_encoding=delta)
    write("no-statistics.parquet", write_statistics=False)
    write("version-1.0.parquet", version="1.0")
    write("split-streams.parquet", good=False, use_dictionary=False, column_encoding={"ratio": "BYTE_STREAM_SPLIT"})
    write("int96.parquet", good=False, data=table.select(["id", "at"]), use_deprecated_int96_timestamps=True)
    write("nanoseconds.parquet", good=False, data=pa.table({"at": pa.array([1, 2], pa.timestamp("ns", tz="UTC"))}))
    write("local-times.parquet", good=False, data=pa.table({"at": pa.array([1, 2], pa.timestamp("us"))}))
    write("unsigned.parquet", good=False, data=pa.table({"n": pa.array([1, 2], pa.uint32())}))
    write("nested.parquet", good=False, data=pa.table({"n": pa.array([[1], [2, 3]], pa.list_(pa.int64()))}))
    connection = duckdb.connect()
    connection.register("source", table)
    for name, options in (("duckdb.parquet", ""), ("duckdb-v2.parquet", ", PARQUET_VERSION V2, COMPRESSION ZSTD")):
        path = os.path.join(directory, name).replace("'", "''")
        connection.execute(f"COPY (SELECT * FROM source) TO '{path}' (FORMAT PARQUET, ROW_GROUP_SIZE 2048{options})")
        listed[name] = "V2" not in options or None  # null: either read exactly, or refused
    with open(os.path.join(directory, "files.json"), "w") as out:
        json.dump(listed, out)


def batch(first, count, month):
    table = rows(first + count).slice(first)
    return table.append_column("month", pa.array([month] * count, pa.string()))


def create(path):
    for i in range(6):
        month = "2024-%02d" % (1 + i % 2)
        deltalake.write_deltalake(
            path, batch(i * 10, 10, month), mode="append", partition_by=["month"],
            configuration={"delta.checkpointInterval": "1000"} if i == 0 else None,
            commit_properties=deltalake.CommitProperties(app_transactions=[deltalake.Transaction("loader", i)]))
    deltalake.DeltaTable(path).delete("id = 3")


def append(path):
    month = [f for f in deltalake.DeltaTable(path).schema().fields if f.name == "month"]
    data = batch(1000, 2, "2024-03") if month else pa.table({"a": pa.array([7, 8], pa.int64())})
    deltalake.write_deltalake(path, data, mode="append", partition_by=["month"] if month else None)


def checkpoint(path):
    deltalake.DeltaTable(path).create_checkpoint()


def compact(path):
    deltalake.DeltaTable(path).optimize.compact()


if __name__ == "__main__":
    {f.__name__: f for f in (files, create, append, checkpoint, compact)}[sys.argv[1]](*sys.argv[2:])
    sys.stdout.flush()
    os._exit(0)  # threads of delta-rs and Arrow may still run, and would abort the interpreter's own end
