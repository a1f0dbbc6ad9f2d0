"""A Python feature repository with every kind of object that Feast 0.67 has.

Applied once to stock Feast, the oracle, and once to thali; the folder with the data is given by the environment.
"""

import os
from datetime import timedelta

import pandas as pd
from feast import (
    BatchFeatureView,
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    KafkaSource,
    KinesisSource,
    OnDemandFeatureView,
    Project,
    PushSource,
    RequestSource,
    ValueType,
)
from feast.aggregation import Aggregation
from feast.data_format import AvroFormat, JsonFormat
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination
from feast.labeling.label_view import ConflictPolicy, LabelView
from feast.on_demand_feature_view import on_demand_feature_view
from feast.permissions.action import AuthzedAction
from feast.permissions.permission import Permission
from feast.permissions.policy import GroupBasedPolicy, NamespaceBasedPolicy, RoleBasedPolicy
from feast.stream_feature_view import stream_feature_view
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, Json, Map, Set, String, Struct, UnixTimestamp, Uuid

DATA = os.environ["SDK_DATA"]


def file(name: str, **options) -> FileSource:
    options.setdefault("timestamp_field", "event_timestamp")
    return FileSource(name=f"{name}_file", path=f"{DATA}/{name}.parquet", **options)


project = Project(name="sdk", description="Everything Feast can define", tags={"purpose": "tests"}, owner="tests@thali.example")

# Entities: by number, by text, by a key that is not named like the entity.
driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64, description="Who drives", tags={"pii": "yes"})
customer = Entity(name="customer_id", value_type=ValueType.STRING, owner="crm@thali.example")
zone = Entity(name="zone", value_type=ValueType.INT32)

# Sources.
drivers_file = file("drivers", created_timestamp_column="created", description="Driver statistics", tags={"tier": "gold"}, owner="ops")
customers_file = file("customers", timestamp_field="ts", field_mapping={"age_years": "age"})
pairs_file = file("pairs")
city_file = file("city")
zones_file = file("zones")
pushed_file = file("pushed", created_timestamp_column="created")
labels_file = file("labels")
written_file = file("written")
driver_push = PushSource(name="driver_push", batch_source=pushed_file)
label_push = PushSource(name="label_push", batch_source=labels_file)
trip = RequestSource(name="trip", schema=[Field(name="bonus", dtype=Float64), Field(name="seats", dtype=Int64)])
rides_kafka = KafkaSource(
    name="rides_kafka",
    kafka_bootstrap_servers="broker.example:9092",
    topic="rides",
    timestamp_field="event_timestamp",
    batch_source=pairs_file,
    message_format=JsonFormat(schema_json="driver_id integer, customer_id string, event_timestamp timestamp, rides integer"),
    watermark_delay_threshold=timedelta(minutes=5),
)
moods_kinesis = KinesisSource(
    name="moods_kinesis",
    region="eu-central-1",
    stream_name="moods",
    timestamp_field="event_timestamp",
    record_format=AvroFormat(schema_json='{"type":"record","name":"m","fields":[]}'),
    batch_source=city_file,
)

# Feature views.
STATS = [
    Field(name="conv_rate", dtype=Float32, description="Share of offers taken", tags={"unit": "ratio"}),
    Field(name="acc_rate", dtype=Float64),
    Field(name="trips", dtype=Int64),
    Field(name="driver_name", dtype=String),
]
driver_stats = FeatureView(
    name="driver_stats",
    entities=[driver],
    ttl=timedelta(hours=24),
    schema=STATS,
    source=drivers_file,
    description="What drivers did",
    tags={"team": "ops"},
    owner="ops@thali.example",
)
driver_pushed = FeatureView(name="driver_pushed", entities=[driver], schema=STATS, source=driver_push, offline=True)
customer_profile = FeatureView(
    name="customer_profile",
    entities=[customer],
    ttl=timedelta(days=1),
    schema=[Field(name="age", dtype=Int32), Field(name="member", dtype=Bool)],
    source=customers_file,
)
driver_customer = FeatureView(
    name="driver_customer",
    entities=[driver, customer],
    schema=[Field(name="rides", dtype=Int64), Field(name="spent", dtype=Float64)],
    source=pairs_file,
)
city_now = FeatureView(
    name="city_now",
    entities=[],
    ttl=timedelta(hours=12),
    schema=[Field(name="surge", dtype=Float64), Field(name="mood", dtype=String)],
    source=city_file,
)
zone_types = FeatureView(
    name="zone_types",
    entities=[zone],
    schema=[
        Field(name="f_int32", dtype=Int32),
        Field(name="f_int64", dtype=Int64),
        Field(name="f_float", dtype=Float32),
        Field(name="f_double", dtype=Float64),
        Field(name="f_string", dtype=String),
        Field(name="f_bytes", dtype=Bytes),
        Field(name="f_bool", dtype=Bool),
        Field(name="f_time", dtype=UnixTimestamp),
        Field(name="f_int32_list", dtype=Array(Int32)),
        Field(name="f_int64_list", dtype=Array(Int64)),
        Field(name="f_float_list", dtype=Array(Float32)),
        Field(name="f_double_list", dtype=Array(Float64)),
        Field(name="f_string_list", dtype=Array(String)),
        Field(name="f_bytes_list", dtype=Array(Bytes)),
        Field(name="f_bool_list", dtype=Array(Bool)),
        Field(name="f_time_list", dtype=Array(UnixTimestamp)),
    ],
    source=zones_file,
)
# Types that no Parquet column carries in 0.67: written by the SDK, never materialized.
zone_written = FeatureView(
    name="zone_written",
    entities=[zone],
    schema=[
        Field(name="w_map", dtype=Map),
        Field(name="w_json", dtype=Json),
        Field(name="w_struct", dtype=Struct({"lat": Float64, "name": String})),
        Field(name="w_uuid", dtype=Uuid),
        Field(name="w_set", dtype=Set(String)),
        Field(name="w_nested", dtype=Array(Array(Int64))),
        Field(name="w_vector", dtype=Array(Float32), vector_index=True, vector_search_metric="COSINE"),
    ],
    source=PushSource(name="zone_push", batch_source=written_file),
)
city_stream = FeatureView(name="city_stream", entities=[], schema=[Field(name="surge", dtype=Float64)], source=moods_kinesis, online=False)
driver_batch = BatchFeatureView(
    name="driver_batch",
    mode="python",
    entities=[driver],
    schema=[Field(name="trips", dtype=Int64)],
    source=drivers_file,
    online=False,
    offline=False,
)


