#!/usr/bin/python3
"""Writes v2_trees.torrent: what libtorrent computes for files that test/unit/digest_test.cpp hashes too.

Run it only to change the sizes; the test reads the committed torrent. Needs python3-libtorrent 2.0 (Debian).
Byte i of every file is (i * 7 + i // 251) mod 256; its name is its size.
"""
import pathlib
import tempfile

import libtorrent

KIB = 1024
CHUNK = 256 * KIB
SIZES = [1, 16 * KIB - 1, 16 * KIB, 16 * KIB + 1, 48 * KIB, 100_000, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK,
         1_000_000, 3 * KIB * KIB + 5]


def content(size):
    return bytes((i * 7 + i // 251) % 256 for i in range(size))


def main():
    with tempfile.TemporaryDirectory() as parent:
        folder = pathlib.Path(parent, "trees")
        folder.mkdir()
        for size in SIZES:
            (folder / str(size)).write_bytes(content(size))
        files = libtorrent.file_storage()
        libtorrent.add_files(files, str(folder))
        torrent = libtorrent.create_torrent(files, CHUNK, libtorrent.create_torrent.v2_only)
        libtorrent.set_piece_hashes(torrent, parent)
        entry = torrent.generate()
    entry.pop(b"creation date", None)  # so that a second run writes the same bytes
    pathlib.Path(__file__).with_name("v2_trees.torrent").write_bytes(libtorrent.bencode(entry))


if __name__ == "__main__":
    main()
