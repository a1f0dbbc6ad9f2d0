"""On-demand feature views of every kind, as a Feast repository would define them, and the data they are computed from.

Their functions are kept as source text, so each says all it needs. They are put into the registry without Feast's trial run
of every function at apply, which has no sample of the newer types and would run the hostile ones.
"""

import datetime
import decimal
import uuid
from typing import Any

import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import (
    Array,
    Bool,
    Bytes,
    Decimal,
    Float32,
    Float64,
    Int32,
    Int64,
    Json,
    Map,
    Set,
    String,
    Struct,
    TimeUuid,
    UnixTimestamp,
    Uuid,
)

UTC = datetime.timezone.utc
driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
file = FileSource(name="nowhere", path="data/nowhere.parquet", timestamp_field="event_timestamp")
U1, U2 = uuid.UUID("12345678-1234-5678-1234-567812345678"), uuid.UUID("12345678-1234-1678-1234-567812345679")
T1, T2 = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), datetime.datetime(1969, 12, 31, 23, 0, 0, tzinfo=UTC)

# A type, and its values for drivers 1 and 2; driver 3 has nulls, driver 9 does not exist.
KINDS: dict[str, tuple[Any, Any, Any]] = {
    "int32": (Int32, 7, -(2**31)),
    "int64": (Int64, 2**53 + 1, -(2**63)),
    "float32": (Float32, 0.1, -1.5),
    "float64": (Float64, 0.1, 1e300),
    "string": (String, "größer", ""),
    "bytes": (Bytes, b"\x00\xff", b"a"),
    "bool": (Bool, True, False),
    "time": (UnixTimestamp, T1, T2),
    "uuid": (Uuid, U1, U2),
    "time_uuid": (TimeUuid, U2, U1),
    "decimal": (Decimal, decimal.Decimal("1.10"), decimal.Decimal("-3")),
    "json": (Json, {"a": [1, None, {"b": "c"}]}, "[1, 2]"),
    "map": (Map, {"n": 1, "f": 0.5, "s": "x", "t": [1, 2], "none": None, "m": {"k": True}}, {"d": "e"}),
    "struct": (Struct({"lat": Float64, "name": String}), {"lat": 1.5, "name": "here"}, {"lat": -1.0, "name": ""}),
    "int32_list": (Array(Int32), [1, 2], [-3]),
    "int64_list": (Array(Int64), [2**53 + 1], [0, 0]),
    "float32_list": (Array(Float32), [0.5, 1.25], [0.1]),
    "float64_list": (Array(Float64), [0.1], [2.5, -2.5]),
    "string_list": (Array(String), ["a", ""], ["ü"]),
    "bytes_list": (Array(Bytes), [b"a", b"\xff"], [b""]),
    "bool_list": (Array(Bool), [True, False], [False]),
    "time_list": (Array(UnixTimestamp), [T1, T2], [T2]),
    "uuid_list": (Array(Uuid), [U1, U2], [U2]),
    "decimal_list": (Array(Decimal), [decimal.Decimal("0.10"), decimal.Decimal("2")], [decimal.Decimal("5")]),
    "map_list": (Array(Map), [{"a": 1}, {"b": "c"}], [{"d": 2.5}]),
    "int64_set": (Set(Int64), {1, 2}, {3}),
    "string_set": (Set(String), {"a"}, {"b"}),
    "float64_set": (Set(Float64), {0.5}, {1.5}),
    "bool_set": (Set(Bool), {True}, {False}),
    "time_set": (Set(UnixTimestamp), {T1}, {T2}),
    "uuid_set": (Set(Uuid), {U1}, {U2}),
    "nested_list": (Array(Array(Int64)), [[1, 2], [3]], [[4]]),
}
# What Feast hands to a data frame and takes back unchanged in value.
FRAMED = ("int32", "int64", "float32", "float64", "string", "bytes", "bool", "time", "string_list", "float64_list", "int64_list")

