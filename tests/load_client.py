"""One of many clients at once: sends the requests of a file over gRPC, one after the other, to each server in turn.

    python load_client.py requests.json 127.0.0.1:6570 [127.0.0.1:6571 …]

It knows nothing of Feast, so it starts in a moment: a request is a method and its bytes. It says `connected`, waits for a
line, and prints one line for each request that fails; it does not try again.
"""

import json
import sys

import grpc


def main() -> None:
    file, *addresses = sys.argv[1:]
    with open(file) as lines:
        requests = [(method, bytes.fromhex(body)) for method, body in json.load(lines)]
    channels = [grpc.insecure_channel(address) for address in addresses]
    for channel in channels:
        grpc.channel_ready_future(channel).result(timeout=60)
    print("connected", flush=True)
    sys.stdin.readline()
    for number, (method, body) in enumerate(requests):
        call = channels[number % len(channels)].unary_unary(f"/feast.registry.RegistryServer/{method}")
        try:
            call(body, timeout=60)
        except grpc.RpcError as error:
            print(f"request {number}, {method}: {error.code().name} {error.details()}", flush=True)


if __name__ == "__main__":
    main()
