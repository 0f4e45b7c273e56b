"""Builds a cache that holds a manifest and one file; with --nothing it says that its content is there already."""

import json
from pathlib import Path

from speech import Speech

speech = Speech()
speech.start()
cache = Path(speech.arguments.out)
nothing = "--nothing" in speech.rest
manifest = {"fingerprint": "feed" if nothing else "beef", "num_days": 3}
if not nothing:
    cache.mkdir()
    (cache / "manifest.json").write_text(json.dumps(manifest))
    (cache / "panel.arrow").write_bytes(b"panel")
speech.say("finished", result={"manifest": manifest, "profile": {"rows": 3}, "leak_report": {}})
