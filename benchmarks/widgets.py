"""How long a reader waits for each slider panel: from a moved control to the finished picture.

Every control goes to its ends and middle while the others stay, then all go to their ends together; each redraw takes its
walks afresh. Maps are drawn when a panel is made, and are not counted.
"""

import argparse
import json
import statistics
import time

from zolab.records import environment
from zolab.widgets import PANELS, extremes
from zolab.widgets.walks import walk


def positions(panel):
    """(name, values of all controls) of every position to measure."""
    start = {name: control.value for name, control in panel.controls.items()}
    ends = {name: extremes(control) for name, control in panel.controls.items()}
    yield "as it begins", start
    for name, values in ends.items():
        for value in values:
            yield f"{name} = {shown(value)}", {**start, name: value}
    yield "all at their lowest", {name: values[0] for name, values in ends.items()}
    yield "all at their highest", {name: values[-1] for name, values in ends.items()}


def shown(value):
    return " ".join(value) if isinstance(value, tuple) else f"{value:.3g}" if isinstance(value, float) else value


def redraw_seconds(panel, values, repeats):
    """Median seconds of a redraw with these values and no walk remembered."""
    for name, control in panel.controls.items():
        control.value = values[name]
    times = []
    for _ in range(repeats + 1):
        walk.cache_clear()
        start = time.perf_counter()
        panel.redraw()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    options = parser.parse_args()
    result = {}
    for name, make in PANELS.items():
        panel = make()
        for control in panel.controls.values():
            control.unobserve(panel.redraw, "value")
        times = {place: redraw_seconds(panel, values, options.repeats) for place, values in positions(panel)}
        slowest = max(times, key=times.get)
        result[name] = {"median_ms": 1e3 * statistics.median(times.values()), "slowest_ms": 1e3 * times[slowest]}
        print(f"{name:13} {len(times):3} positions   median {result[name]['median_ms']:4.0f} ms", end="")
        print(f"   slowest {result[name]['slowest_ms']:4.0f} ms ({slowest})")
    slowest_redraw = max(panel["slowest_ms"] for panel in result.values())
    print(f"slowest redraw: {slowest_redraw:.0f} ms")
    if options.json:
        print(json.dumps({"slowest_redraw_ms": slowest_redraw, "panels": result, **environment()}))


if __name__ == "__main__":
    main()
