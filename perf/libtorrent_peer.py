#!/usr/bin/python3
"""One libtorrent peer, tuned for speed: what perf/swarm compares with. Needs python3-libtorrent (the system's own Python).

libtorrent_peer.py --index I --places HOST:PORT,… --torrents DIR --data DIR --ready DIR --record FILE

Peer I listens on places[I]. It has those files of DIR/*.torrent that are in its data folder at the start, fetches the others from all
places, and ends when every peer has all. The later one of two peers connects to the other: where both do and the way is long, the two connections
cross, both may be closed as redundant, and the next attempt comes a minute later. FILE gets a line of JSON a sample: {"at": monotonic seconds, "bytes": fetched}; the first is
the moment when all peers were up, the last (with "is_complete") the one when this peer had all. The monotonic clock is the machine's,
so records of several peers compare.
"""

import argparse
import json
import os
import pathlib
import time

import libtorrent

SETTINGS = {
    # Only the peers we name, over TCP, in plain text: what shoal does, too.
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
    "in_enc_policy": 2,
    "out_enc_policy": 2,
    "allow_multiple_connections_per_ip": True,
    "close_redundant_connections": False,
    "connection_speed": 200,
    "mixed_mode_algorithm": 0,
    # Everyone may upload to everyone, from deep queues.
    "unchoke_slots_limit": -1,
    "max_out_request_queue": 1500,
    "max_allowed_in_request_queue": 5000,
    "request_queue_time": 3,
    "whole_pieces_threshold": 20,
    "send_buffer_watermark": 4 << 20,
    "send_buffer_low_watermark": 1 << 20,
    "send_buffer_watermark_factor": 150,
    "max_queued_disk_bytes": 64 << 20,
    "aio_threads": 2,
    "hashing_threads": 1,
    "alert_mask": 0,
}


def place_of(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


def add_torrents(session, options):
    keep = ~(libtorrent.torrent_flags.auto_managed | libtorrent.torrent_flags.paused)
    handles = []
    for path in sorted(options.torrents.glob("*.torrent")):
        flags = libtorrent.torrent_flags.default_flags & keep
        if (options.data / path.stem).exists():
            flags |= libtorrent.torrent_flags.seed_mode
        handles.append(session.add_torrent({"ti": libtorrent.torrent_info(str(path)), "save_path": str(options.data), "flags": flags}))
    return handles


def wait_for_all(ready, kind, count):
    while sum(name.startswith(kind) for name in os.listdir(ready)) < count:
        time.sleep(0.005)


def fetch(handles, record):
    """Returns when all is here; a sample about every 20 ms."""
    while True:
        states = [handle.status() for handle in handles]
        is_complete = all(state.is_seeding for state in states)
        fetched = sum(state.total_payload_download for state in states)
        record.write(json.dumps({"at": time.monotonic(), "bytes": fetched, "is_complete": is_complete}) + "\n")
        if is_complete:
            record.flush()
            return
        time.sleep(0.02)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--places", type=lambda text: [place_of(each) for each in text.split(",")], required=True)
    for name in ("--torrents", "--data", "--ready", "--record"):
        parser.add_argument(name, type=pathlib.Path, required=True)
    options = parser.parse_args()
    count = len(options.places)
    session = libtorrent.session({**SETTINGS, "listen_interfaces": "%s:%d" % options.places[options.index]})
    handles = add_torrents(session, options)
    (options.ready / f"up{options.index}").touch()
    wait_for_all(options.ready, "up", count)
    with open(options.record, "w") as record:
        record.write(json.dumps({"at": time.monotonic(), "bytes": 0, "is_complete": False}) + "\n")
        for handle in handles:
            for place in options.places[: options.index]:
                handle.connect_peer(place)
        fetch(handles, record)
    (options.ready / f"done{options.index}").touch()
    wait_for_all(options.ready, "done", count)


main()
