"""`python -m client.sdk.generate [--check]`: writes the synchronous client, `sync.py`, from `asynchronous.py`.

With --check nothing is written; the exit code is 1 when `sync.py` is not what would be written.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_name("asynchronous.py")
TARGET: Final = Path(__file__).with_name("sync.py")
HEADER: Final = '''"""Generated from `asynchronous.py` by `python -m client.sdk.generate`: do not edit.

The synchronous, typed client of the service. Requests that are safe to repeat are retried a bounded number of times.
The errors are those of `client.sdk.operations`.
"""
'''
RULES: Final = {  # patterns of whole words
    r"async (?=def|for|with)": "",
    r"await (?=\w)": "",
    r"import asyncio\n": "",
    r"asyncio\.sleep": "time.sleep",
    r"__a(?=enter__|exit__)": "__",
    r"AsyncJob": "LiveJob",
    r"Async(?=Client|Generator|Iterator)": "",
    r"async(?=contextmanager)": "",
    r"a(?=close|iter_bytes|iter_sse|iter_text|next|read\b)": "",
}


def synchronous(source: str) -> str:
    """The source of the synchronous client, from that of the asynchronous one."""
    _docstring, _end, code = source.partition('"""\n')
    for pattern, replacement in RULES.items():
        code = re.sub(rf"\b{pattern}", replacement, code)
    text = HEADER + code
    for command in (["check", "--fix", "--quiet"], ["format"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(TARGET), "-"]
        text = subprocess.run(ruff, input=text, stdout=subprocess.PIPE, text=True, check=True).stdout
    return text


def main(check: bool, target: Path = TARGET) -> int:
    text = synchronous(SOURCE.read_text())
    if check and text != target.read_text():
        sys.stderr.write(f"{target} is not up to date: run `python -m client.sdk.generate`\n")
        return 1
    if not check:
        target.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main("--check" in sys.argv[1:]))
