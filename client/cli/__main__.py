"""`python -m client.cli`: the command `atft`."""

from client.cli.app import main

if __name__ == "__main__":
    main()
