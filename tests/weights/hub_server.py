"""A stand-in for the Hugging Face hub on loopback, with faults that can be switched on."""

import contextlib
import hashlib
import http.server
import re
import threading

COMMIT = "c" * 40
_FILE = re.compile(r"/(?P<repository>[^/]+/[^/]+)/resolve/main/(?P<file>[^?]+)")


class LocalHub(http.server.ThreadingHTTPServer):
    """`files` maps "owner/name/file" to bytes; `fault` is None or one of those that `_Answer` knows."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files, self.fault, self.asked = {}, None, []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """A client that hangs up, as it does after a cut-off download, is no news."""


class _Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        hub, found = self.server, _FILE.fullmatch(self.path)
        if not found:
            return self.refuse(404, "RepoNotFound")  # such as what the hub offers besides files
        hub.asked.append((self.command, f"{found['repository']}/{found['file']}"))
        content = hub.files.get(hub.asked[-1][1])
        if hub.fault == "gated":
            return self.refuse(403, "GatedRepo")
        if not any(name.startswith(found["repository"] + "/") for name in hub.files):
            return self.refuse(404, "RepoNotFound")
        if content is None:
            return self.refuse(404, "EntryNotFound")
        etag = hashlib.sha256(b"other" if hub.fault == "wrong sum" else content).hexdigest()
        self.send_response(200)
        self.send_header("ETag", f'"{etag[:40] if hub.fault == "git hash" else etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        too_long = 7 if hub.fault == "wrong size" and self.command == "HEAD" else 0
        self.send_header("Content-Length", str(len(content) + too_long))
        self.end_headers()
        return content

    def do_GET(self):
        content = self.do_HEAD()
        if content is not None:
            cut_off = self.server.fault == "cut off"
            self.wfile.write(content[: len(content) // 2] if cut_off else content)
            self.close_connection = cut_off

    def refuse(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        """Tests are quiet."""


@contextlib.contextmanager
def running():
    """A `LocalHub` that answers while the `with` lasts."""
    with LocalHub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
