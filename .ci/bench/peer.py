"""Copies pages of a table to one Parquet file with DuckDB.

Usage: peer.py WAY OUT THREADS COLUMNS FILES, where COLUMNS is a JSON object of names and DuckDB types, and FILES a file of paths.
Prints what the copy took as JSON; the interpreter's start and the import are left out. The pages are local files, in memory most
likely: what it takes to fetch them is not in the figure.

WAY is how {"value": [rows]} is read:

  read_json   read_json with the types of all columns, and unnest: what one writes, and what the bars were set by, with DuckDB 1.5.6. Its decimals go
              through doubles, and the largest do not fit their type any more: those of more than 15 digits are read as DECIMAL(38)
  from_json   read_text and from_json with the same types: what takes the least of all that was tried
"""

import json
import os
import re
import resource
import sys
import time

import duckdb


def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


way, out, threads, columns, files = sys.argv[1:6]
columns, files = json.loads(columns), open(files).read().split()
if way == "read_json":
    wide = {name: re.sub(r"DECIMAL\((1[6-9]|[23]\d),", "DECIMAL(38,", kind) for name, kind in columns.items()}
    fields = ", ".join(f'"{name}" {kind}' for name, kind in wide.items())
    rows = f"SELECT r.* FROM (SELECT unnest(value) AS r FROM read_json($files, columns={{'value': 'STRUCT({fields})[]'}}, maximum_object_size=1000000000))"
else:
    rows = f"SELECT r.* FROM (SELECT unnest(from_json(content::JSON->'$.value', '{json.dumps([columns])}')) AS r FROM read_text($files))"
db = duckdb.connect(config={"threads": int(threads)})
began, used = time.time(), cpu()
db.execute(f"COPY ({rows}) TO '{out}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE 131072)", {"files": files})
print(json.dumps({
    "cpuSeconds": cpu() - used, "wallSeconds": time.time() - began, "bytes": os.path.getsize(out),
    "rows": db.execute(f"SELECT count(*) FROM '{out}'").fetchone()[0], "version": duckdb.__version__}))
