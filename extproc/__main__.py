"""`python -m extproc` is the same as `extproc`."""

from .cli import main

if __name__ == "__main__":
    main()
