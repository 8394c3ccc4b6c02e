"""Launches the web app; also the entry point of a Hugging Face Space.

Run as: python app.py [--host HOST] [--port PORT] [--runs-dir FOLDER]
"""

import sys

from ftlab.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["app", *sys.argv[1:]]))
