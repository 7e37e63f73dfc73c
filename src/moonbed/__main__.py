"""`python -m moonbed` is the `moonbed` command."""

from moonbed.cli import main

if __name__ == "__main__":
    main()