kinds = FeatureView(
    name="kinds",
    entities=[driver],
    schema=[Field(name="driver_id", dtype=Int64), *(Field(name=name, dtype=kind) for name, (kind, _, _) in KINDS.items())],
    source=file,
)
numbers = FeatureView(
    name="numbers",
    entities=[driver],
    schema=[Field(name="driver_id", dtype=Int64), Field(name="a", dtype=Int64), Field(name="b", dtype=Float64), Field(name="c", dtype=String)],
    source=file,
)
asked = RequestSource(name="asked", schema=[Field(name="factor", dtype=Float64), Field(name="word", dtype=String)])
mode = RequestSource(name="asked_mode", schema=[Field(name="behave", dtype=String)])


@on_demand_feature_view(sources=[kinds], schema=[Field(name=f"o_{n}", dtype=k) for n, (k, _, _) in KINDS.items()], mode="python")
def python_echo(inputs: dict[str, Any]) -> dict[str, Any]:
    return {f"o_{name}": values for name, values in inputs.items() if "__" not in name and name != "driver_id"}


@on_demand_feature_view(
    sources=[kinds], schema=[Field(name=f"s_{n}", dtype=k) for n, (k, _, _) in KINDS.items()], mode="python", singleton=True
)
def single_echo(inputs: dict[str, Any]) -> dict[str, Any]:
    # A list is a column of values in Feast, so lists are wrapped.
    return {f"s_{n}": [v] if isinstance(v, list) else v for n, v in inputs.items() if "__" not in n and n != "driver_id"}


@on_demand_feature_view(sources=[kinds[list(FRAMED)]], schema=[Field(name=f"p_{n}", dtype=KINDS[n][0]) for n in FRAMED], mode="pandas")
def pandas_echo(inputs: pd.DataFrame) -> pd.DataFrame:
    names = [n for n in inputs.columns if "__" not in n and n != "driver_id"]
    return inputs[names].rename(columns={n: f"p_{n}" for n in names})


@on_demand_feature_view(
    sources=[numbers, asked],
    schema=[
        Field(name="scaled", dtype=Float64),
        Field(name="worded", dtype=String),
        Field(name="whole", dtype=Int64),
        Field(name="narrow", dtype=Float32),
        Field(name="known", dtype=Bool),
        Field(name="key", dtype=Int64),
    ],
    mode="python",
)
def computed(inputs):
    import numpy as np

    def helper(value, factor):
        return None if value is None else value * factor

    return {
        "scaled": [helper(b, f) for b, f in zip(inputs["numbers__b"], inputs["factor"])],
        "worded": [f"{c}-{w}" for c, w in zip(inputs["c"], inputs["word"])],
        "whole": [None if a is None else np.int64(a + 1) for a in inputs["a"]],
        "narrow": [np.float32(0.1) for _ in inputs["a"]],
        "known": [np.bool_(a is not None) for a in inputs["a"]],
        "key": inputs["driver_id"],
    }


@on_demand_feature_view(
    sources=[numbers, asked],
    schema=[
        Field(name="f_scaled", dtype=Float64),
        Field(name="f_rank", dtype=Float64),
        Field(name="f_text", dtype=String),
        Field(name="f_time", dtype=UnixTimestamp),
        Field(name="f_flag", dtype=Bool),
    ],
    mode="pandas",
)
def framed(inputs: pd.DataFrame) -> pd.DataFrame:
    out = pd.DataFrame()
    out["f_scaled"] = inputs["b"] * inputs["factor"] + inputs["numbers__a"]
    out["f_rank"] = inputs["b"].rank()
    out["f_text"] = inputs["c"].fillna("?").str.upper()
    out["f_time"] = pd.to_datetime(inputs["driver_id"], unit="D", utc=True)
    out["f_flag"] = inputs["factor"] > 1
    return out


