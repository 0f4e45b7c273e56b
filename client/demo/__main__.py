"""`python -m client.demo`: what `make demo` runs."""

import typer

from client.demo.prices import main

if __name__ == "__main__":
    typer.run(main)
