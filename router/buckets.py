"""Where histograms are cut: fine where a model on a GPU answers, and far enough for a long prompt on a CPU.

Plain numbers. A change here changes what dashboards show over time.
"""

from __future__ import annotations

# Seconds of a whole request or one of its parts: 5 ms is a first token of a small model on a GPU, 640 s the
# longest that a request may take by default.
LATENCY = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    10,
    20,
    40,
    80,
    160,
    320,
    640,
)

# Seconds between tokens: 1 ms is a small model's step on a GPU, 100 ms a large one's on a CPU; what is above
# is a stutter.
GAP = (
    0.001,
    0.0025,
    0.005,
    0.0075,
    0.01,
    0.015,
    0.02,
    0.03,
    0.04,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.5,
    1,
    2.5,
    5,
    10,
)

# Seconds of a handoff: 0.2 ms is a short prompt through shared memory, seconds a long one over a slow link.
HANDOFF = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)

TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000)
