"""The child's side of the protocol for the programs of this folder: standard library only, they start at once."""

import argparse
import datetime
import json
import os


class Protocol:
    def __init__(self) -> None:
        parser = argparse.ArgumentParser()
        parser.add_argument("--events-fd", type=int, required=True)
        parser.add_argument("--out", default=".")
        parser.add_argument("--resume")
        parser.add_argument("--most-days", type=int)
        parser.add_argument("--lease-seconds", type=float)
        self.arguments, self.rest = parser.parse_known_args()
        self._seq = 0

    def send(self, kind: str, **body: object) -> None:
        self._seq += 1
        time = datetime.datetime.now(datetime.UTC).isoformat()
        self.write(json.dumps({"type": kind, "child_seq": self._seq, "time": time, **body}).encode() + b"\n")

    def write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.arguments.events_fd, data) :]

    def start(self, step: int = 0, epoch: int = 0) -> None:
        resume = self.arguments.resume
        self.send("started", pid=os.getpid(), resumed_from=resume, resumed_step=step, resumed_epoch=epoch)

    def progress(self, ratio: float = 0.0, **body: object) -> None:
        self.send("progress", phase="train", ratio=ratio, **body)
