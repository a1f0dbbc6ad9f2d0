"""Objects by the hundred, for the tests that write a lot: as requests to a registry server, and as definitions of a folder."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
from feast.protos.feast.core.DataSource_pb2 import DataSource
from feast.protos.feast.core.Entity_pb2 import Entity
from feast.protos.feast.core.FeatureView_pb2 import FeatureView
from feast.protos.feast.registry import RegistryServer_pb2 as rpc
from feast.protos.feast.types.Value_pb2 import ValueType

from registries import call


def source() -> DataSource:
    source = DataSource(name="trips", type=DataSource.BATCH_FILE, timestamp_field="event_timestamp")
    source.file_options.uri = "trips.parquet"
    return source


def driver() -> Entity:
    driver = Entity()
    driver.spec.name, driver.spec.join_key, driver.spec.value_type = "driver", "driver_id", ValueType.INT64
    return driver


def view(name: str, **tags: str) -> FeatureView:
    view = FeatureView()
    spec = view.spec
    spec.name, spec.online = name, True
    spec.entities.append("driver")
    spec.entity_columns.add(name="driver_id", value_type=ValueType.INT64)
    for feature in ("rate", "trips"):
        spec.features.add(name=feature, value_type=ValueType.DOUBLE)
    spec.tags.update(tags)
    spec.ttl.seconds = 3600
    spec.batch_source.CopyFrom(source())
    return view


def apply(view: FeatureView, project: str) -> tuple[str, bytes]:
    """The RPC that applies it."""
    request = rpc.ApplyFeatureViewRequest(feature_view=view, project=project, commit=True)
    return "ApplyFeatureView", request.SerializeToString()


def prepare(channel: grpc.Channel, project: str) -> None:
    """Applies what the views need."""
    call(channel, "ApplyEntity", rpc.ApplyEntityRequest(entity=driver(), project=project, commit=True))
    call(channel, "ApplyDataSource", rpc.ApplyDataSourceRequest(data_source=source(), project=project, commit=True))


def views(channel: grpc.Channel, project: str) -> dict[str, FeatureView]:
    """What a server answers from what it knows, without asking the database."""
    request = rpc.ListFeatureViewsRequest(project=project, allow_cache=True)
    return {view.spec.name: view for view in call(channel, "ListFeatureViews", request, rpc.ListFeatureViewsResponse).feature_views}


def definitions(names: Sequence[str], generation: int = 0, features: Sequence[str] = ("rate", "trips")) -> str:
    """The same views as definitions for `thali apply`."""
    schema = ", ".join(f"{{name: {name}, type: Float64}}" for name in features)
    views = "".join(
        f"""  - name: {name}
    entities: [driver]
    source: trips
    ttl: 1h
    schema: [{schema}]
    tags: {{generation: "{generation}"}}
"""
        for name in names
    )
    return f"""entities:
  - {{name: driver, join_key: driver_id, value_type: Int64}}
data_sources:
  - {{name: trips, type: file, path: trips.parquet, timestamp_field: event_timestamp}}
feature_views:
{views}"""


def data(folder: Path) -> None:
    """The file behind the definitions, which `thali apply` looks into."""
    columns = {"driver_id": pa.array([1]), "event_timestamp": pa.array([datetime.now(UTC)]), "rate": pa.array([0.5]), "trips": pa.array([1.0])}
    pq.write_table(pa.table(columns), folder / "trips.parquet")
