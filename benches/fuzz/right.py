"""Requests that are right, with what is to be answered."""

import gzip
import json

from fuzz.project import CHECKED, KNOWN
from fuzz.wire import chunked, http


def known_request(dice, rows=None):
    """The body of a request, and the columns that are right."""
    views = dice.sample(list(CHECKED), dice.randrange(1, len(CHECKED) + 1))
    chosen = [(view, feature) for view in views for feature in dice.sample(list(CHECKED[view][1]), dice.randrange(1, len(CHECKED[view][1]) + 1))]
    dice.shuffle(chosen)
    numbers = [dice.randrange(KNOWN) if dice.random() < 0.9 else dice.choice([-1, KNOWN, 2**40]) for _ in range(rows or dice.choice([1, 1, 2, 5, 30, 200]))]
    full = dice.random() < 0.3
    entities, wanted = {}, {}
    for key in {key for view, _ in chosen for key in CHECKED[view][0]}:
        entities[f"{key}_key"] = [f"n{n}" for n in numbers] if key == "name" else numbers
    for view, feature in chosen:
        value = CHECKED[view][1][feature]
        wanted[f"{view}__{feature}" if full else feature] = [value(n) if 0 <= n < KNOWN else None for n in numbers]
    body = {"features": [f"{view}:{feature}" for view, feature in chosen], "entities": entities}
    return body | ({"full_feature_names": True} if full else {}), wanted | entities


def styled(dice, node):
    """JSON that says the same in another way: blanks, escapes, fields in any order, some of them twice, of which the last counts."""
    blank = lambda: dice.choice(["", "", " ", "\n", "\t \r\n"])
    if isinstance(node, dict):
        fields = [(name, styled(dice, value)) for name, value in node.items()]
        dice.shuffle(fields)
        if dice.random() < 0.2:
            fields.insert(0, (dice.choice(list(node)), dice.choice(["null", "[]", "{}", '"x"', "[0]"])))
        if dice.random() < 0.2 and "entities" in node:
            fields.insert(dice.randrange(len(fields)), ("unknown", dice.choice(["null", '{"a": [1, {"b": "]}"}]}', '"\\\\"', "1e5"])))
        parts = [f"{blank()}{styled(dice, name)}{blank()}:{blank()}{text}{blank()}" for name, text in fields]
        return "{" + ",".join(parts) + "}"
    if isinstance(node, list):
        return "[" + ",".join(f"{blank()}{styled(dice, item)}{blank()}" for item in node) + "]"
    if isinstance(node, str):
        whole = json.dumps(node, ensure_ascii=dice.random() < 0.5)
        return whole if dice.random() < 0.8 else '"' + "".join(f"\\u{ord(letter):04x}" if ord(letter) < 65536 else json.dumps(letter)[1:-1] for letter in node) + '"'
    if isinstance(node, int) and not isinstance(node, bool) and dice.random() < 0.05:
        return dice.choice([f"{node}.0", f'"{node}"'])
    return json.dumps(node)


def protobuf(body):
    from feast.protos.feast.serving.ServingService_pb2 import FeatureList, GetOnlineFeaturesRequest

    message = GetOnlineFeaturesRequest(features=FeatureList(val=body["features"]), full_feature_names=body.get("full_feature_names", False))
    for key, values in body["entities"].items():
        for value in values:
            message.entities[key].val.add(**({"string_val": value} if isinstance(value, str) else {"int64_val": value}))
    return message.SerializeToString()


def known_case(dice):
    """Bytes to send, how many answers come, and what is to be in each."""
    if dice.random() < 0.15:
        pairs = [known_request(dice) for _ in range(dice.randrange(2, 12))]
        return b"".join(http("/get-online-features", json.dumps(body).encode()) for body, _ in pairs), [(wanted, "json") for _, wanted in pairs]
    if dice.random() < 0.1:
        numbers = [dice.randrange(KNOWN) for _ in range(dice.choice([1, 7, 300]))]
        bonus = [dice.randrange(1000) / 4 for _ in numbers]
        body = {"features": ["better:sum", "checked:whole"], "entities": {"thing_key": numbers, "bonus": bonus}}
        share, whole = CHECKED["checked"][1]["share"], CHECKED["checked"][1]["whole"]
        wanted = {"whole": [whole(n) for n in numbers], "sum": [None if share(n) is None else share(n) + more for n, more in zip(numbers, bonus)]}
        return http("/get-online-features", json.dumps(body).encode()), [(wanted | {"thing_key": numbers}, "json")]
    body, wanted = known_request(dice)
    form, headers = "json", {}
    text = (styled(dice, body) if dice.random() < 0.5 else json.dumps(body, ensure_ascii=dice.random() < 0.5)).encode()
    if dice.random() < 0.2:
        text, headers["content_type"] = protobuf(body), "application/x-protobuf"
    if dice.random() < 0.3:
        form = dice.choice(["protobuf", "arrow"])
        headers["accept"] = {"protobuf": "application/x-protobuf", "arrow": "application/vnd.apache.arrow.stream"}[form]
    if dice.random() < 0.1:
        text, headers["content_encoding"] = gzip.compress(text), "gzip"
    make = (lambda path, body, **more: chunked(dice, path, body, **more)) if dice.random() < 0.2 else http
    return make("/get-online-features", text, **headers), [(wanted, form)]