@stream_feature_view(
    entities=[driver],
    ttl=timedelta(hours=2),
    schema=[Field(name="rides", dtype=Int64)],
    source=rides_kafka,
    aggregations=[Aggregation(column="rides", function="sum", time_window=timedelta(hours=1))],
    mode="python",
    timestamp_field="event_timestamp",
    description="Rides of the last hour",
    online=False,
)
def ride_counts(frame):
    return frame


# On-demand views: in pandas, in Python, and in Python one row at a time.
@on_demand_feature_view(
    sources=[driver_stats, trip],
    schema=[Field(name="rate_plus_bonus", dtype=Float64)],
    mode="pandas",
    description="With what the request brings",
)
def rate_with_bonus(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"rate_plus_bonus": inputs["conv_rate"] + inputs["bonus"]})


@on_demand_feature_view(
    sources=[driver_stats, customer_profile],
    schema=[Field(name="trips_doubled", dtype=Int64), Field(name="greeting", dtype=String)],
    mode="python",
    tags={"kind": "python"},
)
def doubled(inputs: dict) -> dict:
    return {
        "trips_doubled": [None if trips is None else 2 * trips for trips in inputs["trips"]],
        "greeting": [f"{name} is {age}" for name, age in zip(inputs["driver_name"], inputs["age"])],
    }


@on_demand_feature_view(sources=[trip], schema=[Field(name="seats_left", dtype=Int64)], mode="python", singleton=True)
def one_seat_less(inputs: dict) -> dict:
    return {"seats_left": inputs["seats"] - 1}


driver_quality = LabelView(
    name="driver_quality",
    source=label_push,
    entities=[driver],
    schema=[Field(name="verdict", dtype=String), Field(name="labeler", dtype=String)],
    conflict_policy=ConflictPolicy.MAJORITY_VOTE,
    reference_feature_view="driver_stats",
    description="What reviewers think",
)

# Services: a plain one, one that uses a view twice under other keys, one that logs, one with on-demand features.
plain_service = FeatureService(name="plain", features=[driver_stats[["conv_rate", "trips"]], customer_profile], tags={"stage": "prod"})
two_drivers = FeatureService(
    name="two_drivers",
    features=[
        driver_stats[["trips"]].with_name("picked").with_join_key_map({"driver_id": "picked_id"}),
        driver_stats[["trips", "driver_name"]].with_name("dropped").with_join_key_map({"driver_id": "dropped_id"}),
    ],
    owner="ops@thali.example",
)
logged_service = FeatureService(
    name="logged",
    features=[driver_stats],
    logging_config=LoggingConfig(sample_rate=0.5, destination=FileLoggingDestination(path=f"{DATA}/log")),
)
computed_service = FeatureService(name="computed", features=[driver_stats[["conv_rate"]], doubled])

# Permissions, one for each kind of policy.
readers = Permission(
    name="readers",
    types=[FeatureView, OnDemandFeatureView],
    name_patterns=["driver_.*"],
    actions=[AuthzedAction.DESCRIBE, AuthzedAction.READ_ONLINE],
    policy=RoleBasedPolicy(roles=["reader", "writer"]),
    tags={"since": "2026"},
    required_tags={"team": "ops"},
)
team = Permission(name="team", types=[Entity], actions=[AuthzedAction.UPDATE], policy=GroupBasedPolicy(groups=["ops"]))
space = Permission(name="space", types=[FeatureService], actions=[AuthzedAction.DELETE], policy=NamespaceBasedPolicy(namespaces=["prod"]))
