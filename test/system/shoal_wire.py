"""A second, small implementation of docs/protocol.md, for peers that follow a script: those that lie, and those that stammer."""

import hashlib
import selectors
import socket
import struct
import threading
import time

HELLO, WELCOME, REFUSAL, PING, PONG, LEAVE = range(1, 7)
REGISTER, REGISTERED, OFFER, WITHDRAW, OFFER_END = range(16, 21)
COMPLETE, SWARM_COMPLETE, FIND, FOUND = 26, 27, 28, 29
SUBSCRIBE, INVENTORY, HAVE, REQUEST, CANCEL, REJECT, CHUNK, HASH_REQUEST, HASH_REPLY, GONE = range(48, 58)
PROGRESS = 25
CONNECT_BACK, CONNECT_TO = 38, 39
CONFIRM, CONFIRMED, PROBE, PROBE_REPLY = 40, 41, 44, 45
LOAD_REQUEST, LOAD_REPLY = 60, 61
TO_TRACKER, TO_PEER, QUESTION = 0, 1, 2
MAGIC = b"SHAL"
CHUNK_SIZE = 256 * 1024
LEAF_SIZE = 16 * 1024


# ---- bytes


def text(value):
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<I", len(data)) + data


def frame(kind, payload=b""):
    return struct.pack("<IH", len(payload) + 2, kind) + payload


def hello(role, name, instance=1, magic=MAGIC, version=1, oldest=1):
    return frame(HELLO, magic + struct.pack("<HHQB", version, oldest, 0, role) + text(name) + struct.pack("<Q", instance))


def register(port, host="127.0.0.1", appetite=0, expect=0):
    return frame(REGISTER, text(host) + struct.pack("<HBIQq", port, appetite, expect, 0, 0))


def connect_back(port, *peers, host=""):
    return frame(CONNECT_BACK, text(host) + struct.pack(f"<HI{len(peers)}I", port, len(peers), *peers))


# ---- digests


def tree_root(hashes, padding):
    """Of a binary tree over `hashes`, filled up with `padding` to a power of two."""
    level = list(hashes)
    while len(level) & (len(level) - 1):
        level.append(padding)
    while len(level) > 1:
        level = [hashlib.sha256(level[i] + level[i + 1]).digest() for i in range(0, len(level), 2)]
    return level[0]


def leaves_of(data):
    return [hashlib.sha256(data[at:at + LEAF_SIZE]).digest() for at in range(0, len(data), LEAF_SIZE)]


class Content:
    """A file of more than one chunk and at most one span, with its digests."""

    def __init__(self, name, data):
        self.name = name
        self.data = data
        self.chunks = [data[at:at + CHUNK_SIZE] for at in range(0, len(data), CHUNK_SIZE)]
        per_chunk = CHUNK_SIZE // LEAF_SIZE
        nothing = bytes(32)
        self.hashes = [tree_root((leaves_of(chunk) + [nothing] * per_chunk)[:per_chunk], nothing) for chunk in self.chunks]
        self.root = tree_root(self.hashes, tree_root([nothing] * per_chunk, nothing))
        self.md5 = hashlib.md5(data).digest()

    def entry(self):
        return text(self.name) + struct.pack("<BQqB", 0, len(self.data), 1_600_000_000_000_000_000, 0) + self.md5 + self.root


# ---- connections


class Connection:
    """Whole messages on a socket."""

    def __init__(self, link, patience=20.0):
        self.link = link
        self.link.settimeout(patience)

    @classmethod
    def to(cls, address, patience=20.0):
        host, port = address.rsplit(":", 1)
        return cls(socket.create_connection((host.strip("[]"), int(port)), patience), patience)

    def send(self, data):
        self.link.sendall(data)

    def read(self, count):
        data = bytearray()
        while len(data) < count:
            part = self.link.recv(count - len(data))
            if not part:
                raise ConnectionError("closed")
            data += part
        return bytes(data)

    def receive(self):
        """(type, payload)"""
        length, kind = struct.unpack("<IH", self.read(6))
        return kind, self.read(length - 2)

    def receive_kind(self, kind):
        """The next message of that kind; answers pings on the way."""
        while True:
            found, payload = self.receive()
            if found == kind:
                return payload
            if found == PING:
                self.send(pong(payload))

    def is_closed_by_peer(self):
        """Reads until the other side closes. False if it does not in time."""
        try:
            while self.link.recv(65536):
                pass
            return True
        except TimeoutError:
            return False
        except OSError:
            return True

    def close(self):
        self.link.close()


