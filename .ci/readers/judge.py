#!/usr/bin/env python3
"""Reads Delta tables and Parquet files with readers that tablexport did not write, and says what it finds.

    judge.py dump   DATASET_DIR [--version N]   the rows, read by delta-rs (arrow-rs inside), one JSON object a line
    judge.py duckdb DATASET_DIR [--version N]   the rows of the live files that the log names, read by DuckDB
    judge.py duckdb FILE.parquet ...            the rows of these files, read by DuckDB
    judge.py check  DATASET_DIR [--version N]   one JSON report: version, files, rows, schema, problems

Rows come in no particular order. A value is written in one form whichever reader found it:

    null, booleans, integers    as JSON has them, integers with every digit
    floating point              a JSON number, or "NaN", "Infinity", "-Infinity"
    decimal                     a string with all digits of the scale: "1.50"
    date, time                  "2026-03-29", "02:30:00.000000"
    timestamp                   "2026-03-29T00:30:00.000000Z"; without the Z where the column has no time zone
    binary, uuid                lower-case hexadecimal digits
    list, struct, map           arrays, objects, arrays of [key, value]

`check` reads the table with both readers, compares the rows as multisets and the columns' types, and holds every
statistic (in the Parquet files and in the log) against the data.

Exit codes: 0 all is well, 1 `check` found problems, 2 there is nothing that can be read.
"""

import argparse
import collections
import datetime
import json
import math
import os
import sys
import urllib.parse

import deltalake
import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SHOWN = 5  # how many examples of one kind of problem are printed

DUCKDB_TYPES = {
    "string": "VARCHAR", "long": "BIGINT", "integer": "INTEGER", "short": "SMALLINT", "byte": "TINYINT",
    "float": "FLOAT", "double": "DOUBLE", "boolean": "BOOLEAN", "binary": "BLOB", "date": "DATE",
    "timestamp": "TIMESTAMPTZ", "timestamp_ntz": "TIMESTAMP",
}


# --- values in one form ---------------------------------------------------------------------------------------------

def plain(column):
    """The storage of an extension array (uuid, json), other arrays as they are."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if isinstance(column, pa.ChunkedArray):  # combine_chunks of no chunk at all
        column = pa.array([], column.type)
    return column.storage if isinstance(column.type, pa.BaseExtensionType) else column


def instant(number, unit, zoned):
    """A count of units since 1970 as ISO 8601, digit by digit, so that no year and no nanosecond is lost."""
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    seconds, fraction = divmod(number, per_second)
    nanoseconds = fraction * (10**9 // per_second)
    days, second = divmod(seconds, 86400)
    try:
        day = (datetime.date(1970, 1, 1) + datetime.timedelta(days=days)).isoformat()
    except OverflowError:
        return f"{number}{unit} since 1970"
    digits = f"{nanoseconds:09d}"
    digits = digits[:6] if digits.endswith("000") else digits
    clock = f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}.{digits}"
    return f"{day}T{clock}{'Z' if zoned else ''}"


def canonical(value, kind):
    if value is None:
        return None
    if isinstance(kind, pa.BaseExtensionType):
        return canonical(value, kind.storage_type)
    if pa.types.is_floating(kind):
        if math.isnan(value):
            return "NaN"
        if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        return value
    if pa.types.is_decimal(kind):
        return format(value, "f")
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, datetime.time):
        return value.isoformat("microseconds")
    if pa.types.is_struct(kind):
        return {field.name: canonical(value[field.name], field.type) for field in kind}
    if pa.types.is_map(kind):
        return [[canonical(k, kind.key_type), canonical(v, kind.item_type)] for k, v in value]
    if isinstance(value, list):
        return [canonical(item, kind.value_type) for item in value]
    return value


def values(column):
    column = plain(column)
    if pa.types.is_timestamp(column.type):
        unit, zoned = column.type.unit, column.type.tz is not None
        return [None if n is None else instant(n, unit, zoned) for n in column.cast(pa.int64()).to_pylist()]
    if pa.types.is_dictionary(column.type):
        return values(column.dictionary_decode())
    return [canonical(value, column.type) for value in column.to_pylist()]


def lines(table):
    """Each row of an Arrow table as one line of JSON, the columns in the table's order."""
    names = table.column_names
    for row in zip(*(values(table.column(i)) for i in range(len(names)))):
        yield json.dumps(dict(zip(names, row)), ensure_ascii=False, separators=(",", ":"))


