"""``python -m tiercache``: the same as the command ``tiercache``."""

from .cli import main

if __name__ == "__main__":
    main()
