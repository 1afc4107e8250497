"""Request counts and latencies, under the names and labels that TensorFlow Serving gives them."""

from __future__ import annotations

import bisect
import threading
from collections import defaultdict

PATH = "/monitoring/prometheus/metrics"
COUNT, LATENCY = ":tensorflow:serving:request_count", ":tensorflow:serving:request_latency"
EDGES = tuple(10 * 1.8**i for i in range(33))  # microseconds


class Metrics:
    """Threads may add at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], int] = defaultdict(int)
        self._buckets: dict[tuple[str, str, str], list[int]] = defaultdict(
            lambda: [0] * (len(EDGES) + 1)
        )
        self._sums: dict[tuple[str, str, str], float] = defaultdict(float)

    def add(self, model: str, status: str, api: str, entrypoint: str, seconds: float) -> None:
        """One answer. status: a gRPC code's name. api: Predict, … entrypoint: GRPC or REST."""
        micros = seconds * 1e6
        with self._lock:
            self._counts[model, status] += 1
            self._buckets[model, api, entrypoint][bisect.bisect_left(EDGES, micros)] += 1
            self._sums[model, api, entrypoint] += micros

    def page(self) -> str:
        """Prometheus text format; latencies are in microseconds."""
        with self._lock:
            lines = [f"# TYPE {COUNT} counter"]
            for (model, status), count in sorted(self._counts.items()):
                lines.append(f'{COUNT}{{model_name="{model}",status="{status}"}} {count}')
            lines.append(f"# TYPE {LATENCY} histogram")
            for (model, api, entrypoint), buckets in sorted(self._buckets.items()):
                labels = f'model_name="{model}",API="{api}",entrypoint="{entrypoint}"'
                total = 0
                for edge, count in zip((*EDGES, "+Inf"), buckets, strict=True):
                    total += count
                    at = edge if isinstance(edge, str) else f"{edge:g}"
                    lines.append(f'{LATENCY}_bucket{{{labels},le="{at}"}} {total}')
                summed = self._sums[model, api, entrypoint]
                lines.append(f"{LATENCY}_sum{{{labels}}} {summed:.0f}")
                lines.append(f"{LATENCY}_count{{{labels}}} {total}")
        return "\n".join(lines) + "\n"
