"""Runs on-demand feature functions for thali. Frames come in over `frames`, which the bootstrap opened, and answers go out
over what was standard output; each is a length and a marshalled tuple. What functions print goes to the log.

Values keep the meaning they have in Feast: what a function is given and what becomes of its results follows
`feast.type_map` and `feast.online_response`. Tagged tuples stand for what marshal has no type for."""

import __future__

import ast
import datetime
import decimal
import json
import marshal
import os
import resource
import struct
import sys
import textwrap
import threading
import time
import traceback
import uuid

answers = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
nothing = os.open(os.devnull, os.O_RDONLY)
os.dup2(nothing, 0)

# A function that eats memory must not take the host down with it.
memory = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def seal():
    """Keeps every other process out of reach of functions: above all the server's memory and environment, which have its
    secrets. A Landlock domain may look into nobody outside of it, nor send signals there; root gives up its powers first,
    with which it could. Answers whether the kernel does that."""
    try:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        version, own = 0x20080522, 0
        powerless = libc.capset(struct.pack("<Ii", version, own), bytes(24)) == 0
        create, restrict, no_new_privileges = 444, 446, 38
        abi = libc.syscall(create, None, 0, 1)
        # A domain has to be about something: device files, which nobody makes. Signals are from the sixth version on.
        about = struct.pack("<QQQ", 1 << 11, 0, 2 if abi >= 6 else 0)
        domain = libc.syscall(create, about, len(about), 0) if abi >= 1 else -1
        if domain < 0 or libc.prctl(no_new_privileges, 1, 0, 0, 0) != 0:
            return False
        sealed = libc.syscall(restrict, domain, 0) == 0
        os.close(domain)
        return sealed and powerless
    except (ImportError, OSError, AttributeError):
        return False


# Before there is another thread, which would be outside.
sealed = seal()