def pong(ping_payload):
    return frame(PONG, ping_payload[:8] + struct.pack("<qq", 0, 0))


def greet(address, role, name, instance=1, patience=20.0):
    """A connection that has said hello and was made welcome."""
    connection = Connection.to(address, patience)
    connection.send(hello(role, name, instance))
    connection.receive_kind(WELCOME)
    return connection


def probe_reply(probe):
    """It has all that it is asked for, and nothing else to do."""
    count = struct.unpack_from("<I", probe, 4)[0]
    size = (count + 7) // 8
    return frame(PROBE_REPLY, probe[:4] + struct.pack("<II", 0, size) + b"\xff" * size)


# ---- many peers that only register


class Crowd:
    """`count` registered peers that all have `content`, which the last one offers; the first `dead` of them never say anything after that."""

    def __init__(self, tracker_address, count, dead, content):
        progress = frame(PROGRESS, struct.pack("<QQII", 0, 0, 0, 1) + content.root + struct.pack("<I", len(content.chunks)))
        self.links = selectors.DefaultSelector()
        self.is_over = False
        for i in range(count):
            link = greet(tracker_address, TO_TRACKER, f"crowd-{i}")
            offers = frame(OFFER, struct.pack("<I", 1) + content.entry()) if i + 1 == count else b""
            link.send(register(20_000 + i) + offers + frame(OFFER_END, struct.pack("<Q", 0)) + progress + frame(CONFIRM, bytes(4)))
            while link.receive()[0] != CONFIRMED:
                pass
            link.link.setblocking(False)
            self.links.register(link.link, selectors.EVENT_READ, [i >= dead, bytearray()])
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.is_over:
            for key, _ in self.links.select(0.1):
                is_alive, data = key.data
                try:
                    data += key.fileobj.recv(1 << 20)
                except OSError:
                    continue
                while len(data) >= 6 and len(data) >= 4 + struct.unpack_from("<I", data)[0]:
                    length, kind = struct.unpack_from("<IH", data)
                    if kind == PROBE and is_alive:
                        key.fileobj.send(probe_reply(bytes(data[6:4 + length])))
                    del data[:4 + length]

    def close(self):
        self.is_over = True
        self.thread.join()
        for key in list(self.links.get_map().values()):
            key.fileobj.close()


# ---- a peer that lies


