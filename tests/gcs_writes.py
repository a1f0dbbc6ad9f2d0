"""fake-gcs-server answers `PUT /bucket/object` of Google's XML API with "invalid uploadType". This hands it such a write, with its
condition and what it says of the object, as an upload of the JSON API, and every other request as it is. Nor does it mind `If-Match`
when it is read; here that is looked at in its answer, which says whose content it is.

    python tests/gcs_writes.py PORT PORT_OF_THE_EMULATOR
"""

import http.client
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote

META = "x-goog-meta-"
OF_CONNECTION = {"connection", "content-length", "date", "host", "keep-alive", "transfer-encoding"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    emulator = 0

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        bucket, _, key = self.path.removeprefix("/").partition("/")
        if self.command == "PUT" and key and "?" not in key and bucket not in ("storage", "upload", "_internal"):
            status, headers, content = self.write(bucket, unquote(key), body)
        else:
            passed = {name: value for name, value in self.headers.items() if name.lower() not in OF_CONNECTION}
            status, headers, content = self.ask(self.command, self.path, body, passed)
            wanted, found = self.headers.get("If-Match"), headers.get("Etag", "")
            if wanted and found and wanted.strip('"') != found.strip('"'):
                status, headers, content = 412, {}, b""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def write(self, bucket: str, key: str, content: bytes) -> tuple[int, dict[str, str], bytes]:
        said = {name.lower().removeprefix(META): value for name, value in self.headers.items() if name.lower().startswith(META)}
        kind = self.headers.get("Content-Type", "application/octet-stream")
        head = json.dumps({"name": key, "contentType": kind, "metadata": said})
        edge = "an-edge-that-is-in-no-parquet-file"
        begin = f"--{edge}\r\nContent-Type: application/json\r\n\r\n{head}\r\n--{edge}\r\nContent-Type: {kind}\r\n\r\n"
        body = begin.encode() + content + f"\r\n--{edge}--\r\n".encode()
        path = f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart&name={quote(key, safe='')}"
        if generation := self.headers.get("x-goog-if-generation-match"):
            path += f"&ifGenerationMatch={generation}"
        status, _, answer = self.ask("POST", path, body, {"Content-Type": f"multipart/related; boundary={edge}"})
        if status != 200:
            return status, {}, answer
        made = json.loads(answer)
        return 200, {"ETag": f'"{made["etag"]}"', "x-goog-generation": made["generation"]}, b""

    def ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.emulator, timeout=60)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            content = response.read()
            kept = {name: value for name, value in response.getheaders() if name.lower() not in OF_CONNECTION}
            if method == "HEAD":
                kept["Content-Length"] = response.getheader("Content-Length", "0")
            return response.status, kept, content
        finally:
            connection.close()

    def log_message(self, *_: object) -> None:
        pass

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = answer


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    Handler.emulator = int(sys.argv[2])
    Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
