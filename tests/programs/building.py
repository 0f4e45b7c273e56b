"""Builds a cache with a manifest and one file, of the bytes `--panel TEXT`; with --already-built it reports that its
content was cached already.
"""

import hashlib
import json
from pathlib import Path

from protocol import Protocol

protocol = Protocol()
protocol.start()
cache = Path(protocol.arguments.out)
already_built = "--already-built" in protocol.rest
panel = (protocol.rest[protocol.rest.index("--panel") + 1] if "--panel" in protocol.rest else "panel").encode()
files = {"panel.arrow": {"sha256": hashlib.sha256(panel).hexdigest(), "size_bytes": len(panel)}}
manifest = {"fingerprint": "feed" if already_built else "beef", "num_days": 3, "files": files}
if not already_built:
    cache.mkdir()
    (cache / "manifest.json").write_text(json.dumps(manifest))
    (cache / "panel.arrow").write_bytes(panel)
protocol.send(
    "finished", result={"manifest": manifest, "profile": {"rows": 3, "max": 3.4028234663852886e38}, "leak_report": {}}
)
