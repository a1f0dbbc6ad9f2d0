"""The wire contract: our .proto files against the descriptors inside the installed Feast package.

Compared is everything that reaches the wire or a generated client: packages and names of messages,
numbers, types, labels, oneofs, packing and JSON names of fields, values of enums, services and methods with
their types and streaming. Comments, file layout and language options are ours to choose.
"""

import importlib
import pkgutil
from pathlib import Path
from typing import Any

import feast.protos.feast
import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

from harness import ROOT

Contract = dict[str, Any]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Contract:
    output = tmp_path_factory.mktemp("proto") / "ours.bin"
    root = ROOT / "proto"
    include = Path(protoc.__file__).parent / "_proto"
    sources = [str(path) for path in sorted(root.rglob("*.proto"))]
    assert protoc.main(["protoc", f"-I{root}", f"-I{include}", f"--descriptor_set_out={output}", *sources]) == 0
    return contract(FileDescriptorSet.FromString(output.read_bytes()).file)


@pytest.fixture(scope="module")
def feasts() -> Contract:
    files = {}
    for module in pkgutil.walk_packages(feast.protos.feast.__path__, "feast.protos.feast."):
        if module.name.endswith("_pb2"):
            blob = importlib.import_module(module.name).DESCRIPTOR.serialized_pb
            file = FileDescriptorProto.FromString(blob)
            files[file.name] = file
    return contract(files.values())


def contract(files: Any) -> Contract:
    """Full name → what it is, for every message field, enum value and method."""
    found: Contract = {}
    for file in files:
        assert file.syntax == "proto3", file.name
        scope = f".{file.package}" if file.package else ""
        for message in file.message_type:
            add_message(found, scope, message)
        for enum in file.enum_type:
            add_enum(found, scope, enum)
        for service in file.service:
            found[f"{scope}.{service.name}"] = "service"
            for method in service.method:
                found[f"{scope}.{service.name}.{method.name}()"] = (
                    method.input_type,
                    method.output_type,
                    method.client_streaming,
                    method.server_streaming,
                )
    return found


def add_message(found: Contract, scope: str, message: DescriptorProto) -> None:
    name = f"{scope}.{message.name}"
    found[name] = ("message", message.options.map_entry)
    for field in message.field:
        found[f"{name}.{field.name}"] = {
            "number": field.number,
            "type": FieldDescriptorProto.Type.Name(field.type),
            "of": field.type_name,
            "label": FieldDescriptorProto.Label.Name(field.label),
            "oneof": message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None,
            "optional": field.proto3_optional,
            "packed": field.options.packed if field.options.HasField("packed") else None,
            "json": field.json_name or json_name(field.name),
        }
    for nested in message.nested_type:
        add_message(found, name, nested)
    for enum in message.enum_type:
        add_enum(found, name, enum)


def add_enum(found: Contract, scope: str, enum: EnumDescriptorProto) -> None:
    name = f"{scope}.{enum.name}"
    found[name] = ("enum", enum.options.allow_alias)
    for value in enum.value:
        found[f"{name}.{value.name}"] = value.number


def json_name(field: str) -> str:
    """The protobuf rule, for descriptors from which the generator left the name out."""
    head, *rest = field.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in rest)


def test_nothing_of_feasts_contract_is_missing(ours: Contract, feasts: Contract) -> None:
    assert len(feasts) > 1000, "the walk over Feast's descriptors found too little to prove anything"
    assert sorted(feasts.keys() - ours.keys()) == []


def test_nothing_was_added_to_feasts_contract(ours: Contract, feasts: Contract) -> None:
    own = (".thali.", "thali/")
    assert sorted(name for name in ours.keys() - feasts.keys() if not name.startswith(own)) == []


def test_every_field_value_and_method_is_feasts(ours: Contract, feasts: Contract) -> None:
    different = {name: (ours[name], feasts[name]) for name in ours.keys() & feasts.keys() if ours[name] != feasts[name]}
    assert different == {}


def test_a_changed_field_would_be_noticed(ours: Contract) -> None:
    """The comparison has teeth: fields, oneofs and methods are really in it."""
    assert ours[".feast.types.Value.int64_val"]["oneof"] == "val"
    assert ours[".feast.core.EntitySpecV2.join_key"]["number"] == 4
    assert ours[".GrpcFeatureServer.Push()"][0] == ".PushRequest"