def watch(parent):
    """A function that never returns must not outlive the server."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()

try:
    import numpy as np
except ImportError:
    np = None
try:
    import pandas as pd
except ImportError:
    pd = None

UTC = datetime.timezone.utc
NULL_TIME = -(1 << 63)

# --- Feast's type numbers ------------------------------------------------------------------------------------------------

BYTES, STRING, INT32, INT64, DOUBLE, FLOAT, BOOL, TIME = range(1, 9)
MAP, MAP_LIST = 20, 21
PDF, IMAGE, JSON, JSON_LIST, STRUCT, STRUCT_LIST, UUID, TIME_UUID = range(30, 38)
VALUE_LIST, VALUE_SET, DECIMAL = 42, 43, 44
SCALAR_MAP, ZONED = 47, 48
ELEMENTS = {11: BYTES, 12: STRING, 13: INT32, 14: INT64, 15: DOUBLE, 16: FLOAT, 17: BOOL, 18: TIME}
ELEMENTS |= {38: UUID, 39: TIME_UUID, 45: DECIMAL}
SETS = {22: BYTES, 23: STRING, 24: INT32, 25: INT64, 26: DOUBLE, 27: FLOAT, 28: BOOL, 29: TIME}
SETS |= {40: UUID, 41: TIME_UUID, 46: DECIMAL}
# What stands for "nothing" inside a list, which cannot hold it.
BLANK = {STRING: "", BYTES: b"", INT32: 0, INT64: 0, FLOAT: 0.0, DOUBLE: 0.0, BOOL: False, TIME: NULL_TIME}
BLANK |= {UUID: "", TIME_UUID: "", DECIMAL: ""}

# --- inputs: from tagged tuples to Python's types ------------------------------------------------------------------------


def at(seconds, zone=UTC):
    return None if seconds == NULL_TIME else datetime.datetime.fromtimestamp(seconds, tz=zone)


def zone_of(name):
    if name in ("", "UTC", "GMT"):
        return UTC
    try:
        import zoneinfo

        return zoneinfo.ZoneInfo(name)
    except Exception:
        pass
    try:
        return datetime.datetime.strptime(name.removeprefix("UTC").removeprefix("GMT"), "%z").tzinfo
    except ValueError:
        return UTC


def parsed(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


REVIVE = {
    "t": at,
    "u": uuid.UUID,
    "d": decimal.Decimal,
    "j": parsed,
    "z": lambda seconds, zone: at(seconds, zone_of(zone)),
}


def revived(value):
    kind = type(value)
    if kind is tuple:
        return REVIVE[value[0]](*value[1:])
    if kind is list:
        return [revived(item) for item in value]
    if kind is dict:
        return {revived(key): revived(item) for key, item in value.items()}
    if kind is set:
        return {revived(item) for item in value}
    return value


PLAIN = ({int, type(None)}, {float, type(None)}, {str, type(None)}, {bool, type(None)})


def plain(values):
    kinds = set(map(type, values))
    return any(kinds <= known for known in PLAIN)


def frame(columns):
    """The data frame that pyarrow makes of the columns; columns of plain values need no way around by it."""
    if all(map(plain, columns.values())):
        return pd.DataFrame(columns)
    import pyarrow as pa

    return pa.Table.from_pydict({name: arrow_ready(values) for name, values in columns.items()}).to_pandas()


def arrow_ready(values):
    first = next((value for value in values if value is not None), None)
    if isinstance(first, uuid.UUID):
        return [value if value is None else str(value) for value in values]
    if isinstance(first, (list, set)):
        return [value if value is None else texts_of(value) for value in values]
    return values


def texts_of(items):
    return [str(item) if isinstance(item, uuid.UUID) else item for item in items]


# --- outputs: from what functions return to plain values of the declared type --------------------------------------------


def missing(value):
    if value is None:
        return True
    try:
        return bool(value != value)
    except (TypeError, ValueError):
        return True


def sized(value):
    return hasattr(value, "__len__") and not isinstance(value, (str, bytes))


def wrong(value, wanted):
    return TypeError(f"{value!r} is of type {type(value).__name__}, not {wanted}")


def number(value):
    if isinstance(value, (str, bytes, datetime.datetime)):
        raise wrong(value, "a number")
    return float(value)


def whole(value):
    if pd is not None and isinstance(value, pd.Timestamp):
        return int(value.timestamp())
    return int(value)


def truth(value):
    if isinstance(value, (str, bytes)):
        raise wrong(value, "a truth value")
    return bool(value)


def octets(value):
    if not isinstance(value, bytes):
        raise wrong(value, "bytes")
    return bytes(value)


def identity(value):
    if not isinstance(value, (str, uuid.UUID)):
        raise wrong(value, "a UUID")
    return str(value)


def exact(value):
    if not isinstance(value, (str, decimal.Decimal)):
        raise wrong(value, "a decimal")
    return str(value)


def instant(value):
    """Whole seconds since 1970; a time without a zone is UTC."""
    if isinstance(value, datetime.datetime):
        if missing(value):
            return NULL_TIME
        if value.utcoffset() is None:
            value = value.replace(tzinfo=UTC)
        return int(value.timestamp())
    if np is not None and isinstance(value, np.datetime64):
        return int(value.astype("datetime64[s]").astype(np.int64))
    return NULL_TIME if isinstance(value, float) else int(value)


def zoned(value):
    if not isinstance(value, datetime.datetime):
        raise wrong(value, "a datetime")
    seconds = instant(value)
    return (seconds, "" if value.tzinfo is None else getattr(value.tzinfo, "key", None) or str(value.tzinfo))


SCALARS = {
    INT32: ({int}, int),
    INT64: ({int}, whole),
    DOUBLE: ({float, int}, number),
    FLOAT: ({float, int}, float),
    STRING: ({str}, str),
    BYTES: ({bytes}, octets),
    PDF: ({bytes}, octets),
    IMAGE: ({bytes}, octets),
    BOOL: ({bool}, truth),
    UUID: ({str}, identity),
    TIME_UUID: ({str}, identity),
    DECIMAL: ({str}, exact),
    TIME: (set(), instant),
    ZONED: (set(), zoned),
}


def scalars(kind, values):
    known, convert = SCALARS[kind]
    if set(map(type, values)) <= known | {type(None)}:
        return values
    if kind == TIME:
        return [None if value is None or sized(value) else convert(value) for value in values]
    return [None if sized(value) or missing(value) else convert(value) for value in values]


def exact_float(value):
    if isinstance(value, (str, bytes)):
        raise wrong(value, "a number")
    return float(value)


def exact_int(value):
    if isinstance(value, (str, bytes)) or int(value) != value:
        raise wrong(value, "a whole number")
    return int(value)


def exact_text(value):
    if not isinstance(value, str):
        raise wrong(value, "text")
    return str(value)


ITEMS = {INT32: exact_int, INT64: exact_int, DOUBLE: exact_float, FLOAT: exact_float, STRING: exact_text, BYTES: octets}
ITEMS |= {BOOL: truth, UUID: identity, TIME_UUID: identity, DECIMAL: exact, TIME: instant}


def listed(value):
    if isinstance(value, (bytes, bytearray, str)):
        value = json.loads(value)
    if np is not None and isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise wrong(value, "a list")
    return value


def lists(element, values):
    convert, blank = ITEMS[element], BLANK[element]
    return [
        None if value is None else [blank if item is None else convert(item) for item in listed(value)] for value in values
    ]


def sets(element, values):
    convert = ITEMS[element]

    def items(value):
        value = listed(value)
        return [convert(item) for item in (value if isinstance(value, set) else set(value)) if item is not None]

    return [None if value is None else items(value) for value in values]


def json_text(value):
    if not isinstance(value, str):
        return json.dumps(value)
    json.loads(value)
    return value


def mapping(value):
    if isinstance(value, str):
        value = json.loads(value)
    if not isinstance(value, dict):
        value = dict(value) if hasattr(value, "items") else None
    if value is None:
        raise TypeError("a map was expected")
    return {str(key): inferred(item) for key, item in value.items()}


def mappings(value):
    return [mapping(item) for item in (json.loads(value) if isinstance(value, str) else value)]


def inferred(value):
    """A value whose type nobody declared: tagged where marshal's own types do not tell."""
    kind = type(value)
    if value is None or kind in (int, float, str, bytes, bool):
        return value
    if isinstance(value, dict):
        if value and not isinstance(next(iter(value)), str):
            return ("m", pairs(value))
        return {key: inferred(item) for key, item in value.items()}
    if isinstance(value, uuid.UUID):
        return ("u", str(value))
    if isinstance(value, decimal.Decimal):
        return ("d", str(value))
    if isinstance(value, (datetime.datetime, datetime.date)):
        if not isinstance(value, datetime.datetime):
            value = datetime.datetime(value.year, value.month, value.day)
        return ("t", instant(value))
    if isinstance(value, (set, frozenset)):
        return ("s", [inferred(item) for item in value])
    if isinstance(value, (list, tuple)):
        return [inferred(item) for item in value]
    if np is not None:
        if isinstance(value, np.ndarray):
            return [inferred(item) for item in value]
        if isinstance(value, np.datetime64):
            return ("t", instant(value))
        if isinstance(value, np.bool_):
            return bool(value)
        if isinstance(value, (np.int8, np.int16, np.int32, np.uint8, np.uint16)):
            return ("i", int(value))
        if isinstance(value, np.integer):
            return int(value)
        if isinstance(value, np.float32):
            return ("f", float(value))
        if isinstance(value, np.floating):
            return float(value)
        if isinstance(value, np.str_):
            return str(value)
    raise wrong(value, "a type that features have")