# --- the two readers ------------------------------------------------------------------------------------------------

def open_table(path, version):
    return deltalake.DeltaTable(path, version=version) if version is not None else deltalake.DeltaTable(path)


def type_name(field):
    """The type as the log writes it, None for a nested one."""
    name = json.loads(field.to_json())["type"]
    return name if isinstance(name, str) else None


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def read_delta_rs(table):
    names = ", ".join(quoted(field.name) for field in table.schema().fields)
    result = deltalake.QueryBuilder().register("dataset", table).execute(f"SELECT {names} FROM dataset")
    return pa.RecordBatchReader.from_stream(result).read_all()


def connect():
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def duckdb_columns(connection, files):
    described = connection.sql(
        "DESCRIBE SELECT * FROM read_parquet(?, union_by_name = true, hive_partitioning = false)", params=[files])
    return {row[0]: row[1] for row in described.fetchall()}


def duckdb_select(connection, files, columns, parameters=()):
    sql = f"SELECT {', '.join(columns)} FROM read_parquet(?, union_by_name = true, hive_partitioning = false)"
    return connection.sql(sql, params=[*parameters, files]).to_arrow_table()


def duckdb_column(name, kind):
    """A uuid leaves DuckDB as text; here it is the sixteen bytes that the file holds."""
    column = quoted(name)
    return f"unhex(replace({column}::VARCHAR, '-', '')) AS {column}" if kind == "UUID" else column


def read_duckdb_files(files):
    connection = connect()
    return duckdb_select(connection, files, [duckdb_column(*c) for c in duckdb_columns(connection, files).items()])


def live_files(table):
    """What the log says of every live file: path, size, partition values, statistics."""
    actions = pa.table(table.get_add_actions(flatten=False)).to_pylist()
    # Both lists come from one snapshot in one order; an address is the table's, then the decoded path.
    for action, uri in zip(actions, table.file_uris(), strict=True):
        if not uri.endswith((action["path"], urllib.parse.unquote(action["path"]))):
            raise RuntimeError(f"delta-rs lists {action['path']} where it addresses {uri}")
        action["file"] = uri.removeprefix("file://")
    return actions


def read_duckdb(table):
    """The live files through DuckDB: columns in the schema's order, partition columns from the log, and columns that
    are younger than a file filled with nulls. One Arrow table for each set of partition values."""
    connection = connect()
    fields = table.schema().fields
    groups = collections.defaultdict(list)
    partitions = table.metadata().partition_columns
    for action in live_files(table):
        groups[tuple((action.get("partition") or {}).get(name) for name in partitions)].append(action["file"])
    for key, files in groups.items():
        constants = dict(zip(partitions, key))
        present = duckdb_columns(connection, files)
        columns, parameters = [], []
        for field in fields:
            kind = DUCKDB_TYPES.get(type_name(field), type_name(field))
            if field.name in constants:
                columns.append(f"CAST(? AS {kind}) AS {quoted(field.name)}")
                parameters.append(constants[field.name])
            elif field.name in present:
                columns.append(duckdb_column(field.name, present[field.name]))
            else:
                columns.append(f"CAST(NULL AS {kind or 'INTEGER[]'}) AS {quoted(field.name)}")
        yield duckdb_select(connection, files, columns, parameters)


# --- the check ------------------------------------------------------------------------------------------------------

class Report:
    def __init__(self):
        self.problems = []
        self.checked = 0
        self.missing = 0

    def problem(self, text):
        self.problems.append(text)


def simple(kind):
    """An Arrow type without the choices that do not change what a value is."""
    if isinstance(kind, pa.BaseExtensionType):
        return simple(kind.storage_type)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "string"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind) \
            or pa.types.is_fixed_size_binary(kind):
        return "binary"
    if pa.types.is_dictionary(kind):
        return simple(kind.value_type)
    if pa.types.is_timestamp(kind):
        return f"timestamp[{kind.unit}{', UTC' if kind.tz else ''}]"
    if pa.types.is_nested(kind):
        return "nested"
    return str(kind)


