"""Builds a cache with a manifest and one file; with --already-built it reports that its content was cached already."""

import json
from pathlib import Path

from protocol import Protocol

protocol = Protocol()
protocol.start()
cache = Path(protocol.arguments.out)
already_built = "--already-built" in protocol.rest
manifest = {"fingerprint": "feed" if already_built else "beef", "num_days": 3}
if not already_built:
    cache.mkdir()
    (cache / "manifest.json").write_text(json.dumps(manifest))
    (cache / "panel.arrow").write_bytes(b"panel")
protocol.send("finished", result={"manifest": manifest, "profile": {"rows": 3}, "leak_report": {}})
