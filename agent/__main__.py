"""``python -m vivavoce.agent``: the command line, see ``cli``."""

from .cli.app import main

if __name__ == "__main__":
    main()