def compare_rows(report, ours, theirs):
    """ours: the Arrow table of delta-rs. theirs: DuckDB's, one for each set of partition values."""
    for other in theirs:
        for mine, field in zip(ours.schema, other.schema):
            if simple(mine.type) != simple(field.type):
                report.problem(f"column {mine.name}: the table says {simple(mine.type)}, its files hold {simple(field.type)}")
    left = collections.Counter(lines(ours))
    right = collections.Counter(line for other in theirs for line in lines(other))
    for name, extra in (("delta-rs", left - right), ("DuckDB", right - left)):
        total = sum(extra.values())
        if total:
            report.problem(f"{total} rows are seen by {name} alone, such as:")
            for line in list(extra)[:SHOWN]:
                report.problem(f"  {line}")


def bounds(column):
    """The smallest and the greatest value, None without one; NaN has no place in an order."""
    if pa.types.is_floating(column.type):
        column = column.filter(pc.fill_null(pc.invert(pc.is_nan(column)), False))
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.binary())
    if pa.types.is_binary_view(column.type) or pa.types.is_fixed_size_binary(column.type):
        column = column.cast(pa.binary())
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    result = pc.min_max(column)
    return result["min"].as_py(), result["max"].as_py()


def exact_or_cut(stated, actual, upper):
    """Whether a bound is the value itself or an honest shortening of it, which only text and bytes may have."""
    if stated == actual:
        return True
    if not isinstance(actual, bytes) or len(stated) >= len(actual):
        return False
    return stated > actual if upper else actual.startswith(stated)


def check_chunk(report, where, chunk, column, field_nullable):
    column = plain(column)
    if not field_nullable and column.null_count:
        report.problem(f"{where}: {column.null_count} nulls in a column that the table says has none")
    statistics = chunk.statistics
    if statistics is None:
        report.missing += 1
        return
    report.checked += 1
    if statistics.has_null_count:
        if statistics.null_count != column.null_count:
            report.problem(f"{where}: the file says {statistics.null_count} nulls, there are {column.null_count}")
    else:
        report.missing += 1
    if statistics.has_distinct_count:
        distinct = pc.count_distinct(column, mode="only_valid").as_py()
        if statistics.distinct_count != distinct:
            report.problem(f"{where}: the file says {statistics.distinct_count} distinct values, there are {distinct}")
    if pa.types.is_null(column.type):
        return
    low, high = bounds(column)
    if not statistics.has_min_max:
        report.missing += low is not None
        return
    raw = pa.types.is_timestamp(column.type) or isinstance(low, bytes)
    stated = (statistics.min_raw, statistics.max_raw) if raw else (statistics.min, statistics.max)
    for name, said, actual, upper in (("smallest", stated[0], low, False), ("greatest", stated[1], high, True)):
        if actual is None:
            report.problem(f"{where}: the file says {said!r} is the {name} value, there is none")
        elif not exact_or_cut(said, actual, upper):
            report.problem(f"{where}: the file says {said!r} is the {name} value, it is {actual!r}")


def check_file(report, action, schema):
    file = action["file"]
    name = os.path.basename(file)
    size = os.path.getsize(file)
    if action["size_bytes"] != size:
        report.problem(f"{name}: the log says {action['size_bytes']} bytes, the file has {size}")
    with pq.ParquetFile(file) as parquet:
        metadata = parquet.metadata
        if action["num_records"] is not None and action["num_records"] != metadata.num_rows:
            report.problem(f"{name}: the log says {action['num_records']} rows, the file has {metadata.num_rows}")
        flat = {metadata.schema.column(i).path: i for i in range(metadata.num_columns)}
        whole = parquet.read(use_threads=False)
        start = 0
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            report.missing += len(set(flat) - {field.name for field in schema})  # leaves of nested columns: not judged
            for field in schema:
                index = flat.get(field.name)
                if index is None:  # a partition column, a nested one, or one younger than the file
                    continue
                column = whole.column(field.name).slice(start, rows)
                where = f"{name}, row group {group}, column {field.name}"
                check_chunk(report, where, metadata.row_group(group).column(index), column, field.nullable)
            start += rows
        if start != metadata.num_rows:
            report.problem(f"{name}: the row groups hold {start} rows, the footer says {metadata.num_rows}")
    check_log_statistics(report, action, name, whole, schema)


