"""A well-behaved fake training: `--epochs N --epoch-seconds S`, a metric and a checkpoint each; stops on SIGTERM."""

import argparse
import hashlib
import json
import signal
import sys
import threading
import time
from pathlib import Path

from protocol import Protocol

protocol = Protocol()
parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--epoch-seconds", type=float, default=0.05)
parser.add_argument("--last-epoch-seconds", type=float, default=0.0, help="more for the last one")
parser.add_argument("--without-artifact", action="store_true")
parser.add_argument("--result", default="{}")
parser.add_argument("--drift", type=float, default=0.0, help="added to every train/loss")
parser.add_argument("--evidence-for", metavar="FINGERPRINT")
parser.add_argument("--evidence-override", default="{}", help="JSON that replaces parts of the evidence")
options, _ = parser.parse_known_args(protocol.rest)
out = Path(protocol.arguments.out)
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())


def renewed() -> None:
    for _ in sys.stdin:
        (out / "renewals").open("a").write(f"{time.monotonic()}\n")


def save(epoch: int) -> str:
    path = out / "checkpoints" / f"epoch-{epoch}" / "state.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"epoch": epoch}))
    files = {path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}}
    manifest = path.with_name("manifest.json")
    manifest.write_text(json.dumps({"files": files}))
    sha256 = hashlib.sha256(manifest.read_bytes()).hexdigest()
    name = str(path.parent.relative_to(out))
    protocol.send("checkpointed", path=name, step=epoch * 10, epoch=epoch, sha256=sha256, best=False)
    return name


threading.Thread(target=renewed, daemon=True).start()
done = 0
if protocol.arguments.resume:
    done = json.loads((Path(protocol.arguments.resume) / "state.json").read_text())["epoch"]
protocol.start(step=done * 10, epoch=done)
print(f"training from epoch {done}", flush=True)
for epoch in range(done + 1, options.epochs + 1):
    ends = time.monotonic() + options.epoch_seconds + options.last_epoch_seconds * (epoch == options.epochs)
    while time.monotonic() < ends and not stop.is_set():
        protocol.progress(epoch / options.epochs, epoch=epoch, epochs=options.epochs, micro_batch_seconds=0.02)
        time.sleep(min(0.02, options.epoch_seconds))
    if stop.is_set():
        protocol.send("stopped", checkpoint=save(epoch - 1), step=(epoch - 1) * 10)
        sys.exit(0)
    loss = 0.5**epoch + options.drift
    protocol.send("metrics", step=epoch, values={"val/rank_ic": 1.0 / epoch, "train/loss": loss, "val/icir": None})
    save(epoch)
if options.evidence_for:
    from honest_evidence import honest_evidence

    spec = json.loads((out / "spec.json").read_text())
    protocol.send("evidence", body=honest_evidence(spec, options.evidence_for) | json.loads(options.evidence_override))
if not options.without_artifact:
    (out / "model.bin").write_bytes(b"weights")
protocol.send("log", message="done")
artifacts = [{"name": "model.bin", "path": "model.bin"}]
protocol.send("finished", artifacts=artifacts, result=json.loads(options.result))
