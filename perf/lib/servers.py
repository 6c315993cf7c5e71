"""What shoal is measured next to when one host gives a file to another: nginx, and rsync's daemon."""

import contextlib
import pathlib
import shutil
import socket

from labs import is_root
from processes import Failed, Process, wait_for

SERVER_PATH = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin:/opt/homebrew/bin"

LISTENING = "0A"  # as /proc/net/tcp writes it

NGINX = """
daemon off;
worker_processes auto;
pid {work}/nginx.pid;
error_log {work}/nginx.log warn;
{user}
events {{ worker_connections 64; }}
http {{
  access_log off;
  sendfile on;
  sendfile_max_chunk 0;
  tcp_nopush on;
  client_body_temp_path {work}/nginx; proxy_temp_path {work}/nginx; fastcgi_temp_path {work}/nginx; uwsgi_temp_path {work}/nginx; scgi_temp_path {work}/nginx;
  server {{ listen {address}:{port}; root {root}; }}
}}
"""

RSYNC = """
use chroot = no
pid file = {work}/rsyncd.pid
lock file = {work}/rsyncd.lock
{user}
[files]
path = {root}
read only = yes
"""


def program(name, path=SERVER_PATH):
    found = shutil.which(name, path=path)
    if not found:
        raise Failed(f"{name} is not installed; scripts/bootstrap --perf installs it")
    return found


def is_listening(process, port):
    """As the tables of its network namespace have it."""
    tables = pathlib.Path(f"/proc/{process.pid}/net").glob("tcp*")
    rows = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    return any(int(row[1].rpartition(":")[2], 16) == port and row[3] == LISTENING for row in rows)


def accepts(place, host, port):
    with contextlib.suppress(OSError), socket.create_connection((place.address(host), port), 1):
        return True
    return False


def start_nginx(work, root, place, host, port, started):
    """nginx with sendfile, which gives what is in `root`."""
    (work / "nginx").mkdir(exist_ok=True)
    user = "user root;" if is_root() else ""
    (work / "nginx.conf").write_text(NGINX.format(work=work, root=root, address=place.address(host), port=port, user=user))
    command = [*place.enter(host), program("nginx"), "-c", work / "nginx.conf", "-e", work / "nginx.log"]
    return start(command, work / "nginx.out", place, host, port, started, "nginx")


def start_rsync(work, root, place, host, port, started):
    """rsync's daemon, which gives what is in `root` as the module `files`."""
    user = "uid = root\ngid = root" if is_root() else ""
    (work / "rsyncd.conf").write_text(RSYNC.format(work=work, root=root, user=user))
    command = [*place.enter(host), program("rsync"), "--daemon", "--no-detach", "--config", work / "rsyncd.conf", "--address", place.address(host), "--port", port]
    return start(command, work / "rsyncd.out", place, host, port, started, "rsync's daemon")


def start(command, output, place, host, port, started, what):
    server = Process(command, output)
    started.append(server)
    is_here = not place.enter(host)
    wait_for(lambda: accepts(place, host, port) if is_here else is_listening(server, port), 10, what, [server])
    return server
