"""Prints an event file, read by TensorBoard, as JSON: steps and values by name."""

import json
import math
import sys

from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

found = EventAccumulator(sys.argv[1], size_guidance={SCALARS: 0}, purge_orphaned_data=True).Reload()
print(
    json.dumps(
        {
            name: {
                "step": [event.step for event in found.Scalars(name)],
                "value": [None if math.isnan(event.value) else event.value for event in found.Scalars(name)],
            }
            for name in found.Tags()["scalars"]
        }
    )
)