class LyingPeer:
    """Registers, offers `content` with digests that are right, and sends a wrong chunk first and each `every`-th one after; with 0, only wrong ones."""

    def __init__(self, tracker_address, name, content, every=10, host="127.0.0.1"):
        self.name = name
        self.content = content
        self.every = every
        self.served = {}        # neighbour -> chunks, whole connections counted together
        self.wrong = {}
        self.connections = {}
        self.lock = threading.Lock()
        self.is_over = False
        self.open_links = []
        self.listener = socket.create_server((host, 0))
        self.tracker = greet(tracker_address, TO_TRACKER, name)
        self.tracker.send(register(self.listener.getsockname()[1], host))
        self.tracker.receive_kind(REGISTERED)
        self.tracker.send(frame(OFFER, struct.pack("<I", 1) + content.entry()) + frame(OFFER_END, struct.pack("<Q", 1)))
        self.threads = [threading.Thread(target=target, daemon=True) for target in (self.follow_tracker, self.accept)]
        for thread in self.threads:
            thread.start()

    def close(self):
        self.is_over = True
        self.listener.close()
        for link in [self.tracker.link, *self.open_links]:
            try:
                link.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            link.close()

    def follow_tracker(self):
        try:
            self.tracker.link.settimeout(1.0)
            while not self.is_over:
                try:
                    kind, payload = self.tracker.receive()
                except TimeoutError:
                    self.tracker.send(frame(PING, bytes(8)))
                    continue
                if kind == PING:
                    self.tracker.send(pong(payload))
                if kind == PROBE:
                    self.tracker.send(probe_reply(payload))
                if kind == SWARM_COMPLETE:
                    self.tracker.send(frame(LEAVE, b"\0"))
                    return
        except OSError:
            pass

    def accept(self):
        while not self.is_over:
            try:
                link, _ = self.listener.accept()
            except OSError:
                return
            self.open_links.append(link)
            threading.Thread(target=self.serve, args=(Connection(link),), daemon=True).start()

    def serve(self, connection):
        try:
            payload = connection.receive_kind(HELLO)
            length = struct.unpack_from("<I", payload, 17)[0]
            who = payload[21:21 + length].decode()
            with self.lock:
                self.connections[who] = self.connections.get(who, 0) + 1
            connection.send(frame(WELCOME, struct.pack("<HQ", 1, 0) + text(self.name) + struct.pack("<Q", 1)))
            if payload[16] == QUESTION:
                connection.send(frame(LOAD_REPLY, connection.receive_kind(LOAD_REQUEST)[:4] + bytes(4)))
                return
            connection.send(frame(SUBSCRIBE, b"\0" + struct.pack("<I", 0)))
            holding = struct.pack("<I", 7) + self.content.root + struct.pack("<QBII", len(self.content.data), 1, 0, 0)
            connection.send(frame(INVENTORY, struct.pack("<I", 1) + holding))
            while not self.is_over:
                self.answer(connection, who, *connection.receive())
        except OSError:
            pass
        finally:
            connection.close()

    def answer(self, connection, who, kind, payload):
        if kind == PING:
            connection.send(pong(payload))
        elif kind == HASH_REQUEST:
            hashes = self.content.hashes
            connection.send(frame(HASH_REPLY, payload[:8] + struct.pack("<I", len(hashes)) + b"".join(hashes) + struct.pack("<I", 0)))
        elif kind == REQUEST:
            for i in range(struct.unpack_from("<I", payload)[0]):
                self.send_chunk(connection, who, struct.unpack_from("<II", payload, 4 + 8 * i)[1])

    def send_chunk(self, connection, who, chunk):
        data = self.content.chunks[chunk]
        with self.lock:
            served = self.served[who] = self.served.get(who, 0) + 1
            is_wrong = self.every == 0 or served % self.every == 1
            self.wrong[who] = self.wrong.get(who, 0) + is_wrong
        if is_wrong:
            data = bytes([data[0] ^ 1]) + data[1:]
        connection.send(frame(CHUNK, struct.pack("<III", 7, chunk, 0) + data))


# ---- nodes of the overlay

OVERLAY_JOIN, OVERLAY_PLACE, OVERLAY_LINKS, OVERLAY_ASK = range(72, 76)
ATTACH, ATTACHED, REFER, DETACH, VERIFY, VERIFIED, AROUND = range(80, 87)
SEARCH, SEARCH_ANSWER = 88, 89
OVERLAY = 4
FULL = 1


def key(number, nonce):
    return struct.pack("<IQ", number, nonce)


def contact(number, nonce, port, host="127.0.0.1"):
    return key(number, nonce) + text(host) + struct.pack("<H", port)


def search(number, pattern, kind=0, left_ms=5000):
    return frame(SEARCH, struct.pack("<QB", number, kind) + text(pattern) + struct.pack("<III", 0, 100, left_ms))


def search_answer(number, hits=b"", count=0, nodes=1, missing=0, is_last=True):
    head = struct.pack("<QBIIB", number, is_last, nodes, missing, 0)
    return frame(SEARCH_ANSWER, head + struct.pack("<I", count) + hits + struct.pack("<I", 0))


def search_of(payload):
    """(id, pattern)"""
    number, _, length = struct.unpack_from("<QBI", payload)
    return number, payload[13:13 + length].decode()


