"""Download what the 2020 release published: python download_model.py --list, --model-name=NAME, --help"""

from hat.cli.download_model import main

if __name__ == "__main__":
    raise SystemExit(main())
