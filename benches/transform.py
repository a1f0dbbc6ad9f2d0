"""On-demand feature views: thali's native expressions and its Python workers beside Feast's own server, in one run.

    cargo build --release && make venv
    target/venv/bin/python benches/transform.py [--entities 1,10,100] [--seconds 3]

Both read one SQLite store and one registry, made by Feast. Three views compute the same two numbers and one text from three
stored features and one value of the request: a function over lists, a function over data frames, and, with thali, SQL
expressions. Answers are compared value by value before anything is measured. Feast and thali run two workers each; Feast's are
never recycled. Saturation is 16 connections that each send the next request when the answer is in, best of the rounds.

Nothing here is a test: figures depend on the machine and on how thali was built, so quote ratios, with both.
"""

import argparse
import json
import os
import pathlib
import random
import sys
import tempfile
from datetime import UTC, datetime

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String

import online
import servers

STORED = 1_000
EXPRESSIONS = {"n_score": "b * factor + a", "n_share": "b / (a + 1)", "n_label": "upper(c)"}
CONFIG = """project: bench
provider: local
registry: data/registry.db
online_store: {type: sqlite, path: data/online.db}
offline_store: {type: file}
entity_key_serialization_version: 3
"""

entity = Entity(name="entity", join_keys=["entity_id"], value_type=ValueType.INT64)
stored = FeatureView(
    name="stored",
    entities=[entity],
    schema=[Field(name="entity_id", dtype=Int64), Field(name="a", dtype=Int64), Field(name="b", dtype=Float64), Field(name="c", dtype=String)],
    source=FileSource(name="nowhere", path="data/nowhere.parquet", timestamp_field="event_timestamp"),
)
asked = RequestSource(name="asked", schema=[Field(name="factor", dtype=Float64)])


def outputs(prefix):
    return [Field(name=f"{prefix}_score", dtype=Float64), Field(name=f"{prefix}_share", dtype=Float64), Field(name=f"{prefix}_label", dtype=String)]


@on_demand_feature_view(sources=[stored, asked], schema=outputs("l"), mode="python")
def lists(inputs):
    return {
        "l_score": [b * f + a for a, b, f in zip(inputs["a"], inputs["b"], inputs["factor"])],
        "l_share": [b / (a + 1) for a, b in zip(inputs["a"], inputs["b"])],
        "l_label": [c.upper() for c in inputs["c"]],
    }


@on_demand_feature_view(sources=[stored, asked], schema=outputs("f"), mode="pandas")
def frames(inputs: pd.DataFrame) -> pd.DataFrame:
    out = pd.DataFrame()
    out["f_score"] = inputs["b"] * inputs["factor"] + inputs["a"]
    out["f_share"] = inputs["b"] / (inputs["a"] + 1)
    out["f_label"] = inputs["c"].str.upper()
    return out


@on_demand_feature_view(sources=[stored, asked], schema=outputs("n"), mode="python", tags={"thali.expressions": json.dumps(EXPRESSIONS)})
def native(inputs):
    return {
        "n_score": [b * f + a for a, b, f in zip(inputs["a"], inputs["b"], inputs["factor"])],
        "n_share": [b / (a + 1) for a, b in zip(inputs["a"], inputs["b"])],
        "n_label": [c.upper() for c in inputs["c"]],
    }


def fill(folder):
    (folder / "data").mkdir()
    (folder / "feature_store.yaml").write_text(CONFIG)
    store = FeatureStore(repo_path=str(folder))
    store.apply([entity, stored, lists, frames, native])
    draw = random.Random(7)
    rows = pd.DataFrame({
        "entity_id": range(STORED),
        "a": [draw.randrange(100) for _ in range(STORED)],
        "b": [draw.uniform(-1, 1) for _ in range(STORED)],
        "c": [f"label {draw.randrange(100)}" for _ in range(STORED)],
        "event_timestamp": datetime(2026, 3, 1, tzinfo=UTC),
    })
    store.write_to_online_store("stored", rows)


def bodies(view, entities, count=200):
    draw = random.Random(entities)
    features = [f"{view.name}:{feature.name}" for feature in view.features]
    for _ in range(count):
        keys = [draw.randrange(STORED) for _ in range(entities)]
        yield json.dumps({"features": features, "entities": {"entity_id": keys, "factor": [draw.random() for _ in keys]}}).encode()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=str(online.ROOT / "target/release/thali"))
    parser.add_argument("--load", default=None, help="the load generator")
    parser.add_argument("--entities", default="1,10,100")
    parser.add_argument("--seconds", type=float, default=3, help="of each round")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    options.load = options.load or online.build_load()
    with tempfile.TemporaryDirectory(prefix="thali-bench-") as folder:
        folder = pathlib.Path(folder)
        fill(folder)
        ports = {"thali": servers.free_port(), "feast": servers.free_port()}
        os.environ["THALI_PYTHON_COMMAND"] = sys.executable
        thali = [options.bin, "-c", folder, "serve", "--role", "online", "--online-port", ports["thali"], "--metrics-port", 0]
        feast = [online.FEAST, "-c", folder, "serve", "-p", ports["feast"], "-w", 2, "--no-access-log", "--max-requests", 10**9, "--registry_ttl_sec", 100000]
        probe = next(bodies(lists, 1))
        with (
            online.server(thali, ports["thali"], probe, folder / "thali.log") as thali_pid,
            online.server(feast, ports["feast"], probe, folder / "feast.log") as feast_pid,
        ):
            print("entities   view           thali/s   Feast/s   ratio   CPU us thali  Feast")
            for entities in map(int, options.entities.split(",")):
                measure(options, entities, ports, {"thali": thali_pid, "feast": feast_pid}, folder)


def measure(options, entities, ports, pids, folder):
    """Feast's function over lists is what native expressions are held against."""
    rates = {}
    for view in (lists, frames, native):
        requests = list(bodies(view, entities))
        mine, theirs = (online.comparable(online.post(ports[who], requests[0])) for who in ("thali", "feast"))
        same(view, mine, theirs)
        file = online.requests_file(folder / "requests", [(online.http_request(body), 0) for body in requests])
        for who in ("thali", "feast"):
            if (who, view) != ("feast", native):
                rates[who, view] = online.saturate(options, ports[who], file, pids[who], None)
    for mine, theirs in ((native, lists), (lists, lists), (frames, frames)):
        (thali, used, _), (feast, theirs_used, _) = rates["thali", mine], rates["feast", theirs]
        print(f"{entities:8}   {mine.name:10} {thali:11.0f} {feast:9.1f} {thali / feast:6.1f}x {used * 1e6:14.0f} {theirs_used * 1e6:6.0f}", flush=True)


def same(view, mine, theirs):
    for feature in view.features:
        for ours, other in zip(mine[feature.name]["values"], theirs[feature.name]["values"], strict=True):
            close = abs(ours - other) <= 1e-12 * abs(other) if isinstance(other, float) else ours == other
            if not close:
                raise SystemExit(f"{feature.name}: thali answers {ours}, Feast {other}")


if __name__ == "__main__":
    main()
