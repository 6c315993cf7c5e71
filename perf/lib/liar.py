"""A peer that has one file, and sends every tenth chunk of it wrong: liar.py TRACKER HOST FILE. It says `ready` once it is registered, and ends
with SIGTERM."""

import pathlib
import signal
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "test" / "system"))

import shoal_wire  # noqa: E402


def main():
    tracker, host, file = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
    liar = shoal_wire.LyingPeer(tracker, "liar", shoal_wire.Content(file.name, file.read_bytes()), host=host)
    print("ready", flush=True)
    signal.sigwait([signal.SIGTERM])
    print(f"wrong chunks sent, by neighbour: {liar.wrong}", flush=True)


signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
main()
