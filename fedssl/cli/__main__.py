"""`python -m fedssl.cli` is `fedssl`."""

from fedssl.cli import app

if __name__ == "__main__":
    app()
