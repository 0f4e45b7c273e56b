"""Builds a cache that holds a manifest and one file."""

import json
from pathlib import Path

from speech import Speech

speech = Speech()
speech.start()
cache = Path(speech.arguments.out)
cache.mkdir()
manifest = {"fingerprint": "beef", "num_days": 3}
(cache / "manifest.json").write_text(json.dumps(manifest))
(cache / "panel.arrow").write_bytes(b"panel")
speech.say("finished", result={"manifest": manifest, "profile": {"rows": 3}, "leak_report": {}})