def pairs(value):
    return [(key_of(key), inferred(item)) for key, item in value.items()]


def key_of(key):
    if isinstance(key, str):
        raise wrong(key, "a key of such a map, which is no text")
    return inferred(key)


def nested(value):
    inner = []
    for items in value:
        items = None if items is None else [inferred(item) for item in items]
        inner.append(items or None)
    return inner


WHOLE = {
    MAP: mapping,
    STRUCT: mapping,
    MAP_LIST: mappings,
    STRUCT_LIST: mappings,
    JSON: json_text,
    JSON_LIST: lambda value: [json_text(item) for item in value],
    SCALAR_MAP: pairs,
    VALUE_LIST: nested,
    VALUE_SET: nested,
}


def converted(kind, values):
    if kind in SCALARS:
        return scalars(kind, values)
    if kind in ELEMENTS:
        return lists(ELEMENTS[kind], values)
    if kind in SETS:
        return sets(SETS[kind], values)
    if kind in WHOLE:
        return [None if value is None else WHOLE[kind](value) for value in values]
    return [inferred(value) for value in values]


# --- functions ------------------------------------------------------------------------------------------------------------


def from_source(name, text):
    """The function in `text`, without its decorators and without evaluating its annotations."""
    tree = ast.parse(textwrap.dedent(text))
    own = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    for node in own:
        node.decorator_list = []
    scope = {"__name__": "feature_function"}
    for alias, module in (("pd", pd), ("pandas", pd), ("np", np), ("numpy", np)):
        if module is not None:
            scope[alias] = module
    code = compile(tree, f"<function {name}>", "exec", flags=__future__.annotations.compiler_flag, dont_inherit=True)
    exec(code, scope)
    found = scope.get(name) or next((scope[node.name] for node in own), None)
    if not callable(found):
        raise ValueError(f"the source defines no function `{name}`")
    return found