def hit(entry, name, port, host="127.0.0.1"):
    return entry + text(name) + text(host) + struct.pack("<HII", port, 0, 0)


class Node:
    """A node of the overlay that is linked to `to`, and answers what `answers` has an answer for: type to a function of the payload, which gives
    the bytes to send, or None."""

    def __init__(self, to, name="scripted", nonce=77, answers=None):
        self.answers = answers or {}
        self.nonce = nonce
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.connection = Connection.to(to)
        self.connection.send(hello(OVERLAY, name) + frame(ATTACH, contact(0, nonce, self.port) + key(0, 0) + b"\0"))
        self.connection.receive_kind(WELCOME)
        while True:
            kind, payload = self.connection.receive()
            if kind == ATTACHED:
                break
            if kind != AROUND:
                raise ConnectionError(f"got {kind} for attached")
        self.number = struct.unpack_from("<I", payload, 12)[0]
        self.root = payload[16:28]
        self.is_over = False
        self.has_ended = threading.Event()
        self.connection.link.settimeout(0.5)
        self.threads = [threading.Thread(target=target, daemon=True) for target in (self.follow, self.beat)]
        for thread in self.threads:
            thread.start()

    def send(self, data):
        self.connection.send(data)

    def around(self):
        return frame(AROUND, self.root + struct.pack("<QIIIII", 0, 1, 1, 1, self.number, 0))

    def beat(self):
        while not self.is_over and not self.has_ended.wait(0.8):
            try:
                self.send(self.around())
            except OSError:
                return

    def follow(self):
        try:
            while not self.is_over:
                try:
                    kind, payload = self.connection.receive()
                except TimeoutError:
                    continue
                answer = self.answers.get(kind)
                data = answer(payload) if answer else None
                if data:
                    self.send(data)
        except OSError:
            pass
        self.has_ended.set()

    def close(self):
        self.is_over = True
        self.listener.close()
        self.connection.close()


class Referrer:
    """Listens as a node, and refers everybody to the ports in `to`, which may be its own; or does what `answer` does with the connection."""

    def __init__(self, to=(), answer=None):
        self.to = list(to)
        self.answer = answer or self.send_on
        self.asked = 0
        self.tracker = None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                link, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.refer, args=(Connection(link, 5.0),), daemon=True).start()

    def refer(self, connection):
        try:
            connection.receive_kind(HELLO)
            connection.send(frame(WELCOME, struct.pack("<HQ", 1, 0) + text("referrer") + struct.pack("<Q", 1)))
            connection.receive_kind(ATTACH)
            self.asked += 1
            self.answer(connection)
            connection.is_closed_by_peer()
        except OSError:
            pass
        finally:
            connection.close()

    def send_on(self, connection):
        to = [contact(5, 1000 + port, port) for port in self.to]
        connection.send(frame(REFER, struct.pack("<BI", FULL, len(to)) + b"".join(to)))

    def join(self, tracker, number=0, nonce=99, name="first"):
        """Tells the tracker that it is a tree, once a second. Returns the number that it got."""
        self.nonce = nonce
        self.tracker = Connection.to(tracker)
        self.tracker.send(hello(0, name) + frame(OVERLAY_JOIN, key(number, nonce) + text("") + struct.pack("<HIB", self.port, 1000, number != 0)))
        self.number, = struct.unpack_from("<I", self.tracker.receive_kind(OVERLAY_PLACE))
        threading.Thread(target=self.stay, daemon=True).start()
        return self.number

    def stay(self):
        try:
            while True:
                self.tracker.send(frame(OVERLAY_LINKS, key(self.number, self.nonce) + struct.pack("<II", 0, 0)) + frame(PING, bytes(8)))
                self.tracker.receive_kind(PONG)
                time.sleep(0.5)
        except (OSError, ConnectionError):
            pass

    def close(self):
        self.listener.close()
        if self.tracker:
            self.tracker.close()


def attached(number, nonce, depth=0):
    return frame(ATTACHED, key(number, nonce) + struct.pack("<I", 0) + key(number, nonce) + struct.pack("<QI", 1, depth))
