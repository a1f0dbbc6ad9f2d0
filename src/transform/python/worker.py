"""Runs on-demand feature functions for thali, one batch at a time, over standard input and output."""

import ast
import base64
import inspect
import json
import os
import resource
import struct
import sys
import textwrap
import traceback
import typing

# Functions may print; the pipe belongs to the protocol.
channel = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
source = os.fdopen(0, "rb")

# A runaway function must not take the host down with it.
resource.setrlimit(resource.RLIMIT_DATA, (4 << 30, 4 << 30))

import pyarrow as pa  # noqa: E402


def scope():
    names = {"typing": typing}
    names.update({name: getattr(typing, name) for name in typing.__all__})
    for alias, module in (("pd", "pandas"), ("np", "numpy"), ("pandas", "pandas"), ("numpy", "numpy")):
        try:
            names[alias] = __import__(module)
        except ImportError:
            pass
    for module in ("math", "datetime", "json", "re"):
        names[module] = __import__(module)
    return names


def from_source(name, text):
    """The function called `name` in `text`, without its decorators and without evaluating annotations."""
    import __future__

    tree = ast.parse(textwrap.dedent(text))
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.decorator_list = []
    names = scope()
    flags = __future__.annotations.compiler_flag
    exec(compile(tree, f"<{name}>", "exec", flags=flags, dont_inherit=True), names)
    if callable(names.get(name)):
        return names[name]
    found = [value for value in names.values() if inspect.isfunction(value) and value.__globals__ is names]
    if len(found) != 1:
        raise ValueError(f"the source defines no function `{name}`")
    return found[0]


def load(header):
    problem = None
    if header["source"].strip():
        try:
            return from_source(header["name"], header["source"])
        except Exception as error:
            problem = error
    if header["body"]:
        import dill

        return dill.loads(base64.b64decode(header["body"]))
    raise problem or ValueError("the view holds no function")


functions = {}


def function(header):
    key = (header["name"], header["source"], header["body"])
    if key not in functions:
        functions[key] = load(header)
    return functions[key]


def outputs(header, table):
    udf = function(header)
    wanted = header["features"]
    if header["pandas"]:
        frame = udf(table.to_pandas())
        return {str(name): pa.Array.from_pandas(frame[name]) for name in frame.columns}
    columns = table.to_pydict()
    if not header["singleton"]:
        return {name: pa.array(values, from_pandas=True) for name, values in udf(columns).items()}
    rows = [udf({name: values[row] for name, values in columns.items()}) for row in range(table.num_rows)]
    names = list(rows[0]) if rows else wanted
    return {name: pa.array([row.get(name) for row in rows], from_pandas=True) for name in names}


def answer(header, payload):
    with pa.ipc.open_stream(payload) as reader:
        table = reader.read_all()
    columns = outputs(header, table)
    columns = {k: v.combine_chunks() if isinstance(v, pa.ChunkedArray) else v for k, v in columns.items()}
    result = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, result.schema) as writer:
        writer.write_batch(result)
    return sink.getvalue().to_pybytes()


def reply(header, payload=b""):
    header = json.dumps(header).encode()
    channel.write(struct.pack("<II", len(header), len(payload)) + header + payload)
    channel.flush()


while True:
    lengths = source.read(8)
    if len(lengths) < 8:
        break
    header_length, payload_length = struct.unpack("<II", lengths)
    header = json.loads(source.read(header_length))
    payload = source.read(payload_length)
    try:
        result = answer(header, payload)
    except BaseException as error:
        reply({"error": "".join(traceback.format_exception_only(type(error), error)).strip()})
    else:
        reply({}, result)