class Function:
    """A view's function, made when it is first called."""

    def __init__(self, name, source, body, mode, singleton, features):
        self.name, self.source, self.body = name, source, body
        self.pandas, self.singleton, self.features = mode == "pandas", singleton, features
        self.udf = None

    def load(self):
        problem = None
        if self.source.strip():
            try:
                return from_source(self.name, self.source)
            except Exception as error:
                problem = error
        if self.body:
            import dill

            return dill.loads(self.body)
        raise problem or ValueError("the view holds no function")

    def results(self, columns, rows):
        """What the function answers, by name; inputs it does not answer are passed on."""
        udf = self.udf = self.udf or self.load()
        if self.pandas:
            if pd is None:
                raise ImportError("pandas is not installed where this worker runs")
            return udf(frame(columns))
        if not self.singleton:
            return {**columns, **udf(columns)}
        outputs = [udf({name: values[row] for name, values in columns.items()}) for row in range(rows)]
        return {name: [self.single(output.get(name), kind) for output in outputs] for name, kind in self.answered(outputs)}

    def answered(self, outputs):
        return [(name, kind) for name, kind in self.features if any(name in output for output in outputs)]

    def single(self, value, kind):
        """A function of single values may put its answer into a list of one."""
        if not isinstance(value, list):
            return value
        if kind not in ELEMENTS and kind not in SETS and kind not in WHOLE:
            if len(value) != 1:
                raise ValueError(f"{len(value)} values were answered for one row")
            return value[0]
        return value[0] if len(value) == 1 and isinstance(value[0], (list, set, dict)) else value

    def values(self, rows, columns, names, places, tagged):
        for place in tagged:
            columns[place] = [revived(value) for value in columns[place]]
        results = self.results({name: columns[place] for name, place in zip(names, places)}, rows)
        answer = []
        for name, kind in self.features:
            if name not in results:
                raise KeyError(f"the function does not answer `{name}`, it answers {', '.join(map(str, results))}")
            values = column(results[name])
            if len(values) != rows:
                raise ValueError(f"{len(values)} values of `{name}` were answered for {rows} rows")
            answer.append(converted(kind, values))
        return ("values", answer)

    def arrow(self, payload):
        """A batch of joined rows, which Feast hands over in the types they were stored in."""
        import pyarrow as pa

        with pa.ipc.open_stream(payload) as reader:
            table = reader.read_all()
        if self.pandas:
            udf = self.udf = self.udf or self.load()
            results = udf(table.to_pandas())
        else:
            results = self.results(table.to_pydict(), table.num_rows)
        names = [name for name, _ in self.features if name in results]
        arrays = [array(results[name]) for name in names]
        result = pa.RecordBatch.from_arrays(arrays, names=names)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, result.schema) as writer:
            writer.write_batch(result)
        return ("arrow", sink.getvalue().to_pybytes())


def column(values):
    """The values of one answered column as a list."""
    if type(values) is list:
        return values
    if pd is not None and isinstance(values, (pd.Series, pd.Index)):
        if values.dtype.kind in "ifbO" and values.dtype != "object":
            return values.tolist()
        if all(value is None or type(value) is str for value in values):
            return values.tolist()
        import pyarrow as pa

        return list(pa.Array.from_pandas(values).to_numpy(zero_copy_only=False))
    if np is not None and isinstance(values, np.ndarray):
        return list(values) if values.dtype.kind == "M" else values.tolist()
    return list(values) if isinstance(values, tuple) else [values]


def array(values):
    import pyarrow as pa

    if not (pd is not None and isinstance(values, pd.Series)):
        values = column(values)
    try:
        result = pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        result = pa.array(arrow_ready(list(values)), from_pandas=True)
    return result.combine_chunks() if isinstance(result, pa.ChunkedArray) else result


# --- the conversation -----------------------------------------------------------------------------------------------------


def problem(error):
    """The error as Python puts it, with the line of the function it comes from."""
    text = "".join(traceback.format_exception_only(type(error), error)).strip()
    lines = [entry.lineno for entry in traceback.extract_tb(error.__traceback__) if entry.filename.startswith("<function ")]
    text = f"{text} (line {lines[-1]} of the function)" if lines and lines[-1] else text
    return text.encode("utf-8", "replace").decode()


def reply(message):
    message = marshal.dumps(message, 2)
    answers.write(struct.pack("<I", len(message)) + message)
    answers.flush()


def serve():
    functions = {}
    reply(("ready", sealed))
    while len(length := frames.read(4)) == 4:
        message = marshal.loads(frames.read(*struct.unpack("<I", length)))
        if message[0] == "define":
            functions[message[1]] = Function(*message[2:])
            continue
        function = functions[message[1]]
        try:
            answer = function.values(*message[2:]) if message[0] == "values" else function.arrow(*message[2:])
            del message
            reply(answer)
            del answer
        except MemoryError:
            # What is left of its memory may be too little for the next function.
            reply(("retire", "MemoryError: the function needs more memory than it is allowed"))
            break
        except BaseException as error:
            reply(("error", problem(error)))


serve()
