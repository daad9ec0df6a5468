"""A whole host: HOST_JOIN_TOKEN=... python3 smallest_host.py SERVER NAME URL-OF-THIS-HOST."""

import json, os, secrets, subprocess, sys, threading, time, urllib.request as web
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SERVER, NAME, URL, TOKEN = *sys.argv[1:4], os.environ["HOST_JOIN_TOKEN"]
SECRET = secrets.token_hex(32)  # the server shows it with every call
CARD = {"host_name": NAME, "host_url": URL, "host_secret": SECRET,
        "devices": [{"device_id": "pc", "name": NAME, "model": "pc"}]}
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}

class Host(BaseHTTPRequestHandler):
    def do_GET(self):  # /host/health: any 2xx is alive, and proves that it knows the secret
        self.answer(200 if self.headers["Authorization"] == f"Bearer {SECRET}" else 401, {})

    def do_POST(self):  # /host/remote/executeAction: one step
        if self.headers["Authorization"] != f"Bearer {SECRET}":
            return self.answer(401, {"error": "Only the server may do that."})
        step = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        done = subprocess.run(["sh", "-c", step["command"]], capture_output=True, text=True)
        self.answer(200, {"success": done.returncode == 0, "output": done.stdout + done.stderr})

    def answer(self, status, body):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

host = ThreadingHTTPServer((URL.split("/")[2].split(":")[0], int(URL.split(":")[2])), Host)
threading.Thread(target=host.serve_forever, daemon=True).start()
path, body, pause = "register", CARD, 0
while True:
    try:
        web.urlopen(web.Request(f"{SERVER}/api/hosts/{path}", json.dumps(body).encode(), HEADERS))
        path, body, pause = f"{NAME}/heartbeat", {}, 30
    except OSError:  # the server is away, or does not know us any more (404)
        path, body, pause = "register", CARD, 1
    time.sleep(pause)
