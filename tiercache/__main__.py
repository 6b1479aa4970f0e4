"""``python -m tiercache`` runs the command ``tiercache``."""

from .cli import main

if __name__ == "__main__":
    main()