@on_demand_feature_view(sources=[numbers, mode], schema=[Field(name="answer", dtype=String)], mode="python", track_metrics=True)
def hostile(inputs):
    import os
    import sys
    import time

    behave = inputs["behave"][0]
    if behave == "raise":
        raise ValueError("no such luck")
    if behave == "loop":
        while True:
            pass
    if behave == "eat":
        return {"answer": ["x" * len(bytearray(8 << 30))]}
    if behave == "print":
        print("a function says hello")
        sys.stderr.write("and complains\n")
    if behave == "flood":
        for _ in range(100_000):
            print("y" * 100)
    if behave == "stdin":
        return {"answer": [sys.stdin.read()] * len(inputs["behave"])}
    if behave == "exit":
        sys.exit(3)
    if behave == "crash":
        os._exit(4)
    if behave == "environment":
        return {"answer": [" ".join(sorted(os.environ))] * len(inputs["behave"])}
    if behave == "spy":
        found = []
        for process in (os.getppid(), 1):
            for part in ("environ", "mem", "maps"):
                try:
                    with open(f"/proc/{process}/{part}", "rb") as file:
                        found.append(f"{part} of {process}: {file.read(10)}")
                except PermissionError:
                    pass
            try:
                os.kill(process, 0)
                found.append(f"signals to {process}")
            except PermissionError:
                pass
        return {"answer": [" ".join(found)] * len(inputs["behave"])}
    if behave == "pid":
        return {"answer": [str(os.getpid())] * len(inputs["behave"])}
    if behave == "short":
        return {"answer": []}
    if behave == "other":
        return {"question": inputs["behave"]}
    if behave == "type":
        return {"answer": [{"a": 1}] * len(inputs["behave"])}
    if behave.startswith("wait "):
        flag = behave.removeprefix("wait ")
        with open(flag, "w") as file:
            file.write(str(os.getpid()))
        while os.path.exists(flag):
            time.sleep(0.01)
    return {"answer": [f"{a} {b}" for a, b in zip(inputs["behave"], inputs["c"])]}


@on_demand_feature_view(
    sources=[numbers],
    entities=[driver],
    schema=[Field(name="driver_id", dtype=Int64), Field(name="doubled", dtype=Float64)],
    mode="python",
    write_to_online_store=True,
)
def written(inputs):
    return {"doubled": [None if b is None else 2 * b for b in inputs["b"]]}


@on_demand_feature_view(
    sources=[numbers],
    entities=[driver],
    schema=[Field(name="driver_id", dtype=Int64), Field(name="tripled", dtype=Float64)],
    mode="pandas",
    write_to_online_store=True,
)
def written_frame(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"driver_id": inputs["driver_id"], "tripled": inputs["b"] * 3})


@on_demand_feature_view(sources=[computed.projection, asked], schema=[Field(name="again", dtype=Float64)], mode="python")
def chained(inputs):
    return {"again": [None if s is None else s + f for s, f in zip(inputs["computed__scaled"], inputs["factor"])]}


service = FeatureService(name="served", features=[numbers[["a"]], computed[["scaled"]].with_name("alias"), framed])
VIEWS = (kinds, numbers)
ON_DEMAND = (python_echo, single_echo, pandas_echo, computed, framed, hostile, written, written_frame, chained)


def fill(store: Any) -> None:
    """Everything into the registry and the online store of a stock Feast."""
    store.apply([driver, *VIEWS])
    for view in ON_DEMAND:
        store.registry.apply_feature_view(view, store.project, commit=False)
    store.registry.apply_feature_service(service, store.project, commit=False)
    store.registry.commit()
    write(store, kinds, {name: [first, second, None] for name, (_, first, second) in KINDS.items()})
    write(store, numbers, {"a": [1, 2, None], "b": [0.5, -1.0, None], "c": ["x", "y", None]})


def write(store: Any, view: FeatureView, columns: dict[str, list[Any]]) -> None:
    """Rows of drivers 1, 2 and 3, past the data frames that not every type fits into."""
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value
    from feast.type_map import python_values_to_proto_values

    types = {feature.name: feature.dtype.to_value_type() for feature in view.features}
    protos = {name: python_values_to_proto_values(values, types[name]) for name, values in columns.items()}
    now = datetime.datetime(2026, 11, 1, tzinfo=UTC)
    rows = [
        (EntityKey(join_keys=["driver_id"], entity_values=[Value(int64_val=place + 1)]), {n: v[place] for n, v in protos.items()}, now, None)
        for place in range(3)
    ]
    store._get_provider().online_write_batch(store.config, store.get_feature_view(view.name), rows, None)