def check_log_statistics(report, action, name, whole, schema):
    """Bounds in the log may be wide, never narrow; text may be cut and instants are cut to milliseconds."""
    for field in schema:
        if field.name not in whole.column_names:
            continue
        column = plain(whole.column(field.name))
        where = f"{name}, column {field.name}"
        nulls = (action.get("null_count") or {}).get(field.name)
        if isinstance(nulls, int) and nulls != column.null_count:
            report.problem(f"{where}: the log says {nulls} nulls, there are {column.null_count}")
        if pa.types.is_nested(column.type) or pa.types.is_null(column.type):
            continue
        low, high = bounds(column)
        for said, actual, upper in (((action.get("min") or {}).get(field.name), low, False),
                                    ((action.get("max") or {}).get(field.name), high, True)):
            if said is None:
                continue
            said = comparable(said, column.type)
            slack = {"us": 999, "ns": 999_999}.get(getattr(column.type, "unit", ""), 0) if upper else 0
            if actual is None:
                report.problem(f"{where}: the log states a bound, {said!r}, and there is no value")
            elif said + slack < actual if slack else (said < actual if upper else said > actual):
                report.problem(f"{where}: the log says nothing is {'above' if upper else 'below'} {said!r}, {actual!r} is")


def comparable(said, kind):
    if isinstance(said, str):
        return said.encode()
    if isinstance(said, datetime.datetime):
        if said.tzinfo is None:
            said = said.replace(tzinfo=datetime.timezone.utc)
        microseconds = (said - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)) // datetime.timedelta(microseconds=1)
        return {"s": microseconds // 10**6, "ms": microseconds // 10**3, "us": microseconds, "ns": microseconds * 1000}[kind.unit]
    return said


def check(path, version):
    report = Report()

    def attempt(what, function, *arguments):
        """A reader that cannot read is a finding, not an accident."""
        try:
            return function(*arguments)
        except Exception as error:  # every reader has its own hierarchy of errors
            report.problem(f"{what}: {type(error).__name__}: {str(error).strip()}")
            return None

    table = open_table(path, version)
    schema = table.schema().fields
    files = live_files(table)
    for action in files:
        attempt(f"pyarrow cannot read {os.path.basename(action['file'])}", check_file, report, action, schema)
    ours = attempt("delta-rs cannot read the table", read_delta_rs, table)
    theirs = attempt("DuckDB cannot read the files", lambda: list(read_duckdb(table)))
    if ours is not None and theirs is not None:
        compare_rows(report, ours, theirs)
    print(json.dumps({
        "version": table.version(),
        "files": len(files),
        "rows": ours.num_rows if ours is not None else None,
        "schema": [{"name": f.name, "type": type_name(f) or "nested", "nullable": f.nullable} for f in schema],
        "partition_columns": list(table.metadata().partition_columns),
        "statistics": {"checked": report.checked, "missing": report.missing},
        "problems": report.problems,
    }, ensure_ascii=False))
    return 1 if report.problems else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["dump", "duckdb", "check"])
    parser.add_argument("path", nargs="+", help="a dataset's directory; for duckdb also Parquet files")
    parser.add_argument("--version", type=int, help="the table's version; without it the newest")
    arguments = parser.parse_args()
    path = arguments.path[0]
    if len(arguments.path) > 1 and not (arguments.command == "duckdb" and not os.path.isdir(path)):
        parser.error("one dataset at a time")

    if arguments.command == "check":
        return check(path, arguments.version)
    if arguments.command == "dump":
        tables = [read_delta_rs(open_table(path, arguments.version))]
    elif os.path.isdir(path):
        tables = read_duckdb(open_table(path, arguments.version))
    else:
        tables = [read_duckdb_files(arguments.path)]
    for table in tables:
        for line in lines(table):
            print(line)
    return 0


def leave(code):
    """Ends the process without tearing down the interpreter: the threads of delta-rs and Arrow may still run then, and abort it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    try:
        leave(main())
    except (deltalake.exceptions.DeltaError, duckdb.Error, OSError) as failure:
        print(f"judge.py: {type(failure).__name__}: {failure}", file=sys.stderr)
        leave(2)
