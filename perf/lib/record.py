"""What a run left behind, as values: each peer's curve, and where its time went. Read from the event logs."""

import dataclasses
import json

from bench import Cost, events_of, swarm_seconds


@dataclasses.dataclass
class Run:
    """One swarm: `curves` has per peer a list of (seconds, bytes fetched)."""

    side: str
    seconds: float
    curves: list
    facts: dict
    cost: Cost = None

    def first(self):
        """When the first byte that counts was anywhere."""
        return min((curve[0][0] for curve in self.curves if curve), default=0.0)

    def ends(self):
        return [curve[-1][0] for curve in self.curves if curve]


def curve_of(chunks):
    """Each chunk counts once, when it first came."""
    total, curve, seen = 0, [], set()
    for chunk in chunks:
        key = (chunk["root"], chunk["chunk"])
        if key in seen:
            continue
        seen.add(key)
        total += chunk["bytes"]
        curve.append((chunk["t"], total))
    return curve


def longest_gap(times):
    return max((later - earlier for earlier, later in zip(times, times[1:])), default=0.0)


def sent_by(peer, chunks_of_all):
    """The chunks that this peer sent, as they arrived anywhere."""
    return sorted((c for chunks in chunks_of_all for c in chunks if c["from"] == peer), key=lambda c: c["t"])


def source_facts(sent, size):
    """How the only source spent its link: copies of the file that it sent, when it had sent one, its longest silence."""
    seen, once_at = set(), 0.0
    for chunk in sent:
        key = (chunk["root"], chunk["chunk"])
        if key not in seen:
            seen.add(key)
            once_at = chunk["t"]
    return {
        "source sent (× file)": round(sum(c["bytes"] for c in sent) / size, 2),
        "last chunk left the source (s)": round(once_at, 2),
        "source's longest gap (s)": round(longest_gap([c["t"] for c in sent]), 3),
    }


def shoal_run(tracker, logs, size, is_one_source):
    events = [events_of(log) for log in logs]
    chunks = [[e for e in each if e.get("event") == "chunk"] for each in events]
    results = [e for each in events for e in each if e.get("event") == "result"]
    facts = {"fetched twice (MiB)": round(sum(r.get("wasted", 0) for r in results) / 2**20, 2)}
    if is_one_source:
        facts |= source_facts(sent_by("peer0", chunks), size)
    return Run("shoal", swarm_seconds(tracker), [curve_of(each) for each in chunks], facts)


def thinned(curve):
    """Without the samples at which nothing changed: a line between two samples would otherwise say that something did."""
    return [sample for k, sample in enumerate(curve) if k in (0, len(curve) - 1) or sample[1] != curve[k - 1][1] or sample[1] != curve[k + 1][1]]


def libtorrent_run(records):
    """Swarm time: from the first peer's start to the moment when the last had all."""
    samples = []
    for record in records:
        with open(record) as lines:
            samples.append([json.loads(line) for line in lines])
    start = min(each[0]["at"] for each in samples)
    curves = [thinned([(sample["at"] - start, sample["bytes"]) for sample in each]) for each in samples]
    seconds = max(each[-1]["at"] for each in samples) - start
    wanted = [curve[-1][1] for curve in curves]
    return Run("libtorrent", seconds, [curve for curve, bytes_ in zip(curves, wanted) if bytes_ > 0], {})
